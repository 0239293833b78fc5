"""Check a model bundle, a slide against it, and several bundles against each other, without loading torch.

The header of the weights repeats their contract: channels and their order, classes, scaling, sizes. A bundle whose
``model.json`` differs from it is refused, since a network fed with other channels returns wrong numbers without an
error.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import combinations
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from pydantic import ValidationError
from safetensors import SafetensorError, safe_open

from pathopatch.core.artefacts import fingerprint_file
from pathopatch.core.errors import (
    ChannelMismatchError,
    CheckpointIncompatibleError,
    CheckpointUnsafeError,
    InputCorruptError,
    InputMissingError,
)
from pathopatch.core.files import read_json
from pathopatch.models.spec import BUNDLE_VERSION, BundleSpec, SeenRange
from pathopatch.slides.resolution import MPP_TOLERANCE

if TYPE_CHECKING:
    from pathopatch.slides import Slide

WEIGHTS, SPEC = "model.safetensors", "model.json"
# A single key of the weights' header: safetensors orders several at random, so that equal models had other bytes.
HEADER = "pathopatch"
_PICKLES = (".pt", ".pth", ".pkl", ".pickle", ".ckpt", ".bin", ".joblib")
# What members of an ensemble may differ in: everything that a slide is not cut or scaled by.
_MEMBERS_OWN = {"architecture", "input_px", "mean", "std", "method", "schema_version"}


def check_bundle(folder: Path) -> BundleSpec:
    """Return a bundle's ``model.json`` after comparing it with the header of its weights; the weights are not read.

    Raises
    ------
    InputMissingError, InputCorruptError, CheckpointUnsafeError, CheckpointIncompatibleError
        As `load_model`, except weights that do not fit the network.
    """
    _refuse_pickles(folder)
    spec = read_spec(folder)
    with open_weights(folder / WEIGHTS, framework="numpy") as stream:
        header = json.loads((stream.metadata() or {}).get(HEADER) or "{}")
    stated = spec.contract()
    try:
        trained = BundleSpec.model_validate(header).contract()  # settings newer than the weights take their defaults
    except ValidationError:
        trained = header
    differences = [
        f"{name} is {stated.get(name)!r}, the weights were trained with {trained.get(name)!r}"
        for name in sorted({*stated, *trained})
        if stated.get(name) != trained.get(name)
    ]
    if differences:
        raise CheckpointIncompatibleError(
            f"{SPEC} does not fit {WEIGHTS}: " + "; ".join(differences),
            place=str(folder),
            remedy="restore both files of the bundle together, or train again",
        )
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
    """Refuse a slide that does not fit a model.

    Parameters
    ----------
    spec : BundleSpec
        The model's.
    slide : Slide
        The slide to predict.

    Returns
    -------
    list of str
        Warnings: the model's scale is unknown; the model states the background, and this slide looks different.

    Raises
    ------
    ChannelMismatchError
        Another number of channels, or another pixel type; both sides are named.
    CheckpointIncompatibleError
        Other names or another order of the channels, a slide coarser than the model's mpp, or one of the other
        background (dark or bright).
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
    warnings = (
        []
        if spec.mpp is not None
        else [
            f"the model's scale is unknown: the slide is read at its own {slide.mpp:g} um/px; if the training patches "
            "had another scale, the probabilities mean nothing"
        ]
    )
    if spec.background in ("auto", slide.background):
        return warnings
    if spec.tissue.background != "auto":  # the model's own setting overrides what the slide looks like
        stated = spec.tissue.background
        return [*warnings, f"taken as {stated} where there is no tissue, as the model states; it looks different"]
    raise CheckpointIncompatibleError(
        f"the slide is {slide.background} where there is no tissue, the model's slides are {spec.background}",
        place=place,
        remedy=f"use a model trained on such slides; if this one is in fact {spec.background}, set the manifest's "
        "column background",
    )


def check_bundles(folders: Sequence[Path]) -> BundleSpec:
    """Return the joint spec of one or more bundles, before any weights are read.

    Raises
    ------
    CheckpointIncompatibleError
        As `Ensemble`, or two bundles have the same weights.
    InputMissingError, InputCorruptError, CheckpointUnsafeError
        As `check_bundle`.
    """
    spec = joint_spec([check_bundle(folder) for folder in folders])
    # The same network twice is no second opinion, and the spread would not show it.
    first_with: dict[str, Path] = {}
    for folder in folders if len(folders) > 1 else ():
        twin = first_with.setdefault(fingerprint_file(folder / WEIGHTS), folder)
        if twin is not folder:
            raise CheckpointIncompatibleError(
                f"{twin} and {folder} have the same weights", place="--model", remedy="name each model once"
            )
    return spec


