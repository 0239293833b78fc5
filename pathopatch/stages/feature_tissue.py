"""Find the tissue fraction of each patch behind features: stored, given with the labels, or measured on the slides."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from pathopatch.core.errors import InputMissingError, InputUnsupportedError
from pathopatch.core.progress import Progress
from pathopatch.core.text import pluralize
from pathopatch.core.workers import Workers
from pathopatch.features.cohort import FEATURE_ROW
from pathopatch.features.labels import rounded_px
from pathopatch.features.slide_features import SlideFeatures
from pathopatch.features.tissue import measure_tissue
from pathopatch.slides import open_slide
from pathopatch.stages.batch.run import Failure, each_slide


def tissue_fractions(
    described: Sequence[SlideFeatures],
    joined: pd.DataFrame,
    paths: Mapping[str, Path],
    slide_mpp: float | None,
    *,
    is_needed: bool,
    workers: int,
    progress: Progress | None,
) -> tuple[NDArray[np.float64], str]:
    """Return the tissue fraction of each patch of `joined`, and where it is from, in words."""
    described = [slide for slide in described if len(slide)]
    tool = {slide.slide_id: slide.tissue_fraction for slide in described}
    if all(fractions is not None for fractions in tool.values()):
        return _by_row(joined, tool), "tissue fractions are taken from the feature files"
    if joined["tissue_fraction"].notna().any():
        return joined["tissue_fraction"].to_numpy(np.float64), "tissue fractions are given in the labels"
    if not is_needed:
        return np.full(len(joined), np.nan), "tissue fractions are not known: the labels' attribute is audited"
    if not paths:
        raise InputMissingError(
            "nothing says how much tissue the patches hold",
            place=str(described[0].path.parent) if described else "",
            remedy="name the folder of the slides with --slides, on which it is measured; or add a column "
            "tissue_fraction to the labels; or audit another of their columns with --attribute",
        )
    measured = _measure(described, paths, slide_mpp, workers=workers, progress=progress)
    return _by_row(joined, measured), f"tissue fractions were measured on {pluralize(len(paths), 'slide')}"


def _by_row(joined: pd.DataFrame, by_slide: Mapping[str, Any]) -> NDArray[np.float64]:
    """Return a value per patch of `joined` from those of each slide, in the order of its features."""
    values = np.full(len(joined), np.nan)
    for slide_id, index in joined.groupby("slide_id").indices.items():
        values[index] = np.asarray(by_slide[str(slide_id)], np.float64)[joined[FEATURE_ROW].to_numpy()[index]]
    return values


@dataclass(frozen=True, kw_only=True, eq=False)
class _TissueTask:
    """The patches of one slide, whose tissue is to be measured in any process."""

    features: SlideFeatures  # without the features themselves
    path: Path
    x: NDArray[np.int64]
    y: NDArray[np.int64]
    side: float
    mpp: float | None

    @property
    def slide_id(self) -> str:
        """The slide's id."""
        return self.features.slide_id


def _measure_slide(task: _TissueTask) -> NDArray[np.float64]:
    with open_slide(task.path, mpp=task.mpp) as slide:
        task.features.require_size(slide.size, place=str(task.path))
        return measure_tissue(slide, task.x, task.y, task.side)[0]


def _measure(
    described: Sequence[SlideFeatures],
    paths: Mapping[str, Path],
    slide_mpp: float | None,
    *,
    workers: int,
    progress: Progress | None,
) -> dict[str, NDArray[np.float64]]:
    """Return the tissue fraction of each slide's patches."""
    tasks = []
    for slide in described:
        if slide.side is None:
            raise InputUnsupportedError(
                f"the side of the patches of {slide.slide_id} is not known: their tissue cannot be measured",
                place=str(slide.path),
                remedy="keep the tool's files of coordinates beside its features, or add a column tissue_fraction to "
                "the labels",
            )
        assert slide.x is not None
        assert slide.y is not None
        tasks.append(
            _TissueTask(
                features=slide,
                path=paths[slide.slide_id],
                x=rounded_px(slide.x),
                y=rounded_px(slide.y),
                side=slide.side,
                mpp=slide_mpp,
            )
        )
    measured = {}
    if progress:
        progress("tissue", 0, len(tasks))
    with Workers(workers if workers > 1 else 0) as processes:
        for number, (task, result) in enumerate(each_slide(_measure_slide, tasks, processes), 1):
            if isinstance(result, Failure):
                raise result.error
            measured[task.slide_id] = result
            if progress:
                progress("tissue", number, len(tasks), task.slide_id)
    return measured
