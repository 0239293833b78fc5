"""Compose the channels of a slide into one RGB picture.

Brightfield colour stays as it is; other channels have fixed colours, which add up like light.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from pathopatch.slides.resample import resized

Picture = NDArray[np.uint8]
"""Shape (h, w, 3): red, green, blue."""

# Colours of dark slides' channels, in order: the red, green, blue of published CARS, TPEF, SHG pictures, then mixtures.
CHANNEL_COLORS = ((1, 0, 0), (0, 1, 0), (0, 0, 1), (1, 0, 1), (0, 1, 1), (1, 1, 0))
COLOR_NAMES = {
    (1, 0, 0): "red",
    (0, 1, 0): "green",
    (0, 0, 1): "blue",
    (1, 0, 1): "magenta",
    (0, 1, 1): "cyan",
    (1, 1, 0): "yellow",
    (1, 1, 1): "grey",
}


def shrunk(overview: NDArray[np.generic], longest_px: int) -> NDArray[np.generic]:
    """Return an overview (C, h, w) with at most `longest_px` per side, by area means, in the same dtype.

    The scales of the result (C, h', w') are exactly ``h / h'`` and ``w / w'``.
    """
    height, width = overview.shape[1:]
    factor = max(height, width) / longest_px
    if factor <= 1:
        return overview
    size = max(1, round(width / factor)), max(1, round(height / factor))
    return resized(overview, size)


def compose(
    overview: NDArray[np.generic], windows: NDArray[np.float64], *, is_rgb: bool, shown: Sequence[bool] | None = None
) -> Picture:
    """Return an overview as an RGB picture: brightfield unchanged, other channels in fixed colours.

    `windows`, shape (C, 2), are the intensities drawn black and in full colour. Of the overview, shape (C, h, w), only
    the channels `shown` are drawn, in the colours that they have among all; default: all.
    """
    is_shown = [True] * len(overview) if shown is None else shown
    if is_rgb:
        picture = np.ascontiguousarray(overview.transpose(1, 2, 0)).astype(np.uint8)
        return picture if all(is_shown) else picture * np.asarray(is_shown, np.uint8)
    colors = channel_colors(len(overview))
    total = np.zeros((*overview.shape[1:], 3), np.float32)
    for plane, (low, high), color, is_drawn in zip(overview, windows, colors, is_shown, strict=True):
        if not is_drawn:
            continue
        # Colours add up like light: where channels overlap, the mixture shows.
        scaled = np.clip((plane.astype(np.float32) - low) / max(high - low, 1e-12), 0.0, 1.0)
        total += scaled[..., None] * np.asarray(color, np.float32)
    return np.asarray(np.rint(np.clip(total, 0.0, 1.0) * 255), np.uint8)


def channel_colors(count: int) -> tuple[tuple[int, int, int], ...]:
    """Return each channel's colour; a single channel is grey, and a seventh starts the palette again."""
    if count == 1:
        return ((1, 1, 1),)
    return tuple(CHANNEL_COLORS[index % len(CHANNEL_COLORS)] for index in range(count))
