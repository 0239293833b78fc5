"""Find pixels that were never scanned: the fill that registration, rotation and mosaics leave around a slide.

Such a fill is one exact value, black or white, that touches the border and ends in straight edges. A background that a
camera clips to one value blends into its surroundings instead. Pure arithmetic on arrays.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, cast

import cv2
import numpy as np
from numpy.typing import NDArray

from pathopatch.slides.background import accepted_split, guess_polarities
from pathopatch.slides.glass import find_glass

_LEAST_SHARE, _LEAST_BORDER_SHARE = 1e-3, 5e-3  # of the image, and of its border
_OPAQUE_FROM = 128  # of 255: half of the pixel
_LONGEST_NOTED_PX = 8192  # of the image in which clear pixels are noted
_LEAST_GAP_PX = 64  # of a gap inside the slide
_DECIDED_PX = 2048  # longer overviews are thinned out for the decision
_JPEG_STEPS = 2  # by which JPEG moves a constant area of uint8
_RING_PX = (5, 13)  # sides of the squares between whose dilations the surroundings lie: interpolated edges are left out
_LEAST_STEP, _LEAST_RANGE_SHARE = 3, 0.05  # of the surroundings from the fill: grey levels, share of the range
_STRAIGHT_SHARE = 0.5  # of the edge's length
_UPRIGHT_PX, _UPRIGHT_SIDE_SHARE = 12, 0.015  # from which a part along an axis is straight; share of the shorter side
_OBLIQUE_SIDE_SHARE = 0.15  # the same for others: a part of a circle is bent by less than a pixel too
_BENT_PX = 1.0  # by which a straight part of the edge may be bent
_BRIGHTFIELD_GREY = 0.25  # median of darkest over brightest channel: H&E from 0.45, fluorescence to 0.2
_STAINED_GREY = 0.9  # its 5th percentile at most, where anything is stained


@dataclass(frozen=True, kw_only=True, eq=False)
class Unscanned:
    """Pixels that were never scanned."""

    mask: NDArray[np.bool_]  # (h, w), with the pixel beside them, into which their edge is mixed
    # Share of the image that has the value and the straight edges of a fill, but is the only background in view.
    doubtful_share: float = 0.0


def find_unscanned(overview: NDArray[np.generic], *, is_colour: bool) -> Unscanned:
    """Return which pixels of one file were never scanned, by its planes (C, h, w) at low resolution, finite."""
    mask = np.zeros(overview.shape[1:], np.bool_)
    doubtful_px = 0
    # Every k-th pixel and no means: a mean over the edge of a fill has another value.
    thin = max(1, max(mask.shape) // _DECIDED_PX)
    small = overview[:, ::thin, ::thin]
    # Black, and white unless nothing is brighter than black.
    highest = float(overview.max() if overview.dtype.kind == "f" else np.iinfo(cast(Any, overview.dtype)).max)
    tolerance = float(_JPEG_STEPS) if overview.dtype == np.uint8 else 0.0
    for value in (0.0, highest) if highest > 0 else (0.0,):
        # The border is checked first, since that is cheap and most images have none of a fill.
        sides = small[:, :1], small[:, -1:], small[:, :, :1], small[:, :, -1:]
        border_px = sum(int(np.count_nonzero(_constant(side, value, tolerance))) for side in sides)
        if border_px < max(1, _LEAST_BORDER_SHARE * sum(side[0].size for side in sides)):
            continue
        constant = _constant(small, value, tolerance)
        region = _touching_border(constant)
        if not region.any() or constant.all() or not _is_cut_off(small, region, constant, value):
            continue
        is_straight = _has_straight_edges(region)
        # Only a stained image with glass in view may be cut out by curves: a tissue core on black.
        if not is_straight and not (is_colour and value <= 0 and _is_stain_on_glass(small, ~constant)):
            continue
        # A value that is the slide's only background is no fill: a disc on black has a dark background. Straight edges
        # make it doubtful.
        if not is_straight or _has_background(small, ~constant, value, is_colour):
            mask |= grown(large_pieces(_constant(overview, value, tolerance), _LEAST_GAP_PX), 3)
        else:
            doubtful_px += int(np.count_nonzero(region)) * thin**2
    return Unscanned(mask=mask, doubtful_share=doubtful_px / mask.size)


def grown(mask: NDArray[np.bool_], side_px: int) -> NDArray[np.bool_]:
    """Return a mask (h, w) dilated by a square of odd side: of 3 by the pixel into which an edge is mixed."""
    return np.asarray(cv2.dilate(mask.astype(np.uint8), np.ones((side_px, side_px), np.uint8)) != 0, np.bool_)


def large_pieces(mask: NDArray[np.bool_], least_px: float) -> NDArray[np.bool_]:
    """Return the pieces (8 neighbours) of a mask (h, w) that have at least so many pixels."""
    if not mask.any():
        return mask
    _, pieces, stats, _ = cv2.connectedComponentsWithStats(mask.astype(np.uint8), connectivity=8)
    is_large = stats[:, cv2.CC_STAT_AREA] >= least_px
    is_large[0] = False
    return np.asarray(is_large[pieces], np.bool_)


def _constant(overview: NDArray[np.generic], value: float, tolerance: float) -> NDArray[np.bool_]:
    """Return which pixels have a value in all channels."""
    is_constant = np.ones(overview.shape[1:], np.bool_)
    for plane in overview:
        # Of signed and floating-point types values below 0 are no fill.
        if plane.dtype.kind != "u":
            is_constant &= plane == value
        else:
            is_constant &= plane <= value + tolerance if value <= 0 else plane >= value - tolerance
    return is_constant


def _touching_border(mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Return the pieces of a mask that touch the border of the image and are of some size."""
    count, pieces, stats, _ = cv2.connectedComponentsWithStats(mask.view(np.uint8), connectivity=8)
    chosen = np.zeros(count, np.bool_)
    for side in (pieces[0], pieces[-1], pieces[:, 0], pieces[:, -1]):
        chosen[side] = True
    chosen &= stats[:, cv2.CC_STAT_AREA] >= max(4, _LEAST_SHARE * mask.size)
    chosen[0] = False
    return np.asarray(chosen[pieces], np.bool_)


