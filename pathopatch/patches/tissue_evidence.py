"""Find what each channel tells of tissue, by its own polarity, and rate how certain a mask from it is.

Bright channels with the same content, as the planes of H&E, are taken together: their glass is found, and the
threshold is an absorption relative to it. A dark channel is split by Otsu's method. Pure arithmetic on arrays.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, cast

import cv2
import numpy as np
from numpy.typing import NDArray

from pathopatch.core.config import UNCERTAIN_BELOW, TissueConfig
from pathopatch.core.errors import InputUnsupportedError
from pathopatch.patches.tissue_model import (
    EVERY_PIXEL,
    OverviewSignal,
    TissueModel,
    bands,
    dark_window,
    rounding_spread,
    tissue_signal,
)
from pathopatch.slides.background import SEPARATION, Polarities, accepted_split, correlated_channels, plain_polarity
from pathopatch.slides.glass import Glass, Illumination, find_glass
from pathopatch.slides.unscanned import Unscanned

# Absorptions are shares of the glass's level, measured on the real fields of `pipelines/tissue-gallery`.
_LEAST_TISSUE = 0.002  # share of the pixels below which there is no tissue
_GLASS_SPREAD = 0.01  # least spread of glass: its measured spread may be smaller by chance
_LARGEST_SPLIT = 0.2  # above this absorption, Otsu's method splits within the tissue
_LEAST_ABSORPTION, _USUAL_ABSORPTION = 0.04, 0.1  # of tissue: pale stroma on real fields has 0.05 to 0.12
_STATED_ABSORPTION = 0.06  # threshold below a stated glass level, where no valley is seen
_SURE_SPREAD, _DIM_SPREAD = 0.02, 0.03  # dim glass with a larger spread may be, or is, pale tissue
_DIM = 0.7  # of full scale: glass below is dim
_DARKEST_OF_SET, _PALEST_OF_SET = 0.45, 0.1  # absorption of full scale: tinted glass to 0.37; pale stroma over glass
_COMMON_SHARE = 0.2  # of a set's pixels: less glass may be that of a few of its images
_WHITE_STEP = 0.06  # absorption: in a set that is all tissue, pixels this close to the whitest are gaps
_CLEAR = 0.8  # of full scale: an even field this bright is glass, not pale tissue
_NOISE_SPREADS = 4.0  # above a dark channel's stated level: one pixel in 30,000 of Gaussian noise passes
_LEAST_PALE = 0.02  # share of tissue pixels required without a valley between glass and tissue
_SAMPLE_PX = 2**20  # larger overviews are thinned to about this many pixels to find thresholds
_THINNED_PX = 1024  # longest side on which shares are counted
_CHANGE = 0.2  # relative change of a threshold, to test its stability
_UNSTABLE = 0.3  # change of the tissue share that leaves no confidence
_SMOOTH_PX = 7  # side of the window in which roughness is measured, overview px
_LEAST_SMOOTH_PX = 200  # smooth glass pixels required to learn the glass's own roughness
_SMOOTH_SHARE = 0.015  # of the tissue: on even light 0.5 % of it is as smooth as glass
_GLASS_ROUGHNESS = 0.02  # standard deviation over mean, JPEG included
_LEAST_ROUGHNESS = 0.004  # least limit, for glass without any noise
_GLASS_COLOUR = 0.05  # difference between channels of glass under another light; 95 % of H&E tissue has 0.07 or more
_DARKEST_GLASS = 0.25  # absorption: featureless areas that are darker are no glass
_DOUBTFUL_FILL = 0.01  # share of the image

Mask = NDArray[np.bool_]


@dataclass(frozen=True, kw_only=True, eq=False)
class Evidence:
    """What one channel, or several together, tell of tissue."""

    channels: tuple[int, ...]
    # (n, 2): (low, high) of the signal of each channel, source units; none without a threshold.
    windows: NDArray[np.float64] = field(default_factory=lambda: np.zeros((0, 2)))
    threshold: float | None = None  # a pixel is tissue if its signal is above; None: no tissue, or undecided
    is_empty: bool = False  # the channels show background alone
    is_shared: bool = False  # one threshold for several channels together
    separation: float = math.nan  # of tissue from background, in standard deviations of the background
    is_doubtful: bool = False  # the supposed glass may be pale tissue
    may_be_uneven: bool = False  # darker glass may have been taken for tissue
    glass_level: NDArray[np.float64] | None = None  # (n,), of bright channels, source units
    signal: OverviewSignal | None = None  # of bright channels
    light: Illumination | None = None  # of bright channels


@dataclass(frozen=True, kw_only=True, eq=False)
class Overview:
    """A slide's overview, the pixels of it that count, and what is known in advance."""

    pixels: NDArray[np.generic]  # (C, h, w), source units
    polarities: Polarities
    is_colour: bool  # the channels are red, green and blue of one image
    specimen: Mask  # (h, w): scanned, and no ink
    config: TissueConfig
    levels: dict[int, float]  # stated background level by channel
    glass: Glass | None  # of a colour image
    is_flat: bool  # no picture of one field: no uneven light

    def planes(self, channels: Sequence[int]) -> NDArray[np.generic]:
        """Return the pixels of some channels, a copy only where it must be one."""
        return self.pixels if list(channels) == list(range(len(self.pixels))) else self.pixels[list(channels)]