def joint_spec(specs: Sequence[BundleSpec]) -> BundleSpec:
    """Return the spec of one or more models together; errors as of `Ensemble`."""
    first = specs[0]
    if len(first.class_names) != 2:
        raise CheckpointIncompatibleError(
            f"the model has classes {first.class_names}", place="class_names", remedy="use a model of two classes"
        )
    for one, other in combinations(specs, 2):  # every pair: a member for both backgrounds must hide no contradiction
        _refuse_differences(one, other)
    if len(specs) == 1:
        return first
    joint = {
        "background": next((spec.background for spec in specs if spec.background != "auto"), "auto"),
        # Each threshold is on its member's logit, the joint one on the mean of the logits over their temperatures.
        "decision_threshold": float(np.mean([spec.decision_threshold / spec.temperature for spec in specs])),
        "decision_chosen_for": ", ".join(dict.fromkeys(spec.decision_chosen_for for spec in specs)),
        "temperature": 1.0,
        "method": ", ".join(dict.fromkeys(spec.method for spec in specs)),
        "parameters": {"members": len(specs)},
        "group_metrics": {},
        "data": {},
        "seen": _seen_by_any([spec.seen for spec in specs]),
    }
    return first.model_copy(update=joint)


def _refuse_differences(one: BundleSpec, other: BundleSpec) -> None:
    """Raise if two members would cut or scale a slide differently."""
    values, others = ({**spec.contract(), "min_tissue": spec.min_tissue} for spec in (one, other))
    differing = [name for name in values if name not in _MEMBERS_OWN and values[name] != others.get(name)]
    if "auto" in (one.background, other.background):  # one of them takes slides of either kind
        differing = [name for name in differing if name != "background"]
    if differing:
        listed = "; ".join(f"{name} is {values[name]!r} and {others.get(name)!r}" for name in differing)
        raise CheckpointIncompatibleError(
            f"the members of the ensemble see different patches: {listed}",
            place="--model",
            remedy="use bundles that were trained on patches cut and scaled alike",
        )


def _seen_by_any(ranges: Sequence[SeenRange | None]) -> SeenRange | None:
    """Return the range that contains those of all members; None if a member has none."""
    known = [seen for seen in ranges if seen is not None]
    if len(known) < len(ranges):
        return None
    ends = np.array([seen.mean for seen in known])  # (M, C, 2)
    least = [seen.sharpness for seen in known if seen.sharpness is not None]
    return SeenRange(
        mean=tuple(zip(ends[:, :, 0].min(axis=0).tolist(), ends[:, :, 1].max(axis=0).tolist(), strict=True)),
        sharpness=min(least) if len(least) == len(known) else None,
        sharpness_by_tissue=_least_of_any([seen.sharpness_by_tissue for seen in known]),
    )


def _least_of_any(bins: Sequence[tuple[tuple[float, float], ...] | None]) -> tuple[tuple[float, float], ...] | None:
    """Return the least sharpness of any member from each tissue fraction on; None if a member has none."""
    tables = [np.array(table) for table in bins if table]  # (bins, 2) each
    if len(tables) < len(bins):
        return None
    starts = np.unique(np.concatenate([table[:, 0] for table in tables]))
    starts = starts[starts >= max(table[0, 0] for table in tables)]  # below it, one member saw no patches
    of_each = [table[np.searchsorted(table[:, 0], starts, side="right") - 1, 1] for table in tables]
    return tuple(zip(starts.tolist(), np.min(of_each, axis=0).tolist(), strict=True))


def _listed(channels: tuple[str, ...]) -> str:
    return f"{len(channels)} channels ({', '.join(channels)})"


def _refuse_pickles(folder: Path) -> None:
    """Refuse a pickle by its name or its first bytes, without unpickling it."""
    suspects = [folder] if folder.is_file() else sorted(folder.glob("*")) if folder.is_dir() else []
    for path in suspects:
        if path.suffix in _PICKLES or (path.suffix == ".safetensors" and _starts_like_a_pickle(path)):
            raise CheckpointUnsafeError(
                "a pickle could run code when read; it was not read",
                place=str(path),
                remedy="use a model bundle: a folder with model.safetensors and model.json",
            )


def _starts_like_a_pickle(path: Path) -> bool:
    """Return whether a file begins like a zip archive or a binary pickle, and not like safetensors."""
    with path.open("rb") as stream:
        start = stream.read(9)
    # safetensors begins with the header's length, which may look like a pickle's first bytes, and then "{".
    return start.startswith((b"PK", b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05")) and start[8:9] != b"{"


@contextmanager
def open_weights(path: Path, *, framework: Literal["pt", "numpy"]) -> Iterator[Any]:
    """Open a bundle's weights; raise missing or damaged files as errors of this package."""
    if not path.is_file():
        raise InputMissingError(f"no {path.name}", place=str(path.parent), remedy="give the folder of a model bundle")
    try:
        with safe_open(path, framework=framework) as stream:
            yield stream
    except (SafetensorError, OSError, ValueError) as error:
        raise InputCorruptError(
            f"weights cut off or damaged: {error}", place=str(path), remedy="copy the bundle again, or train again"
        ) from error
