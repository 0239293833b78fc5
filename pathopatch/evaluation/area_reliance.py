"""Say whether a model's answers follow the tissue area: set the area of patches, ask again, and apply fixed rules.

No label is needed: where there are labels, `within_class` alone uses them. The measures are those of a model, not of
data: a cohort in which tumour holds more tissue accuses nobody. `audit_model` asks a model about arrays; `reliance` is
pure arithmetic on its answers.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations, compress
from typing import Any, Literal, TypeAlias

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

from pathopatch.core.errors import ChannelMismatchError, InputUnsupportedError, NonFiniteError
from pathopatch.core.text import patches_and_units
from pathopatch.debias.interventions import AREAS, LEAST_AREA, N_EDITS, PLACEBOS, SEEDS, edits
from pathopatch.debias.layers import Mask, Pixels
from pathopatch.metrics.area_response import MARGINS, Floats, Rule, adj, eta
from pathopatch.metrics.bootstrap import LEAST_UNITS, bootstrap_by_patient, effective_count
from pathopatch.models.forward import Ensemble, PatchClassifier, correct_for_area

Verdict = Literal["relies", "not shown", "not known"]
Margins: TypeAlias = Callable[[Pixels, Mask], Floats]
"""Margins (n,), above 0 for tumour, of patches in [0, 1] (n, C, P, P) with their tissue (n, P, P); NaN: no answer."""

LEAST_PATIENTS, LEAST_PATCHES = 8, 100
"""Patients are only those that were asked, so fewer are enough than for a claim on an evaluation. Of 8, intervals miss
the true value in 12 % (simulated means, correlation .1), which `limits_text` says.
"""
LIMITS = (
    "The area was set, and nothing else: reliance on fat or density that goes along with it is not seen. "
    "The verdict says nothing of accuracy."
)
LEAST_SHARE, LEAST_AREAS = 0.5, 3
"""Share of the patches that must have an answer at an area, and number of such areas: a model of crops has none where
there is little tissue.
"""
_HALF_STEP = 0.1 + 1e-9  # an area that is set stands for tissue fractions that lie no farther from it
LITTLE_TISSUE = f"with less than {100 * LEAST_AREA:g} % tissue"
MOST_TURNED = 0.3
"""Share of the answers that edits at equal area may turn: a model that tells edited patches from others could behave
when it is asked, and lean on the area when it is not.
"""
MOST_TURNED_BY_AREA = 0.5
"""Share of the answers that may differ between two areas: where the area changes what a texture means, patches move
both ways, and neither eta nor adj shows it. Of sound networks on real texture at most a third turns.
"""
MOST_WITHIN = 0.22
"""Rank correlation of the margins with the patches' own area within either answer: where it is larger, and the set area
moves little, the model may follow what goes along with the area in this tissue, as fat or density.
"""
MOST_WITHIN_CLASS = 0.3
"""The same within either class, where labels are known; of sound heads on patients it is 0.25 to 0.28."""
_LEAST_EITHER = 40  # patches of an answer: of fewer, a rank correlation is noise
LEAST_ANSWERS = 0.05
"""Share of the patches that must have either answer: where all have one, only the strength of evidence moves."""


@dataclass(frozen=True, eq=False)
class Responses:
    """A model's margins for N patches and their edits; above 0 it calls a patch tumour."""

    rows: NDArray[np.int64]  # (N,): which of the patches that were given
    natural: Floats  # (N,)
    areas: Floats  # (S, N, T): with the area set to each of T, by each of S seeds
    again: Floats  # (N, T): by the second edit
    placebos: dict[str, Floats]  # (N,) each
    area: Floats  # (N,): tissue fraction as it is
    patient: NDArray[np.str_]  # (N,)
    left_out: Mapping[str, int] | None = None  # patches by the reason
    asked_again: NDArray[np.bool_] | None = None  # (N,): of which the second edit was asked; None: of all
    label: NDArray[np.int64] | None = None  # (N,): class, -1 where it is unknown; None: of all


