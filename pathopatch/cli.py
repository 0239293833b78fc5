"""What one types: one command is one stage; the only place that prints, catches broadly and exits.

Results go to standard output, progress to standard error. Exit codes: 0 all well; 1 nothing succeeded, or the manifest
or configuration is wrong; 2 wrong usage; 3 finished, some slides failed; 130 interrupted; 143 terminated.
"""

from __future__ import annotations

import os
import signal
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from pathopatch.batch import Outcome
    from pathopatch.config import Config, TrainConfig
    from pathopatch.pipeline import Progress
    from pathopatch.plan import Plan

app = typer.Typer(
    name="pathopatch",
    help="Patch-wise tumour classification that does not learn the tissue-area shortcut. "
    "Research use only, not for diagnosis.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)

exports = typer.Typer(help="Write what was read or found in other programs' formats.", no_args_is_help=True)
app.add_typer(exports, name="export")

Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="No progress, results only.")]
Force = Annotated[bool, typer.Option("--force", help="Redo outputs that were made otherwise.")]
Work = Annotated[Path, typer.Argument(help="Work folder.", metavar="WORK", show_default=False)]
Manifest = Annotated[Path, typer.Argument(help="CSV with a row a slide.", metavar="MANIFEST", show_default=False)]
Out = Annotated[Path, typer.Option("--out", "-o", help="Work folder for the outputs.", show_default=False)]
Threshold = Annotated[float, typer.Option(help="Threshold of the tissue fraction that forms the groups.")]
Device = Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:N.")]
WarnShift = Annotated[float | None, typer.Option(help="Warn of channels shifted by more um. Default: 2.")]
Workers = Annotated[int, typer.Option(min=1, help="Worker processes, one slide at a time in each.")]


class _Terminated(BaseException):
    """SIGTERM arrived."""


def main() -> None:
    """Run the command line and exit with the codes of the module's docstring."""
    signal.signal(signal.SIGTERM, _on_sigterm)
    from pathopatch.errors import PathopatchError

    try:
        code = app(standalone_mode=False)
    except PathopatchError as error:
        _say(f"error: {error}")
        code = 1
    except (KeyboardInterrupt, typer.Abort):
        code = 130
    except _Terminated:
        _say("terminated; finished outputs are kept, run the same command again to go on")
        code = 143
    except Exception as error:
        code = _unforeseen(error)
    if code == 130:  # typer may have turned the interrupt into this code itself
        _say("interrupted; finished outputs are kept, run the same command again to go on")
    sys.exit(code if isinstance(code, int) else 0)


def _unforeseen(error: Exception) -> int:
    """Return the exit code of a wrong usage, or report a fault of this package."""
    show = getattr(error, "show", None)
    if callable(show):  # click's own usage errors
        show()
        return int(getattr(error, "exit_code", 2))
    if os.environ.get("PATHOPATCH_TRACE"):
        traceback.print_exception(error)
    _say(
        f"error: INTERNAL: {type(error).__name__}: {error} Remedy: this is a fault of pathopatch; run again with "
        "PATHOPATCH_TRACE=1 and report what it prints"
    )
    return 1


def _on_sigterm(_number: int, _frame: object) -> None:
    raise _Terminated


def _say(text: str) -> None:
    print(text, file=sys.stderr)


@contextmanager
def _progress(quiet: bool) -> Iterator[Progress | None]:
    """Yield a callback that draws one bar per task with rate and times on standard error; None when quiet."""
    if quiet:
        yield None
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
    from rich.progress import Progress as Bars

    bars = Bars(
        TextColumn("{task.description}"),
        BarColumn(bar_width=24),
        MofNCompleteColumn(),
        TextColumn("{task.fields[rate]}"),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[note]}"),
        console=Console(stderr=True),
    )
    tasks: dict[str, Any] = {}

    def advance(what: str, done: int, total: int, note: str = "") -> None:
        if what not in tasks:
            tasks[what] = bars.add_task(what, total=total, note=note, rate="")
        task = bars.tasks[bars.task_ids.index(tasks[what])]
        rate = f"{task.speed:.1f}/s" if task.speed else ""
        bars.update(tasks[what], completed=done, total=total, note=note, rate=rate)

    with bars:
        yield advance


def _with(config: Config, **values: object) -> Any:
    """Return a configuration with the given options in place of its own; None leaves a value as it is."""
    from pathopatch.config import parse

    given = {key: value for key, value in values.items() if value is not None}
    return parse(type(config), {**config.model_dump(), **given}, place="command line")


