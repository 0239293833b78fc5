"""Export a model for other programs, as one folder: the network, ``export.json``, test patches and a README.

What users would otherwise have to add is inside the network: the area mean from the patch to its input, and the
temperature; for ONNX the standardisation as well, and what a masked network does with the tissue mask. An export is
replayed before it is put in place, see `verify_export`.

wsinfer and QuPath's wsinfer extension cut square patches of uint8 RGB at one scale, bring them to a side (``Resize``;
QuPath reads one number), divide by 255 (``ToTensor``), standardise (``Normalize``), and take the softmax of the
network's output [1]_.

References
----------
.. [1] Kaczmarzyk et al., "Open and reusable deep learning for pathology with WSInfer and QuPath", npj Precision
   Oncology 8, 9 (2024).
"""

from __future__ import annotations

import copy
import io
import re
import shutil
import warnings
import zipfile
from pathlib import Path
from typing import Any, Literal

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.functional import avg_pool2d, softmax

from pathopatch.core.artefacts import EXPORT, Stamp, fingerprint_file, made
from pathopatch.core.errors import InputUnsupportedError
from pathopatch.core.files import atomic_path, write_json
from pathopatch.core.mask_bits import LEAST_SHARE
from pathopatch.models.bundle import SPEC, WEIGHTS, checked_bundle
from pathopatch.models.card import (
    crop_text,
    decision_text,
    intensity_text,
    model_card,
    scale_text,
)
from pathopatch.models.forward import PatchClassifier, sample_patches
from pathopatch.models.known_answers import PATCHES
from pathopatch.models.loading import load_network
from pathopatch.models.onnx_graph import INPUT, TISSUE, export_program
from pathopatch.models.runtime.torch_runtime import TorchRuntime
from pathopatch.models.spec import BundleSpec
from pathopatch.models.verify import (
    DESCRIPTION,
    EXPORTED,
    verify_export,
)

Format = Literal["onnx", "wsinfer"]
_VERSION = 3  # of the format of an export
_README, _REFERENCE = "README.md", "mask_and_crops.py"
_BYTE = (0.0, 255.0)
# Pillow's number of its Hamming filter. On H&E it came closest to our area means at factors of 1.1 to 2.5 that are not
# whole: 0.4 to 2.0 grey values on average, against 1.8 to 2.9 for its box filter and 0.5 to 2.1 for the default.
_HAMMING = 5

_ONNX = """# {method} as ONNX

`model.onnx` runs in ONNX Runtime and other programs.

It takes **patches**: float32 of shape (N, {c}, {p}, {p}), any N, cut at {mpp}, channels in the order
{channels}. Values are scaled to [0, 1] and clipped: {intensity}.{align} Parts of a patch outside the slide are filled
with its background.{tissue} It returns **probabilities**: float32 of shape (N, {k}), in the order {classes}. The
resampling to the network's {input_px} px, the standardisation and the temperature are inside: do not add them again.

    import onnxruntime

    session = onnxruntime.InferenceSession("model.onnx")
    probability = session.run(["probabilities"], {{{arguments}}})[0][:, 1]  # of {second}

Patches of another shape are refused. Values outside [0, 1] are not refused, and give wrong probabilities.

`patches.npz` holds patches, and the probabilities that pathopatch gives them. `pathopatch verify FOLDER` compares them,
and so does:

    import numpy

    stored = numpy.load("patches.npz")
    patches = stored["patches"].astype("float32") / 255{stored}
    found = session.run(["probabilities"], {{{arguments}}})[0]
    print(abs(found - stored["expected"]).max())  # at most 0.00001

{decision}
"""

