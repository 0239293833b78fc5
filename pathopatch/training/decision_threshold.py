"""Where the decision threshold lies and how logits become probabilities: by validation patches, never by others."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize_scalar

from pathopatch import metrics
from pathopatch.debias import gerne
from pathopatch.training.dataset import PatchSet
from pathopatch.training.interval import accuracies_with_intervals
from pathopatch.training.selection import is_known, measure

TEMPERATURES = (0.25, 20.0)
"""Where validation is classified without an error the best temperature is 0, and a small validation set may be so by
luck: it is sought in this range only."""
_RESAMPLES = 1000
"""Draws of patients behind an interval: its ends are then good to about a point."""


@dataclass(frozen=True, eq=False)
class Decision:
    """How logits are read.

    Parameters
    ----------
    threshold : float
        On z1 - z0, where there are two classes; otherwise 0.
    chosen_for : str
        ``none``, ``wga``, or ``sensitivity 0.95``.
    temperature : float
        By which logits are divided before they become probabilities.
    validation : dict
        What validation says of the model with the threshold and with 0, WGA and GBA with the 95 % interval over its
        patients, and its mean negative log-likelihood with the temperature and with 1.
    """

    threshold: float = 0.0
    chosen_for: str = "none"
    temperature: float = 1.0
    validation: dict[str, Any] = field(default_factory=dict)


def decide(
    logits: NDArray[np.float64],
    val: PatchSet,
    *,
    tune_threshold: bool,
    sensitivity: float | None = None,
) -> Decision:
    """Return how logits are read, and what validation says of that.

    Parameters
    ----------
    logits : ndarray of float64, shape (N, K)
        Of all validation patches.
    val : PatchSet
        Those.
    tune_threshold : bool
        Choose the threshold by these patches, if there are two classes; otherwise it is 0. Where no attribute is known,
        the groups are the two classes.
    sensitivity : float, optional
        Share of class 1 that is to be found. None: the threshold has the highest WGA, if every group has samples.

    Raises
    ------
    GroupEmptyError
        A sensitivity is asked for and there is no patch of class 1.
    """
    known = is_known(val.attribute)
    label, attribute = val.label[known], np.maximum(val.attribute[known], 0)
    has_attribute = bool((val.attribute >= 0).any())
    counts = gerne.cell_counts(label, attribute, at_least=(logits.shape[1], 2))
    if not has_attribute:
        counts = counts.sum(axis=1, keepdims=True)
    threshold, chosen_for = 0.0, "none"
    if tune_threshold and logits.shape[1] == 2 and sensitivity is not None:
        threshold = metrics.threshold_at_sensitivity(logits[:, 1] - logits[:, 0], val.label, sensitivity)
        chosen_for = f"sensitivity {sensitivity:g}"
    elif tune_threshold and logits.shape[1] == 2 and bool((counts > 0).all()):
        margin = logits[known, 1] - logits[known, 0]
        threshold, chosen_for = metrics.best_decision_threshold(margin, label, attribute), "wga"
    temperature = best_temperature(logits, val.label)
    found: dict[str, Any] = dict(measure(logits, val.label, val.attribute, threshold=threshold))
    at_zero = measure(logits, val.label, val.attribute)
    found |= {f"{name}_at_zero": value for name, value in at_zero.items()}
    found |= {"nll": nll(logits / temperature, val.label), "nll_at_one": nll(logits, val.label)}
    found["is_threshold_tuned"] = chosen_for != "none"
    prediction = metrics.predicted_class(logits[known], decision_threshold=threshold)
    found |= _intervals(prediction == label, label, attribute, val.patient[known])
    groups = metrics.group_accuracies(prediction, label, attribute)
    for row, y in enumerate(groups.labels):
        for column, a in enumerate(groups.attributes[: counts.shape[1]]):
            name = f"label {y}, attribute {a}" if has_attribute else f"label {y}"
            found[f"accuracy of {name}"] = float(groups.accuracy[row, column])
            found[f"n of {name}"] = int(groups.n[row, column])
    return Decision(threshold, chosen_for, temperature, found)


def _intervals(
    is_right: NDArray[np.bool_], label: NDArray[np.int64], attribute: NDArray[np.int64], patient: NDArray[Any]
) -> dict[str, float]:
    """Return how many patients there are, and the intervals of WGA and GBA when they are drawn again."""
    group = (int(attribute.max(initial=0)) + 1) * label + attribute
    found = accuracies_with_intervals(is_right, group, patient, resamples=_RESAMPLES)
    ends = {name: value for name, value in found.items() if name.endswith(("_low", "_high"))}
    return {"patients": len(np.unique(patient)), **ends}


def nll(logits: NDArray[np.float64], label: NDArray[np.int64]) -> float:
    """Return the mean negative log-likelihood of labels (N,) under logits (N, K)."""
    z = logits - logits.max(axis=1, keepdims=True)
    return float(np.mean(np.log(np.exp(z).sum(axis=1)) - z[np.arange(len(label)), label]))


def best_temperature(logits: NDArray[np.float64], label: NDArray[np.int64]) -> float:
    """Return the temperature in `TEMPERATURES` with the lowest negative log-likelihood [1]_; 1 where that is 0 already.

    Parameters
    ----------
    logits : ndarray of float64, shape (N, K)
        Finite.
    label : ndarray of int64, shape (N,)
        Class of each.

    References
    ----------
    .. [1] Guo, Pleiss, Sun, Weinberger, "On Calibration of Modern Neural Networks", ICML 2017, arXiv:1706.04599,
       section 4.2.
    """
    if nll(logits, label) == 0:
        return 1.0
    low, high = TEMPERATURES
    # convex in 1/T, so that there is one minimum, which a bracket on the logarithmic scale finds
    found = minimize_scalar(
        lambda log_t: nll(logits / np.exp(log_t), label), bounds=(np.log(low), np.log(high)), method="bounded"
    )
    return float(np.exp(found.x))
