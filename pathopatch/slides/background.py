"""Is a slide dark or bright where there is no tissue? A guess from the border and the mode of its overview."""

from __future__ import annotations

from typing import Any, Literal, cast

import numpy as np
from numpy.typing import NDArray

Background = Literal["dark", "bright"]

_BRIGHT_RGB = 110.0  # glass is above 200, dense H&E tissue about 120, a fluorescence background below 60
_BORDER_SHARE = 0.03  # of the shorter side, on each edge
_HISTOGRAM_BINS = 64
_UNDECIDED = 0.25  # tissue on less than a hundredth of a slide leaves noise alone, which votes by chance
_LEAST_BRIGHT = 0.2  # a slide of noise alone votes within 0.15, and is dark


def guess_background(overview: NDArray[np.generic], *, valid: NDArray[np.bool_] | None = None) -> Background:
    """Return whether the background is dark or bright.

    The border of a slide is mostly background, and so is its most frequent value; the mean of the two, per channel,
    is compared with a fixed level for uint8 images of three channels, and with the middle of the channel's 1st to
    99th percentile otherwise; where that says little, since tissue is sparse, with the middle of its extremes. The
    channels vote by their mean. Without any pixel the answer is ``"bright"`` for three uint8 channels and ``"dark"``
    otherwise, and so it is for noise alone.

    Parameters
    ----------
    overview : ndarray, shape (C, h, w)
        The whole slide at low resolution, any real type; values that are not finite are left out.
    valid : ndarray of bool, shape (h, w), optional
        Pixels that were scanned; all if not given.
    """
    is_rgb = overview.shape[0] == 3 and overview.dtype == np.uint8
    inside = np.ones(overview.shape[1:], bool) if valid is None else valid
    border = _border(overview.shape[1], overview.shape[2])
    votes = [vote for plane in overview if (vote := _vote(plane, inside, border, is_rgb)) is not None]
    if not votes:
        return "bright" if is_rgb else "dark"
    return "bright" if float(np.mean(votes)) > (0 if is_rgb else _LEAST_BRIGHT) else "dark"


def _border(height: int, width: int) -> NDArray[np.bool_]:
    """Return a frame around the image, at least one pixel wide."""
    thickness = max(1, round(min(height, width) * _BORDER_SHARE))
    frame = np.ones((height, width), bool)
    frame[thickness : height - thickness, thickness : width - thickness] = False
    return frame


def _vote(
    plane: NDArray[np.generic], inside: NDArray[np.bool_], border: NDArray[np.bool_], is_rgb: bool
) -> float | None:
    """Return how far the background lies above the middle (in [-1, 1]); None without a pixel."""
    values = plane.astype(np.float64)
    usable = inside & np.isfinite(values)
    pixels = values[usable]
    if not pixels.size:
        return None
    edge = values[usable & border]
    rim = float(np.median(edge if edge.size else pixels))
    if is_rgb:
        return ((rim + _mode(pixels, 0.0, 255.0)) / 2 - _BRIGHT_RGB) / 255.0
    low, high = np.percentile(pixels, (1, 99))
    if low == high:
        is_full = plane.dtype.kind in "iu" and low == np.iinfo(cast(Any, plane.dtype)).max
        return 1.0 if is_full else -1.0
    level = (rim + _mode(pixels, float(low), float(high))) / 2
    vote = float(np.clip(2 * (level - low) / (high - low) - 1, -1, 1))
    if abs(vote) > _UNDECIDED:
        return vote
    least, most = float(pixels.min()), float(pixels.max())
    return 2 * (level - least) / (most - least) - 1


def _mode(pixels: NDArray[np.float64], low: float, high: float) -> float:
    """Return the middle of the fullest histogram bin."""
    counts, edges = np.histogram(np.clip(pixels, low, high), bins=_HISTOGRAM_BINS, range=(low, high))
    fullest = int(np.argmax(counts))
    return float(edges[fullest] + edges[fullest + 1]) / 2
