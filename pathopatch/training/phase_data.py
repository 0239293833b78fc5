"""Patches and attribute that each phase of a method draws, and the groups that it needs."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from pathopatch.core import artefacts
from pathopatch.core.config import TrainConfig
from pathopatch.core.errors import GroupEmptyError, InputUnsupportedError, PathopatchError
from pathopatch.core.method_names import COMPOSING_METHODS
from pathopatch.core.work_folder import FOLDS, WorkFolder
from pathopatch.debias.methods import NAMES, Phase, method, parameters_of, steps_in_all
from pathopatch.debias.pseudo import minority_found
from pathopatch.groups import attribute_in, threshold_attributes
from pathopatch.groups.group_sizes import empty_groups, empty_groups_error
from pathopatch.models.interior import BIN, CropChoice, choose_crop_px, has_crop, largest_crop_px
from pathopatch.training.dataset import PatchSet

LEARNT = "learnt_from_val.csv"
"""File in a run's folder: validation patches that a phase learnt from."""
INNER_FOLDS = "inner_folds.csv"
"""File in a run's folder: logits of the patches that its frozen network learnt from, each by a head without it."""
_DIVISIONS = 64  # random divisions of the patients into halves, of which the most even one is taken
_PER_CELL = 512  # patches of each class and bin of the tissue fraction by which the side is chosen
_AT_ONCE = 1024
_SETTINGS = {  # where the configuration has another name for a method's parameter
    "eta": "groupdro_eta",
    "upweight": "jtt_upweight",
    "identify_share": "jtt_identify_share",
    "refit_share": "dfr_refit_share",
    "refit_lr_scale": "dfr_lr_scale",
}


@dataclass(frozen=True, eq=False)
class PhaseData:
    """What a phase draws from."""

    patches: PatchSet  # with the attribute that it draws by
    # For each row of the history: how well pseudo-attributes find the true minority, how patches were held out.
    report: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, eq=False)
class ValidationSplit:
    """Validation in two parts."""

    select: PatchSet | None  # selects the checkpoint and the decision threshold
    held_out: PatchSet | None = None  # for phases of the split ``val`` to learn from; None without such a phase
    is_by_patient: bool = False  # whether no patient is in both


def phases_of(config: TrainConfig) -> tuple[Phase, ...]:
    """Return the phases of the configured method."""
    return method(config.method, **own_parameters(config))


def own_parameters(config: TrainConfig) -> dict[str, Any]:
    """Return the settings that only the configured method reads, under the method's names for them."""
    return {name: getattr(config, setting) for name, setting in own_settings(config.method).items()}


def own_settings(name: str) -> dict[str, str]:
    """Return the parameters of the method of a name, and the settings that hold them."""
    return {parameter: _SETTINGS.get(parameter, parameter) for parameter in parameters_of(name)}


def steps_of_all_phases(config: Mapping[str, Any]) -> float:
    """Return the steps of one training, all phases of its method together; NaN where unknown."""
    # A bundle from elsewhere may name a method that is unknown here, so its phases are unknown too.
    if config.get("method") not in NAMES:
        return config.get("steps", float("nan"))  # type: ignore[no-any-return]
    read = ("method", "steps", *own_settings(config["method"]).values())
    train = TrainConfig.model_validate({key: config[key] for key in read if key in config})
    return steps_in_all(phases_of(train), train.steps)


def needs_groups(phase: Phase) -> bool:
    """Return whether a phase needs known groups: it makes none itself, and its sampler refuses an empty one."""
    if phase.relabel is not None:
        return False
    # The sampler itself decides, by one empty group: a list of methods here would have to be kept in step.
    try:
        phase.sampler([0, 1, 1], [0, 0, 1], batch_per_class=2, steps=1, seed=0)
    except GroupEmptyError:
        return True
    return False


