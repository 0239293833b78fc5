"""Train runs, and search their settings: the command `train`, and the training of a study."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

from pathopatch.core.config import LEARNT_BY_STEPS, LINEAR_HEAD, TrainConfig, TuneConfig
from pathopatch.core.errors import DiskFullError, InputUnsupportedError, PathopatchError, StaleArtefactError, with_code
from pathopatch.core.task import Progress
from pathopatch.core.work_folder import FOLDS, WorkFolder
from pathopatch.core.workers import Workers
from pathopatch.stages.batch.run import Call, Failure, each_slide

_CHOSEN = {"method", "mask", "frozen", "choose", "bins", "composing", "gerne", "groupdro", "groups_from", "interior"}
"""Settings by which a user has chosen how to train."""
_VIEW = ("frozen", "choose", "mask", "interior", "architecture", "pretrained", "timm_args", "input_px", "pooling")
"""Settings on which the features of a frozen network depend."""


def recommended(work: Path, config: TrainConfig) -> tuple[TrainConfig, str]:
    """Return settings that say how to train as they are, others with those that do best; and a line that says what.

    That is a frozen network of whose heads validation chooses one, see docs/understand/methods.md. Where a setting
    speaks of a network that is learnt in steps, it is `auto`, masked if that network is our own. The line is empty for
    settings that say how, and of features, on which `gerne` stays.
    """
    from pathopatch.core.artefacts import read_table
    from pathopatch.features.cohort import is_feature_cohort
    from pathopatch.groups import threshold_attributes

    is_chosen = bool(_CHOSEN & config.model_fields_set) or config.architecture == LINEAR_HEAD
    if is_chosen or is_feature_cohort(work) or not WorkFolder(work).groups.is_file():
        return config, ""
    given: dict[str, Any] = {name: getattr(config, name) for name in config.model_fields_set}
    is_of_tissue = not threshold_attributes(read_table(WorkFolder(work).groups))[0].is_patch_attribute
    if not LEARNT_BY_STEPS & given.keys():
        own = {"choose": True} if is_of_tissue else {}
        chosen = TrainConfig.model_validate(given | {"frozen": True} | own)
        what = "validation chooses masked erm, masked resample or erm on crops" if is_of_tissue else "gerne"
        what = "masked erm or crops, without validation" if is_of_tissue and chosen.select == "last" else what
        return chosen, f"train: {chosen.architecture}, frozen; {what}. From scratch: [train] architecture"
    if not is_of_tissue:
        return config, ""
    given |= {"method": "auto"}
    if "architecture" not in given:
        given |= {"mask": "normalise", "name": config.name or "masked"}
    chosen = TrainConfig.model_validate(given)
    return chosen, f"train: {chosen.architecture} by {chosen.method}, mask {chosen.mask}"


def check_networks(configs: Sequence[TrainConfig]) -> None:
    """Refuse before the first of several runs what `network_of` refuses of any, naming the row."""
    from pathopatch.training.fit import network_to_train

    names = ("architecture", "timm_args", "pretrained", "mask", "input_px", "interior")
    for config in {repr([getattr(config, name) for name in names]): config for config in reversed(configs)}.values():
        try:
            network_to_train(config)
        except InputUnsupportedError as error:
            place = f"row {config.row_name or config.method!r}, {error.place}"
            raise InputUnsupportedError(error.message, place=place, remedy=error.remedy) from error


def train_run(
    work: Path,
    config: TrainConfig,
    search: TuneConfig | None = None,
    *,
    force: bool = False,
    progress: Progress | None = None,
) -> Path:
    """Train one run, in each fold of a cross-validation; return ``runs/<name>``, or ``folds`` of several.

    With `search` its settings are searched by validation first, and the winner is kept.
    """
    from pathopatch.training.group_checks import runs_with_groups

    require_search([config], search)
    parts = training_folders(work)
    runs_with_groups(parts, [config])  # refuse before the first of several folds is trained
    folders = [_train(part, search, force, config, progress) for part in parts]
    return folders[0] if len(folders) == 1 else work / FOLDS


def require_search(configs: Sequence[TrainConfig], search: TuneConfig | None) -> None:
    """Refuse a search where every run is a head of a frozen network."""
    if search is not None and all(config.frozen for config in configs):
        raise InputUnsupportedError(
            "a head of a frozen network is solved exactly, and no trials are made of it",
            place="[tune] trials",
            remedy="leave it out: validation compares the heads of each penalty by [train] select; or name a network "
            "to train in steps, such as [train] architecture = 'small-groupnorm'",
        )


def is_first_process() -> bool:
    """Return whether this process is the one that prints, of several that train one run under torchrun."""
    from pathopatch.training import distributed

    return distributed.is_first_process()


def search_plan_text(work: Path, config: TrainConfig, search: TuneConfig) -> str:
    """Say what a search of a run's settings would try, in how many steps."""
    from pathopatch.training.run import cohort_settings
    from pathopatch.training.search import search_text

    require_search([config], search)
    return search_text([cohort_settings(work, config)], search)


