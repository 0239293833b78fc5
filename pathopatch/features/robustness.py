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
from typing import Any, NamedTuple

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
_MEASURES = (
    "k", "knn_accuracy", "ri", "ri_low", "ri_high", "ri_random", "support", "mari", "tau", "croma", "croma_worst",
    "croma_f0",
)  # fmt: skip


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
        kind, thirds = "tissue", [fraction[confounder == third] for third in (0, 1)]
        names = [f"tissue {part.min():.2f} to {part.max():.2f}" if part.size else "no patch" for part in thirds]
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
    candidates = [k for k in dict.fromkeys(k_candidates) if k < len(label)]
    result: dict[str, Any] = {"patches": len(label), **dict.fromkeys(_MEASURES), "curve": {}, "m": _M}
    if not candidates:
        return result
    near = _nearest(_unit_rows(features), label, confounder, slide_code, k_most=max(candidates))
    scores = {k: score for k in candidates if (score := _knn_accuracy(label, near, k)) is not None}
    if not scores:
        return result
    k = max(scores, key=lambda candidate: scores[candidate])  # of equal ones the first
    so, os = (np.cumsum(types, axis=1) for types in (near.is_so, near.is_os))
    sums = np.stack([so[:, k - 1], os[:, k - 1]], axis=1).astype(np.float64)
    by_patient = sums_by_patient(sums, slide if patient is None else patient)
    draws = resampled(by_patient, resamples=resamples, seed=seed)
    low, high = interval(ratio(draws[:, 0], draws.sum(axis=1)))
    distance, is_so, is_os = near.distance[:, :k], near.is_so[:, :k], near.is_os[:, :k]
    result |= {
        "k": k,
        "knn_accuracy": scores[k],
        "ri": _share(*sums.sum(axis=0)),
        "ri_low": _known(low),
        "ri_high": _known(high),
        "ri_random": _random_index(label, confounder, slide_code),
        "support": float((sums.sum(axis=1) > 0).mean()),
        "curve": {str(k): _share(so[:, k - 1].sum(), os[:, k - 1].sum()) for k in candidates},
    }
    if (is_so | is_os).any():
        tau = float(np.median(distance[is_so | is_os]))
        # At a median distance of 0, equal features, every weight is 1 and MaRI is RI.
        weight = np.exp(-distance / (tau or 1.0))
        result |= {"mari": _share(weight[is_so].sum(), weight[is_os].sum()), "tau": tau}
    d_so, d_os = near.so_distance.mean(axis=1), near.os_distance.mean(axis=1)
    # One patch without a margin makes the median one of other patches: then none is stated.
    if np.isfinite(d_so + d_os).all() and (d_so + d_os > 0).all():
        margin = (d_os - d_so) / (d_so + d_os)
        worst = margin[margin <= np.percentile(margin, 100 * _TAIL)]
        result |= {
            "croma": float(np.median(margin)),
            "croma_worst": float(worst.mean()),
            "croma_f0": float((margin <= 0).mean()),
        }
    return result


class _Neighbours(NamedTuple):
    """The nearest patches of other slides of each patch, by rising cosine distance."""

    distance: NDArray[np.floating]  # (N, K); inf where other slides have fewer than K patches
    same_label: NDArray[np.bool_]  # (N, K), as the following; False where the distance is inf
    is_so: NDArray[np.bool_]
    is_os: NDArray[np.bool_]
    so_distance: NDArray[np.floating]  # (N, m), of the nearest SO patches anywhere; inf where there are fewer
    os_distance: NDArray[np.floating]  # (N, m)


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
    parts = []
    block = max(1, _BLOCK_VALUES // len(unit))
    for start in range(0, len(unit), block):
        rows = slice(start, start + block)
        distance = unit[rows] @ unit.T
        np.clip(np.subtract(1, distance, out=distance), 0, 2, out=distance)
        distance[slide[rows, None] == slide] = np.inf
        same_label, same_confounder = label[rows, None] == label, confounder[rows, None] == confounder
        place = np.argpartition(distance, k_most - 1, axis=1)[:, :k_most]
        order = np.argsort(np.take_along_axis(distance, place, axis=1), axis=1, kind="stable")
        place = np.take_along_axis(place, order, axis=1)
        found, *same = (np.take_along_axis(values, place, 1) for values in (distance, same_label, same_confounder))
        there = np.isfinite(found)
        near_label, near_confounder = (values & there for values in same)
        parts.append(
            _Neighbours(
                found,
                near_label,
                near_label & ~near_confounder,
                near_confounder & ~near_label,
                _nearest_of(distance, same_label & ~same_confounder),
                _nearest_of(distance, ~same_label & same_confounder),
            )
        )
    return _Neighbours(*(np.concatenate(column) for column in zip(*parts, strict=True)))


def _nearest_of(distance: NDArray[np.floating], is_of_type: NDArray[np.bool_]) -> NDArray[np.floating]:
    """Return the m smallest distances (n, N) of a type in each row, (n, m); inf where there are fewer."""
    of_type = np.pad(np.where(is_of_type, distance, np.inf), ((0, 0), (0, _M)), constant_values=np.inf)
    return np.sort(np.partition(of_type, _M - 1, axis=1)[:, :_M], axis=1)


def _knn_accuracy(label: NDArray[np.int64], near: _Neighbours, k: int) -> float | None:
    """Return the balanced accuracy of the label that most of the k nearest have; None if no patch has a neighbour."""
    n_near = np.isfinite(near.distance[:, :k]).sum(axis=1)
    n_same = near.same_label[:, :k].sum(axis=1)
    # A tie, which an even number of neighbours allows, goes to the label that comes first in the data.
    is_right = np.where(2 * n_same == n_near, label == label[0], 2 * n_same > n_near)
    of_label = [(n_near > 0) & (label == y) for y in (0, 1)]
    recalls = [is_right[rows].mean() for rows in of_label if rows.any()]
    return float(np.mean(recalls)) if recalls else None


def _random_index(label: NDArray[np.int64], confounder: NDArray[np.int64], slide: NDArray[np.int64]) -> float | None:
    """Return RI if each patch's neighbours were drawn at random from the other slides."""
    # Patches by slide, label and confounder; those of other slides are all without the slide's own.
    own = np.zeros((int(slide.max()) + 1, 2, int(confounder.max()) + 1), np.int64)
    np.add.at(own, (slide, label, confounder), 1)
    others = own.sum(axis=0) - own
    so = others.sum(axis=2, keepdims=True) - others
    os = others.sum(axis=1, keepdims=True) - others
    return _share(float((own * so).sum()), float((own * os).sum()))


def _share(so: float, os: float) -> float | None:
    return _known(float(ratio(so, so + os)))


def _known(value: float) -> float | None:
    return None if np.isnan(value) else value
