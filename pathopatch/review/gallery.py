"""Which patches of a slide are most worth a look? By one reason at a time."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from pathopatch.core.errors import InputMissingError
from pathopatch.review.patches import Patches
from pathopatch.review.slide import ReviewedSlide

KINDS = (
    "near-threshold", "little-tissue-tumour", "much-tissue-non-tumour", "disagreement", "label-disagreement", "flagged",
)  # fmt: skip
"""The reasons; see `gallery`."""
_Ranked = tuple[NDArray[np.bool_], NDArray[np.float64]]


def kinds(slide: ReviewedSlide) -> list[str]:
    """Return which reasons there can be: a disagreement takes a run beside, one with labels takes labels."""
    patches = slide.patches
    absent = {
        "disagreement": patches.beside is None or not np.isfinite(patches.beside).any(),
        "label-disagreement": not (patches.label >= 0).any(),
    }
    return [name for name in KINDS if not absent.get(name, False)]


def gallery(slide: ReviewedSlide, kind: str, n: int = 24) -> list[dict[str, Any]]:
    """Return the patches that are most worth a look, the most so first.

    Parameters
    ----------
    slide : ReviewedSlide
        An open slide.
    kind : str
        ``near-threshold``: the probability is near the decision. ``little-tissue-tumour`` and
        ``much-tissue-non-tumour``: the tissue fraction lies below, or not below, the groups' threshold, and the model
        is sure of what goes against it; first what it is surest of. ``disagreement``: the run beside gives another
        probability. ``label-disagreement``: the model does not say what the label says; first what it is surest of.
        ``flagged``: the most flags, of these the nearest to the decision.
    n : int
        How many at most.

    Returns
    -------
    list of dict
        x, y, probability, tissue_fraction, label, group and beside, the run beside's probability; None where one is
        not known. Of equals, row by row.

    Raises
    ------
    InputMissingError
        There is no such kind for this slide.
    """
    if kind not in kinds(slide):
        raise InputMissingError(
            f"no gallery {kind!r}", place=slide.slide_id, remedy=f"choose of {', '.join(kinds(slide))}"
        )
    patches = slide.patches
    is_chosen, rank = _ranked(patches, kind, slide.facts["decision_probability"])
    chosen = np.flatnonzero(is_chosen)
    order = np.lexsort((patches.x[chosen], patches.y[chosen], -rank[chosen]))
    return [_entry(patches, index) for index in chosen[order][: max(0, n)].tolist()]


def _ranked(patches: Patches, kind: str, decision_probability: float) -> _Ranked:
    """Return which patches are of a kind, and how much so."""
    margin = np.abs(patches.probability - decision_probability)
    every = np.ones(len(patches), np.bool_)
    is_large = patches.tissue_fraction >= patches.tau
    if kind == "near-threshold":
        return every, -margin
    if kind == "little-tissue-tumour":
        return patches.is_tumour & ~is_large, margin
    if kind == "much-tissue-non-tumour":
        return ~patches.is_tumour & is_large, margin
    if kind == "label-disagreement":
        return (patches.label >= 0) & ((patches.label == 1) != patches.is_tumour), margin
    if kind == "flagged":
        return patches.flags > 0, np.bitwise_count(patches.flags) + (1 - margin) / 2
    assert patches.beside is not None  # or it was no kind of this slide
    gap = np.abs(patches.probability - patches.beside)
    return gap > 0, np.nan_to_num(gap)


def _entry(patches: Patches, index: int) -> dict[str, Any]:
    beside = None if patches.beside is None else float(patches.beside[index])
    label, group = int(patches.label[index]), int(patches.group[index])
    return {
        "x": int(patches.x[index]),
        "y": int(patches.y[index]),
        "probability": float(patches.probability[index]),
        "tissue_fraction": float(patches.tissue_fraction[index]),
        "label": None if label < 0 else label,
        "group": None if group < 0 else group,
        "beside": None if beside is None or np.isnan(beside) else beside,
    }
