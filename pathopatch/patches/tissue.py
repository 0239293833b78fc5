"""Which pixels of a slide are tissue.

The thresholds and the cleaned mask come from the overview; at the target mpp a pixel is tissue if it passes a
threshold and lies in the mask. What the overview's colours show to be ink, a scanner's border or never scanned is no
tissue. A mask that was supplied takes the place of all this. Pure arithmetic on arrays.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from pathopatch.config import TissueConfig
from pathopatch.patches.foreign import find_foreign
from pathopatch.patches.signal import Background, signal_windows, spread_floor, tissue_signal, windows_by_threshold
from pathopatch.patches.threshold import find_threshold, passing

__all__ = ["SUPPLIED", "Background", "TissueModel", "clean_mask", "fit_tissue", "supplied_tissue"]


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
    grown = cv2.dilate(mask.astype(np.uint8), np.ones((reach, reach), np.uint8))
    count, pieces = cv2.connectedComponents(grown, connectivity=8)
    area_um2 = np.bincount(pieces[mask], minlength=count) * um2_per_px
    kept = mask & (area_um2 >= min_speck_um2)[pieces]
    holes = _small_holes(kept, max_hole_um2 / um2_per_px)
    return np.asarray(kept | holes, np.bool_)


def _small_holes(mask: NDArray[np.bool_], max_hole_px: float) -> NDArray[np.bool_]:
    """Return the enclosed pieces of background up to an area."""
    _, pieces, stats, _ = cv2.connectedComponentsWithStats((~mask).astype(np.uint8), connectivity=4)
    height, width = mask.shape
    left, top = stats[:, cv2.CC_STAT_LEFT], stats[:, cv2.CC_STAT_TOP]
    right, bottom = left + stats[:, cv2.CC_STAT_WIDTH], top + stats[:, cv2.CC_STAT_HEIGHT]
    is_hole = (left > 0) & (top > 0) & (right < width) & (bottom < height)
    is_hole &= stats[:, cv2.CC_STAT_AREA] <= max_hole_px
    is_hole[0] = False  # component 0 is the mask itself
    return np.asarray(is_hole[pieces], np.bool_)


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
            np.minimum(((start + (np.arange(n) + 0.5) * downsample) / step).astype(np.int64), size - 1)
            for start, n, step, size in zip(
                (x, y), inside, (self.scale_x, self.scale_y), self.mask.shape[::-1], strict=True
            )
        )
        return np.asarray(self.mask[rows[:, None], columns[None, :]] != 0, np.bool_)

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
        found = np.zeros(patch.shape[1:], np.bool_)
        near = self.near(x, y, downsample, inside)
        if self.threshold is not None and near.any():
            signal = tissue_signal(patch[:, :height, :width], background=self.background, windows=self.windows)
            found[:height, :width] = near & (signal > np.float32(self.threshold))
        return found


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
        ink_share=float(ink.mean()),
        black_share=float(black.mean()),
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
