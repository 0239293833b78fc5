"""Which predictions deserve a second look, and why? One column a reason (arithmetic only)."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from pathopatch.config import FlagsConfig

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
) -> dict[str, NDArray[np.bool_] | None]:
    """Return for each reason which patches it holds for; None where it cannot be said.

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
    dict of str to ndarray of bool, shape (N,), or None
        A value for each of `FLAGS`.
    """
    found: dict[str, NDArray[np.bool_] | None] = dict.fromkeys(FLAGS)
    found["low_tissue"] = tissue_fraction < config.low_tissue
    found["saturated"] = saturated_fraction > config.saturated
    found["near_threshold"] = np.abs(probability - decision_probability) <= config.near_threshold
    if seen is not None:
        low, high = np.array(seen.mean).T  # (C,) each
        found["out_of_range"] = ((mean < low) | (mean > high)).any(axis=1)
        if seen.sharpness is not None:
            found["blurred"] = sharpness < seen.sharpness
    if len(spread) == 0 or np.isfinite(spread).any():
        found["uncertain"] = spread > config.spread
    return found


def is_flagged(table: pd.DataFrame) -> NDArray[np.bool_]:
    """Return which predictions carry any flag, (N,); what is not known is none."""
    columns = [table[f"flag_{name}"].fillna(False).to_numpy(np.bool_) for name in FLAGS]
    return np.asarray(np.logical_or.reduce(columns), np.bool_)
