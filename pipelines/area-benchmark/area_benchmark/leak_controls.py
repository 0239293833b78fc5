"""Check composed patches before a model learns from them: find what of the edit tells the class.

An intervention composes patches so that their tissue area says nothing about the class. If its traces say something
instead, they are the next shortcut. All results are plain values for JSON.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from pathopatch.core.text import pluralize
from pathopatch.metrics.accuracy import auroc
from pathopatch.metrics.bootstrap import IntArray, bootstrap_by_patient
from pathopatch.training.dataset import PatchSet
from pathopatch.training.intervene import Intervention

Floats = NDArray[np.float64]
Mask = NDArray[np.bool_]

CONTROL_NAMES = {
    "area": "tissue area",
    "shape": "shape of the mask",
    "rim": "rim of 2 px around the tissue",
    "background": "background",
    "pieces": "size of the pieces",
}
_LEAST_EFFECT = 0.05  # distance of a leak's AUROC from 0.5, as in the audit of the tissue fraction
_LEAST_UNITS, _LEAST_UNITS_OF_A_CLASS = 5, 3
_RIM_PX = 2
_SQUARE = np.ones((3, 3), np.uint8)
_FOLDS, _TREES, _LEAF = 5, 60, 5
_CHUNK = 256
_RESAMPLES = 500
_NAME_WIDTH = max(map(len, CONTROL_NAMES.values()))
_REMEDIES = {
    "area": "Donors of a class hold too little tissue for the target area: add patches with more tissue of that class.",
    "shape": "Look at composed patches, and try another [train.composing] growth.",
    "rim": "Look whether the masks follow the tissue equally well in both classes.",
    "background": "Look whether slides or stains differ between the classes, and augment the colours.",
    "pieces": "Look at composed patches: tissue of a class may lie in smaller parts, or bases must keep more of it.",
}
_REMEDY_OF_PIECES = 'Set [train.composing] growth = "many", which alone has one law of sizes for all classes.'


@dataclass(frozen=True, eq=False)
class MeasuredPatches:
    """Features of some patches; `numbers` holds (n, m) for each group of them."""

    label: NDArray[np.int64]  # (n,)
    base: NDArray[np.int64]  # (n,): the patch, or that which a copy was composed of
    numbers: dict[str, Floats]


def check_composition(
    intervention: Intervention, *, copies: int = 600, seed: int = 0, has_natural: bool = True
) -> dict[str, Any]:
    """Return how well each trace of an intervention tells the class, by `copies` of each class.

    With `has_natural`, as many natural patches are measured to compare with. The result has ``growth``, ``copies``,
    ``on_target`` (share of the copies that reach their area, by class), ``unit`` and ``units``, and ``controls``, see
    `leak_controls`.
    """
    composed, on_target = measure_copies(intervention, copies)
    unit, name = resampling_unit(intervention.data)
    natural = None
    if has_natural:
        rng = np.random.default_rng(seed)
        some = np.concatenate([rng.permutation(usable)[:copies] for usable in intervention.usable])
        natural = measure_natural(intervention, some)
    return {
        "growth": intervention.growth,
        "copies": copies,
        "on_target": on_target,
        "unit": name,
        "units": len(np.unique(unit)),
        "controls": leak_controls(composed, unit, natural=natural, seed=seed),
    }


def leak_controls(
    composed: MeasuredPatches, unit: NDArray[Any], *, natural: MeasuredPatches | None = None, seed: int = 0
) -> dict[str, dict[str, Any]]:
    """Return how well each trace of the edit tells the class: by control ``is_leak``, ``composed`` and ``natural``.

    Two classes are told by the area itself; everything else, and more classes, by a random forest on units that it did
    not learn from: `unit` (N,) of each training patch, see `resampling_unit`. A control leaks where its 95 % interval
    lies wholly above 0.55, or, of the area itself, wholly below 0.45: a forest below 0.5 only learnt nothing.
    """
    # A leak need not come from the edit. Rim and background are ground of the base, so that stain, scanner and faint
    # tissue beside the mask are in them too: hence the numbers of natural patches, which have no pieces. Features are
    # simple means and shapes, so that a network may see what they do not. Donors are not held out: with few patches of
    # a class, what is found may be the donors' own look.
    controls: dict[str, dict[str, Any]] = {}
    for name in CONTROL_NAMES:
        result = _class_auroc(composed, name, unit, seed)
        is_known = natural is not None and name in natural.numbers
        controls[name] = {
            "composed": result,
            "natural": _class_auroc(natural, name, unit, seed) if natural is not None and is_known else None,
            "is_leak": _is_leak(result, is_directed=not _is_one_number(composed, name)),
        }
    return controls


def measure_copies(intervention: Intervention, copies: int) -> tuple[MeasuredPatches, list[float]]:
    """Return features of the first copies of each class, and by class the share of them that reach their area."""
    measured, bases, pieces, on_target = [], [], [], []
    for y in range(intervention.n_classes):
        is_on_target = 0
        numbers = range(min(copies, len(intervention.bases[y])))
        for number in numbers:
            made = intervention.compose(y, number)
            measured.append(_features(made.pixels, made.tissue))
            kept, *added = made.piece_px
            pieces.append([kept, len(added), np.median(added) if added else np.nan])
            bases.append((y, int(intervention.bases[y][number])))
            is_on_target += made.is_on_target
        on_target.append(is_on_target / len(numbers))
    patches = _joined(measured, np.array(bases, np.int64).reshape(-1, 2))
    patches.numbers["pieces"] = np.array(pieces, np.float64)
    return patches, on_target


def measure_natural(intervention: Intervention, index: NDArray[np.int64]) -> MeasuredPatches:
    """Return features of some patches as they are."""
    data = intervention.data
    assert data.tissue is not None
    measured = []
    for start in range(0, len(index), _CHUNK):
        part = index[start : start + _CHUNK]
        measured += [_features(*pair) for pair in zip(data.read(part), data.tissue.read(part), strict=True)]
    return _joined(measured, np.stack([data.label[index], index], axis=1))


def resampling_unit(data: PatchSet) -> tuple[NDArray[Any], str]:
    """Return what is held out and resampled, (N,), and its name: patients, or slides, or patches where there are few.

    Five are needed, and three that show each class: a class of one patient is never held out from itself.
    """
    for name, unit in (("patient", data.patient), ("slide", data.slide)):
        of_class = [len(np.unique(unit[data.label == y])) for y in np.unique(data.label)]
        if len(np.unique(unit)) >= _LEAST_UNITS and min(of_class) >= _LEAST_UNITS_OF_A_CLASS:
            return unit, name
    return data.patch_id, "patch"


def _class_auroc(patches: MeasuredPatches, name: str, unit: NDArray[Any], seed: int) -> dict[str, float | None]:
    """Return the AUROC of the class by one control, with its interval; of more than two classes the mean over them."""
    units, classes = unit[patches.base], np.unique(patches.label)
    if _is_one_number(patches, name):
        scores = {1: patches.numbers[name][:, 0]}
    else:
        of_class = _held_out(patches.numbers[name], patches.label, units, seed)
        scores = {k: of_class[:, k] for k in (range(1, 2) if len(classes) == 2 else range(len(classes)))}

    def mean(index: IntArray) -> float:
        label = patches.label[index]
        return float(np.mean([auroc(score[index], label == classes[k]) for k, score in scores.items()]))

    low, high = bootstrap_by_patient(mean, units, resamples=_RESAMPLES, seed=seed)
    values = {"auroc": mean(np.arange(len(units))), "low": low, "high": high}
    return {name: None if np.isnan(value) else value for name, value in values.items()}


def _is_one_number(patches: MeasuredPatches, name: str) -> bool:
    """Return whether a control is a number that tells two classes without a forest."""
    return name == "area" and len(np.unique(patches.label)) == 2


def _is_leak(result: dict[str, float | None], *, is_directed: bool) -> bool:
    low, high = result["low"], result["high"]
    if low is None or high is None:
        return False
    return low > 0.5 + _LEAST_EFFECT or (high < 0.5 - _LEAST_EFFECT and not is_directed)


def _held_out(values: Floats, label: NDArray[np.int64], unit: NDArray[Any], seed: int) -> Floats:
    """Return the probability of each class (n, K), in rising order, by a forest that did not learn from the unit."""
    from sklearn.ensemble import RandomForestClassifier  # here: it loads slowly, and only interventions need it

    classes, units = np.unique(label), np.unique(unit, return_inverse=True)[1]
    fold = _folds(units, label, seed)
    score = np.full((len(label), len(classes)), 1 / len(classes))
    for number in np.unique(fold):
        is_own = fold == number
        if len(np.unique(label[~is_own])) < 2:
            continue  # nothing to learn: all classes stay equally likely
        # A fold that holds more of one class must not make the others' scores lower.
        forest = RandomForestClassifier(_TREES, min_samples_leaf=_LEAF, class_weight="balanced", random_state=seed)
        forest.fit(values[~is_own], label[~is_own])
        score[np.ix_(is_own, np.isin(classes, forest.classes_))] = forest.predict_proba(values[is_own])
    return score


def _folds(unit: NDArray[np.int64], label: NDArray[np.int64], seed: int) -> NDArray[np.int64]:
    """Return the fold of each patch: units are dealt out by their mean label, so that folds are alike in it."""
    n_units = int(unit.max()) + 1
    mean = np.bincount(unit, weights=label, minlength=n_units) / np.bincount(unit, minlength=n_units)
    order = np.lexsort((np.random.default_rng(seed).permutation(n_units), mean))
    fold = np.empty(n_units, np.int64)
    fold[order] = np.arange(n_units) % min(_FOLDS, n_units)
    return fold[unit]


def _features(pixels: NDArray[np.floating], tissue: Mask) -> dict[str, Floats]:
    """Measure pixels (C, H, W) by a mask (H, W). What no pixel gives, such as the ground of a full patch, is NaN."""
    near = np.asarray(cv2.dilate(tissue.astype(np.uint8), _SQUARE, iterations=_RIM_PX) != 0, np.bool_)
    return {
        "area": np.array([tissue.mean()]),
        "shape": _mask_shape(tissue),
        "rim": _mean_and_sd(pixels, near & ~tissue),
        "background": _mean_and_sd(pixels, ~near),
    }


def _mask_shape(tissue: Mask) -> Floats:
    """Return outline length by the root of the area, pieces, largest piece, border cover and solidity, (5,).

    The largest piece is a share of the tissue, border cover that of the patch's border pixels. Solidity is the area by
    that of the convex hull.
    """
    area = np.count_nonzero(tissue)
    if not area:
        return np.full(5, np.nan)
    edges = np.count_nonzero(tissue[1:] != tissue[:-1]) + np.count_nonzero(tissue[:, 1:] != tissue[:, :-1])
    labelled = tissue.astype(np.uint8)
    count, _, statistics, _ = cv2.connectedComponentsWithStats(labelled, connectivity=8)
    border = np.concatenate([tissue[0], tissue[-1], tissue[1:-1, 0], tissue[1:-1, -1]])
    hull = cv2.convexHull(np.argwhere(tissue)[:, ::-1].astype(np.int32))
    filled = cv2.fillConvexPoly(np.zeros_like(labelled), hull, 1)
    largest = statistics[1:, cv2.CC_STAT_AREA].max() / area
    return np.array([edges / np.sqrt(area), count - 1, largest, border.mean(), area / max(area, filled.sum())])


def _mean_and_sd(pixels: NDArray[np.floating], where: Mask) -> Floats:
    """Return the means of all channels, then their standard deviations, (2 C,)."""
    if not where.any():
        return np.full(2 * len(pixels), np.nan)
    chosen = np.asarray(pixels)[:, where].astype(np.float64)
    return np.concatenate([chosen.mean(axis=1), chosen.std(axis=1)])


def _joined(measured: Sequence[dict[str, Floats]], label_and_base: NDArray[np.int64]) -> MeasuredPatches:
    numbers = {name: np.stack([row[name] for row in measured]) for name in measured[0]}
    return MeasuredPatches(label_and_base[:, 0], label_and_base[:, 1], numbers)


def has_leak(check: Mapping[str, Any]) -> bool:
    """Return whether a control leaks."""
    return any(row["is_leak"] for row in check["controls"].values())


def verdict_text(check: Mapping[str, Any]) -> str:
    """Return the verdict in one sentence."""
    if has_leak(check):
        return "WARNING. Composed patches can tell the class by more than their tissue; see below."
    return "No shortcut by composing is shown. A network may still see what these simple numbers do not."


def leak_findings(check: Mapping[str, Any]) -> list[str]:
    """Return a paragraph for each control that leaks: how sure that is, and what to do."""
    texts = []
    for name, row in check["controls"].items():
        if not row["is_leak"]:
            continue
        text = f"The {CONTROL_NAMES[name]} of composed patches tells the class: AUROC {_interval_text(row['composed'])}"
        text += f", 95 % interval by {check['unit']}. "
        natural = row["natural"]
        if natural is not None and natural["high"] is not None:
            text += f"In natural patches, whose areas differ as well, it is {_interval_text(natural)}"
            is_added = natural["high"] < row["composed"]["low"]
            text += ": the edit adds to it. " if is_added else ", so it need not come from the edit. "
        is_by_growth = name == "pieces" and check["growth"] != "many"
        texts.append(text + (_REMEDY_OF_PIECES if is_by_growth else _REMEDIES[name]))
    return texts


def composition_text(check: Mapping[str, Any]) -> str:
    """Return the verdict, what it rests on and what to do, as text and a table."""
    lines = [
        verdict_text(check),
        "",
        f"How well the edit tells the class, {pluralize(check['copies'], 'composed patch')} of each "
        f"(AUROC with 95 % interval by {check['unit']}, {check['units']} of them; 0.5 is chance):",
        f"  {'':<{_NAME_WIDTH}} {'composed':<20} natural",
    ]
    for name, row in check["controls"].items():
        cells = [_interval_text(row[kind]) if row[kind] else "" for kind in ("composed", "natural")]
        mark = "  LEAK" if row["is_leak"] else ""
        lines.append(f"  {CONTROL_NAMES[name]:<{_NAME_WIDTH}} {cells[0]:<20} {cells[1]:<20}{mark}".rstrip())
    return "\n".join([*lines, *(line for text in leak_findings(check) for line in ("", text))])


def _interval_text(result: Mapping[str, Any]) -> str:
    """Return an AUROC with its interval where there is one."""
    if result["auroc"] is None:
        return "cannot be told"
    ends = "" if result["low"] is None else f" [{result['low']:.2f}, {result['high']:.2f}]"
    return f"{result['auroc']:.2f}{ends}"
