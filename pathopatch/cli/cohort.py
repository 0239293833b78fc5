"""The command manifest."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from pathopatch.cli.options import Quiet
from pathopatch.cli.output import progress_bars, say, say_left_out
from pathopatch.core.text import pluralize

_MOST_SHOWN = 20


def manifest(
    folder: Annotated[
        Path, typer.Argument(help="Folder with slides, at any depth.", metavar="FOLDER", show_default=False)
    ],
    out: Annotated[
        Path, typer.Option("--out", "-o", help="CSV file to write, such as cohort.csv.", show_default=False)
    ],
    pattern: Annotated[
        str | None,
        typer.Option(help="How files are named, such as '{slide}_{channel}.tif'; {patient} and * may stand in it."),
    ] = None,
    quiet: Quiet = False,
    force: Annotated[bool, typer.Option("--force", help="Replace the file if it is there.")] = False,
) -> None:
    """Write a manifest of all slides below a folder: channels grouped, masks and outlines paired, patients proposed."""
    from pathopatch.stages.manifest import make_manifest

    with progress_bars(quiet) as progress:
        written = make_manifest(folder, out, pattern=pattern, force=force, progress=progress)
    lines = written.table()
    if not quiet:
        _show(lines)
    say_left_out(written.left_out, folder)
    say(
        f"patients: from {written.patients}; check them"
        if written.patients
        else "patients: names and folders show none, so each slide is a patient of its own; correct patient_id before "
        "training, since one patient in two splits makes results too good"
    )
    if unknown := [found.row.slide_id for found in written.slides if found.mpp is None]:
        few = ", ".join(unknown[:3]) + (", …" if len(unknown) > 3 else "")
        say(f"um/px unknown: {pluralize(len(unknown), 'slide')} ({few}); fill the column mpp")
    sets = sum(isinstance(found.row.source, dict) for found in written.slides)
    say(f"{pluralize(len(lines), 'slide')}, {sets} of them with a file per channel; next: pathopatch check {out}")
    print(out)


def _show(lines: list[dict[str, str]]) -> None:
    """Print a table, of many lines the first."""
    header = {name: name for name in lines[0]}
    shown = [header, *lines[:_MOST_SHOWN]]
    for line in shown:
        cells = (f"{line[name]:{max(len(other[name]) for other in shown)}}" for name in header)
        say("  ".join(cells).rstrip())
    if len(lines) > _MOST_SHOWN:
        say(f"… and {pluralize(len(lines) - _MOST_SHOWN, 'further slide')}")
