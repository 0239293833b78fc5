"""What does a slide's prediction come to in numbers, for those who never open a heatmap? (arithmetic only)."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from pathopatch.heatmaps.flags import FLAGS
from pathopatch.heatmaps.stitch import inside_share

if TYPE_CHECKING:  # the names of the numbers are wanted without torch
    from pathopatch.heatmaps.predict import Prediction
    from pathopatch.heatmaps.regions import PositiveRegions

SUMMARY = (
    "tissue_mm2", "positive_mm2", "positive_tissue_mm2", "positive_share", "largest_region_mm2", "mean_probability",
    "decision_probability", "lowest_margin", "flagged_share", *(f"flag_{name}" for name in FLAGS),
)  # fmt: skip
"""Names of the numbers, as they stand in ``heatmap.json`` and ``cohort.csv``."""


def summary(
    prediction: Prediction,
    cells: NDArray[np.float64],
    *,
    regions: PositiveRegions,
    decision_probability: float,
    mpp: float,
) -> dict[str, float | None]:
    """Return the numbers of a slide; None where there is nothing to take them of.

    Parameters
    ----------
    prediction : Prediction
        The patches.
    cells : ndarray of float64, shape (C, ny, nx)
        The maps: the probability, the tissue fraction, and others that are not looked at; NaN where there is none.
    regions : PositiveRegions
        Of the map of the probability.
    decision_probability : float
        A cell is positive above it.
    mpp : float
        um per level-0 px.

    Returns
    -------
    dict of str to float or None
        `SUMMARY`: areas in mm2, of what lies on the slide. Tissue is that of all patches, predicted or not. Patches
        that overlap share it among their cells: exact but at the edge, if the stride divides the patch.
        ``positive_share`` is `share_of_tissue`. The largest region is of positive cells that touch along a side.
        ``lowest_margin`` is the least ``|probability - decision_probability|``.
        ``flagged_share`` is of the predicted patches with any flag, each ``flag_<reason>`` of those of which this one
        can be said.
    """
    grid = prediction.analysis.grid
    probability, tissue, *_ = cells
    held = np.nan_to_num(tissue) * inside_share(grid) * (grid.stride * mpp / 1000) ** 2  # mm2 of tissue, (ny, nx)
    is_positive = probability > decision_probability
    raised = {name: pd.array(prediction.columns[f"flag_{name}"], dtype="boolean") for name in FLAGS}
    is_flagged = np.logical_or.reduce([each.fillna(False).to_numpy(np.bool_) for each in raised.values()])
    tissue_mm2, positive_tissue = float(held.sum()), float(held[is_positive].sum())
    values = (
        tissue_mm2,
        regions.total_mm2,
        positive_tissue,
        share_of_tissue(positive_tissue, tissue_mm2),
        regions.largest_mm2,
        _mean(np.asarray(prediction.columns["probability"])),
        decision_probability,
        _lowest_margin(np.asarray(prediction.columns["probability"]), decision_probability),
        _mean(is_flagged),
        *(_mean(each[~each.isna()].to_numpy(np.bool_)) for each in raised.values()),
    )
    return {name: None if value is None else _rounded(value) for name, value in zip(SUMMARY, values, strict=True)}


def share_of_tissue(positive_tissue_mm2: float, tissue_mm2: float) -> float | None:
    """Return the share of the tissue area above the threshold, in [0, 1]; None where there is no tissue.

    This is `positive_share` wherever it stands: in ``heatmap.json``, ``cohort.csv``, ``patients.csv``, the report and
    the review. Glass within a positive patch does not count, nor does tissue twice where patches overlap.

    Parameters
    ----------
    positive_tissue_mm2 : float
        Tissue in cells whose probability is above the decision threshold.
    tissue_mm2 : float
        All tissue, of unpredicted cells too.
    """
    return positive_tissue_mm2 / tissue_mm2 if tissue_mm2 else None


def _mean(values: NDArray[np.generic]) -> float | None:
    """Return the mean; None of nothing."""
    return None if len(values) == 0 else float(values.mean(dtype=np.float64))


def _lowest_margin(probability: NDArray[np.float64], decision_probability: float) -> float | None:
    """Return the least distance of a probability from the decision; None of nothing."""
    return float(np.abs(probability - decision_probability).min()) if len(probability) else None


def _rounded(value: float) -> float:
    """Return a number to nine digits, which no area here is known to."""
    return value if value == 0 else round(value, 8 - math.floor(math.log10(abs(value))))
