"""What one types to train and to judge: groups, audit, train, tune, evaluate."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from pathopatch.cli.options import Device, Force, Method, Quiet, Threshold, Work, with_options
from pathopatch.cli.output import progress_bars

if TYPE_CHECKING:
    from pathopatch.config import TrainConfig


def groups(
    work: Work,
    threshold: Annotated[list[float] | None, typer.Option(help="Repeat for several.")] = None,
    bins: Annotated[str, typer.Option(help="Edges of an attribute of several values, such as 0.3,0.5.")] = "",
    min_tissue: Annotated[float, typer.Option(help="Below this share a patch is blank glass.")] = 0.01,
    split_seed: Annotated[
        int, typer.Option(help="Seed of the split by patient where the manifest leaves it open.")
    ] = 0,
    quiet: Quiet = False,
    force: Force = False,
) -> None:
    """Form the (label, tissue) groups at each threshold and print the counts."""
    from pathopatch import pipeline
    from pathopatch.config import GroupsConfig

    edges = tuple(_number(edge) for edge in bins.split(",")) if bins else None
    config = with_options(
        GroupsConfig(),
        thresholds=tuple(threshold) if threshold else None,
        bins=edges,
        min_tissue=min_tissue,
        split_seed=split_seed,
    )
    pipeline.groups(work, config, force=force)
    if not quiet:
        print(pipeline.audit_text(work))


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError as error:
        raise typer.BadParameter(f"{text!r} is not a number") from error


def audit(work: Work, quiet: Quiet = False, force: Force = False) -> None:
    """Print how strong the tissue-area shortcut is: counts, p(a|y), and the fraction's own AUROC."""
    from pathopatch import pipeline

    print(pipeline.audit_text(work))


def train(
    work: Work,
    method: Method = "gerne",
    threshold: Threshold = 0.25,
    c: Annotated[float | None, typer.Option(help="gerne: how far the less biased batch goes, in (0, 1].")] = None,
    beta: Annotated[float | None, typer.Option(help="gerne: extrapolation, inside the bounds.")] = None,
    seed: Annotated[int, typer.Option(help="Seed of weights, batches and augmentation.")] = 0,
    device: Device = "auto",
    name: Annotated[str | None, typer.Option(help="Ending of the run's folder name.")] = None,
    config: Annotated[
        Path | None, typer.Option(help="Study TOML whose [train] table holds all other settings.")
    ] = None,
    steps: Annotated[int | None, typer.Option(min=1, help="Training steps.")] = None,
    learning_rate: Annotated[float | None, typer.Option(help="Learning rate.")] = None,
    pretrained: Annotated[
        str | None, typer.Option(help="none, efficientnet-lite0 (extra `pretrained`), or a file of weights.")
    ] = None,
    quiet: Quiet = False,
    force: Force = False,
) -> None:
    """Train one run and keep its model bundle; under torchrun on several GPUs or processes together."""
    from pathopatch import pipeline
    from pathopatch.training.ranks import is_first_process

    settings = with_options(
        _train_settings(config),
        method=method,
        threshold=threshold,
        c=c,
        beta=beta,
        seed=seed,
        device=device,
        name=name,
        steps=steps,
        learning_rate=learning_rate,
        pretrained=pretrained,
    )
    is_first = is_first_process()
    with progress_bars(quiet or not is_first) as progress:
        folder = pipeline.train(work, settings, force=force, progress=progress)
    if is_first:
        print(folder)


def _train_settings(config: Path | None) -> TrainConfig:
    from pathopatch.config import TrainConfig, load_study

    return TrainConfig() if config is None else load_study(config).train


def tune(
    work: Work,
    method: Method = "gerne",
    threshold: Threshold = 0.25,
    objective: Annotated[str | None, typer.Option(help="What validation selects by: wga or gba. Default: wga.")] = None,
    trials: Annotated[int | None, typer.Option(min=1, help="Trials, equal for every method. Default: 8.")] = None,
    seed: Annotated[int, typer.Option(help="Seed of search, weights and batches.")] = 0,
    device: Device = "auto",
    name: Annotated[str | None, typer.Option(help="Ending of the run's folder name.")] = None,
    config: Annotated[
        Path | None, typer.Option(help="Study TOML whose [train] and [tune] tables hold the rest.")
    ] = None,
    steps: Annotated[int | None, typer.Option(min=1, help="Training steps of each trial.")] = None,
    quiet: Quiet = False,
    force: Force = False,
) -> None:
    """Search learning rate, weight decay and s = c (beta + 1) by the worst group on validation."""
    from pathopatch import pipeline
    from pathopatch.config import TuneConfig, load_study

    study = load_study(config) if config else None
    search = with_options((study and study.tune) or TuneConfig(), objective=objective, trials=trials)
    settings = with_options(
        _train_settings(config), method=method, threshold=threshold, seed=seed, device=device, name=name, steps=steps
    )
    with progress_bars(quiet) as progress:
        print(pipeline.tune(work, settings, search, force=force, progress=progress))


def evaluate(
    work: Work,
    run: Annotated[list[str] | None, typer.Option(help="Run to judge; repeat for several. Default: all.")] = None,
    device: Device = "auto",
    quiet: Quiet = False,
    force: Force = False,
) -> None:
    """Judge trained runs on every group and print the comparison."""
    from pathopatch import pipeline
    from pathopatch.config import EvaluateConfig

    with progress_bars(quiet) as progress:
        pipeline.evaluate(work, run, EvaluateConfig(), device=device, force=force, progress=progress)
    print(pipeline.comparison_text(work))
