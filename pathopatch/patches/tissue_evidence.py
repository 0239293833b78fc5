"""Find what each channel tells of tissue, by its own polarity.

Bright channels that show the same thing, as the planes of H&E do, are taken together: their glass is found, and the
threshold is an absorption relative to it. A dark channel is split by Otsu's method. Pure arithmetic on arrays.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, cast

import cv2
import numpy as np
from numpy.typing import NDArray

from pathopatch.core.config import TissueConfig
from pathopatch.core.errors import InputUnsupportedError
from pathopatch.patches.signal import dark_window, rounding_spread, signal_of, tissue_signal
from pathopatch.patches.threshold import averaged, triangle
from pathopatch.slides.background import Polarities, correlated_channels
from pathopatch.slides.glass import Glass, Illumination, find_glass
from pathopatch.slides.separation import SEPARATION, accepted_split

LEAST_TISSUE = 0.002
"""Share of the pixels below which there is no tissue."""
_GLASS_SPREAD = 0.01  # absorption: glass is never called more even than that
_LARGEST_SPLIT = 0.2  # absorption: what Otsu's method splits above lies within the tissue
_LEAST_ABSORPTION, _USUAL_ABSORPTION = 0.04, 0.1  # of tissue: pale stroma on real fields has 0.05 to 0.12
_STATED_ABSORPTION = 0.06  # the same where the level is stated and no valley is seen
_SURE_SPREAD, _DIM_SPREAD = 0.02, 0.03  # dim glass less even than this may be pale tissue, and is taken for it
_DIM = 0.7  # of full scale
_DARKEST_OF_SET, _PALEST_OF_SET = 0.45, 0.1  # absorption of full scale: tinted glass to 0.37; pale stroma over glass
_COMMON_SHARE = 0.2  # of a set's pixels: less may be the glass of a few of its images
_WHITE_STEP = 0.06  # absorption: in a set that is all tissue, what is this close to the whitest is a gap
_CLEAR = 0.8  # of full scale: glass alone is known to be glass from here on
_NOISE_SPREADS = 4.0  # above a stated level of a dark channel
_LEAST_PALE = 0.02  # the same where pale tissue leaves no valley

Mask = NDArray[np.bool_]


@dataclass(frozen=True, kw_only=True, eq=False)
class Evidence:
    """What channels tell of tissue.

    Parameters
    ----------
    channels : tuple of int
        Which they are.
    windows : ndarray of float64, shape (n, 2)
        (low, high) of the signal of each.
    threshold : float or None
        A pixel is tissue if its signal is above it; None: they show no tissue, or do not tell.
    is_empty : bool
        They show background alone.
    is_shared : bool
        The threshold is one of several channels together.
    separation : float
        Of tissue from background, in standard deviations of the background; NaN where that is not known.
    is_doubtful : bool
        What was taken for glass may be pale tissue.
    may_be_uneven : bool
        Darker glass may have been taken for tissue.
    glass_level : ndarray of float64, shape (n,), or None
        Of bright channels, source units.
    signal : ndarray of float32, shape (h, w), or None
        Of bright channels, by their windows: what `signal_of` would compute again.
    light : Illumination or None
        Of bright channels.
    """

    channels: tuple[int, ...]
    windows: NDArray[np.float64]
    threshold: float | None = None
    is_empty: bool = False
    is_shared: bool = False
    separation: float = math.nan
    is_doubtful: bool = False
    may_be_uneven: bool = False
    glass_level: NDArray[np.float64] | None = None
    signal: NDArray[np.float32] | None = None
    light: Illumination | None = None


@dataclass(frozen=True, kw_only=True, eq=False)
class View:
    """The overview and what of it counts."""

    pixels: NDArray[np.generic]
    polarities: Polarities
    is_colour: bool
    specimen: Mask
    config: TissueConfig
    levels: dict[int, float]
    glass: Glass | None
    is_flat: bool


def evidence_of(view: View, counting: list[int]) -> list[Evidence]:
    """Return what each dark channel, and each set of bright channels that show the same, tell of tissue."""
    bright = [channel for channel in counting if view.polarities[channel] == "bright"]
    dark = [channel for channel in counting if view.polarities[channel] == "dark"]
    if bright and not view.is_colour:
        sets = [[bright[n] for n in group] for group in correlated_channels(view.pixels[bright], view.specimen)]
    else:
        sets = [bright] if bright else []
    evidence = [_of_bright(view, tuple(group)) for group in sets]
    if view.config.combine == "maximum" or view.config.method == "fixed":
        return evidence + ([_of_dark(view, tuple(dark))] if dark else [])
    return evidence + [_of_dark(view, (channel,)) for channel in dark]


def _of_bright(view: View, channels: tuple[int, ...]) -> Evidence:
    """Return what bright channels tell: absorption relative to their glass."""
    pixels, config = view.pixels[list(channels)], view.config
    if not view.specimen.any():
        return Evidence(channels=channels, windows=np.zeros((len(channels), 2)), is_empty=True)
    glass = _stated_glass(view, channels)
    if glass is None and view.is_flat and view.is_colour and pixels.dtype == np.uint8:
        return _of_set(view, channels)
    if glass is None:
        is_whole = view.is_colour and len(channels) == len(view.pixels)
        glass = view.glass if is_whole else find_glass(pixels, view.specimen, is_flat=view.is_flat)
    white = _white(pixels, view.specimen)
    if config.method == "fixed":
        level = np.full(len(channels), white) if glass is None else glass.level
        light = None if glass is None else glass.illumination
        windows = np.stack([np.zeros(len(channels)), level], axis=1)
        return Evidence(
            channels=channels, windows=windows, threshold=config.fixed_threshold, is_shared=True, light=light
        )
    is_dim = glass is not None and float(glass.level.min()) < _DIM * white
    if glass is None or (is_dim and glass.spread > _DIM_SPREAD):
        return Evidence(channels=channels, windows=np.zeros((len(channels), 2)))
    windows = np.stack([np.zeros(len(channels)), glass.level], axis=1)
    signal = signal_of(pixels, ["bright"] * len(channels), windows, glass.illumination)
    values = averaged(signal, view.specimen)
    threshold = _bright_threshold(values, glass)
    if threshold is None:
        is_known = bool(channels[0] in view.levels or float(glass.level.min()) >= _CLEAR * white)
        return Evidence(channels=channels, windows=windows, is_empty=is_known)
    if config.method == "triangle":
        threshold = triangle(values)
    return Evidence(
        channels=channels,
        windows=windows,
        threshold=threshold,
        is_shared=True,
        separation=_separation(values, threshold, max(glass.spread, _GLASS_SPREAD)),
        is_doubtful=is_dim and glass.spread > _SURE_SPREAD,
        may_be_uneven=glass.may_be_uneven,
        glass_level=glass.level,
        signal=signal,
        light=glass.illumination,
    )


def _of_set(view: View, channels: tuple[int, ...]) -> Evidence:
    """Return what colour images of many fields tell: each has its own glass, so that full scale stands for all of it.

    A set whose glass is even over its images is measured against that.
    """
    pixels, config = view.pixels[list(channels)], view.config
    glass = view.glass
    is_common = glass is not None and glass.spread <= _SURE_SPREAD and glass.share >= _COMMON_SHARE
    level = glass.level[list(channels)] if glass is not None and is_common else np.full(len(channels), 255.0)
    windows = np.stack([np.zeros(len(channels)), level], axis=1)
    values = averaged(tissue_signal(pixels, polarities=["bright"] * len(channels), windows=windows), view.specimen)
    if config.method == "fixed":
        return Evidence(channels=channels, windows=windows, threshold=config.fixed_threshold, is_shared=True)
    threshold = accepted_split(
        values, _GLASS_SPREAD, further_spread=_PALEST_OF_SET / SEPARATION, background_up_to=_DARKEST_OF_SET
    )
    if threshold is not None and config.method == "triangle":
        threshold = triangle(values)
    if threshold is None and values.size and float(np.median(values)) > 1 - _CLEAR:
        threshold = min(1 - _CLEAR, float(np.percentile(values, 0.5)) + _WHITE_STEP)  # all tissue, but for gaps
    return Evidence(
        channels=channels,
        windows=windows,
        threshold=threshold,
        is_empty=threshold is None,
        is_shared=True,
        separation=math.nan if threshold is None else _separation(values, threshold, _GLASS_SPREAD),
    )


def _bright_threshold(values: NDArray[np.float32], glass: Glass) -> float | None:
    """Return the absorption above which a pixel is tissue; None where all is glass.

    Otsu's split is taken if its lower class is the glass; where glass is rare it lies within the tissue, and the valley
    between glass and tissue is taken.
    """
    spread = max(glass.spread, _GLASS_SPREAD)
    split = accepted_split(values, spread)
    is_of_glass = split is not None and split <= _LARGEST_SPLIT
    if split is not None and is_of_glass and float(np.median(values[values <= split])) <= max(0.02, 2 * spread):
        return max(split, 3 * glass.spread, _LEAST_ABSORPTION)
    valley = _USUAL_ABSORPTION if glass.valley is None else glass.valley
    threshold = max(min(max(valley, _LEAST_ABSORPTION), _USUAL_ABSORPTION), 3 * glass.spread)
    is_apart = glass.valley is not None or split is not None
    least = LEAST_TISSUE if is_apart else _LEAST_PALE
    return threshold if np.count_nonzero(values > threshold) >= least * values.size else None


def _stated_glass(view: View, channels: tuple[int, ...]) -> Glass | None:
    """Return the glass that the configuration states, if it does so for all channels."""
    if not set(channels) <= set(view.levels):
        return None
    level = np.array([view.levels[channel] for channel in channels])
    if level.min() <= 0:
        raise InputUnsupportedError(
            f"a background level of {level.min():g} for a channel that is bright where there is no tissue",
            place="[tile.tissue] background_level",
            remedy="give the level of glass, which is above 0",
        )
    return Glass(level=level, spread=_GLASS_SPREAD, valley=_STATED_ABSORPTION, share=math.nan, may_be_uneven=True)


def _white(pixels: NDArray[np.generic], usable: Mask) -> float:
    """Return full scale: the largest value of an integer type, or the largest value seen."""
    if pixels.dtype.kind in "iu":
        return float(np.iinfo(cast(Any, pixels.dtype)).max)
    return float(pixels[:, usable].max())


def _of_dark(view: View, channels: tuple[int, ...]) -> Evidence:
    """Return what one dark channel tells, or the largest signal of several."""
    config, specimen = view.config, view.specimen
    windows = np.array([dark_window(view.pixels[channel], specimen) for channel in channels])
    if len(channels) == 1 and channels[0] in view.levels and config.method != "fixed":
        return _above_level(view, channels[0], float(windows[0, 1]))
    if config.method == "fixed":
        return Evidence(channels=channels, windows=windows, threshold=config.fixed_threshold, is_shared=True)
    for number, channel in enumerate(channels):
        if _dark_threshold(view, (channel,), windows[number : number + 1]) is None:
            windows[number] = 0.0  # its noise must not drown the others
    found = _dark_threshold(view, channels, windows)
    if found is None:
        is_constant = all(view.pixels[channel][specimen].size == 0 or _is_constant(view.pixels[channel][specimen])
                          for channel in channels)  # fmt: skip
        return Evidence(channels=channels, windows=np.zeros((len(channels), 2)), is_empty=is_constant)
    threshold, separation = found
    return Evidence(
        channels=channels,
        windows=windows,
        threshold=threshold,
        is_shared=config.combine == "maximum",
        separation=separation,
    )


def _is_constant(values: NDArray[np.generic]) -> bool:
    return bool(values.min() == values.max())


def _dark_threshold(view: View, channels: tuple[int, ...], windows: NDArray[np.float64]) -> tuple[float, float] | None:
    """Return the threshold on the largest signal of dark channels, and its separation; None where there is none."""
    shown = windows[:, 1] > windows[:, 0]
    if not shown.any():
        return None
    signal = tissue_signal(view.pixels[list(channels)], polarities=["dark"] * len(channels), windows=windows)
    spread = min(rounding_spread((low, high), view.pixels.dtype) for low, high in windows[shown].tolist())
    values = averaged(signal, view.specimen)
    threshold = accepted_split(values, spread)
    if threshold is None:
        return None
    if view.config.method == "triangle":
        threshold = triangle(values)
    return threshold, _separation(values, threshold, spread)


def _above_level(view: View, channel: int, high: float) -> Evidence:
    """Return what a dark channel of stated level tells: all that noise does not reach is tissue."""
    plane, low = view.pixels[channel].astype(np.float32), view.levels[channel]
    rough = plane - cv2.medianBlur(plane, 3)
    noise = 1.4826 * float(np.median(np.abs(rough[view.specimen]))) if view.specimen.any() else 0.0
    limit = low + max(_NOISE_SPREADS * noise, 0.5 if view.pixels.dtype.kind in "iu" else 0.0)
    window = np.array([[low, low + 2 * (limit - low)]])
    has_tissue = bool(high > limit > low)
    values = averaged(plane, view.specimen)
    share = np.count_nonzero(values > limit) / max(1, values.size)
    if not has_tissue or share < LEAST_TISSUE:
        return Evidence(channels=(channel,), windows=np.zeros((1, 2)), is_empty=True)
    return Evidence(channels=(channel,), windows=window, threshold=0.5)


def _separation(values: NDArray[np.float32], threshold: float, spread: float) -> float:
    """Return the distance of the classes' means in standard deviations of the lower class."""
    is_low = values <= threshold
    if is_low.all() or not is_low.any():
        return math.nan
    low, high = values[is_low], values[~is_low]
    distance = float(high.mean(dtype=np.float64) - low.mean(dtype=np.float64))
    return distance / max(float(low.std(dtype=np.float64)), spread)
