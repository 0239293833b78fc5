"""Find a slide's tissue on its overview, and rate its confidence.

Each channel gives evidence by its own polarity (`tissue_evidence`); a pixel is tissue if any channel shows it. On a
brightfield slide pen marks, black borders and unscanned areas are neither glass nor specimen, and are found first. Pure
arithmetic on arrays.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from functools import reduce
from typing import NamedTuple, Self, cast

import cv2
import numpy as np
from numpy.typing import NDArray

from pathopatch.core.config import TissueConfig
from pathopatch.patches.tissue_evidence import Evidence, Mask, Overview, find_evidence, rate_confidence
from pathopatch.patches.tissue_model import EVERY_PIXEL, OverviewSignal, TissueModel, bands, clean_mask
from pathopatch.slides.background import Polarities
from pathopatch.slides.glass import Glass, find_glass
from pathopatch.slides.resample import Pixels
from pathopatch.slides.unscanned import Unscanned, grown, large_pieces

_SAME_LEVEL = 0.03  # relative difference of glass levels that needs no scaling
_RULES_GLASS = 245.0  # of 255: glass level of the slides on which the rules of ink and borders were made
_BLOCK_PX = 2  # nuclei at 1 um/px are some 7 px wide, so means over 2 x 2 px keep them and reduce noise
_STRUCTURE = 0.1  # correlation of neighbouring blocks; noise alone has 0
_CHANCE = 6.0  # standard deviations of that correlation for noise
_LEAST_BLOCKS = 64
_INK_UM_PER_PX = 16.0  # at this scale a nucleus is mixed with its surroundings, and a stroke is not
_LEAST_INK_UM2 = 5e4  # a dot of 0.25 mm: strokes are wider, pigment and clots in one dense piece are smaller
_REACH_UM = 200.0  # width of the paler rim of a stroke
_FLAT_UM_PER_PX = 8.0  # at this scale nuclei and fibres still make tissue rough
# Standard deviation over 5 x 5 px of what a mean over 3 x 3 px leaves, by the mean density. Of tissue in focus 1 % of
# the pixels are below 0.057 to 0.12; of ink three of four below 0.026.
_FLAT, _FLAT_DENSITY, _LEAST_INK = 0.045, 0.12, 0.35
# Tissue out of focus is as flat. Its pieces have a density of green of at most 0.83, and a quartile range of a colour's
# share in the density of at least 0.016; pale ink has at most 0.014.
_DENSE, _ONE_HUE = 1.5, 0.014
_LEAST_STROKE_UM, _LEAST_PASSED = 120.0, 0.2  # width of a pale stroke, and the light that translucent ink lets pass
_PLACES = 3  # named in a doubt
_GREY_IMAGE = 0.8  # share of what is not glass: a grey image in three channels has grey tissue
_AROUND_PX, _ON_GLASS = 10, 0.25  # least share of glass around a piece whose colour tissue and blood have too
_SAME_HUE = 0.015  # largest difference of a colour's share in the density: ink over tissue has another hue
_LEAST_BORDER_UM2 = 1e4
_LEAST_BORDER_SHARE = 0.25  # of a side, for the borders of small fields
_NEAR_BLACK, _UNSCANNED = 45, 8  # largest channel, of 255
_RIM_PX = 3  # blurred edge of a black border, overview px


def fit_tissue(
    pixels: Pixels,
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
    """Return the tissue model of a slide, found on its overview: `pixels`, (C, h, w), source units.

    `polarities` and `channels` are "dark" or "bright", and the name of each channel. `scale_x`, `scale_y` are level-0
    px per overview px, `mpp` is um per level-0 px. Of the `config`, `background` is not read here, and `when_unsure`
    decides where no channel shows background. With `is_colour` the channels are red, green and blue of one image; with
    `is_flat` the overview is no picture of one field, and no uneven light is looked for.

    Raises
    ------
    InputUnsupportedError
        The stated background level of a bright channel is 0 or less.
    """
    um2_per_px = scale_x * scale_y * mpp**2
    missing = np.zeros(pixels.shape[1:], np.bool_) if unscanned is None else unscanned.mask
    ink, glass = np.zeros(pixels.shape[1:], np.bool_), None
    if is_colour and set(polarities) == {"bright"}:
        glass = find_glass(pixels, ~missing, is_flat=is_flat)
        if pixels.dtype == np.uint8:
            missing, ink = _find_borders_and_ink(pixels, glass, missing, config, um_per_px=math.sqrt(um2_per_px))
    index = dict(zip(channels, range(len(pixels)), strict=False))
    overview = Overview(
        pixels=pixels,
        polarities=polarities,
        is_colour=is_colour,
        specimen=~(missing | ink),
        config=config,
        levels={index[name]: level for name, level in config.background_level.items() if name in index},
        glass=glass,
        is_flat=is_flat,
    )
    informative, is_unsure = _choose_evidence(overview, [index[name] for name in config.channels])
    windows, threshold = _merge_thresholds(informative, overview)
    light = next((item.light for item in informative if item.light is not None), None)
    signal = OverviewSignal(pixels=pixels, polarities=polarities, windows=windows, illumination=light)
    mask = _passing(signal, threshold) & overview.specimen
    mask = overview.specimen & clean_mask(
        mask, um2_per_px=um2_per_px, min_speck_um2=config.min_speck_um2, max_hole_um2=config.max_hole_um2
    )
    # Nothing is left above doubtful glass: that glass may be the tissue itself.
    if not mask.any() and any(item.is_doubtful for item in informative):
        is_unsure, informative = True, []
    # Without any background in view the configuration decides.
    if is_unsure:
        threshold, mask = None, np.zeros_like(mask)
        if config.when_unsure == "all":
            threshold, mask = EVERY_PIXEL, overview.specimen
    tissue = TissueModel(
        polarities=polarities,
        windows=windows,
        threshold=threshold,
        mask=mask.astype(np.uint8),
        scale_x=scale_x,
        scale_y=scale_y,
        unscanned=missing.astype(np.uint8) if missing.any() else None,
        levels=_background_levels(overview, informative, mask),
        illumination=light,
        is_unsure=is_unsure,
        ink_share=np.count_nonzero(ink) / ink.size,
    )
    scores = _doubtful_ink(overview, ink, tissue, um_per_px=math.sqrt(um2_per_px)) if ink.any() else []
    confidence, doubts = rate_confidence(overview, informative, tissue, unscanned, scores, is_unsure=is_unsure)
    return replace(tissue, confidence=confidence, doubts=doubts)


def _choose_evidence(overview: Overview, channels: Sequence[int]) -> tuple[list[Evidence], bool]:
    """Return the evidence with a threshold, of some channels or of all, and whether none has one despite tissue."""
    evidence = find_evidence(overview, channels or range(len(overview.pixels)))
    informative = [item for item in evidence if item.threshold is not None]
    undecided = [n for item in evidence if item.threshold is None and not item.is_empty for n in item.channels]
    # A field of noise alone shows no background either, but it holds no tissue.
    is_unsure = not informative and any(_has_structure(overview.pixels[n], overview.specimen) for n in undecided)
    # Doubtful glass counts only where nothing better is there.
    return [item for item in informative if not item.is_doubtful] or informative, is_unsure


def _passing(signal: OverviewSignal, threshold: float | None) -> Mask:
    """Return the pixels (h, w) of a signal above a threshold that are no noise; none without a threshold."""
    passing = np.zeros(signal.pixels.shape[1:], np.bool_)
    if threshold is None:
        return passing
    # A pixel must pass, and so must the mean of some 3 x 3 px around it: noise passes one test, not both.
    for rows in bands(passing.shape):
        top = max(0, rows.start - 2)  # two rows more: a mean, and its neighbours
        part = signal[top : rows.stop + 2]
        passes_smoothed = (cv2.blur(part, (3, 3)) > threshold).view(np.uint8)
        is_supported = cv2.dilate(passes_smoothed, np.ones((3, 3), np.uint8))
        own = slice(rows.start - top, rows.stop - top)
        np.logical_and(part[own] > np.float32(threshold), is_supported[own], out=passing[rows])
    return passing


def _find_borders_and_ink(
    pixels: Pixels, glass: Glass | None, missing: Mask, config: TissueConfig, *, um_per_px: float
) -> tuple[Mask, Mask]:
    """Return the pixels that were not scanned, near-black borders included, and those of ink."""
    usable, ink = ~missing, np.zeros_like(missing)
    if not (config.ignore_borders or config.ignore_pens):
        return missing, ink
    rgb = np.ascontiguousarray(pixels, np.uint8)
    if usable.any():
        # The glass is brought to the level for which the rules of ink and borders were made.
        brightest = float(np.percentile(rgb.max(axis=0)[usable], 99.5)) if glass is None else 0.0
        level = np.full(3, max(1.0, brightest)) if glass is None else glass.level
        if glass is not None and glass.illumination is not None:
            light = level.astype(np.float32)[:, None, None] * glass.illumination.over(*rgb.shape[1:])
            rgb = np.clip(np.rint(rgb * np.float32(_RULES_GLASS) / light), 0, 255).astype(np.uint8)
        elif np.abs(level / _RULES_GLASS - 1).max() > _SAME_LEVEL:
            tables = np.clip(np.rint(np.multiply.outer(_RULES_GLASS / level, np.arange(256))), 0, 255).astype(np.uint8)
            rgb = np.stack([cv2.LUT(plane, table) for plane, table in zip(rgb, tables, strict=True)])
        # Black fill becomes glass: mixed with its surroundings at low resolution, it would look like ink.
        if missing.any():
            rgb = np.where(missing, np.uint8(_RULES_GLASS), rgb)
    if config.ignore_borders:
        missing = missing | find_black(rgb, um_per_px=um_per_px)
    return missing, find_ink(rgb, um_per_px=um_per_px) & ~missing if config.ignore_pens else ink


def _doubtful_ink(overview: Overview, ink: Mask, tissue: TissueModel, *, um_per_px: float) -> list[tuple[float, str]]:
    """Return a score and a doubt with the places, level-0 px, where translucent ink borders on tissue, if any.

    `ink` is (h, w) on the overview. There, ink over glass and tissue under ink are hard to tell apart.
    """
    level = np.full(3, _RULES_GLASS) if overview.glass is None else overview.glass.level
    passed = np.minimum.reduce([plane / np.float32(of) for plane, of in zip(overview.pixels, level, strict=True)])
    # Strokes that absorb much have a pale rim, but a narrow one.
    side = max(3, round(_LEAST_STROKE_UM / um_per_px))
    is_pale = (ink & (passed > _LEAST_PASSED) & (passed < 1 - _FLAT_DENSITY)).view(np.uint8)
    wide = cv2.morphologyEx(is_pale, cv2.MORPH_OPEN, np.ones((side, side), np.uint8))
    _, pieces, stats, _ = cv2.connectedComponentsWithStats(wide, connectivity=8)
    touching = np.unique(pieces[grown(tissue.mask != 0, 7)])
    largest = sorted(touching[touching > 0].tolist(), key=lambda number: -stats[number, cv2.CC_STAT_AREA])
    if not largest:
        return []
    places = []
    for number in largest[:_PLACES]:
        left, top, across, down, _ = stats[number].tolist()
        x, y = np.array([left, left + across]) * tissue.scale_x, np.array([top, top + down]) * tissue.scale_y
        places.append(f"x {x[0]:.0f} to {x[1]:.0f}, y {y[0]:.0f} to {y[1]:.0f}")
    at = "; ".join(places) + (f" and {len(largest) - _PLACES} more" if len(largest) > _PLACES else "")
    return [(0.45, f"translucent ink borders on tissue, and tissue under it may be left out, at {at} (level-0 px)")]


def _background_levels(overview: Overview, informative: Sequence[Evidence], mask: Mask) -> tuple[float, ...]:
    """Return each channel's background level: of its glass, or the median of what is no tissue; NaN if unknown."""
    levels = [math.nan] * len(overview.pixels)
    ground = overview.specimen & ~mask
    # Doubtful glass may be pale tissue, and other slides of the cohort would take its level.
    for evidence in (item for item in informative if not item.is_doubtful):
        for number, channel in enumerate(evidence.channels):
            if evidence.glass_level is not None:
                levels[channel] = float(evidence.glass_level[number])
            elif ground.any():
                levels[channel] = float(np.median(overview.pixels[channel][ground]))
    return tuple(levels)


