"""Evaluate one model at tissue thresholds from 0.05 to 0.95, to see whether a result holds at others than its own.

The decision threshold stays the same; only the groups change. Where a group is too small to be measured, there is no
interval, and a note names the group.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from pathopatch.core.config import EvaluateConfig
from pathopatch.core.text import patches_and_patients
from pathopatch.evaluation.group_scores import patient_counts, pooled_accuracy, with_interval
from pathopatch.groups import TissueThreshold
from pathopatch.groups.shortcut import SWEEP_THRESHOLDS

_LEAST_PATIENTS = 2  # one patient in a group gives no information on how patients differ


def sweep_thresholds(
    predictions: pd.DataFrame, patient: NDArray[Any], *, decision_threshold: float, config: EvaluateConfig
) -> pd.DataFrame:
    """Return the accuracy on the four groups at each tissue threshold from 0.05 to 0.95.

    Parameters
    ----------
    predictions : DataFrame
        Of one split: label (0 or 1), tissue_fraction, logit. Patches of unknown fraction are left out.
    patient : ndarray, shape (N,)
        Patient of each patch.
    decision_threshold : float
        On the logit.
    config : EvaluateConfig
        Resamplings, their seed, and how many patches a group needs.

    Returns
    -------
    DataFrame
        A row per threshold: threshold; ``n_g``, ``patients_g`` and ``accuracy_g`` for g = 2 y + a of 0 to 3; wga,
        wga_low, wga_high, gba; smallest_group_n; is_measured; note, which names the groups that are too small. WGA and
        GBA are NaN where a group is empty, the interval wherever a group is too small.
    """
    fraction = predictions["tissue_fraction"].to_numpy(np.float64)
    # Patches with an attribute of their own may come without a tissue fraction.
    is_known = np.isfinite(fraction)
    fraction, patient = fraction[is_known], np.asarray(patient)[is_known]
    label = predictions["label"].to_numpy(np.int64)[is_known]
    right = (predictions["logit"].to_numpy(np.float64)[is_known] > decision_threshold) == (label == 1)
    rows = []
    for threshold in SWEEP_THRESHOLDS:
        # A threshold is reached by equality, as in `tissue_bin`.
        hits, n = patient_counts(right, 2 * label + (fraction >= threshold), patient)
        rows.append({"threshold": threshold, **_sweep_row(hits, n, TissueThreshold(threshold).group_names, config)})
    return pd.DataFrame(rows)


def _sweep_row(
    hits: NDArray[np.int64], n: NDArray[np.int64], names: Sequence[str], config: EvaluateConfig
) -> dict[str, Any]:
    """Return one threshold's numbers from the counts by patient and group, shape (P, 4)."""
    accuracy, size, patients = pooled_accuracy(hits, n), n.sum(axis=0), (n > 0).sum(axis=0)
    is_small = (size < config.least_per_group) | (patients < _LEAST_PATIENTS)
    wga = with_interval(
        lambda i: float(pooled_accuracy(hits[i], n[i]).min()),
        np.arange(len(n)),
        resamples=0 if is_small.any() else config.bootstrap,
        seed=config.seed,
    )
    small = [int(g) for g in np.flatnonzero(is_small)]
    note = [f"group {g} ({names[g]}): {patches_and_patients(size[g], patients[g])}" for g in small]
    return {
        **{f"n_{g}": int(size[g]) for g in range(4)},
        **{f"patients_{g}": int(patients[g]) for g in range(4)},
        **{f"accuracy_{g}": float(accuracy[g]) for g in range(4)},
        "wga": wga["value"],
        "wga_low": wga["low"],
        "wga_high": wga["high"],
        "gba": float(accuracy.mean()),
        "smallest_group_n": int(size.min()),
        "is_measured": not is_small.any(),
        "note": f"too small: {'; '.join(note)}" if note else "",
    }


def sweep_text(sweep: pd.DataFrame, reference: pd.DataFrame | None = None) -> str:
    """Return in words the range of WGA, and of its gain over a reference, over the thresholds that can be measured.

    `reference` is the sweep of the run that this one is compared with, on the same patches. For instance ``0.1 to 0.85:
    WGA 88.1 (at 0.85) to 94.4 (at 0.3); gain +8.1 (at 0.85) to +20.3 (at 0.15), above 0 at 16 of 16 thresholds``.
    """
    measured = sweep[sweep["is_measured"]].set_index("threshold")
    if measured.empty:
        return "no threshold has groups that are large enough"
    span = f"{measured.index[0]:g} to {measured.index[-1]:g}" if len(measured) > 1 else f"{measured.index[0]:g} only"
    text = f"{span}: WGA {_range(measured['wga'], '.1f')}"
    if reference is None:
        return text
    gain = (measured["wga"] - reference.set_index("threshold")["wga"].reindex(measured.index)).dropna()
    if gain.empty:
        return text
    return f"{text}; gain {_range(gain, '+.1f')}, above 0 at {int((gain > 0).sum())} of {len(gain)} thresholds"


def _range(values: pd.Series[float], form: str) -> str:
    """Return the lowest and the highest of some shares in percent, each with its threshold (the index)."""
    lowest, highest = (100 * float(getattr(values, end)()) for end in ("min", "max"))
    low, high = (float(values.index[getattr(values, end)()]) for end in ("argmin", "argmax"))
    if low == high:
        return f"{lowest:{form}}"
    return f"{lowest:{form}} (at {low:g}) to {highest:{form}} (at {high:g})"
