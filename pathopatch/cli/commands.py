"""List all commands, in the order in which `pathopatch --help` shows them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any

import typer

from pathopatch.cli import exporting, predicting, reviewing, slides, studies, training, upkeep
from pathopatch.core.version import __version__

_COMMANDS: tuple[Callable[..., Any], ...] = (
    slides.check,
    slides.info,
    slides.tile,
    slides.tissue,
    training.groups,
    training.audit,
    training.train,
    training.tune,
    training.evaluate,
    predicting.predict,
    predicting.report,
    reviewing.review,
    studies.run,
    studies.demo,
    upkeep.status,
    upkeep.index,
    upkeep.clean,
    upkeep.doctor,
)
_EXPORTS: dict[str, Callable[..., Any]] = {
    "ome-zarr": slides.export_ome_zarr,
    "torchscript": exporting.export_torchscript,
    "onnx": exporting.export_onnx,
    "wsinfer": exporting.export_wsinfer,
    "review": exporting.export_review,
}

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


for command in _COMMANDS:
    app.command()(command)

exports = typer.Typer(help="Write what was read or found in other programs' formats.", no_args_is_help=True)
for name, command in _EXPORTS.items():
    exports.command(name)(command)
app.add_typer(exports, name="export")
