"""Run a whole study, from the manifest to the report: the command `run`."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pathopatch.core import artefacts, files
from pathopatch.core.config import BatchOptions, StudyConfig, TrainConfig, head_settings, load_study, parse
from pathopatch.core.errors import InputUnsupportedError, PathopatchError, StaleArtefactError
from pathopatch.core.task import Outcome, Progress
from pathopatch.core.work_folder import FOLDS, WorkFolder
from pathopatch.core.workers import Workers
from pathopatch.groups import attribute_in, units_of
from pathopatch.groups.group_sizes import empty_groups
from pathopatch.report import write_report
from pathopatch.slides.manifest import read_manifest
from pathopatch.stages.evaluate import evaluate_runs, finished_runs
from pathopatch.stages.groups import form_groups, form_hard_groups
from pathopatch.stages.predict import predict_cohort
from pathopatch.stages.tile import import_patches, tile_cohort
from pathopatch.stages.train import check_networks, keep_to_one_thread, require_search, train_many, training_folders

if TYPE_CHECKING:
    import pandas as pd

Until = Literal["tile", "groups", "train", "evaluate", "predict", "report"]
"""The last stage to run."""


@dataclass(frozen=True, kw_only=True)
class StudyResult:
    """What became of the slides of a study; `untrained` has the error of each run that was not trained, by its name."""

    outcomes: tuple[Outcome, ...]
    comparison: pd.DataFrame | None = None  # see `pathopatch.evaluation.compare.compare`; None before that stage
    untrained: Mapping[str, PathopatchError] = field(default_factory=dict)


def run_study(
    study: StudyConfig | Path | str,
    *,
    until: Until = "report",
    workers: int | None = None,
    force: bool = False,
    progress: Progress | None = None,
) -> StudyResult:
    """Run all stages from the manifest, or the ready patches, to the report; return what became of slides and runs.

    `study` is a configuration, or the TOML file of one; `workers` are those of its ``[batch]`` by default.
    The resolved configuration is stored as ``study.json`` beside the results. Predictions use the run that validation
    prefers at the first threshold at which no validation group is empty; the test split selects nothing. `until` names
    the last stage to run. What settings alone forbid is refused before the first stage. Runs whose method needs a group
    that is empty, and runs that fail, are left out, and the others go on; the report names them.

    Raises
    ------
    PathopatchError
        No run is left: the error of the first one.
    InputMissingError, InputUnsupportedError
        As `load_study`, for a file.

    Examples
    --------
    >>> from pathopatch.demo import EXAMPLE_MANIFEST
    >>> study = pathopatch.StudyConfig(manifest=EXAMPLE_MANIFEST, work="study")
    >>> [outcome.state for outcome in pathopatch.run_study(study, until="tile").outcomes]
    ['done']
    """
    study = study if isinstance(study, StudyConfig) else load_study(study)
    work: Path = study.work
    runs: Sequence[TrainConfig] = ()
    if until not in ("tile", "groups"):
        runs = study_runs(study)
        check_networks(runs)
    workers = workers or study.batch.workers
    batch = BatchOptions(**study.batch.model_dump(exclude={"workers"}), workers=workers, force=force)
    files.write_json(work / "study.json", study.model_dump(mode="json"))
    outcomes = tile_study(study, batch, progress=progress)
    if until != "tile":
        groups = form_groups(
            work, study.groups, folds=study.splits.folds, distinct_patients=study.splits.distinct_patients,
            decisions=study.decisions, disputes=study.disputes, force=force,
        )  # fmt: skip
    if until in ("tile", "groups"):
        return StudyResult(outcomes=tuple(outcomes))
    runs, untrained = _train_runs(study, runs, workers, force=force, progress=progress)
    # Folds of one unit each are the same in every assignment.
    for again in repetitions(study) if units_of(groups).nunique() > study.splits.folds else ():
        _leave_first_folds(work, again, force=force)
        last: Until = "train" if until == "train" else "evaluate"
        untrained |= run_study(again, until=last, workers=workers, force=force, progress=progress).untrained
    files.write_json(WorkFolder(work).untrained, {name: str(error) for name, error in untrained.items()})
    if until == "train":
        return StudyResult(outcomes=tuple(outcomes), untrained=untrained)
    finished = sorted(set.intersection(*map(set, map(finished_runs, training_folders(work)))) - set(untrained))
    table = evaluate_runs(work, finished, study.evaluate, device=study.train.device, force=force, progress=progress)
    if study.predict_split != "none" and until != "evaluate":
        outcomes += predict_split(study, runs, batch, progress=progress)
    if until == "report":
        write_report(work)
    return StudyResult(outcomes=tuple(outcomes), comparison=table, untrained=untrained)


def _train_runs(
    study: StudyConfig, runs: Sequence[TrainConfig], workers: int, *, force: bool, progress: Progress | None
) -> tuple[list[TrainConfig], dict[str, PathopatchError]]:
    """Train a study's runs in each fold; return those that are left, and the error of each other one by its name."""
    from pathopatch.training.group_checks import runs_with_groups

    parts, own = training_folders(study.work), WorkFolder(study.work)
    left, untrained = runs_with_groups(parts, runs)
    jobs = jobs_of(study, left, workers)
    if jobs > 1:  # the results are then those of any number of jobs
        left = [run.model_copy(update={"threads": 1}) for run in left]
    # What the processes import takes seconds of each, so they stay through all folds.
    shared = Workers(jobs, prepare=keep_to_one_thread) if jobs > 1 else nullcontext()
    with shared as processes:
        for part in parts:  # a run that failed in one fold has no use in the others
            first = [run for run in left if not run.groups_from]
            failed = train_many(part, first, study.tune, processes=processes, force=force, progress=progress)
            further = []
            for run in left:
                if run.groups_from:  # it draws by what another run's model finds hard
                    try:
                        form_hard_groups([part], run.groups_from, [run.hard_share], device=run.device, force=force)
                        further.append(run)
                    except PathopatchError as error:
                        failed[run.run_name] = (failed | untrained).get(run.groups_from, error)
            failed |= train_many(part, further, study.tune, processes=processes, force=force, progress=progress)
            left, untrained = [run for run in left if run.run_name not in failed], untrained | failed
            files.write_json(own.untrained, {name: str(error) for name, error in untrained.items()})
            for name in failed:  # what an earlier run of this name showed is not this study's
                for folder in {own.tiled.root, study.work, *parts}:
                    shutil.rmtree(WorkFolder(folder).evaluation(name), ignore_errors=True)
            if not left:
                raise next(iter(failed.values()))
    return left, untrained


