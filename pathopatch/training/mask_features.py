"""Measure a patch by its tissue mask: shape of the mask, rim, background, texture of the tissue.

Pixels are (C, H, W), a mask is (H, W). A number that no pixel gives, such as the background of a full patch, is NaN.
"""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Mask = NDArray[np.bool_]

_RIM_PX = 2
_SQUARE = np.ones((3, 3), np.uint8)


def mask_shape(tissue: Mask) -> Floats:
    """Return outline length by the root of the area, pieces, largest piece, border cover and solidity, (5,).

    The largest piece is a share of the tissue, border cover that of the patch's border pixels. Solidity is the area by
    that of the convex hull.
    """
    area = np.count_nonzero(tissue)
    if not area:
        return np.full(5, np.nan)
    edges = np.count_nonzero(tissue[1:] != tissue[:-1]) + np.count_nonzero(tissue[:, 1:] != tissue[:, :-1])
    labelled = tissue.astype(np.uint8)
    count, _, statistics, _ = cv2.connectedComponentsWithStats(labelled, connectivity=8)
    border = np.concatenate([tissue[0], tissue[-1], tissue[1:-1, 0], tissue[1:-1, -1]])
    hull = cv2.convexHull(np.argwhere(tissue)[:, ::-1].astype(np.int32))
    filled = cv2.fillConvexPoly(np.zeros_like(labelled), hull, 1)
    largest = statistics[1:, cv2.CC_STAT_AREA].max() / area
    return np.array([edges / np.sqrt(area), count - 1, largest, border.mean(), area / max(area, filled.sum())])


def rim(pixels: NDArray[np.floating], tissue: Mask) -> Floats:
    """Return mean and standard deviation of each channel within 2 px around the tissue, (2 C,)."""
    return _mean_and_sd(pixels, _grown(tissue) & ~tissue)


def background(pixels: NDArray[np.floating], tissue: Mask) -> Floats:
    """Return mean and standard deviation of each channel farther than 2 px from the tissue, (2 C,)."""
    return _mean_and_sd(pixels, ~_grown(tissue))


def texture(pixels: NDArray[np.floating], tissue: Mask) -> Floats:
    """Return mean, standard deviation, mean absolute Laplacian and mean gradient of each channel in the tissue, (4 C,).

    The outermost pixel of the tissue is left out, whose neighbours are background, unless nothing else is left.
    """
    core = cv2.erode(tissue.astype(np.uint8), _SQUARE, borderValue=1) != 0
    inside = core if core.any() else tissue
    values = [_mean_and_sd(pixels, inside)]
    for plane in np.asarray(pixels, np.float32):
        detail = np.abs(cv2.Laplacian(plane, cv2.CV_32F, borderType=cv2.BORDER_REFLECT))
        x, y = (cv2.Sobel(plane, cv2.CV_32F, *order, borderType=cv2.BORDER_REFLECT) for order in ((1, 0), (0, 1)))
        values.append(_mean_and_sd(np.stack([detail, np.hypot(x, y)]), inside)[:2])
    return np.concatenate(values)


def _grown(tissue: Mask) -> Mask:
    return np.asarray(cv2.dilate(tissue.astype(np.uint8), _SQUARE, iterations=_RIM_PX) != 0, np.bool_)


def _mean_and_sd(pixels: NDArray[np.floating], where: Mask) -> Floats:
    """Return the means of all channels, then their standard deviations, (2 C,)."""
    if not where.any():
        return np.full(2 * len(pixels), np.nan)
    chosen = np.asarray(pixels)[:, where].astype(np.float64)
    return np.concatenate([chosen.mean(axis=1), chosen.std(axis=1)])
