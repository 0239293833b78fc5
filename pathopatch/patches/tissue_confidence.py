"""Rate how certain a tissue mask is. Pure arithmetic on arrays."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from pathopatch.core.config import UNCERTAIN_BELOW
from pathopatch.patches.tissue import EVERY_PIXEL, TissueModel, overview_signal
from pathopatch.patches.tissue_evidence import LEAST_TISSUE, Evidence, Overview
from pathopatch.slides.background import SEPARATION, plain_polarity
from pathopatch.slides.unscanned import Unscanned

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


def rate_confidence(
    overview: Overview,
    informative: Sequence[Evidence],
    tissue: TissueModel,
    unscanned: Unscanned | None,
    *,
    is_unsure: bool,
) -> tuple[float, tuple[str, ...]]:
    """Return the confidence in a mask, in [0, 1], and the doubts that lower it; `informative` has thresholds."""
    if is_unsure:
        counted_as = {"all": ", all is counted as tissue", "none": ", none is counted as tissue", "fail": ""}
        return 0.1, (f"no background is in view{counted_as[overview.config.when_unsure]}",)
    # The confidence is the least of several scores: one good sign does not make up for a bad one.
    scores: list[tuple[float, str]] = [(0.9, "")]
    if unscanned is not None and unscanned.doubtful_share > _DOUBTFUL_FILL:
        doubt = f"{unscanned.doubtful_share:.0%} of the image is one value with straight edges, taken for background"
        scores.append((0.3, doubt))
    if overview.is_colour and not overview.levels:
        missing = np.zeros_like(overview.specimen) if unscanned is None else unscanned.mask
        # Ink and black borders stay in: they were found by the stated polarity, which is in question here.
        polarity = plain_polarity(_thin(overview.pixels), ~_thin(missing))
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
        pixels, specimen = _thin(overview.pixels), _thin(overview.specimen)
        usable = max(1, int(np.count_nonzero(specimen)))
        signal = overview_signal(pixels, tissue.polarities, tissue.windows, tissue.illumination)[specimen]
        threshold = tissue.threshold or 0.0
        more, less = (int(np.count_nonzero(signal > threshold * (1 + sign * _CHANGE))) / usable for sign in (-1, 1))
        doubt = f"the share depends on the threshold: {less:.0%} to {more:.0%} when it moves by a fifth"
        scores.append((1 - min(1.0, (more - less) / _UNSTABLE), doubt))
        scores += _channel_agreement(overview, informative, tissue)
    confidence = min(score for score, _ in scores)
    return round(confidence, 3), tuple(doubt for score, doubt in scores if score < UNCERTAIN_BELOW)


def _thin(image: NDArray[Any]) -> NDArray[Any]:
    """Return every k-th row and column of a large image (…, h, w): enough for shares."""
    step = max(1, max(image.shape[-2:]) // _THINNED_PX)
    return np.asarray(image[..., ::step, ::step])


def _has_smooth_tissue(overview: Overview, evidence: Evidence, tissue: TissueModel) -> bool:
    """Return whether part of the tissue is as featureless as the glass, and has its colour."""
    assert evidence.signal is not None
    assert evidence.threshold is not None
    least_px = _SMOOTH_SHARE * int(np.count_nonzero(tissue.mask))
    near = np.ones((_SMOOTH_PX + 2, _SMOOTH_PX + 2), np.uint8)
    # Tissue by other channels' evidence says nothing about this glass.
    is_own = (evidence.signal > evidence.threshold) & (evidence.signal <= _DARKEST_GLASS)
    # Flat indices of the pixels in question: filters run on the whole image, statistics on these alone.
    places = np.flatnonzero((cv2.erode(tissue.mask, near) != 0) & is_own)
    glass = np.flatnonzero(cv2.erode((overview.specimen & (tissue.mask == 0)).view(np.uint8), near))
    colour = evidence.glass_level if overview.is_colour else None
    if places.size <= least_px or (glass.size < _LEAST_SMOOTH_PX and colour is None):
        return False
    planes = [_for_opencv(overview.pixels[channel]) for channel in evidence.channels]
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
        places = places[_colourfulness(planes, colour, places) <= _GLASS_COLOUR]
    return places.size > least_px


def _for_opencv(plane: NDArray[Any]) -> NDArray[Any]:
    """Return a plane in a dtype that OpenCV sums into float32; a copy would cost more than the filter."""
    return plane if plane.dtype in (np.uint8, np.uint16, np.float32) else plane.astype(np.float32)


def _colourfulness(
    planes: Sequence[NDArray[Any]], glass: NDArray[np.float64], at: NDArray[np.intp]
) -> NDArray[np.float32]:
    """Return the range of the channels' transmissions over the largest, at flat indices: 0 for grey in any light."""
    blurred = [cv2.boxFilter(plane, cv2.CV_32F, (_SMOOTH_PX, _SMOOTH_PX)) for plane in planes]
    transmissions = [plane.ravel()[at] / level for plane, level in zip(blurred, glass.tolist(), strict=True)]
    largest = np.maximum.reduce(transmissions)
    return np.asarray((largest - np.minimum.reduce(transmissions)) / np.maximum(largest, 1e-6), np.float32)


def _channel_agreement(
    overview: Overview, informative: Sequence[Evidence], tissue: TissueModel
) -> list[tuple[float, str]]:
    """Score how far each evidence's tissue lies within that of the largest, against chance; the least score or none."""
    if len(informative) < 2:
        return []
    pixels, specimen = _thin(overview.pixels), _thin(overview.specimen)
    masks = []
    for evidence in informative:
        windows = np.zeros_like(tissue.windows)
        windows[list(evidence.channels)] = tissue.windows[list(evidence.channels)]
        signal = overview_signal(pixels, tissue.polarities, windows, tissue.illumination)
        masks.append((signal > 0.5) & specimen)
    largest = max(range(len(masks)), key=lambda n: np.count_nonzero(masks[n]))
    usable = max(1, int(np.count_nonzero(specimen)))
    chance = int(np.count_nonzero(masks[largest])) / usable
    scores = []
    for mask in masks:
        size = np.count_nonzero(mask)
        if mask is masks[largest] or size < LEAST_TISSUE * usable:
            continue
        within = int(np.count_nonzero(mask & masks[largest])) / size
        # A small structure may lie anywhere, so only an overlap below half of chance makes the mask uncertain.
        scores.append((min(1.0, within / chance), "channels show tissue at different places"))
    return [min(scores)] if scores else []
