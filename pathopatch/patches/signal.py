"""How much like tissue each pixel of a slide is: one number in [0, 1], high on tissue for either polarity.

On a bright background the darkest channel counts, on a dark background the brightest one. Pure arithmetic on arrays.
"""

from __future__ import annotations

from functools import reduce
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from pathopatch.patches.intensity import scale
from pathopatch.patches.threshold import accepted_split, find_threshold

Background = Literal["dark", "bright"]
_DARK_PERCENTILES = (1.0, 99.9)
_BRIGHT_PERCENTILES = (0.1, 99.0)
_GLASS_SPREAD = 0.01  # of full scale: glass is never called more even than that, so 10 grey levels are no tissue


def tissue_signal(
    pixels: NDArray[np.generic], *, background: Background, windows: NDArray[np.float64]
) -> NDArray[np.float32]:
    """Return how much like tissue each pixel is.

    Parameters
    ----------
    pixels : ndarray, shape (C, H, W)
        Source units.
    background : "dark" or "bright"
        Polarity.
    windows : ndarray of float64, shape (C, 2)
        (low, high) per channel; a channel whose window is empty does not count.

    Returns
    -------
    ndarray of float32, shape (H, W)
        In [0, 1]: the largest of the channels, scaled, on a dark background; 1 minus the smallest on a bright one.
    """
    shown = [(pixels[channel], windows[channel]) for channel in np.flatnonzero(windows[:, 1] > windows[:, 0])]
    if len({tuple(window.tolist()) for _, window in shown}) == 1:  # scaling keeps the order
        first = np.minimum if background == "bright" else np.maximum
        shown = [(reduce(first, [plane for plane, _ in shown]), shown[0][1])]
    signal = np.zeros(pixels.shape[1:], np.float32)
    for plane, window in shown:
        scaled = scale(plane[None], window[None])[0]  # (H, W)
        np.maximum(signal, scaled if background == "dark" else np.subtract(1, scaled, out=scaled), out=signal)
    return signal


def signal_windows(overview: NDArray[np.generic], *, background: Background, is_rgb_uint8: bool) -> NDArray[np.float64]:
    """Return the intensities between which the tissue signal runs, per channel.

    Parameters
    ----------
    overview : ndarray, shape (C, H, W)
        The whole slide, source units. No tissue is known yet, so every pixel counts.
    background : "dark" or "bright"
        Polarity.
    is_rgb_uint8 : bool
        Brightfield colour: on a bright background the windows are 0 to 255.

    Returns
    -------
    ndarray of float64, shape (C, 2)
        (low, high) percentiles. A channel that shows no tissue of its own (noise alone) gets an empty window, high
        equal to low: its noise must not drown the other channels.
    """
    if background == "bright" and is_rgb_uint8:
        return np.tile(np.array([[0.0, 255.0]]), (len(overview), 1))
    percentiles = _DARK_PERCENTILES if background == "dark" else _BRIGHT_PERCENTILES
    found = np.empty((len(overview), 2))
    for index, channel in enumerate(overview):
        low, high = np.percentile(channel, percentiles).astype(np.float64)
        window = np.array([[low, high]])
        signal = tissue_signal(overview[index : index + 1], background=background, windows=window)
        spread = spread_floor(window, overview.dtype, is_white_known=False)
        found[index] = window if accepted_split(signal, spread) is not None else (low, low)
    return found


def spread_floor(windows: NDArray[np.float64], dtype: np.dtype[np.generic], *, is_white_known: bool) -> float:
    """Return the least standard deviation that a background is credited with, in units of the signal.

    Parameters
    ----------
    windows : ndarray of float64, shape (C, 2)
        (low, high) per channel, source units.
    dtype : dtype
        The source's type: integers are never known better than to half a step.
    is_white_known : bool
        Whether the slide is uint8 RGB on a bright background.
    """
    if is_white_known:
        return _GLASS_SPREAD
    widths = windows[:, 1] - windows[:, 0]
    if dtype.kind not in "iu" or not (widths > 0).any():
        return 1e-6
    return float(0.5 / widths[widths > 0].max())


def windows_by_threshold(
    overview: NDArray[np.generic], windows: NDArray[np.float64], *, background: Background, method: str
) -> NDArray[np.float64]:
    """Return windows within which each channel's signal passes 0.5 where it passes the channel's own threshold.

    The largest signal then passes 0.5 where any channel passes its own.

    Parameters
    ----------
    overview : ndarray, shape (C, H, W)
        The whole slide, source units.
    windows : ndarray of float64, shape (C, 2)
        (low, high) of the signal per channel; an empty one stays empty.
    background : "dark" or "bright"
        Polarity.
    method : "otsu" or "triangle"
        How thresholds are found.

    Returns
    -------
    ndarray of float64, shape (C, 2)
        (low, high) per channel; empty where a channel shows no tissue.
    """
    found = windows.copy()
    for index in np.flatnonzero(windows[:, 1] > windows[:, 0]).tolist():
        part, window = overview[index : index + 1], windows[index : index + 1]
        signal = tissue_signal(part, background=background, windows=window)
        spread = spread_floor(window, overview.dtype, is_white_known=False)
        threshold = find_threshold(signal, method, spread=spread)
        low, high = window[0].tolist()
        width = 2 * (threshold or 0.0) * (high - low)
        found[index] = (low, low + width) if background == "dark" else (high - width, high)
    return found