def audit_model(
    model: PatchClassifier | Ensemble | Margins,
    patches: NDArray[np.float32],
    tissue: NDArray[np.bool_],
    patient: ArrayLike | None = None,
    *,
    ground: NDArray[np.float32] | None = None,
    seed: int = 0,
) -> dict[str, Any]:
    """Say whether a model's answers follow the tissue area, by patches without labels; see `reliance`.

    Parameters
    ----------
    model : PatchClassifier, Ensemble or callable
        As `load_model` or `load_ensemble` returns it, or any function from patches and masks to margins (n,), above 0
        for tumour.
    patches : ndarray of float32, shape (N, C, P, P)
        Scaled to [0, 1], channels in the order of the model.
    tissue : ndarray of bool, shape (N, P, P)
        Their tissue.
    patient : array_like of str, shape (N,), optional
        Whose they are. Without it each patch counts as a patient, and intervals are too narrow.
    ground, seed
        As of `ask`.

    Returns
    -------
    dict
        Measures, ``verdict``, ``direction`` and ``reasons``, and what was ``left_out`` by reason.
        `reliance_report` puts them as text.

    Raises
    ------
    NonFiniteError
        Pixels or answers that are NaN or infinite.

    Examples
    --------
    >>> tissue = np.zeros((4, 32, 32), bool)
    >>> for number, side in enumerate((12, 18, 24, 28)):
    ...     tissue[number, :side, :side] = True
    >>> patches = np.where(tissue[:, None], 0.5, 0.9).repeat(3, axis=1)
    >>> found = pathopatch.audit_model(lambda x, tissue: tissue.mean(axis=(1, 2)) - 0.5, patches, tissue)
    >>> found["verdict"], found["reasons"][0]
    ('not known', '4 of at least 8 patients, counted by their shares of the patches')
    """
    if isinstance(model, PatchClassifier):
        model = Ensemble([model])
    margins = margins_of(model) if isinstance(model, Ensemble) else model
    patients = np.arange(len(patches)) if patient is None else patient
    return reliance(ask(margins, patches, tissue, patients, seed=seed, ground=ground), seed=seed)


def margins_of(ensemble: Ensemble) -> Margins:
    """Return a function that gives the calibrated logit less that of the decision; NaN where a member has no answer.

    NonFiniteError for answers that are NaN or infinite; ChannelMismatchError for patches of other channels.
    """
    spec = ensemble.spec

    def margins(x: Pixels, tissue: Mask) -> Floats:
        if not len(x):
            return np.empty(0)
        if x.shape[1] != len(spec.channels):
            raise ChannelMismatchError(
                f"patches of {x.shape[1]} channels, the model takes {', '.join(spec.channels) or 'features'}",
                remedy="give the channels of the model, in its order",
            )
        logit = ensemble.forward([member.standardised(x, tissue) for member in ensemble.members]).logit
        if not np.isfinite(logit).all():
            raise NonFiniteError(
                f"{int((~np.isfinite(logit)).sum())} of {len(logit)} answers are NaN or infinite",
                remedy="look for NaN in the patches and in the model's weights",
            )
        has_answer = np.all([member.takes(tissue) for member in ensemble.members], axis=0)
        return np.where(has_answer, ensemble.margins(logit), np.nan)

    return margins


