"""Which predictions deserve a second look, and why? One column a reason (arithmetic only)."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from pandas.arrays import BooleanArray

from pathopatch.core.config import FlagsConfig

if TYPE_CHECKING:  # who only reads predictions does without torch, which the models' package loads
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
    """Return for each reason which patches it holds for; missing where it cannot be said.

    Parameters
    ----------
    tissue_fraction, saturated_fraction : ndarray of float64, shape (N,)
        Shares of the patch, in [0, 1].
    sharpness : ndarray of float64, shape (N,)
        See `pathopatch.patches.intensity.sharpness`.
    mean : ndarray of float64, shape (N, C)
        Of each channel over the patch, in the scale of [0, 1].
    probability : ndarray of float64, shape (N,)
        Of the second class.
    spread : ndarray of float64, shape (N,)
        Standard deviation of the probability over the members of an ensemble; NaN of a single model.
    decision_probability : float
        Above it a patch is of the second class.
    seen : SeenRange or None
        What training patches looked like; None, and what is compared with them is not known.
    config : FlagsConfig
        From where on a reason holds.

    Returns
    -------
    dict of str to BooleanArray, shape (N,)
        A value for each of `FLAGS`.
    """
    found = dict.fromkeys(FLAGS, _said(np.zeros(len(sharpness), np.bool_), np.zeros(len(sharpness), np.bool_)))
    found["low_tissue"] = _said(tissue_fraction < config.low_tissue)
    found["saturated"] = _said(saturated_fraction > config.saturated)
    found["near_threshold"] = _said(np.abs(probability - decision_probability) <= config.near_threshold)
    if seen is not None:
        low, high = np.array(seen.mean).T  # (C,) each
        found["out_of_range"] = _said(((mean < low) | (mean > high)).any(axis=1))
        least = least_sharpness(tissue_fraction, seen)
        found["blurred"] = _said(sharpness < least, np.isfinite(least))
    found["uncertain"] = _said(spread > config.spread, np.isfinite(spread))
    return found


def least_sharpness(tissue_fraction: NDArray[np.float64], seen: SeenRange) -> NDArray[np.float64]:
    """Return the least sharpness of training patches with as much tissue; NaN where none had so little.

    Where a bundle does not say it by tissue, it is the least of all of them, whatever their tissue.

    Parameters
    ----------
    tissue_fraction : ndarray of float64, shape (N,)
        In [0, 1].
    seen : SeenRange
        What training patches looked like.

    Returns
    -------
    ndarray of float64, shape (N,)
    """
    if seen.sharpness_by_tissue is None:
        return np.full(len(tissue_fraction), np.nan if seen.sharpness is None else seen.sharpness)
    starts, least = np.array(seen.sharpness_by_tissue).T  # (bins,) each
    number = np.searchsorted(starts, tissue_fraction, side="right")
    return np.asarray(np.append(np.nan, least)[number], np.float64)


def _said(holds: NDArray[np.bool_], is_known: NDArray[np.bool_] | None = None) -> BooleanArray:
    """Return which patches a reason holds for, missing where that is not known."""
    missing = np.zeros(len(holds), np.bool_) if is_known is None else ~is_known
    return BooleanArray(holds & ~missing, missing)


def is_flagged(table: pd.DataFrame) -> NDArray[np.bool_]:
    """Return which predictions carry any flag, (N,); what is not known is none."""
    columns = [table[f"flag_{name}"].fillna(False).to_numpy(np.bool_) for name in FLAGS]
    return np.asarray(np.logical_or.reduce(columns), np.bool_)
