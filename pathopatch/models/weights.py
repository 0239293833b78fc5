"""The weights of a bundle as they are stored: their places, their fingerprint, and whether they are finite."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
from safetensors import safe_open

from pathopatch.core.errors import CheckpointIncompatibleError, NonFiniteError

_DTYPES = ("F32", "I64")  # by the names of safetensors


def weights_fingerprint(tensors: Iterable[tuple[str, bytes | memoryview]]) -> str:
    """Return the SHA-256 of tensors, sorted by name: of each its name and its bytes."""
    digest = hashlib.sha256()
    for name, content in tensors:
        digest.update(name.encode())
        digest.update(content)
    return digest.hexdigest()


def file_fingerprint(weights: Path) -> str:
    """Return `weights_fingerprint` of a safetensors file, whose header was checked before."""
    return weights_fingerprint(_tensors(weights))


def file_sha256(path: Path) -> str:
    """Return the SHA-256 of a whole file."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def require_finite(weights: Path) -> None:
    """Refuse a safetensors file with a weight that is NaN or infinite, or of a type that no bundle has.

    Raises
    ------
    NonFiniteError
        The first tensor with such a weight is named.
    CheckpointIncompatibleError
        A tensor is neither float32 nor int64, as counters of batches are.
    """
    with safe_open(weights, framework="numpy") as stream:
        for name in stream.keys():  # noqa: SIM118
            if (dtype := stream.get_slice(name).get_dtype()) not in _DTYPES:
                raise CheckpointIncompatibleError(
                    f"weights of {name} are {dtype}, bundles have float32",
                    place=str(weights),
                    remedy="use a bundle that pathopatch wrote",
                )
            if not np.isfinite(stream.get_tensor(name)).all():
                raise NonFiniteError(
                    f"weights of {name} are NaN or infinite", place=str(weights), remedy="train the model again"
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


def _tensors(weights: Path) -> Iterator[tuple[str, bytes]]:
    places = tensor_places(weights)
    with weights.open("rb") as stream:
        for name, (start, size) in sorted(places.items()):
            stream.seek(start)
            yield name, stream.read(size)
