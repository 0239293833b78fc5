"""Which pixels of a slide are tissue.

The threshold and the cleaned mask come from the overview; at the target mpp a pixel is tissue if it passes the
threshold and lies in the mask. Both work on a *tissue signal* in [0, 1] that is high on tissue for either polarity:
on a bright background the darkest channel counts, on a dark background the brightest one. Pure arithmetic on arrays.

Whether there is tissue at all is decided, never assumed: Otsu's method splits pure noise as readily as tissue. A split
is accepted only if it leaves a compact background, that is if the two classes' means are at least `SEPARATION`
standard deviations of the lower class apart. Gaussian, Poisson and exponential noise give 2.3 to 3.2, uniform values,
gradients and vignettes 3.0 to 3.6; the real slides of both polarities that this was tried on gave 3.9 to 17 where
background was in view. On a slide that is mostly tissue the first split falls within the tissue; the lower class is
then split again, `SPLITS` times at most. Where no split is accepted there is no tissue, with one exception: uint8 RGB
on a bright background has a known white, so that a slide without any glass in view is told by its median.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import cv2
import numpy as np
from numpy.typing import NDArray
from skimage.filters import threshold_triangle

from pathopatch.config import TissueConfig
from pathopatch.patches.intensity import scale

Background = Literal["dark", "bright"]
SEPARATION = 3.8
SPLITS = 3
_BINS = 512
_SAMPLE_PX = 2**21  # thresholds are found on every k-th row and column of larger overviews
_DARK_PERCENTILES = (1.0, 99.9)
_BRIGHT_PERCENTILES = (0.1, 99.0)
_GLASS_SPREAD = 0.01  # of full scale: glass is never called more even than that, so 10 grey levels are no tissue
_DARKEST_GLASS = 0.2  # signal of a bright RGB slide whose darkest channel is at 204 of 255


def tissue_signal(
    pixels: NDArray[np.generic], *, background: Background, windows: NDArray[np.float64]
) -> NDArray[np.float32]:
    """Return how much like tissue each pixel is.

    Parameters
    ----------
    pixels : ndarray, shape (C, H, W)
        Source units.
    background : "dark" or "bright"
        Polarity.
    windows : ndarray of float64, shape (C, 2)
        (low, high) per channel; a channel whose window is empty does not count.

    Returns
    -------
    ndarray of float32, shape (H, W)
        In [0, 1]: the largest of the channels, scaled, on a dark background; 1 minus the smallest on a bright one.
    """
    signal = np.zeros(pixels.shape[1:], np.float32)
    for channel in np.flatnonzero(windows[:, 1] > windows[:, 0]):
        scaled = scale(pixels[channel : channel + 1], windows[channel : channel + 1])[0]  # (H, W)
        np.maximum(signal, scaled if background == "dark" else 1 - scaled, out=signal)
    return signal


def signal_windows(overview: NDArray[np.generic], *, background: Background, is_rgb_uint8: bool) -> NDArray[np.float64]:
    """Return the intensities between which the tissue signal runs, per channel.

    Parameters
    ----------
    overview : ndarray, shape (C, H, W)
        The whole slide, source units. No tissue is known yet, so every pixel counts.
    background : "dark" or "bright"
        Polarity.
    is_rgb_uint8 : bool
        Brightfield colour: on a bright background the windows are 0 to 255.

    Returns
    -------
    ndarray of float64, shape (C, 2)
        (low, high) percentiles. A channel that shows no tissue of its own (noise alone) gets an empty window, high
        equal to low: its noise must not drown the other channels.
    """
    if background == "bright" and is_rgb_uint8:
        return np.tile(np.array([[0.0, 255.0]]), (len(overview), 1))
    percentiles = _DARK_PERCENTILES if background == "dark" else _BRIGHT_PERCENTILES
    found = np.empty((len(overview), 2))
    for index, channel in enumerate(overview):
        low, high = np.percentile(channel, percentiles).astype(np.float64)
        window = np.array([[low, high]])
        signal = tissue_signal(overview[index : index + 1], background=background, windows=window)
        spread = spread_floor(window, overview.dtype, is_white_known=False)
        found[index] = window if _accepted_split(signal, spread) is not None else (low, low)
    return found


def spread_floor(windows: NDArray[np.float64], dtype: np.dtype[np.generic], *, is_white_known: bool) -> float:
    """Return the least standard deviation that a background is credited with, in units of the signal.

    Parameters
    ----------
    windows : ndarray of float64, shape (C, 2)
        (low, high) per channel, source units.
    dtype : dtype
        The source's type: integers are never known better than to half a step.
    is_white_known : bool
        Whether the slide is uint8 RGB on a bright background.
    """
    if is_white_known:
        return _GLASS_SPREAD
    widths = windows[:, 1] - windows[:, 0]
    if dtype.kind not in "iu" or not (widths > 0).any():
        return 1e-6
    return float(0.5 / widths[widths > 0].max())


def find_threshold(
    signal: NDArray[np.float32],
    method: str = "otsu",
    fixed: float | None = None,
    *,
    spread: float = 1e-6,
    is_white_known: bool = False,
) -> float | None:
    """Return the signal above which a pixel is tissue; None if the slide shows no tissue.

    Parameters
    ----------
    signal : ndarray of float32, shape (H, W)
        Tissue signal of the overview, in [0, 1]. It is averaged over 3 x 3 pixels first, against noise.
    method : "otsu", "triangle" or "fixed"
        How the threshold is found. Otsu and triangle share one test of whether there is tissue (see the module).
    fixed : float, optional
        The threshold of the method "fixed", which asks for no test.
    spread : float
        Least standard deviation of a background, see `spread_floor`.
    is_white_known : bool
        Whether the slide is uint8 RGB on a bright background: if it has one population only, it is tissue throughout
        where its median signal is above 0.2 (darkest channel below 204), and glass else.
    """
    if method == "fixed":
        return fixed
    split = _accepted_split(signal, spread)
    if split is None:
        is_all_tissue = is_white_known and float(np.median(signal)) > _DARKEST_GLASS
        return _DARKEST_GLASS if is_all_tissue else None
    if method == "triangle":
        return float(threshold_triangle(cv2.blur(signal, (3, 3)), nbins=_BINS))  # type: ignore[no-untyped-call]
    return split


def _accepted_split(signal: NDArray[np.float32], spread: float) -> float | None:
    """Return Otsu's threshold, found in the lower class again until that is compact; None if it never is."""
    step = math.isqrt(signal.size // _SAMPLE_PX) or 1
    values: NDArray[np.float32] = np.asarray(cv2.blur(signal, (3, 3))[::step, ::step], np.float32).ravel()
    for _ in range(SPLITS):
        threshold = _otsu(values)
        if threshold is None:
            return None
        is_low = values <= threshold
        low, high = values[is_low], values[~is_low]
        if low.size == 0 or high.size == 0:
            return None
        distance = float(high.mean(dtype=np.float64) - low.mean(dtype=np.float64))
        if distance >= SEPARATION * max(float(low.std(dtype=np.float64)), spread):
            return threshold
        values = low
    return None


def _otsu(values: NDArray[np.float32]) -> float | None:
    """Return the threshold of largest between-class variance, the middle of a plateau; None for one value only."""
    low, high = float(values.min()), float(values.max())
    if not high > low:
        return None
    counts, edges = np.histogram(values, bins=_BINS, range=(low, high))
    centres = (edges[:-1] + edges[1:]) / 2
    below = np.cumsum(counts)[:-1].astype(np.float64)
    above = values.size - below
    sum_below = np.cumsum(counts * centres)
    mean_below = sum_below[:-1] / np.maximum(below, 1)
    mean_above = (sum_below[-1] - sum_below[:-1]) / np.maximum(above, 1)
    between = below * above * (mean_below - mean_above) ** 2
    best = np.flatnonzero(between >= between.max() * (1 - 1e-12))
    return float((edges[best[0] + 1] + edges[best[-1] + 1]) / 2)


def passing(signal: NDArray[np.float32], threshold: float | None) -> NDArray[np.bool_]:
    """Return the pixels above a threshold that are not alone there.

    Parameters
    ----------
    signal : ndarray of float32, shape (H, W)
        Tissue signal of the overview.
    threshold : float or None
        None: no tissue.

    Returns
    -------
    ndarray of bool, shape (H, W)
        Above the threshold, and so is the mean of some 3 x 3 pixels around: noise passes one test, not both.
    """
    if threshold is None:
        return np.zeros(signal.shape, np.bool_)
    is_supported = cv2.dilate((cv2.blur(signal, (3, 3)) > threshold).astype(np.uint8), np.ones((3, 3), np.uint8))
    return np.asarray((signal > np.float32(threshold)) & (is_supported != 0), np.bool_)


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
        A pixel passes if its signal is above it; None: the slide shows no tissue.
    mask : ndarray of uint8, shape (h, w)
        Cleaned mask on the overview, 1 is tissue.
    scale_x, scale_y : float
        Level-0 px per overview px.
    """

    background: Background
    windows: NDArray[np.float64]
    threshold: float | None
    mask: NDArray[np.uint8]
    scale_x: float
    scale_y: float

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
        found = np.zeros(patch.shape[1:], np.bool_)
        if self.threshold is None:
            return found
        near = self.near(x, y, downsample, inside)
        if near.any():
            np.logical_and(near, self._passing(patch[:, :height, :width]), out=found[:height, :width])
        return found

    def _passing(self, pixels: NDArray[np.generic]) -> NDArray[np.bool_]:
        """Return which pixels (C, H, W) have a signal above the threshold, (H, W).

        Integers are compared with the first or last value that passes: the signal rises or falls with the value.
        """
        threshold = np.float32(0 if self.threshold is None else self.threshold)
        if pixels.dtype.kind not in "iu" or pixels.dtype.itemsize > 2 or threshold < 0:
            return tissue_signal(pixels, background=self.background, windows=self.windows) > threshold
        found = np.zeros(pixels.shape[1:], np.bool_)
        compare = np.greater_equal if self.background == "dark" else np.less_equal
        for plane, limit in zip(pixels, self._limits(pixels.dtype), strict=True):
            if limit is not None:
                found |= compare(plane, limit)
        return found

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
) -> TissueModel:
    """Return what tells tissue from background, found on a slide's overview.

    Parameters
    ----------
    overview : ndarray, shape (C, h, w)
        The whole slide, small, source units.
    background : "dark" or "bright"
        Polarity.
    config : TissueConfig
        Method and sizes; its `background` is not read here.
    is_rgb_uint8 : bool
        Brightfield colour.
    scale_x, scale_y : float
        Level-0 px per overview px.
    mpp : float
        Micrometres per level-0 px.
    """
    is_white_known = is_rgb_uint8 and background == "bright"
    windows = signal_windows(overview, background=background, is_rgb_uint8=is_rgb_uint8)
    signal = tissue_signal(overview, background=background, windows=windows)
    spread = spread_floor(windows, overview.dtype, is_white_known=is_white_known)
    threshold = find_threshold(
        signal, config.method, config.fixed_threshold, spread=spread, is_white_known=is_white_known
    )
    mask = clean_mask(
        passing(signal, threshold),
        um2_per_px=scale_x * scale_y * mpp**2,
        min_speck_um2=config.min_speck_um2,
        max_hole_um2=config.max_hole_um2,
    )
    return TissueModel(
        background=background,
        windows=windows,
        threshold=threshold,
        mask=mask.astype(np.uint8),
        scale_x=scale_x,
        scale_y=scale_y,
    )
