"""Find a slide's tissue on its overview, and say how sure that is.

Each channel tells what it can by its own polarity, and tissue is what any of them shows. Bright channels that show the
same thing, as the planes of H&E do, are taken together: their glass is found, and the threshold is an absorption
relative to it. A dark channel is split by Otsu's method. Pure arithmetic on arrays.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, cast

import cv2
import numpy as np
from numpy.typing import NDArray

from pathopatch.config import UNCERTAIN_BELOW, TissueConfig
from pathopatch.patches.foreign import find_black, find_ink
from pathopatch.patches.signal import dark_window, rounding_spread, signal_of, tissue_signal
from pathopatch.patches.threshold import averaged, is_structured, passing, triangle
from pathopatch.patches.tissue import EVERY_PIXEL, TissueModel, clean_mask
from pathopatch.slides.background import Polarities, correlated_channels
from pathopatch.slides.glass import Glass, Illumination, find_glass
from pathopatch.slides.separation import SEPARATION, accepted_split
from pathopatch.slides.unscanned import Unscanned

_GLASS_SPREAD = 0.01  # absorption: glass is never called more even than that
_LARGEST_SPLIT = 0.2  # absorption: what Otsu's method splits above lies within the tissue
_LEAST_ABSORPTION, _USUAL_ABSORPTION = 0.04, 0.1  # of tissue: pale stroma on real fields has 0.05 to 0.12
_STATED_ABSORPTION = 0.06  # the same where the level is stated and no valley is seen
_LEAST_TISSUE, _LEAST_PALE = 0.002, 0.02  # share behind a valley, and where pale tissue leaves none
_SURE_SPREAD, _DIM_SPREAD = 0.02, 0.03  # dim glass less even than this may be pale tissue, and is taken for it
_DIM = 0.7  # of full scale
_DARKEST_OF_SET, _PALEST_OF_SET = 0.45, 0.1  # absorption of full scale: tinted glass to 0.37; pale stroma over glass
_COMMON_SHARE = 0.2  # of a set's pixels: less may be the glass of a few of its images
_WHITE_STEP = 0.06  # absorption: in a set that is all tissue, what is this close to the whitest is a gap
_CLEAR = 0.8  # of full scale: glass alone is known to be glass from here on
_NOISE_SPREADS = 4.0  # above a stated level of a dark channel
_THINNED_PX = 1024
_CHANGE = 0.2  # of a threshold, for its stability
_UNSTABLE = 0.3  # change of the share that leaves no confidence
_SMOOTH_PX, _LEAST_SMOOTH_PX, _SMOOTH_SHARE = 7, 200, 0.015  # window; glass, and tissue that looks like it
_DOUBTFUL_FILL = 0.01  # share of the image
_RULES_GLASS = 245.0  # of 255, of the slides that the rules of ink and borders were made on

Mask = NDArray[np.bool_]


@dataclass(frozen=True, kw_only=True, eq=False)
class _Told:
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
class _View:
    """The overview and what of it counts."""

    pixels: NDArray[np.generic]
    polarities: Polarities
    is_colour: bool
    specimen: Mask
    config: TissueConfig
    levels: dict[int, float]
    glass: Glass | None
    is_flat: bool


def fit_tissue(
    overview: NDArray[np.generic],
    *,
    polarities: Polarities,
    is_colour: bool,
    config: TissueConfig,
    scale_x: float,
    scale_y: float,
    mpp: float,
    channels: Sequence[str] = (),
    unscanned: Unscanned | None = None,
    is_flat: bool = False,
) -> TissueModel:
    """Return what tells tissue from background, found on a slide's overview.

    Where no channel shows any background, and the image is more than noise, nothing tells tissue from background:
    `config.when_unsure` decides, and the confidence is low.

    Parameters
    ----------
    overview : ndarray, shape (C, h, w)
        The whole slide, small, source units.
    polarities : tuple of {"dark", "bright"}, length C
        Of each channel.
    is_colour : bool
        The channels are red, green and blue of one image.
    config : TissueConfig
        Method, sizes, what is ignored and what is known; its `background` is not read here.
    scale_x, scale_y : float
        Level-0 px per overview px.
    mpp : float
        Micrometres per level-0 px.
    channels : sequence of str
        Names, by which `config.channels` and `config.background_level` are found.
    unscanned : Unscanned, optional
        What was never scanned; all was if not given.
    is_flat : bool
        The overview is no picture of one field: do not look for uneven light.
    """
    um2_per_px = scale_x * scale_y * mpp**2
    missing = np.zeros(overview.shape[1:], np.bool_) if unscanned is None else unscanned.mask
    ink, glass = np.zeros(overview.shape[1:], np.bool_), None
    if is_colour and set(polarities) == {"bright"}:
        glass = find_glass(overview, ~missing, is_flat=is_flat)
        if overview.dtype == np.uint8:
            missing, ink = _borders_and_ink(overview, glass, missing, config, um_per_px=math.sqrt(um2_per_px))
    named = dict(zip(channels, range(len(overview)), strict=False))
    view = _View(
        pixels=overview,
        polarities=polarities,
        is_colour=is_colour,
        specimen=~(missing | ink),
        config=config,
        levels={named[name]: level for name, level in config.background_level.items() if name in named},
        glass=glass,
        is_flat=is_flat,
    )
    told = _tell(view, [named[name] for name in config.channels] if config.channels else list(range(len(overview))))
    known = [each for each in told if each.threshold is not None]
    known = [each for each in known if not each.is_doubtful] or known
    untold = [channel for each in told if each.threshold is None and not each.is_empty for channel in each.channels]
    is_unsure = not known and any(is_structured(overview[channel], view.specimen) for channel in untold)
    windows, threshold = _united(known, view)
    light = next((each.light for each in known if each.light is not None), None)
    if is_unsure:
        threshold, mask = _undecided(view)
    else:
        signal = known[0].signal if len(known) == 1 else None
        if signal is None:
            signal = signal_of(overview, polarities, windows, light)
        mask = passing(signal, threshold) & view.specimen
        mask = view.specimen & clean_mask(
            mask, um2_per_px=um2_per_px, min_speck_um2=config.min_speck_um2, max_hole_um2=config.max_hole_um2
        )
    if known and not mask.any() and any(each.is_doubtful for each in known):  # what passes may be glass as well
        is_unsure, known = True, []
        threshold, mask = _undecided(view)
    tissue = TissueModel(
        polarities=polarities,
        windows=windows,
        threshold=threshold,
        mask=mask.astype(np.uint8),
        scale_x=scale_x,
        scale_y=scale_y,
        unscanned=missing.astype(np.uint8) if missing.any() else None,
        levels=_levels(view, known, mask),
        illumination=light,
        is_unsure=is_unsure,
        ink_share=np.count_nonzero(ink) / ink.size,
    )
    confidence, doubts = _confidence(view, known, tissue, unscanned, is_unsure=is_unsure)
    return replace(tissue, confidence=confidence, doubts=doubts)


def _undecided(view: _View) -> tuple[float | None, Mask]:
    """Return threshold and mask where nothing tells tissue from background: the configuration decides."""
    if view.config.when_unsure == "all":
        return EVERY_PIXEL, view.specimen
    return None, np.zeros_like(view.specimen)


def _borders_and_ink(
    overview: NDArray[np.generic], glass: Glass | None, missing: Mask, config: TissueConfig, *, um_per_px: float
) -> tuple[Mask, Mask]:
    """Return what was not scanned, near-black borders included, and what is ink."""
    ink = np.zeros_like(missing)
    if not (config.ignore_borders or config.ignore_pens):
        return missing, ink
    rgb = _normalised(overview, glass, ~missing)
    if config.ignore_borders:
        missing = missing | find_black(rgb, um_per_px=um_per_px)
    return missing, find_ink(rgb, um_per_px=um_per_px) & ~missing if config.ignore_pens else ink


def _levels(view: _View, known: Sequence[_Told], mask: Mask) -> tuple[float, ...]:
    """Return the background level of each channel that tells tissue: of glass, or the median of what is no tissue."""
    levels = [math.nan] * len(view.pixels)
    ground = view.specimen & ~mask
    for each in known:
        for number, channel in enumerate(each.channels):
            if each.glass_level is not None:
                levels[channel] = float(each.glass_level[number])
            elif ground.any():
                levels[channel] = float(np.median(view.pixels[channel][ground]))
    return tuple(levels)


def _tell(view: _View, counting: list[int]) -> list[_Told]:
    """Return what each dark channel, and each set of bright channels that show the same, tell of tissue."""
    bright = [channel for channel in counting if view.polarities[channel] == "bright"]
    dark = [channel for channel in counting if view.polarities[channel] == "dark"]
    if bright and not view.is_colour:
        sets = [[bright[n] for n in group] for group in correlated_channels(view.pixels[bright], view.specimen)]
    else:
        sets = [bright] if bright else []
    told = [_tell_bright(view, tuple(group)) for group in sets]
    if view.config.combine == "maximum" or view.config.method == "fixed":
        return told + ([_tell_dark(view, tuple(dark))] if dark else [])
    return told + [_tell_dark(view, (channel,)) for channel in dark]


def _tell_bright(view: _View, channels: tuple[int, ...]) -> _Told:
    """Return what bright channels tell: absorption relative to their glass."""
    pixels, config = view.pixels[list(channels)], view.config
    if not view.specimen.any():
        return _Told(channels=channels, windows=np.zeros((len(channels), 2)), is_empty=True)
    glass = _stated_glass(view, channels)
    if glass is None and view.is_flat and view.is_colour and pixels.dtype == np.uint8:
        return _tell_set(view, channels)
    if glass is None:
        glass = view.glass if view.is_colour else find_glass(pixels, view.specimen, is_flat=view.is_flat)
    white = _white(pixels, view.specimen)
    if config.method == "fixed":
        level = np.full(len(channels), white) if glass is None else glass.level
        light = None if glass is None else glass.illumination
        windows = np.stack([np.zeros(len(channels)), level], axis=1)
        return _Told(channels=channels, windows=windows, threshold=config.fixed_threshold, is_shared=True, light=light)
    is_dim = glass is not None and float(glass.level.min()) < _DIM * white
    if glass is None or (is_dim and glass.spread > _DIM_SPREAD):
        return _Told(channels=channels, windows=np.zeros((len(channels), 2)))
    windows = np.stack([np.zeros(len(channels)), glass.level], axis=1)
    signal = signal_of(pixels, ["bright"] * len(channels), windows, glass.illumination)
    values = averaged(signal, view.specimen)
    threshold = _bright_threshold(values, glass)
    if threshold is None:
        is_known = bool(channels[0] in view.levels or float(glass.level.min()) >= _CLEAR * white)
        return _Told(channels=channels, windows=windows, is_empty=is_known)
    if config.method == "triangle":
        threshold = triangle(values)
    return _Told(
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


def _tell_set(view: _View, channels: tuple[int, ...]) -> _Told:
    """Return what colour images of many fields tell: each has its own glass, so that full scale stands for all of it.

    A set whose glass is even over its images is measured against that.
    """
    pixels, config = view.pixels[list(channels)], view.config
    glass = view.glass
    is_common = glass is not None and glass.spread <= _SURE_SPREAD and glass.share >= _COMMON_SHARE
    level = glass.level if glass is not None and is_common else np.full(3, 255.0)
    windows = np.stack([np.zeros(len(channels)), level], axis=1)
    values = averaged(tissue_signal(pixels, polarities=["bright"] * len(channels), windows=windows), view.specimen)
    if config.method == "fixed":
        return _Told(channels=channels, windows=windows, threshold=config.fixed_threshold, is_shared=True)
    threshold = accepted_split(
        values, _GLASS_SPREAD, further_spread=_PALEST_OF_SET / SEPARATION, background_up_to=_DARKEST_OF_SET
    )
    if threshold is not None and config.method == "triangle":
        threshold = triangle(values)
    if threshold is None and values.size and float(np.median(values)) > 1 - _CLEAR:
        threshold = min(1 - _CLEAR, float(np.percentile(values, 0.5)) + _WHITE_STEP)  # all tissue, but for gaps
    return _Told(
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
    least = _LEAST_TISSUE if is_apart else _LEAST_PALE
    return threshold if np.count_nonzero(values > threshold) >= least * values.size else None


def _stated_glass(view: _View, channels: tuple[int, ...]) -> Glass | None:
    """Return the glass that the configuration states, if it does so for all channels."""
    if not set(channels) <= set(view.levels):
        return None
    level = np.array([view.levels[channel] for channel in channels])
    return Glass(level=level, spread=_GLASS_SPREAD, valley=_STATED_ABSORPTION, share=math.nan)


def _white(pixels: NDArray[np.generic], usable: Mask) -> float:
    """Return full scale: the largest value of an integer type, or the largest value seen."""
    if pixels.dtype.kind in "iu":
        return float(np.iinfo(cast(Any, pixels.dtype)).max)
    return float(pixels[:, usable].max())


def _tell_dark(view: _View, channels: tuple[int, ...]) -> _Told:
    """Return what one dark channel tells, or the largest signal of several."""
    config, specimen = view.config, view.specimen
    windows = np.array([dark_window(view.pixels[channel], specimen) for channel in channels])
    if len(channels) == 1 and channels[0] in view.levels and config.method != "fixed":
        return _tell_above(view, channels[0], float(windows[0, 1]))
    if config.method == "fixed":
        return _Told(channels=channels, windows=windows, threshold=config.fixed_threshold, is_shared=True)
    for number, channel in enumerate(channels):
        if _dark_threshold(view, (channel,), windows[number : number + 1]) is None:
            windows[number] = 0.0  # its noise must not drown the others
    found = _dark_threshold(view, channels, windows)
    if found is None:
        is_constant = all(view.pixels[channel][specimen].size == 0 or _is_constant(view.pixels[channel][specimen])
                          for channel in channels)  # fmt: skip
        return _Told(channels=channels, windows=np.zeros((len(channels), 2)), is_empty=is_constant)
    threshold, separation = found
    return _Told(
        channels=channels,
        windows=windows,
        threshold=threshold,
        is_shared=config.combine == "maximum",
        separation=separation,
    )


def _is_constant(values: NDArray[np.generic]) -> bool:
    return bool(values.min() == values.max())


def _dark_threshold(view: _View, channels: tuple[int, ...], windows: NDArray[np.float64]) -> tuple[float, float] | None:
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


def _tell_above(view: _View, channel: int, high: float) -> _Told:
    """Return what a dark channel of stated level tells: all that noise does not reach is tissue."""
    plane, low = view.pixels[channel].astype(np.float32), view.levels[channel]
    rough = plane - cv2.medianBlur(plane, 3)
    noise = 1.4826 * float(np.median(np.abs(rough[view.specimen]))) if view.specimen.any() else 0.0
    limit = low + max(_NOISE_SPREADS * noise, 0.5 if view.pixels.dtype.kind in "iu" else 0.0)
    window = np.array([[low, low + 2 * (limit - low)]])
    has_tissue = bool(high > limit > low)
    values = averaged(plane, view.specimen)
    share = np.count_nonzero(values > limit) / max(1, values.size)
    if not has_tissue or share < _LEAST_TISSUE:
        return _Told(channels=(channel,), windows=np.zeros((1, 2)), is_empty=True)
    return _Told(channels=(channel,), windows=window, threshold=0.5)


def _separation(values: NDArray[np.float32], threshold: float, spread: float) -> float:
    """Return the distance of the classes' means in standard deviations of the lower class."""
    is_low = values <= threshold
    if is_low.all() or not is_low.any():
        return math.nan
    low, high = values[is_low], values[~is_low]
    distance = float(high.mean(dtype=np.float64) - low.mean(dtype=np.float64))
    return distance / max(float(low.std(dtype=np.float64)), spread)


