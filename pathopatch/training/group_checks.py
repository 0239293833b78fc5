"""The method of a run, and the groups that it needs: what lacks is refused before a pixel is read."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from pathopatch.core import artefacts
from pathopatch.core.config import Config, TrainConfig
from pathopatch.core.errors import GroupEmptyError, InputUnsupportedError, PathopatchError
from pathopatch.core.method_names import COMPOSING_METHODS
from pathopatch.core.work_folder import FOLDS, WorkFolder
from pathopatch.debias.methods import NAMES, Method, method, parameters_of
from pathopatch.debias.pseudo import pseudo_attributes
from pathopatch.groups import GroupingAttribute, HardShare, attribute_in, threshold_attributes
from pathopatch.groups.group_sizes import empty_groups, empty_groups_error
from pathopatch.groups.hard_share import with_hard_share


def method_of(config: TrainConfig) -> Method:
    """Return the configured method."""
    return method(config.method, **own_parameters(config))


def own_parameters(config: TrainConfig) -> dict[str, Any]:
    """Return the settings that only the configured method reads: its own table, if it has one."""
    own = getattr(config, config.method.replace("-", "_"), None) if parameters_of(config.method) else None
    return (own.model_dump() if isinstance(own, Config) else {}) | config.method_args


def needs_groups(own: Method) -> bool:
    """Return whether a method refuses an empty group."""
    # The sampler itself decides, by one empty group: a list of methods here would have to be kept in step.
    try:
        label, attribute, area = np.array([0, 1, 1]), np.array([0, 0, 1]), np.full(3, 0.5)
        own.batches(label, attribute, area, batch_per_class=2, steps=1, seed=0)
    except GroupEmptyError:
        return True
    return False


def drawn_by(config: TrainConfig, groups: pd.DataFrame, split: str = "train") -> GroupingAttribute:
    """Return the attribute of a run in a split of a groups table, which has the run's own.

    By a pseudo-attribute only training draws; validation selects by the known attribute, where one is known.
    """
    known = attribute_in(groups, config.threshold, bins=config.bins)
    if config.groups_from and (split == "train" or not (groups.loc[groups["split"] == split, known.column] >= 0).any()):
        return HardShare(config.hard_share, config.groups_from, label_names=known.label_names)
    return known


def groups_of(work: Path, config: TrainConfig) -> pd.DataFrame:
    """Return the groups table of a work folder, with the pseudo-attribute that a run draws by."""
    groups = artefacts.read_table(WorkFolder(work).groups)
    if config.groups_from:
        return with_hard_share(work, groups, HardShare(config.hard_share, config.groups_from))
    return groups


def require_groups(groups: pd.DataFrame, config: TrainConfig, *, fold: str = "") -> None:
    """Refuse a run that draws or is selected by two-valued groups of which one is empty; name what would do.

    What its sampler refuses of the training groups is refused too, such as a beta out of bounds.
    """
    own = threshold_attributes(groups)[0]
    if config.choose and own.is_patch_attribute:
        raise InputUnsupportedError(
            f"the groups are of {own.label}, and choose compares heads that see tissue alone",
            place=f"{fold}[train] choose",
            remedy="leave it out",
        )
    chosen = method_of(config)
    if config.bins or not needs_groups(chosen):
        return
    attribute = attribute_in(groups, config.threshold)
    splits_of = {"train": not config.groups_from, "val": config.select != "last"}
    needed = [(split,) for split, is_read in splits_of.items() if is_read and own.n_values == 2]
    for splits in needed:
        group = attribute.groups_in(groups[groups["split"].isin(list(splits))])
        if (group < 0).all():
            continue  # a split without any labelled patch has an error of its own
        if empty_groups(groups, attribute, splits):
            error = empty_groups_error(groups, attribute, splits, needed)
            others = [name for name in NAMES if name not in COMPOSING_METHODS and not needs_groups(method(name))]
            raise GroupEmptyError(
                f"{config.method} needs every group, and {error.message}",
                place=f"{fold}{error.place}",
                remedy=f"{error.remedy}. Or train {' or '.join(COMPOSING_METHODS)}, which composes patches of any area "
                f"from those that are there, or another method that needs no groups: {', '.join(others)}; with "
                "mask = 'interior' none of them sees the area",
            )
    rows = groups[(groups["split"] == "train") & (attribute.groups_in(groups) >= 0)]
    if len(rows):
        label, value = divmod(attribute.groups_in(rows), own.n_values)
        if config.groups_from:  # which patches are hard is not known yet, but how many
            value = pseudo_attributes(np.zeros(len(rows)), label, config.hard_share)
        sizes = {"batch_per_class": config.batch_per_class, "steps": 1, "seed": config.seed}
        chosen.batches(label, value, rows["tissue_fraction"].to_numpy(), **sizes)


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
