"""How stored intensities become numbers in [0, 1], and how saturated and sharp they are.

The rule is fixed, the window is not: uint8 RGB goes from 0 to 255, every other channel from a low to a high percentile
of the slide's own tissue, or of the tissue of a whole cohort, or as it was given. Pure arithmetic on arrays.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache, reduce
from typing import Any, cast

import cv2
import numpy as np
from numpy.typing import NDArray

from pathopatch.core.config import IntensityConfig
from pathopatch.slides.background import Polarity
from pathopatch.slides.resolution import MPP_TOLERANCE

_LEVELS = 2001  # quantiles that stand for a slide in a cohort: every 0.05 %


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
    """Return the intensities that become 0 and 1, per channel.

    Parameters
    ----------
    pixels : ndarray, shape (C, H, W)
        The overview in the source's units.
    tissue : ndarray of bool, shape (H, W)
        Which pixels are tissue. Where none is, all that were scanned stand in for them.
    rule : IntensityConfig
        The percentiles, and windows that are given; a given window goes before all else.
    is_rgb_uint8 : bool
        Brightfield colour: the window is 0 to 255, whatever the pixels are.
    polarities : sequence of {"dark", "bright"}, length C, optional
        Of each channel; all are dark if not given. The percentiles of a bright channel are counted from above: its
        signal is what it lacks.
    channels : sequence of str
        Names, by which given windows are found.
    scanned : ndarray of bool, shape (H, W), optional
        All were if not given.

    Returns
    -------
    ndarray of float64, shape (C, 2)
        (low, high) per channel, source units; low equals high where a channel is constant.
    """
    found = np.tile(np.array([[0.0, 255.0]]), (len(pixels), 1))
    chosen = tissue if tissue.any() or scanned is None or not scanned.any() else scanned
    names = channels or [""] * len(pixels)
    for bounds, channel, name, percentiles in zip(
        found, pixels, names, _ends(rule, polarities, len(pixels)), strict=True
    ):
        if name in rule.windows:
            bounds[:] = rule.windows[name]
        elif not is_rgb_uint8:
            values = channel[chosen] if chosen.any() else channel
            bounds[:] = np.percentile(values.astype(np.float64), percentiles)
    return found


def tissue_quantiles(pixels: NDArray[np.generic], tissue: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Return the distribution of tissue intensities as evenly spaced quantiles, by which a slide stands in a cohort.

    Parameters
    ----------
    pixels : ndarray, shape (C, H, W)
        The overview in the source's units.
    tissue : ndarray of bool, shape (H, W)
        Which pixels are tissue.

    Returns
    -------
    ndarray of float64, shape (C, 2001), or (C, 0) without tissue
        From the least to the largest, source units.
    """
    if not tissue.any():
        return np.empty((len(pixels), 0))
    levels = np.linspace(0, 100, _LEVELS)
    return np.stack([np.percentile(channel[tissue].astype(np.float64), levels) for channel in pixels])


def _ends(rule: IntensityConfig, polarities: Sequence[Polarity], count: int) -> list[tuple[float, float]]:
    """Return the percentiles (low, high) of each channel."""
    dark, bright = (rule.low_percentile, rule.high_percentile), (100 - rule.high_percentile, 100 - rule.low_percentile)
    return [bright if polarity == "bright" else dark for polarity in polarities or ("dark",) * count]


def pooled_windows(
    quantiles: Sequence[NDArray[np.float64]], rule: IntensityConfig, polarities: Sequence[Polarity] = ()
) -> NDArray[np.float64]:
    """Return the intensities that become 0 and 1 over a cohort, per channel.

    Parameters
    ----------
    quantiles : sequence of ndarray of float64, shape (C, 2001) or (C, 0)
        Of each slide, see `tissue_quantiles`. Slides count alike, however much tissue they hold.
    rule : IntensityConfig
        The percentiles.
    polarities : sequence of {"dark", "bright"}, length C, optional
        See `windows`.

    Returns
    -------
    ndarray of float64, shape (C, 2)
        (low, high) per channel, source units. Of one slide, these are the slide's own windows.
    """
    pooled = np.concatenate(quantiles, axis=1)  # (C, slides * levels)
    ends = _ends(rule, polarities, len(pooled))
    return np.stack([np.percentile(values, each) for values, each in zip(pooled, ends, strict=True)])


def scale(
    patches: NDArray[np.generic], window: NDArray[np.float64], *, out: NDArray[np.float32] | None = None
) -> NDArray[np.float32]:
    """Return intensities in [0, 1].

    Parameters
    ----------
    patches : ndarray, shape (..., C, H, W)
        Source units.
    window : ndarray of float64, shape (C, 2)
        (low, high) per channel, source units.
    out : ndarray of float32, shape (..., C, H, W), optional
        Where the result is written; a new array if not given.

    Returns
    -------
    ndarray of float32, shape (..., C, H, W)
        Clipped to [0, 1]; a channel whose window is empty is 0 throughout.
    """
    scaled: NDArray[np.float32] = np.empty(patches.shape, np.float32) if out is None else out
    is_plain = patches.flags.c_contiguous and scaled.flags.c_contiguous and patches.ndim > 2 and patches.size > 0
    if patches.dtype == np.uint8 and is_plain and bool((window == window[0]).all()):
        values = _byte_values(*window[0].tolist())
        rows = -1, patches.shape[-1]
        cv2.LUT(cast(Any, patches.reshape(rows)), cast(Any, values), dst=cast(Any, scaled.reshape(rows)))
        return scaled
    return _scaled(patches, window, scaled)