def ask(
    margins: Margins,
    patches: Pixels,
    tissue: Mask,
    patient: ArrayLike,
    *,
    seed: int = 0,
    ground: Pixels | None = None,
    known: set[bytes] | None = None,
) -> Responses:
    """Return a model's answers to patches and their edits; a few patches are edited at a time.

    Parameters
    ----------
    margins : callable
        The model, see `Margins`.
    patches : ndarray of float32, shape (N, C, P, P)
        Scaled to [0, 1] by their slide's windows.
    tissue : ndarray of bool, shape (N, P, P)
        Their tissue. Patches with less than a tenth are left out, and so are copies of other patches.
    patient : array_like of str, shape (N,)
        Whose they are.
    ground : ndarray of float32, shape (C, n), optional
        Pixels of the slides away from tissue, for patches that are full of it.
    known : set of bytes, optional
        Digests of patches of earlier calls, whose copies are left out; those of these patches are added.

    Raises
    ------
    NonFiniteError
        Pixels or margins that are NaN or infinite.
    """
    patients = np.asarray(patient, dtype=np.str_)
    if tissue.dtype != np.bool_ or tissue.shape != (len(patches), *patches.shape[2:]) or len(patients) != len(patches):
        raise InputUnsupportedError(
            f"patches {patches.shape}, tissue {tissue.shape} of {tissue.dtype}, {len(patients)} patients",
            remedy="give patches (N, C, P, P), boolean masks (N, P, P) and a patient for each",
        )
    answers, kept, left_out, known = [], [], Counter[str](), set() if known is None else known
    for number, (pixels, mask) in enumerate(zip(patches, tissue, strict=True)):
        digest = hashlib.blake2b(pixels.tobytes(), digest_size=16).digest()
        if mask.mean() < LEAST_AREA:
            left_out[LITTLE_TISSUE] += 1
        elif mask.all() and ground is None:
            left_out["without ground to show"] += 1
        elif digest in known:  # a copy says nothing new, and would make intervals too narrow
            left_out["equal to others"] += 1
        else:
            known.add(digest)
            kept.append(number)
    for number in kept:
        pixels, mask = patches[number], tissue[number]
        made = list(edits(pixels, mask, seed=(seed, number), ground=ground))
        x, masks = (np.stack(part) for part in zip(*made, strict=True))
        answers.append(margins(x.astype(np.float32), masks))
    z = np.array(answers, np.float64).reshape(len(kept), N_EDITS)
    area = tissue[kept].mean(axis=(1, 2)) if kept else np.empty(0)
    return responses_of(z, np.array(kept, np.int64), area, patients[kept], left_out=left_out)


def responses_of(
    z: Floats,
    rows: NDArray[np.int64],
    area: Floats,
    patient: NDArray[np.str_],
    *,
    left_out: Mapping[str, int] | None = None,
) -> Responses:
    """Return the margins (N, `N_EDITS`) of edited patches by edit; NonFiniteError if one is infinite."""
    if np.isinf(z).any():
        raise NonFiniteError(
            f"{int(np.isinf(z).any(axis=1).sum())} of {len(z)} patches have answers that are infinite",
            remedy="look for NaN in the patches and in the model's weights",
        )
    n_areas = len(AREAS)
    set_, again, placebos = np.split(z[:, 1:], [SEEDS * n_areas, (SEEDS + 1) * n_areas], axis=1)
    return Responses(
        rows=rows,
        natural=z[:, 0],
        areas=set_.reshape(len(z), SEEDS, n_areas).transpose(1, 0, 2),
        again=again,
        placebos=dict(zip(PLACEBOS, placebos.T, strict=True)),
        area=area,
        patient=patient,
        left_out=left_out,
    )


def _largest_move(z: Floats, areas: Sequence[float], rule: Rule) -> dict[str, Any]:
    """Return the two areas between which an undecided patch moves most, that move, and the most answers that turn."""
    pairs = list(combinations(range(len(areas)), 2))
    first, last = max(pairs, key=lambda pair: abs(rule.adj(z, *pair)))
    turned = max(float(((z[:, a] > 0) != (z[:, b] > 0)).mean()) for a, b in pairs)
    return {"areas": [areas[first], areas[last]], "value": rule.adj(z, first, last), "turned": turned}


def _ranges(natural: Floats, area: Floats) -> dict[str, list[float]]:
    """Return the 5th and 95th percentile of the tissue fraction (N,) by answer, where there are such patches."""
    answers = (("tumour", natural > 0), ("other", natural <= 0))  # NaN is neither
    return {name: np.quantile(area[rows], (0.05, 0.95)).tolist() for name, rows in answers if rows.any()}


