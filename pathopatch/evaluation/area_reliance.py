"""Say whether a model's answers follow the tissue area: set the area of patches, ask again, and apply fixed rules.

No label is used. The measures are those of a model, not of data: a cohort in which tumour holds more tissue accuses
nobody. `audit_model` asks a model about arrays; `reliance` is pure arithmetic on its answers.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

import numpy as np
from numpy.typing import ArrayLike, NDArray

from pathopatch.core.errors import InputUnsupportedError, NonFiniteError
from pathopatch.core.text import pluralize
from pathopatch.debias.interventions import AREAS, LEAST_AREA, N_EDITS, PLACEBOS, SEEDS, edits
from pathopatch.metrics.bootstrap import bootstrap_by_patient
from pathopatch.models.forward import Ensemble, PatchClassifier

Floats = NDArray[np.float64]
Verdict = Literal["relies", "not shown", "not known"]
Margins: TypeAlias = Callable[[NDArray[np.float32], NDArray[np.bool_]], Floats]
"""Margins (n,), above 0 for tumour, of patches in [0, 1] (n, C, P, P) with their tissue (n, P, P)."""

LEAST_ETA, LEAST_ADJ = 0.06, 0.65
"""Limits of the rules: share of the variance, and standard deviations of the patches' mean margins."""
LEAST_PATIENTS, LEAST_PATCHES = 8, 100
LIMITS = (
    "The area was set, and nothing else: reliance on fat or density that goes along with it is not seen. "
    "The verdict says nothing of accuracy."
)
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
    left_out: int = 0  # patches with too little tissue, or with no ground to show


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
        Measures, ``verdict``, ``direction`` and ``reasons``; `reliance_text` puts them in words.

    Raises
    ------
    NonFiniteError
        Pixels or answers that are NaN or infinite.

    Examples
    --------
    >>> tissue = np.zeros((4, 32, 32), bool)
    >>> tissue[:, 8:24, 8:24] = True
    >>> patches = np.where(tissue[:, None], 0.5, 0.9).repeat(3, axis=1)
    >>> found = pathopatch.audit_model(lambda x, tissue: tissue.mean(axis=(1, 2)) - 0.5, patches, tissue)
    >>> found["verdict"], found["reasons"][0]
    ('not known', '4 of at least 8 patients')
    """
    if isinstance(model, PatchClassifier):
        model = Ensemble([model])
    margins = margins_of(model) if isinstance(model, Ensemble) else model
    patients = np.arange(len(patches)) if patient is None else patient
    return reliance(ask(margins, patches, tissue, patients, seed=seed, ground=ground), seed=seed)


def margins_of(ensemble: Ensemble) -> Margins:
    """Return a function that gives the calibrated logit less that of the decision."""
    probability = ensemble.spec.decision_probability
    assert probability is not None  # members have two classes
    decision = float(np.log(probability) - np.log1p(-probability))
    temperature = ensemble.spec.temperature if len(ensemble.members) == 1 else 1.0

    def margins(x: NDArray[np.float32], tissue: NDArray[np.bool_]) -> NDArray[np.float64]:
        if not len(x):
            return np.empty(0)
        output = ensemble.forward([member.standardised(x, tissue) for member in ensemble.members])
        return np.asarray(output.logit / temperature - decision, np.float64)

    return margins


def ask(
    margins: Margins,
    patches: NDArray[np.float32],
    tissue: NDArray[np.bool_],
    patient: ArrayLike,
    *,
    seed: int = 0,
    ground: NDArray[np.float32] | None = None,
) -> Responses:
    """Return a model's answers to patches and their edits; a few patches are edited at a time.

    Parameters
    ----------
    margins : callable
        The model, see `Margins`.
    patches : ndarray of float32, shape (N, C, P, P)
        Scaled to [0, 1] by their slide's windows.
    tissue : ndarray of bool, shape (N, P, P)
        Their tissue. Patches with less than a tenth are left out.
    patient : array_like of str, shape (N,)
        Whose they are.
    ground : ndarray of float32, shape (C, n), optional
        Pixels of the slides away from tissue, for patches that are full of it.

    Raises
    ------
    NonFiniteError
        Pixels or margins that are NaN or infinite.
    """
    patients = np.asarray(patient, dtype=np.str_)
    answers, kept = [], []
    for number, (pixels, mask) in enumerate(zip(patches, tissue, strict=True)):
        if mask.mean() < LEAST_AREA:
            continue
        try:
            made = list(edits(pixels, mask, seed=(seed, number), ground=ground))
        except InputUnsupportedError:  # tissue all over, and no ground
            continue
        x, masks = (np.stack(part) for part in zip(*made, strict=True))
        answers.append(margins(x.astype(np.float32), masks))
        kept.append(number)
    z = np.array(answers, np.float64).reshape(len(kept), N_EDITS)
    if not np.isfinite(z).all():
        raise NonFiniteError(
            f"{int((~np.isfinite(z)).any(axis=1).sum())} of {len(z)} patches have answers that are NaN or infinite",
            remedy="look for NaN in the patches and in the model's weights",
        )
    n_areas = len(AREAS)
    set_, again, placebos = np.split(z[:, 1:], [SEEDS * n_areas, (SEEDS + 1) * n_areas], axis=1)
    return Responses(
        rows=np.array(kept, np.int64),
        natural=z[:, 0],
        areas=set_.reshape(len(kept), SEEDS, n_areas).transpose(1, 0, 2),
        again=again,
        placebos=dict(zip(PLACEBOS, placebos.T, strict=True)),
        area=tissue[kept].mean(axis=(1, 2)) if kept else np.empty(0),
        patient=patients[kept],
        left_out=len(patches) - len(kept),
    )


def eta(z: Floats) -> float:
    """Return the share of the variance of margins (N, T) that the area explains, in [0, 1]; NaN of equal margins."""
    total = float(z.var())
    return float(z.mean(axis=0).var() / total) if total > 0 else float("nan")


def adj(z: Floats) -> float:
    """Return how far an undecided patch moves from the smallest to the largest area; margins (N, T).

    It is the intercept of the regression of the move over the patch's mean margin, in standard deviations of the
    patches' mean margins: a patch with more of either tissue gives more evidence for its own class, and that is not
    reliance on the area.
    """
    mean = z.mean(axis=1)
    spread = float(mean.std())
    if len(z) < 2 or spread == 0:
        return float("nan")
    slope, intercept = np.polyfit(mean, z[:, -1] - z[:, 0], 1)
    del slope
    return float(intercept / spread)


def reliance(responses: Responses, *, seed: int = 0, resamples: int = 1000) -> dict[str, Any]:
    """Return measures, verdict and reasons as plain values; intervals are by patient.

    ``verdict`` is "relies", "not shown" or "not known"; ``direction`` 1 where more tissue means more tumour, -1 where
    less does, 0 where it is not "relies". ``reasons`` say why it is not known.
    """
    about = {"patches": len(responses.natural), "patients": len(np.unique(responses.patient))}
    about |= {"left_out": responses.left_out}
    if not len(responses.natural):
        return about | {"verdict": "not known", "direction": 0, "reasons": ["no patch holds both tissue and ground"]}
    flat = np.concatenate(list(responses.areas))  # (S * N, T)
    patient = np.tile(responses.patient, len(responses.areas))
    first, last = flat[:, 0] > 0, flat[:, -1] > 0

    def measured(statistic: Callable[[Floats], float], z: Floats, patients: NDArray[np.str_]) -> dict[str, float]:
        low, high = bootstrap_by_patient(lambda rows: statistic(z[rows]), patients, resamples=resamples, seed=seed)
        return {"value": statistic(z), "low": low, "high": high}

    def mean(z: NDArray[Any]) -> float:
        return float(z.mean())

    result: dict[str, Any] = about | {
        "positive": mean(responses.natural > 0),
        "eta": measured(eta, flat, patient),
        "adj": measured(adj, flat, patient),
        "again": {"eta": eta(responses.again), "adj": adj(responses.again)},
        "curve": [
            {"area": area, "margin": measured(mean, z, patient), "positive": mean(z > 0)}
            for area, z in zip(AREAS, flat.T, strict=True)
        ],
        "turned": {
            "to_tumor": measured(mean, (~first & last).astype(np.float64), patient),
            "to_other": measured(mean, (first & ~last).astype(np.float64), patient),
        },
        "placebos": {
            name: {
                "turned": mean((z > 0) != (responses.natural > 0)),
                "moved": mean(z - responses.natural) / float(responses.natural.std() or 1),
            }
            for name, z in responses.placebos.items()
        },
    }
    return result | judge(result)


def judge(result: dict[str, Any]) -> dict[str, Any]:
    """Return ``verdict``, ``direction`` and ``reasons`` by the measures of `reliance`; the rules were fixed before."""
    share, move, again = result["eta"], result["adj"], result["again"]
    direction = int(np.sign(move["value"])) if np.isfinite(move["value"]) else 0
    # The ends of |adj|: from 0 where the interval holds both signs.
    ends = sorted((abs(move["low"]), abs(move["high"])))
    least = 0.0 if move["low"] <= 0 <= move["high"] else ends[0]
    reasons = []
    if result["patients"] < LEAST_PATIENTS:
        reasons.append(f"{result['patients']} of at least {LEAST_PATIENTS} patients")
    if result["patches"] < LEAST_PATCHES:
        reasons.append(f"{result['patches']} of at least {LEAST_PATCHES} patches with tissue and ground")
    if not LEAST_ANSWERS <= result["positive"] <= 1 - LEAST_ANSWERS:
        reasons.append(
            f"{100 * result['positive']:.0f} % of the patches are called tumour, so hardly any has the other answer"
        )
    relies = share["low"] >= LEAST_ETA and least >= LEAST_ADJ
    is_acquitted = share["high"] < LEAST_ETA or ends[1] < LEAST_ADJ
    second = again["eta"] >= LEAST_ETA and abs(again["adj"]) >= LEAST_ADJ and int(np.sign(again["adj"])) == direction
    if not relies and not is_acquitted and np.isfinite(share["low"]):
        reasons.append("the intervals reach over the limits of the rules")
    elif relies != second:
        reasons.append("cutting and growing say other things than growing alone")
    if reasons:
        return {"verdict": "not known", "direction": 0, "reasons": reasons}
    return {"verdict": "relies" if relies else "not shown", "direction": direction if relies else 0, "reasons": []}


def verdict_text(result: dict[str, Any]) -> str:
    """Return the verdict in words."""
    if result["verdict"] == "relies":
        return "RELIES ON AREA: " + ("more" if result["direction"] > 0 else "less") + " tissue, more tumour"
    if result["verdict"] == "not shown":
        return "NO RELIANCE SHOWN"
    return "NOT KNOWN: " + "; ".join(result["reasons"])


def reliance_text(result: dict[str, Any]) -> str:
    """Return verdict, measures and limits as text for a terminal."""
    lines = [f"not asked about {name}: {reason}" for name, reason in result.get("failed", {}).items()]
    lines.append(verdict_text(result))
    about = f"{pluralize(result['patches'], 'patch')} of {pluralize(result['patients'], 'patient')}"
    if result["left_out"]:
        about += f"; {result['left_out']} left out: too little tissue, or no ground to show"
    lines.append(about)
    if "eta" in result:
        share, move, turned = result["eta"], result["adj"], result["turned"]
        placebo = max(100 * entry["turned"] for entry in result["placebos"].values())
        lines += [
            f"share of the answers' variance that the set area explains (eta): {_ends(share, '.3f')}",
            f"move of an undecided patch from area {AREAS[0]:g} to {AREAS[-1]:g} (adj): {_ends(move, '+.2f')} sd",
            f"of 100 patches {100 * turned['to_tumor']['value']:.0f} turn to tumour on that way, "
            f"{100 * turned['to_other']['value']:.0f} from it; by edits at equal area {placebo:.0f} turn at most",
        ]
    if result.get("glass", {}).get("patches"):
        glass = result["glass"]
        lines.append(f"blank glass: {100 * glass['positive']:.0f} % of {glass['patches']} patches are called tumour")
    return "\n".join([*lines, LIMITS])


def _ends(measure: dict[str, float], form: str) -> str:
    ends = f"95 % interval {measure['low']:{form}} to {measure['high']:{form}}"
    return f"{measure['value']:{form}} ({ends if np.isfinite(measure['low']) else 'one patient has no interval'})"
