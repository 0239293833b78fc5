"""Commands to train and evaluate: groups, audit, train, evaluate; and all stages at once: run, demo."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from pathopatch.cli.options import ConfigFile, Fields, Force, Quiet, SlideMpp, Work, numbers, refuse, typed_options
from pathopatch.cli.output import finish, progress_bars, say

if TYPE_CHECKING:
    from pathopatch.core.config import (
        BatchOptions,
        EvaluateConfig,
        GroupsConfig,
        PredictConfig,
        SplitsConfig,
        TileConfig,
        TrainConfig,
        TuneConfig,
    )


def groups(
    context: typer.Context,
    work: Work,
    decisions: Annotated[
        Path | None, "An exported review: rejected slides drop out, relabelled patches change their label."
    ] = None,
    disputes: Annotated[
        Literal["stop", "leave-out"],
        "Slides and patches on which reviewers differ: stop and list them, or leave them out.",
    ] = "stop",
    from_run: Annotated[
        str | None, "Form groups by the training patches of each class that this run finds hardest."
    ] = None,
    hard_share: Annotated[
        str, "With --from-run: the share of each class that is hard; several, separated by commas."
    ] = "0.1",
    config: ConfigFile = None,
    quiet: Quiet = False,
    force: Force = False,
    *,
    settings: Annotated[GroupsConfig, Fields("bins min_tissue min_scanned split_seed", threshold="thresholds")],
    splits: Annotated[SplitsConfig, Fields("folds")],
) -> None:
    """Form the (label, tissue) groups at each threshold and print the counts.

    With --from-run: form groups by what a trained model finds hard, beside those that are there.
    """
    from pathopatch.stages.audit import counts_text
    from pathopatch.stages.groups import form_groups, form_hard_groups
    from pathopatch.stages.train import training_folders

    if from_run is not None:
        others = "decisions disputes bins min_tissue min_scanned split_seed threshold folds"
        refuse(context, {"it goes without --from-run": others})
        shares = numbers(hard_share)
        with progress_bars(quiet) as progress:
            text = form_hard_groups(training_folders(work), from_run, shares, force=force, progress=progress)
        print(text)
        return
    refuse(context, {"it goes with --from-run": "hard_share"})
    form_groups(
        work, settings, folds=splits.folds, distinct_patients=splits.distinct_patients, decisions=decisions,
        disputes=disputes, force=force,
    )  # fmt: skip
    if not quiet:
        print(counts_text(work))


def audit(
    context: typer.Context,
    work: Annotated[
        Path | None, typer.Argument(help="Work folder, where slides or features are in one.", metavar="WORK")
    ] = None,
    features: Annotated[Path | None, "In place of WORK: folder of feature files, of any tool."] = None,
    labels: Annotated[
        Path | None,
        "With --features: CSV with slide_id, x, y, label; optional patient_id, split, tissue_fraction, "
        "slide_label. Or labels of slides alone: slide_id, slide_label; optional patient_id, split.",
    ] = None,
    layout: Annotated[str, "With --features: the tool that wrote them, where it is not clear."] = "auto",
    slides: Annotated[Path | None, "With --features: folder of the slides, to measure tissue on."] = None,
    attribute: Annotated[str | None, "With --features: column of the labels to audit in place of tissue."] = None,
    slide_mpp: SlideMpp = None,
    out: Annotated[Path, "With --features: work folder for the outputs."] = Path("features-audit"),
    config: ConfigFile = None,
    *,
    settings: Annotated[GroupsConfig, Fields(threshold="thresholds")],
    splits: Annotated[SplitsConfig, Fields()],
    batch: Annotated[BatchOptions, Fields("workers quiet force")],
) -> None:
    """Say before training how strong the tissue-area shortcut is, and what groups of these sizes can measure."""
    if features is not None:
        if work is not None:
            raise typer.BadParameter("--features goes without WORK; -o names the work folder")
        if labels is None:
            raise typer.BadParameter("--features needs --labels: a CSV with slide_id, x, y, label")
        from pathopatch.stages.feature_audit import audit_features

        with progress_bars(batch.quiet) as progress:
            text = audit_features(
                out,
                features,
                labels,
                settings,
                layout=layout,
                slides=slides,
                attribute=attribute,
                slide_mpp=slide_mpp,
                distinct_patients=splits.distinct_patients,
                workers=batch.workers,
                force=batch.force,
                progress=progress,
            )
        print(text)
        return
    if work is None:
        raise typer.BadParameter("give WORK, or --features and --labels")
    of_features = "labels layout slides attribute slide_mpp workers threshold config"
    refuse(context, {"it goes with --features": of_features})
    from pathopatch.stages.feature_audit import work_audit_text

    print(work_audit_text(work, force=batch.force))


Asked = Annotated[
    list[str] | None,
    typer.Argument(
        help="Model bundle, or the folder of its run; then slides or folders of slides, a manifest, or a tiled work"
        " folder. No labels are needed. With --pack slides alone, with --answers nothing.",
        metavar="[MODEL] SLIDES|FOLDER|MANIFEST|WORK",
    ),
]
_OF_MODEL = "per_slide record device"
_OF_PACK, _OF_ANSWERS = "images seed patch_px mpp", "answers_are score yes decision"
_AUDIT_MODEL_REFUSES = {
    "MODEL": {"it goes with --pack": f"answers {_OF_PACK} {_OF_ANSWERS}"},
    "--pack": {"it goes without --pack": _OF_MODEL, "it goes with --answers": f"out fail_on {_OF_ANSWERS}"},
    "--answers": {"it goes without --pack": _OF_MODEL, "it goes without --answers": f"{_OF_PACK} slide_mpp"},
}
"""Options that are refused where a model is asked, a pack is made, and answers to it are judged, by the reason."""


def audit_model(
    context: typer.Context,
    what: Asked = None,
    out: Annotated[Path | None, "Folder for the outputs."] = None,
    per_slide: Annotated[int, typer.Option(min=1, help="Patches of a slide at most, spread over the area.")] = 50,
    fail_on: Annotated[Literal["relies", "nothing"], "End with exit code 1 if the model relies on area."] = "nothing",
    record: Annotated[bool, "Write the verdict into the bundle and its card."] = False,
    pack: Annotated[
        Path | None, "Ask what cannot be loaded: write edited patches as images into this folder, to be answered."
    ] = None,
    images: Annotated[int, "With --pack: about so many; from 2000 on each patch is asked as a model is."] = 600,
    seed: Annotated[int | None, "With --pack: draw as before. Default: nobody can guess it."] = None,
    answers: Annotated[
        Path | None, "Judge answers to --pack: a table of image and score, or of places, or GeoJSON."
    ] = None,
    answers_are: Annotated[
        Literal["probability", "logit", "score", "yes-no"] | None,
        "What the answers are. Default: words are yes/no, numbers in [0, 1] probabilities.",
    ] = None,
    score: Annotated[str | None, "Column or measurement of the answer. Default: the only one."] = None,
    yes: Annotated[str | None, "Word for tumour."] = None,
    decision: Annotated[float | None, "Answers above it are tumour. Default: probability 0.5, logit 0."] = None,
    slide_mpp: SlideMpp = None,
    config: ConfigFile = None,
    quiet: Quiet = False,
    force: Force = False,
    *,
    settings: Annotated[PredictConfig, Fields("device")],
    tiling: Annotated[TileConfig, Fields("patch_px mpp")],
    splits: Annotated[SplitsConfig, Fields()],
) -> None:
    """Ask a model whether its answers follow the tissue area: set the area of patches, and ask again.

    With --pack the question goes out as images, and --answers reads what a program, a service or a person answered.
    """
    from pathopatch.stages import audit_model as stage
    from pathopatch.stages import pack as packs

    named = list(what or ())
    refuse(context, _AUDIT_MODEL_REFUSES["MODEL" if pack is None else "--pack" if answers is None else "--answers"])
    if pack is None:
        if len(named) < 2 or out is None:
            raise typer.BadParameter("give MODEL, SLIDES and --out; or --pack for what cannot be loaded")
        options: dict[str, Any] = {"per_slide": per_slide, "slide_mpp": slide_mpp, "record": record, "force": force}
        ask = partial(stage.audit_model, [Path(named[0])], out=out, config=settings, **options)
        result = _find_and_ask(ask, named[1:], out, splits, quiet)
    elif answers is None:
        if not quiet:
            say(packs.plan_text(images, tiling.patch_px))
        options = {"images": images, "seed": seed, "slide_mpp": slide_mpp, "force": force}
        ask = partial(packs.make_pack, out=pack, config=tiling, **options)
        _show_pack(pack, _find_and_ask(ask, named, pack, splits, quiet))
        return
    else:
        if named or out is None:
            raise typer.BadParameter("--answers goes with --pack and --out alone")
        options = {"kind": answers_are, "column": score, "yes": yes, "decision": decision}
        result = packs.judge_answers(pack, answers, out, force=force, **options)
    print(stage.result_text(result))
    if fail_on == "relies" and result["verdict"] == "relies":
        raise typer.Exit(1)
    if result["failed"]:
        raise typer.Exit(3)


def _find_and_ask(
    ask: Callable[..., dict[str, Any]], sources: list[str], out: Path, splits: SplitsConfig, quiet: bool
) -> dict[str, Any]:
    """Find the slides that a command line names, and ask about them."""
    from pathopatch.stages.area_samples import find_sources

    with progress_bars(quiet) as progress:
        found = find_sources(sources, out=out, distinct_patients=splits.distinct_patients, progress=progress)
        return ask(sources=found, progress=progress)


def _show_pack(pack: Path, about: dict[str, Any]) -> None:
    """Print what a pack holds and what to do with it; exit 3 if a slide could not be read."""
    for name, reason in about["failed"].items():
        say(f"left out {name}: {reason}")
    print(f"{about['images']} images of {about['patches']} patches: send {pack / 'send'}, keep the rest")
    if about["failed"]:
        raise typer.Exit(3)


def train(
    context: typer.Context,
    work: Work,
    config: ConfigFile = None,
    *,
    settings: Annotated[
        TrainConfig,
        Fields(
            "method frozen choose threshold bins gerne.c gerne.beta groups_from hard_share mask sensitivity"
            " steps learning_rate pretrained seed device name",
            intervene="composing.share",
        ),
    ],
    search: Annotated[TuneConfig, Fields("trials objective")],
    batch: Annotated[BatchOptions, Fields("quiet force")],
) -> None:
    """Train one run and keep its model bundle; with --trials search its settings by the worst group on validation.

    Under torchrun several GPUs or processes train one run together.
    """
    from pathopatch.stages.train import is_first_process, recommended, search_plan_text, train_run

    if settings.choose:
        refuse(context, {"validation chooses it: leave it out, or choose": "method mask"})
    settings, chosen = recommended(work, settings)
    of_search = search.model_fields_set.difference(["objective"] if typed_options(context, "objective") else ())
    is_search, is_first = bool(of_search), is_first_process()
    if chosen and is_first and not batch.quiet:
        say(chosen)
    if not is_search:
        refuse(context, {"it is of a search: give --trials": "objective"})
    elif not batch.quiet:
        say(search_plan_text(work, settings, search))
    with progress_bars(batch.quiet or not is_first) as progress:
        folder = train_run(work, settings, search if is_search else None, force=batch.force, progress=progress)
    if is_first:
        print(folder)


def evaluate(
    context: typer.Context,
    work: Work,
    run: Annotated[list[str] | None, "Run to evaluate; repeat for several. Default: all."] = None,
    model: Annotated[Path | None, "Model bundle from anywhere, evaluated on the labelled patches of WORK."] = None,
    split: Annotated[
        list[str] | None, "With --model: split to evaluate; repeat. Default: all labelled patches."
    ] = None,
    name: Annotated[str | None, "With --model: folder below evaluations/. Default: the bundle's name."] = None,
    config: ConfigFile = None,
    quiet: Quiet = False,
    force: Force = False,
    *,
    settings: Annotated[PredictConfig, Fields("device runtime")],
    evaluation: Annotated[EvaluateConfig, Fields()],
) -> None:
    """Evaluate trained runs on every group and print the comparison, or evaluate one model from elsewhere.

    Without --config runs are evaluated as the study of WORK does.
    """
    from pathopatch.stages.evaluate import comparison_of_runs, evaluate_model, evaluate_runs

    machine: dict[str, Any] = {"device": settings.device, "runtime": settings.runtime}
    if model is None:
        refuse(context, {"it goes with --model": "split name"})
    else:
        refuse(context, {"it is of runs: --model goes without it": "run config"})
        print(evaluate_model(work, model, splits=split, name=name, **machine, force=force))
        return
    with progress_bars(quiet) as progress:
        table = evaluate_runs(work, run, evaluation if config else None, **machine, force=force, progress=progress)
    print(comparison_of_runs(work, table))


def run(
    study: Annotated[Path, typer.Argument(help="TOML study file.", metavar="STUDY.toml")],
    workers: Annotated[
        int | None,
        typer.Option(min=1, help="Worker processes, one slide at a time in each. Default: as [batch] says, 1."),
    ] = None,
    until: Annotated[
        Literal["tile", "groups", "train", "evaluate", "predict", "report"], "The last stage to run."
    ] = "report",
    quiet: Quiet = False,
    force: Force = False,
) -> None:
    """Run a whole study, from the manifest to the report."""
    from pathopatch.core.config import load_study
    from pathopatch.stages.audit import audit_text
    from pathopatch.stages.evaluate import comparison_of_runs
    from pathopatch.stages.study import plan_text, run_study

    settings = load_study(study)
    if not quiet and (plan := plan_text(settings)):
        say(plan)
    with progress_bars(quiet) as progress:
        result = run_study(settings, until=until, workers=workers, force=force, progress=progress)
    if until != "tile":
        print(audit_text(settings.work))
    if result.comparison is not None:
        print(comparison_of_runs(settings.work, result.comparison))
    if until == "report":
        print(f"report: {settings.work / 'report' / 'index.html'}")
    finish(result.outcomes, untrained=result.untrained)


def demo(
    out: Annotated[Path, "Work folder."] = Path("demo-work"),
    jobs: Annotated[int, typer.Option(min=0, help="Training runs side by side; 0: one a core.")] = 0,
    quiet: Quiet = False,
    force: Force = False,
) -> None:
    """Make eight multimodal slides of known truth with the shortcut built in, and show plain and debiased training."""
    from pathopatch.demo.quick import run_quick

    with progress_bars(quiet) as progress:
        text = run_quick(out, jobs=jobs, force=force, progress=progress)
    print(text)