def repetitions(study: StudyConfig) -> list[StudyConfig]:
    """Return what repeats a cross-validation whose runs no seed moves: for each further seed a study of other folds."""
    if study.splits.folds == 1 or any(_is_seeded(study, run) for run in study_runs(study)):
        return []
    studies = []
    for seed in study.seeds[1:]:
        # Not the first seed's folds; and those of a seed do not depend on which other seeds there are.
        groups = study.groups.model_copy(update={"split_seed": study.groups.split_seed + 1 + seed})
        changes = {"work": WorkFolder(study.work).repetition(seed), "seeds": (seed,), "groups": groups}
        studies.append(study.model_copy(update=changes))
    return studies


def _leave_first_folds(work: Path, again: StudyConfig, *, force: bool) -> None:
    """Refuse runs of a repetition in the folds of the first seed, as of an earlier version; `force` removes them."""
    for path in [path for run in study_runs(again) for path in work.glob(f"{FOLDS}/*/runs/{run.run_name}")]:
        if not force:
            place, remedy = str(path), "use --force to redo it, or another work folder to keep both"
            raise StaleArtefactError("a head of a further seed has folds of its own", place=place, remedy=remedy)
        shutil.rmtree(path)


def _is_seeded(study: StudyConfig, run: TrainConfig) -> bool:
    """Return whether the seed moves a run: one that learns by steps, is searched, or has the name of another run."""
    has_names = any("groups_from" in (row.model_extra or {}) for row in study.runs)
    return has_names or not run.is_solved or (study.tune is not None and not run.frozen)


def jobs_of(study: StudyConfig, runs: Sequence[TrainConfig], workers: int) -> int:
    """Return how many of a study's runs train side by side: heads on a frozen network take one core each."""
    return min(study.jobs or (workers if all(run.frozen for run in runs) else 1), len(runs))


