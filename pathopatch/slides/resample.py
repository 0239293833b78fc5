"""Arrange pixels in memory, and resample them by exact area means. Arrays only."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any, cast

import cv2
import numpy as np
from numpy.typing import NDArray

from pathopatch.core.config import MPP_TOLERANCE

Pixels = NDArray[np.generic]
"""Pixels of a slide, (C, H, W) in the source's type."""
PixelsAndOpacity = tuple[Pixels, NDArray[np.uint8] | None]
"""Pixels and their opacity, (H, W) or, where the channels differ, (C, H, W); None if all is opaque (255)."""

ORIENTATION_TAG = 274
"""Of TIFF and EXIF."""
MIRRORED_ACROSS, MIRRORED_DOWN = (2, 3, 6, 7), (3, 4, 7, 8)
"""Orientations whose stored pixels, transposed from 5 on, are then mirrored, see `upright`."""
SAME_FACTOR = 1e-5
"""Factors this close to 1 move a pixel of a 4096 px patch by 0.04 px, and nothing is resampled."""
# Levels hold what the scanner made of its pixels, and a patch begins on a whole px of its level. On CMU-1-Small-Region
# at 4 um/px a model's probabilities moved by up to .21 at a factor of 1, .09 at 2, .06 at 4 and not at 8; reading a
# patch of 256 px took 6, 2, 10 and 40 ms, a network of that size 30. Measured by pipelines/bench/levels.py.
EXACT_READ_FACTOR = 4.0
"""How many times finer than the target a level may be to be preferred to coarser ones, see `level_for`."""

_SPLIT_BYTES = (1, 2, 4, 8)  # sizes of a sample that cv2 takes apart
_SPLIT_CHANNELS = 512  # and how many at most
_BAND_BYTES = 32 * 2**20  # source pixels held at a time; the C library keeps no larger memory for the next band
_ROWS_AT_ONCE = 8  # target rows that are summed together: their source rows fit into the processor's cache
_CV2_MEANS = ("uint8", "uint16", "int16")  # integers that cv2 takes area means of
_CV2_CHANNELS = 4  # that it does so for at once
_FIELD_SLACK = 0.02  # relative difference of the quotients across and down


def planes(pixels: Pixels, out: Pixels | None = None) -> Pixels:
    """Return the same pixels (C, H, W), a contiguous plane per channel; those that are so already stay as they are.

    Where `out` is given, contiguous and of the same shape and type, it is filled and returned.
    """
    if out is None:
        if pixels.flags.c_contiguous:
            return pixels
        out = np.empty(pixels.shape, pixels.dtype)
    mixed = pixels.transpose(1, 2, 0)
    is_split = mixed.flags.c_contiguous and 1 < len(pixels) <= _SPLIT_CHANNELS and pixels.dtype.kind in "uif"
    if is_split and pixels.dtype.itemsize in _SPLIT_BYTES:
        # cv2.split is several times as fast as numpy's copy. It only moves bytes, so a type of the same size will do.
        kind = f"u{pixels.dtype.itemsize}" if pixels.dtype.itemsize < 4 else f"f{pixels.dtype.itemsize}"
        cv2.split(cast(Any, mixed.view(kind)), cast(Any, list(out.view(kind))))
    else:
        np.copyto(out, pixels)
    return out


def opacity_of(alpha: Pixels) -> NDArray[np.uint8]:
    """Return a plane of alpha as opacity, 0 to 255."""
    highest_byte = np.right_shift(cast(Any, alpha), 8 * (alpha.itemsize - 1))
    return np.asarray(highest_byte, np.uint8)


def orientation_of(value: object) -> int:
    """Return the orientation that a tag states, see `upright`; 1 where it states none that is known."""
    return value if isinstance(value, int) and 1 <= value <= 8 else 1


