"""Measure how far each channel of a slide is shifted against the first (registration of modalities).

Modalities differ in contrast, so their *edges* are compared: phase correlation of gradient images. The overview gives
the shift, and windows at level 0 make it exact where the overview is coarser than the slide.
"""

# Why not skimage.registration.phase_cross_correlation: it finds the same shifts as exactly, in 2 to 50 times the time,
# but gives no surface. So windows cannot be summed, and its error is 1.0 for noise as for a true shift. The response of
# cv2.phaseCorrelate does not tell the two apart either.

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from operator import itemgetter
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from pathopatch.slides.resample import Pixels
from pathopatch.slides.slide import Slide
from pathopatch.slides.stack import Offsets

# The highest peak within reach over the highest one elsewhere. True shifts gave at least 2.0 (collagen of two
# microscopes, 38 px apart), most 5 to 16; unrelated real slides and mirrored ones at most 1.6. A few outlines on dark
# ground gave up to 2.5, at moves of a fourth of the image: channels of one slide lie nearer to each other.
_LEAST_CONFIDENCE = 2.0
_REACH = 1 / 8  # of the shorter side
_ELSEWHERE_PX = 8  # from the highest peak: a peak's own slope ends before
_LONGEST_PX = 2048  # of the overview; larger ones cost much and gain little, since windows follow
_SMALLEST_PX = 32
# Of the overview: noise has no edges of this size. At 1.5 px a true shift gave a ratio of 1.7 only.
_BLUR_PX = 2.5
_WINDOW_BLUR_PX = 3.0  # at level 0: neither noise nor the 8 px blocks of JPEG have edges of this size
_OUTLINE_BLUR, _OUTLINE_NEAR = 0.04, 0.02  # of the shorter side
_LEAST_SOLIDITY = 0.9  # of a core's area in that of its convex hull
_PEAK_PX = 1.5  # standard deviation of the correlation's peak
_WINDOW_PX, _WINDOWS = 1024, 9

View = Callable[[Pixels], NDArray[np.generic]]
"""Make one image of a slide's channels: (C, h, w) -> (h, w)."""


@dataclass(frozen=True, kw_only=True)
class Shift:
    """How far one channel lies from the first: content at (u, v) there is at (u + x_px, v + y_px) here, level-0 px."""

    channel: str
    x_px: float
    y_px: float
    confidence: float  # height of the correlation's peak over that of the highest one elsewhere; 1 is chance
    is_same_file: bool = False  # it is a plane of the first channel's file and lies on it

    @property
    def is_measured(self) -> bool:
        """Whether the peak is no chance, or the channel needs none; otherwise the shift means nothing."""
        return self.is_same_file or self.confidence >= _LEAST_CONFIDENCE

    @property
    def distance_px(self) -> float:
        """Length of the shift, level-0 px; NaN where it is not measured."""
        return math.hypot(self.x_px, self.y_px) if self.is_measured else math.nan

    def to_dict(self) -> dict[str, Any]:
        """Return the shift as plain values for JSON."""
        return {**asdict(self), "is_measured": self.is_measured}


def measure_shifts(
    slide: Slide, overview: Pixels, scale_x: float, scale_y: float, unscanned: NDArray[np.bool_] | None = None
) -> tuple[Shift, ...]:
    """Return the shift of each channel but the first against the first.

    Planes of one file lie on each other, and the most confident of their shifts counts for all. The channels, at least
    two, do not come from one exposure of a colour camera. The `overview`, finite, and its scales are those of
    `Slide.read_overview`; `unscanned`, (h, w), are pixels whose edges are none of the tissue's.
    """
    missing = np.zeros(overview.shape[1:], np.bool_) if unscanned is None else unscanned
    # The mask travels as one more plane, so that it is cut and shrunk as the pixels are.
    whole = np.concatenate([overview, missing[None].astype(overview.dtype)])
    inside, scales = _scanned_part(slide, whole, scale_x, scale_y)
    inside, missing = inside[:-1], np.asarray(inside[-1] > 0)
    if min(inside.shape[1:]) < _SMALLEST_PX:
        return tuple(Shift(channel=name, x_px=0.0, y_px=0.0, confidence=0.0) for name in slide.channels[1:])
    # Channels of one group lie on each other for certain: planes of one file, if there are several files.
    groups = slide.file_of if len(set(slide.file_of)) > 1 else tuple(range(len(slide.channels)))
    views = {
        group: _views(inside, [n for n, of_channel in enumerate(groups) if of_channel == group], ~missing)
        for group in set(groups)
    }
    edges_of = {group: [_scanned_edges(view(inside), missing) for view in own] for group, own in views.items()}
    shift_of = {
        group: _shift(slide, views[groups[0]], views[group], edges_of[groups[0]], edges_of[group], scales)
        for group in dict.fromkeys(groups)
        if group != groups[0]
    }
    shifts = []
    for name, group in zip(slide.channels[1:], groups[1:], strict=True):
        x, y, confidence = shift_of.get(group, (0.0, 0.0, 0.0))
        measured = {"x_px": round(x, 2), "y_px": round(y, 2), "confidence": math.floor(10 * confidence) / 10}
        shifts.append(Shift(channel=name, **measured, is_same_file=group not in shift_of))
    return tuple(shifts)


