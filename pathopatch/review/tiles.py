"""What does a slide look like? A tile of its pyramid, a patch, or the whole of it small.

Level `max_level` is full resolution, and each level below halves it: level L has ``ceil(width / 2**(max_level - L))``
columns of pixels, down to one tile. Colours come from the windows that the model saw, the same for every tile.
"""

from __future__ import annotations

import io
import math
from collections.abc import Sequence
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from pathopatch.core.errors import InputMissingError
from pathopatch.heatmaps.overlay import origin, view_size
from pathopatch.patches.picture import Picture, compose
from pathopatch.review.slide import ReviewedSlide
from pathopatch.slides.resample import level_for, resized

TILE_PX = 256
_MOST_PX = 2048  # side of what is read from a file for one tile; beyond, tiles are cut out of an overview
_OVERVIEW_PX = 4096  # its longest side at most: it stays in memory
_PATCH_PX = 1024
_THUMBNAIL_PX = 160
_QUALITY = 85


def max_level(size: tuple[int, int], tile_px: int = TILE_PX) -> int:
    """Return the number of the level of full resolution; level 0 is one tile.

    Parameters
    ----------
    size : (int, int)
        Width and height of the slide, level-0 px.
    tile_px : int
        Side of a tile.
    """
    return max(0, (-(-max(size) // tile_px) - 1).bit_length())


def level_size(size: tuple[int, int], level: int, tile_px: int = TILE_PX) -> tuple[int, int]:
    """Return width and height of a level, px."""
    step = 2 ** (max_level(size, tile_px) - level)
    return -(-size[0] // step), -(-size[1] // step)


def tile(
    slide: ReviewedSlide,
    level: int,
    column: int,
    row: int,
    *,
    channels: Sequence[str] | None = None,
    size: int = TILE_PX,
) -> bytes:
    """Return a tile as JPEG; arguments and errors as `tile_pixels`."""
    shown = None if channels is None else tuple(channels)

    def make() -> bytes:
        picture = tile_pixels(slide, level, column, row, channels=shown, size=size)
        return _jpeg(picture, is_fine=not slide.is_rgb)

    return slide.cache.get(("tile", slide.key, level, column, row, shown, size), make)


def tile_pixels(
    slide: ReviewedSlide,
    level: int,
    column: int,
    row: int,
    *,
    channels: Sequence[str] | None = None,
    size: int = TILE_PX,
) -> Picture:
    """Return a tile's pixels.

    Parameters
    ----------
    slide : ReviewedSlide
        An open slide.
    level : int
        0 to `max_level`, which is full resolution.
    column, row : int
        Which tile of the level.
    channels : sequence of str, optional
        Which are drawn, each in its own colour; all if not given. Without any it is black.
    size : int
        Side of a tile, px of the level.

    Returns
    -------
    ndarray of uint8, shape (h, w, 3)
        At most `size` a side, the last ones as far as the slide reaches. Brightfield is as it is in the file.

    Raises
    ------
    InputMissingError
        There is no such tile or channel; or the slide is not where it was.
    InputUnsupportedError, InputCorruptError
        Another slide lies there, or it cannot be decoded.
    """
    shown = _shown(slide, channels)
    highest = max_level(slide.size, size)
    width, height = level_size(slide.size, min(level, highest), size) if level >= 0 else (0, 0)
    if not 0 <= level <= highest or not (0 <= column * size < width and 0 <= row * size < height):
        raise InputMissingError(
            f"no tile {column}, {row} of level {level}",
            place=slide.slide_id,
            remedy=f"levels go from 0 to {highest}, tiles as far as the slide reaches",
        )
    left, top = column * size, row * size
    box = left, top, min(size, width - left), min(size, height - top)
    return compose(_read(slide, highest - level, box, size), slide.windows, is_rgb=slide.is_rgb, shown=shown)


def patch_image(slide: ReviewedSlide, x: int, y: int, *, channels: Sequence[str] | None = None) -> bytes:
    """Return a predicted patch as PNG, at full resolution up to 1024 px a side, else by area means; with its overhang.

    Parameters
    ----------
    slide : ReviewedSlide
        An open slide.
    x, y : int
        Origin of the patch, level-0 px.
    channels : sequence of str, optional
        See `tile_pixels`.

    Raises
    ------
    InputMissingError
        No patch was predicted there; otherwise as `tile_pixels`.
    """
    slide.patch_at(x, y)
    shown = _shown(slide, channels)
    span = slide.grid.span_px
    with slide.reading() as pixels:
        if span <= _PATCH_PX:
            read = pixels.read_region(x, y, span, span)
        else:
            read = pixels.read_patch(x, y, _PATCH_PX, downsample=slide.grid.extent / _PATCH_PX, exact_factor=1)
    return _encoded(compose(read, slide.windows, is_rgb=slide.is_rgb, shown=shown), "PNG")


def thumbnail(slide: ReviewedSlide) -> bytes:
    """Return the slide under its map as JPEG, its longest side 160 px; the slide's own file is not needed.

    Raises
    ------
    InputMissingError
        The heatmap's picture is not there, or cannot be read.
    """
    return slide.cache.get(("thumbnail", slide.key), lambda: _jpeg(_small_overlay(slide), is_fine=True))


def _small_overlay(slide: ReviewedSlide) -> Picture:
    """Return what of the overlay's picture is slide, small."""
    path = slide.folder / "overlay.png"
    try:
        with Image.open(path) as opened:
            sheet = np.asarray(opened.convert("RGB"))
    except OSError as error:
        raise InputMissingError(
            "the heatmap's picture cannot be read", place=str(path), remedy="predict the slide again with --force"
        ) from error
    top, left = origin()
    height, width = view_size(sheet.shape[:2], slide.size[::-1])
    view = sheet[top : top + height, left : left + width]
    scale = _THUMBNAIL_PX / max(height, width)
    target = max(1, round(width * scale)), max(1, round(height * scale))
    return np.asarray(cv2.resize(view, target, interpolation=cv2.INTER_AREA), np.uint8)


def _shown(slide: ReviewedSlide, channels: Sequence[str] | None) -> list[bool]:
    """Return which channels are drawn."""
    if channels is None:
        return [True] * len(slide.channels)
    if unknown := [name for name in channels if name not in slide.channels]:
        raise InputMissingError(
            f"no channel {', '.join(unknown)}", place=slide.slide_id, remedy=f"choose of {', '.join(slide.channels)}"
        )
    return [name in channels for name in slide.channels]


def _read(slide: ReviewedSlide, halvings: int, box: tuple[int, int, int, int], size: int) -> NDArray[np.generic]:
    """Return a rectangle (left, top, width, height) of a halved slide, (C, height, width), source units."""
    left, top, width, height = box
    step = 2**halvings
    with slide.reading() as pixels:
        if step == 1:
            return pixels.read_region(left, top, width, height)
        downsamples = [level.downsample for level in pixels.levels]
        if _is_near(downsamples, step, size, slide.size):
            side = max(width, height)
            return pixels.read_patch(left * step, top * step, side, downsample=step, exact_factor=1)[:, :height, :width]
        first = step
        while not _is_near(downsamples, first // 2, size, slide.size):
            first //= 2
        whole = slide.small(math.ceil(max(slide.size) / first))
    return _resized(whole, slide.size, step)[:, top : top + height, left : left + width]


def _is_near(downsamples: Sequence[float], step: int, size: int, slide_size: tuple[int, int]) -> bool:
    """Return whether tiles are read from the file: from a level near enough, or because an overview would be large."""
    read_px = size * step / downsamples[level_for(downsamples, step)]
    return read_px <= max(_MOST_PX, size) or max(slide_size) > _OVERVIEW_PX * step


def _resized(whole: NDArray[np.generic], size: tuple[int, int], step: int) -> NDArray[np.generic]:
    """Return an overview, (C, h, w), at the size of a halved slide."""
    target = -(-size[0] // step), -(-size[1] // step)
    return resized(whole, target)


def _jpeg(picture: Picture, *, is_fine: bool) -> bytes:
    """Return a picture as JPEG; fine: colour at full resolution, where thin lines are seen by colour alone."""
    return _encoded(picture, "JPEG", quality=_QUALITY, progressive=False, subsampling=0 if is_fine else 2)


def _encoded(picture: Picture, kind: str, **options: Any) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(picture).save(stream, format=kind, **options)
    return stream.getvalue()