def training_folders(work: Path) -> list[Path]:
    """Return the work folders in which runs are trained: those of the folds, or the work folder itself."""
    from pathopatch.evaluation.pooled import fold_folders

    return fold_folders(work) or [work]


def train_many(
    work: Path,
    configs: Sequence[TrainConfig],
    search: TuneConfig | None,
    *,
    processes: Workers | None = None,
    force: bool = False,
    progress: Progress | None = None,
) -> dict[str, PathopatchError]:
    """Train, or tune where `search` is given, several runs; return the errors of those that failed, by name.

    With `processes` each run is trained in one of them. A run that fails does not stop the others.

    Raises
    ------
    StaleArtefactError
        A run was trained with other settings; raised last, since the other runs are worth keeping.
    DiskFullError
        Nothing more can be written.
    """
    from pathopatch.training.distributed import refuse_torchrun

    refuse_torchrun("a study")
    errors: dict[str, PathopatchError] = {}
    if processes is None:
        for config in configs:
            try:
                _train(work, search, force, config, progress)
            except DiskFullError:
                raise
            except (PathopatchError, OSError, RuntimeError, ValueError) as error:  # as of a job: memory, drives, torch
                errors[config.run_name] = with_code(error, place=config.run_name)
    else:
        views = [repr([getattr(config, name) for name in _VIEW]) for config in configs]
        # Rows of one view wait for the first one's features: those of different views begin.
        earlier = [views[:number].count(view) for number, view in enumerate(views)]
        ordered = [configs[number] for number in sorted(range(len(configs)), key=earlier.__getitem__)]
        calls = [Call(config.run_name, partial(_train, work, search, force, config, None)) for config in ordered]
        for call, result in each_slide(Call.__call__, calls, processes, bar=_step(work, search), progress=progress):
            if isinstance(result, Failure):
                errors[call.slide_id] = result.error
    for failure in errors.values():
        if isinstance(failure, StaleArtefactError | DiskFullError):
            raise failure
    return errors


def keep_to_one_thread() -> None:
    """Keep this process to one thread: those of several that share the cores wait for each other half of the time."""
    import torch
    from threadpoolctl import threadpool_limits

    import pathopatch.training.run  # noqa: F401  # what it loads has threads of its own

    torch.set_num_threads(1)
    threadpool_limits(1)


def _step(work: Path, search: TuneConfig | None) -> str:
    """Return what is done in a work folder: ``train``, or ``tune fold 2`` in that of a fold."""
    fold = f" fold {work.name}" if work.parent.name == FOLDS else ""
    return f"{'train' if search is None else 'tune'}{fold}"


def _train(work: Path, search: TuneConfig | None, force: bool, config: TrainConfig, progress: Progress | None) -> Path:
    """Train one run in one work folder, or tune it where `search` is given; return its folder ``runs/<name>``."""
    from pathopatch.training.distributed import refuse_torchrun
    from pathopatch.training.run import fit
    from pathopatch.training.tune import tune

    def show_step(step: int, total: int, measures: dict[str, float]) -> None:
        assert progress is not None
        shown = " ".join(f"{key} {value:.3f}" for key, value in measures.items() if isinstance(value, float))
        progress(f"{_step(work, search)} {config.run_name}", step, total, shown)

    on_step = None if progress is None else show_step
    if search is None or config.frozen:  # whose search is a part of solving its head
        return fit(work, config, force=force, progress=on_step)
    refuse_torchrun("tuning")
    return tune(work, config, search, force=force, progress=on_step)
