"""Store trained models as folders of safetensors, JSON and a model card, and read them safely.

The header of the weights repeats their contract: channels and their order, classes, scaling, sizes. A bundle whose
``model.json`` differs from it is refused, since a network fed with other channels returns wrong numbers without an
error. The checks do without torch. A bundle may come from a stranger: what it claims is bounded and compared before
memory is taken for it.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError
from safetensors import SafetensorError, safe_open

from pathopatch.core.artefacts import fingerprint_file
from pathopatch.core.errors import (
    CheckpointIncompatibleError,
    CheckpointUnsafeError,
    InputCorruptError,
    InputMissingError,
    with_code,
)
from pathopatch.core.files import atomic_path, read_json, remove, temporary_path, write_json
from pathopatch.models.card import model_card
from pathopatch.models.spec import BUNDLE_VERSION, BundleSpec, joint_spec

if TYPE_CHECKING:
    from torch import Tensor, nn

    from pathopatch.models.forward import Ensemble, PatchClassifier

WEIGHTS, SPEC = "model.safetensors", "model.json"
_CARD = "README.md"
# A single key of the weights' header: safetensors orders several at random, so that equal models had other bytes.
_HEADER = "pathopatch"
_MOST_SPEC_BYTES = 2**20  # the largest have some thousand marks of slides: 70 kB
_MOST_HEADER_BYTES = 2**24  # a network of a thousand layers needs 200 kB
_MOST_LEVELS = 32  # of nested values
_SHOWN_LINES = 5  # of an error's text
_OS_ERROR = re.compile(r"\(os error (\d+)\)")  # as safetensors passes it on
_PICKLES = (".pt", ".pth", ".pkl", ".pickle", ".ckpt", ".bin", ".joblib")
# What constructors of networks raise for numbers that do not go together.
_NETWORK_ERRORS = (ArithmeticError, AssertionError, AttributeError, LookupError, RuntimeError, TypeError, ValueError)
_PICKLE_STARTS = (b"PK", b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05")


def save_bundle(folder: Path, network: nn.Module, spec: BundleSpec) -> None:
    """Write a bundle as a whole: weights, ``model.json`` and a model card. Equal models give equal bytes.

    An earlier bundle in the folder is replaced; on a full disk (`DiskFullError`) it is untouched. `network` is as
    `build_network` made it for ``spec.architecture``.
    """
    import torch

    # Contiguous and in one memory format, so that equal models give equal bytes.
    tensors = {
        name: value.detach().to("cpu", memory_format=torch.contiguous_format).contiguous().clone()
        for name, value in network.state_dict().items()
    }
    header = {_HEADER: json.dumps(spec.contract(), sort_keys=True)}
    with atomic_path(folder) as temporary:
        temporary.mkdir(parents=True)
        write_tensors(temporary / WEIGHTS, tensors, header)
        write_json(temporary / SPEC, spec.model_dump(mode="json"))
        (temporary / _CARD).write_text(model_card(spec), encoding="utf-8")


def write_tensors(path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> None:
    """Write tensors, sorted by name, as a safetensors file with the permissions of any new file there.

    Raises
    ------
    OSError
        As of any file that cannot be written.
    """
    from safetensors.torch import save_file

    # safetensors writes under a name of its own, which only its user may read and which a killed process leaves:
    # so it writes into a folder that `clean` knows, and the file takes the permissions of a new one.
    folder = temporary_path(path)
    folder.mkdir()
    try:
        file = folder / path.name
        file.touch()
        mode = file.stat().st_mode
        save_file(dict(sorted(tensors.items())), file, metadata=dict(metadata))
        file.chmod(mode)
        file.replace(path)
    except SafetensorError as error:
        number = _OS_ERROR.search(str(error))
        if number is None:
            raise
        raise OSError(int(number[1]), os.strerror(int(number[1])), str(path)) from error
    finally:
        remove(folder)


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
        A bundle of another version, one whose ``model.json`` and weights contradict each other, or something else.
    """
    from safetensors.torch import load_file

    from pathopatch.models.forward import PatchClassifier, pick_device
    from pathopatch.models.networks import build_network, network_shapes

    folder = Path(folder)
    spec, shapes = _checked(folder)
    form: dict[str, Any] = {
        "n_classes": len(spec.class_names),
        "input_px": spec.input_px,
        "is_masked": spec.mask == "normalise",
    }
    try:
        # A small bundle may name a network of billions of weights: nothing is allocated for one that does not fit.
        _refuse_other_shapes(shapes, network_shapes(spec.architecture, len(spec.channels), **form))
        network = build_network(spec.architecture, len(spec.channels), **form)
        network.load_state_dict(load_file(folder / WEIGHTS))
    except _NETWORK_ERRORS as error:
        raise CheckpointIncompatibleError(
            f"the weights are not those of {spec.architecture!r}: {error}",
            place=str(folder),
            remedy="restore the bundle's files together, or train again",
        ) from error
    return PatchClassifier(spec, network, pick_device(device), precision)


