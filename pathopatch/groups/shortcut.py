"""Measure how well the tissue fraction alone tells the label, over patients.

The rule of the verdict: **a shortcut is flagged where the 95 % interval by patient of the fraction's AUROC lies wholly
above 0.55 or wholly below 0.45**, in the training patches or in all labelled patches together. Nothing is flagged and
nothing cleared with too few patients, by their effective number: a verdict takes 12, and 5 of each label. Six with both
labels do too, since they are compared within themselves. All patches clear nothing where the interval of the training
patches lies there and these are merely too few. Of an attribute of the patches' own only above 0.55 counts: which value
speaks for tumour is learnt from other patients.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pathopatch.metrics.accuracy import auroc
from pathopatch.metrics.bootstrap import (
    LEAST_UNITS,
    LEAST_UNITS_OF_A_GROUP,
    FloatArray,
    auroc_draws,
    effective_number,
    ratio,
    sums_by_patient,
)
from pathopatch.metrics.intervals import rank_interval, share_interval

LEAST_OF_BOTH = 6
"""Effective number of patients with both labels that is enough for a verdict by itself."""
FLAGGED, NOT_SHOWN, NEGLIGIBLE, UNKNOWN = "shortcut", "not shown", "negligible", "not known"
# Distance of the AUROC from 0.5. Of simulated cohorts whose patients have both labels at most 1 % were false alarms,
# from 6 patients on. Where each has one label, as in cohorts labelled by slide: 14 % at 6, at most 6 % from 12 on.
_LEAST_EFFECT = 0.05
_FOLDS = 5
_ELSEWHERE = ("accuracy_elsewhere", "accuracy_elsewhere_low", "accuracy_elsewhere_high")


def fraction_only(
    label: NDArray[np.int64],
    fraction: NDArray[np.float64],
    patient: NDArray[Any],
    *,
    is_directed: bool = False,
    resamples: int = 1000,
    seed: int = 0,
) -> dict[str, Any]:
    """Return how well one number, the tissue fraction, tells the label, with intervals by patient.

    Parameters
    ----------
    label, fraction, patient : ndarray, shape (N,)
        1 tumour, 0 non-tumour; tissue fraction in [0, 1]; patient, the unit that is resampled.
    is_directed : bool
        More of the number is meant to speak for tumour: an AUROC below 0.5 then gives no label away.
    resamples, seed : int
        Resamples of patients behind each interval, 0 for none; and the seed of these and of the patients' folds.

    Returns
    -------
    dict
        `n`, `tumor`, `patients`, `patients_with_tumor`, `patients_with_non_tumor`, `patients_with_both`, and the
        effective number of each (``effective_patients``, ...); `auroc` with `auroc_low` and
        `auroc_high`; the best `accuracy` with its cut `threshold` and `larger_is_tumor`; `accuracy_elsewhere` with its
        interval: that of cuts chosen on four fifths of the patients and evaluated on the rest; `majority`, the share
        of the more frequent label; `is_beyond`: the interval lies where the rule flags; `verdict` (shortcut, not
        shown, negligible, not known) and `is_flagged`. None where unknown, as all of it in a split of one label.
    """
    n, tumor = len(label), int(label.sum())
    patients, place = np.unique(patient, return_inverse=True)
    of_label = [np.bincount(place[label == y], minlength=len(patients)) for y in (0, 1)]  # patches of each patient
    # Of both labels, if the rarer one has a third: with one stray patch a patient still has one label.
    both = np.where(3 * np.minimum(*of_label) >= of_label[0] + of_label[1], of_label[0] + of_label[1], 0)
    counts = {"patients": of_label[0] + of_label[1], "patients_with_non_tumor": of_label[0]}
    counts |= {"patients_with_tumor": of_label[1], "patients_with_both": both}
    sizes: dict[str, Any] = {"n": n, "tumor": tumor}
    sizes |= {name: int(np.count_nonzero(size)) for name, size in counts.items()}
    sizes |= {f"effective_{name}": float(effective_number(size)) for name, size in counts.items()}
    if tumor in (0, n):
        keys = ("auroc", "auroc_low", "auroc_high", "accuracy", "threshold", "larger_is_tumor", "majority", *_ELSEWHERE)
        return {**sizes, **dict.fromkeys(keys), "is_beyond": False, "verdict": UNKNOWN, "is_flagged": False}
    of_all = auroc(fraction, label)
    drawn = auroc_draws(fraction, label, patient, resamples=resamples, seed=seed)
    low, high = rank_interval(of_all, drawn, patient, label)
    accuracy, threshold, is_larger_tumor = _best_cut(label, fraction)
    is_beyond = bool(low > 0.5 + _LEAST_EFFECT or (high < 0.5 - _LEAST_EFFECT and not is_directed))
    verdict = _verdict(low, high, sizes, is_beyond=is_beyond)
    return {
        **sizes,
        "auroc": of_all,
        "auroc_low": _nan_to_none(low),
        "auroc_high": _nan_to_none(high),
        "accuracy": accuracy,
        "threshold": threshold,
        "larger_is_tumor": is_larger_tumor,
        "majority": max(tumor, n - tumor) / n,
        **_accuracy_elsewhere(label, fraction, place, seed=seed),
        "is_beyond": is_beyond,
        "verdict": verdict,
        "is_flagged": verdict == FLAGGED,
    }


def attribute_score(label: NDArray[np.int64], attribute: NDArray[np.int64], patient: NDArray[Any]) -> FloatArray:
    """Return how much each patch's own attribute (from 0, in no order) speaks for tumour, by labels of other patients.

    It is the rank of the value by its share of tumour in the other folds of patients, (N,), from 0 to 1. An
    uninformative attribute has an AUROC somewhat below 0.5, because what one fold has too much of, the others have too
    little of.
    """
    patients, place = np.unique(patient, return_inverse=True)
    folds = max(2, min(_FOLDS, len(patients)))
    fold = (np.random.default_rng(0).permutation(len(patients)) % folds)[place]
    n_values = int(attribute.max(initial=0)) + 1
    score = np.zeros(len(label))
    for number in range(folds):
        # A patient's own labels would raise the score of values that are rare elsewhere.
        others, own = fold != number, fold == number
        n = np.bincount(attribute[others], minlength=n_values)
        share = ratio(np.bincount(attribute[others], weights=label[others], minlength=n_values), n)
        share = np.where(np.isnan(share), label[others].mean() if others.any() else 0.5, share)
        score[own] = np.unique(share, return_inverse=True)[1][attribute[own]]
    return score / max(1, n_values - 1)


def cohort_verdict(by_split: Mapping[str, Mapping[str, Any]], whole: Mapping[str, Any]) -> dict[str, Any]:
    """Return whether a cohort has the shortcut: by its training patches, or by all its labelled patches together.

    From what `fraction_only` returns by split, and of the whole cohort: `verdict`, `is_flagged`, `by` (``train`` or
    ``all``: the patches that decided; the training patches if both would, or if they alone point to a shortcut and are
    too few) and `least_effect`, the rule's distance of the AUROC from 0.5.
    """
    results = ([("train", by_split["train"])] if "train" in by_split else []) + [("all", whole)]
    rank = (FLAGGED, NOT_SHOWN, NEGLIGIBLE, UNKNOWN)
    by, result = min(results, key=lambda item: rank.index(item[1]["verdict"]))
    # Models learn from the training patches: patches of other splits can dilute their shortcut, not take it away.
    if result["verdict"] != FLAGGED and results[0][1]["verdict"] == UNKNOWN and results[0][1]["is_beyond"]:
        by, result = results[0]
    return {
        "verdict": result["verdict"],
        "is_flagged": bool(result["is_flagged"]),
        "by": by,
        "least_effect": _LEAST_EFFECT,
    }


def alpha_of(counts: NDArray[np.int64]) -> list[list[float] | None]:
    """Return each attribute value's share within its label, from counts (2, A); None for a label without patches."""
    return [(row / row.sum()).tolist() if row.sum() else None for row in counts]


