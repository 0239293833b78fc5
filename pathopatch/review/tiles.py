"""Cut a slide into the tiles of a deep-zoom pyramid, and draw patches and thumbnails.

Level `max_level` is full resolution, and each level below halves it: level L is ``ceil(width / 2**(max_level - L))``
px wide, down to one tile. Colours come from the intensity windows that the model saw, the same for every tile.
"""

from __future__ import annotations

import io
import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from pathopatch.core.errors import InputMissingError
from pathopatch.heatmaps.facts import TISSUE
from pathopatch.heatmaps.overlay import to_fill, view_size
from pathopatch.patches.picture import ORIGIN
from pathopatch.review.reviewed_slide import ReviewedSlide
from pathopatch.slides.composite import Picture, compose
from pathopatch.slides.resample import level_for, resized

TILE_PX = 256
_MAX_READ_PX = 2048  # side of the region read from a file for one tile; a larger one is cut out of an overview
_MAX_OVERVIEW_PX = 4096  # longest side of an overview, which stays in memory
_MAX_PATCH_PX = 1024
_THUMBNAIL_PX = 160
_JPEG_QUALITY = 85


def max_level(size: tuple[int, int], tile_px: int = TILE_PX) -> int:
    """Return the number of the full-resolution level of a slide of (width, height), level-0 px; level 0 is one tile."""
    # Integers only: a logarithm is off by one just beyond a power of two.
    return max(0, (-(-max(size) // tile_px) - 1).bit_length())


def level_size(size: tuple[int, int], level: int, tile_px: int = TILE_PX) -> tuple[int, int]:
    """Return width and height of a level, px of that level."""
    step = 2 ** (max_level(size, tile_px) - level)
    return -(-size[0] // step), -(-size[1] // step)


def tile_image(
    slide: ReviewedSlide, level: int, column: int, row: int, *, channels: Sequence[str] | None = None
) -> bytes:
    """Return a tile of `TILE_PX` as JPEG; arguments and errors as `tile_pixels`."""
    shown = None if channels is None else tuple(channels)

    def make() -> bytes:
        picture = tile_pixels(slide, level, column, row, channels=shown)
        return _jpeg(picture, has_full_chroma=not slide.is_rgb)

    return slide.cache.get(("tile", slide.cache_key, level, column, row, shown), make)


def tile_pixels(
    slide: ReviewedSlide,
    level: int,
    column: int,
    row: int,
    *,
    channels: Sequence[str] | None = None,
    size: int = TILE_PX,
) -> Picture:
    """Return a tile's pixels, uint8 (h, w, 3), at most `size` a side; the last column and row end with the slide.

    `level` is from 0 to `max_level`, which is full resolution. Each of `channels`, all by default, is drawn in its own
    colour; brightfield is as it is in the file. Raises InputMissingError for a tile or channel that does not exist, and
    the errors of `ReviewedSlide.reading`.
    """
    shown = _is_shown(slide, channels)
    highest = max_level(slide.size, size)
    width, height = level_size(slide.size, level, size) if 0 <= level <= highest else (0, 0)
    left, top = column * size, row * size
    if not (0 <= left < width and 0 <= top < height):
        raise InputMissingError(
            f"no tile {column}, {row} of level {level}",
            place=slide.slide_id,
            remedy=f"ask for a level from 0 to {highest}, and a tile within the slide",
        )
    box = left, top, min(size, width - left), min(size, height - top)
    return compose(_read(slide, highest - level, box, size), slide.windows, is_rgb=slide.is_rgb, shown=shown)


def patch_image(slide: ReviewedSlide, x: int, y: int, *, channels: Sequence[str] | None = None) -> bytes:
    """Return a predicted patch as PNG, with its overhang: at full resolution up to 1024 px a side, else area means.

    `x` and `y` are its origin, level-0 px; `channels` and errors as `tile_pixels`.
    """
    slide.patch_at(x, y)
    shown = _is_shown(slide, channels)
    span_px = slide.grid.span_px
    with slide.reading() as pixels:
        if span_px <= _MAX_PATCH_PX:
            patch = pixels.read_region(x, y, span_px, span_px)
        else:
            downsample = slide.grid.extent / _MAX_PATCH_PX
            patch = pixels.read_patch(x, y, _MAX_PATCH_PX, downsample=downsample, exact_factor=1)
    return _encoded(compose(patch, slide.windows, is_rgb=slide.is_rgb, shown=shown), "PNG")


def tissue_image(slide: ReviewedSlide) -> bytes:
    """Return as PNG where maps fill the slide, opaque over tissue, see `to_fill`; InputMissingError without it."""

    def make() -> bytes:
        with _picture_of(slide.folder / TISSUE) as image:
            tissue = np.asarray(image.convert("L")) > 0
        stride, (width, height), (nx, ny) = slide.facts["cell_px"], slide.size, slide.facts["cells"]
        cell_px = stride * tissue.shape[0] / height, stride * tissue.shape[1] / width
        opaque = to_fill(tissue, tissue.shape, cell_px, (ny, nx)).astype(np.uint8) * 255
        return _encoded(np.stack([opaque, opaque], axis=2), "PNG")

    return slide.cache.get(("tissue", slide.cache_key), make)


def slide_thumbnail(slide: ReviewedSlide) -> bytes:
    """Return the slide under its map as JPEG, its longest side 160 px; InputMissingError without ``overlay.png``."""
    key = "thumbnail", slide.cache_key
    return slide.cache.get(key, lambda: _jpeg(_small_overlay(slide), has_full_chroma=True))


def _small_overlay(slide: ReviewedSlide) -> Picture:
    """Return the slide's part of ``overlay.png``, without legend and frame, shrunk to a thumbnail."""
    with _picture_of(slide.folder / "overlay.png") as image:
        sheet = np.asarray(image.convert("RGB"))
    (top, left), (height, width) = ORIGIN, view_size(sheet.shape[:2], slide.size[::-1])
    view = sheet[top : top + height, left : left + width]
    scale = _THUMBNAIL_PX / max(height, width)
    target = max(1, round(width * scale)), max(1, round(height * scale))
    return np.asarray(cv2.resize(view, target, interpolation=cv2.INTER_AREA), np.uint8)


@contextmanager
def _picture_of(path: Path) -> Iterator[Image.Image]:
    """Yield a picture of a heatmap's folder."""
    try:
        with Image.open(path) as image:
            yield image
    except OSError as error:
        raise InputMissingError(
            "a picture of the heatmap cannot be read", place=str(path), remedy="predict the slide again with --force"
        ) from error


def _is_shown(slide: ReviewedSlide, channels: Sequence[str] | None) -> list[bool]:
    """Return for each channel of the slide whether it is drawn."""
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

        def is_read_from_file(step: int) -> bool:
            read_px = size * step / downsamples[level_for(downsamples, step)]
            is_near = read_px <= max(_MAX_READ_PX, size)
            return is_near or max(slide.size) > _MAX_OVERVIEW_PX * step  # an overview would fill the memory

        if is_read_from_file(step):
            side = max(width, height)
            patch = pixels.read_patch(left * step, top * step, side, downsample=step, exact_factor=1)
            return patch[:, :height, :width]
        # All levels without a near one share the overview of the finest of them.
        finest = step
        while not is_read_from_file(finest // 2):
            finest //= 2
        overview = slide.overview(math.ceil(max(slide.size) / finest))
    whole = -(-slide.size[0] // step), -(-slide.size[1] // step)
    return resized(overview, whole)[:, top : top + height, left : left + width]


def _jpeg(picture: Picture, *, has_full_chroma: bool) -> bytes:
    """Return a picture as JPEG; with full chroma, thin lines that differ by colour alone stay visible."""
    subsampling = 0 if has_full_chroma else 2
    return _encoded(picture, "JPEG", quality=_JPEG_QUALITY, progressive=False, subsampling=subsampling)


def _encoded(picture: Picture, kind: str, **options: Any) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(picture).save(stream, format=kind, **options)
    return stream.getvalue()
