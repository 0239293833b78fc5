"""Show a patch as a picture."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

from pathopatch.slides.composite import Picture, compose

_VIEW_PX = 216


def patch_view(pixels: NDArray[np.floating], *, is_rgb: bool, side_px: int = _VIEW_PX) -> Picture:
    """Return a patch (C, H, W) in [0, 1] as a square picture, uint8 of shape (side_px, side_px, 3)."""
    scaled = np.clip(pixels.astype(np.float32), 0, 1) * 255
    windows = np.tile([0.0, 255.0], (len(pixels), 1))
    picture = compose(np.rint(scaled), windows, is_rgb=is_rgb)
    method = cv2.INTER_AREA if picture.shape[0] > side_px else cv2.INTER_CUBIC
    return np.asarray(cv2.resize(picture, (side_px, side_px), interpolation=method), np.uint8)
