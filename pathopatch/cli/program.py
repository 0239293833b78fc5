"""List all commands by the panels of `pathopatch --help`; start and end the program: signals and exit codes."""

from __future__ import annotations

import io
import os
import signal
import sys
import traceback
from collections.abc import Callable
from typing import Annotated, Any

import typer

from pathopatch.cli import cohort, encoding, exporting, predicting, slides, training, upkeep
from pathopatch.cli.output import interrupt_note, say
from pathopatch.core.version import __version__

_COMMANDS: dict[str, tuple[Callable[..., Any], ...]] = {
    "Predict": (predicting.predict, slides.info),
    "Review and export": (predicting.review, predicting.report, upkeep.index),
    "Data": (cohort.manifest, slides.check, slides.tile, slides.tissue, encoding.encode),
    "Audit": (training.groups, training.audit),
    "Train and study": (training.run, training.train, training.tune, training.evaluate, training.mil, training.demo),
    "Tools": (upkeep.status, upkeep.doctor, upkeep.clean),
}
"""The commands of each panel of `pathopatch --help`."""
_EXPORTS: dict[str, Callable[..., Any]] = {
    "ome-zarr": slides.export_ome_zarr,
    "torchscript": exporting.export_torchscript,
    "onnx": exporting.export_onnx,
    "openvino": exporting.export_openvino,
    "wsinfer": exporting.export_wsinfer,
    "qupath": exporting.export_qupath,
    "review": exporting.export_review,
    "regions": exporting.export_regions,
    "agreement": exporting.export_agreement,
}
_IMPORTS: dict[str, Callable[..., Any]] = {"wsinfer": exporting.import_wsinfer}

_HELP = (
    "Patch-wise tumour classification that does not learn the tissue-area shortcut. "
    "Research use only, not for diagnosis."
)

app = typer.Typer(
    name="pathopatch",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)


def _show_version(is_wanted: bool) -> None:
    if is_wanted:
        print(f"pathopatch {__version__}")
        raise typer.Exit


@app.callback(help=_HELP)
def _program(
    version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Say which version this is.")
    ] = False,
) -> None:
    pass


for panel, commands in _COMMANDS.items():
    for command in commands:
        app.command(rich_help_panel=panel)(command)

exports = typer.Typer(help="Write what was read or found in other programs' formats.", no_args_is_help=True)
for name, command in _EXPORTS.items():
    exports.command(name)(command)
app.add_typer(exports, name="export", rich_help_panel="Review and export")

imports = typer.Typer(help="Take over models from other programs' formats.", no_args_is_help=True)
for name, command in _IMPORTS.items():
    imports.command(name)(command)
app.add_typer(imports, name="import", rich_help_panel="Review and export")


class _Terminated(BaseException):
    """SIGTERM arrived."""


def main() -> None:
    """Run the command line and exit with the codes that the docstring of `pathopatch.cli` lists."""
    signal.signal(signal.SIGTERM, _on_sigterm)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # a name that cannot be shown must not stop the work on it
            stream.reconfigure(errors="backslashreplace")
    try:
        code = app(standalone_mode=False)
    except (KeyboardInterrupt, typer.Abort):
        code = 130
    except _Terminated:
        say(f"terminated; {interrupt_note()}")
        code = 143
    except Exception as error:
        code = _report(error)
    if code == 130:  # typer may have turned the interrupt into this code itself
        say(f"interrupted; {interrupt_note()}")
    sys.exit(code if isinstance(code, int) else 0)


def _report(error: Exception) -> int:
    """Print an error and return its exit code, that of a wrong usage included."""
    show = getattr(error, "show", None)
    if callable(show):  # click's own usage errors
        show()
        return int(getattr(error, "exit_code", 2))
    from pathopatch.core.errors import InternalError, with_code

    known = with_code(error)
    if known is not error and os.environ.get("PATHOPATCH_TRACE"):
        traceback.print_exception(error)
    if known is not error and isinstance(known, InternalError):
        known.remedy = "this is a fault of pathopatch; run again with PATHOPATCH_TRACE=1 and report what it prints"
    say(f"error: {known}")
    return 1


def _on_sigterm(_number: int, _frame: object) -> None:
    raise _Terminated