def split_validation(val: PatchSet | None, phases: Sequence[Phase], *, seed: int) -> ValidationSplit:
    """Return validation in two halves if a phase learns from it, so that nothing is selected by what it learnt from.

    The halves are of patients, if some division of them leaves no group without patches in either half. Otherwise
    half of the patches of each group is drawn.
    """
    if val is None or len(val) == 0:
        return ValidationSplit(None)
    if not any(phase.split == "val" for phase in phases):
        return ValidationSplit(val)
    rng = np.random.default_rng(seed)
    cells = np.stack([val.label, val.attribute])
    _, group, size = np.unique(cells, axis=1, return_inverse=True, return_counts=True)  # (N,), (G,)
    names, patient = np.unique(val.patient, return_inverse=True)
    best_evenness, is_held_out = 0.0, np.zeros(len(val), dtype=np.bool_)
    for _ in range(_DIVISIONS if len(names) > 1 else 0):
        candidate = np.isin(patient, rng.permutation(len(names))[: (len(names) + 1) // 2])
        share = np.bincount(group, weights=candidate, minlength=len(size)) / size
        evenness = float(np.minimum(share, 1 - share).min())  # 0: a half lacks a group
        if evenness > best_evenness:
            best_evenness, is_held_out = evenness, candidate
    if best_evenness == 0:
        for number in range(len(size)):
            members = rng.permutation(np.flatnonzero(group == number))
            is_held_out[members[: (len(members) + 1) // 2]] = True
    return ValidationSplit(val.rows(~is_held_out), val.rows(is_held_out), is_by_patient=best_evenness > 0)


def check_phases(
    phases: Sequence[Phase], train: PatchSet, validation: ValidationSplit, config: TrainConfig, *, n_classes: int
) -> None:
    """Refuse before the first step what would fail in a later phase or at the decision threshold."""
    for phase in phases[1:]:
        if phase.relabel is None:  # pseudo-attributes exist only after the phase before
            patches = phase_data(phase, train, validation).patches
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # a warning is given when the phase begins
                sizes = {"batch_per_class": config.batch_per_class, "steps": 1, "seed": config.seed}
                phase.sampler(patches.label, patches.attribute, **sizes)
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


def phase_data(
    phase: Phase,
    train: PatchSet,
    validation: ValidationSplit,
    *,
    probability: Callable[[PatchSet], NDArray[np.float64]] | None = None,
    attribute: NDArray[np.int64] | None = None,
    seed: int = 0,
) -> PhaseData:
    """Return what a phase draws from; the `attribute` (N,) of a checkpoint replaces all others."""
    patches = train if phase.split == "train" else validation.held_out
    if patches is None:
        raise InputUnsupportedError(
            f"the method needs patches of split {phase.split!r}",
            place="[train] method",
            remedy="add patients to that split",
        )
    report: dict[str, Any] = {}
    if phase.subset is not None:
        is_kept = phase.subset(patches.label, patches.attribute, patches.tissue_fraction, seed)
        report["subset_n"] = int(is_kept.sum())
        patches = patches.rows(is_kept)
    if attribute is not None:
        return PhaseData(patches.with_attribute(attribute))  # its report is in the checkpoint too
    if phase.split == "val":
        report |= {"held_out_n": len(patches), "held_out_by_patient": validation.is_by_patient}
    if phase.relabel is None:
        is_known = patches.attribute >= 0
        if not is_known.all() and not (is_known.any() and needs_groups(phase)):
            # Where no attribute is known it is 0 for all, so a sampler that needs groups names those that are empty.
            patches = patches.with_attribute(np.where(is_known, patches.attribute, 0))
        return PhaseData(patches, report)
    assert probability is not None
    attribute = phase.relabel(probability(patches), patches.label, patches.attribute)
    minority = minority_found(attribute, patches.label, patches.attribute)
    report |= {f"pseudo_{name}": None if np.isnan(value) else value for name, value in minority.items()}
    return PhaseData(patches.with_attribute(attribute), report)


def require_groups(groups: pd.DataFrame, config: TrainConfig, *, fold: str = "") -> None:
    """Refuse a run that draws or is selected by two-valued groups of which one is empty; name what would do.

    A method that learns from validation also needs two patches there of each group: one to learn from, one to select.
    What its sampler refuses of the training groups is refused too, such as a beta out of bounds.
    """
    learns_from_val = any(phase.split == "val" for phase in phases_of(config))
    if learns_from_val and not ((groups["split"] == "val") & (groups["label"] >= 0)).any():
        raise GroupEmptyError(
            f"{config.method} learns from validation, and no labelled patch is there",
            place=f"{fold}split 'val'",
            remedy="give patients the split 'val', or train another method",
        )
    own = threshold_attributes(groups)[0]
    if config.choose and own.is_patch_attribute:
        raise InputUnsupportedError(
            f"the groups are of {own.label}, and choose compares heads that see tissue alone",
            place=f"{fold}[train] choose",
            remedy="leave it out",
        )
    if config.bins or own.n_values > 2:
        return
    phases = [phase for phase in phases_of(config) if needs_groups(phase)]
    needed = [("train",)] if any(phase.split == "train" for phase in phases) else []
    if phases and (config.select != "last" or learns_from_val):
        needed.append(("val",))
    for splits in needed:
        attribute = attribute_in(groups, config.threshold)
        group = attribute.groups_in(groups[groups["split"].isin(list(splits))])
        if (group < 0).all():
            continue  # a split without any labelled patch has an error of its own
        if empty_groups(groups, attribute, splits):
            error = empty_groups_error(groups, attribute, splits, needed)
            others = [
                name for name in NAMES if name not in COMPOSING_METHODS and not any(map(needs_groups, method(name)))
            ]
            raise GroupEmptyError(
                f"{config.method} needs every group, and {error.message}",
                place=f"{fold}{error.place}",
                remedy=f"{error.remedy}. Or train {' or '.join(COMPOSING_METHODS)}, which compose patches of any area "
                f"from those that are there, or another method that needs no groups: {', '.join(others)}; with "
                "mask = 'interior' none of them sees the area",
            )
        counts = np.bincount(group[group >= 0])
        if learns_from_val and config.select != "last" and splits == ("val",) and (counts == 1).any():
            raise GroupEmptyError(
                f"{config.method} learns from half of each group of validation and selects by the other half, and a "
                f"group has a single patch (groups of {', '.join(map(str, counts))})",
                place=f"{fold}split 'val'",
                remedy="move patients to validation, set [train] select = 'last', or train another method",
            )
    group = attribute_in(groups, config.threshold).groups_in(groups[groups["split"] == "train"])
    label, value = divmod(group[group >= 0], 2)
    for phase in phases if len(label) else ():
        if phase.split == "train":
            phase.sampler(label, value, batch_per_class=config.batch_per_class, steps=1, seed=config.seed)


def runs_with_groups(
    parts: Sequence[Path], runs: Sequence[TrainConfig]
) -> tuple[list[TrainConfig], dict[str, PathopatchError]]:
    """Return the runs that every part of a cohort can train, and the error of each other run by its name.

    `parts` are the work folders of the folds, or the one work folder. Where no run is left, the first one's error is
    raised.
    """
    refused: dict[str, PathopatchError] = {}
    for part in parts:
        groups = artefacts.read_table(WorkFolder(part).groups)
        fold = f"fold {part.name}, " if part.parent.name == FOLDS else ""
        for config in runs:
            try:
                require_groups(groups, config, fold=fold)
            except PathopatchError as error:
                refused.setdefault(config.run_name, error)
    left = [config for config in runs if config.run_name not in refused]
    if not left:
        raise next(iter(refused.values()))
    return left, refused


def choose_crops(patches: PatchSet, config: TrainConfig) -> CropChoice:
    """Return the crops of a run: of ``config.crop_px``, or of the largest side that serves the patches."""
    if config.crop_px is not None:
        return CropChoice(config.crop_px, (), 0.0)
    assert patches.tissue is not None
    bin_number = (patches.tissue_fraction / BIN).astype(np.int64)
    cell = bin_number * (1 + int(patches.label.max(initial=0))) + patches.label
    rng = np.random.default_rng(config.seed)
    index = np.sort(
        np.concatenate([rng.permutation(np.flatnonzero(cell == number))[:_PER_CELL] for number in np.unique(cell)])
    )
    largest = np.array([largest_crop_px(mask) for mask in patches.tissue.read(index)], np.int64)
    return choose_crop_px(largest, patches.label[index], patches.tissue_fraction[index])


def patches_with_crop(patches: PatchSet, crop_px: int) -> NDArray[np.bool_]:
    """Return which patches (N,) have a crop of that side."""
    assert patches.tissue is not None
    parts = [np.arange(start, min(start + _AT_ONCE, len(patches))) for start in range(0, len(patches), _AT_ONCE)]
    return np.concatenate([np.empty(0, np.bool_), *(has_crop(patches.tissue.read(part), crop_px) for part in parts)])


def keep_crops(
    train: PatchSet, val: PatchSet | None, config: TrainConfig
) -> tuple[PatchSet, PatchSet | None, CropChoice, tuple[int, int]]:
    """Return both sets without patches that have no crop, the choice of crops, and how many were left out of each.

    InputUnsupportedError where no side of a crop serves the training patches; a warning names those that it does not.
    """
    choice = choose_crops(train, config)
    for y, low, high in choice.left_out:
        warnings.warn(
            f"patches of class {y} with a tissue fraction of {low:.2f} to {high:.2f}: fewer than 95 % hold a crop of "
            "8 px that lies wholly in tissue; they have no part in the choice of the side, and those without a crop "
            "are left out",
            UserWarning,
            stacklevel=2,
        )
    is_kept = patches_with_crop(train, choice.crop_px)
    if not is_kept.any():
        raise InputUnsupportedError(
            f"no training patch has a crop of {choice.crop_px} px wholly in its tissue",
            place="[train] crop_px",
            remedy="lower it, or leave it out",
        )
    kept_val = None if val is None else patches_with_crop(val, choice.crop_px)
    left_out = int((~is_kept).sum()), 0 if kept_val is None else int((~kept_val).sum())
    return train.rows(is_kept), None if val is None or kept_val is None else val.rows(kept_val), choice, left_out