def _refuse_other_shapes(shapes: Mapping[str, tuple[int, ...]], expected: Mapping[str, tuple[int, ...]]) -> None:
    """Raise ValueError if weights have other names or shapes than their network's."""
    differences = [
        f"{name} is {shapes.get(name, 'missing')}, expected {expected.get(name, 'none')}"
        for name in dict.fromkeys((*expected, *shapes))
        if shapes.get(name) != expected.get(name)
    ]
    if differences:
        raise ValueError(_first_of(differences))


def _first_of(lines: Sequence[str]) -> str:
    """Return the first lines of an error as one text, and how many there are beside."""
    more = [f"and {len(lines) - _SHOWN_LINES} more"] if len(lines) > _SHOWN_LINES else []
    return "; ".join([*lines[:_SHOWN_LINES], *more])


def load_ensemble(folders: Sequence[Path], *, device: str = "auto", precision: str = "auto") -> Ensemble:
    """Return the models of one or more bundles; arguments and errors are those of `load_model` and `check_bundles`."""
    from pathopatch.models.forward import Ensemble

    check_bundles(folders)
    return Ensemble([load_model(folder, device=device, precision=precision) for folder in folders])


def check_bundle(folder: Path) -> BundleSpec:
    """Return a bundle's ``model.json`` after comparing it with the header of its weights; errors as `load_model`."""
    return _checked(folder)[0]


def _checked(folder: Path) -> tuple[BundleSpec, dict[str, tuple[int, ...]]]:
    """Return a bundle's ``model.json`` and the shapes of its weights, after comparing it with their header."""
    _refuse_pickles(folder)
    spec = read_spec(folder)
    weights = folder / WEIGHTS
    if not weights.is_file():
        raise InputMissingError(f"no {WEIGHTS}", place=str(folder), remedy="give the folder of a model bundle")
    header, shapes = _read_header(weights)
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
            f"{SPEC} does not fit {WEIGHTS}: {_first_of(differences)}",
            place=str(folder),
            remedy="restore both files of the bundle together, or train again",
        )
    return spec, shapes


def _read_header(weights: Path) -> tuple[dict[str, Any], dict[str, tuple[int, ...]]]:
    """Return the contract that the header of a bundle's weights repeats, and the shape of each tensor by its name."""
    try:
        str(weights).encode()
    except UnicodeEncodeError as error:  # safetensors opens no such file
        raise with_code(error, place=ascii(str(weights))) from error
    size = weights.stat().st_size
    with weights.open("rb") as stream:
        header_bytes = int.from_bytes(stream.read(8), "little")
    if size < 8 or size < 8 + header_bytes <= 8 + _MOST_HEADER_BYTES:
        raise _cut_off(weights, f"{size} bytes, its header has {header_bytes}")
    if header_bytes > _MOST_HEADER_BYTES:
        raise _other_header(weights, f"it has {header_bytes} bytes, {_MOST_HEADER_BYTES} at most")
    try:
        with safe_open(weights, framework="numpy") as stream:
            contract = json.loads((stream.metadata() or {}).get(_HEADER) or "{}")
            shapes = {name: tuple(stream.get_slice(name).get_shape()) for name in stream.keys()}  # noqa: SIM118
    except SafetensorError as error:
        if "incomplete" in str(error):  # the header is whole, the tensors are not
            raise _cut_off(weights, str(error)) from error
        raise _other_header(weights, str(error)) from error
    except (ValueError, RecursionError) as error:
        raise _other_header(weights, str(error)) from error
    if not isinstance(contract, dict) or _is_deeper(contract, _MOST_LEVELS):
        raise _other_header(weights, "its contract is no JSON object, or nested too deeply")
    return contract, shapes


