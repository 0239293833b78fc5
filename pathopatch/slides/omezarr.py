"""Read slides in OME-Zarr folders."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Unpack

import numpy as np
from numpy.typing import NDArray

from pathopatch.slides.integrity import DECODING_ERRORS, corrupt
from pathopatch.slides.omezarr_metadata import ImageMetadata, read_image_metadata
from pathopatch.slides.resample import Pixels
from pathopatch.slides.resolution import SlideFacts
from pathopatch.slides.slide import Slide, SlideOptions
from pathopatch.slides.slide_file import plane_slice
from pathopatch.slides.zarr_reader import ZarrReader

_CACHE_BYTES = (32 * 2**20, 512 * 2**20)
_CACHED_CHUNK_ROWS = 2  # a row of patches that straddles two rows of chunks decodes each chunk once


def is_zarr(path: Path) -> bool:
    """Return whether a folder is a Zarr group or array of either version."""
    return any((path / name).is_file() for name in ("zarr.json", ".zgroup", ".zattrs", ".zarray"))


class OmeZarrSlide(Slide):
    """A slide in a local OME-Zarr image, version 0.4 or 0.5; a missing chunk has the fill value, as the format says."""

    def __init__(self, path: Path, *, plane: int | None = None, **options: Unpack[SlideOptions]) -> None:
        self._path = path
        self._image: ImageMetadata = read_image_metadata(path)
        self._readers: dict[int, ZarrReader] = {}
        names = self._image.channels
        self._planes = plane_slice(path, names, plane)
        facts = SlideFacts(
            channels=names[self._planes],
            dtype=self._image.arrays[0].dtype,
            levels=self._image.levels,
            resolution=self._image.resolution,
            paths=(path,),
        )
        super().__init__(facts, {"path": path, "plane": plane}, **options)

    def _read_level(
        self, left: int, top: int, width: int, height: int, level: int
    ) -> tuple[Pixels, NDArray[np.uint8] | None]:
        ranges: dict[str, Any] = {"c": self._planes, "y": slice(top, top + height), "x": slice(left, left + width)}
        axes = self._image.axes
        # All other axes have length 1, see `read_image_metadata`.
        try:
            pixels = self._reader(level).read(tuple(ranges.get(axis, 0) for axis in axes))
        except DECODING_ERRORS as error:
            # Tensorstore's message without its list of source locations.
            message = str(error).split("[tensorstore", 1)[0].split("\n", 1)[0].strip()
            raise corrupt(self._path, f"level {level} cannot be decoded at ({left}, {top}): {message}") from error
        # A level stores its axes in any order, and a grey one has no axis c.
        kept = [axis for axis in axes if axis in ranges]
        if "c" not in kept:
            pixels, kept = pixels[None], ["c", *kept]
        ordered = pixels.transpose([kept.index(axis) for axis in "cyx"])  # (C, H, W)
        return np.ascontiguousarray(ordered, dtype=self.dtype), None

    def _reader(self, level: int) -> ZarrReader:
        if level not in self._readers:
            array = self._image.arrays[level]
            self._readers[level] = ZarrReader(array.folder, driver=array.driver, cache_bytes=self._cache_bytes(level))
        return self._readers[level]

    def _cache_bytes(self, level: int) -> int:
        """Return the cache size for two rows of chunks, within bounds."""
        array, axes = self._image.arrays[level], self._image.axes
        across = -(-array.shape[axes.index("x")] // array.chunks[axes.index("x")])
        planes = array.shape[axes.index("c")] // array.chunks[axes.index("c")] if "c" in axes else 1
        row_bytes = across * max(1, planes) * int(np.prod(array.chunks)) * array.dtype.itemsize
        return min(max(_CACHED_CHUNK_ROWS * row_bytes, _CACHE_BYTES[0]), _CACHE_BYTES[1])

    def close(self) -> None:
        """Let go of the files; a later read opens them again."""
        self._readers = {}
