"""Facts about the tissue of each tiled slide, and the slides whose tissue a person should look at first."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from pathopatch.core.config import UNCERTAIN_BELOW
from pathopatch.patches import PatchStore

_LIMIT = 3.5  # of a robust z-score
_LEAST_SLIDES = 8  # a median of fewer says little of a cohort
_FLOOR = 0.02  # of shares and levels in [0, 1]: a cohort of equal slides has no outlier by a hair's breadth


@dataclass(frozen=True, kw_only=True)
class TissueFacts:
    """What a store says of its slide's tissue.

    Parameters
    ----------
    slide_id : str
    share : float
        Share of what was scanned of the overview that is tissue, in [0, 1].
    background_level : float
        Median of the pixels without tissue, mean over the channels; 0 and 1 are the ends of the slide's intensity
        windows. NaN without such pixels.
    confidence : float or None
        How sure the mask is, in [0, 1]; None in stores that do not say.
    unscanned_share : float or None
        Share of the overview that was never scanned.
    doubts : tuple of str
        What speaks against the mask, in sentences; also of a slide that is not uncertain.
    reasons : tuple of str
        Why a person should look at this slide first; empty if nothing speaks for it.
    """

    slide_id: str
    share: float
    background_level: float = math.nan
    confidence: float | None = None
    unscanned_share: float | None = None
    doubts: tuple[str, ...] = ()
    reasons: tuple[str, ...] = ()


def cohort_outliers(
    values: NDArray[np.float64], *, floor: float, limit: float = _LIMIT, least: int = _LEAST_SLIDES
) -> NDArray[np.bool_]:
    """Return which values are far from the others: |x - median| / (1.4826 MAD) above a limit.

    Parameters
    ----------
    values : ndarray of float64, shape (N,)
        One per slide; NaN is unknown, never an outlier and not counted.
    floor : float
        Least spread, in the unit of the values, in place of 1.4826 MAD.
    limit : float
        A value on it is no outlier.
    least : int
        With fewer known values there is no outlier.

    Returns
    -------
    ndarray of bool, shape (N,)

    References
    ----------
    Iglewicz, Hoaglin, How to Detect and Handle Outliers, 1993: modified z-score above 3.5.
    """
    known = values[~np.isnan(values)]
    if len(known) < least:
        return np.zeros(len(values), np.bool_)
    distance = np.abs(values - np.median(known))
    spread = max(1.4826 * float(np.median(distance[~np.isnan(values)])), floor)
    return distance > limit * spread


def read_tissue_facts(stores: Mapping[str, Path]) -> list[TissueFacts]:
    """Return the facts of each store that has an overview, worst first.

    Slides with a reason to look at come first, then the less certain ones; a store without a confidence counts as sure.
    """
    opened = ((name, PatchStore(path)) for name, path in stores.items())
    facts = with_outliers([_facts(name, store) for name, store in opened if store.has_overview])
    return sorted(facts, key=lambda each: (not each.reasons, _known(each.confidence), each.slide_id))


def with_outliers(facts: Sequence[TissueFacts]) -> list[TissueFacts]:
    """Return the facts, those of outliers of the cohort with that reason after their own."""
    found = list(facts)
    for name, attribute in (("tissue share", "share"), ("background level", "background_level")):
        values = np.array([getattr(each, attribute) for each in facts], np.float64)
        for index in np.flatnonzero(cohort_outliers(values, floor=_FLOOR)).tolist():
            reason = f"{name} {values[index]:.1%}, median of the cohort {np.nanmedian(values):.1%}"
            found[index] = replace(found[index], reasons=(*found[index].reasons, reason))
    return found


def _facts(slide_id: str, store: PatchStore) -> TissueFacts:
    known, level = store.attributes["tissue"], store.coarsest_level
    confidence, unscanned = known.get("confidence"), store.unscanned(level)
    tissue = store.tissue(level) != 0
    share = float(store.tissue().mean()) / max(1e-12, 1 - known.get("unscanned_share", 0.0))
    is_ground = ~tissue if unscanned is None else ~tissue & (unscanned == 0)
    doubts = tuple(str(doubt).rstrip(".") for doubt in known.get("doubts", ()))
    reasons = ["no tissue was found"] if share == 0 else []
    if confidence is not None and confidence < UNCERTAIN_BELOW:
        reasons += [f"uncertain, confidence {confidence:.2f}", *doubts]
    return TissueFacts(
        slide_id=slide_id,
        share=share,
        background_level=_background_level(store.overview(level), is_ground, store.windows),
        confidence=confidence,
        unscanned_share=known.get("unscanned_share"),
        doubts=doubts,
        reasons=tuple(reasons),
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


def _known(confidence: float | None) -> float:
    return 1.0 if confidence is None else confidence
