"""Find what is neither glass nor specimen on a brightfield slide: pen marks, black borders, unscanned areas.

Haematoxylin and eosin both absorb green most: no mixture of them lets through less red than green, but blue and green
ink does. Red ink absorbs more blue than eosin and blood; black ink absorbs all three alike. The limits keep a distance
from the extremes of the real H&E slides and fields on which they were tried, which are given beside them.

The rule holds for H&E and brown immunohistochemistry. Blue and green stains (trichrome, Alcian blue) look like ink to
it. Violet ink is not found: haematoxylin under eosin, by the published stain vectors (1.5 and 0.8 times), is (86, 38,
143) in RGB, and a violet marker about (90, 40, 150). Draw a tissue mask for such slides. Pure arithmetic on arrays.
"""

from __future__ import annotations

from functools import reduce

import cv2
import numpy as np
from numpy.typing import NDArray

Mask = NDArray[np.bool_]

_INK_UM_PER_PX = 16.0  # at this scale a nucleus is mixed with its surroundings, and a stroke is not
_LEAST_INK_UM2 = 5e4  # a dot of 0.25 mm: strokes are wider, pigment and clots in one dense piece are smaller
_REACH_UM = 200.0  # width of the paler rim of a stroke
_LEAST_BORDER_UM2 = 1e4
_LEAST_BORDER_SHARE = 0.25  # of a side, for the borders of small fields
_NEAR_BLACK, _UNSCANNED = 45, 8  # largest channel, of 255
_RIM_PX = 3  # blurred edge of a black border, overview px


def find_ink(overview: NDArray[np.uint8], *, um_per_px: float) -> Mask:
    """Return the pixels (h, w) of blue, green, red or black ink with its paler rim, on an RGB overview (3, h, w)."""
    height, width = overview.shape[1:]
    factor = max(1.0, _INK_UM_PER_PX / um_per_px)
    size = max(1, round(width / factor)), max(1, round(height / factor))
    coarse = np.stack([cv2.resize(plane, size, interpolation=cv2.INTER_AREA) for plane in overview])
    um2_per_px = um_per_px**2 * (width / size[0]) * (height / size[1])
    full, pale = _ink_colours(coarse)
    strokes = _large_components(full, _LEAST_INK_UM2 / um2_per_px)
    if not strokes.any():
        return np.zeros((height, width), np.bool_)
    # Pale ink colours also occur in tissue, so they count only in one piece with a stroke, and near it.
    reach = 2 * round(_REACH_UM / um2_per_px**0.5) + 1
    candidates = (strokes | (pale & _dilate(strokes, reach))).astype(np.uint8)
    _, components = cv2.connectedComponents(candidates, connectivity=8)
    ink = _dilate(np.isin(components, np.unique(components[strokes])), 3)
    enlarged = cv2.resize(ink.astype(np.uint8), (width, height), interpolation=cv2.INTER_NEAREST)
    return np.asarray(enlarged != 0, np.bool_)


def _ink_colours(rgb: NDArray[np.uint8]) -> tuple[Mask, Mask]:
    """Return the pixels with the colour of ink at full strength, and at any strength."""
    red, green, blue = -np.log((rgb.astype(np.float32) + 1) / 256)  # optical densities
    lightest, chroma = rgb.max(axis=0), rgb.max(axis=0) - rgb.min(axis=0)
    is_blue_or_green = green <= 0.77 * red  # tissue: green >= 1.0 red
    is_over_tissue = (green <= 1.2 * red) & (red >= 1.9)  # tissue at 16 um/px: red <= 1.4
    is_red = (blue >= 0.6 * green) & (red <= 0.3 * green)
    is_black = (lightest <= 70) & (chroma <= 25)
    is_full_red = is_red & (blue >= 1.5)  # tissue at 16 um/px: blue <= 1.4
    full = (is_blue_or_green & (red >= 1.0)) | is_over_tissue | is_full_red | is_black
    pale_red = (blue >= 0.75 * green) & (red <= 0.35 * green) & (green >= 0.3)
    pale = (is_blue_or_green & (red >= 0.25)) | is_red & (blue >= 1.0) | pale_red | (lightest <= 190) & (chroma <= 20)
    return np.asarray(full, np.bool_), np.asarray(pale, np.bool_)


def find_black(overview: NDArray[np.uint8], *, um_per_px: float) -> Mask:
    """Return the pixels (h, w) of near-black borders and unscanned areas, on an RGB overview (3, h, w)."""
    lightest = reduce(np.maximum, overview)
    black = _large_components(lightest <= _UNSCANNED, _LEAST_BORDER_UM2 / um_per_px**2)
    # Near black is also the colour of dense ink and pigment: away from the border it is not taken.
    near_black = lightest <= _NEAR_BLACK
    if any(side.any() for side in (near_black[0], near_black[-1], near_black[:, 0], near_black[:, -1])):
        black |= _border_components(near_black, _LEAST_BORDER_UM2 / um_per_px**2)
    if not black.any():
        return np.asarray(black, np.bool_)
    chroma = lightest - overview.min(axis=0)
    # The grey rim between black and glass would pass for tissue.
    rim = (lightest <= 200) & (chroma <= 30) & _dilate(black, 2 * _RIM_PX + 1)
    return _dilate(black | rim, 3)


def _border_components(mask: Mask, least_px: float) -> Mask:
    """Return the components (8 neighbours) that touch a side of the image and are large, or extend along it."""
    height, width = mask.shape
    count, components, stats, _ = cv2.connectedComponentsWithStats(mask.view(np.uint8), connectivity=8)
    across, down = stats[:, cv2.CC_STAT_WIDTH], stats[:, cv2.CC_STAT_HEIGHT]
    left, top = stats[:, cv2.CC_STAT_LEFT], stats[:, cv2.CC_STAT_TOP]
    at_side = ((left == 0) | (left + across == width), (top == 0) | (top + down == height))
    is_long = (at_side[1] & (across >= _LEAST_BORDER_SHARE * width)) | (
        at_side[0] & (down >= _LEAST_BORDER_SHARE * height)
    )
    is_large = (stats[:, cv2.CC_STAT_AREA] >= least_px) & (at_side[0] | at_side[1])
    is_border = (is_long | is_large) & (np.arange(count) > 0)  # component 0 is outside the mask
    return np.asarray(is_border[components], np.bool_)


def _large_components(mask: Mask, least_px: float) -> Mask:
    """Return the components (8 neighbours) of at least an area."""
    if not mask.any():
        return mask
    _, components, stats, _ = cv2.connectedComponentsWithStats(mask.astype(np.uint8), connectivity=8)
    is_large = stats[:, cv2.CC_STAT_AREA] >= least_px
    is_large[0] = False
    return np.asarray(is_large[components], np.bool_)


def _dilate(mask: Mask, side_px: int) -> Mask:
    """Return a mask dilated by a square of odd side."""
    return np.asarray(cv2.dilate(mask.astype(np.uint8), np.ones((side_px, side_px), np.uint8)) != 0, np.bool_)