def _cut_off(weights: Path, problem: str) -> InputCorruptError:
    return InputCorruptError(
        f"weights cut off or damaged: {problem}",
        place=str(weights),
        remedy="copy the bundle again, or train again",
    )


def _other_header(weights: Path, problem: str) -> CheckpointIncompatibleError:
    return CheckpointIncompatibleError(
        f"not the header of a bundle's weights: {problem}",
        place=str(weights),
        remedy="copy the bundle again, or train again",
    )


def _is_deeper(value: object, levels: int) -> bool:
    """Return whether plain values are nested more than so many levels deep."""
    below = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return bool(below) and (levels == 0 or any(_is_deeper(item, levels - 1) for item in below))


def read_spec(folder: Path) -> BundleSpec:
    """Return a bundle's ``model.json``.

    Raises
    ------
    InputMissingError
        There is none.
    CheckpointIncompatibleError
        It is something else or of another version, or a value is unknown, missing or out of range.
    """
    _refuse_other_kinds(folder)
    place = str(folder / SPEC)
    try:
        raw = read_json(folder / SPEC)
    except InputMissingError as error:
        raise InputMissingError(
            f"no file {SPEC}", place=place, remedy="give the folder of a model bundle, such as WORK/runs/NAME/model"
        ) from error
    except InputCorruptError as error:
        raise CheckpointIncompatibleError(
            error.message, place=place, remedy="restore the file, or train again"
        ) from error
    version = raw.get("schema_version")
    if version != BUNDLE_VERSION:
        raise CheckpointIncompatibleError(
            f"bundle version {version!r}, this program reads {BUNDLE_VERSION}",
            place=place,
            remedy="run pathopatch train WORK --force to make it anew, or use the version of pathopatch that wrote it",
        )
    if _is_deeper(raw, _MOST_LEVELS):
        raise CheckpointIncompatibleError(
            "not a valid bundle: nested too deeply", place=place, remedy="restore the file, or train again"
        )
    try:
        return BundleSpec.model_validate(raw)
    except ValidationError as error:
        lines = [
            f"{'.'.join(str(part) for part in item['loc']) or 'bundle'}: {item['msg']}"
            for item in error.errors(include_url=False)
        ]
        raise CheckpointIncompatibleError(
            f"not a valid bundle: {_first_of(lines)}", place=place, remedy="restore the file, or train again"
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


def _refuse_other_kinds(folder: Path) -> None:
    """Refuse what only looks like a bundle: a FIFO would block its reader for ever, a link loop leads nowhere."""
    is_of_kind = {folder: Path.is_dir, folder / SPEC: Path.is_file, folder / WEIGHTS: Path.is_file}
    for path, is_kind in is_of_kind.items():
        if os.path.lexists(path) and not is_kind(path):
            raise CheckpointIncompatibleError(
                f"{path.name} is not a {'folder' if path is folder else 'file'}",
                place=str(path),
                remedy="give the folder of a model bundle, such as WORK/runs/NAME/model",
            )
    spec = folder / SPEC
    if spec.is_file() and spec.stat().st_size > _MOST_SPEC_BYTES:
        raise CheckpointIncompatibleError(
            f"{spec.stat().st_size} bytes, {_MOST_SPEC_BYTES} at most",
            place=str(spec),
            remedy="give the folder of a model bundle",
        )


def _refuse_pickles(folder: Path) -> None:
    """Refuse a pickle by its name or its first bytes, without unpickling it."""
    suspects = [folder] if folder.is_file() else sorted(folder.glob("*")) if folder.is_dir() else []
    for path in suspects:
        is_pickle = path.suffix in _PICKLES
        if path.suffix == ".safetensors" and path.is_file():  # to open a FIFO would block
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
