"""Scale intensities to [0, 1], and measure saturation and sharpness.

The window of uint8 RGB is 0 to 255. Any other channel's goes from a low to a high percentile of the slide's tissue, or
is stated. Pure arithmetic on arrays.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any, cast

import cv2
import numpy as np
from numpy.typing import NDArray

from pathopatch.core.config import MPP_TOLERANCE, IntensityConfig
from pathopatch.slides.background import Polarity


def windows(
    pixels: NDArray[np.generic],
    tissue: NDArray[np.bool_],
    *,
    rule: IntensityConfig,
    is_rgb_uint8: bool,
    polarities: Sequence[Polarity] = (),
    channels: Sequence[str] = (),
    scanned: NDArray[np.bool_] | None = None,
) -> NDArray[np.float64]:
    """Return the intensities that become 0 and 1, (low, high) per channel, shape (C, 2), source units.

    `pixels`, (C, H, W), is the overview. The percentiles of the `rule` are of the `tissue`, or without any of the
    `scanned` pixels (default: all), both bool of shape (H, W). Windows that the rule states come first: `channels` are
    the names for those. Brightfield colour has 0 to 255. Without `polarities` all channels are dark.
    """
    result = np.tile(np.array([[0.0, 255.0]]), (len(pixels), 1))
    sample = tissue if tissue.any() or scanned is None or not scanned.any() else scanned
    names = channels or [""] * len(pixels)
    # A bright channel's signal is what it lacks, so its percentiles count from above.
    dark, bright = (rule.low_percentile, rule.high_percentile), (100 - rule.high_percentile, 100 - rule.low_percentile)
    for bounds, channel, name, polarity in zip(
        result, pixels, names, polarities or ("dark",) * len(pixels), strict=True
    ):
        if name in rule.windows:
            bounds[:] = rule.windows[name]
        elif not is_rgb_uint8:
            values = channel[sample] if sample.any() else channel
            bounds[:] = np.percentile(values.astype(np.float64), bright if polarity == "bright" else dark)
    return result


def scale(
    patches: NDArray[np.generic], window: NDArray[np.float64], *, out: NDArray[np.float32] | None = None
) -> NDArray[np.float32]:
    """Return intensities (..., C, H, W) as float32 in [0, 1], clipped; a channel with an empty window is 0.

    The result is written to `out`, if given.
    """
    scaled: NDArray[np.float32] = np.empty(patches.shape, np.float32) if out is None else out
    low, gain, may_clip = _linear_map(tuple(map(tuple, window.tolist())), patches.dtype)
    scaled[...] = patches
    if low.any():
        scaled -= low
    scaled *= gain
    return np.clip(scaled, 0.0, 1.0, out=scaled) if may_clip else scaled


@lru_cache(maxsize=64)  # a slide's patches share theirs
def _linear_map(
    bounds: tuple[tuple[float, float], ...], dtype: np.dtype[np.generic]
) -> tuple[NDArray[np.float32], NDArray[np.float32], bool]:
    """Return low and gain, (C, 1, 1), that scale by windows, and whether values of the dtype may lie outside [0, 1]."""
    window = np.array(bounds)
    low = window[:, 0, None, None].astype(np.float32)
    width = (window[:, 1] - window[:, 0])[:, None, None]
    gain = np.divide(1.0, width, out=np.zeros_like(width), where=width > 0).astype(np.float32)
    if dtype.kind not in "iu":
        return low, gain, True
    limits = np.iinfo(cast(Any, dtype))
    ends = (np.array([limits.min, limits.max], np.float32) - low) * gain
    return low, gain, not (ends.min() >= 0 and ends.max() <= 1)  # NaN is clipped


def saturated_fraction(
    patch: NDArray[np.generic],
    window: NDArray[np.float64],
    *,
    polarities: Sequence[Polarity],
    scanned: Callable[[], NDArray[np.bool_] | None] | None = None,
) -> float:
    """Return the share of pixels of (C, H, W) with lost signal in any channel, in [0, 1]; 0 without pixels.

    A dark channel loses it at or above the upper end of its window, a bright one at or below the lower end: black is
    lost signal, white glass is not. A channel with an empty window loses none; windows, (C, 2), are in source units.
    `scanned` returns the pixels that count, bool of shape (H, W), or None for all; it is called only where signal is
    lost.
    """
    saturated = np.zeros(patch.shape[1:], np.bool_)
    for plane, polarity, (low, high) in zip(patch, polarities, window.tolist(), strict=True):
        if high > low:
            saturated |= _reached(plane, high if polarity == "dark" else low, polarity)
    n_saturated = int(np.count_nonzero(saturated))
    # The mask costs more than the fraction, and a fraction of 0 does not need it.
    if n_saturated and scanned is not None and (mask := scanned()) is not None:
        return int(np.count_nonzero(saturated & mask)) / max(1, int(np.count_nonzero(mask)))
    return n_saturated / max(1, saturated.size)


def _reached(plane: NDArray[np.generic], level: float, polarity: Polarity) -> NDArray[np.bool_]:
    """Return the pixels at or above a level (dark), or at or below it (bright)."""
    compare = np.greater_equal if polarity == "dark" else np.less_equal
    if plane.dtype.kind in "iu" and math.isfinite(level):
        # A whole Python number is compared in the pixels' own type, whatever its size: a float would convert them all.
        return np.asarray(compare(plane, math.ceil(level) if polarity == "dark" else math.floor(level)), np.bool_)
    # As float64: a Python number would be rounded to the type of the pixels.
    return np.asarray(compare(plane, np.float64(level)), np.bool_)


def sharpness(scaled: NDArray[np.float32], *, factor: float = 1.0) -> float:
    """Return the variance of the Laplacian of the mean channel: high is sharp, 0 is below 3 px a side.

    `scaled`, (C, H, W), is the part of a patch on the slide, in [0, 1]; `factor` is the mpp of measurement over that of
    the patch. Up to 1.02 the patch is not resampled; it is never enlarged.
    """
    # The mean channel, (H, W): three times as fast as numpy's, with the same sum.
    mean: NDArray[np.float32] = scaled[0].copy()
    for plane in scaled[1:]:
        mean += plane
    mean /= len(scaled)
    if factor > 1 + MPP_TOLERANCE and mean.size:
        height, width = (max(1, round(side / factor)) for side in mean.shape)
        mean = np.asarray(cv2.resize(mean, (width, height), interpolation=cv2.INTER_AREA), np.float32)
    if min(mean.shape) < 3:
        return 0.0
    return float(cv2.Laplacian(mean, cv2.CV_32F)[1:-1, 1:-1].var(dtype=np.float64))
