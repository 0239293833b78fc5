"""Measure how much a model needs each channel: its loss when the channel is constant.

A channel is replaced by its mean over the training patches, which is 0 after standardisation; network and decision
threshold stay. A loss near 0 shows that the model can do without the channel, not that the channel is uninformative.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from pathopatch.evaluation.group_scores import patient_counts, pooled_accuracy, resampled_counts, with_ends
from pathopatch.groups import threshold_attributes
from pathopatch.metrics.accuracy import auroc
from pathopatch.metrics.bootstrap import auroc_of, bootstrap_by_patient, interval, ratio

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
    """Return the losses of WGA, GBA and AUROC, a row per channel and threshold; none where there is one channel.

    `table` has the columns label, logit, ``logit without <channel>`` and ``group@<threshold>``; `patient` is (N,). A
    row has, for `wga`, `gba` and `auroc`, the value with all channels (``wga``), without this one (``wga_without``) and
    the loss (``wga_lost``, positive where the channel helped) with its paired 95 % interval (``_low``, ``_high``).
    """
    label = table["label"].to_numpy(dtype=np.int64)
    margin = table["logit"].to_numpy(dtype=np.float64)
    n_groups = 2 * n_values
    rows = []
    for name in (str(name) for name in table.columns if str(name).startswith(WITHOUT)):
        blanked = table[name].to_numpy(dtype=np.float64)
        # Paired: each resample gives both, so what the patients have in common cancels.
        areas = auroc_of(margin, label), auroc_of(blanked, label)
        ends = bootstrap_by_patient(_difference(*areas), patient, resamples=resamples, seed=seed)
        auroc_lost = _lost("auroc", auroc(margin, label), auroc(blanked, label), *ends)
        for attribute in threshold_attributes(table):
            group = attribute.groups_in(table)
            # The network keeps its decision threshold: it is not tuned anew without the channel.
            right, right_without = ((logit > decision_threshold) == (label == 1) for logit in (margin, blanked))
            hits, n = patient_counts(right, group, patient, n_groups=n_groups)
            hits_without, _ = patient_counts(right_without, group, patient, n_groups=n_groups)
            drawn, drawn_without, count = resampled_counts(hits, hits_without, n, resamples=resamples, seed=seed)
            row: dict[str, Any] = {"channel": name.removeprefix(WITHOUT), "threshold": attribute.key}
            for measure, summary in (("wga", np.min), ("gba", np.mean)):
                value, without = (float(summary(pooled_accuracy(part, n))) for part in (hits, hits_without))
                lost = summary(ratio(drawn, count), axis=1) - summary(ratio(drawn_without, count), axis=1)
                row |= _lost(measure, value, without, *interval(lost))
            rows.append(row | auroc_lost)
    return rows


def _difference(
    full: Callable[[NDArray[np.int64]], float], without: Callable[[NDArray[np.int64]], float]
) -> Callable[[NDArray[np.int64]], float]:
    return lambda index: full(index) - without(index)


def _lost(name: str, value: float, without: float, low: float, high: float) -> dict[str, float]:
    """Return one measure's five columns."""
    return {name: value, f"{name}_without": without, **with_ends(f"{name}_lost", value - without, low, high)}
