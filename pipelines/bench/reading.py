"""Measure the reading of patches against the bare decoder and other readers of the same pixels."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import imagecodecs
import numpy as np
import openslide
import tifffile
import zarr
from inputs import TILE_PX, Inputs
from measure import REPEATS, Row, Work, require_equal, speedup

from pathopatch.slides import Slide, open_slide

Read = Callable[[int, int, int], np.ndarray]  # x, y, side -> (C, side, side)


def rows(inputs: Inputs) -> Iterator[Row]:
    """All rows about reading."""
    sources = [("made TIFF", inputs.rgb_jpeg())]
    if inputs.real is not None:
        sources.append(("CMU-1-Small-Region.svs", inputs.real / "wsi" / "CMU-1-Small-Region.svs"))
    for name, path in sources:
        yield from _against_the_decoder(name, path)
        yield from _against_openslide(name, path)
    for compression in ("zstd", "deflate"):
        yield from _against_aszarr(compression, inputs.modalities(compression))
    yield _against_the_plain_loop(*inputs.only_openslide())


def bands(read: Read, size: tuple[int, int], *, side: int, stride: int, offset: int = 0) -> list[Work]:
    """One piece of work per row of patches, all of which lie inside the slide; nothing is kept of them."""
    columns = range(offset, size[0] - side + 1, stride)

    def band(y: int) -> None:
        for x in columns:
            read(x, y, side)

    return [partial(band, y) for y in range(offset, size[1] - side + 1, stride)]


def patches(read: Read, size: tuple[int, int], *, side: int, stride: int, offset: int = 0) -> Iterator[np.ndarray]:
    """The same patches, to be looked at."""
    for y in range(offset, size[1] - side + 1, stride):
        for x in range(offset, size[0] - side + 1, stride):
            yield read(x, y, side)


def ours(slide: Slide) -> Read:
    """Our reader of a slide that has just been opened."""
    slide.read_region(0, 0, 1, 1)
    return lambda x, y, side: slide.read_region(x, y, side, side)


def openslides(path: Path, *, is_contiguous: bool = False) -> Read:
    """The loop that everybody writes; its result is a view, or a plain array like ours."""
    handle = openslide.OpenSlide(path)
    handle.read_region((0, 0), 0, (1, 1))

    def read(x: int, y: int, side: int) -> np.ndarray:
        view = np.asarray(handle.read_region((x, y), 0, (side, side)))[..., :3].transpose(2, 0, 1)
        return np.ascontiguousarray(view) if is_contiguous else view

    return read


class BareDecoder:
    """The JPEG tiles of a slide in memory, and what decoding alone costs."""

    def __init__(self, path: Path) -> None:
        with tifffile.TiffFile(path) as tiff:
            page = tiff.pages[0]
            content = path.read_bytes()
            self._data = [content[o : o + n] for o, n in zip(page.dataoffsets, page.databytecounts, strict=True)]
            self.side, self._across = int(page.tilewidth), -(-int(page.imagewidth) // int(page.tilewidth))
            self.size = int(page.imagewidth), int(page.imagelength)
            is_raw_rgb = int(page.photometric) == 2 and not page.is_jfif
        self._decode = partial(imagecodecs.jpeg8_decode, tables=page.jpegtables,
                               colorspace=2 if is_raw_rgb else None, outcolorspace=2)  # fmt: skip

    def tile(self, column: int, row: int) -> np.ndarray:
        """A tile, (H, W, C)."""
        return self._decode(self._data[row * self._across + column])

    def bands(self, *, side: int, stride: int, offset: int = 0) -> list[Work]:
        """As `bands`: each tile that patches need is decoded once, for the first row of patches that needs it."""
        (columns, _), rows = (_tiles(length, side, stride, offset, self.side) for length in self.size)
        return [lambda new=new: [self.tile(c, r) for r in new for c in columns] for new in rows[1]]


def _tiles(length: int, side: int, stride: int, offset: int, tile: int) -> tuple[list[int], list[list[int]]]:
    """The tiles along an axis that patches need, and for each patch those that no earlier one needs."""
    new, known = [], set[int]()
    for start in range(offset, length - side + 1, stride):
        needed = set(range(start // tile, (start + side - 1) // tile + 1))
        new.append(sorted(needed - known))
        known |= needed
    return sorted(known), new


def _against_the_decoder(name: str, path: Path) -> Iterator[Row]:
    """Whole tiles, against decoding the same ones from memory into (H, W, C)."""
    bare = BareDecoder(path)
    side, size = bare.side, bare.size
    cut = {"side": side, "stride": side}
    opened = partial(_opened, path, "bright")
    decoded = patches(lambda x, y, side: bare.tile(x // side, y // side), size, **cut)
    require_equal(patches(opened(), size, **cut), (tile.transpose(2, 0, 1) for tile in decoded))
    ratio = speedup(lambda: bands(opened(), size, **cut), lambda: bare.bands(**cut))
    yield Row(f"RGB JPEG tiles of {side} px, {name}, by jpeg8_decode of them in memory", ratio, 0.85)


def _against_openslide(name: str, path: Path) -> Iterator[Row]:
    """Patches on and off the tiles, against OpenSlide; sizes are one or two tiles. The limit is the bare decoder."""
    bare = BareDecoder(path)
    for what, tiles, offset, share in (
        ("on the tiles", 1, 0, 0.85), ("off the tiles", 1, 100, 0.65), ("two tiles", 2, 0, 0.7),
    ):  # fmt: skip
        side = tiles * bare.side
        cut = {"side": side, "stride": side, "offset": offset}
        ratio = _compared(partial(_opened, path, "bright"), partial(openslides, path), bare.size, cut)
        limit = speedup(lambda cut=cut: bare.bands(**cut), lambda cut=cut: bands(openslides(path), bare.size, **cut))
        name_ = f"RGB JPEG, {name}, {side} px, {what}, by an openslide.read_region loop"
        yield Row.of_limit(name_, ratio, limit, share)


def _opened(source: Any, background: Any) -> Read:
    """Our reader, opened anew."""
    return ours(open_slide(source, background=background))


def _compared(
    one: Callable[[], Read], two: Callable[[], Read], size: tuple[int, int], cut: dict[str, int], repeats: int = REPEATS
) -> float:
    """Return the speedup of the first reader over the second, which must give the same patches."""
    require_equal(patches(one(), size, **cut), patches(two(), size, **cut))
    return speedup(lambda: bands(one(), size, **cut), lambda: bands(two(), size, **cut), repeats=repeats)


def _against_aszarr(compression: str, paths: dict[str, Path]) -> Iterator[Row]:
    """Three single-channel files, against zarr regions of tifffile's view of them."""

    def regions() -> Read:
        arrays: list[Any] = [zarr.open_array(tifffile.imread(path, aszarr=True), mode="r") for path in paths.values()]
        return lambda x, y, side: np.stack([array[y : y + side, x : x + side] for array in arrays])

    size = open_slide(paths).size
    for what, stride, goal in (("side by side", TILE_PX, 1.8), ("overlapping by half", TILE_PX // 2, 7.0)):
        cut = {"side": TILE_PX, "stride": stride}
        ratio = _compared(partial(_opened, paths, "dark"), regions, size, cut)
        yield Row(f"three uint16 TIFFs, made, {compression} tiles, {what}, by aszarr + zarr", ratio, goal)


def _against_the_plain_loop(name: str, path: Path) -> Row:
    """A format that only OpenSlide reads, against OpenSlide with the same plain array (C, H, W) as result."""
    cut = {"side": TILE_PX, "stride": TILE_PX}
    plain = partial(openslides, path, is_contiguous=True)
    ratio = _compared(partial(_opened, path, "dark"), plain, open_slide(path).size, cut, repeats=2)
    return Row(f"{name}, which only OpenSlide reads, by the plain loop to (C, H, W)", ratio, 0.95)
