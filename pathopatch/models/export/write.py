"""Export a model for other programs, as one folder: the network, ``export.json`` and a README.

`torchscript` and ONNX networks take patches in [0, 1]. wsinfer and QuPath's wsinfer extension cut square patches of
uint8 RGB at one scale, bring them to a side (``Resize``; QuPath reads one number), divide by 255 (``ToTensor``),
standardise (``Normalize``), and take the softmax of the network's output [1]_.

References
----------
.. [1] Kaczmarzyk et al., "Open and reusable deep learning for pathology with WSInfer and QuPath", npj Precision
   Oncology 8, 9 (2024).
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Literal

from pathopatch.core.artefacts import Stamp, artefact, fingerprint_file
from pathopatch.core.errors import InputCorruptError, InputUnsupportedError
from pathopatch.core.files import atomic_path, read_json, write_json
from pathopatch.models.bundle import SPEC, WEIGHTS, read_spec
from pathopatch.models.card import decision_text, intensity_text, model_card, scale_text
from pathopatch.models.export.network import ExportedNetwork, probe
from pathopatch.models.export.torchscript import torchscript_bytes
from pathopatch.models.loading import load_network
from pathopatch.models.onnx_graph import export_program
from pathopatch.models.spec import BundleSpec

Format = Literal["torchscript", "onnx", "wsinfer"]
_VERSION = 1  # of the format of an export
_METADATA, _README = "export.json", "README.md"
_NETWORK = {"torchscript": "model.pt", "onnx": "model.onnx", "wsinfer": "torchscript_model.pt"}
_BYTE = (0.0, 255.0)
# Pillow's number of its Hamming filter. On H&E it came closest to our area means at factors of 1.1 to 2.5 that are not
# whole: 0.4 to 2.0 grey values on average, against 1.8 to 2.9 for its box filter and 0.5 to 2.1 for the default.
_HAMMING = 5

_TAKES = """It takes **patches**: float32 of shape (N, {c}, {p}, {p}), any N, cut at {mpp}, channels in the order
{channels}. Values are scaled to [0, 1] and clipped: {intensity}.{align} Parts of a patch outside the slide are filled
with its background. It returns **probabilities**: float32 of shape (N, {k}), in the order {classes}. The
resampling to the network's {input_px} px, the standardisation and the temperature are inside: do not add them again."""

_TORCHSCRIPT = """# {method} as TorchScript

`model.pt` needs torch alone.

{takes}

    import torch

    model = torch.jit.load("model.pt").eval()
    with torch.inference_mode():
        probability = model(patches)[:, 1]  # of {second}

Patches of another shape, or with values outside [0, 1], are refused.
"""

_ONNX = """# {method} as ONNX

`model.onnx` runs in ONNX Runtime and other programs.

{takes}

    import onnxruntime

    session = onnxruntime.InferenceSession("model.onnx")
    probability = session.run(["probabilities"], {{"patches": patches}})[0][:, 1]  # of {second}

Patches of another shape are refused. Values outside [0, 1] are not refused, and give wrong probabilities.
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
"""
_TEXTS = {"torchscript": _TORCHSCRIPT, "onnx": _ONNX, "wsinfer": _WSINFER}


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
    spec = read_spec(bundle)
    _require_exportable(spec)
    if kind == "wsinfer":
        _require_wsinfers_model(spec)
    stamp = Stamp(
        stage=f"export {kind}",
        settings={"version": _VERSION},
        inputs={name: fingerprint_file(bundle / name) for name in (WEIGHTS, SPEC)},
    )
    with artefact(path, stamp=stamp, force=force, existing=[_stamp_of_export(bundle, path)]) as output:
        if output.is_current:
            return False
        metadata = _metadata(spec, kind) | {"stamp": stamp.to_dict()}
        content = _network_bytes(bundle, spec, kind, json.dumps(metadata, sort_keys=True))
        with atomic_path(path) as temporary:
            temporary.mkdir(parents=True)
            (temporary / _NETWORK[kind]).write_bytes(content)
            if kind == "wsinfer":
                write_json(temporary / "config.json", _wsinfer_config(spec))
            write_json(temporary / _METADATA, metadata)
            (temporary / _README).write_text(_readme(spec, kind), encoding="utf-8")
    return True


