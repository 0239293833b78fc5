"""Refuse a run whose method needs a group that has no patch, before any pixel is read."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import pandas as pd

from pathopatch.core import artefacts, files
from pathopatch.core.config import TrainConfig
from pathopatch.core.errors import GroupEmptyError
from pathopatch.debias.methods import NAMES, method
from pathopatch.groups.assign import group_column
from pathopatch.groups.attribute import naming_of
from pathopatch.groups.empty_groups import empty_groups, empty_groups_error
from pathopatch.training.dataset import attribute_column
from pathopatch.training.phase_data import needs_groups, phases_of


def require_groups(groups: pd.DataFrame, config: TrainConfig, *, fold: str = "") -> None:
    """Refuse a run that draws from groups, or is selected by them, of which one is empty.

    Runs by bins or by rank, and attributes of more than two values, may have empty groups.

    Parameters
    ----------
    groups : DataFrame
        The groups table.
    config : TrainConfig
        Of the run.
    fold : str
        Of a cross-validation, for the message.

    Raises
    ------
    GroupEmptyError
        Names the threshold, the groups, thresholds that would do, and the methods that need no groups.
    """
    if len(naming_of(groups).values) > 2:
        return
    for threshold, needed in _needed(config).items():
        attribute_column(groups, threshold)  # which says what to do where there is no such threshold
        for splits in needed:
            part = groups[groups["split"].isin(list(splits))]
            if (part[group_column(threshold)] < 0).all() or not empty_groups(groups, threshold, splits):
                continue  # a split without any labelled patch has an error of its own
            error = empty_groups_error(groups, threshold, splits, needed)
            raise GroupEmptyError(
                f"{config.method} needs every group, and {error.message}",
                place=f"{fold}{error.place}",
                remedy=f"{error.remedy}. Or train a method that needs no groups: {', '.join(_without_groups())}",
            )


def runs_with_groups(
    parts: Sequence[Path], runs: Sequence[TrainConfig]
) -> tuple[list[TrainConfig], dict[str, GroupEmptyError]]:
    """Return the runs that every part of a cohort has the groups for, and why each other cannot be trained, by name.

    Parameters
    ----------
    parts : sequence of Path
        Work folders of the folds, or the one work folder.
    runs : sequence of TrainConfig
        What is to be trained in each.

    Raises
    ------
    GroupEmptyError
        No run is left: that of the first one.
    """
    refused: dict[str, GroupEmptyError] = {}
    for part in parts:
        groups = artefacts.read_table(part / "groups.parquet")
        fold = f"fold {part.name}, " if part.parent.name == files.FOLDS else ""
        for config in runs:
            try:
                require_groups(groups, config, fold=fold)
            except GroupEmptyError as error:
                refused.setdefault(config.run_name, error)
    left = [config for config in runs if config.run_name not in refused]
    if not left:
        raise next(iter(refused.values()))
    return left, refused


def _needed(config: TrainConfig) -> Mapping[float, Sequence[tuple[str, ...]]]:
    """Return by threshold which sets of splits need every group."""
    phases = [phase for phase in phases_of(config) if needs_groups(phase)]
    needed: dict[float, list[tuple[str, ...]]] = {}
    is_by_threshold = config.attribute == "groups" and not config.bins
    if is_by_threshold and any(phase.split == "train" for phase in phases):
        needed.setdefault(config.threshold, []).append(config.train_splits)
    reads_validation = config.select != "last" or any(phase.split == "val" for phase in phases)
    if phases and reads_validation and not (config.bins and config.select_at is None):
        threshold = config.threshold if config.select_at is None else config.select_at
        needed.setdefault(threshold, []).append(("val",))
    return needed


def _without_groups() -> list[str]:
    """Return the methods that need no groups."""
    return [name for name in NAMES if not any(needs_groups(phase) for phase in method(name))]
