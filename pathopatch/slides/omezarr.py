"""Read slides in OME-Zarr folders, and Zarr arrays in any process.

A chunk without a file has the fill value, lost or not: absent chunks are found first.
"""

from __future__ import annotations

import os
import re
from functools import partial
from pathlib import Path
from typing import Any, Unpack

import numpy as np
import tensorstore as ts
import zarr
from numpy.typing import NDArray
from zarr.abc.store import ByteRequest
from zarr.core.buffer import Buffer, BufferPrototype
from zarr.storage import LocalStore

from pathopatch.core.files import refuse_links_outside
from pathopatch.slides.integrity import DECODING_ERRORS, OpenedFile, corrupt
from pathopatch.slides.omezarr_metadata import ImageMetadata, ZarrArray, files_below, read_image_metadata
from pathopatch.slides.resample import PixelsAndOpacity, rectangle_counts
from pathopatch.slides.resolution import SlideFacts
from pathopatch.slides.slide import Slide
from pathopatch.slides.slide_file import SlideOptions, plane_slice
from pathopatch.slides.slide_paths import WHOLE_FILE, Fragment

_CACHE_BYTES = (32 * 2**20, 512 * 2**20)
_CACHED_CHUNK_ROWS = 2  # a row of patches that straddles two rows of chunks decodes each chunk once
_LOADED_IN = os.getpid()  # a process of another id is a fork of the one that loaded tensorstore