def _is_cut_off(
    overview: NDArray[np.generic], region: NDArray[np.bool_], constant: NDArray[np.bool_], value: float
) -> bool:
    """Return whether beyond a region's edge no pixel is close to its value."""
    # Glass clipped to white, and a background clipped to black, go over into their surroundings step by step.
    inner, outer = (cv2.dilate(region.view(np.uint8), np.ones((side, side), np.uint8)) for side in _RING_PX)
    ring = (outer != 0) & (inner == 0) & ~constant
    if not ring.any():
        return False
    pixels = overview[:, ring].astype(np.float64)
    difference = np.abs(pixels - value).max(axis=0)
    rest = overview[:, ::4, ::4][:, ~constant[::4, ::4]] if constant.size > 2**16 else overview[:, ~constant]
    low, high = np.percentile(rest.astype(np.float64), (1, 99), axis=1) if rest.size else (np.zeros(1), np.zeros(1))
    least = max(_LEAST_STEP if overview.dtype.kind in "iu" else 0.0, _LEAST_RANGE_SHARE * float((high - low).max()))
    return float(np.percentile(difference, 5)) > least


def _has_straight_edges(region: NDArray[np.bool_]) -> bool:
    """Return whether most of a region's edge inside the image is straight."""
    height, width = region.shape
    upright = max(_UPRIGHT_PX, _UPRIGHT_SIDE_SHARE * min(height, width))
    oblique = _OBLIQUE_SIDE_SHARE * min(height, width)
    contours, _ = cv2.findContours(region.view(np.uint8), cv2.RETR_LIST, cv2.CHAIN_APPROX_NONE)
    corners = [cv2.approxPolyDP(contour, _BENT_PX, closed=True)[:, 0] for contour in contours]
    if not corners:
        return False
    # Parts of all contours at once: the background of a core has hundreds of thousands.
    one = np.concatenate(corners)
    following = np.arange(1, len(one) + 1)
    ends = np.cumsum([len(part) for part in corners])
    following[ends - 1] = np.append(0, ends[:-1])
    other = one[following]
    last = np.array([width - 1, height - 1])
    is_border = ((one <= 1) & (other <= 1)) | ((one >= last - 1) & (other >= last - 1))
    # The image's own border is straight and proves nothing.
    parts = np.abs(other - one)[~is_border.any(axis=1)]
    lengths = np.hypot(*parts.T)
    least = np.where(parts.min(axis=1) <= 1, upright, oblique)
    return bool(lengths.any() and lengths[lengths >= least].sum() >= _STRAIGHT_SHARE * lengths.sum())