def _merge_thresholds(informative: Sequence[Evidence], overview: Overview) -> tuple[NDArray[np.float64], float | None]:
    """Return windows (C, 2) and one threshold by which a pixel passes where any channel passes its own."""
    windows = np.zeros((len(overview.pixels), 2))
    # A single threshold, shared by its channels, is kept as it is.
    if len(informative) == 1 and (informative[0].is_shared or overview.config.method == "fixed"):
        windows[list(informative[0].channels)] = informative[0].windows
        return windows, informative[0].threshold
    # Otherwise each window is stretched so that its channel passes at 0.5: the largest signal then means "any".
    for evidence in informative:
        for channel, (low, high) in zip(evidence.channels, evidence.windows.tolist(), strict=True):
            width = 2 * max(cast(float, evidence.threshold), 1e-6) * (high - low)
            is_dark = overview.polarities[channel] == "dark"
            windows[channel] = (low, low + width) if is_dark else (high - width, high)
    return windows, 0.5 if informative else None


def _has_structure(plane: Pixels, usable: Mask) -> bool:
    """Return whether a channel (H, W) shows more than noise and uneven light."""
    height, width = (length // _BLOCK_PX for length in plane.shape)
    if height < 2 or width < 2:
        return False
    size = width * _BLOCK_PX, height * _BLOCK_PX
    blocks = cv2.resize(plane.astype(np.float32)[: size[1], : size[0]], (width, height), interpolation=cv2.INTER_AREA)
    inside = cv2.resize(usable[: size[1], : size[0]].astype(np.float32), (width, height), interpolation=cv2.INTER_AREA)
    is_whole = inside > 0.999
    if np.count_nonzero(is_whole) < _LEAST_BLOCKS:
        return False
    # Uneven light is smooth: a quadratic surface is fitted and subtracted.
    y, x = np.meshgrid(np.linspace(-1, 1, height), np.linspace(-1, 1, width), indexing="ij")
    terms = np.stack([np.ones_like(x), x, y, x * x, x * y, y * y])[:, is_whole].T
    values = blocks[is_whole].astype(np.float64)
    residual = np.zeros(blocks.shape)
    residual[is_whole] = values - terms @ np.linalg.lstsq(terms, values, rcond=None)[0]
    variance = float(residual[is_whole].var())
    if variance <= 1e-12 * max(1.0, float(np.abs(values).max()) ** 2):
        return False
    # Neighbouring blocks of structure are alike; those of noise are independent.
    across, down = is_whole[:, 1:] & is_whole[:, :-1], is_whole[1:] & is_whole[:-1]
    products = np.concatenate([(residual[:, 1:] * residual[:, :-1])[across], (residual[1:] * residual[:-1])[down]])
    least = max(_STRUCTURE, _CHANCE / max(1, products.size) ** 0.5)
    return bool(products.size and float(products.mean()) > least * variance)


def find_ink(overview: NDArray[np.uint8], *, um_per_px: float) -> Mask:
    """Return the pixels (h, w) of ink with its paler rim, on an RGB overview (3, h, w).

    The rules hold for H&E and brown immunohistochemistry. Blue and green stains (trichrome, Alcian blue) look like ink
    to them. Violet ink has the colour of haematoxylin under eosin and pale red ink that of blood: they are found where
    they are even and lie on glass.
    """
    height, width = overview.shape[1:]
    factor = max(1.0, _INK_UM_PER_PX / um_per_px)
    size = max(1, round(width / factor)), max(1, round(height / factor))
    coarse = np.stack([cv2.resize(plane, size, interpolation=cv2.INTER_AREA) for plane in overview])
    um2_per_px = um_per_px**2 * (width / size[0]) * (height / size[1])
    # Haematoxylin and eosin both absorb green most: no mixture of them lets through less red than green, but blue
    # and green ink does. Red ink absorbs more blue than eosin and blood; black ink absorbs all three alike. The
    # limits keep a distance from the extremes of the real H&E slides and fields on which they were tried, which are
    # given beside them.
    red, green, blue = -np.log((coarse.astype(np.float32) + 1) / 256)  # optical densities
    lightest, chroma = coarse.max(axis=0), coarse.max(axis=0) - coarse.min(axis=0)
    is_blue_or_green = green <= 0.77 * red  # tissue: green >= 1.0 red
    is_over_tissue = (green <= 1.2 * red) & (red >= 1.9)  # tissue at 16 um/px: red <= 1.4
    is_red = (blue >= 0.6 * green) & (red <= 0.3 * green)
    is_black = (lightest <= 70) & (chroma <= 25)
    is_full_red = is_red & (blue >= 1.5)  # tissue at 16 um/px: blue <= 1.4
    full = (is_blue_or_green & (red >= 1.0)) | is_over_tissue | is_full_red | is_black
    pale_red = (blue >= 0.75 * green) & (red <= 0.35 * green) & (green >= 0.3)
    pale = (is_blue_or_green & (red >= 0.25)) | is_red & (blue >= 1.0) | pale_red | (lightest <= 190) & (chroma <= 20)
    strokes = large_pieces(full, _LEAST_INK_UM2 / um2_per_px)
    flat = _find_flat_ink(overview, um_per_px=um_per_px)
    if not strokes.any():
        return flat
    # Pale ink colours also occur in tissue, so they count only in one piece with a stroke, and near it.
    reach = 2 * round(_REACH_UM / um2_per_px**0.5) + 1
    candidates = (strokes | (pale & grown(strokes, reach))).astype(np.uint8)
    _, components = cv2.connectedComponents(candidates, connectivity=8)
    ink = grown(np.isin(components, np.unique(components[strokes])), 3)
    enlarged = cv2.resize(ink.astype(np.uint8), (width, height), interpolation=cv2.INTER_NEAREST)
    return np.asarray(enlarged != 0, np.bool_) | flat


def _find_flat_ink(overview: NDArray[np.uint8], *, um_per_px: float) -> Mask:
    """Return the pixels (h, w) of large pieces of even density and a colour of ink, with their rim."""
    height, width = overview.shape[1:]
    if um_per_px > _INK_UM_PER_PX:  # here tissue may be flat
        return np.zeros((height, width), np.bool_)
    factor = max(1.0, _FLAT_UM_PER_PX / um_per_px)
    size = max(1, round(width / factor)), max(1, round(height / factor))
    coarse = np.stack([cv2.resize(plane, size, interpolation=cv2.INTER_AREA) for plane in overview])
    least_px = _LEAST_INK_UM2 / (um_per_px**2 * (width / size[0]) * (height / size[1]))
    density = -np.log((coarse.astype(np.float32) + 1) / 256)
    mean = density.mean(axis=0)
    fine, level = mean - cv2.blur(mean, (3, 3)), cv2.blur(mean, (5, 5))
    is_flat = (cv2.blur(fine * fine, (5, 5)) < (_FLAT * level) ** 2) & (level > _FLAT_DENSITY)
    _, pieces, stats, _ = cv2.connectedComponentsWithStats(is_flat.view(np.uint8), connectivity=4)
    ink, is_glass = np.zeros(mean.shape, np.bool_), level <= _FLAT_DENSITY
    is_grey = (np.ptp(density, axis=0) < 0.2 * level) & ~is_glass
    may_be_grey = bool(np.count_nonzero(is_grey) <= _GREY_IMAGE * np.count_nonzero(~is_glass))
    hues, others = [], []
    areas = stats[1:, cv2.CC_STAT_AREA]  # piece 0 is not flat
    for number in (1 + np.flatnonzero(areas >= least_px / 4)).tolist():
        left, top, across, down, area = stats[number].tolist()
        part = tuple(slice(max(0, at - _AROUND_PX), at + n + _AROUND_PX) for at, n in ((top, down), (left, across)))
        is_piece = pieces[part] == number
        around = grown(is_piece, 2 * _AROUND_PX + 1) & ~grown(is_piece, _AROUND_PX)
        glass_share = float(is_glass[part][around].mean()) if around.any() else 0.0
        colour = _InkColour.of(density[:, part[0], part[1]][:, is_piece])
        # Small pieces within tissue may be pigment, pale ones a shadow.
        may_be_ink = area >= least_px or (glass_share >= _ON_GLASS and colour.density.max() >= _LEAST_INK)
        if may_be_ink and colour.is_ink(glass_share, may_be_grey=may_be_grey):
            ink[part] |= is_piece
            hues.append(colour.hue)
        else:
            others.append((part, is_piece, colour.hue))
    for part, is_piece, hue in others:
        if any(np.abs(hue - known).max() <= _SAME_HUE for known in hues):
            ink[part] |= is_piece
    if not ink.any():
        return np.zeros((height, width), np.bool_)
    # At its border a stroke is not flat.
    enlarged = cv2.resize(grown(ink, 9).astype(np.uint8), (width, height), interpolation=cv2.INTER_NEAREST)
    return np.asarray(enlarged != 0, np.bool_)


class _InkColour(NamedTuple):
    """Median density (3,) of red, green and blue of a flat piece, its shares in their sum, and how much they vary."""

    density: NDArray[np.float32]
    hue: NDArray[np.float32]
    spread: float

    @classmethod
    def of(cls, density: NDArray[np.float32]) -> Self:
        """Return the colour of densities (3, N)."""
        median = np.median(density, axis=1)
        low, high = np.percentile(density / density.sum(axis=0), (25, 75), axis=1)  # where strokes cross, it varies
        return cls(median, median / median.sum(), float((high - low).max()))

    def is_ink(self, glass_share: float, *, may_be_grey: bool) -> bool:
        """Return whether it is the colour of ink; `glass_share` of what surrounds the piece is glass."""
        red, green, blue = self.density.tolist()
        is_grey = may_be_grey and 0.7 * green <= blue <= 1.15 * green
        is_violet = 0.38 * green <= red <= 0.8 * green and 0.2 * green <= blue <= 0.45 * green
        # No tissue absorbs all three alike; the counterstain of immunohistochemistry absorbs red 1.2 times as green.
        if red >= 1.25 * green or (is_grey and red >= 0.85 * green) or (is_violet and green >= 1.5 * _DENSE):
            return True
        is_one_hue = self.spread <= _ONE_HUE
        is_blue = is_one_hue and green >= 0.3 and red >= 1.05 * green  # as haematoxylin alone
        is_red = self.spread <= 2 * _ONE_HUE and red <= 0.22 * green and blue >= 0.6 * green  # as blood
        has_hue_of_ink = is_blue or (is_one_hue and is_grey and red >= 0.7 * green)
        has_hue_of_ink |= green >= 0.4 and (is_red or (is_one_hue and is_violet))
        return glass_share >= _ON_GLASS and (green >= _DENSE or has_hue_of_ink)


def find_black(overview: NDArray[np.uint8], *, um_per_px: float) -> Mask:
    """Return the pixels (h, w) of near-black borders and unscanned areas, on an RGB overview (3, h, w)."""
    lightest = reduce(np.maximum, overview)
    black = large_pieces(lightest <= _UNSCANNED, _LEAST_BORDER_UM2 / um_per_px**2)
    # Near black is also the colour of dense ink and pigment: away from the border it is not taken.
    near_black = lightest <= _NEAR_BLACK
    if any(side.any() for side in (near_black[0], near_black[-1], near_black[:, 0], near_black[:, -1])):
        black |= _border_components(near_black, _LEAST_BORDER_UM2 / um_per_px**2)
    if not black.any():
        return np.asarray(black, np.bool_)
    chroma = lightest - overview.min(axis=0)
    # The grey rim between black and glass would pass for tissue.
    rim = (lightest <= 200) & (chroma <= 30) & grown(black, 2 * _RIM_PX + 1)
    return grown(black | rim, 3)


def _border_components(mask: Mask, least_px: float) -> Mask:
    """Return the components (8 neighbours) that touch a side of the image and are large, or extend along it."""
    height, width = mask.shape
    count, components, stats, _ = cv2.connectedComponentsWithStats(mask.view(np.uint8), connectivity=8)
    across, down = stats[:, cv2.CC_STAT_WIDTH], stats[:, cv2.CC_STAT_HEIGHT]
    left, top = stats[:, cv2.CC_STAT_LEFT], stats[:, cv2.CC_STAT_TOP]
    at_side = ((left == 0) | (left + across == width), (top == 0) | (top + down == height))
    is_long = at_side[1] & (across >= _LEAST_BORDER_SHARE * width) | at_side[0] & (down >= _LEAST_BORDER_SHARE * height)
    is_large = (stats[:, cv2.CC_STAT_AREA] >= least_px) & (at_side[0] | at_side[1])
    is_border = (is_long | is_large) & (np.arange(count) > 0)  # component 0 is outside the mask
    return np.asarray(is_border[components], np.bool_)
