"""Above which signal a pixel is tissue, and whether a slide shows tissue at all.

That there is tissue is decided, never assumed: Otsu's method splits pure noise as readily as tissue. A split is
accepted only if it leaves a compact background, that is if the two classes' means are at least `SEPARATION` standard
deviations of the lower class apart. Gaussian, Poisson and exponential noise give 2.3 to 3.2, uniform values, gradients
and vignettes 3.0 to 3.6; the real slides of both polarities that this was tried on gave 3.9 to 17 where background was
in view. On a slide that is mostly tissue the first split falls within the tissue; the lower class is then split again,
`SPLITS` times at most. Where no split is accepted there is no tissue, with one exception: uint8 RGB on a bright
background has a known white, so that a slide without any glass in view is told by its median.

Once a split is accepted its lower class is split once more, and that split is taken if it is accepted too: nuclei and
stroma are further apart than pale stroma and glass, and the first split leaves pale tissue with the glass. Pixels of no
signal at all take no part in this: padding and glass are two levels as well. Pure arithmetic on arrays.
"""

from __future__ import annotations

import math

import cv2
import numpy as np
from numpy.typing import NDArray

SEPARATION = 3.8
SPLITS = 3
_BINS = 512
_SAMPLE_PX = 2**21  # thresholds are found on every k-th row and column of larger overviews
_DARKEST_GLASS = 0.2  # signal of a bright RGB slide whose darkest channel is at 204 of 255
_WHITE_STEP = 0.06  # of full scale: on a slide that is all tissue, what is this close to the whitest is a gap
_DARKEST_TINT = 0.45  # glass under tinted light reached 0.37 on real fields; what is darker than this is tissue
_PALEST_TISSUE = 0.1  # of full scale: pale stroma on real fields is 0.12 to 0.22 above glass, other glass 0.05


def find_threshold(
    signal: NDArray[np.float32],
    method: str = "otsu",
    fixed: float | None = None,
    *,
    usable: NDArray[np.bool_] | None = None,
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
    usable : ndarray of bool, shape (H, W), optional
        Pixels that count; all if not given.
    spread : float
        Least standard deviation of a background, see `spread_floor`.
    is_white_known : bool
        Whether the slide is uint8 RGB on a bright background. Then a background darker than 140 of 255 is none, and a
        slide of one population only is tissue throughout where its median signal is above 0.2 (darkest channel below
        204), up to the gaps that are nearly as white as its whitest pixels.
    """
    if method == "fixed":
        return fixed
    values = _averaged(signal, usable)
    split = _accepted(values, spread, is_white_known=is_white_known)
    if split is None:
        if not is_white_known or values.size == 0 or float(np.median(values)) <= _DARKEST_GLASS:
            return None
        return min(_DARKEST_GLASS, float(np.percentile(values, 0.5)) + _WHITE_STEP)
    if method == "triangle":
        from skimage.filters import threshold_triangle  # here: it takes longer to load than this module to work

        return float(threshold_triangle(values, nbins=_BINS))  # type: ignore[no-untyped-call]
    return split


def accepted_split(
    signal: NDArray[np.float32],
    spread: float,
    *,
    usable: NDArray[np.bool_] | None = None,
    is_white_known: bool = False,
) -> float | None:
    """Return Otsu's threshold, found in the lower class again as the module says; None if no split is accepted.

    Parameters
    ----------
    signal : ndarray of float32, shape (H, W)
        Tissue signal of the overview, in [0, 1].
    spread : float
        Least standard deviation of a background.
    usable : ndarray of bool, shape (H, W), optional
        Pixels that count; all if not given.
    is_white_known : bool
        Whether the slide is uint8 RGB on a bright background.
    """
    return _accepted(_averaged(signal, usable), spread, is_white_known=is_white_known)


def _accepted(values: NDArray[np.float32], spread: float, *, is_white_known: bool) -> float | None:
    """Return the split of averaged signals that is accepted, if one is."""
    for _ in range(SPLITS):
        split = _split(values, spread)
        if split is None:
            return None
        threshold, values, is_separate = split
        is_background = not is_white_known or float(values.mean(dtype=np.float64)) <= _DARKEST_TINT
        if is_separate and is_background:
            least = max(spread, _PALEST_TISSUE / SEPARATION) if is_white_known else spread
            further = _split(values[values > 0], least)
            return further[0] if further is not None and further[2] else threshold
    return None


def _averaged(signal: NDArray[np.float32], usable: NDArray[np.bool_] | None) -> NDArray[np.float32]:
    """Return the values that thresholds are found on: means over 3 x 3 pixels, thinned out on large overviews."""
    step = math.isqrt(signal.size // _SAMPLE_PX) or 1
    means = cv2.blur(signal, (3, 3))[::step, ::step]
    chosen = means.ravel() if usable is None else means[usable[::step, ::step]]
    return np.asarray(chosen, np.float32)


def _split(values: NDArray[np.float32], spread: float) -> tuple[float, NDArray[np.float32], bool] | None:
    """Return Otsu's threshold, the lower class, and whether that is a compact background; None for one value only."""
    threshold = _otsu(values)
    if threshold is None:
        return None
    is_low = values <= threshold
    low, high = values[is_low], values[~is_low]
    if low.size == 0 or high.size == 0:
        return None
    distance = float(high.mean(dtype=np.float64) - low.mean(dtype=np.float64))
    return threshold, low, distance >= SEPARATION * max(float(low.std(dtype=np.float64)), spread)


def _otsu(values: NDArray[np.float32]) -> float | None:
    """Return the threshold of largest between-class variance, the middle of a plateau; None for one value only."""
    low, high = (float(values.min()), float(values.max())) if values.size else (0.0, 0.0)
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
