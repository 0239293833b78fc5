"""What passes from one phase of a method to the next: patches, and the attribute by which to draw them."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pathopatch.core.config import TrainConfig
from pathopatch.core.errors import GroupEmptyError, InputUnsupportedError
from pathopatch.debias import gerne
from pathopatch.debias.methods import Batches, Phase, method, parameters_of
from pathopatch.debias.pseudo import minority_found
from pathopatch.debias.rank_sampler import rank_alpha
from pathopatch.training.dataset import PatchSet

_DIVISIONS = 64  # of patients into halves that are tried
_SETTINGS = {  # where the configuration has another name for a method's parameter
    "eta": "groupdro_eta",
    "upweight": "jtt_upweight",
    "identify_share": "jtt_identify_share",
    "refit_share": "dfr_refit_share",
    "refit_lr_scale": "dfr_lr_scale",
}


@dataclass(frozen=True, eq=False)
class Drawn:
    """What a phase draws from.

    Parameters
    ----------
    patches : PatchSet
        With the attribute that it draws by.
    report : dict
        What is to be said of them in each row of the history: of pseudo-attributes how well they find the true
        minority, of held-out patches how they were held out.
    """

    patches: PatchSet
    report: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, eq=False)
class Held:
    """Validation in two parts.

    Parameters
    ----------
    select : PatchSet or None
        What is selected by.
    out : PatchSet or None
        What phases of the split ``val`` draw from; None if there is no such phase.
    by_patient : bool
        Whether no patient is in both.
    """

    select: PatchSet | None
    out: PatchSet | None = None
    by_patient: bool = False


def phases_of(config: TrainConfig) -> tuple[Phase, ...]:
    """Return the phases of the configured method."""
    return method(config.method, **own_parameters(config))


def own_parameters(config: TrainConfig) -> dict[str, Any]:
    """Return the settings that the configured method reads and others may not, under the method's names for them."""
    names = parameters_of(config.method)
    return {name: getattr(config, _SETTINGS.get(name, name)) for name in names}


def needs_groups(phase: Phase) -> bool:
    """Return whether a phase needs known groups: it makes none itself, and its sampler refuses an empty one."""
    if phase.relabel is not None:
        return False
    try:
        phase.sampler([0, 1, 1], [0, 0, 1], batch_per_class=2, steps=1, seed=0)
    except GroupEmptyError:
        return True
    return False


