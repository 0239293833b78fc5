"""What share of each patch does a mask set that is too large for memory? A tiled TIFF, read in bands of rows.

The shares are the exact area means that `pathopatch.patches.annotations.masks` finds for smaller masks.
"""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from pathopatch.core.errors import InputUnsupportedError
from pathopatch.slides import Slide, open_slide
from pathopatch.slides.mask_image import raster

HALF_UINT8 = 127
"""A uint8 mask of 0 and 255, or a JPEG, is set above this."""
_BAND_BYTES = 64 * 2**20


def cover(start: float, stop: float, size: int, mask_px: int) -> tuple[slice, NDArray[np.float64]]:
    """Return which mask pixels of one axis a level-0 interval covers, and how much of each (in mask px).

    Parameters
    ----------
    start, stop : float
        The interval, level-0 px.
    size : int
        The slide's side, level-0 px.
    mask_px : int
        The mask's side, px.
    """
    begin, end = (min(max(0.0, at) * mask_px / size, mask_px) for at in (start, stop))
    if end <= begin:
        return slice(0, 0), np.zeros(0)
    first, last = math.floor(begin), math.ceil(end)
    edges = np.clip(np.arange(first, last + 1, dtype=np.float64), begin, end)
    return slice(first, last), np.diff(edges)


def uint8_limit(highest: float, path: Path) -> int:
    """Return above which value a lossless uint8 mask is set: 0 for one of 0 and 1, else half of 255.

    Parameters
    ----------
    highest : float
        Its largest value.
    path : Path
        Its file.

    Raises
    ------
    InputUnsupportedError
        Its values are neither 0 and 1 nor reach above the half (class numbers, say): which are meant is not guessed.
    """
    if 1 < highest <= HALF_UINT8:
        raise InputUnsupportedError(
            f"a mask whose values reach up to {highest:g}, neither 0 and 1 nor 0 and 255",
            place=str(path),
            remedy="write it anew with 0 for no and 255 for yes",
        )
    return HALF_UINT8 if highest > 1 else 0


def banded_fractions(
    path: Path, slide_size: tuple[int, int], x: NDArray[np.int64], y: NDArray[np.int64], extent: float
) -> NDArray[np.float64]:
    """Return a large mask's share of each patch's part on the slide, as `MaskFractions.fractions` does.

    Parameters
    ----------
    path : Path
        TIFF file; its first level is read.
    slide_size, x, y, extent
        See `pathopatch.patches.annotations.masks.MaskFractions`; level-0 px.

    Raises
    ------
    InputUnsupportedError
        See `uint8_limit`.
    InputCorruptError
        It cannot be decoded.
    """
    shares = np.zeros((2, len(x)))  # with values above 0 set, and with values above 127
    highest = 0.0
    with _opened(path) as mask:
        width, height = mask.size
        for top in np.unique(y).tolist():
            rows, down = cover(top, top + extent, slide_size[1], height)
            sums, largest = _sums(mask, rows, down)  # (2, width)
            highest = max(highest, largest)
            for index in np.flatnonzero(y == top).tolist():
                columns, across = cover(x[index], x[index] + extent, slide_size[0], width)
                if across.size and down.size:
                    shares[:, index] = sums[:, columns] @ across / (down.sum() * across.sum())
        is_uint8 = mask.dtype == np.uint8
    limit = uint8_limit(highest, path) if is_uint8 else 0
    chosen: NDArray[np.float64] = np.clip(shares[1 if limit else 0], 0.0, 1.0)
    return chosen


def _opened(path: Path) -> Slide:
    """Return a mask's first page; tiles that are not stored are not set, whatever the others look like."""
    names = tuple(f"C{sample}" for sample in range(raster(path, is_whole=False).samples))
    return open_slide(f"{path}#page=0", channels=names, background="dark")


def _sums(mask: Slide, rows: slice, down: NDArray[np.float64]) -> tuple[NDArray[np.float64], float]:
    """Return the weighted sum of the set pixels of some rows in each column, for both limits, and the largest value."""
    width = mask.size[0]
    sums, largest = np.zeros((2, width)), 0.0
    step = max(1, _BAND_BYTES // (width * len(mask.channels) * mask.dtype.itemsize))
    for start in range(rows.start, rows.stop, step):
        stop = min(start + step, rows.stop)
        colours = 1 if len(mask.channels) == 2 else 3  # a sample beyond is alpha, which does not count
        band = mask.read_region(0, start, width, stop - start)[:colours].max(axis=0)  # (h, width)
        weight = down[start - rows.start : stop - rows.start]
        largest = max(largest, float(band.max()))
        sums += [weight @ (band > limit) for limit in (0, HALF_UINT8)]
    return sums, largest
