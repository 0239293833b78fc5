"""Find a slide's tissue on its overview, and rate its confidence.

Each channel gives evidence by its own polarity (`tissue_evidence`); a pixel is tissue if any channel shows it. Pure
arithmetic on arrays.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import cast

import cv2
import numpy as np
from numpy.typing import NDArray

from pathopatch.core.config import TissueConfig
from pathopatch.patches.artifacts import find_black, find_ink
from pathopatch.patches.tissue import EVERY_PIXEL, TissueModel, clean_mask, overview_signal
from pathopatch.patches.tissue_confidence import rate_confidence
from pathopatch.patches.tissue_evidence import Evidence, Mask, Overview, find_evidence
from pathopatch.slides.background import Polarities
from pathopatch.slides.glass import Glass, find_glass
from pathopatch.slides.unscanned import Unscanned

_SAME_LEVEL = 0.03  # relative difference of glass levels that needs no scaling
_RULES_GLASS = 245.0  # of 255: glass level of the slides on which the rules of ink and borders were made
_BLOCK_PX = 2  # nuclei at 1 um/px are some 7 px wide, so means over 2 x 2 px keep them and reduce noise
_STRUCTURE = 0.1  # correlation of neighbouring blocks; noise alone has 0
_CHANCE = 6.0  # standard deviations of that correlation for noise
_LEAST_BLOCKS = 64


def fit_tissue(
    pixels: NDArray[np.generic],
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
    """Return the tissue model of a slide, found on its overview.

    Parameters
    ----------
    pixels : ndarray, shape (C, h, w)
        The overview, source units.
    polarities : tuple of {"dark", "bright"}, length C
        Of each channel.
    is_colour : bool
        The channels are red, green and blue of one image.
    config : TissueConfig
        Its `background` is not read here. `when_unsure` decides where no channel shows background.
    scale_x, scale_y, mpp : float
        Level-0 px per overview px, and um per level-0 px.
    channels : sequence of str
        Names, for `config.channels` and `config.background_level`.
    unscanned : Unscanned, optional
        Default: all was scanned.
    is_flat : bool
        The overview is no picture of one field: do not look for uneven light.

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
    used = [index[name] for name in config.channels] if config.channels else list(range(len(pixels)))
    evidence = find_evidence(overview, used)
    informative = [one for one in evidence if one.threshold is not None]
    # Doubtful glass counts only where nothing better is there.
    informative = [one for one in informative if not one.is_doubtful] or informative
    undecided = [channel for one in evidence if one.threshold is None and not one.is_empty for channel in one.channels]
    # A field of noise alone shows no background either, but it holds no tissue.
    is_unsure = not informative and any(_has_structure(pixels[channel], overview.specimen) for channel in undecided)
    windows, threshold = _merge_thresholds(informative, overview)
    light = next((one.light for one in informative if one.light is not None), None)
    if is_unsure:
        threshold, mask = _fallback(overview)
    else:
        signal = informative[0].signal if len(informative) == 1 else None
        if signal is None:
            signal = overview_signal(pixels, polarities, windows, light)
        mask = _above_threshold(signal, threshold) & overview.specimen
        mask = overview.specimen & clean_mask(
            mask, um2_per_px=um2_per_px, min_speck_um2=config.min_speck_um2, max_hole_um2=config.max_hole_um2
        )
    # Nothing is left above doubtful glass: that glass may be the tissue itself.
    if informative and not mask.any() and any(one.is_doubtful for one in informative):
        is_unsure, informative = True, []
        threshold, mask = _fallback(overview)
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
    confidence, doubts = rate_confidence(overview, informative, tissue, unscanned, is_unsure=is_unsure)
    return replace(tissue, confidence=confidence, doubts=doubts)


def _fallback(overview: Overview) -> tuple[float | None, Mask]:
    """Return threshold and mask as configured for an overview without any background in view."""
    if overview.config.when_unsure == "all":
        return EVERY_PIXEL, overview.specimen
    return None, np.zeros_like(overview.specimen)


