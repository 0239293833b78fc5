"""Read files of weights, those of bundles and those that PyTorch wrote, without running code of theirs."""

from __future__ import annotations

import hashlib
import json
import pickle
import warnings
import zipfile
from collections.abc import Iterable, Iterator, Mapping
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from safetensors import SafetensorError, safe_open

from pathopatch.core.errors import (
    CheckpointIncompatibleError,
    CheckpointUnsafeError,
    InputCorruptError,
    InputMissingError,
    NonFiniteError,
)
from pathopatch.core.files import file_state
from pathopatch.core.input_files import require_regular

if TYPE_CHECKING:
    from torch import Tensor

_DTYPES = ("F32", "I64")  # by the names of safetensors
_WEIGHTS = ("weight", "bias", "running_mean", "running_var")
_WRAPPERS = ("state_dict_ema", "model_ema", "state_dict", "model", "teacher")
"""Keys under which publishers store the tensors, outer ones first; of two networks, the averaged one or the teacher."""


def weights_fingerprint(tensors: Iterable[tuple[str, bytes | memoryview]]) -> str:
    """Return the SHA-256 of tensors, sorted by name: of each its name and its bytes."""
    digest = hashlib.sha256()
    for name, content in tensors:
        digest.update(name.encode())
        digest.update(content)
    return digest.hexdigest()


def file_fingerprint(weights: Path) -> str:
    """Return `weights_fingerprint` of a safetensors file, whose header was checked before."""
    return _fingerprint_of_state(weights, file_state(weights))


@lru_cache(maxsize=64)
def _fingerprint_of_state(weights: Path, _state: tuple[int | str, ...]) -> str:
    """Return the fingerprint of a file in this state: to predict one slide, it is asked for several times."""

    def tensors() -> Iterator[tuple[str, bytes]]:
        with weights.open("rb") as stream:
            for name, (start, size) in sorted(tensor_places(weights).items()):
                stream.seek(start)
                yield name, stream.read(size)

    return weights_fingerprint(tensors())


def file_inside(folder: Path, name: str) -> Path:
    """Return a file that a model names, which must lie in its folder, links included; CheckpointUnsafeError."""
    path = folder / name
    if Path(name).is_absolute() or not path.resolve().is_relative_to(folder.resolve()):
        raise CheckpointUnsafeError(
            f"it takes {name!r}, which is outside its folder; nothing was read",
            place=str(folder),
            remedy="get the model with all its files in one folder",
        )
    require_regular(path)
    if not path.is_file():
        raise InputMissingError(f"no file {name}", place=str(folder), remedy="get the model's folder again")
    return path


def file_sha256(path: Path) -> str:
    """Return the SHA-256 of a whole file."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def require_finite(weights: Path) -> None:
    """Refuse weights that are NaN or infinite, or neither float32 nor int64, as counters of batches are."""
    with safe_open(weights, framework="numpy") as stream:
        for name in stream.keys():  # noqa: SIM118
            if (dtype := stream.get_slice(name).get_dtype()) not in _DTYPES:
                raise CheckpointIncompatibleError(
                    f"weights of {name} are {dtype}, bundles have float32",
                    place=str(weights),
                    remedy="store them as float32, or use a bundle that pathopatch wrote",
                )
            if not np.isfinite(stream.get_tensor(name)).all():
                raise NonFiniteError(
                    f"weights of {name} are NaN or infinite", place=str(weights), remedy="get or make the model anew"
                )


def tensor_places(weights: Path) -> dict[str, tuple[int, int]]:
    """Return first byte and number of bytes of each tensor of a safetensors file, by name."""
    with weights.open("rb") as stream:
        header_bytes = int.from_bytes(stream.read(8), "little")
        header = json.loads(stream.read(header_bytes))
    start = 8 + header_bytes
    return {
        name: (start + entry["data_offsets"][0], entry["data_offsets"][1] - entry["data_offsets"][0])
        for name, entry in header.items()
        if name != "__metadata__"
    }


def read_weights(path: Path) -> dict[str, Tensor]:
    """Return the tensors of a file of weights by name, on the processor; no code of the file is run.

    Safetensors, or a pickle of tensors, which may lie one or more levels below a key such as ``state_dict``.
    """
    import torch
    from safetensors.torch import load_file

    require_regular(path)
    if not path.is_file():
        raise InputMissingError(f"no file of weights {path.name}", place=str(path), remedy="check the path")
    with path.open("rb") as stream:  # caches of downloads name files by their hash alone
        is_header = stream.read(9)[8:] == b"{"
    if path.suffix == ".safetensors" or is_header:
        try:
            return _of_plain_numbers(load_file(path), path)
        except (SafetensorError, OSError) as error:
            raise InputCorruptError(
                f"not readable weights: {error}", place=str(path), remedy="fetch the file again"
            ) from error
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Detected pickle protocol")  # weights_only refuses what is unsafe
            raw: Any = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise CheckpointUnsafeError(
            "the file holds more than tensors, and reading it could run code; nothing was run",
            place=str(path),
            remedy="store weights as safetensors",
        ) from error
    except (RuntimeError, EOFError, ValueError, OSError, zipfile.BadZipFile) as error:
        raise InputCorruptError(
            f"not a readable file of tensors: {error}", place=str(path), remedy="copy or fetch the file again"
        ) from error
    for key in _WRAPPERS:
        if isinstance(raw, Mapping) and isinstance(raw.get(key), Mapping):
            raw = raw[key]
    if not isinstance(raw, Mapping) or not all(isinstance(value, torch.Tensor) for value in raw.values()):
        raise CheckpointIncompatibleError(
            "not a dictionary of tensors by name", place=str(path), remedy="store the network's state_dict()"
        )
    return _of_plain_numbers(raw, path)


def _of_plain_numbers(tensors: Mapping[str, Tensor], path: Path) -> dict[str, Tensor]:
    """Return tensors by name; refuse what means nothing as float32: complex or quantised numbers, and whole weights."""
    for name, value in tensors.items():
        is_weight = name.rpartition(".")[2] in _WEIGHTS  # others may count, or be indices
        is_quantised = value.element_size() == 1 and str(value.dtype) != "torch.bool"
        if value.is_complex() or is_quantised or (is_weight and not value.is_floating_point()):
            raise CheckpointIncompatibleError(
                f"weights of {name} are {str(value.dtype).removeprefix('torch.')}",
                place=str(path),
                remedy="store them as float32, float16 or bfloat16",
            )
    return dict(tensors)
