"""Find the pixels of an overview that are tissue, and tell noise from structure. Pure arithmetic on arrays."""

from __future__ import annotations

import math

import cv2
import numpy as np
from numpy.typing import NDArray

_SAMPLE_PX = 2**20  # thresholds are found on every k-th row and column of larger overviews
_BINS = 512
_BLOCK_PX = 2  # nuclei at 1 um/px are some 7 px wide
_STRUCTURE = 0.1  # correlation of neighbouring blocks; noise alone has 0
_CHANCE = 6.0  # standard deviations of that correlation for noise
_LEAST_BLOCKS = 64


def averaged(signal: NDArray[np.float32], usable: NDArray[np.bool_]) -> NDArray[np.float32]:
    """Return the values that thresholds are found on: means over 3 x 3 pixels, thinned out on large overviews.

    Parameters
    ----------
    signal : ndarray of float32, shape (H, W)
        Tissue signal of the overview.
    usable : ndarray of bool, shape (H, W)
        Pixels that count.

    Returns
    -------
    ndarray of float32, shape (N,)
    """
    step = math.isqrt(signal.size // _SAMPLE_PX) or 1
    return np.asarray(cv2.blur(signal, (3, 3))[::step, ::step][usable[::step, ::step]], np.float32)


def triangle(values: NDArray[np.float32]) -> float:
    """Return the threshold of the triangle method."""
    from skimage.filters import threshold_triangle  # here: it takes longer to load than this module to work

    return float(threshold_triangle(values, nbins=_BINS))  # type: ignore[no-untyped-call]


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


def is_structured(plane: NDArray[np.generic], usable: NDArray[np.bool_]) -> bool:
    """Return whether a channel shows more than noise and uneven light.

    Parameters
    ----------
    plane : ndarray, shape (H, W)
        Source units.
    usable : ndarray of bool, shape (H, W)
        Pixels that count.

    Returns
    -------
    bool
        Means over 2 x 2 pixels, less a quadratic surface, correlate with their neighbours.
    """
    height, width = (length // _BLOCK_PX for length in plane.shape)
    if height < 2 or width < 2:
        return False
    size = width * _BLOCK_PX, height * _BLOCK_PX
    whole = cv2.resize(plane.astype(np.float32)[: size[1], : size[0]], (width, height), interpolation=cv2.INTER_AREA)
    inside = cv2.resize(usable[: size[1], : size[0]].astype(np.float32), (width, height), interpolation=cv2.INTER_AREA)
    is_whole = inside > 0.999
    if np.count_nonzero(is_whole) < _LEAST_BLOCKS:
        return False
    y, x = np.meshgrid(np.linspace(-1, 1, height), np.linspace(-1, 1, width), indexing="ij")
    terms = np.stack([np.ones_like(x), x, y, x * x, x * y, y * y])[:, is_whole].T
    values = whole[is_whole].astype(np.float64)
    rest = np.zeros(whole.shape)
    rest[is_whole] = values - terms @ np.linalg.lstsq(terms, values, rcond=None)[0]
    variance = float(rest[is_whole].var())
    if variance <= 1e-12 * max(1.0, float(np.abs(values).max()) ** 2):
        return False
    across, down = is_whole[:, 1:] & is_whole[:, :-1], is_whole[1:] & is_whole[:-1]
    products = np.concatenate([(rest[:, 1:] * rest[:, :-1])[across], (rest[1:] * rest[:-1])[down]])
    least = max(_STRUCTURE, _CHANCE / max(1, products.size) ** 0.5)
    return bool(products.size and float(products.mean()) > least * variance)