def _finish(outcomes: list[Outcome]) -> None:
    """Print what became of the slides and exit with the batch's code."""
    from collections import Counter

    from pathopatch.batch import exit_code

    for outcome in outcomes:
        if outcome.state == "failed":
            _say(f"failed: {outcome.slide_id}: {outcome.message}")
        elif outcome.state == "done_empty":
            _say(f"warning: {outcome.slide_id}: no tissue found, its outputs are empty (done_empty)")
        for warning in outcome.warnings:
            _say(f"warning: {outcome.slide_id}: {warning}")
    states = Counter(outcome.state for outcome in outcomes)
    print("slides: " + ", ".join(f"{count} {state}" for state, count in sorted(states.items())))
    if code := exit_code(outcomes):
        raise typer.Exit(code)


def _show_plan(plan: Plan, workers: int) -> None:
    """Print a plan and the slides that cannot be worked on, and exit as the stage would."""
    print(plan.text(workers))
    for outcome in plan.failed:
        _say(f"failed: {outcome.slide_id}: {outcome.message}")
    if plan.exit_code:
        raise typer.Exit(plan.exit_code)


@app.command()
def check(
    manifest: Manifest,
    out: Annotated[Path | None, typer.Option("--out", "-o", help="Work folder for slides.parquet.")] = None,
    quick: Annotated[bool, typer.Option("--quick", help="Do not look for tissue, shifts and saturation.")] = False,
    warn_shift_um: WarnShift = None,
    quiet: Quiet = False,
    force: Force = False,
) -> None:
    """Check a manifest and open every slide in it; report every problem in one go, and what each slide is."""
    from pathopatch import pipeline

    measure = None if quick else _looking(warn_shift_um)
    with _progress(quiet) as progress:
        slides = pipeline.check(manifest, out, measure=measure, force=force, progress=progress)
    shown = slides.drop(columns=["source", "fingerprint", "bounds", "warnings"], errors="ignore")
    print(shown.to_string(index=False, na_rep="-", float_format="{:.4g}".format))
    for row in slides.to_dict("records"):
        for warning in row.get("warnings", ()):
            _say(f"warning: {row['slide_id']}: {warning}")


def _looking(warn_shift_um: float | None, background: str | None = None) -> Any:
    """Return the settings by which pixels are looked at where nothing is tiled."""
    from pathopatch.config import RegistrationConfig, TileConfig, TissueConfig

    registration = _with(RegistrationConfig(), warn_um=warn_shift_um)
    return _with(TileConfig(), registration=registration, tissue=_with(TissueConfig(), background=background))


@app.command()
def info(
    source: Annotated[str, typer.Argument(help="Slide, or CARS=a.tif,TPEF=b.tif,SHG=c.tif.", metavar="SLIDE")],
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="PNG file of the picture. Default: <slide_id>-info.png here.")
    ] = None,
    slide_mpp: Annotated[float | None, typer.Option(help="The slide's own um per px, where its file has none.")] = None,
    slide_id: Annotated[str | None, typer.Option(help="Id of the slide; default: the file's stem.")] = None,
    background: Annotated[str, typer.Option(help="auto, dark or bright.")] = "auto",
    warn_shift_um: WarnShift = None,
    quiet: Quiet = False,
    force: Force = False,
) -> None:
    """Say what a slide is, and draw it with its tissue outlined."""
    from pathopatch import pipeline

    (row,) = pipeline.slides_to_predict(source, slide_id=slide_id, is_slide=True)
    picture = Path(f"{row.slide_id}-info.png") if out is None else out
    described = pipeline.describe(row, _looking(warn_shift_um, background), slide_mpp=slide_mpp, picture=picture)
    width = max(len(name) for name, _ in described.lines())
    for name, text in [*described.lines(), ("picture", str(picture))]:
        print(f"{name:{width}}  {text}")
    for warning in described.warnings:
        _say(f"warning: {row.slide_id}: {warning}")


