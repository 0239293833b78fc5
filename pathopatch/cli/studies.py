"""Commands that run every stage: run, demo."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from pathopatch.cli.options import Force, Quiet, Workers
from pathopatch.cli.output import finish, progress_bars, say


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
    from pathopatch.evaluation import comparison_table
    from pathopatch.stages.audit import audit_text
    from pathopatch.stages.study import run_study, study_runs

    settings = load_study(study)
    if settings.tune and not quiet:
        from pathopatch.training import search_text

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
    out: Annotated[Path, typer.Option("--out", "-o", help="Work folder.")] = Path("demo-work"),
    seeds: Annotated[int, typer.Option(min=0, help="Study over seeds 1 to N in place of the one-seed demo.")] = 0,
    jobs: Annotated[int, typer.Option(min=0, help="Training runs side by side; 0: one a core.")] = 0,
    quiet: Quiet = False,
    force: Force = False,
) -> None:
    """Make multimodal slides of known truth with the shortcut built in, and run everything on them."""
    from pathopatch.demo import study

    with progress_bars(quiet) as progress:
        if seeds:
            print(study.run_seeds(out, seeds=seeds, jobs=jobs, force=force, progress=progress))
        else:
            print(study.run_demo(out, jobs=jobs, force=force, progress=progress))
