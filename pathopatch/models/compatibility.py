"""Check a model bundle, and a slide against it, without loading torch: what is refused is told at once.

The weights' own header repeats what the weights were trained for (channels, order, classes, scaling, sizes). If
``model.json`` says otherwise, the bundle is refused: a network fed with other channels gives numbers, wrong ones.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import ValidationError
from safetensors import SafetensorError, safe_open

from pathopatch.core.errors import (
    ChannelMismatchError,
    CheckpointIncompatibleError,
    CheckpointUnsafeError,
    InputCorruptError,
    InputMissingError,
)
from pathopatch.core.files import read_json
from pathopatch.models.spec import BUNDLE_VERSION, BundleSpec
from pathopatch.slides.resolution import MPP_TOLERANCE

if TYPE_CHECKING:
    from pathopatch.slides import Slide

WEIGHTS, SPEC = "model.safetensors", "model.json"
HEADER = "pathopatch"
"""One key of the weights' header, since safetensors orders several at random and equal models have equal bytes."""
_UNSAFE = (".pt", ".pth", ".pkl", ".pickle", ".ckpt", ".bin", ".joblib")


def check_bundle(folder: Path) -> BundleSpec:
    """Return a bundle's ``model.json`` after holding it to what its weights say of themselves, which are not read.

    Raises
    ------
    InputMissingError, InputCorruptError, CheckpointUnsafeError, CheckpointIncompatibleError
        As `load_model`, but for weights that are not those of the network.
    """
    _refuse_pickles(folder)
    spec = read_spec(folder)
    with opened_weights(folder / WEIGHTS, framework="numpy") as stream:
        header = json.loads((stream.metadata() or {}).get(HEADER) or "{}")
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
    try:
        raw = read_json(folder / SPEC)
    except InputMissingError as error:
        raise InputMissingError(
            f"no file {SPEC}", place=place, remedy="give the folder of a model bundle, such as WORK/runs/NAME/model"
        ) from error
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
    if spec.mpp is not None and slide.mpp > spec.mpp * (1 + MPP_TOLERANCE):
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
def opened_weights(path: Path, *, framework: Literal["pt", "numpy"]) -> Iterator[Any]:
    """Open a bundle's weights; what is wrong with them is raised as an error of ours."""
    if not path.is_file():
        raise InputMissingError(f"no {path.name}", place=str(path.parent), remedy="give the folder of a model bundle")
    try:
        with safe_open(path, framework=framework) as stream:
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
