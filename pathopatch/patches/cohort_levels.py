"""Take the background level of a cohort's other slides where a slide does not tell its own.

Slides are tiled once. The level of each channel is then taken from the slides that are sure of theirs, if these agree,
and the uncertain slides are tiled again with it. Each store says which levels it took, so that a later run keeps them.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from pathopatch.core.config import UNCERTAIN_BELOW
from pathopatch.core.status import read_status
from pathopatch.patches.cache_check import STAGE
from pathopatch.patches.store import PatchStore

_LEAST_SLIDES = 2  # that show a channel's background
_MOST_SLIDES = 200  # that are asked: a median of more is no better
_AGREEMENT = 0.1  # largest deviation of levels that agree, of their median; one grey level is always allowed


def find_levels(work: Path, slide_ids: Collection[str], cohort: Sequence[str]) -> dict[str, dict[str, float]]:
    """Return background levels by slide_id and channel, source units, for uncertain slides that measure another.

    Parameters
    ----------
    work : Path
        Work folder.
    slide_ids : collection of str
        The slides that may be given levels.
    cohort : sequence of str
        The slides that may tell theirs.
    """
    told = {slide: entry for slide in cohort if (entry := _measured_alone(work, slide))}
    unsure = [slide for slide, entry in told.items() if entry["tissue_confidence"] < UNCERTAIN_BELOW]
    asking = [slide for slide in unsure if slide in slide_ids]
    if not asking:
        return {}
    sure = [slide for slide in told if slide not in set(unsure)]
    step = max(1, len(sure) // _MOST_SLIDES)
    agreed = _agreed([_attributes(work, slide)["tissue"]["levels"] for slide in sure[::step]])
    found = {}
    for slide in asking:
        attributes = _attributes(work, slide)
        own = attributes["tissue"]["levels"]
        levels = {name: agreed[name] for name in attributes["channels"] if name in agreed}
        if any(name not in own or not _is_close(own[name], level) for name, level in levels.items()):
            found[slide] = levels  # a slide of the same level is uncertain for another reason: it keeps its doubts
    return found


def _measured_alone(work: Path, slide_id: str) -> dict[str, Any]:
    """Return the status of a tiled slide that took no level from its cohort; of another one nothing."""
    entry = read_status(work, slide_id).get(STAGE, {})
    return {} if entry.get("tissue_confidence") is None or entry["cohort_levels"] else entry


def _attributes(work: Path, slide_id: str) -> dict[str, Any]:
    return PatchStore(work / "slides" / f"{slide_id}.zarr").attributes


def _agreed(slides: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """Return the median level of each channel over the slides that show it, where they agree."""
    found = {}
    for name in dict.fromkeys(name for levels in slides for name in levels):
        values = np.array([levels[name] for levels in slides if name in levels])
        middle = float(np.median(values))
        spread = 1.4826 * float(np.median(np.abs(values - middle)))
        if len(values) >= _LEAST_SLIDES and _is_close(middle + spread, middle):
            found[name] = middle
    return found


def _is_close(level: float, other: float) -> bool:
    return abs(level - other) <= max(1.0, _AGREEMENT * abs(other))