def _views(pixels: Pixels, channels: list[int], scanned: NDArray[np.bool_]) -> list[View]:
    """Return the images that are compared of channels of one group: each channel, and their stains' difference."""
    # The difference of the stains is the second principal component: collagen shows in it as it does in SHG.
    views: list[View] = [itemgetter(channel) for channel in channels]
    if len(channels) > 1 and np.count_nonzero(scanned) > 1:
        _, vectors = np.linalg.eigh(np.cov(_logs(pixels[channels])[:, scanned]))
        weights = vectors[:, -2].astype(np.float32)
        views.append(lambda pixels: np.asarray(np.tensordot(weights, _logs(pixels[channels]), 1)))
    return views


def _logs(pixels: Pixels) -> NDArray[np.float32]:
    """Return logarithms, in which stains add up; black is kept finite."""
    least = 0.03 * max(1e-6, float(pixels.max()))
    return np.asarray(np.log(np.maximum(pixels.astype(np.float32), 0) + np.float32(least)), np.float32)


def _scanned_edges(plane: NDArray[np.generic], missing: NDArray[np.bool_]) -> NDArray[np.float32]:
    """Return the edges of a plane without those of what was never scanned, and of a core's own outline."""
    if not missing.any() or missing.all():
        return np.where(_core_outline(plane), np.float32(0), _edges(plane))
    filled = np.where(missing, np.median(plane[~missing].astype(np.float32)), plane)
    side = 2 * math.ceil(3 * _BLUR_PX) + 1
    near = cv2.dilate(missing.astype(np.uint8), np.ones((side, side), np.uint8)) != 0
    return np.where(near | _core_outline(filled), np.float32(0), _edges(filled))


