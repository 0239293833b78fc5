"""Commands to look after work folders, models and the machine: status, clean, verify, doctor."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from pathopatch.cli.options import Quiet
from pathopatch.cli.output import say


def status(
    out: Annotated[Path, typer.Argument(help="Work folder.", metavar="OUT")],
    slides: Annotated[bool, "List every slide, however many there are."] = False,
    ignore: Annotated[
        str | None, "List the failure of this slide in ignore.csv: it spoils no exit code any more."
    ] = None,
    why: Annotated[str | None, "With --ignore: the reason."] = None,
    check: Annotated[bool, "Read every predicted slide's file, not only where size or time differ."] = False,
    quiet: Annotated[bool, "The exit code only."] = False,
) -> None:
    """Say what became of the slides: their states, and the error of each that failed; exit 3 if some did."""
    from pathopatch.stages.batch.summaries import status_summary

    if bool(ignore) != bool(why):
        raise typer.BadParameter("--ignore SLIDE and --why REASON go together")
    if ignore and why:
        from pathopatch.stages.batch.run_summary import ignore_failure

        ignore_failure(out, ignore, why)
        return
    summary = status_summary(out, check=check)
    if not quiet:
        print(summary.text(all_slides=slides))
    if summary.exit_code:
        raise typer.Exit(summary.exit_code)


def clean(
    out: Annotated[Path, typer.Argument(help="Work folder.", metavar="OUT")],
    dry_run: Annotated[bool, "Only list what would go."] = False,
    quiet: Quiet = False,
    force: Annotated[bool, "Also what may be another machine's."] = False,
) -> None:
    """Remove temporary files of processes that have ended."""
    from pathopatch.stages import clean as cleaning

    findings = (cleaning.find if dry_run else cleaning.clean)(out, force=force)
    for finding in findings:
        if not finding.goes:
            say(f"kept: {finding.path}: {finding.reason}")
        elif not quiet:
            print(f"{'would remove' if dry_run else 'removed'}: {finding.path}: {finding.reason}")
    gone = [finding for finding in findings if finding.goes]
    freed = sum(finding.bytes for finding in gone) / 1e9
    print(f"{len(gone)} {'would be removed' if dry_run else 'removed'}, {freed:.3f} GB")


def verify(
    bundle: Annotated[Path, typer.Argument(help="Model bundle, run, or export of a model.", metavar="BUNDLE")],
    write: Annotated[bool, "Take the model's answers of now, by torch, as those to compare with."] = False,
    quiet: Quiet = False,
) -> None:
    """Compare a model's answers to 16 made patches with those that it gave when it was written."""
    from pathopatch.core.errors import InputCorruptError
    from pathopatch.stages.export import verify_model

    verified = verify_model(bundle, write=write)
    for one in verified if not quiet else ():
        print(f"{'--' if one.problem else 'ok'}  {one.runtime}: largest difference {one.difference:.2g}")
    if problems := "; ".join(f"{one.runtime}: {one.problem}" for one in verified if one.problem):
        raise InputCorruptError(problems, place=str(bundle), remedy="copy it again, or use a program that agrees")


def doctor(
    out: Annotated[
        Path | None, typer.Argument(help="Work folder, whose drive is asked whether it shares locks.", metavar="OUT")
    ] = None,
    get_viewer: Annotated[bool, "First fetch the review page's viewer with npm, if it is missing."] = False,
) -> None:
    """Say what this machine has, what is missing, and how to get it."""
    from pathopatch.stages.doctor import examine, examine_locks

    if get_viewer:
        from pathopatch.review import viewer

        viewer.fetch()

    for name, value, remedy in [*examine(), *([] if out is None else examine_locks(out))]:
        print(f"--  {name}: {value}   get it: {remedy}" if remedy else f"ok  {name}: {value}")
