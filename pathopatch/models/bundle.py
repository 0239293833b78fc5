"""Store trained models as folders of safetensors, JSON and a model card, and read them safely.

The header of the weights repeats their contract: channels and their order, classes, scaling, sizes. A bundle whose
``model.json`` differs from it is refused, since a network fed with other channels returns wrong numbers without an
error. The checks do without torch.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import ValidationError
from safetensors import SafetensorError, safe_open

from pathopatch.core.artefacts import fingerprint_file
from pathopatch.core.errors import (
    CheckpointIncompatibleError,
    CheckpointUnsafeError,
    InputCorruptError,
    InputMissingError,
    InputUnsupportedError,
)
from pathopatch.core.files import atomic_path, read_json, write_json
from pathopatch.models.card import model_card
from pathopatch.models.spec import BUNDLE_VERSION, BundleSpec, joint_spec

if TYPE_CHECKING:
    from torch import nn

    from pathopatch.models.forward import Ensemble, PatchClassifier

WEIGHTS, SPEC = "model.safetensors", "model.json"
_CARD = "README.md"
# A single key of the weights' header: safetensors orders several at random, so that equal models had other bytes.
_HEADER = "pathopatch"
_PICKLES = (".pt", ".pth", ".pkl", ".pickle", ".ckpt", ".bin", ".joblib")
_PICKLE_STARTS = (b"PK", b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05")


def save_bundle(folder: Path, network: nn.Module, spec: BundleSpec) -> None:
    """Write a bundle as a whole: weights, ``model.json`` and a model card. Equal models give equal bytes.

    An earlier bundle in the folder is replaced; on a full disk (`DiskFullError`) it is untouched. `network` is as
    `build_network` made it for ``spec.architecture``.
    """
    import torch
    from safetensors.torch import save_file

    # Sorted, contiguous and in one memory format, so that equal models give equal bytes.
    tensors = {
        name: value.detach().to("cpu", memory_format=torch.contiguous_format).contiguous().clone()
        for name, value in sorted(network.state_dict().items())
    }
    header = {_HEADER: json.dumps(spec.contract(), sort_keys=True)}
    with atomic_path(folder) as temporary:
        temporary.mkdir(parents=True)
        save_file(tensors, temporary / WEIGHTS, metadata=header)
        write_json(temporary / SPEC, spec.model_dump(mode="json"))
        (temporary / _CARD).write_text(model_card(spec), encoding="utf-8")


def load_model(folder: Path | str, *, device: str = "auto", precision: str = "auto") -> PatchClassifier:
    """Return the model of a bundle, ready to predict. No code of the bundle is run.

    Parameters
    ----------
    folder : Path or str
        The bundle.
    device, precision : str
        See `pick_device` and `pick_precision`.

    Raises
    ------
    InputMissingError
        There is no bundle, or a part of it is missing.
    InputCorruptError
        The weights are cut off or damaged.
    CheckpointUnsafeError
        A pickle (``.pt``, ``.pth`` and so on), which could run code when read.
    CheckpointIncompatibleError
        A bundle of another version, or one whose ``model.json`` and weights contradict each other.
    """
    from safetensors.torch import load_file

    from pathopatch.models.forward import PatchClassifier, pick_device
    from pathopatch.models.networks import build_network

    folder = Path(folder)
    spec = check_bundle(folder)
    try:
        network = build_network(
            spec.architecture, len(spec.channels), n_classes=len(spec.class_names), input_px=spec.input_px
        )
        network.load_state_dict(load_file(folder / WEIGHTS))
    except (RuntimeError, InputUnsupportedError) as error:
        raise CheckpointIncompatibleError(
            f"the weights are not those of {spec.architecture!r}: {error}",
            place=str(folder),
            remedy="restore the bundle's files together, or train again",
        ) from error
    return PatchClassifier(spec, network, pick_device(device), precision)


def load_ensemble(folders: Sequence[Path], *, device: str = "auto", precision: str = "auto") -> Ensemble:
    """Return the models of one or more bundles; arguments and errors are those of `load_model` and `check_bundles`."""
    from pathopatch.models.forward import Ensemble

    check_bundles(folders)
    return Ensemble([load_model(folder, device=device, precision=precision) for folder in folders])


def check_bundle(folder: Path) -> BundleSpec:
    """Return a bundle's ``model.json`` after comparing it with the header of its weights; errors as `load_model`."""
    _refuse_pickles(folder)
    spec = read_spec(folder)
    weights = folder / WEIGHTS
    if not weights.is_file():
        raise InputMissingError(f"no {WEIGHTS}", place=str(folder), remedy="give the folder of a model bundle")
    try:
        with safe_open(weights, framework="numpy") as stream:
            header = json.loads((stream.metadata() or {}).get(_HEADER) or "{}")
    except (SafetensorError, OSError, ValueError) as error:
        raise InputCorruptError(
            f"weights cut off or damaged: {error}", place=str(weights), remedy="copy the bundle again, or train again"
        ) from error
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
    InputMissingError, InputCorruptError
        There is none, or it is not JSON.
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


def check_bundles(folders: Sequence[Path]) -> BundleSpec:
    """Return the joint spec of one or more bundles, before any weights are read; errors as `load_model` and `Ensemble`.

    Two bundles with the same weights are refused too, with `CheckpointIncompatibleError`.
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


def _refuse_pickles(folder: Path) -> None:
    """Refuse a pickle by its name or its first bytes, without unpickling it."""
    suspects = [folder] if folder.is_file() else sorted(folder.glob("*")) if folder.is_dir() else []
    for path in suspects:
        is_pickle = path.suffix in _PICKLES
        if path.suffix == ".safetensors":
            with path.open("rb") as stream:
                start = stream.read(9)
            # A zip archive or a binary pickle. safetensors begins with the header's length, which may look like a
            # pickle's first bytes, and then "{".
            is_pickle = start.startswith(_PICKLE_STARTS) and start[8:9] != b"{"
        if is_pickle:
            raise CheckpointUnsafeError(
                "a pickle could run code when read; it was not read",
                place=str(path),
                remedy="use a model bundle: a folder with model.safetensors and model.json",
            )