_WSINFER = """# {method} for wsinfer and QuPath

    wsinfer run --wsi-dir SLIDES --results-dir OUT --config config.json --model-path torchscript_model.pt

In QuPath put this folder into the user directory of the wsinfer extension. Both take 8-bit RGB slides, cut patches of
{p} px at {mpp}, standardise them as `config.json` says, and take the softmax of what the network returns: its logits
divided by the temperature. The resampling to the network's {input_px} px is inside.

Differences from `pathopatch predict`:

- **The decision.** Neither program knows a threshold: QuPath marks the class of the largest probability.
  {decision}
- **The scale.** On a slide of {mpp} the probabilities are the same to 0.00001. On a finer one both programs cut whole
  level-0 pixels and shrink them by filters of their own; pathopatch takes exact area means. On H&E the pixels then
  differ by a grey value or two on average, and by far more at edges: compare some slides before relying on a threshold.
- **The grid.** The patches lie on the other program's grid, inside its own tissue mask; beyond the slide's edge they
  are filled with black.

`patches.npz` holds patches (uint8, N x 3 x {p} x {p}), and as `expected` what the network must return for them:

    import numpy, torch

    stored, network = numpy.load("patches.npz"), torch.jit.load("torchscript_model.pt")
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in ({mean}, {std}))
    x = (torch.from_numpy(stored["patches"]) / 255 - mean) / std
    print(abs(network(x).numpy() - stored["expected"]).max())  # at most 0.00001 of the largest
"""
_TEXTS = {"onnx": _ONNX, "wsinfer": _WSINFER}
_TISSUE = """ It also takes their masks as **tissue**: float32 of
shape (N, 1, {p}, {p}), 1 is tissue, 0 is not. Pixels outside of the tissue change nothing. `mask_and_crops.py`
shows how pathopatch tells tissue."""
_CUT = """`mask_and_crops.py` makes the mask, cuts the crops and takes the mean of their logits, with NumPy and OpenCV;
`crops_of` in `export.json` holds the sides.
"""

_OF_THIS_MACHINE = re.compile(r"\.debug_pkl$|/traced_inputs(/|\.pkl$)")


def export_model(bundle: Path, path: Path, *, kind: Format, force: bool = False) -> bool:
    """Write a bundle's model for another program; return False if the same export exists already.

    The folder `path` gets the network, ``export.json`` and ``README.md``, for wsinfer also ``config.json``. `force`
    replaces an export of another model or format.

    Raises
    ------
    StaleArtefactError
        The folder holds an export of another model or format, and `force` is off.
    InputUnsupportedError
        The model does not fit the format, a needed package is not installed, or the folder is no export.
    PathopatchError
        The bundle cannot be read, as `load_model`.
    DiskFullError
        No space is left; an earlier export is untouched.
    """
    whole, _ = checked_bundle(bundle)
    _require_exportable(whole, kind)
    spec = _of_crops(whole)
    if kind == "wsinfer":
        _require_wsinfers_model(spec)
    stamp = Stamp(
        stage=f"export {kind}",
        settings={"version": _VERSION},
        inputs={path.name: fingerprint_file(path) for path in (bundle / WEIGHTS, bundle / SPEC)},
    )
    place, home = path.resolve(), bundle.resolve()
    if place == home or home in place.parents or place in home.parents:
        raise InputUnsupportedError(
            "the export would be written into the bundle, or replace it",
            place=str(path),
            remedy="choose another folder",
        )
    with made(path, stamp=stamp, force=force) as job:
        job.require_own("export of a model")
        if job.is_current:
            return False
        plain = load_network(bundle)
        network = ExportedNetwork(spec, plain, is_wsinfer=kind == "wsinfer")
        if kind == "onnx":
            model = export_program(network, _noise(spec, 2), "probabilities", optimize=True)
            content = bytes(model.SerializeToString(deterministic=True))
        else:
            content = _torchscript_bytes(network, spec)
        with atomic_path(path) as temporary:
            temporary.mkdir(parents=True)
            (temporary / EXPORTED[kind]).write_bytes(content)
            np.savez_compressed(temporary / PATCHES, **_answered_patches(spec, plain, kind))
            if kind == "wsinfer":
                write_json(temporary / DESCRIPTION, _wsinfer_config(spec))
            if whole.mask != "none":
                shutil.copyfile(Path(__file__).with_name("mask_and_crops.txt"), temporary / _REFERENCE)
            (temporary / _README).write_text(_readme(whole, kind), encoding="utf-8")
            write_json(temporary / EXPORT, _metadata(whole, kind) | {"stamp": stamp.to_dict()})
            _replay(temporary, spec)
    return True


