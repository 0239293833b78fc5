"""Find a slide's tissue on its overview, and say how sure that is.

Each channel tells what it can by its own polarity (`tissue_evidence`), and tissue is what any of them shows. Pure
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
from pathopatch.patches.signal import signal_of
from pathopatch.patches.threshold import is_structured, passing
from pathopatch.patches.tissue import EVERY_PIXEL, TissueModel, clean_mask
from pathopatch.patches.tissue_confidence import confidence_of
from pathopatch.patches.tissue_evidence import Evidence, Mask, View, evidence_of
from pathopatch.slides.background import Polarities
from pathopatch.slides.glass import Glass, find_glass
from pathopatch.slides.unscanned import Unscanned

_SAME_LEVEL = 0.03  # relative difference of levels for which nothing is scaled
_RULES_GLASS = 245.0  # of 255, of the slides that the rules of ink and borders were made on


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

    Raises
    ------
    InputUnsupportedError
        A bright channel is stated to have a background level of 0 or less.
    """
    um2_per_px = scale_x * scale_y * mpp**2
    missing = np.zeros(overview.shape[1:], np.bool_) if unscanned is None else unscanned.mask
    ink, glass = np.zeros(overview.shape[1:], np.bool_), None
    if is_colour and set(polarities) == {"bright"}:
        glass = find_glass(overview, ~missing, is_flat=is_flat)
        if overview.dtype == np.uint8:
            missing, ink = _borders_and_ink(overview, glass, missing, config, um_per_px=math.sqrt(um2_per_px))
    named = dict(zip(channels, range(len(overview)), strict=False))
    view = View(
        pixels=overview,
        polarities=polarities,
        is_colour=is_colour,
        specimen=~(missing | ink),
        config=config,
        levels={named[name]: level for name, level in config.background_level.items() if name in named},
        glass=glass,
        is_flat=is_flat,
    )
    counting = [named[name] for name in config.channels] if config.channels else list(range(len(overview)))
    evidence = evidence_of(view, counting)
    known = [each for each in evidence if each.threshold is not None]
    known = [each for each in known if not each.is_doubtful] or known
    untold = [channel for each in evidence if each.threshold is None and not each.is_empty for channel in each.channels]
    is_unsure = not known and any(is_structured(overview[channel], view.specimen) for channel in untold)
    windows, threshold = _united(known, view)
    light = next((each.light for each in known if each.light is not None), None)
    if is_unsure:
        threshold, mask = undecided(view)
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
        threshold, mask = undecided(view)
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
    confidence, doubts = confidence_of(view, known, tissue, unscanned, is_unsure=is_unsure)
    return replace(tissue, confidence=confidence, doubts=doubts)


def undecided(view: View) -> tuple[float | None, Mask]:
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


def _levels(view: View, known: Sequence[Evidence], mask: Mask) -> tuple[float, ...]:
    """Return the background level of each channel that shows it: of glass, or the median of what is no tissue."""
    levels = [math.nan] * len(view.pixels)
    ground = view.specimen & ~mask
    for each in known:
        if each.is_doubtful:  # it may be the level of pale tissue
            continue
        for number, channel in enumerate(each.channels):
            if each.glass_level is not None:
                levels[channel] = float(each.glass_level[number])
            elif ground.any():
                levels[channel] = float(np.median(view.pixels[channel][ground]))
    return tuple(levels)


def _united(known: Sequence[Evidence], view: View) -> tuple[NDArray[np.float64], float | None]:
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


def _normalised(overview: NDArray[np.generic], glass: Glass | None, usable: Mask) -> NDArray[np.uint8]:
    """Return RGB as if the glass were at the level for which the rules of ink and borders were made."""
    rgb = np.ascontiguousarray(overview, np.uint8)
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
    rgb, missing = rgb.copy(), ~usable
    for plane in rgb:  # mixed with its surroundings black would look like ink
        np.copyto(plane, np.uint8(_RULES_GLASS), where=missing)
    return rgb
