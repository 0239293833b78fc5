"""How do pixels stand in memory? Decoders give them interleaved, most consumers want a plane per channel."""

from __future__ import annotations

from typing import Any, cast

import cv2
import numpy as np
from numpy.typing import NDArray

Pixels = NDArray[np.generic]

ORIENTATION_TAG = 274
"""Of TIFF and EXIF."""
MIRRORED_ACROSS, MIRRORED_DOWN = (2, 3, 6, 7), (3, 4, 7, 8)
"""Orientations whose stored pixels, transposed from 5 on, are then mirrored, see `upright`."""

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


def opacity_of(alpha: Pixels) -> NDArray[np.uint8]:
    """Return a plane of alpha as opacity, 0 to 255."""
    highest_byte = np.right_shift(cast(Any, alpha), 8 * (alpha.itemsize - 1))
    return np.asarray(highest_byte, np.uint8)


def orientation_of(value: object) -> int:
    """Return the orientation that a tag states, see `upright`; 1 where it states none that is known."""
    return value if isinstance(value, int) and 1 <= value <= 8 else 1


def upright(pixels: Pixels, orientation: int) -> Pixels:
    """Return stored pixels (C, H, W) as they are to be shown; nothing is copied.

    Parameters
    ----------
    pixels : ndarray, shape (C, H, W)
        As they stand in the file.
    orientation : int
        Where the stored first row and first column are shown, by TIFF's and EXIF's numbers: 1 top, left; 2 top, right;
        3 bottom, right; 4 bottom, left; 5 left, top; 6 right, top; 7 right, bottom; 8 left, bottom.
    """
    shown = pixels.transpose(0, 2, 1) if orientation > 4 else pixels
    across, down = orientation in MIRRORED_ACROSS, orientation in MIRRORED_DOWN
    return shown[:, :: -1 if down else 1, :: -1 if across else 1]


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
