"""What does one level of an OME-Zarr image say of its array? Shape, chunks, type and codecs, of Zarr v2 and v3.

Each number is checked before anything is allocated for it; no pixel is read.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

import numpy as np

from pathopatch.core.errors import InputTooLargeError
from pathopatch.slides.omezarr_json import corrupt, read_object, unsupported
from pathopatch.slides.resolution import DTYPES

_MAX_CHUNK_BYTES = 2**30  # one chunk is decoded as a whole
_MAX_COMPRESSION = 100_000  # bytes of pixels per byte on disk
_HARMLESS_BYTES = 2**30  # blank chunks need not be stored, so a small empty image may have next to no bytes
_CODECS = {
    "zarr": {"blosc", "bz2", "gzip", "zlib", "zstd"},
    "zarr3": {"blosc", "bytes", "crc32c", "gzip", "sharding_indexed", "transpose", "zstd"},
}


@dataclass(frozen=True)
class ZarrArray:
    """One level's array, as its metadata describe it.

    Parameters
    ----------
    folder : Path
        Where it lies.
    driver : str
        Tensorstore's name of the format: ``zarr`` (v2) or ``zarr3``.
    shape, chunks : tuple of int
        Along the image's axes; of a sharded array, the chunks inside the shards.
    dtype : dtype
        Native byte order.
    """

    folder: Path
    driver: str
    shape: tuple[int, ...]
    chunks: tuple[int, ...]
    dtype: np.dtype[np.generic]


def read_array(folder: Path, dataset: Any) -> ZarrArray:
    """Return one level's array, checked."""
    path = dataset.get("path") if isinstance(dataset, dict) else None
    if not isinstance(path, str) or not (folder / path).resolve().is_relative_to(folder.resolve()):
        raise corrupt(folder, f"a level's path is {path!r}")
    place = folder / path
    try:
        if (place / "zarr.json").is_file():
            array = _array_v3(place, read_object(place / "zarr.json"))
        elif (place / ".zarray").is_file():
            array = _array_v2(place, read_object(place / ".zarray"))
        else:
            raise corrupt(folder, f"level {path!r} is listed and not there")
    except (KeyError, TypeError, AttributeError, IndexError) as error:
        raise corrupt(place, f"its array's metadata cannot be read: {error!r}") from error
    _check_claim(array)
    return array


def _array_v3(place: Path, raw: dict[str, Any]) -> ZarrArray:
    chunks = raw["chunk_grid"]["configuration"]["chunk_shape"]
    codecs = list(raw["codecs"])
    for codec in raw["codecs"]:
        if codec["name"] == "sharding_indexed":
            chunks = codec["configuration"]["chunk_shape"]
            codecs += codec["configuration"]["codecs"]
    _check_codecs(place, "zarr3", [codec["name"] for codec in codecs])
    return ZarrArray(
        place, "zarr3", _sizes(place, raw["shape"]), _sizes(place, chunks), _dtype(place, raw["data_type"])
    )


def _array_v2(place: Path, raw: dict[str, Any]) -> ZarrArray:
    if raw.get("filters"):
        raise unsupported(place, f"filters {raw['filters']!r}", "write the image without filters")
    if raw.get("compressor") is not None:
        _check_codecs(place, "zarr", [raw["compressor"]["id"]])
    chunks = _sizes(place, raw["chunks"])
    return ZarrArray(place, "zarr", _sizes(place, raw["shape"]), chunks, _dtype(place, raw["dtype"]))


def _check_codecs(place: Path, driver: str, names: Sequence[str]) -> None:
    """Refuse codecs that are not read."""
    if unknown := sorted(set(names) - _CODECS[driver]):
        allowed = ", ".join(sorted(_CODECS[driver]))
        raise unsupported(place, f"compressed by {', '.join(unknown)}", f"write it with codecs of {allowed}")


def _sizes(place: Path, values: Any) -> tuple[int, ...]:
    if not isinstance(values, list) or not all(type(n) is int and n >= 1 for n in values):
        raise corrupt(place, f"a shape of {values!r}")
    return tuple(values)


def _dtype(place: Path, name: Any) -> np.dtype[np.generic]:
    """Return a sample type, native byte order."""
    try:
        dtype = np.dtype(name).newbyteorder("=") if isinstance(name, str) else None
    except TypeError:
        dtype = None
    if dtype is None or dtype not in DTYPES:  # NumPy takes None for float64
        allowed = ", ".join(each.name for each in DTYPES)
        raise unsupported(place, f"samples are {name!r}", f"convert them to one of {allowed}")
    return dtype


def _check_claim(array: ZarrArray) -> None:
    """Refuse an array that could not be read in bounded memory, or that no honest writer left."""
    itemsize = array.dtype.itemsize
    claimed, chunk = prod(array.shape) * itemsize, prod(array.chunks) * itemsize
    shape = " x ".join(map(str, array.shape))
    if chunk > _MAX_CHUNK_BYTES:
        raise InputTooLargeError(
            f"chunks of {' x '.join(map(str, array.chunks))} px ({chunk} bytes) in an array of {shape} px",
            place=str(array.folder),
            remedy="write it in chunks of at most 1 GiB",
        )
    if claimed <= _HARMLESS_BYTES:
        return
    stored = 0
    for size in _file_sizes(array.folder):
        stored += size
        if claimed <= _MAX_COMPRESSION * stored:
            return
    raise InputTooLargeError(
        f"{shape} px ({claimed} bytes) are claimed by a folder of {stored} bytes",
        place=str(array.folder),
        remedy="copy the folder again from its source, or leave it out",
    )


def _file_sizes(folder: Path) -> Iterator[int]:
    """Yield the size of each file below a folder."""
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.is_dir(follow_symlinks=False):
                yield from _file_sizes(Path(entry.path))
            else:
                yield entry.stat().st_size
