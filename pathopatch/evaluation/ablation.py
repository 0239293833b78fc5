"""Measure how much a model needs each channel: its loss when the channel is constant.

A channel is replaced by its mean over the training patches, which is 0 after standardisation; network and decision
threshold stay. A loss near 0 shows that the model can do without the channel, not that the channel is uninformative.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from pathopatch.evaluation.group_scores import patient_counts, pooled_accuracy, with_ends
from pathopatch.groups import threshold_attributes
from pathopatch.metrics.accuracy import auroc
from pathopatch.metrics.bootstrap import auroc_of, bootstrap_by_patient, interval, ratio, resampled

WITHOUT = "logit without "
"""Column of a predictions table: the logit when the channel that follows is replaced by its mean."""


def without_channel(batch: NDArray[np.float32], channel: int, mean: float) -> NDArray[np.float32]:
    """Return patches (N, C, p, p), scaled to [0, 1], in which one channel is its mean over the training patches."""
    blanked = np.array(batch, dtype=np.float32)
    blanked[:, channel] = mean
    return blanked


def ablation(
    table: pd.DataFrame,
    patient: NDArray[Any],
    *,
    decision_threshold: float,
    n_values: int = 2,
    resamples: int = 1000,
    seed: int = 0,
) -> list[dict[str, Any]]:
    """Return the loss of WGA, GBA and AUROC without each channel.

    `table` has the columns label, logit, ``logit without <channel>`` and ``group@<threshold>``; `patient`, (N,), is the
    unit that is resampled; the other arguments are as for `evaluate_logits`.

    Returns
    -------
    list of dict
        For each channel and threshold: `channel`, `threshold`, and for `wga`, `gba` and `auroc` the value with all
        channels (``wga``), without this one (``wga_without``) and the loss (``wga_lost``, positive where the channel
        helped) with its paired 95 % interval (``_low``, ``_high``). NaN with an empty group, intervals with fewer
        than two patients. Empty where there is one channel only.
    """
    label = table["label"].to_numpy(dtype=np.int64)
    margin = table["logit"].to_numpy(dtype=np.float64)
    rows = []
    for name in (str(name) for name in table.columns if str(name).startswith(WITHOUT)):
        blanked_margin = table[name].to_numpy(dtype=np.float64)
        auroc_lost = _auroc_lost(margin, blanked_margin, label, patient, resamples=resamples, seed=seed)
        for attribute in threshold_attributes(table):
            group = attribute.groups_in(table)
            # The network keeps its decision threshold: it is not tuned anew without the channel.
            right = [(logit > decision_threshold) == (label == 1) for logit in (margin, blanked_margin)]
            accuracies = _accuracies_lost(right, group, patient, n_groups=2 * n_values, resamples=resamples, seed=seed)
            rows.append({"channel": name.removeprefix(WITHOUT), "threshold": attribute.key, **accuracies, **auroc_lost})
    return rows


def _auroc_lost(
    margin: NDArray[np.float64],
    blanked: NDArray[np.float64],
    label: NDArray[np.int64],
    patient: NDArray[Any],
    *,
    resamples: int,
    seed: int,
) -> dict[str, float]:
    """Return the AUROC with and without a channel, and the loss with its interval."""
    full, without = auroc_of(margin, label), auroc_of(blanked, label)
    # Paired: each resample gives both, so what the patients have in common cancels.
    low, high = bootstrap_by_patient(lambda i: full(i) - without(i), patient, resamples=resamples, seed=seed)
    return _lost("auroc", auroc(margin, label), auroc(blanked, label), low, high)


def _accuracies_lost(
    right: list[NDArray[np.bool_]],
    group: NDArray[np.int64],
    patient: NDArray[Any],
    *,
    n_groups: int,
    resamples: int,
    seed: int,
) -> dict[str, float]:
    """Return WGA and GBA with and without a channel, and the losses with their intervals."""
    (hits, n), (hits_without, _) = (patient_counts(part, group, patient, n_groups=n_groups) for part in right)
    # One resampling of both counts gives the same patients to both.
    draws = resampled(
        np.concatenate([hits, hits_without, n], axis=1).astype(np.float64), resamples=resamples, seed=seed
    )
    count = draws[:, 2 * n_groups :]
    full, without = ratio(draws[:, :n_groups], count), ratio(draws[:, n_groups : 2 * n_groups], count)
    value, value_without = pooled_accuracy(hits, n), pooled_accuracy(hits_without, n)
    wga = interval(full.min(axis=1) - without.min(axis=1))
    gba = interval(full.mean(axis=1) - without.mean(axis=1))
    return {
        **_lost("wga", float(value.min()), float(value_without.min()), *wga),
        **_lost("gba", float(value.mean()), float(value_without.mean()), *gba),
    }


def _lost(name: str, value: float, without: float, low: float, high: float) -> dict[str, float]:
    """Return one measure's five columns."""
    return {
        name: value,
        f"{name}_without": without,
        **with_ends(f"{name}_lost", value - without, low, high),
    }
