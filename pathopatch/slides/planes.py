"""How do pixels stand in memory? Decoders give them interleaved, most consumers want a plane per channel."""

from __future__ import annotations

from typing import Any, cast

import cv2
import numpy as np
from numpy.typing import NDArray

Pixels = NDArray[np.generic]

_SPLIT_BYTES = (1, 2, 4, 8)  # sizes of a sample that cv2 takes apart
_SPLIT_CHANNELS = 512  # and how many at most


def interleaved(shape: tuple[int, int, int], dtype: np.dtype[np.generic]) -> Pixels:
    """Return an empty array (C, H, W) whose channels alternate in memory, as decoders write them.

    Parameters
    ----------
    shape : (int, int, int)
        Channels, height and width.
    dtype : dtype
        Of the pixels.
    """
    channels, height, width = shape
    return np.empty((height, width, channels), dtype).transpose(2, 0, 1)


def planes(pixels: Pixels, out: Pixels | None = None) -> Pixels:
    """Return the same pixels, a contiguous plane per channel; those that are so already are returned as they are.

    Parameters
    ----------
    pixels : ndarray, shape (C, H, W)
        In any order in memory.
    out : ndarray, shape (C, H, W), optional
        Contiguous and of the same type; filled and returned.
    """
    if out is None:
        if pixels.flags.c_contiguous:
            return pixels
        out = np.empty(pixels.shape, pixels.dtype)
    mixed = pixels.transpose(1, 2, 0)
    is_split = mixed.flags.c_contiguous and 1 < len(pixels) <= _SPLIT_CHANNELS and pixels.dtype.kind in "uif"
    if is_split and pixels.dtype.itemsize in _SPLIT_BYTES:
        kind = f"u{pixels.dtype.itemsize}" if pixels.dtype.itemsize < 4 else f"f{pixels.dtype.itemsize}"
        cv2.split(cast(Any, mixed.view(kind)), cast(Any, list(out.view(kind))))  # several times as fast as numpy
    else:
        np.copyto(out, pixels)
    return out
