"""Define the options that several commands share, and how they enter the configuration."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypedDict

import typer

from pathopatch.core.method_names import METHOD_NAMES
from pathopatch.core.text import parse_number

if TYPE_CHECKING:
    from pathopatch.core.config import Config

Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="No progress, results only.")]
Force = Annotated[bool, typer.Option("--force", help="Redo outputs that were made with other settings or inputs.")]
Work = Annotated[Path, typer.Argument(help="Work folder.", metavar="WORK", show_default=False)]
Manifest = Annotated[Path, typer.Argument(help="Table with a row a slide.", metavar="MANIFEST", show_default=False)]
Out = Annotated[Path, typer.Option("--out", "-o", help="Work folder for the outputs.", show_default=False)]
Settings = Annotated[
    Path | None, typer.Option("--config", help="TOML of a study, or of settings alone, for what has no option here.")
]
Threshold = Annotated[
    float | None, typer.Option(help="Threshold of the tissue fraction that forms the groups. Default: 0.25.")
]
Device = Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:N.")]
Runtime = Annotated[
    str | None,
    typer.Option(help="What runs the network: openvino (processors), torch, or auto (default): torch on GPUs alone."),
]
WarnShift = Annotated[float | None, typer.Option(help="Warn of channels shifted by more um. Default: 2.")]
Workers = Annotated[int, typer.Option(min=1, help="Worker processes, one slide at a time in each.")]
Timeout = Annotated[
    float | None, typer.Option(min=1, help="Give up a slide that takes more seconds, in a process of its own.")
]
MemoryGb = Annotated[
    float | None, typer.Option(min=0.1, help="Give up a slide for which a process of its own holds more GB.")
]
RetryFailed = Annotated[bool, typer.Option("--retry-failed", help="Only the slides that failed before.")]
Source = Annotated[str, typer.Argument(help="Slide, or CARS=a.tif,TPEF=b.tif,SHG=c.tif.", metavar="SLIDE")]
SlideMpp = Annotated[float | None, typer.Option(help="The slides' own um per px, where their files state none.")]
Method = Annotated[
    str | None,
    typer.Option(help=f"{', '.join(METHOD_NAMES)}. Default: gerne."),
]
TrainDevice = Annotated[str | None, typer.Option(help="auto (default), cpu, cuda or cuda:N.")]
Bins = Annotated[str, typer.Option(help="Cuts of an attribute of several bins, such as 0.3,0.5.")]
Intervene = Annotated[
    str | None,
    typer.Option(help="Share of each class's patches composed to another tissue area, in (0, 1], or auto."),
]
Head = Annotated[
    str | None, typer.Option(help="On features: linear (default), solved to convergence, or mlp with a hidden layer.")
]
Strict = Annotated[
    bool, typer.Option("--strict", help="Refuse all where a file is missing, in place of failing its slide alone.")
]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Only say what there is to do, and how long it takes.")]


def cuts(text: str) -> tuple[float, ...] | None:
    """Return the numbers of a list such as 0.3,0.5; None if it is empty."""
    try:
        return tuple(parse_number(part) for part in text.split(",")) if text else None
    except ValueError as error:
        raise typer.BadParameter(f"{text!r} is no list of numbers") from error


class Limits(TypedDict):
    """Limits of a slide, as stages take them."""

    limit_s: float | None
    limit_bytes: float | None


def limits(timeout: float | None, memory_gb: float | None) -> Limits:
    """Return the limits of a slide."""
    return {"limit_s": timeout, "limit_bytes": memory_gb and 1e9 * memory_gb}


def require_no_limits(timeout: float | None, memory_gb: float | None) -> None:
    """Refuse limits in a dry run, which opens all slides in its own process and could not give one up."""
    if timeout or memory_gb:
        raise typer.BadParameter("--dry-run obeys no --timeout and no --memory-gb: leave them out")


def with_options(config: Config, **values: object) -> Any:
    """Return a configuration with the given options in place of its own; None leaves a value as it is."""
    from pathopatch.core.config import parse

    given = {key: value for key, value in values.items() if value is not None}
    return parse(type(config), {**config.model_dump(), **given}, place="command line")
