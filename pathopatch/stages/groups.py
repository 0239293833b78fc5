"""Assign split, group and, in a cross-validation, fold to each patch: the command `groups`.

With folds, ``WORK/folds/<k>/`` is a work folder of its own, in which fold k is the test split, the next fold validates
and the others train. Slides and patches stay in ``WORK``. Its ``groups.parquet`` has every patient once as a test
patient, with the fold in the column ``fold``; its ``runs/<run>/`` hold only the pooled evaluation. Every stage works on
a fold as on any other work folder, and none can see what the others leave.

Splits and folds are drawn before reviewers' decisions are applied, so decisions move no patient. Otherwise a review of
one model's predictions could put its training patches among those that test the next model.
"""

from __future__ import annotations

import shutil
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Literal

import pandas as pd

from pathopatch.core import artefacts, files
from pathopatch.core.artefacts import Stamp, made
from pathopatch.core.config import GroupsConfig
from pathopatch.core.errors import InputMissingError, StaleArtefactError
from pathopatch.core.patients import SPLITS
from pathopatch.core.task import Progress
from pathopatch.core.work_folder import REPETITIONS, WorkFolder
from pathopatch.groups import assign_groups, assign_splits, given_splits
from pathopatch.groups.assign import assign_folds, split_in_fold
from pathopatch.groups.decisions.decision import AppliedDecisions, apply_decisions
from pathopatch.groups.decisions.table import read_decisions
from pathopatch.groups.hard_share import hard_share_facts, hard_share_text, hardest_patches
from pathopatch.stages.audit import is_audited, write_audit
from pathopatch.stages.evaluate import finished_runs


def form_groups(
    work: Path, config: GroupsConfig, *, folds: int = 1, distinct_patients: Collection[tuple[str, str]] = (),
    decisions: Path | None = None, disputes: Literal["stop", "leave-out"] = "stop", force: bool = False,
) -> pd.DataFrame:  # fmt: skip
    """Join the patch tables of all tiled slides, split them by patient, form the groups; write table and audit.

    With folds, write those of each fold too. `distinct_patients` are pairs of ids that are two patients.
    Decisions are an exported review: rejected slides go, labels change.
    Slides and patches that reviewers dispute stop this, or are left out.

    Raises
    ------
    LabelConflictError
        Reviewers differ on a slide or patch, and nobody settled it.
    InputMissingError
        No slide was tiled yet, or a relabelled patch is not among those that were.
    InputUnsupportedError
        The file of decisions holds mistakes, or rejects every slide.
    StaleArtefactError
        The slides are not cut alike, or the groups were formed otherwise and `force` is off.
    """
    from pathopatch.patches.store import require_one_geometry
    from pathopatch.patches.tile import is_tiled

    tiled = WorkFolder(work).tiled
    slides = artefacts.read_table(tiled.slides)
    done = [slide for slide in slides["slide_id"] if is_tiled(tiled.root, slide)]
    if not done:
        raise InputMissingError("no tiled slide", place=str(work / "patches"), remedy="run pathopatch tile first")
    require_one_geometry(tiled.root, done)
    paths = {slide: tiled.patches(slide) for slide in sorted(done)}  # batches are drawn by the order of patches
    _require_scanned_shares(paths)
    inputs = {slide: artefacts.fingerprint_file(path) for slide, path in paths.items()}
    inputs["slides.parquet"] = artefacts.fingerprint_file(tiled.slides)
    rows = []
    if decisions is not None:
        rows = read_decisions(decisions)
        inputs["decisions"] = artefacts.fingerprint_file(decisions)
    settings = {**config.model_dump(mode="json"), "folds": folds}
    if disputes != "stop":  # in the default case no dispute left a trace
        settings["disputes"] = disputes
    stamp = Stamp(stage="groups", settings=settings, inputs=inputs)
    path = WorkFolder(work).groups
    with made(path, stamp=stamp, force=force, is_whole=lambda: is_audited(work, stamp)) as job:
        if job.is_current:
            return artefacts.read_table(path)
        shutil.rmtree(work / REPETITIONS, ignore_errors=True)  # their groups are of the earlier patches or labels
        patches = pd.concat([artefacts.read_table(item) for item in paths.values()], ignore_index=True)
        left_out = sorted(set(slides["slide_id"]) - set(done))
        applied = apply_decisions(patches, rows, leave_out_disputed=disputes == "leave-out")
        decided = None if decisions is None else applied
        if folds > 1:
            tables = fold_tables(
                patches, config, folds=folds, distinct_patients=distinct_patients, kept=applied.patches
            )
            write_folds(work, tables, config, stamp=stamp, left_out=left_out, decided=decided)
            return tables[0]
        given = given_splits(slides, patches)
        split = assign_splits(patches, given, seed=config.split_seed, distinct_patients=distinct_patients)
        kept = applied.patches
        kept = kept.assign(split=kept["patient_id"].map(split))
        table = _assign(kept, config)
        write_groups(work, table, config, stamp=stamp, left_out=left_out, decided=decided)
    return table


