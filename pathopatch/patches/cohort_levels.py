"""Take the background level of a cohort's other slides where a slide does not tell its own.

Slides are tiled once. The level of each channel is then taken from the slides that are sure of theirs, if these agree,
and the uncertain slides are tiled again with it. What was taken stands in ``background_levels.json``, so that a later
run finds the same.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from pathopatch.config import UNCERTAIN_BELOW, TileConfig
from pathopatch.files import read_json, write_json
from pathopatch.patches.finished import STAGE
from pathopatch.patches.store import PatchStore
from pathopatch.statuses import read_status

NAME = "background_levels.json"
_LEAST_SLIDES = 2  # that show a channel's background
_MOST_SLIDES = 200  # that are asked: a median of more is no better
_AGREEMENT = 0.1  # largest deviation of levels that agree, of their median; one grey level is always allowed

Levels = Mapping[str, Mapping[str, float]]
"""Background level by slide_id and channel, source units."""


def read_levels(work: Path) -> Levels:
    """Return what earlier runs took from the cohort; nothing where they took nothing."""
    path = work / NAME
    levels: Levels = read_json(path)["slides"] if path.is_file() else {}
    return levels


def forget_levels(work: Path, slide_ids: Collection[str]) -> None:
    """Remove what earlier runs took for slides that are made anew: other settings may find other levels."""
    known = read_levels(work)
    kept = {slide: levels for slide, levels in known.items() if slide not in slide_ids}
    if not kept:
        (work / NAME).unlink(missing_ok=True)
    elif len(kept) < len(known):
        write_json(work / NAME, {"slides": kept})


def find_levels(work: Path, slide_ids: Sequence[str], known: Levels) -> Levels:
    """Return levels for the uncertain slides that have none yet and measure another; they are added to the file.

    Parameters
    ----------
    work : Path
        Work folder.
    slide_ids : sequence of str
        The cohort's slides.
    known : mapping
        What `read_levels` returned.
    """
    confidence = {slide: read_status(work, slide).get(STAGE, {}).get("tissue_confidence") for slide in slide_ids}
    told = {slide: value for slide, value in confidence.items() if value is not None and slide not in known}
    unsure = [slide for slide, value in told.items() if value < UNCERTAIN_BELOW]
    sure = [slide for slide in told if slide not in unsure]
    if not unsure:
        return {}
    step = max(1, len(sure) // _MOST_SLIDES)
    cohort = _agreed([_attributes(work, slide)["tissue"]["levels"] for slide in sure[::step]])
    found = {}
    for slide in unsure:
        attributes = _attributes(work, slide)
        own = attributes["tissue"]["levels"]
        levels = {name: cohort[name] for name in attributes["channels"] if name in cohort}
        if any(name not in own or not _is_close(own[name], level) for name, level in levels.items()):
            found[slide] = levels  # a slide of the same level is uncertain for another reason: it keeps its doubts
    if found:
        write_json(work / NAME, {"slides": {**read_levels(work), **found}})  # other parts of the cohort may have added
    return found


def with_levels(config: TileConfig, levels: Mapping[str, float] | None) -> TileConfig:
    """Return a configuration with the cohort's levels for the channels of which it states none."""
    if not levels:
        return config
    tissue = config.tissue.model_copy(update={"background_level": {**levels, **config.tissue.background_level}})
    return config.model_copy(update={"tissue": tissue})


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
