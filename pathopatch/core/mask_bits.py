"""Masks of patches at one bit a pixel, and at another size."""

from __future__ import annotations

from typing import Any, Literal

import cv2
import numpy as np
from numpy.typing import NDArray

MaskKind = Literal["tissue", "tumor"]
LEAST_SHARE = 0.5 - 1e-6  # half of a pixel is enough, also after rounding


def pack_masks(masks: NDArray[np.bool_]) -> NDArray[np.uint8]:
    """Return masks (..., h, w) as bits, uint8 of shape (..., h, ceil(w / 8)); the first pixel is the highest bit."""
    return np.packbits(masks, axis=-1)


def unpack_masks(bits: NDArray[np.uint8], width_px: int) -> NDArray[np.bool_]:
    """Return the masks, bool of shape (..., h, w), that `pack_masks` packed; `width_px` is w."""
    return np.unpackbits(bits, axis=-1, count=width_px).view(np.bool_)


def resize_mask(mask: NDArray[np.bool_], size_px: tuple[int, int]) -> NDArray[np.bool_]:
    """Return a mask (h, w) at another size, (width, height): by area where it gets coarser, else the nearest pixel."""
    is_finer = mask.shape[1] > size_px[0] or mask.shape[0] > size_px[1]
    interpolation = cv2.INTER_AREA if is_finer else cv2.INTER_NEAREST_EXACT
    share: Any = cv2.resize(mask.astype(np.float32), size_px, interpolation=interpolation)
    return np.asarray(share >= LEAST_SHARE, np.bool_)


def resize_masks(masks: NDArray[np.bool_], side_px: int) -> NDArray[np.bool_]:
    """Return masks (n, h, w) as squares of `side_px`, resampled by area as the pixels are, and cut at one half."""
    if masks.shape[1:] == (side_px, side_px):
        return masks
    resized = np.empty((len(masks), side_px, side_px), np.bool_)
    for mask, target in zip(masks, resized, strict=True):
        share: Any = cv2.resize(mask.astype(np.float32), (side_px, side_px), interpolation=cv2.INTER_AREA)
        np.greater_equal(share, LEAST_SHARE, out=target)
    return resized


def masks_and_area(masks: NDArray[np.bool_], side_px: int) -> tuple[NDArray[np.bool_], NDArray[np.float64]]:
    """Return tissue masks (n, h, w) at the side at which areas are set, and the share of each that is tissue, (n,).

    The audit's response to the area and its correction both read it here: of fine texture, a mask at another side has
    another area.
    """
    resized = resize_masks(masks, side_px)
    return resized, resized.mean(axis=(1, 2))
