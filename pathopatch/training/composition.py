"""Check composed patches before a model learns from them: what of the edit tells the class, and composed from natural.

An intervention composes patches so that their tissue area says nothing about the class. If its traces say something
instead, they are the next shortcut. `leak_controls` looks for the class in the edit, `composition_check` for patches
that look composed in one class alone. All results are plain values for JSON.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pathopatch.core.config import TrainConfig
from pathopatch.metrics.bootstrap import IntArray, auroc_of, bootstrap_by_patient
from pathopatch.training.dataset import PatchSet
from pathopatch.training.intervene import Intervention, first_intervention
from pathopatch.training.mask_features import background, mask_shape, rim, texture
from pathopatch.training.phase_data import phases_of

Floats = NDArray[np.float64]

CONTROLS = ("area", "shape", "rim", "background", "pieces")
WARNS, PASSES, UNKNOWN = "warns", "passes", "cannot be told"
VERSION = 2
"""Of what a check holds; one of another version is made anew."""

LEAST_EFFECT = 0.05
"""Distance of a leak's AUROC from 0.5, as in the audit of the tissue fraction, and of two classes' AUROC."""
LEAST_DETECTION = 0.6
"""AUROC from which composed patches count as told from natural ones."""
LEAST_PATCHES = 20
"""Natural patches of a class and an amount of tissue, below which nothing is said about them."""
_LEAST_UNITS, _LEAST_UNITS_OF_A_CLASS = 5, 3
_COPIES_OF_A_RUN = 200
_MOST_COMPARED = 200  # patches of a class and kind on one side of the threshold
_AREA_STEPS = (*np.linspace(0.1, 0.9, 9).tolist(), 0.99)  # full patches are alone: they show no background
_STEPS = len(_AREA_STEPS) + 1
# By which composed patches are told from natural ones. Outlines alone often tell them perfectly in every class, beside
# which a difference in the tissue could not be seen: each has a forest of its own.
DETECTORS = {"outline": ("shape", "rim", "background"), "texture": ("texture",)}
_FOLDS, _TREES, _LEAF = 5, 60, 5
_CHUNK = 256
_RESAMPLES = 500


@dataclass(frozen=True, eq=False)
class MeasuredPatches:
    """Features of some patches; `numbers` holds (n, m) for each group of them."""

    label: NDArray[np.int64]  # (n,)
    base: NDArray[np.int64]  # (n,): the patch, or that which a copy was composed of
    area: Floats  # (n,), share of the patch
    numbers: dict[str, Floats]

    def rows(self, index: NDArray[np.int64]) -> MeasuredPatches:
        """Return some of the patches."""
        numbers = {name: values[index] for name, values in self.numbers.items()}
        return MeasuredPatches(self.label[index], self.base[index], self.area[index], numbers)


def check_composition(
    intervention: Intervention, *, threshold: float, copies: int = 600, seed: int = 0
) -> dict[str, Any]:
    """Return leak controls and composition check of an intervention, and the verdict on both.

    Parameters
    ----------
    intervention : Intervention
    threshold : float
        Of the tissue area: composed and natural patches are compared below it, and from it on.
    copies : int
        Composed copies of each class, and natural patches at most.
    seed : int
        Of forests, resamples and what is compared.

    Returns
    -------
    dict
        ``version``, ``growth``, ``threshold``, ``copies``, ``on_target`` (share of the copies that reach their area, by
        class), ``unit`` and ``units``, ``controls``, ``check`` and ``verdict``: "warns" where a control leaks or the
        classes differ in the check, else "cannot be told" where natural patches of similar area are missing, else
        "passes".

    Raises
    ------
    InputUnsupportedError, NoTissueError
        As `Intervention.compose`.
    """
    composed, on_target = measure_copies(intervention, copies)
    unit, name = resampling_unit(intervention.data)
    rng = np.random.default_rng(seed)
    some = np.concatenate([rng.permutation(usable)[:copies] for usable in intervention.usable])
    natural = measure_natural(intervention, some)
    controls = leak_controls(composed, unit, natural=natural, seed=seed)
    check = composition_check(intervention, composed, unit, threshold=threshold, seed=seed)
    is_warning = any(row["is_leak"] for row in controls.values()) or any(side["is_warning"] for side in check)
    is_complete = all(
        row["n"] and part["difference"]
        for side in check
        for row in side["classes"]
        for part in side["detected_by"].values()
    )
    return {
        "version": VERSION,
        "growth": intervention.growth,
        "threshold": threshold,
        "copies": copies,
        "on_target": on_target,
        "unit": name,
        "units": len(np.unique(unit)),
        "controls": controls,
        "check": check,
        "verdict": WARNS if is_warning else PASSES if is_complete else UNKNOWN,
    }


def check_run(train: PatchSet, config: TrainConfig) -> dict[str, Any] | None:
    """Return the leak controls of the patches that a run composes; None if it composes none.

    It takes a few seconds: only the first 200 copies of each class are measured, and no natural patch.
    """
    if (intervention := first_intervention(phases_of(config), train, config)) is None:
        return None
    composed, on_target = measure_copies(intervention, _COPIES_OF_A_RUN)
    unit, name = resampling_unit(train)
    controls = leak_controls(composed, unit, seed=config.seed)
    return {
        "growth": intervention.growth,
        "copies": _COPIES_OF_A_RUN,
        "on_target": on_target,
        "unit": name,
        "units": len(np.unique(unit)),
        "controls": controls,
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
    for name in CONTROLS:
        result = _class_auroc(composed, name, unit, seed)
        is_known = natural is not None and name in natural.numbers
        controls[name] = {
            "composed": result,
            "natural": _class_auroc(natural, name, unit, seed) if natural is not None and is_known else None,
            "is_leak": _is_leak(result, is_directed=not _is_one_number(composed, name)),
        }
    return controls


def composition_check(
    intervention: Intervention,
    composed: MeasuredPatches,
    unit: NDArray[Any],
    *,
    threshold: float,
    seed: int = 0,
) -> list[dict[str, Any]]:
    """Return how well composed patches are told from natural ones of the same class and area, with little and much.

    For each class and side of the threshold one random forest sees the outline (shape, rim and background), another the
    texture of the tissue. Patches are matched in steps of a tenth of the area, in all classes alike, and a unit is
    never on both sides of a fold.

    Of each side: ``is_much``; ``classes``, of each ``natural`` (patches that there are) and ``n`` (compared, of each
    kind); ``is_warning``; ``detected_by``: by "outline" and "texture" what `_detection` returns.
    """
    # That composed patches can be told is no fault. If they can in one class only, the look of composed patches, or of
    # natural ones, means a class. Two classes that are told equally well pass, although each may be told by
    # something else, and so does what only a network sees. Where both are near 1 a difference cannot show. A warning is
    # a reason to look, no proof: of 29 made cohorts of 12 patients without any trace, controls and check together
    # warned of 5. The intervals do not hold how a forest varies with the patches that it learns from.
    sides = []
    for is_much in (False, True):
        rng = np.random.default_rng([seed, int(is_much)])
        is_here = (composed.area >= threshold) == is_much
        copies = [np.flatnonzero(is_here & (composed.label == y)) for y in range(intervention.n_classes)]
        natural = [usable[(intervention.area[usable] >= threshold) == is_much] for usable in intervention.usable]
        areas = {
            y: (composed.area[copies[y]], intervention.area[members])
            for y, members in enumerate(natural)
            if len(members) >= LEAST_PATCHES
        }
        matched, is_shared = _matched(areas, rng)
        pairs = {
            y: (measure_natural(intervention, natural[y][of_natural]), composed.rows(copies[y][of_copies]))
            for y, (of_copies, of_natural) in matched.items()
        }
        detected_by = {}
        for name, features in DETECTORS.items():
            scored = {y: _natural_or_composed(*pair, features, unit, seed) for y, pair in pairs.items()}
            detected_by[name] = _detection(scored, intervention.n_classes, is_comparable=is_shared, seed=seed)
        sides.append(
            {
                "is_much": is_much,
                "classes": [
                    {"natural": len(members), "n": len(pairs[y][0].label) if y in pairs else 0}
                    for y, members in enumerate(natural)
                ],
                "detected_by": detected_by,
                "is_warning": any(part["is_warning"] for part in detected_by.values()),
            }
        )
    return sides


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


@dataclass(frozen=True, eq=False)
class _Scored:
    """Natural and composed patches of a class, and how composed each looks to a forest that did not learn from it."""

    score: Floats
    is_composed: NDArray[np.int64]
    unit: NDArray[Any]


def _natural_or_composed(
    natural: MeasuredPatches, composed: MeasuredPatches, features: Sequence[str], unit: NDArray[Any], seed: int
) -> _Scored:
    values = [np.concatenate([part.numbers[name] for name in features], axis=1) for part in (natural, composed)]
    is_composed = np.repeat([0, 1], [len(natural.label), len(composed.label)])
    units = unit[np.concatenate([natural.base, composed.base])]
    return _Scored(_held_out(np.concatenate(values), is_composed, units, seed)[:, 1], is_composed, units)


def _detection(scored: dict[int, _Scored], n_classes: int, *, is_comparable: bool, seed: int) -> dict[str, Any]:
    """Return how well composed patches are told from natural ones, and the difference of the classes if comparable.

    ``classes``, of each ``auroc``, ``low``, ``high``; ``difference``, highest minus lowest of a class, with the two
    ``classes``, or None; ``is_warning``: the interval of the difference lies wholly above 0.05, the larger AUROC above
    0.6.
    """
    classes: list[dict[str, Any]] = [{"auroc": None, "low": None, "high": None} for _ in range(n_classes)]
    for y, part in scored.items():
        classes[y] = _with_interval([auroc_of(part.score, part.is_composed)], part.unit, seed)
    ranked = sorted(scored, key=lambda y: classes[y]["auroc"])
    if len(ranked) < 2 or not is_comparable:
        return {"classes": classes, "difference": None, "is_warning": False}
    low, high = scored[ranked[0]], scored[ranked[-1]]
    units = np.concatenate([low.unit, high.unit])  # of both together: a unit has patches of both classes
    statistics = [auroc_of(part.score, part.is_composed) for part in (low, high)]

    def difference(index: IntArray) -> float:
        is_high = index >= len(low.unit)
        return statistics[1](index[is_high] - len(low.unit)) - statistics[0](index[~is_high])

    gap: dict[str, Any] = _with_interval([difference], units, seed) | {"classes": [ranked[0], ranked[-1]]}
    is_sure = gap["low"] is not None and gap["low"] > LEAST_EFFECT
    is_warning = is_sure and classes[ranked[-1]]["auroc"] > LEAST_DETECTION
    return {"classes": classes, "difference": gap, "is_warning": is_warning}


def _matched(
    areas: dict[int, tuple[Floats, Floats]], rng: np.random.Generator
) -> tuple[dict[int, tuple[NDArray[np.int64], NDArray[np.int64]]], bool]:
    """Return rows of copies and of natural patches of each class, equally many in every step of the area.

    All classes have the same areas where that leaves 20 patches, which is the second value; else each is matched for
    itself. Those of fewer than 20 are left out.
    """
    step = {y: [np.digitize(values, _AREA_STEPS) for values in pair] for y, pair in areas.items()}
    counts = {y: np.stack([np.bincount(own, minlength=_STEPS) for own in pair]).min(axis=0) for y, pair in step.items()}
    shared = np.min(list(counts.values()), axis=0) if counts else np.zeros(_STEPS, np.int64)
    is_shared = bool(shared.sum() >= LEAST_PATCHES)
    chosen = {}
    for y, pair in step.items():
        n = shared if is_shared else counts[y]
        if n.sum() < LEAST_PATCHES:
            continue
        n = n if n.sum() <= _MOST_COMPARED else n * _MOST_COMPARED // n.sum()
        copies, natural = (
            np.concatenate([rng.permutation(np.flatnonzero(own == number))[: n[number]] for number in range(_STEPS)])
            for own in pair
        )
        chosen[y] = copies, natural
    return chosen, is_shared


def _class_auroc(patches: MeasuredPatches, name: str, unit: NDArray[Any], seed: int) -> dict[str, float | None]:
    """Return the AUROC of the class by one control, with its interval; of more than two classes the mean over them."""
    units, classes = unit[patches.base], np.unique(patches.label)
    if _is_one_number(patches, name):
        return _with_interval([auroc_of(patches.area, patches.label == classes[-1])], units, seed)
    score = _held_out(patches.numbers[name], patches.label, units, seed)
    shown = range(1, len(classes)) if len(classes) == 2 else range(len(classes))
    return _with_interval([auroc_of(score[:, k], patches.label == classes[k]) for k in shown], units, seed)


def _is_one_number(patches: MeasuredPatches, name: str) -> bool:
    """Return whether a control is a number that tells two classes without a forest."""
    return name == "area" and len(np.unique(patches.label)) == 2


def _is_leak(result: dict[str, float | None], *, is_directed: bool) -> bool:
    low, high = result["low"], result["high"]
    if low is None or high is None:
        return False
    return low > 0.5 + LEAST_EFFECT or (high < 0.5 - LEAST_EFFECT and not is_directed)


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


def _with_interval(
    statistics: Sequence[Callable[[IntArray], float]], unit: NDArray[Any], seed: int
) -> dict[str, float | None]:
    """Return the mean of some statistics of all patches, and its 95 % interval by unit."""

    def mean(index: IntArray) -> float:
        return float(np.mean([statistic(index) for statistic in statistics]))

    low, high = bootstrap_by_patient(mean, unit, resamples=_RESAMPLES, seed=seed)
    values = {"auroc": mean(np.arange(len(unit))), "low": low, "high": high}
    return {name: None if np.isnan(value) else value for name, value in values.items()}


def _features(pixels: NDArray[np.floating], tissue: NDArray[np.bool_]) -> dict[str, Floats]:
    return {
        "area": np.array([tissue.mean()]),
        "shape": mask_shape(tissue),
        "rim": rim(pixels, tissue),
        "background": background(pixels, tissue),
        "texture": texture(pixels, tissue),
    }


def _joined(measured: Sequence[dict[str, Floats]], label_and_base: NDArray[np.int64]) -> MeasuredPatches:
    numbers = {name: np.stack([row[name] for row in measured]) for name in measured[0]}
    return MeasuredPatches(label_and_base[:, 0], label_and_base[:, 1], numbers["area"][:, 0], numbers)
