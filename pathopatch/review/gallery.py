"""Rank a slide's patches by how much they deserve a second look, by one reason at a time."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from pathopatch.core.errors import InputMissingError
from pathopatch.review.slide import Patches, ReviewedSlide

KINDS = (
    "near-threshold", "little-tissue-tumour", "much-tissue-non-tumour", "disagreement", "label-disagreement", "flagged",
)  # fmt: skip
"""The reasons; see `gallery`."""


def available_kinds(slide: ReviewedSlide) -> list[str]:
    """Return the reasons that this slide has data for: another run's predictions, or labels."""
    patches = slide.patches
    is_absent = {
        "disagreement": patches.beside is None or not np.isfinite(patches.beside).any(),
        "label-disagreement": not (patches.label >= 0).any(),
    }
    return [kind for kind in KINDS if not is_absent.get(kind, False)]


def gallery(slide: ReviewedSlide, kind: str, limit: int = 24) -> list[dict[str, Any]]:
    """Return at most `limit` patches that most deserve a look, the first one most; equals row by row.

    ``near-threshold``: the probability is near the decision. ``little-tissue-tumour``, ``much-tissue-non-tumour``: the
    prediction contradicts the tissue area (below, or not below, the groups' threshold). ``disagreement``: the other run
    gives another probability. ``label-disagreement``: the prediction contradicts the label. ``flagged``: the most
    flags, then the nearest to the decision. Contradictions are ordered by the model's certainty. Raises
    InputMissingError for a kind without data.
    """
    if kind not in (kinds := available_kinds(slide)):
        raise InputMissingError(f"no gallery {kind!r}", place=slide.slide_id, remedy=f"choose of {', '.join(kinds)}")
    patches = slide.patches
    is_candidate, rank = _ranked(patches, kind, slide.facts["decision_probability"])
    candidates = np.flatnonzero(is_candidate)
    order = np.lexsort((patches.x[candidates], patches.y[candidates], -rank[candidates]))
    return [_entry(patches, row) for row in candidates[order][: max(0, limit)].tolist()]


def _ranked(patches: Patches, kind: str, decision_probability: float) -> tuple[NDArray[np.bool_], NDArray[np.float64]]:
    """Return which patches are of a kind, (M,), and their rank, (M,): the highest comes first."""
    margin = np.abs(patches.probability - decision_probability)
    is_large = patches.tissue_fraction >= patches.tau
    if kind == "near-threshold":
        return np.ones(len(patches), np.bool_), -margin
    # Much tissue called tumour, or little called non-tumour, may be the shortcut at work. These two cannot be.
    if kind == "little-tissue-tumour":
        return patches.is_tumour & ~is_large, margin
    if kind == "much-tissue-non-tumour":
        return ~patches.is_tumour & is_large, margin
    if kind == "label-disagreement":
        return (patches.label >= 0) & ((patches.label == 1) != patches.is_tumour), margin
    if kind == "flagged":
        # A margin is below 1, so that its term never outweighs a flag.
        return patches.flags > 0, np.bitwise_count(patches.flags) + (1 - margin) / 2
    assert patches.beside is not None  # else `available_kinds` has no "disagreement"
    gap = np.abs(patches.probability - patches.beside)
    return gap > 0, np.nan_to_num(gap)


def _entry(patches: Patches, row: int) -> dict[str, Any]:
    beside = np.nan if patches.beside is None else float(patches.beside[row])
    label, group = int(patches.label[row]), int(patches.group[row])
    return {
        "x": int(patches.x[row]),
        "y": int(patches.y[row]),
        "probability": float(patches.probability[row]),
        "tissue_fraction": float(patches.tissue_fraction[row]),
        "label": None if label < 0 else label,
        "group": None if group < 0 else group,
        "beside": None if np.isnan(beside) else beside,
    }