def held(val: PatchSet | None, phases: Sequence[Phase], *, seed: int) -> Held:
    """Return validation in two halves if a phase draws from it, so that nothing is selected by what it learnt from.

    The halves are of patients, if some division of them leaves no group without patches in either half: of those tried
    the most even one. Otherwise half of the patches of each group is drawn.
    """
    if val is None or len(val) == 0:
        return Held(None)
    if not any(phase.split == "val" for phase in phases):
        return Held(val)
    rng = np.random.default_rng(seed)
    _, group, size = np.unique(
        np.stack([val.label, val.attribute]), axis=1, return_inverse=True, return_counts=True
    )  # (N,), (G,)
    names, patient = np.unique(val.patient, return_inverse=True)
    best, out = 0.0, np.zeros(len(val), dtype=np.bool_)
    for _ in range(_DIVISIONS if len(names) > 1 else 0):
        tried = np.isin(patient, rng.permutation(len(names))[: (len(names) + 1) // 2])
        share = np.bincount(group, weights=tried, minlength=len(size)) / size
        evenness = float(np.minimum(share, 1 - share).min())
        if evenness > best:
            best, out = evenness, tried
    if best == 0:
        for number in range(len(size)):
            members = rng.permutation(np.flatnonzero(group == number))
            out[members[: (len(members) + 1) // 2]] = True
    return Held(val.rows(~out), val.rows(out), by_patient=best > 0)


def check_ahead(
    phases: Sequence[Phase], train: PatchSet, validation: Held, config: TrainConfig, *, n_classes: int
) -> None:
    """Refuse before the first step what a later phase, or the decision threshold at the end, could not be made of.

    What a phase would draw by its own pseudo-attributes is not known yet.

    Raises
    ------
    GroupEmptyError
        A group that a later phase needs has no patch, or there is none of class 1 to find at a sensitivity.
    InputUnsupportedError
        A phase holds out validation patches that are trained on, draws them by another attribute than the one that
        selects, or there are none; or a sensitivity is asked for, and there are more than two classes or no validation.
    """
    if any(phase.split == "val" for phase in phases):
        if "val" in config.train_splits:
            raise InputUnsupportedError(
                f"{config.method} learns from held-out patches of the split 'val', which is trained on",
                place="[train] train_splits",
                remedy="leave 'val' out of [train] train_splits, or train another method",
            )
        if config.select_at is not None and (config.bins or config.select_at != config.threshold):
            raise InputUnsupportedError(
                f"{config.method} draws from validation by the attribute that selects, and select_at is another",
                place="[train] select_at",
                remedy=f"leave [train] select_at out, or train {config.method} at threshold {config.select_at:g}",
            )
    for phase in phases[1:]:
        if phase.relabel is None:
            patches = drawn(phase, train, validation, probability=_unknown).patches
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # what is only warned of is said when the phase begins
                batches_of(phase, patches, config, steps=1, seed=config.seed)
    if config.sensitivity is None:
        return
    if n_classes > 2 or validation.select is None:
        raise InputUnsupportedError(
            f"sensitivity = {config.sensitivity:g} with {n_classes} classes and "
            f"{len(validation.select or ())} validation patches",
            place="[train] sensitivity",
            remedy="leave it out: it is of the second of two classes, on validation",
        )
    if not (validation.select.label == 1).any():
        raise GroupEmptyError(
            f"sensitivity = {config.sensitivity:g}, and no validation patch of class 1",
            place="split 'val'",
            remedy="move patients between the splits, or leave [train] sensitivity out",
        )


def _unknown(patches: PatchSet) -> NDArray[np.float64]:
    """Stand for the probabilities of a phase that was not run; one that asks for them is not checked ahead."""
    raise AssertionError("a phase that relabels is not checked ahead")


def drawn(
    phase: Phase, train: PatchSet, validation: Held, *, probability: Callable[[PatchSet], NDArray[np.float64]]
) -> Drawn:
    """Return what a phase draws from.

    Parameters
    ----------
    phase : Phase
        The phase.
    train : PatchSet
        Training patches.
    validation : Held
        Validation patches.
    probability : callable
        What the network so far says of patches, (N, K).

    Raises
    ------
    InputUnsupportedError
        The phase draws from validation and there is none.
    """
    patches = train if phase.split == "train" else validation.out
    if patches is None:
        raise InputUnsupportedError(
            f"the method needs patches of split {phase.split!r}",
            place="[train] method",
            remedy="add patients to that split",
        )
    report: dict[str, Any] = {}
    if phase.split == "val":
        report |= {"held_out_n": len(patches), "held_out_by_patient": validation.by_patient}
    if phase.relabel is None:
        return Drawn(_with_known(phase, patches), report)
    attribute = phase.relabel(probability(patches), patches.label, patches.attribute)
    found = minority_found(attribute, patches.label, patches.attribute)
    report |= {f"pseudo_{name}": None if np.isnan(value) else value for name, value in found.items()}
    return Drawn(patches.with_attribute(attribute), report)


def drawn_again(phase: Phase, train: PatchSet, validation: Held, attribute: NDArray[np.int64]) -> PatchSet:
    """Return what a phase that was interrupted draws from, by the attribute that was kept."""
    patches = train if phase.split == "train" else validation.out
    assert patches is not None
    return patches.with_attribute(attribute)


def _with_known(phase: Phase, patches: PatchSet) -> PatchSet:
    """Return patches with an attribute of 0 where none is known and none is needed.

    Where no patch has one it is 0 for all, so that a sampler which needs groups says which of them are empty.
    """
    is_known = patches.attribute >= 0
    if is_known.all() or (is_known.any() and needs_groups(phase)):
        return patches
    return patches.with_attribute(np.where(is_known, patches.attribute, 0))


def batches_of(phase: Phase, data: PatchSet, config: TrainConfig, *, steps: int, seed: int) -> Batches:
    """Return the batches of a phase: by the patches' attribute, or by the rank of their tissue fraction.

    Raises
    ------
    InputUnsupportedError
        The method has no form that draws by rank.
    """
    sizes = {"batch_per_class": config.batch_per_class, "steps": steps, "seed": seed}
    if config.attribute != "rank":
        return phase.sampler(data.label, data.attribute, **sizes)
    if phase.rank_sampler is None:
        raise InputUnsupportedError(
            f"method {config.method!r} does not draw by rank",
            place="[train] attribute",
            remedy="train resample or gerne, or by a threshold or bins",
        )
    return phase.rank_sampler(data.label, data.tissue_fraction, **sizes)


def shares_of(data: PatchSet, config: TrainConfig) -> NDArray[np.float64]:
    """Return p(a|y) of the training patches, by which beta is bounded; by rank, over bins of equal pooled counts."""
    if config.attribute == "rank":
        return rank_alpha(data.label, data.tissue_fraction)
    return gerne.alpha(data.label, data.attribute)