def _require_exportable(spec: BundleSpec) -> None:
    """Refuse a model that takes something else than patches alone, or whose network is a program of others."""
    refusals = (
        (spec.torchscript is not None, "the model was imported as TorchScript, which cannot be recorded again",
         "give other programs the folder that it was imported from"),
        (spec.encoder is not None, "the model takes features of an encoder, and exports take patches",
         "predict feature files with pathopatch, or call predict_logits of load_model"),
        (spec.mask != "none", "the model needs the tissue mask of each patch, and exports take patches alone",
         "export a model trained with mask = 'none'; predict with pathopatch where masks are measured"),
    )  # fmt: skip
    for is_refused, problem, remedy in refusals:
        if is_refused:
            raise InputUnsupportedError(problem, place="bundle", remedy=remedy)


def _network_bytes(bundle: Path, spec: BundleSpec, kind: Format, stored: str) -> bytes:
    """Return the file of a network, equal bytes for equal models; `stored` is kept in it."""
    network = ExportedNetwork(spec, load_network(bundle), is_wsinfer=kind == "wsinfer")
    if kind == "onnx":
        model = export_program(network, probe(spec, 2), "probabilities", optimize=True)
        model.metadata_props.add(key="pathopatch", value=stored)
        return bytes(model.SerializeToString(deterministic=True))
    # No checks for wsinfer: its --speedup tries patches of 224 px first, and its patches have one side anyway.
    return torchscript_bytes(network, spec, metadata=stored, checks=kind != "wsinfer")


def _stamp_of_export(bundle: Path, path: Path) -> Stamp | None:
    """Return the stamp of the export at a path; refuse any other folder, above all the bundle."""
    place, home = path.resolve(), bundle.resolve()
    if place == home or home in place.parents or place in home.parents:
        raise InputUnsupportedError(
            "the export would be written into the bundle, or replace it",
            place=str(path),
            remedy="choose another folder",
        )
    if not path.exists():
        return None
    try:
        ours = read_json(path / _METADATA).get("stamp") if (path / _METADATA).is_file() else None
    except InputCorruptError:
        ours = None
    if not isinstance(ours, dict):
        raise InputUnsupportedError(
            "the path exists and is no export of a model", place=str(path), remedy="choose another folder"
        )
    return Stamp.from_dict(ours)


def _metadata(spec: BundleSpec, kind: Format) -> dict[str, Any]:
    """Return ``export.json`` without its stamp: input, output, decision, and the model's spec."""
    is_wsinfer = kind == "wsinfer"
    return {
        "format": kind,
        "input": {
            "shape": ["N", len(spec.channels), spec.patch_px, spec.patch_px],
            "type": "float32",
            "range": None if is_wsinfer else [0, 1],
            "is_standardised": is_wsinfer,
            "intensity_rule": intensity_text(spec),
        },
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


def _readme(spec: BundleSpec, kind: Format) -> str:
    """Return the README of an export: its use, then the model card."""
    decision = f"A patch counts as {decision_text(spec)}."
    takes = _TAKES.format(
        c=len(spec.channels),
        p=spec.patch_px,
        k=len(spec.class_names),
        mpp=scale_text(spec),
        channels=", ".join(spec.channels),
        classes=", ".join(spec.class_names),
        intensity=intensity_text(spec),
        input_px=spec.input_px,
        align=" The channels are moved onto each other first, by shifts measured on each slide." if spec.align else "",
    )
    text = _TEXTS[kind].format(
        method=spec.method,
        takes=takes,
        p=spec.patch_px,
        mpp=scale_text(spec),
        input_px=spec.input_px,
        second=spec.class_names[1],
        decision=decision,
    )
    below = "" if kind == "wsinfer" else f"\n{decision}\n"  # wsinfer's text holds it already
    return f"{text}{below}\n{model_card(spec)}"


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
            remedy="export it as torchscript or onnx, whose users scale the patches themselves",
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