def find_evidence(overview: Overview, channels: Sequence[int]) -> list[Evidence]:
    """Return the evidence of each dark channel, and of each group of bright channels with the same content."""
    bright = [channel for channel in channels if overview.polarities[channel] == "bright"]
    dark = [channel for channel in channels if overview.polarities[channel] == "dark"]
    if bright and not overview.is_colour:
        correlated = correlated_channels(overview.pixels[bright], overview.specimen)
        groups = [[bright[n] for n in group] for group in correlated]
    else:
        groups = [bright] if bright else []
    evidence = [_bright_evidence(overview, tuple(group)) for group in groups]
    if overview.config.method == "fixed" and dark:
        windows = np.array([dark_window(overview.pixels[channel], overview.specimen) for channel in dark])
        threshold = overview.config.fixed_threshold
        return [*evidence, Evidence(channels=tuple(dark), windows=windows, threshold=threshold, is_shared=True)]
    return evidence + [_dark_evidence(overview, channel) for channel in dark]


def _bright_evidence(overview: Overview, channels: tuple[int, ...]) -> Evidence:
    """Return the evidence of bright channels: absorption relative to their glass."""
    pixels, config = overview.planes(channels), overview.config
    if not overview.specimen.any():
        return Evidence(channels=channels, is_empty=True)
    if set(channels) <= set(overview.levels):
        stated = np.array([overview.levels[channel] for channel in channels])
        if stated.min() <= 0:
            raise InputUnsupportedError(
                f"a background level of {stated.min():g} for a channel that is bright where there is no tissue",
                place="[tile.tissue] background_level",
                remedy="give the level of glass, which is above 0",
            )
        glass: Glass | None = Glass(
            level=stated, spread=_GLASS_SPREAD, valley=_STATED_ABSORPTION, share=math.nan, may_be_uneven=True
        )
    elif overview.is_flat and overview.is_colour and pixels.dtype == np.uint8:
        return _image_set_evidence(overview, channels)
    elif overview.is_colour and len(channels) == len(overview.pixels):
        glass = overview.glass
    else:
        glass = find_glass(pixels, overview.specimen, is_flat=overview.is_flat)
    # Full scale: the largest value of an integer dtype, or the largest usable value of a float image.
    is_whole_number = pixels.dtype.kind in "iu"
    white = float(np.iinfo(cast(Any, pixels.dtype)).max if is_whole_number else pixels[:, overview.specimen].max())
    light = None if glass is None else glass.illumination
    level = np.full(len(channels), white) if glass is None else glass.level
    windows = np.outer(level, (0.0, 1.0))  # (n, 2)
    if config.method == "fixed":
        return Evidence(
            channels=channels, windows=windows, threshold=config.fixed_threshold, is_shared=True, light=light
        )
    # The brightest peak of a field without glass is pale tissue: dim, and less even than glass.
    is_dim = glass is not None and float(glass.level.min()) < _DIM * white
    if glass is None or (is_dim and glass.spread > _DIM_SPREAD):
        return Evidence(channels=channels)
    signal = OverviewSignal(pixels=pixels, polarities=["bright"] * len(channels), windows=windows, illumination=light)
    values = _smoothed_sample(signal, overview.specimen)
    threshold = _bright_threshold(values, glass)
    if threshold is None:
        # An even dim field may be tissue without glass; only a clear or a stated level shows that it is empty.
        is_glass = channels[0] in overview.levels or float(glass.level.min()) >= _CLEAR * white
        return Evidence(channels=channels, is_empty=is_glass)
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
        light=light,
    )