@app.command()
def tile(
    out: Out,
    manifest: Annotated[
        Path | None, typer.Argument(help="CSV with a row a slide.", metavar="MANIFEST", show_default=False)
    ] = None,
    patches: Annotated[
        Path | None, typer.Option(help="In place of a manifest: a CSV or folder of ready patches.", show_default=False)
    ] = None,
    patch_px: Annotated[int | None, typer.Option(help="Patch side, px at the target mpp. Default: 256.")] = None,
    stride_px: Annotated[int | None, typer.Option(help="Step between patches; default: patch_px.")] = None,
    mpp: Annotated[float | None, typer.Option(help="Target um per px; default: the slides' own.")] = None,
    background: Annotated[str | None, typer.Option(help="auto, dark or bright. Default: auto.")] = None,
    store: Annotated[str | None, typer.Option(help="zarr (default), or none to keep the table only.")] = None,
    settings: Annotated[
        Path | None, typer.Option("--config", help="Study TOML whose [tile] table holds all other settings.")
    ] = None,
    align: Annotated[bool, typer.Option("--align", help="Move the channels onto each other by whole pixels.")] = False,
    warn_shift_um: WarnShift = None,
    workers: Workers = 1,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Only say what there is to do, and how long it takes.")
    ] = False,
    quiet: Quiet = False,
    force: Force = False,
) -> None:
    """Cut the slides into patches, measure their tissue, label them, and store them."""
    from pathopatch import pipeline
    from pathopatch.config import TileConfig, load_study

    if (manifest is None) == (patches is None):
        raise typer.BadParameter("give a MANIFEST or --patches, one of the two")
    base = load_study(settings).tile if settings else TileConfig()
    parts = {
        "tissue": _with(base.tissue, background=background),
        "registration": _with(base.registration, align=align or None, warn_um=warn_shift_um),
    }
    config = _with(base, patch_px=patch_px, stride_px=stride_px, mpp=mpp, store=store, **parts)
    if patches is not None:
        if patch_px or stride_px or dry_run:
            raise typer.BadParameter(
                "ready patches are as they are: --patch-px, --stride-px and --dry-run are not theirs"
            )
        with _progress(quiet) as progress:
            _finish(pipeline.tile_patches(patches, out, config, force=force, progress=progress))
        return
    assert manifest is not None
    if dry_run:
        from pathopatch.plan import tile_plan

        _show_plan(tile_plan(manifest, config, out=out, force=force), workers)
        return
    with _progress(quiet) as progress:
        outcomes = pipeline.tile(manifest, out, config, workers=workers, force=force, progress=progress)
    _finish(outcomes)