def _verdict(low: float, high: float, sizes: Mapping[str, Any], *, is_beyond: bool) -> str:
    """Return what the interval of the AUROC shows."""
    total, *of_label, both = (
        round(sizes[f"effective_patients{end}"]) for end in ("", "_with_tumor", "_with_non_tumor", "_with_both")
    )
    is_enough = total >= LEAST_UNITS and min(of_label) >= LEAST_UNITS_OF_A_GROUP
    # One patient with most patches outweighs the six that have both labels.
    if not (is_enough or min(total, both) >= LEAST_OF_BOTH) or np.isnan(low):
        return UNKNOWN
    if is_beyond:
        return FLAGGED
    return NEGLIGIBLE if low >= 0.5 - _LEAST_EFFECT and high <= 0.5 + _LEAST_EFFECT else NOT_SHOWN


def _best_cut(label: NDArray[np.int64], fraction: NDArray[np.float64]) -> tuple[float, float, bool]:
    """Return the accuracy of the best single cut, the cut, and whether tumour lies at or above it."""
    n, tumor = len(label), int(label.sum())
    order = np.argsort(fraction, kind="stable")
    values, sorted_label = fraction[order], label[order]
    # Cutting below element k: those before it are called non-tumour, the rest tumour (or the other way round).
    below = np.concatenate([[0], np.cumsum(sorted_label)])
    right = (np.arange(n + 1) - below) + (tumor - below)
    # No cut separates equal fractions.
    is_cut = np.concatenate([[True], values[1:] > values[:-1], [True]])
    best = {True: np.where(is_cut, right, -1), False: np.where(is_cut, n - right, -1)}
    is_larger_tumor = bool(best[True].max() >= best[False].max())
    cut = int(np.argmax(best[is_larger_tumor]))
    threshold = float(values[cut]) if cut < n else float(np.nextafter(values[-1], 2))
    return float(best[is_larger_tumor][cut] / n), threshold, is_larger_tumor


def _accuracy_elsewhere(
    label: NDArray[np.int64], fraction: NDArray[np.float64], place: NDArray[np.int64], *, seed: int
) -> dict[str, float | None]:
    """Return the accuracy of cuts on patients that they were not chosen on; None with fewer patients than folds."""
    n_patients = int(place.max()) + 1
    if n_patients < _FOLDS:
        return dict.fromkeys(_ELSEWHERE)
    fold = (np.random.default_rng(seed).permutation(n_patients) % _FOLDS)[place]
    right = np.zeros(len(label))
    for number in range(_FOLDS):
        is_test = fold == number
        _, cut, is_larger_tumor = _best_cut(label[~is_test], fraction[~is_test])
        right[is_test] = ((fraction[is_test] >= cut) == is_larger_tumor) == (label[is_test] == 1)
    sums = sums_by_patient(np.stack([right, np.ones(len(label))], axis=1), place)
    low, high = share_interval(sums[:, :1], sums[:, 1:])
    return dict(zip(_ELSEWHERE, (float(right.mean()), _nan_to_none(low), _nan_to_none(high)), strict=True))


def _nan_to_none(value: float) -> float | None:
    return None if np.isnan(value) else value
