"""Tell which pixels of a slide are tissue, and which were never scanned.

At the target mpp a pixel is tissue if it passes a threshold and lies in the overview's cleaned mask; both come from
`pathopatch.patches.tissue_fit`. A mask that was supplied takes the place of this. Pure arithmetic on arrays.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from pathopatch.patches.signal import tissue_signal
from pathopatch.slides.background import Polarities
from pathopatch.slides.glass import Illumination

_ROWS_AT_ONCE = 64  # of an overview's numbered pieces


def clean_mask(
    mask: NDArray[np.bool_], *, um2_per_px: float, min_speck_um2: float, max_hole_um2: float
) -> NDArray[np.bool_]:
    """Return a mask without small specks and without small holes.

    Parameters
    ----------
    mask : ndarray of bool, shape (H, W)
        Tissue on the overview.
    um2_per_px : float
        Area of a pixel of the mask.
    min_speck_um2 : float
        Tissue in one piece smaller than this becomes background. Pieces that are no further apart than the side of
        such a speck are one piece: fibres and nuclei are small, lie in company and are no dust.
    max_hole_um2 : float
        Background enclosed in one piece (4 neighbours) and up to this size becomes tissue. What touches the border is
        no hole.
    """
    reach = 2 * math.floor(math.sqrt(min_speck_um2 / um2_per_px) / 2) + 1
    grown = cv2.dilate(mask.view(np.uint8), np.ones((reach, reach), np.uint8))
    pieces, count = _numbered(grown, connectivity=8)
    is_large = _areas(pieces, count, mask) * um2_per_px >= min_speck_um2
    kept = mask if is_large[1:].all() else mask & _painted(pieces, is_large)
    return kept | _small_holes(kept, max_hole_um2 / um2_per_px)


def _small_holes(mask: NDArray[np.bool_], max_hole_px: float) -> NDArray[np.bool_]:
    """Return the enclosed pieces of background up to an area."""
    ground = ~mask
    pieces, count = _numbered(ground.view(np.uint8), connectivity=4)
    is_hole = _areas(pieces, count, ground) <= max_hole_px
    for side in (pieces[0], pieces[-1], pieces[:, 0], pieces[:, -1]):
        is_hole[side] = False
    is_hole[0] = False  # component 0 is the mask itself
    return _painted(pieces, is_hole)


def _numbered(mask: cv2.typing.MatLike, *, connectivity: int) -> tuple[NDArray[np.int32], int]:
    """Return the number of each pixel's piece, 0 outside of the mask, and how many numbers there are."""
    count, pieces = cv2.connectedComponents(mask, connectivity=connectivity)
    return np.asarray(pieces, np.int32), count


def _areas(pieces: NDArray[np.int32], count: int, mask: NDArray[np.bool_]) -> NDArray[np.int64]:
    """Return how many pixels of a mask (H, W) each of the numbered pieces (H, W) has, (count,)."""
    area = np.zeros(count, np.int64)
    for rows in _bands(len(mask)):
        found = np.bincount(pieces[rows][mask[rows]])
        area[: len(found)] += found
    return area


