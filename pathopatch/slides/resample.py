"""How pixels of a level become pixels of another size: exact area means, in bounded memory. Arrays only."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any, cast

import cv2
import numpy as np
from numpy.typing import NDArray

from pathopatch.slides.planes import Pixels, planes
from pathopatch.slides.resolution import MPP_TOLERANCE

_BAND_BYTES = 32 * 2**20  # source pixels held at a time; the C library keeps no larger memory for the next band
_ROWS_AT_ONCE = 8  # target rows that are summed together: what they take fits into a cache
_CV2_MEANS = ("uint8", "uint16", "int16")  # integers that cv2 takes area means of
_CV2_CHANNELS = 4  # that it does so for at once
SAME_FACTOR = 1e-5  # factors this close to 1 move a pixel of a 4096 px patch by 0.04 px: no resampling


def nominal_downsample(size: tuple[int, int], level_size: tuple[int, int]) -> float:
    """Return how many level-0 px make one px of a level.

    Writers halve a size and drop or add the odd pixel, so the quotient of the sizes is off by up to a pixel over the
    whole slide. If an integer explains both sides, it is the factor; otherwise the mean quotient is.

    Parameters
    ----------
    size, level_size : (int, int)
        Width and height of level 0 and of the level, px.
    """
    quotients = [whole / part for whole, part in zip(size, level_size, strict=True)]
    mean = sum(quotients) / 2
    for factor in {round(mean), round(max(quotients)), round(min(quotients))}:
        if factor >= 1 and all(
            part in (whole // factor, -(-whole // factor)) for whole, part in zip(size, level_size, strict=True)
        ):
            return float(factor)
    return mean


# Levels hold what the scanner made of its pixels, and a patch begins on a whole px of its level. On CMU-1-Small-Region
# at 4 um/px a model's probabilities moved by up to .21 at a factor of 1, .09 at 2, .06 at 4 and not at 8; reading a
# patch of 256 px took 6, 2, 10 and 40 ms, a network of that size 30. Measured by tests/benchmarks/levels.py.
EXACT_READ_FACTOR = 4.0


def level_for(downsamples: Sequence[float], downsample: float, *, exact_factor: float = 1.0) -> int:
    """Return the index of the level that pixels are read from; 0 if none is as fine as asked.

    That is the finest level of which at most `exact_factor` px, by as many, make one target px. Where there is none,
    and with a factor of 1, it is the coarsest level that is at least as fine as asked.

    Parameters
    ----------
    downsamples : sequence of float
        Of each level, level-0 px per level px; the first is 1.
    downsample : float
        What is asked for, level-0 px per target px.
    exact_factor : float
        At least 1. A target px costs at most its square in source px.
    """
    fitting = [i for i, value in enumerate(downsamples) if value <= downsample * (1 + SAME_FACTOR)]
    near = [i for i in fitting if downsample <= downsamples[i] * exact_factor * (1 + MPP_TOLERANCE)]
    if exact_factor > 1 and near:
        return min(near, key=lambda i: downsamples[i])
    return max(fitting, key=lambda i: downsamples[i], default=0)


def shrink(region: Pixels, side_px: int, factor: float) -> Pixels:
    """Return the top-left square of a region, each target pixel the mean of the area that it covers.

    Parameters
    ----------
    region : ndarray, shape (C, n, n)
        At least ``side_px * factor`` pixels on each side.
    side_px : int
        Width and height of the result, target px.
    factor : float
        Region px per target px, kept exactly (not rounded to whole pixels). Below 1 the result is interpolated
        linearly.

    Returns
    -------
    ndarray, shape (C, side_px, side_px)
        The region's type, rounded to the nearest integer where it is one.
    """
    if region.dtype == np.int8:  # cv2 resizes none
        return shrink(region.astype(np.int16), side_px, factor).astype(np.int8)
    out = np.empty((region.shape[0], side_px, side_px), region.dtype)
    method = cv2.INTER_AREA if factor >= 1 else cv2.INTER_LINEAR
    whole = round(factor)
    is_whole = whole >= 1 and math.isclose(factor, whole, rel_tol=1e-9)
    for channel, plane in zip(out, planes(region), strict=True):
        if is_whole:
            square = np.ascontiguousarray(plane[: side_px * whole, : side_px * whole])
            channel[:] = cv2.resize(square, (side_px, side_px), interpolation=method)
        else:
            channel[:] = _resized(plane, factor, factor, method)[:side_px, :side_px]
    return out


def resized(planes: Iterable[Pixels], size: tuple[int, int], *, interpolation: int = cv2.INTER_AREA) -> Pixels:
    """Return planes (h, w) at another size, ndarray of shape (C, height, width) in their type.

    Parameters
    ----------
    planes : iterable of ndarray
        The channels.
    size : (int, int)
        Width and height, px.
    interpolation : int
        One of cv2's.
    """
    out = []
    for plane in planes:
        known = plane.astype(np.int16) if plane.dtype == np.int8 else plane  # cv2 resizes no int8
        out.append(cv2.resize(cast(Any, known), size, interpolation=interpolation).astype(plane.dtype, copy=False))
    return np.stack(out)


def shrink_in_bands(
    read: Callable[[int, int], Pixels | list[Pixels]],
    *,
    source: tuple[int, int, int],
    dtype: np.dtype[np.generic],
    target: tuple[int, int],
    factors: tuple[float, float],
) -> Pixels:
    """Return area means of a large image that is read in bands of rows, so that memory stays bounded.

    Parameters
    ----------
    read : callable
        ``read(top, rows)`` returns source pixels of shape (C, rows, width), as an array or plane by plane.
    source : (int, int, int)
        Channels, height and width of the source.
    dtype : dtype
        Of source and result.
    target : (int, int)
        Height and width of the result.
    factors : (float, float)
        Source px per target px, down and across, at least 1 each, kept exactly. Target pixels that reach past the
        source are means of what is inside. Means of integers that lie in the middle of two are rounded to either.
    """
    channels, height, width = source
    out = np.empty((channels, *target), dtype)
    is_plain = target == (height, width) and factors == (1, 1)
    edges = np.clip(np.arange(target[0] + 1) * factors[0], 0, height)
    rows = max(1, int(_BAND_BYTES / (channels * width * dtype.itemsize) / factors[0]))
    blocks = _rows_of_blocks(source, target, factors) if dtype.name in _CV2_MEANS else 0
    first = 0
    while first < target[0]:
        last = min(first + rows, blocks if first < blocks else target[0])
        band_edges = edges[first : last + 1]
        top = min(int(band_edges[0]), height - 1)
        bottom = max(top + 1, math.ceil(band_edges[-1]))
        band = read(top, bottom - top)
        if last <= blocks:
            _shrink_blocks(band, out[:, first:last], (round(factors[0]), round(factors[1])))
        else:
            for channel, plane in zip(out, planes(band) if isinstance(band, np.ndarray) else band, strict=True):
                across = plane if is_plain else _shrink_across(plane, target[1], factors[1])
                channel[first:last] = across if is_plain else _cast(_shrink_down(across, band_edges - top), dtype)
        first = last
    return out


def _resized(plane: Pixels, down: float, across: float, method: int) -> Pixels:
    """Return a plane resampled by exact factors, from its top-left corner on."""
    height, width = plane.shape
    size = round(height / down), round(width / across)
    if size == (height, width):  # cv2 would copy
        rows = _row_weights(np.minimum(np.arange(height + 1) * down, height), height)
        columns = _row_weights(np.minimum(np.arange(width + 1) * across, width), width)
        return _cast(rows @ plane.astype(np.float64) @ columns.T, plane.dtype)
    plain = np.ascontiguousarray(plane)
    return np.asarray(cv2.resize(cast(Any, plain), None, fx=1 / across, fy=1 / down, interpolation=method))


def _row_weights(edges: NDArray[np.float64], rows: int) -> NDArray[np.float64]:
    """Return (targets, rows): the share of each source row in each target row; every line sums to 1."""
    starts = np.arange(rows, dtype=np.float64)
    low, high = edges[:-1, None], edges[1:, None]
    weights = np.clip(np.minimum(high, starts + 1) - np.maximum(low, starts), 0, 1)
    empty = weights.sum(axis=1) <= 0  # a target row past a level that was rounded down: its last row
    weights[empty, rows - 1] = 1
    normalised: NDArray[np.float64] = weights / weights.sum(axis=1, keepdims=True)
    return normalised


def _rows_of_blocks(source: tuple[int, int, int], target: tuple[int, int], factors: tuple[float, float]) -> int:
    """Return how many rows of the target are means of whole blocks of source pixels; 0 if a factor is no integer."""
    down, across = round(factors[0]), round(factors[1])
    is_whole = factors[0] == down and factors[1] == across and down * across > 1
    return min(target[0], source[1] // down) if is_whole and target[1] * across <= source[2] else 0


def _shrink_blocks(band: Pixels | list[Pixels], out: Pixels, factors: tuple[int, int]) -> None:
    """Fill ``out`` (C, h, w) with the means of blocks; ``factors`` are their height and width."""
    height, width = out.shape[1:]
    rows, columns = height * factors[0], width * factors[1]
    if isinstance(band, np.ndarray) and band.transpose(1, 2, 0).flags.c_contiguous and 1 < len(band) <= _CV2_CHANNELS:
        mixed = cast(Any, band.transpose(1, 2, 0)[:rows, :columns])
        means = cv2.resize(mixed, (width, height), interpolation=cv2.INTER_AREA)  # (h, w, C)
        np.copyto(out, planes(means.transpose(2, 0, 1)))
        return
    for channel, plane in zip(out, band, strict=True):
        part = cast(Any, np.ascontiguousarray(plane[:rows, :columns]))
        channel[:] = cv2.resize(part, (width, height), interpolation=cv2.INTER_AREA)


def _shrink_down(rows: NDArray[np.floating], edges: NDArray[np.float64]) -> NDArray[np.floating]:
    """Return the means of the rows between consecutive edges; each edge counts rows from the first.

    Not as a product of matrices: for so little work its threads cost more than they save.
    """
    means = np.zeros((len(edges) - 1, rows.shape[1]), rows.dtype)
    for first in range(0, len(means), _ROWS_AT_ONCE):
        few = edges[first : first + _ROWS_AT_ONCE + 1]
        top = min(int(few[0]), len(rows) - 1)
        bottom = min(max(top + 1, math.ceil(few[-1])), len(rows))
        weights = _row_weights(few - top, bottom - top).astype(rows.dtype)
        starts = np.argmax(weights > 0, axis=1)
        for further in range(int(np.count_nonzero(weights, axis=1).max())):
            places = np.minimum(starts + further, bottom - top - 1)
            share = np.where(starts + further == places, weights[np.arange(len(places)), places], 0).astype(rows.dtype)
            means[first : first + len(few) - 1] += share[:, None] * rows[top + places]
    return means


def _shrink_across(plane: Pixels, width: int, factor: float) -> NDArray[np.floating]:
    """Return float area means along the rows; a missing last column repeats its neighbour."""
    wide = np.float64 if plane.dtype.itemsize > 4 else np.float32
    exact: NDArray[np.floating] = plane.astype(wide)
    if round(exact.shape[1] / factor) < 1:
        exact = exact.mean(axis=1, keepdims=True)
    elif abs(factor - 1) > 1e-12:
        exact = _resized(exact, 1, factor, cv2.INTER_AREA).astype(wide, copy=False)
    if exact.shape[1] < width:
        exact = np.pad(exact, ((0, 0), (0, width - exact.shape[1])), mode="edge")
    return exact[:, :width]


def _cast(values: NDArray[np.floating], dtype: np.dtype[np.generic]) -> Pixels:
    """Return values in another type, rounded and clipped where it is an integer one."""
    if dtype.kind in "iu":
        limits = np.iinfo(cast(Any, dtype))
        values = np.rint(values)
        np.clip(values, limits.min, limits.max, out=values)
    return values.astype(dtype)
