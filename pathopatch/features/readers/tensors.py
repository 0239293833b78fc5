"""Read features that PyTorch or numpy wrote, without running code of the file."""

from __future__ import annotations

import math
import zipfile
import zlib
from collections.abc import Collection
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
from pathopatch.features.readers.h5 import as_features
from pathopatch.features.readers.stored_size import require_stored
from pathopatch.models.weights import read_torch_file

_SAFE = "store the features as HDF5, npz or a plain tensor"


def read_tensor(path: Path, with_features: bool) -> tuple[NDArray[Any], int]:
    """Return the features (N, D) of a tensor, and D; (N, 0) without features.

    InputUnsupportedError if PyTorch is not installed, or the file does not hold one tensor (N, D); else as
    `read_torch_file` and `require_stored`.
    """
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
    if tensor.ndim != 2:
        raise InputUnsupportedError(
            f"a tensor of the shape {tuple(tensor.shape)}, not one vector per patch",
            place=str(path),
            remedy="use the features of the patches",
        )
    if tensor.layout != torch.strided or tensor.device.type != "cpu":
        raise InputUnsupportedError("a tensor without its values, or a sparse one", place=str(path), remedy=_SAFE)
    # An expanded tensor repeats one row without storing it again.
    require_stored("the tensor", tensor.numel() * tensor.element_size(), tensor.untyped_storage().nbytes(), path)
    count, dim = tensor.shape
    if not with_features:
        return np.empty((count, 0), np.float32), dim
    if tensor.dtype == torch.bfloat16:  # numpy has none
        tensor = tensor.float()
    return as_features(tensor.numpy(), str(path)).copy(), dim


def read_npz(path: Path, names: tuple[str, ...]) -> dict[str, NDArray[Any]]:
    """Return those arrays of an npz file that it holds.

    CheckpointUnsafeError if an array is pickled; InputMissingError, InputCorruptError if the file cannot be read.
    """
    try:
        npz_shapes(path, names)  # refuses what claims too much
        # Opened here: numpy does not close a file that turns out to be damaged.
        with path.open("rb") as stream, np.load(stream, allow_pickle=False) as arrays:
            return {name: arrays[name] for name in names if name in arrays.files}
    except PathopatchError:
        raise
    except ValueError as error:
        if "pickle" in str(error):
            raise CheckpointUnsafeError(
                "an array of the file is pickled, and reading it could run code; nothing was run",
                place=str(path),
                remedy=_SAFE,
            ) from error
        raise InputCorruptError(f"not a readable npz: {error}", place=str(path), remedy="copy it again") from error
    except (OSError, EOFError, zipfile.BadZipFile, zlib.error, KeyError, AttributeError, TypeError) as error:
        # The last two: a single array in place of several.
        raise InputCorruptError(f"not a readable npz: {error}", place=str(path), remedy="copy it again") from error


def npz_shapes(path: Path, names: Collection[str] | None = None) -> dict[str, tuple[int, ...]]:
    """Return the shape of each array of an npz file, or of those that are named, from their heads alone.

    InputMissingError if there is no such file, InputCorruptError if it is cut off or an array has not the size that its
    head states, InputTooLargeError as of `require_stored`.
    """
    shapes: dict[str, tuple[int, ...]] = {}
    heads = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
    try:
        with zipfile.ZipFile(path) as archive:
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
    except InputTooLargeError:
        raise
    except FileNotFoundError as error:
        raise InputMissingError(f"no file {path.name}", place=str(path), remedy="check the path") from error
    except (OSError, ValueError, EOFError, zipfile.BadZipFile, zlib.error, KeyError) as error:
        raise InputCorruptError(f"not a readable npz: {error}", place=str(path), remedy="copy it again") from error
    return shapes