def _image_set_evidence(overview: Overview, channels: tuple[int, ...]) -> Evidence:
    """Return the evidence of a set of colour images, which have no single glass."""
    pixels, config = overview.planes(channels), overview.config
    glass = overview.glass
    # Each image has its own glass, so full scale takes its place, unless glass is even over the images.
    is_common = glass is not None and glass.spread <= _SURE_SPREAD and glass.share >= _COMMON_SHARE
    level = glass.level[list(channels)] if glass is not None and is_common else np.full(len(channels), 255.0)
    windows = np.outer(level, (0.0, 1.0))
    signal = OverviewSignal(pixels=pixels, polarities=["bright"] * len(channels), windows=windows)
    values = _smoothed_sample(signal, overview.specimen)
    if config.method == "fixed":
        return Evidence(channels=channels, windows=windows, threshold=config.fixed_threshold, is_shared=True)
    threshold = accepted_split(
        values, _GLASS_SPREAD, further_spread=_PALEST_OF_SET / SEPARATION, background_up_to=_DARKEST_OF_SET
    )
    # No split and mostly dark: the set is all tissue but for gaps, which lie close to the whitest pixels.
    if threshold is None and values.size and float(np.median(values)) > 1 - _CLEAR:
        threshold = min(1 - _CLEAR, float(np.percentile(values, 0.5)) + _WHITE_STEP)
    return Evidence(
        channels=channels,
        windows=windows,
        threshold=threshold,
        is_empty=threshold is None,
        is_shared=True,
        separation=math.nan if threshold is None else _separation(values, threshold, _GLASS_SPREAD),
    )


def _bright_threshold(values: NDArray[np.float32], glass: Glass) -> float | None:
    """Return the absorption above which a pixel is tissue; None where all is glass."""
    spread = max(glass.spread, _GLASS_SPREAD)
    split = accepted_split(values, spread)
    # Otsu's split is taken if its lower class is the glass. Where glass is rare the split lies within the tissue, and
    # the valley between glass and tissue is taken.
    is_low = split is not None and split <= _LARGEST_SPLIT
    if split is not None and is_low and float(np.median(values[values <= split])) <= max(0.02, 2 * spread):
        return max(split, 3 * glass.spread, _LEAST_ABSORPTION)
    valley = _USUAL_ABSORPTION if glass.valley is None else glass.valley
    threshold = max(min(max(valley, _LEAST_ABSORPTION), _USUAL_ABSORPTION), 3 * glass.spread)
    is_apart = glass.valley is not None or split is not None
    least_share = _LEAST_TISSUE if is_apart else _LEAST_PALE
    return threshold if np.count_nonzero(values > threshold) >= least_share * values.size else None


def _dark_evidence(overview: Overview, channel: int) -> Evidence:
    """Return the evidence of one dark channel."""
    plane, specimen = overview.pixels[channel], overview.specimen
    window = dark_window(plane, specimen)
    if channel in overview.levels:
        return _evidence_above_level(overview, channel, window[1])
    if window[1] > window[0]:
        windows = np.array([window])
        signal = OverviewSignal(pixels=plane[None], polarities=["dark"], windows=windows)
        spread = rounding_spread(window, plane.dtype)
        values = _smoothed_sample(signal, specimen)
        threshold = accepted_split(values, spread)
        if threshold is not None:
            separation = _separation(values, threshold, spread)
            return Evidence(channels=(channel,), windows=windows, threshold=threshold, separation=separation)
    pixels: NDArray[Any] = plane[specimen]
    return Evidence(channels=(channel,), is_empty=pixels.size == 0 or bool(pixels.min() == pixels.max()))


def _evidence_above_level(overview: Overview, channel: int, high: float) -> Evidence:
    """Return the evidence of a dark channel of stated level: all above the reach of noise is tissue."""
    plane, low = overview.pixels[channel].astype(np.float32), overview.levels[channel]
    # Noise is what a median filter removes. 1.4826 times the median deviation is the standard deviation, robustly.
    rough = plane - cv2.medianBlur(plane, 3)
    noise = 1.4826 * float(np.median(np.abs(rough[overview.specimen]))) if overview.specimen.any() else 0.0
    limit = low + max(_NOISE_SPREADS * noise, 0.5 if overview.pixels.dtype.kind in "iu" else 0.0)
    values = _smoothed_sample(plane, overview.specimen)
    share = np.count_nonzero(values > limit) / max(1, values.size)
    if not high > limit > low or share < _LEAST_TISSUE:
        return Evidence(channels=(channel,), is_empty=True)
    window = np.array([[low, low + 2 * (limit - low)]])  # so that the limit lies at a signal of 0.5
    return Evidence(channels=(channel,), windows=window, threshold=0.5)


