"""Split signals into background and tissue by Otsu's method, and tell whether the split is one.

Otsu's method splits pure noise as readily as tissue. A split is accepted only if it leaves a compact background: the
means of the two classes are at least `SEPARATION` standard deviations of the lower class apart. Gaussian, Poisson and
exponential noise give 2.3 to 3.2; uniform values, gradients and vignettes give 3.0 to 3.6. Real slides of both
polarities gave 3.9 to 17 where background was in view. On a slide that is mostly tissue the first split falls within
the tissue; the lower class is then split again, `SPLITS` times at most.

Once a split is accepted, its lower class is split once more, and that split is taken if it is accepted too: nuclei and
stroma are further apart than pale stroma and glass, and the first split leaves pale tissue with the glass. Pixels of no
signal take no part in this: padding and glass are two levels as well. Pure arithmetic on arrays.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

SEPARATION = 3.8
SPLITS = 3
_BINS = 512


def accepted_split(
    values: NDArray[np.float32], spread: float, *, further_spread: float | None = None, background_up_to: float = 1.0
) -> float | None:
    """Return the signal above which a pixel is tissue; None where no split leaves a compact background.

    Parameters
    ----------
    values : ndarray of float32, shape (N,)
        Signals in [0, 1].
    spread : float
        Least standard deviation that a background is credited with.
    further_spread : float, optional
        The same for the split of the lower class of an accepted split; `spread` if not given.
    background_up_to : float
        Mean signal above which a lower class is no background.
    """
    for _ in range(SPLITS):
        split = _split(values, spread)
        if split is None:
            return None
        threshold, values, is_separate = split
        if is_separate and float(values.mean(dtype=np.float64)) <= background_up_to:
            further = _split(values[values > 0], spread if further_spread is None else further_spread)
            return further[0] if further is not None and further[2] else threshold
    return None


def _split(values: NDArray[np.float32], spread: float) -> tuple[float, NDArray[np.float32], bool] | None:
    """Return Otsu's threshold, the lower class, and whether that is a compact background; None for one value only."""
    threshold = otsu(values)
    if threshold is None:
        return None
    is_low = values <= threshold
    low, high = values[is_low], values[~is_low]
    if low.size == 0 or high.size == 0:
        return None
    distance = float(high.mean(dtype=np.float64) - low.mean(dtype=np.float64))
    return threshold, low, distance >= SEPARATION * max(float(low.std(dtype=np.float64)), spread)


def otsu(values: NDArray[np.float32]) -> float | None:
    """Return the threshold of largest between-class variance, the middle of a plateau; None for one value only."""
    low, high = (float(values.min()), float(values.max())) if values.size else (0.0, 0.0)
    if not high - low > _BINS * np.finfo(np.float32).eps * max(abs(low), abs(high)):  # rounding cannot be binned
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