def tile_study(study: StudyConfig, batch: BatchOptions, *, progress: Progress | None = None) -> list[Outcome]:
    """Cut the study's slides into patches, or store its ready ones or features; return what became of them."""
    known: dict[str, Any] = {"distinct_patients": study.splits.distinct_patients}
    if (tiled := WorkFolder(study.work).tiled).root != study.work and tiled.slides.exists():
        return []  # a repetition takes the patches that are there
    if study.features is not None:
        from pathopatch.stages.import_features import import_features

        assert study.labels is not None  # the configuration demands them
        import_features(
            study.work, study.features, study.labels, slides=study.slides, attribute=study.attribute,
            workers=batch.workers, **known, force=batch.force, progress=progress,
        )  # fmt: skip
        return []
    if study.patches is not None:
        return import_patches(
            study.patches, study.work, study.tile, ready=study.ready, **known, force=batch.force, progress=progress
        )
    assert study.manifest is not None  # the configuration has one of the two
    return tile_cohort(study.manifest, study.work, study.tile, batch, **known, progress=progress)


def plan_text(study: StudyConfig) -> str:
    """Say what the searches of a study would try, in how many steps, and what more seeds are to exact heads."""
    lines = []
    if study.tune:
        from pathopatch.training.search import search_text

        lines.append(search_text(study_runs(study), study.tune))
    if len(study.seeds) > 1 and not all(_is_seeded(study, run) for run in study_runs(study)):
        by_folds = "repetitions are other assignments of patients to folds"
        lines.append(f"of exact heads {by_folds if repetitions(study) else 'seeds repeat nothing: use folds'}")
    return "\n".join(lines)


def study_runs(study: StudyConfig) -> list[TrainConfig]:
    """Return the training configuration of each method, attribute (thresholds, bins) and seed of a study.

    Raises
    ------
    InputUnsupportedError
        [train] says what to draw by, which a study says elsewhere: its runs would have the same name.
    """
    if study.train.bins:
        raise InputUnsupportedError(
            "[train] sets bins, and a study draws by each of its own attributes",
            place="[train]",
            remedy="set [groups] bins, and attributes = ['bins'] beside methods",
        )
    by: dict[str, list[dict[str, Any]]] = {
        "thresholds": [{"threshold": tau} for tau in study.groups.thresholds],
        "bins": [{"bins": study.groups.bins}] if study.groups.bins else [],
    }
    train = study.train.model_dump()
    rows = [(method, parse(TrainConfig, {**train, "method": method}, place="methods")) for method in study.methods]
    rows += [(variant.name, variant.settings(study.train)) for variant in study.runs]
    runs = []
    for seed, kind in product(study.seeds, study.attributes):
        for settings in by[kind]:
            common = {"seed": seed, **settings}
            own = [(name, row.model_copy(update=common)) for name, row in rows]
            for _, row in own:
                if row.bins and row.groups_from:
                    continue  # a pseudo-attribute takes the place of the bins
                base = dict(own)[row.groups_from].run_name if row.groups_from else ""
                runs.append(row.model_copy(update={"groups_from": base}))
    runs = runs if study.features is None else [head_settings(run) for run in runs]
    require_search(runs, study.tune)
    return [run for run in runs if run.seed == study.seeds[0] or _is_seeded(study, run)]


def predict_split(
    study: StudyConfig, runs: Sequence[TrainConfig], batch: BatchOptions, *, progress: Progress | None = None
) -> list[Outcome]:
    """Predict the slides of the study's `predict_split` with the run that validation prefers, fold by fold."""
    assert study.manifest is not None
    rows = read_manifest(study.manifest, strict=False, distinct_patients=None).included
    is_choice = len(runs) > 1  # a single run needs no validation to be preferred
    outcomes: list[Outcome] = []
    for part in training_folders(study.work):
        table = artefacts.read_table(WorkFolder(part).groups)
        wanted = table if study.predict_split == "all" else table[table["split"] == study.predict_split]
        ids = set(wanted["slide_id"])
        cohort = [row for row in rows if row.slide_id in ids]
        run = _preferred(part, study.groups.thresholds) if is_choice else runs[0].run_name
        model = WorkFolder(part).model(run)
        outcomes += predict_cohort(cohort, model, study.work, study.predict, batch, progress=progress)
    return outcomes


def _preferred(work: Path, thresholds: Sequence[float]) -> str:
    """Return the run that validation prefers at the first threshold at which no validation group is empty."""
    from pathopatch.evaluation.compare import preferred_run

    table = artefacts.read_table(WorkFolder(work).groups)
    filled = [cut for cut in thresholds if not empty_groups(table, attribute_in(table, cut), ("val",))]
    return preferred_run(work, threshold=(filled or thresholds)[0])
