"""Whether the tissue fraction alone tells the label, beyond the chance of which patients came into the cohort.

The rule of the verdict: **a shortcut is flagged where the 95 % interval by patient of the fraction's AUROC lies wholly
above 0.55 or wholly below 0.45**, in the training patches or in all labelled patches together. With fewer than six
patients, or fewer than three that show one of the labels, nothing is flagged and nothing is cleared. Of an attribute of
the patches' own only above 0.55 counts: which value speaks for tumour is learnt from other patients.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pathopatch.metrics.accuracy import auroc
from pathopatch.metrics.bootstrap import (
    FloatArray,
    auroc_of,
    bootstrap_by_patient,
    interval,
    ratio,
    resampled,
    sums_by_patient,
)

LEAST_EFFECT = 0.05
"""Of AUROC, from 0.5. On made cohorts of 6 to 40 patients false alarms were at most 1 %, however clustered."""
LEAST_PATIENTS, LEAST_PATIENTS_OF_A_LABEL = 6, 3
FLAGGED, NOT_SHOWN, NEGLIGIBLE, UNKNOWN = "shortcut", "not shown", "negligible", "not known"
_FOLDS = 5


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
    label : ndarray of int64, shape (N,)
        1 tumour, 0 non-tumour.
    fraction : ndarray of float64, shape (N,)
        Tissue fraction, in [0, 1].
    patient : ndarray, shape (N,)
        Patient of each patch: the unit that is resampled.
    is_directed : bool
        The number is made so that more of it speaks for tumour: an AUROC below 0.5 then gives no label away.
    resamples : int
        Resamples of patients behind each interval; 0 for none.
    seed : int
        Of the resampling, and of the patients' folds.

    Returns
    -------
    dict
        `n`, `tumor`, `patients`, `patients_with_tumor`, `patients_with_non_tumor`; `auroc` with `auroc_low` and
        `auroc_high`; the best `accuracy` with its cut `threshold` and `larger_is_tumor`; `accuracy_elsewhere` with its
        interval: that of cuts chosen on four fifths of the patients and judged on the rest, which does not flatter;
        `majority`, the share of the more frequent label; `verdict` (shortcut, not shown, negligible, not known) and
        `is_flagged`. None for what cannot be known, all of it in a split of one label.
    """
    n, tumor = len(label), int(label.sum())
    people, place = np.unique(patient, return_inverse=True)
    of_label = [len(np.unique(place[label == y])) for y in (0, 1)]
    found: dict[str, Any] = {"n": n, "tumor": tumor, "patients": len(people)}
    found |= {"patients_with_non_tumor": of_label[0], "patients_with_tumor": of_label[1]}
    if tumor in (0, n):
        names = ("auroc", "auroc_low", "auroc_high", "accuracy", "threshold", "larger_is_tumor", "majority")
        elsewhere = ("accuracy_elsewhere", "accuracy_elsewhere_low", "accuracy_elsewhere_high")
        return {**found, **dict.fromkeys((*names, *elsewhere)), "verdict": UNKNOWN, "is_flagged": False}
    low, high = bootstrap_by_patient(auroc_of(fraction, label), patient, resamples=resamples, seed=seed)
    accuracy, threshold, larger = _best_cut(label, fraction)
    told = _verdict(low, high, patients=len(people), of_label=min(of_label), is_directed=is_directed)
    return {
        **found,
        "auroc": auroc(fraction, label),
        "auroc_low": _known(low),
        "auroc_high": _known(high),
        "accuracy": accuracy,
        "threshold": threshold,
        "larger_is_tumor": larger,
        "majority": max(tumor, n - tumor) / n,
        **_elsewhere(label, fraction, place, resamples=resamples, seed=seed),
        "verdict": told,
        "is_flagged": told == FLAGGED,
    }


def attribute_score(label: NDArray[np.int64], attribute: NDArray[np.int64], patient: NDArray[Any]) -> FloatArray:
    """Return how much each patch's own attribute speaks for tumour, by the labels of other patients.

    Parameters
    ----------
    label : ndarray of int64, shape (N,)
        1 tumour, 0 non-tumour.
    attribute : ndarray of int64, shape (N,)
        From 0; no order is implied.
    patient : ndarray, shape (N,)
        Patient of each patch. Their labels do not enter their own score, which would flatter rare values.

    Returns
    -------
    ndarray of float64, shape (N,)
        Rank of the value by its share of tumour in the other folds of patients, from 0 to 1; to be judged by
        `fraction_only` as a directed number. Where the attribute says nothing its AUROC lies somewhat below 0.5: what
        one fold has too much of, the others have too little of.
    """
    people, place = np.unique(patient, return_inverse=True)
    folds = max(2, min(_FOLDS, len(people)))
    fold = (np.random.default_rng(0).permutation(len(people)) % folds)[place]
    n_values = int(attribute.max(initial=0)) + 1
    score = np.zeros(len(label))
    for number in range(folds):
        others, mine = fold != number, fold == number
        n = np.bincount(attribute[others], minlength=n_values)
        share = ratio(np.bincount(attribute[others], weights=label[others], minlength=n_values), n)
        share = np.where(np.isnan(share), label[others].mean() if others.any() else 0.5, share)
        score[mine] = np.unique(share, return_inverse=True)[1][attribute[mine]]
    return score / max(1, n_values - 1)