def within(z: Floats, area: Floats, first: NDArray[np.bool_], second: NDArray[np.bool_]) -> float | None:
    """Return the rank correlation of margins (N,) with the area (N,) within two sets of patches, as the mean of both.

    The sets (N,) are those of either answer, or class. More tissue gives more evidence for either, which cancels in the
    mean, and so does an area that follows the class. None where a set has too few patches.
    """
    found = []
    for is_answer in (first, second):
        if np.count_nonzero(is_answer) >= _LEAST_EITHER and np.ptp(area[is_answer]) > 0 and np.ptp(z[is_answer]) > 0:
            both = pd.DataFrame({"z": z[is_answer], "area": area[is_answer]})
            found.append(float(both.corr(method="spearman").to_numpy()[0, 1]))
    return float(np.mean(found)) if len(found) == 2 else None


def _within_class(z: Floats, area: Floats, label: NDArray[np.int64]) -> float | None:
    """Return `within` either class; None where the area follows the class: what goes with it is then hidden."""
    of_class = label == 0, label > 0
    if min(map(np.count_nonzero, of_class)) < _LEAST_EITHER:
        return None
    for own, other in (of_class, of_class[::-1]):
        low, high = np.quantile(area[own], (0.05, 0.95))
        if not low <= np.median(area[other]) <= high:
            return None
    return within(z, area, *of_class)


def reliance(
    responses: Responses,
    *,
    seed: int = 0,
    resamples: int = 1000,
    unit: str = "patient",
    rule: Rule = MARGINS,
    is_trained_on_edits: bool = False,
) -> dict[str, Any]:
    """Return measures, verdict and reasons as plain values; intervals are by patient, or by the `unit` in its place.

    ``verdict`` is "relies", "not shown" or "not known"; ``direction`` 1 where more tissue means more tumour, -1 where
    less does, 0 where it is not "relies". ``reasons`` say why it is not known. A model that was trained on edits is
    acquitted by labelled patches as they are alone.
    """
    has_answer = np.asarray(np.isfinite(responses.areas).all(axis=0))  # (N, T)
    answered = np.count_nonzero(has_answer, axis=0) >= LEAST_SHARE * max(1, len(has_answer))
    # Of either answer: where the area leads the model, no patch called tumour has the areas of the others.
    ranges = _ranges(responses.natural, responses.area)
    held = [any(low - _HALF_STEP <= area <= high + _HALF_STEP for low, high in ranges.values()) for area in AREAS]
    usable = answered & held
    asked_again: Any = True if responses.asked_again is None else responses.asked_again[:, None]
    again = np.where(asked_again, responses.again[:, usable], 0)
    parts = [*responses.areas[:, :, usable], again, responses.natural[:, None]]
    rows: NDArray[np.bool_] = np.isfinite(np.concatenate(parts, axis=1)).all(axis=1)
    areas, who = list(compress(AREAS, usable)), responses.patient[rows]
    about: dict[str, Any] = {"patches": len(who), "unit": unit, "patients": len(np.unique(who)), "areas": areas}
    about |= {"effective_patients": effective_count(who), "ranges": ranges}
    about |= {"left_out": dict(responses.left_out or {}), "without_answer": int((~rows).sum())}
    about |= {"is_trained_on_edits": is_trained_on_edits}
    if len(areas) < LEAST_AREAS or not len(who):
        reason = f"the model has an answer at {answered.sum()} of {len(AREAS)} areas"
        if not len(responses.natural):
            reason = "no patch holds both tissue and ground"
        elif answered.sum() >= LEAST_AREAS:
            reason = f"areas of {AREAS[0]:g} to {AREAS[-1]:g} are set, and {_ranges_text(ranges)}"
        return about | {"verdict": "not known", "direction": 0, "reasons": [reason]}
    result = about | _measures(responses, rows, areas, rule, seed=seed, resamples=resamples)
    return result | judge(result, rule)