def form_hard_groups(
    parts: Sequence[Path],
    run: str,
    shares: Sequence[float],
    *,
    device: str = "auto",
    force: bool = False,
    progress: Progress | None = None,
) -> str:
    """Form groups by the patches of each class that a finished run's model finds hardest; say what was found.

    `parts` are a work folder or those of its folds, each of which has a run of this name. Each share has a table of its
    own, see `pathopatch.groups.hard_share`.

    Raises
    ------
    InputMissingError
        The run is not finished.
    InputUnsupportedError
        A share outside (0, 1).
    GroupEmptyError
        A class has fewer than two training patches.
    """
    from pathopatch.evaluation.predicting import predict_run
    from pathopatch.models.bundle import bundle_fingerprint

    lines = []
    for number, part in enumerate(parts):
        if progress:
            progress(f"groups from {run}", number, len(parts))
        folder = WorkFolder(part)
        if run not in (finished := finished_runs(part)):
            raise InputMissingError(
                f"no finished run {run!r}; there are {', '.join(finished) or 'none'}",
                place=str(folder.run(run)),
                remedy="train it first, or name another one",
            )
        groups = artefacts.read_table(folder.groups)
        read = groups.loc[groups["split"].isin(["train", "val"]), ["patch_id", "split", "label"]]
        inputs = {
            "groups": artefacts.fingerprint({name: read[name].tolist() for name in read}),
            "model": bundle_fingerprint([folder.model(run)]),
        }
        predictions = None
        for share in shares:
            path = folder.hard_share(run, share)
            settings = {"from_run": run, "hard_share": share}
            with made(path, stamp=Stamp(stage="groups", settings=settings, inputs=inputs), force=force) as job:
                if not job.is_current:
                    if predictions is None:
                        predictions, _ = predict_run(part, groups, run, splits=("train", "val"), device=device)
                    table = hardest_patches(predictions, share)
                    job.write_json(path.with_suffix(".json"), settings | hard_share_facts(table, groups))
                    job.write_table(path, table)
            lines.append(hard_share_text(files.read_json(path.with_suffix(".json"))))
            lines[-1] = f"fold {part.name}: {lines[-1]}" if len(parts) > 1 else lines[-1]
    return "\n".join(lines)


def _require_scanned_shares(paths: Mapping[str, Path]) -> None:
    """Refuse tables of 0.1.0, whose `scanned_fraction` leaves out what lies beyond the slide."""
    for path in paths.values():
        stamp = artefacts.read_stamp(path)
        if stamp is not None and "whole_slide_non_tumor" in stamp.settings.get("slide", {}):
            raise StaleArtefactError(
                "the table is of an earlier version, which counted slivers at the edge as whole patches",
                place=str(path),
                remedy="run pathopatch tile MANIFEST -o WORK --force",
            )


def fold_tables(
    patches: pd.DataFrame,
    config: GroupsConfig,
    *,
    folds: int,
    distinct_patients: Collection[tuple[str, str]] = (),
    kept: pd.DataFrame | None = None,
) -> dict[int, pd.DataFrame]:
    """Return the groups table of every fold, and under 0 that of the whole cohort, in which all patients are tested.

    Folds are drawn of all `patches`; the tables have those that reviewers' decisions `kept`, by default all. Splits
    that the manifest or the list of patches gives take no part.

    Raises
    ------
    InputUnsupportedError
        More folds than patients, or fewer than three.
    """
    fold = assign_folds(patches, folds=folds, seed=config.split_seed, distinct_patients=distinct_patients)
    table = _assign((patches if kept is None else kept).assign(split="test"), config)
    of_patch = table["patient_id"].astype(str)
    table.insert(list(table.columns).index("split") + 1, "fold", of_patch.map(fold))
    tables = {0: table}
    for number in range(1, folds + 1):
        tables[number] = table.assign(split=of_patch.map(split_in_fold(fold, number, folds=folds)))
    return tables


def _assign(patches: pd.DataFrame, config: GroupsConfig) -> pd.DataFrame:
    return assign_groups(patches, config.thresholds, bins=config.bins, **config.limits)


def write_folds(
    work: Path,
    tables: Mapping[int, pd.DataFrame],
    config: GroupsConfig,
    *,
    stamp: Stamp,
    left_out: list[str],
    decided: AppliedDecisions | None = None,
) -> None:
    """Write groups and audit of every fold, then of the whole cohort; `tables` are those of `fold_tables`."""
    for number in sorted(tables, reverse=True):  # the whole cohort last: its stamp marks all as finished
        folder = WorkFolder(work).fold(number) if number else work
        own = replace(stamp, settings={**stamp.settings, "fold": number}) if number else stamp
        write_groups(folder, tables[number], config, stamp=own, left_out=left_out, decided=decided)


def write_groups(
    folder: Path,
    table: pd.DataFrame,
    config: GroupsConfig,
    *,
    stamp: Stamp,
    left_out: list[str],
    decided: AppliedDecisions | None = None,
) -> None:
    """Write ``groups.parquet`` and ``groups/audit.json`` of a work folder, or of a fold's."""
    artefacts.write_table(WorkFolder(folder).groups, table, stamp)
    facts = None
    if decided is not None:
        changed = table.loc[table["patch_id"].isin(decided.changed_patch_ids), "split"]
        by_split = {split: count for split in SPLITS if (count := int((changed == split).sum()))}
        facts = decided.summary | {"labels_changed": by_split}
    write_audit(folder, table, stamp, limits=config.limits, left_out=left_out, decided=facts)
