"""Find the tissue fraction of each patch behind features: stored, given with the labels, or measured on the slides.

Slides are measured as `tile` measures them: each by its own evidence, then those that are uncertain by the background
levels of their cohort.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from pathopatch.core.config import TileConfig
from pathopatch.core.errors import InputMissingError, InputUnsupportedError, Remark, merged, shared_text
from pathopatch.core.task import Progress
from pathopatch.core.text import pluralize
from pathopatch.core.workers import Workers
from pathopatch.features.cohort import FEATURE_ROW
from pathopatch.features.labels import rounded_px
from pathopatch.features.slide_features import SlideFeatures
from pathopatch.features.tissue import measure_tissue
from pathopatch.patches.analysis import analyse_slide
from pathopatch.patches.background_levels import SlideLevels, cohort_levels, slide_levels, with_cohort_levels
from pathopatch.slides.manifest import SlideRow
from pathopatch.stages.batch.run import Failure, each_slide
from pathopatch.stages.batch.slide_table import open_row
from pathopatch.stages.check import mixed_backgrounds


@dataclass(frozen=True, kw_only=True, eq=False)
class MeasuredTissue:
    """The tissue of one slide's patches, measured on the slide."""

    fraction: NDArray[np.float64]  # (N,): of each patch, in the order of its features
    scanned: NDArray[np.float64]  # (N,): scanned share of each patch
    confidence: float
    shown: SlideLevels  # by the slide's own evidence
    cohort_levels: Mapping[str, float]  # by which it was measured a second time; empty: it was not
    background: str
    warnings: tuple[str, ...]  # for a person to check


@dataclass(frozen=True, kw_only=True, eq=False)
class PatchTissue:
    """The tissue of all patches, and where it is from."""

    fraction: NDArray[np.float64]  # (N,)
    scanned: NDArray[np.float64]  # (N,): scanned share; NaN where it is unknown
    notes: tuple[str, ...]  # where it is from, and what a person must check
    by_slide: Mapping[str, MeasuredTissue] = field(default_factory=dict)  # of slides that were measured


def tissue_fractions(
    described: Sequence[SlideFeatures],
    joined: pd.DataFrame,
    paths: Mapping[str, Path],
    slide_mpp: float | None,
    *,
    is_needed: bool,
    workers: int,
    progress: Progress | None,
) -> PatchTissue:
    """Return the tissue fraction of each patch of `joined`, and where it is from."""
    unknown = np.full(len(joined), np.nan)
    described = [slide for slide in described if len(slide)]
    stored = {slide.slide_id: slide.tissue_fraction for slide in described}
    if all(fractions is not None for fractions in stored.values()):
        note = "tissue fractions are taken from the feature files"
        return PatchTissue(fraction=_by_row(joined, stored), scanned=unknown, notes=(note,))
    if joined["tissue_fraction"].notna().any():
        given = joined["tissue_fraction"].to_numpy(np.float64)
        return PatchTissue(fraction=given, scanned=unknown, notes=("tissue fractions are given in the labels",))
    if not is_needed:
        note = "tissue fractions are not known: the labels' attribute is audited"
        return PatchTissue(fraction=unknown, scanned=unknown, notes=(note,))
    if not paths:
        raise InputMissingError(
            "nothing says how much tissue the patches hold",
            place=str(described[0].path.parent) if described else "",
            remedy="name the folder of the slides with --slides, on which it is measured; or add a column "
            "tissue_fraction to the labels; or audit another of their columns with --attribute",
        )
    tasks = [_task(slide, paths[slide.slide_id], number, slide_mpp) for number, slide in enumerate(described, 1)]
    with Workers(workers if workers > 1 else 0) as processes:
        measured = _measured(tasks, "tissue", processes, progress)
        confidence = {slide_id: slide.confidence for slide_id, slide in measured.items()}
        levels = cohort_levels(confidence, confidence, lambda slide_id: measured[slide_id].shown)
        again = [replace(task, cohort_levels=levels[task.slide_id]) for task in tasks if task.slide_id in levels]
        measured |= _measured(again, "tissue again", processes, progress)
    fraction = _by_row(joined, {slide_id: slide.fraction for slide_id, slide in measured.items()})
    scanned = _by_row(joined, {slide_id: slide.scanned for slide_id, slide in measured.items()})
    note = f"tissue fractions were measured on {pluralize(len(tasks), 'slide')}"
    if again:
        note += f", on {len(again)} of them by the background level that the others show"
    return PatchTissue(fraction=fraction, scanned=scanned, notes=(note, *_warnings(tasks, measured)), by_slide=measured)