def _core_outline(plane: NDArray[np.generic]) -> NDArray[np.bool_]:
    """Return which pixels of a plane (h, w) lie near the outline of a single solid piece on dark ground.

    Any two cores of a tissue array have nearly the same outline: it says nothing of what lies within.
    """
    scaled = _scaled(plane)
    smooth = cv2.GaussianBlur(scaled, (0, 0), _OUTLINE_BLUR * min(plane.shape))
    _, piece = cv2.threshold((255 * smooth).astype(np.uint8), 0, 1, cv2.THRESH_OTSU)
    contours, _ = cv2.findContours(np.ascontiguousarray(piece), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
    largest = max(contours, key=cv2.contourArea, default=np.empty((0, 1, 2), np.int32))
    hull_px = cv2.contourArea(cv2.convexHull(largest)) if len(largest) else 0.0
    reaches_border = piece[[0, -1]].any() or piece[:, [0, -1]].any()
    # Of the real pairs, no piece is as solid, and all reach the border.
    if reaches_border or cv2.contourArea(largest) < _LEAST_SOLIDITY * max(hull_px, float(piece.sum()), 1.0):
        return np.zeros(plane.shape, np.bool_)
    near = np.ones((2 * math.ceil(_OUTLINE_NEAR * min(plane.shape)) + 1,) * 2, np.uint8)
    return np.asarray(cv2.morphologyEx(piece, cv2.MORPH_GRADIENT, near) != 0)


def _shift(
    slide: Slide,
    ones: Sequence[View],
    others: Sequence[View],
    one_edges: Sequence[NDArray[np.float32]],
    other_edges: Sequence[NDArray[np.float32]],
    scales: tuple[float, float],
) -> tuple[float, float, float]:
    """Return the most confident shift (x, y) of the other views against the first, level-0 px, and its confidence."""
    pairs = [(i, j) for i in range(len(ones)) for j in range(len(others))]
    reach_px = _REACH * min(one_edges[0].shape)
    peaks = [_peak(_correlation(one_edges[i], other_edges[j]), reach_px=reach_px) for i, j in pairs]
    best = max(range(len(pairs)), key=lambda number: peaks[number][2])
    (i, j), (x, y, confidence) = pairs[best], peaks[best]
    x, y = x * scales[0], y * scales[1]
    # Only the most confident pair is measured again: windows of level 0 are read for it.
    if confidence >= _LEAST_CONFIDENCE and max(scales) > 1:
        both = np.minimum(_at_most_one(one_edges[i]), _at_most_one(other_edges[j]))
        places = _strong_places(both, scales, slide)
        x, y, at_level_0 = _refined(slide, (ones[i], others[j]), places, (x, y), max(scales))
        confidence = min(confidence, at_level_0)
    return x, y, confidence


def whole_offsets(shifts: Sequence[Shift]) -> Offsets:
    """Return the whole level-0 px (x, y) by which each channel is to be read further on; 0 where not measured."""
    measured = [(round(shift.x_px), round(shift.y_px)) if shift.is_measured else (0, 0) for shift in shifts]
    return ((0, 0), *measured)


def _edges(plane: NDArray[np.generic], blur_px: float = _BLUR_PX) -> NDArray[np.float32]:
    """Return the gradient's magnitude of a channel (h, w) without its mean; all 0 for a constant one."""
    smooth = cv2.GaussianBlur(_scaled(plane), (0, 0), blur_px)
    strength = cv2.magnitude(cv2.Sobel(smooth, cv2.CV_32F, 1, 0), cv2.Sobel(smooth, cv2.CV_32F, 0, 1))
    # Faded out at the border, whose own edge would else correlate at a shift of 0.
    window = cv2.createHanningWindow(plane.shape[::-1], cv2.CV_32F)
    return np.asarray((strength - strength.mean()) * window, np.float32)


def _scaled(plane: NDArray[np.generic]) -> NDArray[np.float32]:
    """Return a plane as float32 in [0, 1], by its percentiles; all 0 for a constant one."""
    exact = plane.astype(np.float32)
    low, high = (np.float32(value) for value in np.percentile(exact, (0.5, 99.5)))
    return np.clip((exact - low) / (high - low), 0, 1) if high > low else np.zeros(plane.shape, np.float32)


def _correlation(one: NDArray[np.float32], other: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return the phase correlation (H, W) of two images of edges (h, w), low frequencies weighted most.

    Its peak lies at (y, x) if `other` is `one` moved by (x, y), negative moves from the end on. (H, W) is at least
    (h, w).
    """
    height, width = map(cv2.getOptimalDFTSize, one.shape)
    product = np.fft.rfft2(other, (height, width)) * np.conj(np.fft.rfft2(one, (height, width)))
    strength = np.abs(product)
    phase = np.divide(product, strength, out=np.zeros_like(product), where=strength > 0)
    across, down = np.fft.rfftfreq(width)[None], np.fft.fftfreq(height)[:, None]
    # A Gaussian weight keeps noise down and makes the peak a Gaussian too, which `_vertex` relies on.
    weight = np.exp(-2 * (math.pi * _PEAK_PX) ** 2 * (across**2 + down**2)).astype(np.float32)
    return np.asarray(np.fft.irfft2(phase * weight, (height, width)), np.float32)


def _peak(surface: NDArray[np.float32], *, reach_px: float = math.inf) -> tuple[float, float, float]:
    """Return the move (x, y), px, at the highest peak of a correlation (H, W), and the confidence.

    Only moves up to `reach_px` on either axis count. The confidence is the peak over the highest one elsewhere, 0 for a
    flat surface.
    """
    height, width = surface.shape
    moves_y, moves_x = (np.abs(np.fft.fftfreq(n, 1 / n)) <= reach_px for n in surface.shape)
    candidates = np.where(moves_y[:, None] & moves_x[None], surface, -np.inf)
    row, column = (int(i) for i in np.unravel_index(int(np.argmax(candidates)), surface.shape))
    around = surface[np.ix_((row + np.arange(-1, 2)) % height, (column + np.arange(-1, 2)) % width)]
    y, x = row + _vertex(around[:, 1]), column + _vertex(around[1])
    # The surface is periodic: so are distances on it.
    down, across = (np.abs((np.arange(n) - peak + n // 2) % n - n // 2) for n, peak in ((height, row), (width, column)))
    elsewhere = surface[np.hypot(down[:, None], across[None]) > _ELSEWHERE_PX].max(initial=0.0)
    confidence = float(surface[row, column]) / float(elsewhere) if elsewhere > 0 else 0.0
    return x - width * (x > width / 2), y - height * (y > height / 2), confidence


def _vertex(three: NDArray[np.float32]) -> float:
    """Return where a Gaussian through three neighbouring values is highest, relative to the middle one."""
    if three.min() <= 0:
        return 0.0
    before, middle, after = np.log(three.astype(np.float64))
    bend = before - 2 * middle + after
    return float(np.clip((before - after) / (2 * bend), -0.5, 0.5)) if bend < 0 else 0.0


def _scanned_part(slide: Slide, overview: Pixels, scale_x: float, scale_y: float) -> tuple[Pixels, tuple[float, float]]:
    """Return the overview inside the slide's bounds, at most 2048 px long, and its scales."""
    # The edge of the scanned part is at the same place in all channels, wherever their content is.
    x, y, width, height = slide.bounds
    inside = overview[
        :,
        math.ceil(y / scale_y) : max(1, math.floor((y + height) / scale_y)),
        math.ceil(x / scale_x) : max(1, math.floor((x + width) / scale_x)),
    ]
    factor = max(inside.shape[1:]) / _LONGEST_PX
    if factor <= 1 or min(inside.shape[1:]) / factor < 1:
        return inside, (scale_x, scale_y)
    size = round(inside.shape[2] / factor), round(inside.shape[1] / factor)
    small = np.stack([cv2.resize(plane.astype(np.float32), size, interpolation=cv2.INTER_AREA) for plane in inside])
    return small, (scale_x * inside.shape[2] / size[0], scale_y * inside.shape[1] / size[1])


def _strong_places(both_edges: NDArray[np.float32], scales: tuple[float, float], slide: Slide) -> list[tuple[int, int]]:
    """Return the corners of windows, level-0 px, where both channels have edges, strongest first, none overlapping."""
    size = tuple(max(1, round(_WINDOW_PX / scale)) for scale in scales)
    density = cv2.blur(np.maximum(both_edges, 0), size)
    places = []
    for _ in range(_WINDOWS):
        row, column = (int(i) for i in np.unravel_index(int(np.argmax(density)), density.shape))
        if density[row, column] <= 0:
            break
        x = slide.bounds[0] + round(column * scales[0]) - _WINDOW_PX // 2
        y = slide.bounds[1] + round(row * scales[1]) - _WINDOW_PX // 2
        places.append((x, y))
        density[max(0, row - size[1]) : row + size[1], max(0, column - size[0]) : column + size[0]] = 0
    return places


def _refined(
    slide: Slide,
    views: tuple[View, View],
    places: list[tuple[int, int]],
    shift: tuple[float, float],
    overview_scale: float,
) -> tuple[float, float, float]:
    """Return a shift (x, y) measured again on windows at level 0, level-0 px, and its confidence; 0 without windows."""
    x, y = round(shift[0]), round(shift[1])
    # The surfaces are summed before the peak is sought: noise of single windows cancels.
    total: NDArray[np.float32] | None = None
    for left, top in places:
        one = views[0](slide.read_region(left, top, _WINDOW_PX, _WINDOW_PX))
        other = views[1](slide.read_region(left + x, top + y, _WINDOW_PX, _WINDOW_PX))
        surface = _correlation(*(_edges(plane, _WINDOW_BLUR_PX) for plane in (one, other)))
        total = surface if total is None else total + surface
    if total is None:
        return *shift, 0.0
    rest_x, rest_y, confidence = _peak(total, reach_px=2 * overview_scale + 2)
    return x + rest_x, y + rest_y, confidence


def _at_most_one(strength: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return an image divided by its largest value."""
    highest = float(strength.max())
    return strength / np.float32(highest) if highest > 0 else strength