def _united(known: Sequence[_Told], view: _View) -> tuple[NDArray[np.float64], float | None]:
    """Return windows (C, 2) and one threshold by which a pixel passes where any channel passes its own.

    A threshold that several channels share is kept where it is the only one. Otherwise the windows are stretched so
    that each channel passes at 0.5.
    """
    windows = np.zeros((len(view.pixels), 2))
    if len(known) == 1 and (known[0].is_shared or view.config.method == "fixed"):
        windows[list(known[0].channels)] = known[0].windows
        return windows, known[0].threshold
    for each in known:
        for channel, (low, high) in zip(each.channels, each.windows.tolist(), strict=True):
            width = 2 * max(cast(float, each.threshold), 1e-6) * (high - low)
            is_dark = view.polarities[channel] == "dark"
            windows[channel] = (low, low + width) if is_dark else (high - width, high)
    return windows, 0.5 if known else None


def _confidence(
    view: _View, known: Sequence[_Told], tissue: TissueModel, unscanned: Unscanned | None, *, is_unsure: bool
) -> tuple[float, tuple[str, ...]]:
    """Return how sure a mask is, in [0, 1], and why it is not.

    The least of: separation of tissue and background, stability of the share when the threshold moves by a fifth,
    agreement of the channels, and whether a fill is the only background.
    """
    if is_unsure:
        rest = {"all": ", all is counted as tissue", "none": ", none is counted as tissue", "fail": ""}
        return 0.1, (f"no background is in view{rest[view.config.when_unsure]}",)
    scores: list[tuple[float, str]] = [(0.9, "")]
    if unscanned is not None and unscanned.doubtful_share > _DOUBTFUL_FILL:
        told = f"{unscanned.doubtful_share:.0%} of the image is one value with straight edges, taken for background"
        scores.append((0.3, told))
    if any(each.is_doubtful for each in known):
        scores.append((0.4, "what was taken for glass is uneven and dim, it may be pale tissue"))
    if any(each.may_be_uneven and _has_smooth_tissue(view, each, tissue) for each in known):
        scores.append((0.4, "areas as smooth as glass, but darker, are counted as tissue: the light may be uneven"))
    separations = [each.separation for each in known if not math.isnan(each.separation)]
    if separations:
        score = min(1.0, max(separations) / (1.5 * SEPARATION))
        scores.append((score, "tissue and background are hardly apart"))
    if known and tissue.threshold not in (None, EVERY_PIXEL):
        pixels, usable_px = _thinned(view)
        usable = max(1, int(np.count_nonzero(usable_px)))
        signal = signal_of(pixels, tissue.polarities, tissue.windows, tissue.illumination)[usable_px]
        threshold = tissue.threshold or 0.0
        more, less = (int(np.count_nonzero(signal > threshold * (1 + sign * _CHANGE))) / usable for sign in (-1, 1))
        told = f"the share depends on the threshold: {less:.0%} to {more:.0%} when it moves by a fifth"
        scores.append((1 - min(1.0, (more - less) / _UNSTABLE), told))
        scores += _agreement(view, known, tissue)
    confidence = min(score for score, _ in scores)
    return round(confidence, 3), tuple(told for score, told in scores if score < UNCERTAIN_BELOW)


