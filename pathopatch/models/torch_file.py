"""Read files that PyTorch wrote, without running code of theirs."""

from __future__ import annotations

import pickle
import warnings
import zipfile
from pathlib import Path
from typing import Any

from pathopatch.core.errors import CheckpointUnsafeError, InputCorruptError, InputMissingError, InputTooLargeError


def read_torch_file(path: Path, *, mapped: bool = False) -> Any:
    """Return what a file holds, on the processor.

    `mapped` leaves the tensors in the file until they are used, where its format allows it.

    Raises
    ------
    InputMissingError, InputCorruptError
        There is no such file, or it cannot be read.
    InputTooLargeError
        It inflates, as no file that PyTorch writes.
    CheckpointUnsafeError
        It is a pickle of more than tensors.
    """
    import torch

    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Detected pickle protocol")  # weights_only refuses what is unsafe
            is_archive = zipfile.is_zipfile(path)
            if is_archive:
                _require_unpacked(path)
            is_mapped = mapped and is_archive
            return torch.load(path, map_location="cpu", weights_only=True, mmap=is_mapped)
    except FileNotFoundError as error:
        raise InputMissingError(f"no file {path.name}", place=str(path), remedy="check the path") from error
    except pickle.UnpicklingError as error:
        raise CheckpointUnsafeError(
            "the file holds more than tensors, and reading it could run code; nothing was run",
            place=str(path),
            remedy="store weights as safetensors, and features as HDF5, npz or a plain tensor",
        ) from error
    except InputTooLargeError:
        raise
    except (RuntimeError, EOFError, ValueError, OSError, zipfile.BadZipFile) as error:
        raise InputCorruptError(
            f"not a readable file of tensors: {error}", place=str(path), remedy="copy or fetch the file again"
        ) from error


def _require_unpacked(path: Path) -> None:
    """Refuse an archive whose tensors are packed, and may inflate to a thousand times its size."""
    with zipfile.ZipFile(path) as archive:
        inflated_bytes = sum(entry.file_size for entry in archive.infolist())
    if inflated_bytes > path.stat().st_size:
        raise InputTooLargeError(
            f"it inflates from {path.stat().st_size} to {inflated_bytes} bytes",
            place=str(path),
            remedy="store it again by torch.save, which packs nothing",
        )