def _measures(
    responses: Responses, rows: NDArray[np.bool_], areas: Sequence[float], rule: Rule, *, seed: int, resamples: int
) -> dict[str, Any]:
    """Return the measures of some patches, rows (N,), at some areas; each patch has an answer at each of them."""
    natural, area, is_used = responses.natural[rows], responses.area[rows], np.isin(AREAS, areas)
    label = np.full(len(natural), -1) if responses.label is None else responses.label[rows]
    asked_again = rows if responses.asked_again is None else rows & responses.asked_again
    again = responses.again[:, is_used][asked_again]
    flat = np.concatenate(list(responses.areas[:, rows][:, :, is_used]))  # (S * N, T)
    patient = np.tile(responses.patient[rows], len(responses.areas))
    first, last = flat[:, 0] > 0, flat[:, -1] > 0
    classes = np.tile(np.clip(label, -1, 1), len(responses.areas))
    of_class = [classes == 0, classes == 1] if {0, 1} <= set(classes.tolist()) else []

    def measured(statistic: Callable[[Floats], float], z: Floats, patients: NDArray[np.str_]) -> dict[str, float]:
        low, high = bootstrap_by_patient(lambda rows: statistic(z[rows]), patients, resamples=resamples, seed=seed)
        return {"value": statistic(z), "low": low, "high": high}

    def mean(z: NDArray[Any]) -> float:
        return float(z.mean())

    result: dict[str, Any] = {
        "positive": mean(natural > 0),
        "eta": measured(eta, flat, patient),
        "adj": measured(rule.adj, flat, patient),
        "largest": _largest_move(flat, areas, rule),
        "again": {"eta": eta(again), "adj": rule.adj(again)} if len(again) else {"eta": 0.0, "adj": 0.0},
        "within": within(natural, area, natural > 0, natural <= 0),
        "within_class": _within_class(natural, area, label),
        "curve": [
            {"area": set_area, "margin": measured(mean, z, patient), "positive": mean(z > 0)}
            | {"by_class": [measured(mean, z[own], patient[own]) for own in of_class]}
            for set_area, z in zip(areas, flat.T, strict=True)
        ],
        "turned": {
            "to_tumor": measured(mean, (~first & last).astype(np.float64), patient),
            "to_other": measured(mean, (first & ~last).astype(np.float64), patient),
        },
        "placebos": {
            name: {
                "turned": mean((z[rows] > 0)[np.isfinite(z[rows])] != (natural > 0)[np.isfinite(z[rows])]),
                "moved": float(np.nanmean(z[rows] - natural)) / float(natural.std() or 1),
            }
            for name, z in responses.placebos.items()
            if np.isfinite(z[rows]).any()
        },
    }
    if rule.adj is adj:
        result["correction"] = _correction(natural, flat, area, result["curve"])
    return result


def _correction(
    natural: Floats, flat: Floats, area: Floats, curve: Sequence[Mapping[str, Any]]
) -> dict[str, dict[str, float]]:
    """Return by kind of correction its ``shift`` of margins, and the share of answers ``turned`` by it.

    `natural` and `area` are (N,), `flat` (S * N, T) margins of these patches at each area. After the shift as many of
    them are called tumour as without a correction.
    """
    of: dict[str, Any] = {"areas": [p["area"] for p in curve], "response": [p["margin"]["value"] for p in curve]}
    found = {}
    for name, set_margin in (("subtract", None), ("average", flat[: len(natural)])):
        corrected = correct_for_area(natural, area, set_margin, **of)
        ordered, positives = np.sort(corrected)[::-1], int((natural > 0).sum())
        ends = np.concatenate([[ordered[0] + 1], ordered, [ordered[-1] - 1]])[positives : positives + 2]
        shift = -float(ends.mean())
        found[name] = {"shift": shift, "turned": float(((corrected + shift > 0) != (natural > 0)).mean())}
    return found