def _find_borders_and_ink(
    pixels: NDArray[np.generic], glass: Glass | None, missing: Mask, config: TissueConfig, *, um_per_px: float
) -> tuple[Mask, Mask]:
    """Return the pixels that were not scanned, near-black borders included, and those of ink."""
    ink = np.zeros_like(missing)
    if not (config.ignore_borders or config.ignore_pens):
        return missing, ink
    rgb = _white_balance(pixels, glass, ~missing)
    if config.ignore_borders:
        missing = missing | find_black(rgb, um_per_px=um_per_px)
    return missing, find_ink(rgb, um_per_px=um_per_px) & ~missing if config.ignore_pens else ink


def _background_levels(overview: Overview, informative: Sequence[Evidence], mask: Mask) -> tuple[float, ...]:
    """Return each channel's background level: of its glass, or the median of what is no tissue; NaN if unknown."""
    levels = [math.nan] * len(overview.pixels)
    ground = overview.specimen & ~mask
    for evidence in informative:
        # Doubtful glass may be pale tissue, and other slides of the cohort would take its level.
        if evidence.is_doubtful:
            continue
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
    # Otherwise each window is stretched so that its channel passes at 0.5: the largest signal then stands for "any".
    for evidence in informative:
        for channel, (low, high) in zip(evidence.channels, evidence.windows.tolist(), strict=True):
            width = 2 * max(cast(float, evidence.threshold), 1e-6) * (high - low)
            is_dark = overview.polarities[channel] == "dark"
            windows[channel] = (low, low + width) if is_dark else (high - width, high)
    return windows, 0.5 if informative else None


def _white_balance(pixels: NDArray[np.generic], glass: Glass | None, usable: Mask) -> NDArray[np.uint8]:
    """Return RGB with its glass at the level for which the rules of ink and borders were made."""
    rgb = np.ascontiguousarray(pixels, np.uint8)
    if not usable.any():
        return rgb
    brightest = float(np.percentile(rgb.max(axis=0)[usable], 99.5)) if glass is None else 0.0
    level = np.full(3, max(1.0, brightest)) if glass is None else glass.level
    if glass is not None and glass.illumination is not None:
        light = level.astype(np.float32)[:, None, None] * glass.illumination.over(*rgb.shape[1:])
        rgb = np.clip(np.rint(rgb * np.float32(_RULES_GLASS) / light), 0, 255).astype(np.uint8)
    elif np.abs(level / _RULES_GLASS - 1).max() > _SAME_LEVEL:
        values = np.clip(np.rint(np.multiply.outer(_RULES_GLASS / level, np.arange(256))), 0, 255).astype(np.uint8)
        rgb = np.stack([cv2.LUT(plane, table) for plane, table in zip(rgb, values, strict=True)])
    if usable.all():
        return rgb
    # Black fill becomes glass: mixed with its surroundings at low resolution, it would look like ink.
    rgb, missing = rgb.copy(), ~usable
    for plane in rgb:
        np.copyto(plane, np.uint8(_RULES_GLASS), where=missing)
    return rgb


def _above_threshold(signal: NDArray[np.float32], threshold: float | None) -> Mask:
    """Return the pixels (H, W) above a threshold that are not alone there; none if it is None."""
    if threshold is None:
        return np.zeros(signal.shape, np.bool_)
    # A pixel must pass, and so must the mean of some 3 x 3 px around it: noise passes one test, not both.
    is_supported = cv2.dilate((cv2.blur(signal, (3, 3)) > threshold).astype(np.uint8), np.ones((3, 3), np.uint8))
    return np.asarray((signal > np.float32(threshold)) & (is_supported != 0), np.bool_)


def _has_structure(plane: NDArray[np.generic], usable: Mask) -> bool:
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
