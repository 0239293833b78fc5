"""Flag predictions that deserve a second look, by one reason at a time (arithmetic only)."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from pandas.arrays import BooleanArray

from pathopatch.core.config import FlagsConfig

if TYPE_CHECKING:  # readers of predictions do without torch, which the models' package loads
    from pathopatch.models.spec import SeenRange

FLAGS = ("low_tissue", "saturated", "blurred", "out_of_range", "near_threshold", "uncertain")
"""The reasons; each is a column ``flag_<reason>`` of the predictions."""


def flags(
    *,
    tissue_fraction: NDArray[np.float64],
    saturated_fraction: NDArray[np.float64],
    sharpness: NDArray[np.float64],
    mean: NDArray[np.float64],
    probability: NDArray[np.float64],
    spread: NDArray[np.float64],
    decision_probability: float,
    seen: SeenRange | None,
    config: FlagsConfig,
) -> dict[str, BooleanArray]:
    """Return for each of `FLAGS` the patches that have it, (N,); missing where it cannot be decided.

    All arrays are (N,), shares and probabilities in [0, 1], but `mean`, (N, C): the mean of each channel, scaled to
    [0, 1]. `spread` is NaN for a single model. `seen` is the range of the training patches; without it ``out_of_range``
    and ``blurred`` are missing. `config` has the limits.
    """
    unknown = BooleanArray(np.zeros(len(sharpness), np.bool_), np.ones(len(sharpness), np.bool_))
    raised = {
        "low_tissue": _where(tissue_fraction < config.low_tissue),
        "saturated": _where(saturated_fraction > config.saturated),
        "blurred": unknown,
        "out_of_range": unknown,
        "near_threshold": _where(np.abs(probability - decision_probability) <= config.near_threshold),
        "uncertain": _where(spread > config.spread, np.isfinite(spread)),
    }
    if seen is not None:
        low, high = np.array(seen.mean).T  # (C,) each
        raised["out_of_range"] = _where(((mean < low) | (mean > high)).any(axis=1))
        # Little tissue is smooth on any slide, so sharpness is compared with patches of as much tissue.
        least = least_sharpness(tissue_fraction, seen)
        raised["blurred"] = _where(sharpness < least, np.isfinite(least))
    return raised


def least_sharpness(tissue_fraction: NDArray[np.float64], seen: SeenRange) -> NDArray[np.float64]:
    """Return the least sharpness, (N,), of training patches with as much tissue; NaN where none had so little.

    A bundle without sharpness by tissue has one least sharpness for all patches.
    """
    if seen.sharpness_by_tissue is None:
        return np.full(len(tissue_fraction), np.nan if seen.sharpness is None else seen.sharpness)
    starts, least = np.array(seen.sharpness_by_tissue).T  # (bins,) each
    bin_number = np.searchsorted(starts, tissue_fraction, side="right")
    return np.asarray(np.append(np.nan, least)[bin_number], np.float64)


def _where(holds: NDArray[np.bool_], is_known: NDArray[np.bool_] | None = None) -> BooleanArray:
    missing = np.zeros(len(holds), np.bool_) if is_known is None else ~is_known
    # Cleared below the mask, so that equal flags have equal bytes.
    return BooleanArray(holds & ~missing, missing)
