"""Slides that claim more than they hold, or than anyone reads, each of a few kilobytes."""

from __future__ import annotations

import io
import json
import resource
import time
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import imagecodecs
import made_slides as made
import numpy as np
import tifffile
from made_omezarr import write_omezarr
from PIL import Image

DESCRIPTIONS = {
    "a shape of 10^12 pages": json.dumps({"shape": [10**12, 8, 8]}),
    "a shape of 10^6 x 10^6 pages": json.dumps({"shape": [10**6, 10**6, 8, 8]}),
}
"""Descriptions of a TIFF that count too many planes."""

LARGE_TILES = ("JPEG", "progressive JPEG", "JPEG 2000", "deflate")
"""Compressions of a tile that can hold more pixels than its TIFF announces."""


@contextmanager
def bounded(most_s: float = 2) -> Iterator[None]:
    """At most so many seconds of the processor, and 1 GiB of memory more than at any time before."""
    seconds, most = time.process_time(), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    yield
    assert time.process_time() - seconds < most_s
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - most < 2**20


def write_description(path: Path, claim: str) -> Path:
    """Write a TIFF of 8 x 8 px with one of `DESCRIPTIONS`."""
    tifffile.imwrite(path, np.zeros((8, 8), np.uint16), description=DESCRIPTIONS[claim], metadata=None)
    return path


def write_large_tile(path: Path, compression: str) -> Path:
    """Write a TIFF of 64 x 64 px whose only tile holds thousands of pixels a side."""
    large = np.zeros((5000, 5000), np.uint8)
    encode: dict[str, tuple[Callable[[], bytes], int]] = {
        "JPEG": (lambda: _jpeg(65500), 7),
        "progressive JPEG": (lambda: _jpeg(40000, is_progressive=True), 7),
        "JPEG 2000": (lambda: imagecodecs.jpeg2k_encode(large), 34712),
        "deflate": (lambda: zlib.compress(bytes(10**8)), 8),
    }
    write, number = encode[compression]
    data, pixels = write(), np.zeros((64, 64), np.uint8)
    per_cm = {"resolution": (20000, 20000), "resolutionunit": "CENTIMETER"}
    tifffile.imwrite(path, pixels, tile=(64, 64), photometric="minisblack", **per_cm)
    made.patch_tag(path, 259, number)
    made.patch_tag(path, 325, len(data))
    made.patch_tag(path, 324, path.stat().st_size)
    with path.open("ab") as stream:
        stream.write(data)
    return path


def _jpeg(side: int, *, is_progressive: bool = False) -> bytes:
    """A JPEG of 64 x 64 px whose header announces another size."""
    stream = io.BytesIO()
    Image.new("L", (64, 64)).save(stream, "JPEG", progressive=is_progressive)
    content = bytearray(stream.getvalue())
    start = content.index(b"\xff\xc2" if is_progressive else b"\xff\xc0")
    content[start + 5 : start + 9] = 2 * side.to_bytes(2, "big")
    return bytes(content)


def write_chunk_shape(path: Path, shape: tuple[int, ...], chunks: tuple[int, ...]) -> Path:
    """Write an OME-Zarr image whose metadata claim another shape and other chunks."""
    write_omezarr(path, [made.noise(3, 64, 64, np.uint8)])
    place = path / "0" / "zarr.json"
    metadata = json.loads(place.read_text())
    metadata["shape"], metadata["chunk_grid"]["configuration"]["chunk_shape"] = list(shape), list(chunks)
    place.write_text(json.dumps(metadata))
    return path
