"""Find the background levels that a cohort's slides share, for slides that show none.

The levels are found after a first tiling: they come from the slides with certain tissue, and the uncertain slides are
tiled again with them.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from pathopatch.core.config import UNCERTAIN_BELOW, TileConfig
from pathopatch.core.status import read_status
from pathopatch.core.work_folder import WorkFolder
from pathopatch.patches.source import STAGE
from pathopatch.patches.store import PatchStore
from pathopatch.patches.tissue_model import TissueModel

_LEAST_SLIDES = 2  # that show a channel's background
_MOST_SLIDES = 200  # read for the median: more make it no better
_AGREEMENT = 0.1  # largest relative deviation from the median; one grey level is always allowed


@dataclass(frozen=True, kw_only=True)
class SlideLevels:
    """The background that a slide shows: a level for each channel where it is in view, source units."""

    channels: tuple[str, ...]
    levels: Mapping[str, float]


def slide_levels(tissue: TissueModel, channels: Sequence[str]) -> SlideLevels:
    """Return the levels of a slide's tissue model; `channels` are the slide's."""
    levels = zip(channels, tissue.levels, strict=False)
    known = {name: level for name, level in levels if not math.isnan(level)}
    return SlideLevels(channels=tuple(channels), levels=known)


def cohort_levels(
    confidence: Mapping[str, float], candidates: Collection[str], read_levels: Callable[[str], SlideLevels]
) -> dict[str, dict[str, float]]:
    """Return the cohort's background levels for those `candidates` that are uncertain and have other levels.

    They are to be analysed a second time, see `with_cohort_levels`. The levels, source units by slide and channel, come
    from the certain slides. The `confidence` of each slide's tissue is by its own evidence: a slide with the cohort's
    level would confirm it. `read_levels` is called of candidates, and of at most 200 certain slides.
    """
    uncertain = {slide for slide, value in confidence.items() if value < UNCERTAIN_BELOW}
    wanted = [slide for slide in confidence if slide in uncertain and slide in candidates]
    if not wanted:
        return {}
    certain = [slide for slide in confidence if slide not in uncertain]
    # Every k-th of the slides: opening the stores of a large cohort takes longer than the median.
    step = max(1, len(certain) // _MOST_SLIDES)
    agreed = _agreed_levels([read_levels(slide).levels for slide in certain[::step]])
    levels_by_slide = {}
    for slide in wanted:
        own = read_levels(slide)
        levels = {name: agreed[name] for name in own.channels if name in agreed}
        # A slide that already has the cohort's level is uncertain for another reason and keeps its doubts.
        if any(name not in own.levels or not _is_close(own.levels[name], level) for name, level in levels.items()):
            levels_by_slide[slide] = levels
    return levels_by_slide


def find_background_levels(
    work: Path, slide_ids: Collection[str], cohort: Sequence[str]
) -> dict[str, dict[str, float]]:
    """Return the `cohort_levels` for those of `slide_ids`, from the statuses and stores of the tiled `cohort`."""
    entries = {slide: read_status(work, slide).get(STAGE, {}) for slide in cohort}
    confidence = {
        slide: entry["tissue_confidence"]
        for slide, entry in entries.items()
        if entry.get("tissue_confidence") is not None and not entry["cohort_levels"]
    }

    def read_levels(slide: str) -> SlideLevels:
        attributes = PatchStore(WorkFolder(work).store(slide)).attributes
        # No level would change a mask that was supplied.
        channels = () if attributes["tissue"].get("is_supplied") else tuple(attributes["channels"])
        return SlideLevels(channels=channels, levels=attributes["tissue"]["levels"])

    return cohort_levels(confidence, slide_ids, read_levels)


def with_cohort_levels(config: TileConfig, levels: Mapping[str, float]) -> TileConfig:
    """Return a configuration with the cohort's background levels for channels of which it states none."""
    if not levels:
        return config
    tissue = config.tissue.model_copy(update={"background_level": {**levels, **config.tissue.background_level}})
    return config.model_copy(update={"tissue": tissue})


def _agreed_levels(slides: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """Return the median level of each channel whose slides agree."""
    agreed = {}
    for name in dict.fromkeys(name for levels in slides for name in levels):
        values = np.array([levels[name] for levels in slides if name in levels])
        median = float(np.median(values))
        # 1.4826 times the median deviation is the standard deviation of a normal distribution, robust to outliers.
        spread = 1.4826 * float(np.median(np.abs(values - median)))
        if len(values) >= _LEAST_SLIDES and _is_close(median + spread, median):
            agreed[name] = median
    return agreed


def _is_close(level: float, other: float) -> bool:
    return abs(level - other) <= max(1.0, _AGREEMENT * abs(other))