def _painted(pieces: NDArray[np.int32], is_chosen: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Return the pixels of the pieces that are chosen by their numbers."""
    found = np.zeros(pieces.shape, np.bool_)
    if is_chosen.any():
        for rows in _bands(len(pieces)):
            found[rows] = is_chosen[pieces[rows]]
    return found


def _bands(height: int) -> Iterator[slice]:
    """Yield some rows at a time: numbers of a whole overview in numpy's own type of index would be new memory."""
    for top in range(0, height, _ROWS_AT_ONCE):
        yield slice(top, top + _ROWS_AT_ONCE)


EVERY_PIXEL = -1.0
"""Threshold that every pixel passes: the mask alone decides."""


@dataclass(frozen=True, kw_only=True, eq=False)
class TissueModel:
    """What tells tissue from background on one slide.

    Parameters
    ----------
    polarities : tuple of {"dark", "bright"}, length C
        Of each channel.
    windows : ndarray of float64, shape (C, 2)
        (low, high) of the tissue signal per channel, source units; empty for a channel that shows no tissue.
    threshold : float or None
        A pixel passes if its signal is above it; None: the slide shows no tissue; `EVERY_PIXEL`: the mask decides.
    mask : ndarray of uint8, shape (h, w)
        Cleaned mask on the overview, 1 is tissue.
    scale_x, scale_y : float
        Level-0 px per overview px.
    unscanned : ndarray of uint8, shape (h, w), optional
        1 is an overview pixel that was never scanned: neither tissue nor background. None: all was scanned.
    levels : tuple of float, length C
        Background level of each channel, source units; NaN where it is not known.
    illumination : Illumination, optional
        By which the windows of bright channels are multiplied; None: even light.
    is_supplied : bool
        The mask was supplied, not found.
    is_unsure : bool
        Nothing told tissue from background: the configuration decided.
    ink_share : float
        Share of the overview that is pen marks, which are no tissue.
    confidence : float
        How sure the mask is, in [0, 1].
    doubts : tuple of str
        Why it is not sure; empty from `UNCERTAIN_BELOW` on.
    """

    polarities: Polarities
    windows: NDArray[np.float64]
    threshold: float | None
    mask: NDArray[np.uint8]
    scale_x: float
    scale_y: float
    unscanned: NDArray[np.uint8] | None = None
    levels: tuple[float, ...] = ()
    illumination: Illumination | None = None
    is_supplied: bool = False
    is_unsure: bool = False
    ink_share: float = 0.0
    confidence: float = 1.0
    doubts: tuple[str, ...] = ()

    @property
    def unscanned_share(self) -> float:
        """Share of the overview that was never scanned."""
        return 0.0 if self.unscanned is None else float(self.unscanned.mean())

    @property
    def share(self) -> float:
        """Share of the scanned part of the overview that is tissue; 0 where nothing was scanned."""
        scanned = self.mask.size if self.unscanned is None else int(np.count_nonzero(self.unscanned == 0))
        return np.count_nonzero(self.mask) / max(1, scanned)

    def near(self, x: int, y: int, downsample: float, inside: tuple[int, int]) -> NDArray[np.bool_]:
        """Return the overview's mask as the pixels of a patch see it (nearest).

        Parameters
        ----------
        x, y : int
            The patch's origin, level-0 px.
        downsample : float
            Level-0 px per px of the patch.
        inside : tuple of int
            (width, height) of the patch's part on the slide, px.

        Returns
        -------
        ndarray of bool, shape (height, width)
        """
        return nearest_part(self.mask, (self.scale_x, self.scale_y), (x, y), downsample, inside)

    def scanned(self, x: int, y: int, downsample: float, inside: tuple[int, int]) -> NDArray[np.bool_] | None:
        """Return which pixels of a patch were scanned, (height, width); None if all were. Arguments as of `near`."""
        if self.unscanned is None:
            return None
        missing = nearest_part(self.unscanned, (self.scale_x, self.scale_y), (x, y), downsample, inside)
        return ~missing if missing.any() else None

    def patch_mask(
        self, patch: NDArray[np.generic], x: int, y: int, downsample: float, inside: tuple[int, int]
    ) -> NDArray[np.bool_]:
        """Return which pixels of a patch are tissue.

        Parameters
        ----------
        patch : ndarray, shape (C, P, P)
            Source units, at the target mpp.
        x, y : int
            The patch's origin, level-0 px.
        downsample : float
            Level-0 px per px of the patch.
        inside : tuple of int
            (width, height) of the patch's part on the slide, px; beyond it nothing is tissue.

        Returns
        -------
        ndarray of bool, shape (P, P)
        """
        width, height = inside
        near = np.zeros((height, width), np.bool_) if self.threshold is None else self.near(x, y, downsample, inside)
        if near.any() and self.threshold != EVERY_PIXEL:
            light = None if self.illumination is None else self._light(x, y, downsample, inside)
            np.logical_and(near, self._passing(patch[:, :height, :width], light), out=near)
        if near.shape == patch.shape[1:]:
            return near
        found = np.zeros(patch.shape[1:], np.bool_)
        found[:height, :width] = near
        return found

    def _light(self, x: int, y: int, downsample: float, inside: tuple[int, int]) -> NDArray[np.float32]:
        """Return the illumination at the pixels of a patch, (height, width)."""
        assert self.illumination is not None
        height, width = self.mask.shape
        columns, rows = (
            2 * (start + (np.arange(n) + 0.5) * downsample) / size - 1
            for start, n, size in zip((x, y), inside, (width * self.scale_x, height * self.scale_y), strict=True)
        )
        return self.illumination.at(columns, rows)

    def _passing(self, pixels: NDArray[np.generic], light: NDArray[np.float32] | None) -> NDArray[np.bool_]:
        """Return which pixels (C, H, W) have a signal above the threshold, (H, W).

        Integers are compared with the first or last value that passes: the signal rises or falls with the value.
        """
        threshold = np.float32(0 if self.threshold is None else self.threshold)
        if light is not None:
            is_bright = np.array([polarity == "bright" for polarity in self.polarities])[:, None, None]
            pixels = np.where(is_bright, pixels.astype(np.float32) / light, pixels).astype(np.float32)
        if pixels.dtype.kind not in "iu" or pixels.dtype.itemsize > 2:
            return tissue_signal(pixels, polarities=self.polarities, windows=self.windows) > threshold
        found: NDArray[np.bool_] | None = None
        for plane, polarity, limit in zip(pixels, self.polarities, self._limits(pixels.dtype), strict=True):
            if limit is not None:
                passing = plane >= limit if polarity == "dark" else plane <= limit
                found = passing if found is None else np.logical_or(found, passing, out=found)
        return np.zeros(pixels.shape[1:], np.bool_) if found is None else found

    def _limits(self, dtype: np.dtype[np.generic]) -> list[Any | None]:
        """Return, per channel, the value from which on (dark) or up to which (bright) pixels pass; None: none does."""
        if dtype not in self._limits_of:
            bounds = np.iinfo(str(dtype))
            values = np.arange(bounds.min, bounds.max + 1).astype(dtype)
            limits: list[Any | None] = []
            for window, polarity in zip(self.windows, self.polarities, strict=True):
                signal = tissue_signal(values[None, None, :], polarities=(polarity,), windows=window[None])[0]
                passing = values[signal > np.float32(self.threshold or 0)]
                limits.append((passing[0] if polarity == "dark" else passing[-1]) if passing.size else None)
            self._limits_of[dtype] = limits
        return self._limits_of[dtype]

    @cached_property
    def _limits_of(self) -> dict[np.dtype[np.generic], list[Any | None]]:
        """What `_limits` has worked out."""
        return {}


def nearest_part(
    image: NDArray[Any],
    scale: tuple[float, float],
    origin: tuple[int, int],
    downsample: float,
    inside: tuple[int, int],
) -> NDArray[np.bool_]:
    """Return a mask of the whole slide as the pixels of a patch see it (nearest).

    Parameters
    ----------
    image : ndarray, shape (h, w)
        The mask; not 0 is in it.
    scale : tuple of float
        Level-0 px per px of the mask, (x, y).
    origin : tuple of int
        (x, y) of the patch, level-0 px.
    downsample : float
        Level-0 px per px of the patch.
    inside : tuple of int
        (width, height) of the patch's part on the slide, px.

    Returns
    -------
    ndarray of bool, shape (height, width)
    """
    columns, rows = (
        _nearest(start, n, downsample, step, size)
        for start, n, step, size in zip(origin, inside, scale, image.shape[::-1], strict=True)
    )
    if not (columns.size and rows.size):
        return np.zeros((rows.size, columns.size), np.bool_)
    part = image[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1] != 0
    if not part.any() or part.all():
        return np.full((rows.size, columns.size), part[0, 0], np.bool_)
    wide = _picked(part, columns - columns[0], axis=1)  # narrow first: few rows are picked column by column
    return _picked(wide, rows - rows[0], axis=0)


@lru_cache(maxsize=1024)  # the patches of a column, and of a row, share theirs
def _nearest(start: int, n: int, downsample: float, step: float, size: int) -> NDArray[np.int64]:
    """Return which of the mask's pixels along an axis lies nearest to each of a patch's; not to be written into."""
    found = np.minimum(((start + (np.arange(n) + 0.5) * downsample) / step).astype(np.int64), size - 1)
    found.flags.writeable = False
    return found


def _picked(mask: NDArray[np.bool_], places: NDArray[np.int64], *, axis: int) -> NDArray[np.bool_]:
    """Return rows or columns of a mask, not copied where they are all of them in order."""
    is_whole = np.array_equal(places, np.arange(mask.shape[axis]))
    return mask if is_whole else np.take(mask, places, axis=axis)


def supplied_tissue(
    mask: NDArray[np.bool_],
    *,
    polarities: Polarities,
    overview_px: tuple[int, int],
    scale_x: float,
    scale_y: float,
    unscanned: NDArray[np.bool_] | None = None,
) -> TissueModel:
    """Return a slide's tissue as a supplied mask tells it.

    Parameters
    ----------
    mask : ndarray of bool, shape (H, W)
        Any scale, covering the whole slide. It is brought to the overview's grid: a pixel there is tissue if at least
        half of what it covers is; neither specks nor holes are touched.
    polarities : tuple of {"dark", "bright"}, length C
        Of each channel.
    overview_px : tuple of int
        (width, height) of the overview.
    scale_x, scale_y : float
        Level-0 px per overview px.
    unscanned : ndarray of bool, shape (h, w), optional
        Overview pixels that were never scanned; they are no tissue.
    """
    is_finer = mask.shape[1] > overview_px[0] or mask.shape[0] > overview_px[1]
    interpolation = cv2.INTER_AREA if is_finer else cv2.INTER_NEAREST_EXACT
    shares = cv2.resize(mask.astype(np.float32), overview_px, interpolation=interpolation)
    is_tissue = shares >= 0.5 - 1e-6
    missing = unscanned if unscanned is not None and unscanned.any() else None
    return TissueModel(
        polarities=polarities,
        windows=np.zeros((len(polarities), 2)),
        threshold=EVERY_PIXEL,
        mask=(is_tissue if missing is None else is_tissue & ~missing).astype(np.uint8),
        scale_x=scale_x,
        scale_y=scale_y,
        unscanned=None if missing is None else missing.astype(np.uint8),
        is_supplied=True,
    )
