"""Read features that PyTorch or NumPy wrote, without running code of the file or taking memory for mere claims."""

from __future__ import annotations

import math
import zipfile
import zlib
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pathopatch.core.errors import (
    INSTALL_TRAINING,
    CheckpointUnsafeError,
    InputCorruptError,
    InputMissingError,
    InputTooLargeError,
    InputUnsupportedError,
    PathopatchError,
)
from pathopatch.models.weights import read_torch_file

_SAFE = "store the features as HDF5, npz or a plain tensor"
# Features are packed to a fifth at best, regular positions to a hundredth: 64 MiB are those of four million patches.
_MOST_RATIO, _SPARE_BYTES = 100, 64 * 2**20


def require_stored(name: str, claimed_bytes: int, stored_bytes: int, path: Path) -> None:
    """Refuse an array of a file that claims over a hundred times what is stored of it: InputTooLargeError."""
    stored_bytes = min(stored_bytes, path.stat().st_size)
    if claimed_bytes > max(_SPARE_BYTES, _MOST_RATIO * stored_bytes):
        raise InputTooLargeError(
            f"{name} claims {claimed_bytes} bytes, and {stored_bytes} are stored",
            place=str(path),
            remedy="copy the file again, or extract the features of this slide again",
        )


def as_features(values: NDArray[Any], place: str) -> NDArray[Any]:
    """Return features as float16 where they are stored so, else as float32; InputUnsupportedError for whole numbers."""
    if values.dtype.kind == "V" and values.dtype.itemsize == 2:
        # numpy has no bfloat16, and h5py returns its two bytes: the upper half of a float32.
        return (values.view(np.uint16).astype(np.uint32) << 16).view(np.float32)
    if values.dtype.kind != "f":
        raise InputUnsupportedError(
            f"features of the type {values.dtype}", place=place, remedy="store them as float16 or float32"
        )
    return values if values.dtype == np.float16 else values.astype(np.float32, copy=False)


def rows_and_dim(item: str, shape: tuple[int, ...] | None, place: str) -> tuple[int, int]:
    """Return N and D of features; InputUnsupportedError if they are not (N, D)."""
    if shape is None or len(shape) != 2:
        raise InputUnsupportedError(
            f"{item} of the shape {shape}, not one vector per patch",
            place=place,
            remedy="use the features of the patches",
        )
    return shape[0], shape[1]


def read_vectors(path: Path, with_features: bool) -> tuple[NDArray[Any], int]:
    """Return the features (N, D) of a tensor or an npz file, and D; (N, 0) without features.

    InputUnsupportedError if they are not (N, D), or a tensor is read without PyTorch; InputTooLargeError as of
    `require_stored`; else as `read_torch_file` and `read_npz`.
    """
    if path.suffix != ".npz":
        return _read_tensor(path, with_features)
    count, dim = rows_and_dim("features", npz_shapes(path, ("features",)).get("features"), str(path))
    if not with_features:
        return np.empty((count, 0), np.float32), dim
    return as_features(read_npz(path, ("features",))["features"], str(path)), dim


def _read_tensor(path: Path, with_features: bool) -> tuple[NDArray[Any], int]:
    try:
        import torch
    except ModuleNotFoundError as error:
        raise InputUnsupportedError(
            "features of the format .pt are read with torch, which is not installed",
            place=str(path),
            remedy=INSTALL_TRAINING,
        ) from error
    tensor = read_torch_file(path, mapped=True)  # without features only the shape is read
    if not isinstance(tensor, torch.Tensor):
        raise InputUnsupportedError(
            f"it holds a {type(tensor).__name__}, not one tensor", place=str(path), remedy=_SAFE
        )
    if tensor.ndim == 1 and not tensor.numel():
        return np.empty((0, 0), np.float32), 0
    count, dim = rows_and_dim("a tensor", tuple(tensor.shape), str(path))
    if tensor.layout != torch.strided or tensor.device.type != "cpu":
        raise InputUnsupportedError("a tensor without its values, or a sparse one", place=str(path), remedy=_SAFE)
    # An expanded tensor repeats one row without storing it again.
    require_stored("the tensor", tensor.numel() * tensor.element_size(), tensor.untyped_storage().nbytes(), path)
    if not with_features:
        return np.empty((count, 0), np.float32), dim
    if tensor.dtype == torch.bfloat16:  # numpy has none
        tensor = tensor.float()
    return as_features(tensor.numpy(), str(path)).copy(), dim


def read_npz(path: Path, names: Collection[str]) -> dict[str, NDArray[Any]]:
    """Return those arrays of an npz file that it holds; CheckpointUnsafeError if one is pickled; see `npz_shapes`."""
    npz_shapes(path, names)  # refuses what claims too much
    # Opened here: numpy does not close a file that turns out to be damaged.
    with _npz_errors(path), path.open("rb") as stream, np.load(stream, allow_pickle=False) as arrays:
        return {name: arrays[name] for name in names if name in arrays.files}


def npz_shapes(path: Path, names: Collection[str] | None = None) -> dict[str, tuple[int, ...]]:
    """Return the shape of each array of an npz file, or of those that are named, from their heads alone.

    InputMissingError if there is no such file, InputCorruptError if it is cut off or an array has not the size that its
    head states, InputTooLargeError as of `require_stored`.
    """
    shapes: dict[str, tuple[int, ...]] = {}
    heads = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
    with _npz_errors(path), zipfile.ZipFile(path) as archive:
        for entry in archive.infolist():
            name = entry.filename.removesuffix(".npy")
            if names is not None and name not in names:
                continue
            require_stored(name, entry.file_size, entry.compress_size, path)
            with archive.open(entry) as stream:
                shape, _, dtype = heads[np.lib.format.read_magic(stream)](stream)
            if not dtype.hasobject and math.prod(shape) * dtype.itemsize > entry.file_size:
                raise ValueError(f"{name} claims the shape {shape}, and {entry.file_size} bytes are stored")
            shapes[name] = shape
    return shapes


@contextmanager
def _npz_errors(path: Path) -> Iterator[None]:
    """Raise the errors of zipfile and NumPy as ours."""
    try:
        yield
    except PathopatchError:
        raise
    except FileNotFoundError as error:
        raise InputMissingError(f"no file {path.name}", place=str(path), remedy="check the path") from error
    except (OSError, LookupError, EOFError, ValueError, zipfile.BadZipFile, zlib.error, AttributeError, TypeError) as e:
        # The last two: a single array in place of several.
        if isinstance(e, ValueError) and "pickle" in str(e):
            problem = "an array of the file is pickled, and reading it could run code; nothing was run"
            raise CheckpointUnsafeError(problem, place=str(path), remedy=_SAFE) from e
        raise InputCorruptError(f"not a readable npz: {e}", place=str(path), remedy="copy it again") from e
