"""Measure whether neighbours in feature space share the label or the confounder: RI, MaRI and CRoMa.

The indices were defined for the medical centre as the confounder. Here it is the tissue fraction (its lowest against
its highest third) or any attribute. Neighbours of the same slide never count.

Types of a neighbour: SO has the same label and another value of the confounder, OS another label and the same value.

References
----------
RI: arXiv 2507.17845. MaRI and CRoMa: arXiv 2607.25497.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

from pathopatch.groups.attribute import threshold_attributes
from pathopatch.metrics.bootstrap import interval, ratio, resampled, sums_by_patient

K_CANDIDATES = (1, 3, 5, 7, 9, 11, 15, 21, 31, 41, 61, 81, 101, 151, 201)
"""Numbers of neighbours that RI chooses from; odd, so that two labels never tie."""
MOST_PATCHES = 8_000
"""Patches that the indices are measured on: 6 s of one core at 1,536 values a patch. The time grows with the square."""
_M = 5  # neighbours of each type behind CRoMa
_TAIL = 0.1  # share of patches in the mean of the worst
_BLOCK_VALUES = 2**24  # distances held at a time (64 MB of float32)


def cohort_indices(
    groups: pd.DataFrame, features_of: Callable[[NDArray[np.int64]], NDArray[Any]], *, seed: int = 0
) -> dict[str, Any]:
    """Return the robustness indices of a cohort's features: what `robustness_indices` returns, and of which patches.

    `groups` is what `assign_groups` returns; patches without a group are left out. `features_of` returns the features
    (n, D) of some rows of it, rising. ``confounder`` is ``tissue``, its lowest against its highest third, or
    ``attribute``, the patches' own; ``values`` names its values; ``eligible`` counts the patches that could be drawn.
    """
    attribute = threshold_attributes(groups)[0]
    label, is_grouped = groups["label"].to_numpy(np.int64), attribute.groups_in(groups) >= 0
    if attribute.is_patch_attribute:
        confounder = np.where(is_grouped, attribute.values(groups, min_tissue=0), -1)
        kind, names = "attribute", list(attribute.value_names)
    else:
        fraction = groups["tissue_fraction"].to_numpy(np.float64)
        confounder = tissue_thirds(np.where(is_grouped, fraction, np.nan))
        kind, names = "tissue", [_range_text(fraction[confounder == third]) for third in (0, 1)]
    drawn = draw_patches(label, confounder, most=MOST_PATCHES, seed=seed)
    indices = robustness_indices(
        features_of(drawn),
        label[drawn],
        confounder[drawn],
        _units(groups)[drawn],
        patient=groups["patient_id"].to_numpy(dtype=str)[drawn],
        seed=seed,
    )
    return {"confounder": kind, "values": names, "eligible": int((confounder >= 0).sum()), **indices}


def _units(groups: pd.DataFrame) -> NDArray[np.str_]:
    """Return the slide of each patch, within which neighbours do not count; in one of several patients, the patient.

    A tissue microarray, or a set of ready patches, may be the only slide: without this no neighbour would be left.
    """
    slide, patient = groups["slide_id"].astype(str), groups["patient_id"].astype(str)
    has_several = groups.groupby("slide_id")["patient_id"].transform("nunique") > 1
    return slide.where(~has_several, slide + "/" + patient).to_numpy(dtype=str)


def _range_text(fraction: NDArray[np.float64]) -> str:
    """Return the range of the tissue fractions of a third, such as ``tissue 0.02 to 0.31``."""
    return f"tissue {fraction.min():.2f} to {fraction.max():.2f}" if fraction.size else "no patch"


def tissue_thirds(fraction: ArrayLike) -> NDArray[np.int64]:
    """Return 0 for the third of the patches with least tissue, 1 for the third with most, -1 for those between, (N,).

    The middle is left out because its patches differ too little from either side. Where many patches have one fraction,
    such as 1, the thirds differ in size; where all have, there are none. NaN is -1.
    """
    values = np.asarray(fraction, np.float64)
    known = values[~np.isnan(values)]
    thirds = np.full(len(values), -1, np.int64)
    if not known.size or known.min() == known.max():
        return thirds
    low, high = np.quantile(known, [1 / 3, 2 / 3])
    is_low, is_high = values <= low, values >= high
    if low == high:  # a value in the middle that is no end either is left out
        is_low = values < low if known.min() < low else is_low
        is_high = values > high if known.max() > high else is_high
    thirds[is_low], thirds[is_high] = 0, 1
    return thirds


def draw_patches(
    label: NDArray[np.int64], confounder: NDArray[np.int64], *, most: int = MOST_PATCHES, seed: int = 0
) -> NDArray[np.int64]:
    """Return the rows of at most `most` patches, rising: of each (label, confounder) cell at most an equal share.

    Rows whose label or confounder is negative are left out. Small cells are kept whole.
    """
    usable = np.flatnonzero((label >= 0) & (confounder >= 0))
    _, cell = np.unique(np.stack([label[usable], confounder[usable]]), axis=1, return_inverse=True)
    cell = cell.ravel()
    n_cells = int(cell.max(initial=-1)) + 1
    generator = np.random.default_rng(seed)
    drawn = [generator.permutation(usable[cell == number])[: most // n_cells] for number in range(n_cells)]
    return np.sort(np.concatenate([np.empty(0, np.int64), *drawn]))


def robustness_indices(
    features: NDArray[Any],
    label: NDArray[np.int64],
    confounder: NDArray[np.int64],
    slide: ArrayLike,
    *,
    patient: ArrayLike | None = None,
    k_candidates: Sequence[int] = K_CANDIDATES,
    resamples: int = 1000,
    seed: int = 0,
) -> dict[str, Any]:
    """Return the robustness indices of features (N, D); float16 is computed in float32.

    `label` is 0 or 1, `confounder` its value from 0, (N,) each. Neighbours of the same `slide` are left out. The number
    of neighbours k is the one with the best balanced accuracy of predicting the label by them. Patients, by default
    slides, are resampled for the interval of RI.

    Returns
    -------
    dict
        ``patches``, ``k`` and ``knn_accuracy`` (balanced, at k). ``ri``, the share of SO in all SO and OS neighbours
        up to k, in [0, 1], with ``ri_low`` and ``ri_high``; ``ri_random``, the same if neighbours were drawn at random;
        ``support``, the share of patches with any such neighbour; ``curve``, RI by k. ``mari``, where a neighbour at
        cosine distance d counts exp(-d / tau), and ``tau``, the median of these distances. ``croma``, the median over
        patches of (d_OS - d_SO) / (d_OS + d_SO) in (-1, 1), d being the mean distance to the ``m`` nearest of a type;
        ``croma_worst``, the mean of the worst tenth; ``croma_f0``, the share of patches at or below 0. None where a
        number cannot be known: no SO or OS neighbour at k, or a patch without `m` of each type.
    """
    label, confounder = np.asarray(label, np.int64), np.asarray(confounder, np.int64)
    slide_code = np.unique(np.asarray(slide), return_inverse=True)[1]
    n = len(label)
    candidates = [k for k in dict.fromkeys(k_candidates) if k < n]
    if not candidates:
        return _unknown(n)
    near = _nearest(_unit_rows(features), label, confounder, slide_code, k_most=max(candidates))
    scores = {k: score for k in candidates if (score := _knn_accuracy(label, near, k)) is not None}
    if not scores:
        return _unknown(n)
    k = max(scores, key=lambda candidate: scores[candidate])  # of equal ones the first
    so, os = (np.cumsum(types, axis=1) for types in (near.is_so, near.is_os))
    sums = np.stack([so[:, k - 1], os[:, k - 1]], axis=1).astype(np.float64)
    by_patient = sums_by_patient(sums, slide if patient is None else patient)
    draws = resampled(by_patient, resamples=resamples, seed=seed)
    low, high = interval(ratio(draws[:, 0], draws.sum(axis=1)))
    typed = near.distance[:, :k][(near.is_so | near.is_os)[:, :k]]
    tau = float(np.median(typed)) if typed.size else None
    return {
        "patches": n,
        "k": k,
        "knn_accuracy": scores[k],
        "ri": _share(*sums.sum(axis=0)),
        "ri_low": _known(low),
        "ri_high": _known(high),
        "ri_random": _random_index(label, confounder, slide_code),
        "support": float((sums.sum(axis=1) > 0).mean()),
        "curve": {str(k): _share(so[:, k - 1].sum(), os[:, k - 1].sum()) for k in candidates},
        "mari": _margin_index(near, k, tau),
        "tau": tau,
        **_margin(near.so_distance, near.os_distance),
    }


@dataclass(frozen=True, eq=False)
class _Neighbours:
    """The nearest patches of other slides of each patch, by rising cosine distance."""

    distance: NDArray[np.floating]  # (N, K); inf where other slides have fewer than K patches
    same_label: NDArray[np.bool_]  # (N, K), as the following; False where the distance is inf
    is_so: NDArray[np.bool_]
    is_os: NDArray[np.bool_]
    so_distance: NDArray[np.floating]  # (N, m), of the nearest SO patches anywhere; inf where there are fewer
    os_distance: NDArray[np.floating]  # (N, m)

    @property
    def is_there(self) -> NDArray[np.bool_]:
        """Which neighbours exist, (N, K)."""
        there: NDArray[np.bool_] = np.isfinite(self.distance)
        return there


def _unit_rows(features: NDArray[Any]) -> NDArray[np.floating]:
    """Return the rows at length 1, float32 or float64; a row of zeros stays."""
    rows = np.asarray(features, np.float64 if features.dtype == np.float64 else np.float32)
    norm = np.linalg.norm(rows, axis=1, keepdims=True)
    return np.asarray(rows / np.where(norm == 0, 1, norm), rows.dtype)


def _nearest(
    unit: NDArray[np.floating],
    label: NDArray[np.int64],
    confounder: NDArray[np.int64],
    slide: NDArray[np.int64],
    *,
    k_most: int,
) -> _Neighbours:
    """Return the nearest patches of other slides, from features of length 1, (N, D)."""
    n = len(unit)
    parts = []
    block = max(1, _BLOCK_VALUES // n)
    for start in range(0, n, block):
        rows = slice(start, start + block)
        distance = unit[rows] @ unit.T
        np.clip(np.subtract(1, distance, out=distance), 0, 2, out=distance)
        distance[slide[rows, None] == slide] = np.inf
        same_label = label[rows, None] == label
        same_confounder = confounder[rows, None] == confounder
        place = np.argpartition(distance, k_most - 1, axis=1)[:, :k_most]
        found = np.take_along_axis(distance, place, axis=1)
        order = np.argsort(found, axis=1, kind="stable")
        place, found = (np.take_along_axis(values, order, axis=1) for values in (place, found))
        there = np.isfinite(found)
        near_label, near_confounder = (
            np.take_along_axis(same, place, axis=1) & there for same in (same_label, same_confounder)
        )
        parts.append(
            (
                found,
                near_label,
                near_label & ~near_confounder,
                there & ~near_label & near_confounder,
                _nearest_of(distance, same_label & ~same_confounder),
                _nearest_of(distance, ~same_label & same_confounder),
            )
        )
    return _Neighbours(*(np.concatenate(column) for column in zip(*parts, strict=True)))


def _nearest_of(distance: NDArray[np.floating], is_of_type: NDArray[np.bool_]) -> NDArray[np.floating]:
    """Return the m smallest distances (n, N) of a type in each row, (n, m); inf where there are fewer."""
    of_type = np.where(is_of_type, distance, np.inf)
    if of_type.shape[1] < _M:
        return np.pad(of_type, ((0, 0), (0, _M - of_type.shape[1])), constant_values=np.inf)
    return np.sort(np.partition(of_type, _M - 1, axis=1)[:, :_M], axis=1)


def _knn_accuracy(label: NDArray[np.int64], near: _Neighbours, k: int) -> float | None:
    """Return the balanced accuracy of the label that most of the k nearest have; None if no patch has a neighbour."""
    n_near = near.is_there[:, :k].sum(axis=1)
    n_same = near.same_label[:, :k].sum(axis=1)
    # A tie, which an even number of neighbours allows, goes to the label that comes first in the data.
    is_right = np.where(2 * n_same == n_near, label == label[0], 2 * n_same > n_near)
    has_any = n_near > 0
    recalls = [is_right[has_any & (label == y)].mean() for y in (0, 1) if (has_any & (label == y)).any()]
    return float(np.mean(recalls)) if recalls else None


def _random_index(label: NDArray[np.int64], confounder: NDArray[np.int64], slide: NDArray[np.int64]) -> float | None:
    """Return RI if each patch's neighbours were drawn at random from the other slides."""
    n_values = int(confounder.max()) + 1
    cell = n_values * label + confounder
    # Patches by slide, label and confounder; those of other slides are all without the slide's own.
    shape = (int(slide.max()) + 1, 2, n_values)
    own = np.bincount(slide * 2 * n_values + cell, minlength=int(np.prod(shape))).reshape(shape)
    others = own.sum(axis=0) - own
    so = others.sum(axis=2, keepdims=True) - others
    os = others.sum(axis=1, keepdims=True) - others
    return _share(float((own * so).sum()), float((own * os).sum()))


