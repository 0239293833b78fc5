"""Commands that export models and reviews: export torchscript, onnx, wsinfer, review."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from pathopatch.cli.options import Force, Quiet

Bundle = Annotated[Path, typer.Argument(help="Model bundle, runs/<run>/model.", metavar="BUNDLE", show_default=False)]
Folder = Annotated[Path | None, typer.Option("--out", "-o", help="Folder to write; default: <run>-<format>.")]


def export_torchscript(bundle: Bundle, out: Folder = None, quiet: Quiet = False, force: Force = False) -> None:
    """Write a model as TorchScript: patches in [0, 1] to probabilities."""
    from pathopatch.stages import export

    print(export.export_torchscript(bundle, out, force=force))


def export_onnx(bundle: Bundle, out: Folder = None, quiet: Quiet = False, force: Force = False) -> None:
    """Write a model as ONNX: patches in [0, 1] to probabilities. Needs the extra `export`."""
    from pathopatch.stages import export

    print(export.export_onnx(bundle, out, force=force))


def export_wsinfer(bundle: Bundle, out: Folder = None, quiet: Quiet = False, force: Force = False) -> None:
    """Write a model of 8-bit RGB slides for wsinfer and QuPath's wsinfer extension."""
    from pathopatch.stages import export

    print(export.export_wsinfer(bundle, out, force=force))


def export_review(
    out: Annotated[Path, typer.Argument(help="Folder of predictions.", metavar="OUT", show_default=False)],
    file: Annotated[
        Path | None, typer.Option("--out", "-o", help="CSV or JSON file to write; default: review.csv.")
    ] = None,
    quiet: Quiet = False,
    force: Force = False,
) -> None:
    """Write what reviewers decided: CSV for spreadsheets and `groups --decisions`, or JSON."""
    from pathopatch.stages import export

    print(export.export_review(out, file, force=force))
