"""Find chunks of a Zarr array that have no file; the format gives them the fill value, lost or not."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Sequence
from contextlib import suppress
from itertools import product
from math import prod
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from pathopatch.slides.omezarr_metadata import ZarrArray


def absent_chunks(array: ZarrArray) -> NDArray[np.bool_]:
    """Return which chunks have no file, one entry a chunk along each axis; of a sharded array, which shards."""
    is_absent = np.ones([-(-n // stored) for n, stored in zip(array.shape, array.stored, strict=True)], np.bool_)
    for name in _names_below(array.folder):
        # "c/0/1/2", "c.0.1.2", "0/1/2" or "0.1.2", as the format and its separator have it.
        index = re.split(r"[/.]", name.removeprefix("c/").removeprefix("c."))
        if len(index) == is_absent.ndim and all(n.isascii() and n.isdigit() for n in index):
            place = tuple(map(int, index))
            if all(n < count for n, count in zip(place, is_absent.shape, strict=True)):
                is_absent[place] = False
    return is_absent


class InflationGuard:
    """Refuse chunks that would inflate to more than their pixels, before they are decoded.

    Blosc alone takes memory for as much as a chunk announces; other codecs stop as soon as they have what is due.
    """

    def __init__(self, array: ZarrArray) -> None:
        self._array = array
        self._due_bytes = prod(array.chunks) * array.dtype.itemsize
        self._passed: set[tuple[int, ...]] = set()

    def check(self, selection: Sequence[int | slice]) -> None:
        """Raise ValueError if a chunk of a rectangle announces more bytes than are due."""
        if not self._array.is_blosc:
            return
        bounds = [(part.start, part.stop) if isinstance(part, slice) else (part, part + 1) for part in selection]
        spans = [range(low // n, -(-high // n)) for (low, high), n in zip(bounds, self._array.stored, strict=True)]
        prefix, separator = self._array.key
        for index in product(*spans):
            if index in self._passed:
                continue
            name = prefix + separator.join(map(str, index))
            with suppress(FileNotFoundError), (self._array.folder / name).open("rb") as stream:
                announced = int.from_bytes(stream.read(8)[4:], "little")
                if announced > self._due_bytes:
                    raise ValueError(f"chunk {name} announces {announced} bytes, {self._due_bytes} are due")
            self._passed.add(index)


def _names_below(folder: Path, prefix: str = "") -> Iterator[str]:
    """Yield the path in a folder of each file below it."""
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.is_dir():
                yield from _names_below(Path(entry.path), f"{prefix}{entry.name}/")
            else:
                yield prefix + entry.name
