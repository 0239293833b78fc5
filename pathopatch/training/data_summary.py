"""What was a model trained and validated on, in numbers for its card? Of the splits that it may know, no others."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

from pathopatch.core.config import TrainConfig
from pathopatch.groups.attribute import Naming, naming_of, naming_of_bins
from pathopatch.groups.bins import Bins
from pathopatch.training.dataset import column_of


def data_of(
    groups: pd.DataFrame, config: TrainConfig, *, bins: Bins | None, class_names: Sequence[str], learnt_from_val: int
) -> dict[str, Any]:
    """Return slides, patients, patches and group sizes of what was trained on and of what selected.

    Parameters
    ----------
    groups : DataFrame
        The groups table.
    config : TrainConfig
        Of the run.
    bins : Bins, optional
        Those that it drew by.
    class_names : sequence of str
        Names of the K labels.
    learnt_from_val : int
        Validation patches that a phase learnt from.

    Returns
    -------
    dict
        ``trained`` and, where there is validation, ``validated``: each ``splits``, ``slides``, ``patients``,
        ``patches``, ``by`` (what forms the groups), ``attributes`` (names of its A values) and ``counts`` (K x A).
        ``drawn_by`` says in words what else it draws or is selected by; ``learnt_from_val`` stands where it is above 0.
    """
    naming, column = naming_of(groups), column_of(groups, threshold=config.threshold, bins=config.bins)
    drawn = naming.at(config.threshold) if bins is None else naming_of_bins(bins.kept).at("")
    values = naming.values if bins is None else naming_of_bins(bins.kept).values
    found: dict[str, Any] = {
        "trained": _part(groups, config.train_splits, column, bins, drawn, values, len(class_names))
    }
    if "val" not in config.train_splits:
        if config.select_at is not None:
            column, bins = column_of(groups, threshold=config.select_at), None
            drawn, values = naming.at(config.select_at), naming.values
        validated = _part(groups, ("val",), column, bins, drawn, values, len(class_names))
        found |= {"validated": validated} if validated["patches"] else {}
    said = {"drawn_by": _drawn_by(config, naming), "learnt_from_val": learnt_from_val}
    return found | {name: value for name, value in said.items() if value}


def _part(
    groups: pd.DataFrame,
    splits: Sequence[str],
    column: str,
    bins: Bins | None,
    by: str,
    values: Sequence[str],
    n_classes: int,
) -> dict[str, Any]:
    """Return the numbers of some splits: of their labelled patches whose attribute is known, as they are trained on."""
    rows = groups[groups["split"].isin(list(splits)) & (groups["label"] >= 0) & (groups[column] >= 0)]
    attribute = rows[column].to_numpy(dtype=np.int64)
    attribute = attribute if bins is None else bins.joined(attribute)
    cell = len(values) * rows["label"].to_numpy(dtype=np.int64) + attribute
    counts = np.bincount(cell, minlength=n_classes * len(values)).reshape(n_classes, len(values))
    return {
        "splits": list(splits),
        "slides": int(rows["slide_id"].nunique()),
        "patients": int(rows["patient_id"].nunique()),
        "patches": len(rows),
        "by": by,
        "attributes": list(values),
        "counts": counts.tolist(),
    }


def _drawn_by(config: TrainConfig, naming: Naming) -> str:
    """Return in words what the run draws by and what selects, as far as that is not the groups it was trained at."""
    drawn = ["drawn by the rank of the tissue fraction"] if config.attribute == "rank" else []
    return ", ".join(drawn if config.select_at is None else [*drawn, f"selected {naming.at(config.select_at)}"])
