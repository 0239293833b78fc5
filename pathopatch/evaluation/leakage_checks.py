"""Answers whether a run may be judged, or compared: not on what it was trained on, nor by groups that are no more."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from pathopatch.core.artefacts import fingerprint_file, read_stamp
from pathopatch.core.errors import SplitLeakageError, StaleArtefactError
from pathopatch.core.work_folder import WorkFolder
from pathopatch.models.spec import BundleSpec
from pathopatch.training.leakage import TRAINED, slide_marks


def require_unseen(work: Path, groups: pd.DataFrame, spec: BundleSpec, splits: Sequence[str], *, place: Path) -> None:
    """Refuse to judge a run on what it was trained on, as happens when the groups are divided anew after training.

    Parameters
    ----------
    work : Path
        Work folder.
    groups : DataFrame
        Its groups table.
    spec : BundleSpec
        Of the run's model, with the marks of the slides that it was trained on.
    splits : sequence of str
        That are to be judged and were not trained on.
    place : Path
        Of the run, for the message.

    Raises
    ------
    SplitLeakageError
        It was trained on slides, or patients of a set of ready patches, of these splits.
    """
    rows = groups[groups["split"].isin(list(splits)) & (groups["label"] >= 0)]
    trained = set(spec.training.get(TRAINED, "").split(","))
    seen = sorted(name for name, mark in slide_marks(WorkFolder(work).tiled.root, rows).items() if mark in trained)
    if seen:
        raise SplitLeakageError(
            f"the run was trained on slides or patients that are in split {' or '.join(splits)} by now: {len(seen)}, "
            f"the first is {seen[0]}",
            place=str(place),
            remedy="train it again by the groups as they are: pathopatch train, or run, with --force",
        )


def require_these_groups(work: Path, names: Sequence[str]) -> None:
    """Refuse evaluations by other groups than those that are there: patches, patients and splits may differ.

    Parameters
    ----------
    work : Path
        Work folder with ``groups.parquet`` and ``runs/<run>/evaluation``.
    names : sequence of str
        Runs.

    Raises
    ------
    StaleArtefactError
        A run was judged by groups that have been formed anew since.
    """
    stamps = {name: read_stamp(WorkFolder(work).evaluation(name) / "metrics.json") for name in names}
    judged_by = {name: stamp.inputs["groups"] for name, stamp in stamps.items() if stamp and "groups" in stamp.inputs}
    now = fingerprint_file(WorkFolder(work).groups) if judged_by else ""
    if stale := [name for name, groups in judged_by.items() if groups != now]:
        raise StaleArtefactError(
            f"{len(stale)} of {len(names)} runs were judged by groups that have been formed anew since, the first is "
            f"{stale[0]!r}",
            place=str(work / "runs"),
            remedy="run `pathopatch evaluate --force`, or remove the folders of runs that are no longer wanted",
        )