def judge(result: dict[str, Any], rule: Rule = MARGINS) -> dict[str, Any]:
    """Return ``verdict``, ``direction`` and ``reasons`` by the measures of `reliance`."""
    share, move, again = result["eta"], result["adj"], result["again"]
    direction = 0 if np.isnan(move["value"]) else int(np.sign(move["value"]))
    # The ends of |adj|: from 0 where the interval holds both signs.
    ends = sorted((abs(move["low"]), abs(move["high"])))
    least = 0.0 if move["low"] <= 0 <= move["high"] else ends[0]
    reasons = []
    if (effective := round(result["effective_patients"])) < LEAST_PATIENTS:
        units = f"{result.get('unit', 'patient')}s"
        reasons.append(f"{effective} of at least {LEAST_PATIENTS} {units}, counted by their shares of the patches")
    if result["patches"] < LEAST_PATCHES:
        reasons.append(f"{result['patches']} of at least {LEAST_PATCHES} patches with tissue and ground")
    if not LEAST_ANSWERS <= result["positive"] <= 1 - LEAST_ANSWERS:
        reasons.append(
            f"{100 * result['positive']:.0f} % of the patches are called tumour, so hardly any has the other answer"
        )
    least_eta, most_eta, least_adj = rule.least_eta, rule.most_eta, rule.least_adj
    relies = share["low"] >= least_eta and least >= least_adj
    is_acquitted = share["high"] < least_eta or (ends[1] < least_adj and share["high"] < most_eta)
    is_same_way = bool(np.sign(again["adj"]) == direction)  # NaN, of equal answers, is no way
    second = again["eta"] >= least_eta and abs(again["adj"]) >= least_adj and is_same_way
    if np.isnan(move["value"]):
        reasons.append("the model gives one answer to everything")
    elif not relies and share["low"] >= least_eta and ends[1] < least_adj and not is_acquitted:
        reasons.append("the answers depend on the area, but not one way")
    elif not relies and not is_acquitted and np.isfinite(share["low"]):
        reasons.append("the intervals reach over the limits of the rules")
    elif relies != second:
        reasons.append("the two kinds of edit disagree")
    at_equal = [own["turned"] for name, own in result["placebos"].items() if name in ("shuffled", "ground")]
    at_equal_area = max(at_equal, default=0.0)
    if not relies and at_equal_area > MOST_TURNED:
        reasons.append(
            f"edits at equal area turn {100 * at_equal_area:.0f} of 100 answers, so the model may recognise edits"
        )
    by_area = result.get("largest", {}).get("turned", 0.0)
    if not relies and by_area > MOST_TURNED_BY_AREA:
        reasons.append(f"between two areas {100 * by_area:.0f} of 100 answers turn")
    name, within, most = "answer", result["within"], MOST_WITHIN
    if result.get("within_class") is not None:
        name, within, most = "class", result["within_class"], MOST_WITHIN_CLASS
    elif not relies and result.get("is_trained_on_edits", False):
        # Of heads of known truth no other edit told the biased ones, and nor did answers without labels.
        reasons.append(
            "it was trained on edits, and only labelled patches of either area in both classes can acquit it"
        )
    if not relies and within is not None and abs(within) > most:
        text = "its answers go with the area of patches as they are"
        beside = ", though not with the area that was set: with what comes with it, as fat or density"
        measure = f" (rank correlation within either {name} {within:.2f})"
        reasons.append(text + (beside if is_acquitted else "") + measure)
    if reasons:
        return {"verdict": "not known", "direction": 0, "reasons": reasons}
    return {"verdict": "relies" if relies else "not shown", "direction": direction if relies else 0, "reasons": []}


def verdict_text(result: dict[str, Any]) -> str:
    """Return the verdict as text."""
    if result["verdict"] == "relies":
        return "RELIES ON AREA: " + ("more" if result["direction"] > 0 else "less") + " tissue, more tumour"
    if result["verdict"] == "not shown":
        return "NO RELIANCE SHOWN"
    return "NOT KNOWN: " + "; ".join(result["reasons"])