def cohort_verdict(by_split: Mapping[str, Mapping[str, Any]], whole: Mapping[str, Any]) -> dict[str, Any]:
    """Return whether a cohort has the shortcut: by its training patches, or by all its labelled patches together.

    Parameters
    ----------
    by_split : mapping
        Split -> what `fraction_only` returns.
    whole : mapping
        What it returns for all splits together.

    Returns
    -------
    dict
        `verdict`, `is_flagged`, `by` (``train`` or ``all``: the patches that decided; the training patches if both
        would) and `least_effect`, the rule's distance of the AUROC from 0.5.
    """
    looked_at = ([("train", by_split["train"])] if "train" in by_split else []) + [("all", whole)]
    rank = (FLAGGED, NOT_SHOWN, NEGLIGIBLE, UNKNOWN)
    by, told = min(looked_at, key=lambda item: rank.index(item[1]["verdict"]))
    return {
        "verdict": told["verdict"],
        "is_flagged": bool(told["is_flagged"]),
        "by": by,
        "least_effect": LEAST_EFFECT,
    }


def _verdict(low: float, high: float, *, patients: int, of_label: int, is_directed: bool) -> str:
    """Return what the interval of the AUROC allows to be said."""
    if patients < LEAST_PATIENTS or of_label < LEAST_PATIENTS_OF_A_LABEL or np.isnan(low):
        return UNKNOWN
    if low > 0.5 + LEAST_EFFECT or (high < 0.5 - LEAST_EFFECT and not is_directed):
        return FLAGGED
    return NEGLIGIBLE if low >= 0.5 - LEAST_EFFECT and high <= 0.5 + LEAST_EFFECT else NOT_SHOWN


def _best_cut(label: NDArray[np.int64], fraction: NDArray[np.float64]) -> tuple[float, float, bool]:
    """Return the accuracy of the best single cut, the cut, and whether tumour lies at or above it."""
    n, tumor = len(label), int(label.sum())
    order = np.argsort(fraction, kind="stable")
    values, sorted_label = fraction[order], label[order]
    # Cutting below element k: those before it are called non-tumour, the rest tumour (or the other way round).
    below = np.concatenate([[0], np.cumsum(sorted_label)])
    right = (np.arange(n + 1) - below) + (tumor - below)
    is_cut = np.concatenate([[True], values[1:] > values[:-1], [True]])
    best = {True: np.where(is_cut, right, -1), False: np.where(is_cut, n - right, -1)}
    larger = bool(best[True].max() >= best[False].max())
    cut = int(np.argmax(best[larger]))
    threshold = float(values[cut]) if cut < n else float(np.nextafter(values[-1], 2))
    return float(best[larger][cut] / n), threshold, larger


def _elsewhere(
    label: NDArray[np.int64], fraction: NDArray[np.float64], place: NDArray[np.int64], *, resamples: int, seed: int
) -> dict[str, float | None]:
    """Return the accuracy of cuts on patients that they were not chosen on; unknown with fewer patients than folds."""
    people = int(place.max()) + 1
    names = [f"accuracy_elsewhere{end}" for end in ("", "_low", "_high")]
    if people < _FOLDS:
        return dict.fromkeys(names)
    fold = (np.random.default_rng(seed).permutation(people) % _FOLDS)[place]
    right = np.zeros(len(label))
    for number in range(_FOLDS):
        _, cut, larger = _best_cut(label[fold != number], fraction[fold != number])
        away = fold == number
        right[away] = ((fraction[away] >= cut) == larger) == (label[away] == 1)
    sums = sums_by_patient(np.stack([right, np.ones(len(label))], axis=1), place)
    draws = resampled(sums, resamples=resamples, seed=seed)
    low, high = interval(ratio(draws[:, 0], draws[:, 1]))
    return dict(zip(names, (float(right.mean()), _known(low), _known(high)), strict=True))


def _known(value: float) -> float | None:
    """Return a number, and None in place of NaN."""
    return None if np.isnan(value) else value