class OmeZarrSlide(Slide):
    """A slide in a local OME-Zarr image, version 0.4 or 0.5.

    Pixels of a chunk without a file count as not scanned: a writer leaves out chunks of the fill value alone, and
    nothing tells them from lost ones.
    """

    def __init__(self, path: Path, *, choice: Fragment = WHOLE_FILE, **options: Unpack[SlideOptions]) -> None:
        self._path = path
        opened = OpenedFile.of(path)
        refuse_links_outside(path)
        self._image: ImageMetadata = read_image_metadata(path)
        self._readers: dict[int, ZarrReader] = {}
        names = self._image.channels
        self._planes = plane_slice(path, names, choice.plane)
        self._absent = [self._absent_planes(array) for array in self._image.arrays]
        shares = [f"{chunks.mean():.1%} of level {level}" for level, chunks in enumerate(self._absent) if chunks.any()]
        note = (
            f"chunks are absent, {', '.join(shares)}: they are taken as not scanned; "
            "with predict --max-bad-tiles they count as unreadable"
        )
        facts = SlideFacts(
            channels=names[self._planes],
            dtype=self._image.arrays[0].dtype,
            levels=self._image.levels,
            resolution=self._image.resolution,
            paths=(path,),
            notes=(note,) if shares else (),
        )
        super().__init__(facts, {"path": path, "choice": choice}, files=(opened,), **options)

    def _read_level(self, left: int, top: int, width: int, height: int, level: int) -> PixelsAndOpacity:
        ranges: dict[str, Any] = {"c": self._planes, "y": slice(top, top + height), "x": slice(left, left + width)}
        axes = self._image.axes
        # All other axes have length 1, see `read_image_metadata`.
        try:
            selection = tuple(ranges.get(axis, 0) for axis in axes)
            pixels = self._reader(level).read(selection)
        except DECODING_ERRORS as error:
            # Tensorstore's message without its list of source locations.
            message = str(error).split("[tensorstore", 1)[0].split("\n", 1)[0].strip()
            raise corrupt(self._path, f"level {level} cannot be decoded at ({left}, {top}): {message}") from error
        # A level stores its axes in any order, and a grey one has no axis c.
        read_axes = [axis for axis in axes if axis in ranges]
        if "c" not in read_axes:
            pixels, read_axes = pixels[None], ["c", *read_axes]
        ordered = pixels.transpose([read_axes.index(axis) for axis in "cyx"])  # (C, H, W)
        return np.ascontiguousarray(ordered, dtype=self.dtype), self._opacity(left, top, width, height, level)

    def _absent_planes(self, array: ZarrArray) -> NDArray[np.bool_]:
        """Return which chunks of the chosen planes have no file, (C, rows, columns)."""
        axes, is_absent = self._image.axes, _absent_chunks(array)
        # All other axes have length 1.
        is_absent = np.asarray(is_absent[tuple(slice(None) if axis in "cyx" else 0 for axis in axes)])
        kept = [axis for axis in axes if axis in "cyx"]
        if "c" not in kept:
            return is_absent.transpose([kept.index(axis) for axis in "yx"])[None]
        planes = is_absent.transpose([kept.index(axis) for axis in "cyx"])
        place = axes.index("c")
        return np.repeat(planes, array.stored[place], axis=0)[: array.shape[place]][self._planes]

    def _chunk_px(self, level: int) -> tuple[int, int]:
        """Return the height and width of what one file of a level holds."""
        stored, axes = self._image.arrays[level].stored, self._image.axes
        return stored[axes.index("y")], stored[axes.index("x")]

    def _opacity(self, left: int, top: int, width: int, height: int, level: int) -> NDArray[np.uint8] | None:
        """Return the opacity (C, H, W) of a rectangle; None where every chunk has its file."""
        high, wide = self._chunk_px(level)
        rows, columns = np.arange(top, top + height) // high, np.arange(left, left + width) // wide
        part = self._absent[level][:, rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
        if not part.any():
            return None
        return np.where(part[:, rows - rows[0]][:, :, columns - columns[0]], 0, 255).astype(np.uint8)

    def _is_absent(self, level: int, rows: NDArray[np.int64], columns: NDArray[np.int64]) -> NDArray[np.bool_]:
        is_absent: NDArray[np.bool_] = np.asarray(self._absent[level].any(axis=0))
        if not is_absent.any():
            return super()._is_absent(level, rows, columns)
        high, wide = self._chunk_px(level)
        (top, bottom), (left, right) = (rows // high + [0, 1]).T, (columns // wide + [0, 1]).T
        return rectangle_counts(is_absent, np.ix_(top, left), np.ix_(bottom, right)) > 0

    def _reader(self, level: int) -> ZarrReader:
        if level not in self._readers:
            array, axes = self._image.arrays[level], self._image.axes
            across = -(-array.shape[axes.index("x")] // array.chunks[axes.index("x")])
            planes = array.shape[axes.index("c")] // array.chunks[axes.index("c")] if "c" in axes else 1
            row_bytes = across * max(1, planes) * int(np.prod(array.chunks)) * array.dtype.itemsize
            cache_bytes = min(max(_CACHED_CHUNK_ROWS * row_bytes, _CACHE_BYTES[0]), _CACHE_BYTES[1])
            self._readers[level] = ZarrReader(array.folder, driver=array.driver, cache_bytes=cache_bytes)
        return self._readers[level]

    def close(self) -> None:
        """Let go of the files; a later read opens them again."""
        self._readers = {}


class _CompleteStore(LocalStore):
    """The files of an array whose every chunk was written, for zarr-python, which has no option for it."""

    async def get(
        self, key: str, prototype: BufferPrototype | None = None, byte_range: ByteRequest | None = None
    ) -> Buffer | None:
        value = await super().get(key, prototype, byte_range)
        if value is None and key.startswith("c/"):
            raise FileNotFoundError(f"chunk {key} is missing")
        return value


class ZarrReader:
    """An array on disk, opened in each process when it is first read there; the libraries' own errors pass through.

    It is read by tensorstore, tens of times faster on shards. That aborts a process that was forked after it was
    loaded, so zarr-python reads in a forked one.

    The `driver` is ``zarr`` (v2) or ``zarr3``; decoded chunks of `cache_bytes` are kept. With `is_complete` every chunk
    must be there; otherwise a missing one has the fill value, as the format says.
    """

    def __init__(self, folder: Path, *, driver: str = "zarr3", cache_bytes: int = 0, is_complete: bool = False) -> None:
        self._folder, self._driver, self._cache_bytes, self._is_complete = folder, driver, cache_bytes, is_complete
        self._array: Any = None
        self._pid = -1

    def __reduce__(self) -> tuple[Any, ...]:
        return partial(
            ZarrReader,
            self._folder,
            driver=self._driver,
            cache_bytes=self._cache_bytes,
            is_complete=self._is_complete,
        ), ()

    def read(self, selection: tuple[int | slice, ...] | slice = slice(None)) -> NDArray[np.generic]:
        """Return a rectangle."""
        array = self._open_here()
        return np.asarray(array[selection] if self._is_fork() else array[selection].read().result())

    def rows(self, index: NDArray[np.int64]) -> NDArray[np.generic]:
        """Return entries along the first axis, in any order."""
        array = self._open_here()
        # In zarr-python fancy indexing of shards is far slower than one row after another.
        if self._is_fork():
            return np.stack([np.asarray(array[row]) for row in index.tolist()])
        return np.asarray(array[index].read().result())

    @staticmethod
    def _is_fork() -> bool:
        return os.getpid() != _LOADED_IN

    def _open_here(self) -> Any:
        """Return the array, opened in this process."""
        if self._array is None or self._pid != os.getpid():
            spec = {
                "driver": self._driver,
                "kvstore": {"driver": "file", "path": f"{self._folder.resolve()}/"},
                "recheck_cached_data": "open",
                "fill_missing_data_reads": not self._is_complete,
                "context": {"cache_pool": {"total_bytes_limit": self._cache_bytes}},
            }
            if self._is_fork():
                store = _CompleteStore(self._folder) if self._is_complete else self._folder
                self._array = zarr.open_array(store, mode="r")
            else:
                self._array = ts.open(spec, open=True, read=True).result()
            self._pid = os.getpid()
        return self._array


def _absent_chunks(array: ZarrArray) -> NDArray[np.bool_]:
    """Return which chunks have no file, one entry a chunk along each axis; of a sharded array, which shards."""
    is_absent = np.ones([-(-n // stored) for n, stored in zip(array.shape, array.stored, strict=True)], np.bool_)
    for name, _ in files_below(array.folder):
        # "c/0/1/2", "c.0.1.2", "0/1/2" or "0.1.2", as the format and its separator have it.
        index = re.split(r"[/.]", name.removeprefix("c/").removeprefix("c."))
        if len(index) == is_absent.ndim and all(n.isascii() and n.isdigit() for n in index):
            place = tuple(map(int, index))
            if all(n < count for n, count in zip(place, is_absent.shape, strict=True)):
                is_absent[place] = False
    return is_absent