def _answered_patches(spec: BundleSpec, network: nn.Module, kind: Format) -> dict[str, Any]:
    """Return the arrays of ``patches.npz``: what the export takes, and what it must give."""
    patches, tissue = sample_patches(spec)
    logits = PatchClassifier(spec, TorchRuntime(network)).predict_logits(patches, tissue) / np.float32(spec.temperature)
    expected = logits if kind == "wsinfer" else softmax(torch.from_numpy(logits), dim=1).numpy()
    arrays: dict[str, Any] = {"patches": np.rint(patches * 255).astype(np.uint8), "expected": expected}
    arrays["class_names"] = np.array(spec.class_names)  # an import finds swapped classes by them
    return arrays | ({"tissue": tissue[:, None].astype(np.uint8)} if spec.mask == "normalise" else {})


def _replay(folder: Path, spec: BundleSpec) -> None:
    """Refuse an export that another program runs with other answers."""
    for verified in verify_export(folder):
        if verified.problem:
            raise InputUnsupportedError(
                f"the export of {spec.architecture} is not the model, by {verified.runtime}: {verified.problem}",
                place="architecture",
                remedy="export it in another format, or train another architecture",
            )


def _require_exportable(spec: BundleSpec, kind: Format) -> None:
    """Refuse a model that takes something else than patches alone, or whose network is a program of others."""
    refusals = (
        (spec.is_imported, "the model was imported, and its network cannot be recorded again",
         "give other programs what it was imported from"),
        (spec.encoder is not None, "the model takes features of an encoder, and exports take patches",
         "predict feature files with pathopatch, or call predict_logits of load_model"),
        (spec.lacks_backbone, "the weights of the backbone are not in the bundle, and an export would hold a copy",
         "predict with pathopatch, where the weights are at hand"),
        (spec.mask == "normalise" and kind == "wsinfer",
         "the model needs the tissue mask of each patch, and wsinfer gives a network patches alone",
         "export it as onnx, which takes the mask as a second input"),
    )  # fmt: skip
    for is_refused, problem, remedy in refusals:
        if is_refused:
            raise InputUnsupportedError(problem, place="bundle", remedy=remedy)


def _of_crops(spec: BundleSpec) -> BundleSpec:
    """Return the model of the crops of a model that reads patches by them: an ordinary classifier of small patches."""
    if spec.crop_px is None:
        return spec
    mpp = None if spec.mpp is None else spec.mpp * spec.patch_px / spec.input_px
    sides = dict.fromkeys(("patch_px", "stride_px", "input_px"), spec.crop_px)
    return spec.model_copy(update={**sides, "mpp": mpp, "mask": "none", "crop_px": None})


def _metadata(whole: BundleSpec, kind: Format) -> dict[str, Any]:
    """Return ``export.json`` without its stamp: input, output, decision, and the spec of what is exported."""
    is_wsinfer, spec = kind == "wsinfer", _of_crops(whole)
    optional: dict[str, Any] = {}
    if spec.mask == "normalise":
        shape = ["N", 1, spec.patch_px, spec.patch_px]
        optional["tissue"] = {"shape": shape, "type": "float32", "is": "mask of the patch, 1 is tissue"}
    if rule := crop_text(whole):
        sides = {"patch_px": whole.patch_px, "input_px": whole.input_px, "crop_px": whole.crop_px, "mpp": whole.mpp}
        optional |= {"crops": rule, "crops_of": sides}
    return {
        "format": kind,
        "input": {
            "shape": ["N", len(spec.channels), spec.patch_px, spec.patch_px],
            "type": "float32",
            "range": None if is_wsinfer else [0, 1],
            "is_standardised": is_wsinfer,
            "intensity_rule": intensity_text(spec),
        },
        **optional,
        "output": {
            "shape": ["N", len(spec.class_names)],
            "type": "float32",
            "is": "logits divided by the temperature" if is_wsinfer else "probabilities",
        },
        "decision": {
            "threshold_on_logit_difference": spec.decision_threshold,
            "threshold_on_probability": spec.decision_probability,
            "of_class": spec.class_names[1] if len(spec.class_names) == 2 else None,
            "chosen_for": spec.decision_chosen_for,
        },
        "model": spec.model_dump(mode="json"),
    }