def upright(pixels: Pixels, orientation: int) -> Pixels:
    """Return stored pixels (C, H, W) as they are to be shown; nothing is copied.

    The orientation says where the stored first row and first column are shown, by TIFF's and EXIF's numbers: 1 top,
    left; 2 top, right; 3 bottom, right; 4 bottom, left; 5 left, top; 6 right, top; 7 right, bottom; 8 left, bottom.
    """
    shown = pixels.transpose(0, 2, 1) if orientation > 4 else pixels
    across, down = orientation in MIRRORED_ACROSS, orientation in MIRRORED_DOWN
    return shown[:, :: -1 if down else 1, :: -1 if across else 1]


def is_same_field(size: tuple[int, int], level_size: tuple[int, int]) -> bool:
    """Return whether a level of this (width, height) may show the whole slide: the proportions are the same."""
    quotients = [whole / part for whole, part in zip(size, level_size, strict=True)]
    # Sizes are rounded to whole pixels, which counts for more the smaller the level is.
    slack = _FIELD_SLACK + 1 / min(level_size)
    return abs(quotients[0] - quotients[1]) <= slack * max(quotients)


def nominal_downsample(size: tuple[int, int], level_size: tuple[int, int]) -> float:
    """Return how many level-0 px make one px of a level, by the (width, height) of both."""
    quotients = [whole / part for whole, part in zip(size, level_size, strict=True)]
    mean = sum(quotients) / 2
    # Writers halve a size and drop or add the odd pixel, so the quotient is off by up to a pixel over the whole slide.
    # If an integer explains both sides, it is the factor.
    for factor in {round(mean), round(max(quotients)), round(min(quotients))}:
        if factor >= 1 and all(
            part in (whole // factor, -(-whole // factor)) for whole, part in zip(size, level_size, strict=True)
        ):
            return float(factor)
    return mean


def level_for(downsamples: Sequence[float], downsample: float, *, exact_factor: float = 1.0) -> int:
    """Return the index of the level that pixels are read from; 0 if none is as fine as asked.

    That is the finest level of which at most `exact_factor` px, by as many, make one target px. Where there is none,
    and with a factor of 1, it is the coarsest level that is at least as fine as asked. Downsamples are level-0 px per
    px of each level, the first of which is 1, and of the target. A target px costs at most the factor's square in px.
    """
    fine_enough = [i for i, value in enumerate(downsamples) if value <= downsample * (1 + SAME_FACTOR)]
    near = [i for i in fine_enough if downsample <= downsamples[i] * exact_factor * (1 + MPP_TOLERANCE)]
    if exact_factor > 1 and near:
        return min(near, key=lambda i: downsamples[i])
    return max(fine_enough, key=lambda i: downsamples[i], default=0)


def shrink(region: Pixels, side_px: int, factor: float) -> Pixels:
    """Return the top-left square of a region (C, n, n) as (C, side_px, side_px), by means of the area of each pixel.

    The region has at least ``side_px * factor`` pixels a side. `factor`, region px per target px, is kept exactly;
    below 1 the result is interpolated linearly.
    """
    if region.dtype == np.int8:  # cv2 resizes no int8
        return shrink(region.astype(np.int16), side_px, factor).astype(np.int8)
    out = np.empty((region.shape[0], side_px, side_px), region.dtype)
    method = cv2.INTER_AREA if factor >= 1 else cv2.INTER_LINEAR
    whole = round(factor)
    is_whole = whole >= 1 and math.isclose(factor, whole, rel_tol=1e-9)
    for channel, plane in zip(out, planes(region), strict=True):
        # Whole blocks are averaged by a faster path of cv2.
        if is_whole:
            square = np.ascontiguousarray(plane[: side_px * whole, : side_px * whole])
            channel[:] = cv2.resize(square, (side_px, side_px), interpolation=method)
        else:
            channel[:] = _resized(plane, factor, factor, method)[:side_px, :side_px]
    return out


def resized(planes: Iterable[Pixels], size: tuple[int, int], *, interpolation: int = cv2.INTER_AREA) -> Pixels:
    """Return planes (h, w) at another size (width, height), ndarray of shape (C, height, width) in their type."""
    resized_planes = []
    for plane in planes:
        wide = plane.astype(np.int16) if plane.dtype == np.int8 else plane  # cv2 resizes no int8
        small = cv2.resize(cast(Any, wide), size, interpolation=interpolation)
        resized_planes.append(small.astype(plane.dtype, copy=False))
    return np.stack(resized_planes)


def shrink_in_bands(
    read: Callable[[int, int], Pixels | list[Pixels]],
    *,
    source: tuple[int, int, int],
    dtype: np.dtype[np.generic],
    target: tuple[int, int],
    factors: tuple[float, float],
) -> Pixels:
    """Return area means of a large image that is read in bands of rows, so that memory stays bounded.

    ``read(top, rows)`` returns source pixels (C, rows, width), as an array or plane by plane. `source` is (channels,
    height, width), `target` (height, width), and `dtype` the type of both. `factors` are source px per target px, down
    and across, at least 1 each, kept exactly. Target pixels that reach past the source are means of what is inside.
    Means of integers that lie in the middle of two are rounded to either.
    """
    channels, height, width = source
    out = np.empty((channels, *target), dtype)
    is_copy = target == (height, width) and factors == (1, 1)
    edges = np.clip(np.arange(target[0] + 1) * factors[0], 0, height)
    rows = max(1, int(_BAND_BYTES / (channels * width * dtype.itemsize) / factors[0]))
    # Rows of the target that are means of whole blocks of source pixels.
    block = round(factors[0]), round(factors[1])
    is_in_blocks = (
        factors[0] == block[0] and factors[1] == block[1] and block[0] * block[1] > 1 and target[1] * block[1] <= width
    )
    blocks = min(target[0], height // block[0]) if is_in_blocks and dtype.name in _CV2_MEANS else 0
    first = 0
    while first < target[0]:
        # A band ends where whole blocks end: the last rows may be means of less than a block.
        last = min(first + rows, blocks if first < blocks else target[0])
        band_edges = edges[first : last + 1]
        top = min(int(band_edges[0]), height - 1)
        bottom = max(top + 1, math.ceil(band_edges[-1]))
        band = read(top, bottom - top)
        if last <= blocks:
            _shrink_blocks(band, out[:, first:last], block)
        else:
            for channel, plane in zip(out, planes(band) if isinstance(band, np.ndarray) else band, strict=True):
                across = plane if is_copy else _shrink_across(plane, target[1], factors[1])
                channel[first:last] = across if is_copy else _cast(_shrink_down(across, band_edges - top), dtype)
        first = last
    return out


def _resized(plane: Pixels, down: float, across: float, method: int) -> Pixels:
    """Return a plane resampled by exact factors, from its top-left corner on."""
    height, width = plane.shape
    size = round(height / down), round(width / across)
    # A factor so close to 1 keeps the size, for which cv2 copies the pixels: the weights are applied here instead.
    if size == (height, width):
        rows = _row_weights(np.minimum(np.arange(height + 1) * down, height), height)
        columns = _row_weights(np.minimum(np.arange(width + 1) * across, width), width)
        return _cast(rows @ plane.astype(np.float64) @ columns.T, plane.dtype)
    plain = np.ascontiguousarray(plane)
    return np.asarray(cv2.resize(cast(Any, plain), None, fx=1 / across, fy=1 / down, interpolation=method))


def _row_weights(edges: NDArray[np.float64], rows: int) -> NDArray[np.float64]:
    """Return weights (targets, rows): the share of each source row in each target row; every target's sum to 1."""
    starts = np.arange(rows, dtype=np.float64)
    low, high = edges[:-1, None], edges[1:, None]
    weights = np.clip(np.minimum(high, starts + 1) - np.maximum(low, starts), 0, 1)
    # A target row may lie past a level whose size was rounded down: it shows the level's last row.
    is_past_end = weights.sum(axis=1) <= 0
    weights[is_past_end, rows - 1] = 1
    return np.asarray(weights / weights.sum(axis=1, keepdims=True), np.float64)


def _shrink_blocks(band: Pixels | list[Pixels], out: Pixels, factors: tuple[int, int]) -> None:
    """Fill ``out`` (C, h, w) with the means of blocks; ``factors`` are their height and width."""
    height, width = out.shape[1:]
    rows, columns = height * factors[0], width * factors[1]
    # Interleaved channels are averaged in one call, and only the small result is taken apart.
    if isinstance(band, np.ndarray) and band.transpose(1, 2, 0).flags.c_contiguous and 1 < len(band) <= _CV2_CHANNELS:
        mixed = cast(Any, band.transpose(1, 2, 0)[:rows, :columns])
        means = cv2.resize(mixed, (width, height), interpolation=cv2.INTER_AREA)  # (h, w, C)
        np.copyto(out, planes(means.transpose(2, 0, 1)))
        return
    for channel, plane in zip(out, band, strict=True):
        part = cast(Any, np.ascontiguousarray(plane[:rows, :columns]))
        channel[:] = cv2.resize(part, (width, height), interpolation=cv2.INTER_AREA)


def _shrink_down(rows: NDArray[np.floating], edges: NDArray[np.float64]) -> NDArray[np.floating]:
    """Return the means of the rows between consecutive edges; each edge counts rows from the first."""
    # Not as a product of matrices: for so little work its threads cost more than they save.
    means = np.zeros((len(edges) - 1, rows.shape[1]), rows.dtype)
    for first in range(0, len(means), _ROWS_AT_ONCE):
        block = edges[first : first + _ROWS_AT_ONCE + 1]
        top = min(int(block[0]), len(rows) - 1)
        bottom = min(max(top + 1, math.ceil(block[-1])), len(rows))
        weights = _row_weights(block - top, bottom - top).astype(rows.dtype)
        starts = np.argmax(weights > 0, axis=1)
        for further in range(int(np.count_nonzero(weights, axis=1).max())):
            places = np.minimum(starts + further, bottom - top - 1)
            share = np.where(starts + further == places, weights[np.arange(len(places)), places], 0).astype(rows.dtype)
            means[first : first + len(block) - 1] += share[:, None] * rows[top + places]
    return means


def _shrink_across(plane: Pixels, width: int, factor: float) -> NDArray[np.floating]:
    """Return float area means along the rows; past the end stands the last column."""
    wide_type = np.float64 if plane.dtype.itemsize > 4 else np.float32
    wide: NDArray[np.floating] = plane.astype(wide_type)
    columns = wide.shape[1]
    if round(columns / factor) < 1:
        means = wide[:, :0]
    elif abs(factor - 1) > 1e-12:
        means = _resized(wide, 1, factor, cv2.INTER_AREA).astype(wide_type, copy=False)
    else:
        means = wide
    if (whole := means.shape[1]) < width:
        # cv2 leaves out a last column of which half or less is there.
        first = min(int(whole * factor), columns - 1)
        edges = np.minimum(np.arange(whole, width + 1) * factor, columns)
        rest = wide[:, first:] @ _row_weights(edges - first, columns - first).astype(wide.dtype).T
        means = np.hstack([means, rest])
    return means[:, :width]


def _cast(values: NDArray[np.floating], dtype: np.dtype[np.generic]) -> Pixels:
    """Return values in another type, rounded and clipped where it is an integer one."""
    if dtype.kind in "iu":
        limits = np.iinfo(cast(Any, dtype))
        values = np.rint(values)
        np.clip(values, limits.min, limits.max, out=values)
    return values.astype(dtype)


def rectangle_counts(
    mask: NDArray[np.bool_],
    first: tuple[NDArray[np.int64], NDArray[np.int64]],
    after: tuple[NDArray[np.int64], NDArray[np.int64]],
) -> NDArray[np.int64]:
    """Return how many pixels of a mask (H, W) are set in rectangles, by (rows, columns) of their corners."""
    sums: NDArray[Any] = cv2.integral(np.ascontiguousarray(mask).view(np.uint8))  # (H + 1, W + 1), exact below 2^31 px
    (y0, x0), (y1, x1) = first, after
    return np.asarray(sums[y1, x1] - sums[y0, x1] - sums[y1, x0] + sums[y0, x0], np.int64)
