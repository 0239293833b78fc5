"""Say how sure a tissue mask is. Pure arithmetic on arrays."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from pathopatch.core.config import UNCERTAIN_BELOW
from pathopatch.patches.signal import signal_of
from pathopatch.patches.tissue import EVERY_PIXEL, TissueModel
from pathopatch.patches.tissue_evidence import LEAST_TISSUE, Evidence, Mask, View
from pathopatch.slides.background import plain_polarity
from pathopatch.slides.separation import SEPARATION
from pathopatch.slides.unscanned import Unscanned

_THINNED_PX = 1024
_CHANGE = 0.2  # of a threshold, for its stability
_UNSTABLE = 0.3  # change of the share that leaves no confidence
_SMOOTH_PX, _LEAST_SMOOTH_PX, _SMOOTH_SHARE = 7, 200, 0.015  # window; glass, and tissue that looks like it
_GLASS_ROUGHNESS = 0.02  # standard deviation over mean, JPEG included
_GLASS_COLOUR = 0.05  # difference between channels of glass under another light; 95 % of H&E tissue has 0.07 or more
_DARKEST_GLASS = 0.25  # absorption: featureless areas that are darker are no glass
_DOUBTFUL_FILL = 0.01  # share of the image


def confidence_of(
    view: View, known: Sequence[Evidence], tissue: TissueModel, unscanned: Unscanned | None, *, is_unsure: bool
) -> tuple[float, tuple[str, ...]]:
    """Return how sure a mask is, in [0, 1], and why it is not.

    The least of: separation of tissue and background, stability of the share when the threshold moves by a fifth,
    agreement of the channels, whether a fill is the only background, and whether a stated polarity shows.
    """
    if is_unsure:
        rest = {"all": ", all is counted as tissue", "none": ", none is counted as tissue", "fail": ""}
        return 0.1, (f"no background is in view{rest[view.config.when_unsure]}",)
    scores: list[tuple[float, str]] = [(0.9, "")]
    if unscanned is not None and unscanned.doubtful_share > _DOUBTFUL_FILL:
        doubt = f"{unscanned.doubtful_share:.0%} of the image is one value with straight edges, taken for background"
        scores.append((0.3, doubt))
    if view.is_colour and not view.levels and _looks_otherwise(view, unscanned):
        scores.append((0.3, f"the background is said to be {view.polarities[0]}, and the image does not look so"))
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
        doubt = f"the share depends on the threshold: {less:.0%} to {more:.0%} when it moves by a fifth"
        scores.append((1 - min(1.0, (more - less) / _UNSTABLE), doubt))
        scores += _agreement(view, known, tissue)
    confidence = min(score for score, _ in scores)
    return round(confidence, 3), tuple(doubt for score, doubt in scores if score < UNCERTAIN_BELOW)


def _thinned(view: View) -> tuple[NDArray[np.generic], Mask]:
    """Return every k-th row and column of a large overview, and what of it counts: enough for shares."""
    return _thin(view.pixels), _thin(view.specimen)


def _thin(image: NDArray[Any]) -> NDArray[Any]:
    step = max(1, max(image.shape[-2:]) // _THINNED_PX)
    return np.asarray(image[..., ::step, ::step])


def _looks_otherwise(view: View, unscanned: Unscanned | None) -> bool:
    """Return whether a colour image plainly has another polarity than is stated."""
    missing = np.zeros_like(view.specimen) if unscanned is None else unscanned.mask
    found = plain_polarity(_thin(view.pixels), ~_thin(missing))  # ink and black borders are told by the polarity stated
    return found not in (None, *view.polarities)


def _has_smooth_tissue(view: View, evidence: Evidence, tissue: TissueModel) -> bool:
    """Return whether some of the tissue is as featureless as the glass, and has its colour: 0.5 % on even light."""
    assert evidence.signal is not None
    assert evidence.threshold is not None
    least_px = _SMOOTH_SHARE * int(np.count_nonzero(tissue.mask))
    near = np.ones((_SMOOTH_PX + 2, _SMOOTH_PX + 2), np.uint8)
    is_own = (evidence.signal > evidence.threshold) & (evidence.signal <= _DARKEST_GLASS)  # not what others show
    places = np.flatnonzero((cv2.erode(tissue.mask, near) != 0) & is_own)
    glass = np.flatnonzero(cv2.erode((view.specimen & (tissue.mask == 0)).view(np.uint8), near))
    colour = evidence.glass_level if view.is_colour else None
    if places.size <= least_px or (glass.size < _LEAST_SMOOTH_PX and colour is None):
        return False
    planes = [_for_opencv(view.pixels[channel]) for channel in evidence.channels]
    light = planes[0].astype(np.float32) if len(planes) == 1 else cv2.add(planes[0], planes[1], dtype=cv2.CV_32F)
    for plane in planes[2:]:
        cv2.add(light, plane, light, dtype=cv2.CV_32F)
    means = cv2.blur(light, (_SMOOTH_PX, _SMOOTH_PX))
    squares = cv2.sqrBoxFilter(light, cv2.CV_32F, (_SMOOTH_PX, _SMOOTH_PX))
    darkest = 0.02 * float(light.max())

    def roughness(at: NDArray[np.intp]) -> NDArray[np.float32]:
        mean = means.ravel()[at]
        deviation = np.sqrt(np.maximum(squares.ravel()[at] - mean * mean, 0))
        return np.asarray(deviation / np.maximum(mean, darkest), np.float32)

    limit = _GLASS_ROUGHNESS  # where too little glass is in view to tell, its colour has to do
    if glass.size >= _LEAST_SMOOTH_PX:
        limit = max(1.5 * float(np.percentile(roughness(glass[::4]), 75)), 0.004)
    places = places[roughness(places) <= limit]
    if colour is not None and places.size > least_px:
        places = places[_colourfulness(planes, colour, places) <= _GLASS_COLOUR]
    return places.size > least_px


def _for_opencv(plane: NDArray[Any]) -> NDArray[Any]:
    """Return a plane in a type from which OpenCV sums into float32 on the way: a copy costs more than the filter."""
    return plane if plane.dtype in (np.uint8, np.uint16, np.float32) else plane.astype(np.float32)


def _colourfulness(
    planes: Sequence[NDArray[Any]], glass: NDArray[np.float64], at: NDArray[np.intp]
) -> NDArray[np.float32]:
    """Return how far the channels lie apart in what they let pass of glass, over the largest: 0 under any light.

    `at` are the flat indices of the pixels that are asked for.
    """
    blurred = [cv2.boxFilter(plane, cv2.CV_32F, (_SMOOTH_PX, _SMOOTH_PX)) for plane in planes]
    shares = [plane.ravel()[at] / level for plane, level in zip(blurred, glass.tolist(), strict=True)]
    largest = np.maximum.reduce(shares)
    return np.asarray((largest - np.minimum.reduce(shares)) / np.maximum(largest, 1e-6), np.float32)


def _agreement(view: View, known: Sequence[Evidence], tissue: TissueModel) -> list[tuple[float, str]]:
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
        if mask is masks[largest] or size < LEAST_TISSUE * usable:
            continue
        within = int(np.count_nonzero(mask & masks[largest])) / size
        found.append((min(1.0, within / chance), "channels show tissue at different places"))  # below half of chance
    return [min(found)] if found else []
