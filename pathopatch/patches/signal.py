"""Compute how much like tissue each pixel is: one number in [0, 1], high on tissue for either polarity.

A dark channel gives its intensity, a bright one what it lacks; the largest of the channels counts. Pure arithmetic on
arrays.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import reduce
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pathopatch.patches.intensity import scale
from pathopatch.slides.background import Polarity
from pathopatch.slides.glass import Illumination

_DARK_PERCENTILES = (1.0, 99.9)


def tissue_signal(
    pixels: NDArray[np.generic], *, polarities: Sequence[Polarity], windows: NDArray[np.float64]
) -> NDArray[np.float32]:
    """Return how much like tissue each pixel is.

    Parameters
    ----------
    pixels : ndarray, shape (C, H, W)
        Source units.
    polarities : sequence of {"dark", "bright"}, length C
        Of each channel.
    windows : ndarray of float64, shape (C, 2)
        (low, high) per channel; a channel whose window is empty does not count.

    Returns
    -------
    ndarray of float32, shape (H, W)
        In [0, 1]: the largest over the channels of the scaled value (dark) and of 1 minus it (bright).
    """
    counting = np.flatnonzero(windows[:, 1] > windows[:, 0]).tolist()
    shown = [(pixels[channel], polarities[channel], windows[channel]) for channel in counting]
    if len({(polarity, *window.tolist()) for _, polarity, window in shown}) == 1:  # scaling keeps the order
        _, polarity, window = shown[0]
        furthest = np.maximum if polarity == "dark" else np.minimum
        shown = [(reduce(furthest, [plane for plane, _, _ in shown]), polarity, window)]
    signal = np.zeros(pixels.shape[1:], np.float32)
    for plane, polarity, window in shown:
        scaled = scale(plane[None], window[None])[0]  # (H, W)
        np.maximum(signal, scaled if polarity == "dark" else np.subtract(1, scaled, out=scaled), out=signal)
    return signal


def signal_of(
    overview: NDArray[np.generic],
    polarities: Sequence[Polarity],
    windows: NDArray[np.float64],
    light: Illumination | None,
) -> NDArray[np.float32]:
    """Return the signal of a whole overview, its bright channels divided by the illumination; see `tissue_signal`."""
    if light is not None:
        is_bright = np.array([polarity == "bright" for polarity in polarities])[:, None, None]
        overview = np.where(is_bright, overview.astype(np.float32) / light.over(*overview.shape[1:]), overview).astype(
            np.float32
        )
    return tissue_signal(overview, polarities=polarities, windows=windows)


def dark_window(plane: NDArray[np.generic], usable: NDArray[np.bool_]) -> tuple[float, float]:
    """Return the intensities between which the signal of a dark channel runs.

    Parameters
    ----------
    plane : ndarray, shape (H, W)
        The whole slide, source units. No tissue is known yet, so every pixel counts.
    usable : ndarray of bool, shape (H, W)
        Pixels that were scanned.

    Returns
    -------
    low, high : float
        The 1st and the 99.9th percentile; both 0 without a pixel.
    """
    values: NDArray[Any] = plane.ravel() if usable.all() else plane[usable]
    if not values.size:
        return 0.0, 0.0
    low, high = np.percentile(np.asarray(values), _DARK_PERCENTILES).tolist()
    return float(low), float(high)


def rounding_spread(window: tuple[float, float], dtype: np.dtype[np.generic]) -> float:
    """Return half a step of a type in units of the signal: a background is never known better than that."""
    low, high = window
    return 0.5 / (high - low) if dtype.kind in "iu" and high > low else 1e-6
