"""Does an Aperio slide, decoded directly, show the pixels that OpenSlide shows? Then it is read several times faster.

OpenSlide hands JPEG and JPEG 2000 tiles to the same kind of decoder as imagecodecs, so the stored pixels are equal by
construction. Where that does not hold, OpenSlide reads the slide: JPEG 2000 in YCbCr, which it converts itself; tiles
without any bytes, which it fills from a coarser level; and whatever differs in the tiles that are compared at opening.
At coarser levels equal means a region that begins at the corner of the slide: elsewhere OpenSlide blurs the pixels of
a level whose odd pixel was dropped, since it places them between pixels.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import openslide

from pathopatch.core.errors import PathopatchError
from pathopatch.slides.integrity import checked_tiff
from pathopatch.slides.resolution import Resolution, resolution
from pathopatch.slides.tiff import TiffSlide

_JPEG, _JPEG_2000_RGB = 7, 33005


def is_shown_alike(path: Path, handle: Any) -> bool:
    """Return whether `TiffSlide` and OpenSlide see the same levels, resolution and pixels in an Aperio slide.

    Two tiles or so are compared: at level 0 the one with most bytes, at coarser levels the first.

    Parameters
    ----------
    path : Path
        The file; one that is no Aperio slide gives False.
    handle : openslide.OpenSlide
        The same file; after an error it answers nothing else.

    Raises
    ------
    InputCorruptError, InputTooLargeError
        See `pathopatch.slides.integrity.checked_tiff`.
    """
    if handle.properties.get(openslide.PROPERTY_NAME_VENDOR) != "aperio":
        return False
    with checked_tiff(path) as tiff:
        if not tiff.is_svs or not all(_is_plain(page.keyframe, page) for page in tiff.series[0].levels):
            return False
        first = tiff.series[0].levels[0].keyframe
        fullest = int(np.argmax(first.databytecounts))
        tile = int(first.tilewidth), int(first.tilelength)
    try:
        with TiffSlide(path, background="bright") as slide:
            sizes = tuple((level.width, level.height) for level in slide.levels)
            if sizes != handle.level_dimensions or slide._resolution != _resolution(handle):
                return False
            across = -(-sizes[0][0] // tile[0])
            corner = fullest % across * tile[0], fullest // across * tile[1]
            return all(
                _is_equal(slide, handle, corner if level == 0 else (0, 0), level, tile) for level in range(len(sizes))
            )
    except (PathopatchError, openslide.OpenSlideError):
        return False


def _is_plain(page: Any, level: Any) -> bool:
    """Return whether a level is made of tiles, all written, of uint8 RGB that both decode alike."""
    is_rgb = page.bitspersample == 8 and page.samplesperpixel == 3 and int(page.planarconfig) == 1
    is_known = int(page.compression) in (_JPEG, _JPEG_2000_RGB) and int(page.photometric) in (2, 6)
    return bool(is_rgb and is_known and page.is_tiled and len(level) == 1 and min(page.databytecounts) > 0)


def _resolution(handle: Any) -> Resolution:
    """Return what OpenSlide says of the resolution."""
    x, y = (handle.properties.get(name) for name in (openslide.PROPERTY_NAME_MPP_X, openslide.PROPERTY_NAME_MPP_Y))
    return resolution(x, y, source="the Aperio description")


def _is_equal(slide: TiffSlide, handle: Any, corner: tuple[int, int], level: int, tile: tuple[int, int]) -> bool:
    """Return whether a tile of a level looks the same through both; the corner is in level-0 px."""
    box = slide.levels[level]
    width, height = min(tile[0], box.width - corner[0]), min(tile[1], box.height - corner[1])
    rgba = np.asarray(handle.read_region(corner, level, (width, height)))
    direct = slide.read_region(*corner, width, height, level=level)
    return bool((rgba[..., 3] == 255).all() and np.array_equal(rgba[..., :3].transpose(2, 0, 1), direct))
