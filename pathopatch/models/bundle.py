"""How a trained model is stored, read safely, and checked against a slide: safetensors, JSON and a model card.

The weights' own header repeats what the weights were trained for (channels, order, classes, scaling, sizes). If
``model.json`` says otherwise, the bundle is refused: a network fed with other channels gives numbers, wrong ones.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import ValidationError
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import nn

from pathopatch.errors import (
    ChannelMismatchError,
    CheckpointIncompatibleError,
    CheckpointUnsafeError,
    InputCorruptError,
    InputMissingError,
    InputUnsupportedError,
)
from pathopatch.files import atomic_path, read_json, write_json
from pathopatch.models.card import model_card
from pathopatch.models.forward import (
    Precision,
    patches_a_pass,
    pick_device,
    pick_precision,
    predict_logits,
    prepared,
    resize_area,
)
from pathopatch.models.networks import build_network
from pathopatch.models.spec import BUNDLE_VERSION, BundleSpec

if TYPE_CHECKING:
    from pathopatch.slides import Slide

WEIGHTS, SPEC, CARD = "model.safetensors", "model.json", "README.md"
_MPP_TOLERANCE = 1.02
_HEADER = "pathopatch"  # one key, since safetensors orders several at random and equal models have equal bytes
_UNSAFE = (".pt", ".pth", ".pkl", ".pickle", ".ckpt", ".bin", ".joblib")


class PatchClassifier:
    """A trained model, ready to predict.

    Parameters
    ----------
    spec : BundleSpec
        What the model expects and means.
    network : nn.Module
        Its network, which is not changed; a copy is prepared for prediction.
    device : torch.device, optional
        Where to compute; the processor by default.
    precision : str
        ``auto``, ``float32`` or ``bfloat16``; see `pick_precision`.

    Attributes
    ----------
    precision : str
        The one in use.
    network : nn.Module
        As it was given: what is exported, and what tells models apart.
    ready : nn.Module
        The copy that predicts, see `prepared`.
    """

    def __init__(
        self,
        spec: BundleSpec,
        network: nn.Module,
        device: torch.device | None = None,
        precision: str = "auto",
    ) -> None:
        self.spec = spec
        self.device = device or torch.device("cpu")
        self.network = network
        shape = len(spec.channels), spec.input_px
        self.precision: Precision = pick_precision(network, *shape, device=self.device, requested=precision)
        self.ready = prepared(network, self.precision, *shape, device=self.device)
        self._mean = np.array(spec.mean, dtype=np.float32)[:, None, None]  # (C, 1, 1)
        self._std = np.array(spec.std, dtype=np.float32)[:, None, None]

    def predict_logits(self, batch: NDArray[np.float32], *, forward_batch: int | None = None) -> NDArray[np.float32]:
        """Return the logits of patches; resized to the network's input and standardised here.

        Parameters
        ----------
        batch : ndarray of float32, shape (N, C, p, p)
            Patches scaled to [0, 1] by their slide's windows, channels in the order of ``spec.channels``.
        forward_batch : int, optional
            Patches in one forward pass; by default as many as `patches_a_pass` says.

        Returns
        -------
        ndarray of float32, shape (N, K)

        Raises
        ------
        ChannelMismatchError
            Another number of channels or dimensions.
        """
        if batch.ndim != 4 or batch.shape[1] != len(self.spec.channels):
            raise ChannelMismatchError(
                f"patches of shape {batch.shape}, the model takes (N, {len(self.spec.channels)}, p, p)",
                remedy=f"give the channels {', '.join(self.spec.channels)} in this order",
            )
        if len(batch) == 0:
            return np.empty((0, len(self.spec.class_names)), dtype=np.float32)
        return self.logits(self.standardised(batch), forward_batch=forward_batch)

    def standardised(self, batch: NDArray[np.float32]) -> torch.Tensor:
        """Return patches as the network takes them, float32 of shape (N, C, input_px, input_px), on the processor.

        Parameters
        ----------
        batch : ndarray of float32, shape (N, C, p, p)
            Patches scaled to [0, 1] by their slide's windows.
        """
        resized = resize_area(np.asarray(batch, dtype=np.float32), self.spec.input_px)
        x = resized - self._mean
        return torch.from_numpy(np.divide(x, self._std, out=x))

    def logits(self, x: torch.Tensor, *, forward_batch: int | None = None) -> NDArray[np.float32]:
        """Return the logits, float32 of shape (N, K), of what `standardised` returned."""
        batch = forward_batch or patches_a_pass(self.spec.input_px, self.device)
        return predict_logits(self.ready, x, batch=batch)


def save_bundle(folder: Path, network: nn.Module, spec: BundleSpec) -> None:
    """Write a bundle: weights, ``model.json`` and a model card; all of it or nothing. Equal models, equal bytes.

    Parameters
    ----------
    folder : Path
        Where it goes; an earlier bundle there is replaced.
    network : nn.Module
        As `build_network` made it for ``spec.architecture``.
    spec : BundleSpec
        What goes with the weights.

    Raises
    ------
    DiskFullError
        No space was left; an earlier bundle is untouched.
    """
    tensors = {
        name: value.detach().to("cpu", memory_format=torch.contiguous_format).contiguous().clone()
        for name, value in sorted(network.state_dict().items())
    }
    header = {_HEADER: json.dumps(spec.contract(), sort_keys=True)}
    with atomic_path(folder) as temporary:
        temporary.mkdir(parents=True)
        save_file(tensors, temporary / WEIGHTS, metadata=header)
        write_json(temporary / SPEC, spec.model_dump(mode="json"))
        (temporary / CARD).write_text(model_card(spec), encoding="utf-8")


def load_model(folder: Path | str, *, device: str = "auto", precision: str = "auto") -> PatchClassifier:
    """Return the model of a bundle, ready to predict. No code from the bundle is run.

    Parameters
    ----------
    folder : Path or str
        The bundle.
    device : str
        See `pick_device`.
    precision : str
        See `pick_precision`.

    Raises
    ------
    InputMissingError
        No bundle there, or a part of it is missing.
    InputCorruptError
        The weights are cut off or damaged.
    CheckpointUnsafeError
        A pickle (``.pt``, ``.pth`` and so on), which could run code when read.
    CheckpointIncompatibleError
        A bundle of another version, or one whose ``model.json`` and weights contradict each other.
    """
    folder = Path(folder)
    spec = check_bundle(folder)
    with _weights(folder / WEIGHTS) as stream:
        tensors = {name: stream.get_tensor(name) for name in stream.keys()}  # noqa: SIM118 (not a mapping)
    try:
        network = build_network(
            spec.architecture, len(spec.channels), n_classes=len(spec.class_names), input_px=spec.input_px
        )
        network.load_state_dict(tensors)
    except (RuntimeError, InputUnsupportedError) as error:
        raise CheckpointIncompatibleError(
            f"the weights are not those of {spec.architecture!r}: {error}",
            place=str(folder),
            remedy="restore the bundle's files together, or train again",
        ) from error
    return PatchClassifier(spec, network, pick_device(device), precision)


def check_bundle(folder: Path) -> BundleSpec:
    """Return a bundle's ``model.json`` after holding it to what its weights say of themselves, which are not read.

    Raises
    ------
    InputMissingError, InputCorruptError, CheckpointUnsafeError, CheckpointIncompatibleError
        As `load_model`, but for weights that are not those of the network.
    """
    _refuse_pickles(folder)
    spec = read_spec(folder)
    with _weights(folder / WEIGHTS) as stream:
        header = json.loads((stream.metadata() or {}).get(_HEADER) or "{}")
    _compare(spec.contract(), _completed(header), place=str(folder))
    return spec


def read_spec(folder: Path) -> BundleSpec:
    """Return a bundle's ``model.json``.

    Raises
    ------
    InputMissingError
        There is none.
    InputCorruptError
        It is not JSON.
    CheckpointIncompatibleError
        It is of another version, or a value is unknown, missing or out of range.
    """
    place = str(folder / SPEC)
    raw = read_json(folder / SPEC)
    version = raw.get("schema_version")
    if version != BUNDLE_VERSION:
        raise CheckpointIncompatibleError(
            f"bundle version {version!r}, this program reads {BUNDLE_VERSION}",
            place=place,
            remedy="run pathopatch train WORK --force to make it anew, or use the version of pathopatch that wrote it",
        )
    try:
        return BundleSpec.model_validate(raw)
    except ValidationError as error:
        lines = [
            f"{'.'.join(str(part) for part in item['loc']) or 'bundle'}: {item['msg']}"
            for item in error.errors(include_url=False)
        ]
        raise CheckpointIncompatibleError(
            "not a valid bundle: " + "; ".join(lines), place=place, remedy="restore the file, or train again"
        ) from error


def check_slide(spec: BundleSpec, slide: Slide) -> list[str]:
    """Refuse a slide that a model was not made for.

    Parameters
    ----------
    spec : BundleSpec
        The model's.
    slide : Slide
        The slide to predict.

    Returns
    -------
    list of str
        Warnings: the model's scale is unknown; the model states how all slides are to be taken, and this one looks
        otherwise.

    Raises
    ------
    ChannelMismatchError
        Another number of channels, or another type of pixels; both sides are named.
    CheckpointIncompatibleError
        The same number of channels under other names or in another order, a slide coarser than the model's mpp, or one
        that is dark where there is no tissue for a model of bright slides, or the other way round.
    MppMissingError
        The model needs a scale and the slide has none.
    """
    place = ", ".join(str(path) for path in slide.paths)
    if len(slide.channels) != len(spec.channels) or str(slide.dtype) != spec.dtype:
        raise ChannelMismatchError(
            f"the slide has {_listed(slide.channels)} of {slide.dtype}, "
            f"the model was trained on {_listed(spec.channels)} of {spec.dtype}",
            place=place,
            remedy="give the channels and the file type that the model was trained on",
        )
    if tuple(slide.channels) != spec.channels:
        raise CheckpointIncompatibleError(
            f"the slide's channels are {_listed(slide.channels)}, the model's {_listed(spec.channels)}",
            place=place,
            remedy="give the model's channels under its names; their order and case do not matter to predict",
        )
    if spec.mpp is not None and slide.mpp > spec.mpp * _MPP_TOLERANCE:
        raise CheckpointIncompatibleError(
            f"the slide has {slide.mpp:g} um/px, the model needs {spec.mpp:g} or finer",
            place=place,
            remedy="scan at a finer resolution, or use a model trained at this one",
        )
    warnings = [] if spec.mpp is not None else [_unknown_scale(slide)]
    if spec.background in ("auto", slide.background):
        return warnings
    if spec.tissue.background != "auto":  # stated for whatever is cut under this model's rules
        stated = spec.tissue.background
        return [*warnings, f"taken as {stated} where there is no tissue, as the model states; it looks otherwise"]
    raise CheckpointIncompatibleError(
        f"the slide is {slide.background} where there is no tissue, the model's slides are {spec.background}",
        place=place,
        remedy=f"use a model trained on such slides; if this one is {spec.background} in truth, say so in the "
        "manifest's column background",
    )


def _unknown_scale(slide: Slide) -> str:
    """Return the warning of a slide that is predicted by a model of unknown scale."""
    return (
        f"the model's scale is unknown: the slide is read at its own {slide.mpp:g} um/px; where the training patches "
        "had another scale the probabilities mean nothing"
    )


def _listed(channels: tuple[str, ...]) -> str:
    return f"{len(channels)} channels ({', '.join(channels)})"


def _refuse_pickles(folder: Path) -> None:
    """Refuse a pickle by its name or its first bytes, without reading it."""
    suspects = [folder] if folder.is_file() else sorted(folder.glob("*")) if folder.is_dir() else []
    for path in suspects:
        if path.suffix in _UNSAFE or (path.suffix == ".safetensors" and _starts_like_a_pickle(path)):
            raise CheckpointUnsafeError(
                "a pickle could run code when read; it was not read",
                place=str(path),
                remedy="use a model bundle: a folder with model.safetensors and model.json",
            )


def _starts_like_a_pickle(path: Path) -> bool:
    """Return whether a file begins as a zip archive or a binary pickle does, and not as safetensors."""
    with path.open("rb") as stream:
        start = stream.read(9)
    return start.startswith((b"PK", b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05")) and start[8:9] != b"{"


@contextmanager
def _weights(path: Path) -> Iterator[Any]:
    """Open a bundle's weights; what is wrong with them is raised as an error of ours."""
    if not path.is_file():
        raise InputMissingError(f"no {path.name}", place=str(path.parent), remedy="give the folder of a model bundle")
    try:
        with safe_open(path, framework="pt") as stream:
            yield stream
    except (SafetensorError, OSError, ValueError) as error:
        raise InputCorruptError(
            f"weights cut off or damaged: {error}", place=str(path), remedy="copy the bundle again, or train again"
        ) from error


def _completed(header: dict[str, Any]) -> dict[str, Any]:
    """Return what the weights say they were trained for, settings that they do not know yet at their defaults."""
    try:
        return BundleSpec.model_validate(header).contract()
    except ValidationError:
        return header


def _compare(spec: Mapping[str, Any], header: Mapping[str, Any], *, place: str) -> None:
    """Refuse a bundle whose model.json differs from what its weights say they were trained for."""
    differences = [
        f"{name} is {spec.get(name)!r}, the weights were trained with {header.get(name)!r}"
        for name in sorted({*spec, *header})
        if spec.get(name) != header.get(name)
    ]
    if differences:
        raise CheckpointIncompatibleError(
            f"{SPEC} does not fit {WEIGHTS}: " + "; ".join(differences),
            place=place,
            remedy="restore both files of the bundle together, or train again",
        )