def _has_background(overview: NDArray[np.generic], rest: NDArray[np.bool_], value: float, is_colour: bool) -> bool:
    """Return whether what is left has a background of its own, or is plainly brightfield beside black."""
    polarities = guess_polarities(overview, is_colour=is_colour, valid=rest)
    if is_colour and polarities[0] == "bright" and value <= 0 and _is_greyish(overview[:, rest]):
        return True
    if "bright" in polarities:
        bright = [channel for channel, polarity in enumerate(polarities) if polarity == "bright"]
        if find_glass(overview[bright], rest, is_flat=True) is not None:
            return True
    return any(
        _has_dark_background(plane[rest])
        for plane, polarity in zip(overview, polarities, strict=True)
        if polarity == "dark"
    )


def _is_stain_on_glass(overview: NDArray[np.generic], rest: NDArray[np.bool_]) -> bool:
    """Return whether a colour image shows glass, and some of what is on it has a colour: no grey rendering does."""
    if guess_polarities(overview, is_colour=True, valid=rest)[0] == "dark" or not _is_greyish(overview[:, rest]):
        return False
    greyness = _greyness(overview[:, rest])
    return float(np.percentile(greyness, 5)) <= _STAINED_GREY and find_glass(overview, rest, is_flat=True) is not None


def _is_greyish(pixels: NDArray[np.generic]) -> bool:
    """Return whether the pixels (C, N) of a colour image are brightfield and no fluorescence, by their median."""
    return float(np.median(_greyness(pixels))) >= _BRIGHTFIELD_GREY


def _greyness(pixels: NDArray[np.generic]) -> NDArray[np.float32]:
    """Return the darkest over the brightest channel of each pixel."""
    least, largest = pixels.min(axis=0).astype(np.float32), pixels.max(axis=0).astype(np.float32)
    return np.asarray(least / np.maximum(largest, np.float32(1e-9)), np.float32)


def _has_dark_background(values: NDArray[Any]) -> bool:
    """Return whether values hold a compact dark background and something brighter."""
    low, high = np.percentile(values, (1, 99.9)).tolist()
    if not high > low:
        return False
    signal = np.clip((values.astype(np.float32) - np.float32(low)) / np.float32(high - low), 0, 1)
    return accepted_split(signal, 0.5 / (high - low) if values.dtype.kind in "iu" else 1e-6) is not None


@dataclass
class ClearPixels:
    """Where a level is not opaque, noted band by band at a bounded size; nothing is kept while all is opaque."""

    opaque: NDArray[np.bool_] | None = None  # every k-th pixel of the level
    step: int = 1

    def add(self, opacity: NDArray[np.uint8], top: int, height: int) -> None:
        """Note the opacity, (H, W) or (C, H, W), of a band of whole rows of a level so many rows high."""
        least = opacity.min(axis=0) if opacity.ndim == 3 else opacity
        if self.opaque is None:
            self.step = max(1, max(height, least.shape[1]) // _LONGEST_NOTED_PX)
            self.opaque = np.ones((-(-height // self.step), -(-least.shape[1] // self.step)), np.bool_)
        first = -top % self.step
        rows = least[first :: self.step, :: self.step] >= _OPAQUE_FROM
        start = (top + first) // self.step
        self.opaque[start : start + len(rows)] = rows

    def mask(self, shape: tuple[int, ...]) -> NDArray[np.bool_]:
        """Return which pixels of an image (h, w) of the level are clear, and those beside them; after `add` only."""
        assert self.opaque is not None
        rows, columns = (
            np.minimum(((np.arange(n) + 0.5) * size / n).astype(int), size - 1)
            for n, size in zip(shape, self.opaque.shape, strict=True)
        )
        return grown(~self.opaque[np.ix_(rows, columns)], 3)