def _warnings(tasks: Sequence[_TissueTask], measured: Mapping[str, MeasuredTissue]) -> list[str]:
    """Return what a person must check of the slides; what many of them share once."""
    facts = [(name, ",".join(slide.shown.channels), slide.background) for name, slide in measured.items()]
    table = pd.DataFrame(facts, columns=["slide_id", "channels", "background"])
    mixed = [problem.message for problem in mixed_backgrounds([task.row for task in tasks], table)]
    remarks = [
        Remark(slide_id, f"warning: {slide_id}: {warning}", f"warning: {shared_text(warning, slide_id)}")
        for slide_id, slide in measured.items()
        for warning in slide.warnings
    ]
    lines = [*(f"warning: {message}" for message in mixed), *merged(remarks, "slide")]
    return [*lines, "a column tissue_fraction of the labels takes the place of measured tissue"] if lines else []


def _by_row(joined: pd.DataFrame, by_slide: Mapping[str, Any]) -> NDArray[np.float64]:
    """Return a value per patch of `joined` from those of each slide, in the order of its features; else NaN."""
    values = np.full(len(joined), np.nan)
    for slide_id, index in joined.groupby("slide_id").indices.items():
        if slide_id in by_slide:
            values[index] = np.asarray(by_slide[str(slide_id)], np.float64)[joined[FEATURE_ROW].to_numpy()[index]]
    return values


@dataclass(frozen=True, kw_only=True, eq=False)
class _TissueTask:
    """The patches of one slide, whose tissue is to be measured in any process."""

    features: SlideFeatures  # without the features themselves
    row: SlideRow
    cohort_levels: Mapping[str, float] = field(default_factory=dict)

    @property
    def slide_id(self) -> str:
        """The slide's id."""
        return self.features.slide_id


def _task(slide: SlideFeatures, path: Path, number: int, slide_mpp: float | None) -> _TissueTask:
    """Return the work on one slide; `slide_mpp` is that of slides whose files state none."""
    if slide.side is None:
        raise InputUnsupportedError(
            f"the side of the patches of {slide.slide_id} is not known: their tissue cannot be measured",
            place=str(slide.path),
            remedy="keep the tool's files of coordinates beside its features, or add a column tissue_fraction to "
            "the labels",
        )
    name = slide.slide_id
    row = SlideRow(slide_id=name, patient_id=name, source=str(path), row=number, fallback_mpp=slide_mpp)
    return _TissueTask(features=slide, row=row)


def _measure_slide(task: _TissueTask) -> MeasuredTissue:
    config = with_cohort_levels(TileConfig(), task.cohort_levels)
    features = task.features
    assert features.x is not None
    assert features.y is not None
    assert features.side is not None
    with open_row(task.row) as slide:
        features.require_size(slide.size, place=str(slide.paths[0]))
        analysis = analyse_slide(slide, config)
        x, y = rounded_px(features.x), rounded_px(features.y)
        fraction, scanned = measure_tissue(slide, x, y, features.side, analysis=analysis)
        return MeasuredTissue(
            fraction=fraction,
            scanned=scanned,
            confidence=analysis.tissue.confidence,
            shown=slide_levels(analysis.tissue, slide.channels),
            cohort_levels=task.cohort_levels,
            background=slide.background,
            warnings=(*slide.notes, *analysis.warnings(slide.mpp, config.registration.warn_um)),
        )


def _measured(
    tasks: Sequence[_TissueTask], bar: str, processes: Workers, progress: Progress | None
) -> dict[str, MeasuredTissue]:
    """Return the tissue of each slide by slide_id; the first failure is raised."""
    measured = {}
    for task, result in each_slide(_measure_slide, tasks, processes, bar=bar, progress=progress):
        if isinstance(result, Failure):
            raise result.error
        measured[task.slide_id] = result
    return measured
