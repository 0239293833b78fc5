"""Draw the tissue outline of each tiled slide, and find the slides whose tissue a person should check first."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from pathopatch.core.config import UNCERTAIN_BELOW
from pathopatch.core.files import write_bytes
from pathopatch.patches import PatchStore
from pathopatch.patches.picture import Picture, compose, hatched, mask_under, outlined, shrunk
from pathopatch.patches.tissue import EVERY_PIXEL

_LONGEST_PX = 800
_BRIGHT_OUTLINE, _DARK_OUTLINE = (0, 200, 70), (255, 225, 0)  # RGB, on bright and on dark background
# Without chroma subsampling (4:4:4), or an outline of one pixel would lose its colour.
_JPEG = (
    *(cv2.IMWRITE_JPEG_QUALITY, 88),
    *(cv2.IMWRITE_JPEG_SAMPLING_FACTOR, cv2.IMWRITE_JPEG_SAMPLING_FACTOR_444),
)
# Robust z-score, as Iglewicz and Hoaglin recommend.
_OUTLIER_LIMIT = 3.5
# The median of fewer slides describes no cohort.
_LEAST_SLIDES = 8
# Of shares and levels in [0, 1]: in a cohort of equal slides a tiny difference is no outlier.
_LEAST_SPREAD = 0.02


@dataclass(frozen=True, kw_only=True)
class TissueFacts:
    """What a store records of its slide's tissue.

    Parameters
    ----------
    share : float
        Share of the scanned part of the overview that is tissue, in [0, 1].
    background_level : float
        Median of the pixels without tissue, mean over the channels; 0 and 1 are the ends of the slide's intensity
        windows. NaN without such pixels.
    confidence : float or None
        Of the mask, in [0, 1]; None where the mask was supplied.
    unscanned_share : float or None
        Share of the overview that was never scanned.
    doubts : tuple of str
        Objections to the mask; also of a slide that is not uncertain.
    reasons : tuple of str
        Why a person should check this slide first; empty if there is no reason.
    rule : str
        How the mask was found: ``supplied``, ``every pixel``, ``none`` (no tissue), or the method's name.
    threshold : float or None
        Signal above which a pixel is tissue, where a method found one.
    background : str
        ``bright`` or ``dark``.
    signal_channels : tuple of str
        Channels of the signal, where it is not made of all channels.
    ink_share : float
        Share of the overview with pen marks.
    """

    slide_id: str
    share: float
    background_level: float = math.nan
    confidence: float | None = None
    unscanned_share: float | None = None
    doubts: tuple[str, ...] = ()
    reasons: tuple[str, ...] = ()
    rule: str = "none"
    threshold: float | None = None
    background: str = ""
    signal_channels: tuple[str, ...] = ()
    ink_share: float = 0.0


def read_tissue_facts(stores: Mapping[str, Path]) -> list[TissueFacts]:
    """Return the facts of each store that has an overview, worst first.

    Slides with a reason come first, then the less certain ones; a store without a confidence counts as certain.
    """
    opened = ((name, PatchStore(path)) for name, path in stores.items())
    facts = with_outliers([_facts(name, store) for name, store in opened if store.has_overview])
    return sorted(
        facts,
        key=lambda slide: (not slide.reasons, 1.0 if slide.confidence is None else slide.confidence, slide.slide_id),
    )


def with_outliers(facts: Sequence[TissueFacts]) -> list[TissueFacts]:
    """Return the facts; outliers of the cohort have that as a further reason."""
    marked = list(facts)
    for name, attribute in (("tissue share", "share"), ("background level", "background_level")):
        values = np.array([getattr(slide, attribute) for slide in facts], np.float64)
        for index in np.flatnonzero(cohort_outliers(values, least_spread=_LEAST_SPREAD)).tolist():
            reason = f"{name} {values[index]:.1%}, median of the cohort {np.nanmedian(values):.1%}"
            marked[index] = replace(marked[index], reasons=(*marked[index].reasons, reason))
    return marked


def cohort_outliers(values: NDArray[np.float64], *, least_spread: float) -> NDArray[np.bool_]:
    """Return which values are far from the others: |x - median| / (1.4826 MAD) above 3.5.

    Parameters
    ----------
    values : ndarray of float64, shape (N,)
        One per slide. NaN is unknown: no outlier, and not counted. Fewer than 8 known values have no outlier.
    least_spread : float
        Lower bound of 1.4826 MAD, in the unit of the values.

    Returns
    -------
    ndarray of bool, shape (N,)

    References
    ----------
    Iglewicz, Hoaglin, How to Detect and Handle Outliers, 1993: modified z-score above 3.5.
    """
    known = values[~np.isnan(values)]
    if len(known) < _LEAST_SLIDES:
        return np.zeros(len(values), np.bool_)
    distance = np.abs(values - np.median(known))
    spread = max(1.4826 * float(np.nanmedian(distance)), least_spread)
    return distance > _OUTLIER_LIMIT * spread


def _facts(slide_id: str, store: PatchStore) -> TissueFacts:
    tissue, level = store.attributes["tissue"], store.coarsest_level
    channels, background = store.attributes["channels"], store.attributes["background"]
    confidence, unscanned_share = tissue.get("confidence"), tissue.get("unscanned_share")
    # Parts that were never scanned are neither tissue nor glass.
    share = float(store.tissue().mean()) / max(1e-12, 1 - (unscanned_share or 0.0))
    is_ground, unscanned = store.tissue(level) == 0, store.unscanned(level)
    if unscanned is not None:
        is_ground &= unscanned == 0
    doubts = tuple(str(doubt).rstrip(".") for doubt in tissue.get("doubts", ()))
    reasons = ["no tissue was found"] if share == 0 else []
    if confidence is not None and confidence < UNCERTAIN_BELOW:
        reasons += [f"uncertain, confidence {confidence:.2f}", *doubts]
    facts = TissueFacts(
        slide_id=slide_id,
        share=share,
        background_level=_background_level(store.overview(level), is_ground, store.windows),
        confidence=confidence,
        unscanned_share=unscanned_share,
        doubts=doubts,
        reasons=tuple(reasons),
        background=background,
        ink_share=tissue.get("ink_share", 0.0),
    )
    if tissue.get("is_supplied"):
        return replace(facts, rule="supplied")
    if tissue["threshold"] is None:
        return facts
    if tissue["threshold"] == EVERY_PIXEL:
        return replace(facts, rule="every pixel")
    # A channel whose window is empty has no signal.
    signal = [name for name, (low, high) in zip(channels, tissue["windows"], strict=True) if high > low]
    return replace(
        facts,
        rule=tissue["method"],
        threshold=tissue["threshold"],
        signal_channels=tuple(signal) if len(signal) < len(channels) else (),
    )


def _background_level(
    overview: NDArray[np.generic], is_ground: NDArray[np.bool_], windows: NDArray[np.float64]
) -> float:
    """Return the median of some pixels (h, w) of an overview (C, h, w) on the scale of the windows (C, 2)."""
    if not is_ground.any():
        return math.nan
    levels = [
        (float(np.median(plane[is_ground].astype(np.float64))) - low) / (high - low)
        for plane, (low, high) in zip(overview, windows.tolist(), strict=True)
        if high > low
    ]
    return float(np.mean(levels)) if levels else math.nan


def tissue_picture(store: PatchStore, *, longest_px: int = _LONGEST_PX) -> Picture:
    """Return a slide's overview with its tissue outlined and unscanned parts hatched, RGB uint8 (h, w, 3)."""
    picture = compose(shrunk(store.overview(), longest_px), store.windows, is_rgb=store.attributes["is_rgb"])
    unscanned = store.unscanned()
    if unscanned is not None:
        picture = hatched(picture, mask_under(picture, unscanned))
    color = _BRIGHT_OUTLINE if store.attributes["background"] == "bright" else _DARK_OUTLINE
    return outlined(picture, mask_under(picture, store.tissue()), colors=[color])


def write_tissue_pictures(stores: Mapping[str, Path], facts: Sequence[TissueFacts], folder: Path) -> None:
    """Write ``<slide>.jpg`` into a folder for each slide."""
    for slide in facts:
        picture = cv2.cvtColor(tissue_picture(PatchStore(stores[slide.slide_id])), cv2.COLOR_RGB2BGR)
        write_bytes(folder / f"{slide.slide_id}.jpg", cv2.imencode(".jpg", picture, _JPEG)[1].tobytes())