def _separation(values: NDArray[np.float32], threshold: float, spread: float) -> float:
    """Return the distance of the classes' means in standard deviations of the lower class."""
    is_low = values <= threshold
    if is_low.all() or not is_low.any():
        return math.nan
    low, high = values[is_low], values[~is_low]
    distance = float(high.mean(dtype=np.float64) - low.mean(dtype=np.float64))
    return distance / max(float(low.std(dtype=np.float64)), spread)


def _smoothed_sample(signal: NDArray[np.float32] | OverviewSignal, usable: Mask) -> NDArray[np.float32]:
    """Return the values (N,) on which thresholds are found: means over 3 x 3 px, thinned on large overviews."""
    step = math.isqrt(usable.size // _SAMPLE_PX) or 1
    sample = np.empty(usable[::step, ::step].shape, np.float32)
    for rows in bands((len(sample), step * usable.shape[1])):
        top = max(0, rows.start * step - 1)  # a row more on each side, for its means
        smoothed = cv2.blur(signal[top : rows.stop * step + 1], (3, 3))
        sample[rows] = smoothed[rows.start * step - top :: step, ::step][: rows.stop - rows.start]
    return np.asarray(sample[usable[::step, ::step]], np.float32)


def rate_confidence(
    overview: Overview,
    informative: Sequence[Evidence],
    tissue: TissueModel,
    unscanned: Unscanned | None,
    further: Sequence[tuple[float, str]] = (),
    *,
    is_unsure: bool,
) -> tuple[float, tuple[str, ...]]:
    """Return the confidence in a mask, in [0, 1], and the doubts that lower it; `informative` has thresholds.

    `further` are scores with doubts that were found before.
    """
    if is_unsure:
        counted_as = {"all": ", all is counted as tissue", "none": ", none is counted as tissue", "fail": ""}
        return 0.1, (f"no background is in view{counted_as[overview.config.when_unsure]}",)
    # Every k-th row and column of a large image is enough for shares.
    step = max(1, max(overview.specimen.shape) // _THINNED_PX)
    pixels, specimen = overview.pixels[:, ::step, ::step], overview.specimen[::step, ::step]
    # The confidence is the least of several scores: one good sign does not make up for a bad one.
    scores: list[tuple[float, str]] = [(0.9, ""), *further]
    if unscanned is not None and unscanned.doubtful_share > _DOUBTFUL_FILL:
        doubt = f"{unscanned.doubtful_share:.0%} of the image is one value with straight edges, taken for background"
        scores.append((0.3, doubt))
    if overview.is_colour and not overview.levels:
        missing = np.zeros_like(overview.specimen) if unscanned is None else unscanned.mask
        # Ink and black borders stay in: they were found by the stated polarity, which is in question here.
        polarity = plain_polarity(pixels, ~missing[::step, ::step])
        if polarity not in (None, *overview.polarities):
            scores.append((0.3, f"the background is stated as {overview.polarities[0]}, but the image looks different"))
    if any(evidence.is_doubtful for evidence in informative):
        scores.append((0.4, "the supposed glass is uneven and dim, it may be pale tissue"))
    if any(evidence.may_be_uneven and _has_smooth_tissue(overview, evidence, tissue) for evidence in informative):
        scores.append((0.4, "areas as smooth as glass, but darker, are counted as tissue: the light may be uneven"))
    separations = [evidence.separation for evidence in informative if not math.isnan(evidence.separation)]
    if separations:
        score = min(1.0, max(separations) / (1.5 * SEPARATION))
        scores.append((score, "tissue and background are hardly apart"))
    if informative and tissue.threshold not in (None, EVERY_PIXEL):
        light = None if tissue.illumination is None else tissue.illumination.over(*specimen.shape)
        signal = tissue_signal(pixels, polarities=tissue.polarities, windows=tissue.windows, light=light)[specimen]
        usable, threshold = max(1, int(np.count_nonzero(specimen))), tissue.threshold or 0.0
        more, less = (int(np.count_nonzero(signal > threshold * (1 + sign * _CHANGE))) / usable for sign in (-1, 1))
        doubt = f"the share depends on the threshold: {less:.0%} to {more:.0%} when it moves by a fifth"
        scores.append((1 - min(1.0, (more - less) / _UNSTABLE), doubt))
        if len(informative) > 1:
            score = _channel_agreement(informative, tissue, pixels, specimen, light)
            scores.append((score, "channels show tissue at different places"))
    confidence = min(score for score, _ in scores)
    return round(confidence, 3), tuple(doubt for score, doubt in scores if score < UNCERTAIN_BELOW)


def _has_smooth_tissue(overview: Overview, evidence: Evidence, tissue: TissueModel) -> bool:
    """Return whether part of the tissue is as featureless as the glass, and has its colour."""
    assert evidence.signal is not None
    assert evidence.threshold is not None
    least_px = _SMOOTH_SHARE * int(np.count_nonzero(tissue.mask))
    near = np.ones((_SMOOTH_PX + 2, _SMOOTH_PX + 2), np.uint8)
    # Flat indices of the pixels in question: filters run on the whole image, statistics on these alone.
    is_in_question = cv2.erode(tissue.mask, near) != 0
    for rows in bands(is_in_question.shape):
        # Tissue by other channels' evidence says nothing about this glass.
        signal = evidence.signal[rows]
        is_in_question[rows] &= (signal > evidence.threshold) & (signal <= _DARKEST_GLASS)
    places = np.flatnonzero(is_in_question)
    glass = np.flatnonzero(cv2.erode((overview.specimen & (tissue.mask == 0)).view(np.uint8), near))
    colour = evidence.glass_level if overview.is_colour else None
    if places.size <= least_px or (glass.size < _LEAST_SMOOTH_PX and colour is None):
        return False
    planes = [overview.pixels[channel] for channel in evidence.channels]
    # OpenCV sums these dtypes into float32; a copy would cost more than the filter.
    planes = [p if p.dtype in (np.uint8, np.uint16, np.float32) else p.astype(np.float32) for p in planes]
    light = planes[0].astype(np.float32) if len(planes) == 1 else cv2.add(planes[0], planes[1], dtype=cv2.CV_32F)
    for plane in planes[2:]:
        cv2.add(light, plane, light, dtype=cv2.CV_32F)
    means = cv2.blur(light, (_SMOOTH_PX, _SMOOTH_PX))
    squares = cv2.sqrBoxFilter(light, cv2.CV_32F, (_SMOOTH_PX, _SMOOTH_PX))
    darkest = 0.02 * float(light.max())  # black pixels would divide by zero

    def roughness(at: NDArray[np.intp]) -> NDArray[np.float32]:
        mean = means.ravel()[at]
        deviation = np.sqrt(np.maximum(squares.ravel()[at] - mean * mean, 0))
        return np.asarray(deviation / np.maximum(mean, darkest), np.float32)

    # Where too little glass is in view to learn its roughness, a usual one and its colour decide.
    limit = _GLASS_ROUGHNESS
    if glass.size >= _LEAST_SMOOTH_PX:
        limit = max(1.5 * float(np.percentile(roughness(glass[::4]), 75)), _LEAST_ROUGHNESS)
    places = places[roughness(places) <= limit]
    if colour is not None and places.size > least_px:
        # The range of the channels' transmissions over the largest: 0 for grey in any light.
        blurred = [cv2.boxFilter(plane, cv2.CV_32F, (_SMOOTH_PX, _SMOOTH_PX)) for plane in planes]
        transmissions = [plane.ravel()[places] / level for plane, level in zip(blurred, colour.tolist(), strict=True)]
        largest = np.maximum.reduce(transmissions)
        colourfulness = (largest - np.minimum.reduce(transmissions)) / np.maximum(largest, 1e-6)
        places = places[colourfulness <= _GLASS_COLOUR]
    return places.size > least_px


def _channel_agreement(
    informative: Sequence[Evidence],
    tissue: TissueModel,
    pixels: NDArray[np.generic],
    specimen: Mask,
    light: NDArray[np.float32] | None,
) -> float:
    """Return how far each evidence's tissue lies within that of the largest, against chance: the least, up to 1."""
    masks = []
    for evidence in informative:
        windows, channels = np.zeros_like(tissue.windows), list(evidence.channels)
        windows[channels] = tissue.windows[channels]
        signal = tissue_signal(pixels, polarities=tissue.polarities, windows=windows, light=light)
        masks.append((signal > 0.5) & specimen)
    sizes = [int(np.count_nonzero(mask)) for mask in masks]
    largest = int(np.argmax(sizes))
    usable = max(1, int(np.count_nonzero(specimen)))
    # A small structure may lie anywhere, so only an overlap below half of chance makes the mask uncertain.
    scores = [
        int(np.count_nonzero(mask & masks[largest])) / size / (sizes[largest] / usable)
        for number, (mask, size) in enumerate(zip(masks, sizes, strict=True))
        if number != largest and size >= _LEAST_TISSUE * usable
    ]
    return min([1.0, *scores])  # without a score there is nothing that contradicts