@lru_cache(maxsize=64)
def _byte_values(low: float, high: float) -> NDArray[np.float32]:
    """Return what each value of a byte becomes, shape (256,)."""
    every = np.arange(256, dtype=np.uint8)[None, None]
    return _scaled(every, np.array([[low, high]]), np.empty((1, 1, 256), np.float32)).ravel()


def _scaled(
    patches: NDArray[np.generic], window: NDArray[np.float64], scaled: NDArray[np.float32]
) -> NDArray[np.float32]:
    """Fill an array with intensities in [0, 1] and return it."""
    low = window[:, 0, None, None].astype(np.float32)
    width = (window[:, 1] - window[:, 0])[:, None, None]
    gain = np.divide(1.0, width, out=np.zeros_like(width), where=width > 0).astype(np.float32)
    scaled[...] = patches
    if low.any():
        scaled -= low
    scaled *= gain
    if patches.dtype.kind in "iu":
        limits = np.iinfo(str(patches.dtype))
        ends = (np.array([limits.min, limits.max], np.float32) - low) * gain
        if ends.min() >= 0 and ends.max() <= 1:  # as of uint8 from 0 to 255: nothing lies outside
            return scaled
    return np.clip(scaled, 0.0, 1.0, out=scaled)


def saturated_fraction(
    patch: NDArray[np.generic],
    window: NDArray[np.float64],
    *,
    polarities: Sequence[Polarity],
    scanned: NDArray[np.bool_] | None = None,
) -> float:
    """Return the share of pixels whose signal reaches the end of the window in any channel.

    Parameters
    ----------
    patch : ndarray, shape (C, H, W)
        The part of a patch that lies on the slide, source units.
    window : ndarray of float64, shape (C, 2)
        (low, high) per channel, source units.
    polarities : sequence of {"dark", "bright"}, length C
        The signal of a dark channel is light, and the upper end counts. That of a bright one is what the tissue
        absorbs: the lower end counts (black), and white glass is as it should be.
    scanned : ndarray of bool, shape (H, W), optional
        Pixels that count; all if not given.

    Returns
    -------
    float
        In [0, 1]; 0 for a patch without pixels. A channel whose window is empty is never saturated.
    """
    shown = [channel for channel, (low, high) in enumerate(window.tolist()) if high > low]
    if patch.size == 0 or not shown:
        return 0.0
    found: NDArray[np.bool_] | None = None
    for polarity, first, reached, end in (("dark", np.maximum, _reaching, 1), ("bright", np.minimum, _up_to, 0)):
        channels = [channel for channel in shown if polarities[channel] == polarity]
        if not channels:
            continue
        if (window[channels] == window[channels[0]]).all():  # the channel that is furthest out decides
            own = reached(reduce(first, [patch[channel] for channel in channels]), window[channels[0], end])
        else:
            own = reduce(np.logical_or, [reached(patch[channel], window[channel, end]) for channel in channels])
        found = own if found is None else found | own
    assert found is not None
    if scanned is not None:
        return int(np.count_nonzero(found & scanned)) / max(1, int(np.count_nonzero(scanned)))
    return float(np.count_nonzero(found) / found.size)


def _reaching(plane: NDArray[np.generic], level: np.float64) -> NDArray[np.bool_]:
    """Return which pixels are at least as high as a level; integers are compared as such, which is faster."""
    if plane.dtype.kind not in "iu" or not np.isfinite(level):
        return np.asarray(np.greater_equal(plane, level), np.bool_)
    limits = np.iinfo(str(plane.dtype))
    least = math.ceil(level)
    if not limits.min <= least <= limits.max:
        return np.full(plane.shape, least < limits.min, np.bool_)
    return np.asarray(np.greater_equal(plane, plane.dtype.type(least)), np.bool_)


def _up_to(plane: NDArray[np.generic], level: np.float64) -> NDArray[np.bool_]:
    """Return which pixels are at most as high as a level."""
    if plane.dtype.kind not in "iu":
        return np.asarray(np.less_equal(plane, level), np.bool_)
    return ~_reaching(plane, np.floor(level) + 1)


def sharpness(scaled: NDArray[np.float32], *, factor: float = 1.0) -> float:
    """Return the variance of the Laplacian of the mean channel: high is sharp.

    Parameters
    ----------
    scaled : ndarray of float32, shape (C, H, W)
        The part of a patch that lies on the slide, in [0, 1].
    factor : float
        Pixels of the patch per pixel at which it is measured, along a side: the mpp of measurement over the patch's.
        Up to 1.02 the patch is measured as it is; it is never enlarged.

    Returns
    -------
    float
        0 for fewer than 3 pixels a side, where there is no Laplacian.
    """
    mean = _mean_channel(scaled)
    if factor > 1 + MPP_TOLERANCE and mean.size:
        height, width = (max(1, round(side / factor)) for side in mean.shape)
        mean = np.asarray(cv2.resize(mean, (width, height), interpolation=cv2.INTER_AREA), np.float32)
    if min(mean.shape) < 3:
        return 0.0
    return float(cv2.Laplacian(mean, cv2.CV_32F)[1:-1, 1:-1].var(dtype=np.float64))


def _mean_channel(scaled: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return the mean over the first axis, (H, W): three times as fast as numpy's, and the same sum."""
    mean: NDArray[np.float32] = scaled[0].copy()
    for plane in scaled[1:]:
        mean += plane
    mean /= len(scaled)
    return mean