@app.command()
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
    config = _with(
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


@app.command()
def audit(work: Work, quiet: Quiet = False, force: Force = False) -> None:
    """Print how strong the tissue-area shortcut is: counts, p(a|y), and the fraction's own AUROC."""
    from pathopatch import pipeline

    print(pipeline.audit_text(work))


@app.command()
def train(
    work: Work,
    method: Annotated[str, typer.Option(help="erm, erm-balanced, resample, groupdro or gerne.")] = "gerne",
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
    """Train one run and keep its model bundle."""
    from pathopatch import pipeline

    settings = _with(
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
    with _progress(quiet) as progress:
        print(pipeline.train(work, settings, force=force, progress=progress))


def _train_settings(config: Path | None) -> TrainConfig:
    from pathopatch.config import TrainConfig, load_study

    return TrainConfig() if config is None else load_study(config).train


@app.command()
def tune(
    work: Work,
    method: Annotated[str, typer.Option(help="erm, erm-balanced, resample, groupdro or gerne.")] = "gerne",
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
    search = _with((study and study.tune) or TuneConfig(), objective=objective, trials=trials)
    settings = _with(
        _train_settings(config), method=method, threshold=threshold, seed=seed, device=device, name=name, steps=steps
    )
    with _progress(quiet) as progress:
        print(pipeline.tune(work, settings, search, force=force, progress=progress))


@app.command()
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

    with _progress(quiet) as progress:
        pipeline.evaluate(work, run, EvaluateConfig(), device=device, force=force, progress=progress)
    print(pipeline.comparison_text(work))


@app.command()
def predict(
    source: Annotated[
        str,
        typer.Argument(help="Slide, CARS=a.tif,TPEF=b.tif,SHG=c.tif, or a manifest (.csv).", metavar="SLIDE|MANIFEST"),
    ],
    model: Annotated[Path, typer.Option(help="Model bundle: the folder model/ of a run.", show_default=False)],
    out: Out,
    slide_mpp: Annotated[float | None, typer.Option(help="The slide's own um per px, where its file has none.")] = None,
    slide_id: Annotated[str | None, typer.Option(help="Id of a single slide; default: the file's stem.")] = None,
    stride_px: Annotated[int | None, typer.Option(help="Step between patches; default: the bundle's.")] = None,
    all_patches: Annotated[bool, typer.Option("--all", help="Predict patches without tissue too.")] = False,
    min_tissue: Annotated[float | None, typer.Option(help="Least tissue fraction; default: the bundle's.")] = None,
    device: Device = "auto",
    workers: Workers = 1,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Only say what there is to do, and how long it takes.")
    ] = False,
    quiet: Quiet = False,
    force: Force = False,
) -> None:
    """Predict one slide or a cohort: table, heatmap, overlay, and files for other viewers."""
    from pathopatch import pipeline
    from pathopatch.config import PredictConfig

    config = _with(PredictConfig(), all_patches=all_patches, min_tissue=min_tissue, stride_px=stride_px, device=device)
    cohort = pipeline.slides_to_predict(source, slide_id=slide_id)
    if dry_run:
        from pathopatch.plan import predict_plan

        _show_plan(predict_plan(cohort, model, config, slide_mpp=slide_mpp, out=out, force=force), workers)
        return
    with _progress(quiet) as progress:
        outcomes = pipeline.predict(
            cohort, model, out, config, slide_mpp=slide_mpp, workers=workers, force=force, progress=progress
        )
    for outcome in outcomes:
        if outcome.state != "failed":
            print(out / "heatmaps" / outcome.slide_id / "overlay.png")
    _finish(outcomes)


@exports.command("ome-zarr")
def export_ome_zarr(
    source: Annotated[str, typer.Argument(help="Slide, or CARS=a.tif,TPEF=b.tif,SHG=c.tif.", metavar="SLIDE")],
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="Folder to write; default: <slide id>.ome.zarr.")
    ] = None,
    version: Annotated[str, typer.Option(help="OME-Zarr 0.4 (Zarr v2) or 0.5 (Zarr v3, shards).")] = "0.5",
    slide_mpp: Annotated[float | None, typer.Option(help="The slide's own um per px, where its file has none.")] = None,
    slide_id: Annotated[str | None, typer.Option(help="Name of the image; default: the file's stem.")] = None,
    quiet: Quiet = False,
    force: Force = False,
) -> None:
    """Write a whole slide as an OME-Zarr pyramid that other viewers open."""
    from pathopatch import pipeline

    if version not in ("0.4", "0.5"):
        raise typer.BadParameter(f"{version!r} is not 0.4 or 0.5")
    with _progress(quiet) as progress:
        path = pipeline.export_ome_zarr(
            source,
            out,
            version="0.4" if version == "0.4" else "0.5",
            slide_id=slide_id,
            slide_mpp=slide_mpp,
            force=force,
            progress=progress,
        )
    print(path)


@app.command()
def report(work: Work, quiet: Quiet = False, force: Force = False) -> None:
    """Write report/index.html from whatever is in a work folder; it opens without a network."""
    from pathopatch import pipeline

    print(pipeline.report(work))


@app.command()
def run(
    study: Annotated[Path, typer.Argument(help="TOML study file.", metavar="STUDY.toml", show_default=False)],
    workers: Workers = 1,
    quiet: Quiet = False,
    force: Force = False,
) -> None:
    """Run a whole study, from the manifest to the report."""
    from pathopatch import pipeline
    from pathopatch.config import load_study

    settings = load_study(study)
    with _progress(quiet) as progress:
        outcomes = pipeline.run_study(settings, workers=workers, force=force, progress=progress)
    print(pipeline.audit_text(settings.work))
    print(pipeline.comparison_text(settings.work))
    print(f"report: {settings.work / 'report' / 'index.html'}")
    _finish(outcomes)


@app.command()
def demo(
    out: Annotated[Path, typer.Option("--out", "-o", help="Work folder.")] = Path("demo-work"),
    seeds: Annotated[int, typer.Option(min=0, help="Study over seeds 1 to N in place of the one-seed demo.")] = 0,
    jobs: Annotated[int, typer.Option(min=0, help="Training runs side by side; 0: one a core.")] = 0,
    quiet: Quiet = False,
    force: Force = False,
) -> None:
    """Make multimodal slides of known truth with the shortcut built in, and run everything on them."""
    from pathopatch.demo import study

    with _progress(quiet) as progress:
        if seeds:
            print(study.run_seeds(out, seeds=seeds, jobs=jobs, force=force, progress=progress))
        else:
            print(study.run_demo(out, jobs=jobs, force=force, progress=progress))


@app.command()
def clean(
    out: Annotated[Path, typer.Argument(help="Work folder.", metavar="OUT", show_default=False)],
    store: Annotated[
        bool, typer.Option("--store", help="Also the pixels of slides tiled to the end; they are read from the slides.")
    ] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only list what would go.")] = False,
    quiet: Quiet = False,
    force: Annotated[
        bool, typer.Option("--force", help="Also what may be another machine's, and pixels whose slide is gone.")
    ] = False,
) -> None:
    """Remove temporary files of processes that have ended and, on request, pixels that can be read again."""
    from pathopatch import clean as cleaning

    findings = (cleaning.find if dry_run else cleaning.clean)(out, store=store, force=force)
    for finding in findings:
        if not finding.goes:
            _say(f"kept: {finding.path}: {finding.reason}")
        elif not quiet:
            print(f"{'would remove' if dry_run else 'removed'}: {finding.path}: {finding.reason}")
    gone = [finding for finding in findings if finding.goes]
    freed = sum(finding.bytes for finding in gone) / 1e9
    print(f"{len(gone)} {'would be removed' if dry_run else 'removed'}, {freed:.3f} GB")


@app.command()
def doctor(quiet: Quiet = False, force: Force = False) -> None:
    """Say what this machine has, what is missing, and how to get it."""
    from pathopatch.doctor import examine

    for finding in examine():
        mark = "ok  " if finding.is_well else "--  "
        print(f"{mark}{finding.name}: {finding.value}" + (f"   get it: {finding.remedy}" if finding.remedy else ""))


if __name__ == "__main__":
    main()