def _thinned(view: _View) -> tuple[NDArray[np.generic], Mask]:
    """Return every k-th row and column of a large overview, and what of it counts: enough for shares."""
    step = max(1, max(view.specimen.shape) // _THINNED_PX)
    return view.pixels[:, ::step, ::step], view.specimen[::step, ::step]


def _has_smooth_tissue(view: _View, told: _Told, tissue: TissueModel) -> bool:
    """Return whether some of the tissue is as featureless as the glass: on even light 0.5 % of it at most."""
    pixels = view.pixels[list(told.channels)].astype(np.float32)
    roughness = np.zeros(pixels.shape[1:], np.float32)
    for plane in pixels:
        means, squares = (cv2.blur(values, (_SMOOTH_PX, _SMOOTH_PX)) for values in (plane, plane * plane))
        spread = np.sqrt(np.maximum(squares - means * means, 0)) / np.maximum(means, 0.02 * float(plane.max()))
        np.maximum(roughness, spread, out=roughness)
    near = np.ones((_SMOOTH_PX + 2, _SMOOTH_PX + 2), np.uint8)
    glass = cv2.erode((view.specimen & (tissue.mask == 0)).astype(np.uint8), near) != 0
    if np.count_nonzero(glass) < _LEAST_SMOOTH_PX:
        return False
    limit = max(1.5 * float(np.percentile(roughness[glass], 75)), 0.004)
    is_smooth = (cv2.erode(tissue.mask, near) != 0) & (roughness <= limit)
    return int(np.count_nonzero(is_smooth)) > _SMOOTH_SHARE * int(np.count_nonzero(tissue.mask))


def _agreement(view: _View, known: Sequence[_Told], tissue: TissueModel) -> list[tuple[float, str]]:
    """Return how far the tissue of each source lies within that of the source with most, against chance."""
    if len(known) < 2:
        return []
    pixels, usable_px = _thinned(view)
    masks = []
    for each in known:
        windows = np.zeros_like(tissue.windows)
        windows[list(each.channels)] = tissue.windows[list(each.channels)]
        signal = signal_of(pixels, tissue.polarities, windows, tissue.illumination)
        masks.append((signal > 0.5) & usable_px)
    largest = max(range(len(masks)), key=lambda n: np.count_nonzero(masks[n]))
    usable = max(1, int(np.count_nonzero(usable_px)))
    chance = int(np.count_nonzero(masks[largest])) / usable
    found = []
    for mask in masks:
        size = np.count_nonzero(mask)
        if mask is masks[largest] or size < _LEAST_TISSUE * usable:
            continue
        within = int(np.count_nonzero(mask & masks[largest])) / size
        found.append((min(1.0, within / chance), "channels show tissue at different places"))  # below half of chance
    return [min(found)] if found else []


def _normalised(overview: NDArray[np.generic], glass: Glass | None, usable: Mask) -> NDArray[np.uint8]:
    """Return RGB as if the glass were at the level for which the rules of ink and borders were made."""
    rgb = np.ascontiguousarray(overview, np.uint8)
    if not usable.any():
        return rgb
    brightest = float(np.percentile(rgb.max(axis=0)[usable], 99.5)) if glass is None else 0.0
    level = np.full(3, max(1.0, brightest)) if glass is None else glass.level
    if glass is not None and glass.illumination is not None:
        light = level.astype(np.float32)[:, None, None] * glass.illumination.over(*rgb.shape[1:])
        scaled = np.clip(np.rint(rgb * np.float32(_RULES_GLASS) / light), 0, 255).astype(np.uint8)
    else:
        values = np.clip(np.rint(np.multiply.outer(_RULES_GLASS / level, np.arange(256))), 0, 255).astype(np.uint8)
        scaled = np.stack([cv2.LUT(plane, table) for plane, table in zip(rgb, values, strict=True)])
    if not usable.all():
        scaled[:, ~usable] = round(_RULES_GLASS)  # mixed with its surroundings black would look like ink
    return scaled
