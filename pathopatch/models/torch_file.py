"""Read files that PyTorch wrote, without running code of theirs."""

from __future__ import annotations

import pickle
import warnings
import zipfile
from pathlib import Path
from typing import Any

from pathopatch.core.errors import CheckpointUnsafeError, InputCorruptError, InputMissingError


def read_torch_file(path: Path, *, mapped: bool = False) -> Any:
    """Return what a file holds, on the processor.

    `mapped` leaves the tensors in the file until they are used, where its format allows it.

    Raises
    ------
    InputMissingError, InputCorruptError
        There is no such file, or it cannot be read.
    CheckpointUnsafeError
        It is a pickle of more than tensors.
    """
    import torch

    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Detected pickle protocol")  # weights_only refuses what is unsafe
            is_mapped = mapped and zipfile.is_zipfile(path)
            return torch.load(path, map_location="cpu", weights_only=True, mmap=is_mapped)
    except FileNotFoundError as error:
        raise InputMissingError(f"no file {path.name}", place=str(path), remedy="check the path") from error
    except pickle.UnpicklingError as error:
        raise CheckpointUnsafeError(
            "the file holds more than tensors, and reading it could run code; nothing was run",
            place=str(path),
            remedy="store weights as safetensors, and features as HDF5, npz or a plain tensor",
        ) from error
    except (RuntimeError, EOFError, ValueError, OSError) as error:
        raise InputCorruptError(
            f"not a readable file of tensors: {error}", place=str(path), remedy="copy or fetch the file again"
        ) from error
