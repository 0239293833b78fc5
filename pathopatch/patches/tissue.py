"""Which pixels of a slide are tissue.

The thresholds and the cleaned mask come from the overview; at the target mpp a pixel is tissue if it passes a
threshold and lies in the mask. What the overview's colours show to be ink, a scanner's border or never scanned is no
tissue. A mask that was supplied takes the place of all this. Pure arithmetic on arrays.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache

import cv2
import numpy as np
from numpy.typing import NDArray

from pathopatch.config import TissueConfig
from pathopatch.patches.foreign import find_foreign
from pathopatch.patches.signal import Background, signal_windows, spread_floor, tissue_signal, windows_by_threshold
from pathopatch.patches.threshold import find_threshold, passing

__all__ = ["SUPPLIED", "Background", "TissueModel", "clean_mask", "fit_tissue", "supplied_tissue"]
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


SUPPLIED = -1.0
"""Threshold of a supplied mask: every pixel passes, the mask alone decides."""


@dataclass(frozen=True, kw_only=True, eq=False)
class TissueModel:
    """What tells tissue from background on one slide.

    Parameters
    ----------
    background : "dark" or "bright"
        Polarity.
    windows : ndarray of float64, shape (C, 2)
        (low, high) of the tissue signal per channel, source units; empty for a channel that shows no tissue.
    threshold : float or None
        A pixel passes if its signal is above it; None: the slide shows no tissue; `SUPPLIED`: the mask alone decides.
    mask : ndarray of uint8, shape (h, w)
        Cleaned mask on the overview, 1 is tissue.
    scale_x, scale_y : float
        Level-0 px per overview px.
    ink_share, black_share : float
        Shares of the overview that are pen marks, and black borders or unscanned areas; none of it is tissue.
    """

    background: Background
    windows: NDArray[np.float64]
    threshold: float | None
    mask: NDArray[np.uint8]
    scale_x: float
    scale_y: float
    ink_share: float = 0.0
    black_share: float = 0.0

    @property
    def is_supplied(self) -> bool:
        """Whether the mask was supplied, not found."""
        return self.threshold == SUPPLIED

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
        columns, rows = (
            _nearest(start, n, downsample, step, size)
            for start, n, step, size in zip(
                (x, y), inside, (self.scale_x, self.scale_y), self.mask.shape[::-1], strict=True
            )
        )
        if not (columns.size and rows.size):
            return np.zeros((rows.size, columns.size), np.bool_)
        part = self.mask[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1] != 0
        if not part.any() or part.all():
            return np.full((rows.size, columns.size), part[0, 0], np.bool_)
        wide = _picked(part, columns - columns[0], axis=1)  # narrow first: few rows are picked column by column
        return _picked(wide, rows - rows[0], axis=0)

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
        if near.any():
            np.logical_and(near, self._passing(patch[:, :height, :width]), out=near)
        if near.shape == patch.shape[1:]:
            return near
        found = np.zeros(patch.shape[1:], np.bool_)
        found[:height, :width] = near
        return found

    def _passing(self, pixels: NDArray[np.generic]) -> NDArray[np.bool_]:
        """Return which pixels (C, H, W) have a signal above the threshold, (H, W).

        Integers are compared with the first or last value that passes: the signal rises or falls with the value.
        """
        threshold = np.float32(0 if self.threshold is None else self.threshold)
        if pixels.dtype.kind not in "iu" or pixels.dtype.itemsize > 2 or threshold < 0:
            return tissue_signal(pixels, background=self.background, windows=self.windows) > threshold
        compare = np.greater_equal if self.background == "dark" else np.less_equal
        found: NDArray[np.bool_] | None = None
        for plane, limit in zip(pixels, self._limits(pixels.dtype), strict=True):
            if limit is not None:
                passing = compare(plane, limit)
                found = passing if found is None else np.logical_or(found, passing, out=found)
        return np.zeros(pixels.shape[1:], np.bool_) if found is None else found

    def _limits(self, dtype: np.dtype[np.generic]) -> list[np.generic | None]:
        """Return, per channel, the value from which on (dark) or up to which (bright) pixels pass; None: none does."""
        if dtype not in self._limits_of:
            bounds = np.iinfo(str(dtype))
            values = np.arange(bounds.min, bounds.max + 1).astype(dtype)
            limits: list[np.generic | None] = []
            for window in self.windows:
                signal = tissue_signal(values[None, None, :], background=self.background, windows=window[None])[0]
                passing = values[signal > np.float32(self.threshold or 0)]
                limits.append((passing[0] if self.background == "dark" else passing[-1]) if passing.size else None)
            self._limits_of[dtype] = limits
        return self._limits_of[dtype]

    @cached_property
    def _limits_of(self) -> dict[np.dtype[np.generic], list[np.generic | None]]:
        """What `_limits` has worked out."""
        return {}


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


def fit_tissue(
    overview: NDArray[np.generic],
    *,
    background: Background,
    config: TissueConfig,
    is_rgb_uint8: bool,
    scale_x: float,
    scale_y: float,
    mpp: float,
    counts: Sequence[bool] | None = None,
) -> TissueModel:
    """Return what tells tissue from background, found on a slide's overview.

    Parameters
    ----------
    overview : ndarray, shape (C, h, w)
        The whole slide, small, source units.
    background : "dark" or "bright"
        Polarity.
    config : TissueConfig
        Method, sizes and what is ignored; its `background` and `channels` are not read here.
    is_rgb_uint8 : bool
        Brightfield colour.
    scale_x, scale_y : float
        Level-0 px per overview px.
    mpp : float
        Micrometres per level-0 px.
    counts : sequence of bool, length C, optional
        Which channels make the signal; all if not given.
    """
    is_white_known = is_rgb_uint8 and background == "bright"
    um2_per_px = scale_x * scale_y * mpp**2
    none = np.zeros(overview.shape[1:], np.bool_)
    ink = black = none
    if is_white_known:
        found = find_foreign(
            overview.astype(np.uint8, copy=False),
            um_per_px=math.sqrt(um2_per_px),
            ignore_pens=config.ignore_pens,
            ignore_borders=config.ignore_borders,
        )
        ink, black = found.ink, found.black
    specimen = ~(ink | black)
    windows = signal_windows(overview, background=background, is_rgb_uint8=is_rgb_uint8)
    if counts is not None:
        windows[~np.asarray(counts, np.bool_)] = 0.0
    method, fixed = config.method, config.fixed_threshold
    if config.combine == "each" and method != "fixed" and not is_white_known:
        windows = windows_by_threshold(overview, windows, background=background, method=config.method)
        method, fixed = "fixed", 0.5 if (windows[:, 1] > windows[:, 0]).any() else None
    signal = tissue_signal(overview, background=background, windows=windows)
    threshold = find_threshold(
        signal,
        method,
        fixed,
        usable=specimen,
        spread=spread_floor(windows, overview.dtype, is_white_known=is_white_known),
        is_white_known=is_white_known,
    )
    mask = clean_mask(
        passing(signal, threshold) & specimen,
        um2_per_px=um2_per_px,
        min_speck_um2=config.min_speck_um2,
        max_hole_um2=config.max_hole_um2,
    )
    return TissueModel(
        background=background,
        windows=windows,
        threshold=threshold,
        mask=(mask & specimen).astype(np.uint8),
        scale_x=scale_x,
        scale_y=scale_y,
        ink_share=np.count_nonzero(ink) / ink.size,
        black_share=np.count_nonzero(black) / black.size,
    )


def supplied_tissue(
    mask: NDArray[np.bool_],
    *,
    background: Background,
    channels: int,
    overview_px: tuple[int, int],
    scale_x: float,
    scale_y: float,
) -> TissueModel:
    """Return a slide's tissue as a supplied mask tells it.

    Parameters
    ----------
    mask : ndarray of bool, shape (H, W)
        Any scale, covering the whole slide. It is brought to the overview's grid: a pixel there is tissue if at least
        half of what it covers is; neither specks nor holes are touched.
    background : "dark" or "bright"
        Polarity.
    channels : int
        Number of the slide's channels, C.
    overview_px : tuple of int
        (width, height) of the overview.
    scale_x, scale_y : float
        Level-0 px per overview px.
    """
    is_finer = mask.shape[1] > overview_px[0] or mask.shape[0] > overview_px[1]
    interpolation = cv2.INTER_AREA if is_finer else cv2.INTER_NEAREST_EXACT
    shares = cv2.resize(mask.astype(np.float32), overview_px, interpolation=interpolation)
    return TissueModel(
        background=background,
        windows=np.zeros((channels, 2)),
        threshold=SUPPLIED,
        mask=(shares >= 0.5 - 1e-6).astype(np.uint8),
        scale_x=scale_x,
        scale_y=scale_y,
    )
