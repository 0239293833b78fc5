"""Commands to use a model and read results: predict, report."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from pathopatch.cli.options import (
    DryRun,
    Force,
    MemoryGb,
    Out,
    Quiet,
    RetryFailed,
    Settings,
    SlideMpp,
    Timeout,
    TrainDevice,
    Work,
    Workers,
    in_bytes,
    with_options,
)
from pathopatch.cli.output import finish, progress_bars, say, show_plan
from pathopatch.core.work_folder import WorkFolder


def predict(
    source: Annotated[
        str,
        typer.Argument(help="Slide, CARS=a.tif,TPEF=b.tif,SHG=c.tif, or a manifest (.csv).", metavar="SLIDE|MANIFEST"),
    ],
    model: Annotated[
        list[Path],
        typer.Option(
            help="Model bundle: the folder model/ of a run; repeat for several, whose mean is taken.",
            show_default=False,
        ),
    ],
    out: Out,
    slide_mpp: SlideMpp = None,
    slide_id: Annotated[str | None, typer.Option(help="Id of a single slide; default: the file's stem.")] = None,
    stride_px: Annotated[int | None, typer.Option(help="Step between patches; default: the bundle's.")] = None,
    all_patches: Annotated[bool, typer.Option("--all", help="Predict patches without tissue too.")] = False,
    min_tissue: Annotated[float | None, typer.Option(help="Least tissue fraction; default: the bundle's.")] = None,
    max_bad_tiles: Annotated[
        float | None,
        typer.Option(help="Share of a slide's area that may be undecodable, such as 0.02; its patches have no value."),
    ] = None,
    tta: Annotated[
        bool, typer.Option("--tta", help="Mean over the eight flips and quarter turns of each patch.")
    ] = False,
    deidentify: Annotated[
        bool, typer.Option("--deidentify", help="Name neither files nor patients: slides are called by their content.")
    ] = False,
    device: TrainDevice = None,
    settings: Settings = None,
    workers: Workers = 1,
    timeout: Timeout = None,
    memory_gb: MemoryGb = None,
    retry_failed: RetryFailed = False,
    no_totals: Annotated[
        bool, typer.Option("--no-totals", help="Leave cohort.csv and patients.csv to a later `pathopatch index`.")
    ] = False,
    dry_run: DryRun = False,
    quiet: Quiet = False,
    force: Force = False,
) -> None:
    """Predict one slide or a cohort: table, heatmap, overlay, and files for other viewers."""
    from pathopatch.core.config import PredictConfig, load_settings
    from pathopatch.slides.manifest import pseudonymize
    from pathopatch.stages.predict import predict_cohort, slides_to_predict

    config = with_options(
        PredictConfig() if settings is None else load_settings(settings, reads=("predict",)).predict,
        all_patches=all_patches or None,
        min_tissue=min_tissue,
        max_bad_tiles=max_bad_tiles,
        stride_px=stride_px,
        device=device,
        tta=tta or None,
        deidentify=deidentify or None,
    )
    cohort = slides_to_predict(source, slide_id=slide_id)
    if config.deidentify:
        named, cohort = cohort, pseudonymize(cohort)
        for before, after in zip(named, cohort, strict=True):
            say(f"{before.slide_id} is {after.slide_id}")  # on the screen alone
    if dry_run:
        from pathopatch.stages.dry_run import predict_plan

        show_plan(predict_plan(cohort, model, config, slide_mpp=slide_mpp, out=out, force=force), workers)
        return
    with progress_bars(quiet) as progress:
        outcomes = predict_cohort(
            cohort,
            model,
            out,
            config,
            slide_mpp=slide_mpp,
            workers=workers,
            limit_s=timeout,
            limit_bytes=in_bytes(memory_gb),
            only_failed=retry_failed,
            totals=not no_totals,
            force=force,
            progress=progress,
        )
    for outcome in outcomes:
        if outcome.state != "failed":
            print(WorkFolder(out).heatmap(outcome.slide_id) / "overlay.png")
    finish(outcomes)


def report(work: Work, quiet: Quiet = False, force: Force = False) -> None:
    """Write report/index.html from whatever is in a work folder; it opens without a network."""
    from pathopatch.report import write_report

    print(write_report(work))