def _readme(whole: BundleSpec, kind: Format) -> str:
    """Return the README of an export: its use, with the rule by which patches were read, then the model card."""
    spec = _of_crops(whole)
    is_masked, rule = spec.mask == "normalise", crop_text(whole)
    text = _TEXTS[kind].format(
        method=spec.method,
        c=len(spec.channels),
        p=spec.patch_px,
        k=len(spec.class_names),
        mpp=scale_text(spec),
        channels=", ".join(spec.channels),
        classes=", ".join(spec.class_names),
        second=spec.class_names[1],
        intensity=intensity_text(spec),
        input_px=spec.input_px,
        align=" The channels are moved onto each other first, by shifts measured on each slide." if spec.align else "",
        tissue=_TISSUE.format(p=spec.patch_px) if is_masked else "",
        arguments='"patches": patches, "tissue": tissue' if is_masked else '"patches": patches',
        stored='\n    tissue = stored["tissue"].astype("float32")' if is_masked else "",
        mean=list(spec.mean),
        std=list(spec.std),
        decision=f"A patch counts as {decision_text(spec)}.",
    )
    note = f"\nThe model was trained on crops. {rule}\n{_CUT}" if rule else ""
    return f"{text}{note}\n{model_card(spec)}"


def _require_wsinfers_model(spec: BundleSpec) -> None:
    """Refuse a model that does not fit wsinfer's format, with each reason."""
    reasons = []
    is_rgb = spec.channels == ("R", "G", "B") and spec.dtype == "uint8"
    if not is_rgb:
        reasons.append(
            f"it reads R, G, B of uint8 only, and the model takes {', '.join(spec.channels)} of {spec.dtype}"
        )
    has_other_window = any(spec.intensity.windows.get(name, _BYTE) != _BYTE for name in spec.channels)
    if has_other_window or not is_rgb:
        reasons.append(f"it divides by 255, and the model's intensity rule is {intensity_text(spec)}")
    if spec.mpp is None:
        reasons.append("it needs um per px, and the model was trained on patches of unknown scale")
    if spec.align:
        reasons.append("it does not move channels onto each other, and the model needs that (align)")
    if len(set(spec.class_names)) < len(spec.class_names):
        reasons.append(f"it needs distinct class names, and the model's are {', '.join(spec.class_names)}")
    if reasons:
        raise InputUnsupportedError(
            "this model does not fit wsinfer's format: " + "; ".join(reasons),
            place="bundle",
            remedy="export it as onnx, whose users scale the patches themselves",
        )


def _wsinfer_config(spec: BundleSpec) -> dict[str, Any]:
    """Return wsinfer's description of a model for ``config.json``."""
    return {
        "spec_version": "1.0",
        "architecture": spec.architecture,
        "num_classes": len(spec.class_names),
        "patch_size_pixels": spec.patch_px,
        "spacing_um_px": spec.mpp,
        "class_names": list(spec.class_names),
        "transform": [
            {"name": "Resize", "arguments": {"size": spec.patch_px, "interpolation": _HAMMING}},
            {"name": "ToTensor"},
            {"name": "Normalize", "arguments": {"mean": list(spec.mean), "std": list(spec.std)}},
        ],
    }