def _margin_index(near: _Neighbours, k: int, tau: float | None) -> float | None:
    """Return MaRI: RI with weights exp(-d / tau)."""
    if tau is None:
        return None
    # At a median distance of 0, equal features, every weight is 1 and MaRI is RI.
    weight = np.exp(-near.distance[:, :k] / (tau or 1.0))
    return _share(weight[near.is_so[:, :k]].sum(), weight[near.is_os[:, :k]].sum())


def _margin(so_distance: NDArray[np.floating], os_distance: NDArray[np.floating]) -> dict[str, Any]:
    """Return CRoMa from the distances to the m nearest of each type, (N, m)."""
    so, os = so_distance.mean(axis=1), os_distance.mean(axis=1)
    both = so + os
    # One patch without a margin makes the median one of other patches: then none is stated.
    if not np.isfinite(both).all() or (both == 0).any():
        return {"m": _M, "croma": None, "croma_worst": None, "croma_f0": None}
    margin = (os - so) / both
    worst = margin[margin <= np.percentile(margin, 100 * _TAIL)]
    return {
        "m": _M,
        "croma": float(np.median(margin)),
        "croma_worst": float(worst.mean()),
        "croma_f0": float((margin <= 0).mean()),
    }


def _unknown(n: int) -> dict[str, Any]:
    """Return the result where no patch has a neighbour in another slide."""
    names = ("k", "knn_accuracy", "ri", "ri_low", "ri_high", "ri_random", "support", "mari", "tau")
    margin = dict.fromkeys(("croma", "croma_worst", "croma_f0"))
    return {"patches": n, **dict.fromkeys(names), "curve": {}, "m": _M, **margin}


def _share(so: float, os: float) -> float | None:
    return _known(float(ratio(so, so + os)))


def _known(value: float) -> float | None:
    return None if np.isnan(value) else value