def reliance_report(result: dict[str, Any]) -> str:
    """Return verdict, measures and limits as text for a terminal."""
    lines = [f"not asked about {name}: {reason}" for name, reason in result.get("failed", {}).items()]
    lines += [verdict_text(result), *asked_text(result)]
    if "eta" in result:
        turned, largest, areas = result["turned"], result["largest"], result["areas"]
        to_tumor, to_other = (100 * turned[name]["value"] for name in ("to_tumor", "to_other"))
        placebo = max(100 * entry["turned"] for entry in result["placebos"].values())
        moved = np.nan if largest["value"] is None else largest["value"]
        way = f"from area {areas[0]:g} to {areas[-1]:g}"
        if result["verdict"] == "not known":
            lines.append("what was measured, and is no finding:")
        lines += [
            f"share of the answers' variance that the set area explains (eta): {_ends(result['eta'], '.3f')}",
            f"move of an undecided patch {way} (adj): {_ends(result['adj'], '+.2f')} sd",
            f"its largest move between any two areas: {moved:+.2f} sd, from {' to '.join(map(str, largest['areas']))}",
            f"of 100 patches {to_tumor:.0f} become tumour {way}, and {to_other:.0f} stop being it; "
            f"by edits at equal area {placebo:.0f} turn at most",
        ]
    if result["verdict"] == "relies" and "correction" in result:
        prices = [f"{name} {100 * own['turned']:.0f}" for name, own in result["correction"].items()]
        lines.append(
            f"predict --area-correct would change these answers, of 100: {', '.join(prices)}; "
            "where the area does go along with tumour, accuracy falls"
        )
    for name, what in (("glass", "of blank glass"), ("little", LITTLE_TISSUE)):
        if (part := result.get(name, {})).get("patches"):
            lines.append(f"{100 * part['positive']:.0f} % of {part['patches']} patches {what} are called tumour")
    return "\n".join([*lines, limits_text(result)])


def asked_text(result: Mapping[str, Any]) -> list[str]:
    """Return sentences on what was asked about, of how much, what was left out, and which areas the patches have."""
    unit = result.get("unit", "patient")
    about = f"asked about {patches_and_units(result['patches'], result['patients'], unit)}"
    if given := result.get("given"):
        names = {"patches": "patches", "patients": f"{unit}s", "slides": "slides"}
        parts = (f"{result[name]} of {given[name]} {noun}" for name, noun in names.items())
        about = f"asked about {', '.join(parts)} with tissue"
    if round(effective := result["effective_patients"]) < result["patients"]:
        about += f"; by their shares of the patches they count as {effective:.1f} {unit}s"
    lines = [about]
    left_out = [f"{count} {reason}" for reason, count in result["left_out"].items() if count]
    if result.get("without_answer"):
        left_out.append(f"{result['without_answer']} without an answer at some area")
    if left_out:
        lines.append("left out: " + ", ".join(left_out))
    if (own := result.get("answers")) is not None:
        text = f"{own['answered']} of {own['images']} images have an answer ({own['kind']})"
        if own["twice"]:
            text += f"; of {own['twice']} that stood there twice {own['alike']} got the same both times"
        if own["overlap"] is not None:
            text += f"; the patches answered have {100 * own['overlap']:.0f} % in common with them"
        lines.append(text)
        if agreed := own.get("agreement"):
            lines.append(
                f"{agreed['pairs']} images that stood there twice, flipped or on other ground: {agreed['measure']} of "
                f"the answers {_ends(agreed, '.2f')}"
            )
        if own["kind"] == "yes-no":
            lines.append("yes and no see less than scores: an answer that stays hides how far its evidence moved")
    if areas := result["areas"]:
        used = f"{len(areas)} of {len(AREAS)} areas are used, {', '.join(map(str, areas))}"
        lines.append(f"{used}: {_ranges_text(result['ranges'])}")
    return lines


def _ranges_text(ranges: Mapping[str, Sequence[float]]) -> str:
    named = {"tumour": "patches called tumour", "other": "patches called other"}
    return "; ".join(f"{named[name]} hold {low:.2f} to {high:.2f} tissue" for name, (low, high) in ranges.items())


def limits_text(result: Mapping[str, Any]) -> str:
    """Return what a result cannot say; of few patients that is more."""
    if not LEAST_PATIENTS <= round(result["effective_patients"]) < LEAST_UNITS:
        return LIMITS
    units = f"{LEAST_UNITS} {result.get('unit', 'patient')}s"
    return (
        f"{LIMITS} The intervals of fewer than {units} miss the true value in up to 1 of 8 cases, "
        "so reliance a little beyond them is not excluded."
    )


def _ends(measure: Mapping[str, float | None], form: str) -> str:
    value, low, high = (np.nan if (end := measure[name]) is None else end for name in ("value", "low", "high"))
    ends = f"95 % interval {low:{form}} to {high:{form}}" if np.isfinite(low) else "no interval"
    return f"{value:{form}} ({ends})"