class ExportedNetwork(nn.Module):
    """A float32 copy of a model's network on the processor, in evaluation mode, for patches as they are cut.

    It takes patches in [0, 1], with their tissue masks for a masked network, and gives probabilities. For wsinfer it
    takes standardised patches and gives logits, divided by the temperature, so that their softmax is the probability.
    """

    def __init__(self, spec: BundleSpec, network: nn.Module, *, is_wsinfer: bool = False) -> None:
        super().__init__()
        plain = copy.deepcopy(network).to("cpu", torch.float32)
        self.network = plain.to(memory_format=torch.contiguous_format).eval()  # type: ignore[call-overload]
        self.resize = _AreaResize(spec.patch_px, spec.input_px)
        self.temperature = spec.temperature
        self.is_wsinfer = is_wsinfer
        if not is_wsinfer:
            self.register_buffer("mean", torch.tensor(spec.mean, dtype=torch.float32)[None, :, None, None])
            self.register_buffer("std", torch.tensor(spec.std, dtype=torch.float32)[None, :, None, None])
        self.requires_grad_(False)
        self.eval()

    def forward(self, patches: Tensor, tissue: Tensor | None = None) -> Tensor:
        """Return probabilities or logits (N, K) of patches (N, C, p, p) and tissue masks (N, 1, p, p), p = patch_px."""
        x = self.resize(patches)  # (N, C, input_px, input_px)
        if not self.is_wsinfer:
            x = (x - self.mean) / self.std
        if tissue is not None:
            x = torch.cat([x, (self.resize(tissue) >= LEAST_SHARE).to(x.dtype)], dim=1)
        logits: Tensor = self.network(x) / self.temperature  # (N, K)
        return logits if self.is_wsinfer else softmax(logits, dim=1)


class _AreaResize(nn.Module):
    """`resize_area` from a side of `from_px` to one of `to_px`, as a part of a network."""

    weights: Tensor

    def __init__(self, from_px: int, to_px: int) -> None:
        super().__init__()
        self.factor = from_px // to_px if from_px % to_px == 0 else 0
        if self.factor == 0:
            self.register_buffer("weights", torch.from_numpy(area_weights(from_px, to_px)))

    def forward(self, x: Tensor) -> Tensor:
        """Return patches (N, C, to_px, to_px) of patches (N, C, from_px, from_px)."""
        if self.factor == 1:
            return x
        if self.factor:
            return avg_pool2d(x, self.factor)  # the same mean at a tenth of the work of two matrix products
        return self.weights @ x @ self.weights.T


def area_weights(from_px: int, to_px: int) -> NDArray[np.float32]:
    """Return `resize_area` along one side as a matrix m (to_px, from_px): m @ x @ m.T resizes a plane x."""
    identity = np.eye(from_px, dtype=np.float32)
    return np.asarray(cv2.resize(identity, (from_px, to_px), interpolation=cv2.INTER_AREA), dtype=np.float32)


def _noise(spec: BundleSpec, n: int) -> dict[str, Tensor]:
    """Return n patches of noise in [0, 1], and masks for a masked network, to record networks; always the same."""
    generator = torch.Generator().manual_seed(n)
    patches = torch.rand(n, len(spec.channels), spec.patch_px, spec.patch_px, generator=generator)
    return {INPUT: patches} | ({TISSUE: patches[:, :1].round()} if spec.mask == "normalise" else {})


def _torchscript_bytes(network: ExportedNetwork, spec: BundleSpec) -> bytes:
    """Return a network as a TorchScript archive, without the places of its sources on this machine."""
    with warnings.catch_warnings(), torch.no_grad():
        # TorchScript is deprecated, but QuPath and wsinfer load nothing else.
        warnings.simplefilter("ignore")
        try:
            recorded = torch.jit.trace(network, _noise(spec, 2)[INPUT], check_trace=False)  # type: ignore[no-untyped-call]
        except RuntimeError as error:
            raise InputUnsupportedError(
                f"{spec.architecture} cannot be recorded as TorchScript: {error}",
                place="architecture",
                remedy="export it as onnx, or train another architecture",
            ) from error
        archive, result = io.BytesIO(), io.BytesIO()
        torch.jit.save(recorded, archive)
    with zipfile.ZipFile(archive) as old, zipfile.ZipFile(result, "w", zipfile.ZIP_STORED) as new:
        for name in old.namelist():
            if not _OF_THIS_MACHINE.search(name):
                new.writestr(name, old.read(name))
    return result.getvalue()
