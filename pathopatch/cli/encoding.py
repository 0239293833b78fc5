"""The command encode."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from pathopatch.cli.options import Force, MemoryGb, Quiet, RetryFailed, Settings, SlideMpp, Timeout, Workers, limits
from pathopatch.cli.output import finish, progress_bars, say
from pathopatch.core.text import parse_number


def _show_encoders(is_wanted: bool) -> None:
    if not is_wanted:
        return
    from pathopatch.features.encoders import ENCODERS

    for entry in ENCODERS.values():
        scale = "any um/px" if entry.mpp is None else f"{entry.mpp:g} um/px"
        form = f"{entry.dim:5} {entry.pooling:8} {entry.crop:22} {scale:10}"
        print(f"{entry.name:19} {form} {entry.source} ({entry.licence})")
    raise typer.Exit


def encode(
    source: Annotated[
        str, typer.Argument(help="Tiled work folder, manifest (.csv), or slide.", metavar="WORK|MANIFEST|SLIDE")
    ],
    encoder: Annotated[
        str, typer.Option(help="Name (see --list), or a TorchScript or ONNX file, or a folder of transformers.")
    ],
    weights: Annotated[
        Path | None, typer.Option(help="File or folder with the encoder's weights; nothing is downloaded.")
    ] = None,
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="Work folder for the features. Default: WORK.")
    ] = None,
    pooling: Annotated[
        str | None, typer.Option(help="cls, mean, cls+mean, tissue-mean or layer3. Default: the publisher's.")
    ] = None,
    mpp: Annotated[float | None, typer.Option(help="um per px of the patches. Default: the encoder's.")] = None,
    channels: Annotated[
        str | None, typer.Option(help="Channels given as red, green and blue, such as CARS,TPEF,SHG.")
    ] = None,
    min_tissue: Annotated[float | None, typer.Option(help="Least tissue fraction of a patch. Default: 0.01.")] = None,
    devices: Annotated[
        str, typer.Option(help="auto, cpu, or GPUs such as 0,1, each with a process of its own.")
    ] = "auto",
    precision: Annotated[
        str | None, typer.Option(help="float32, bfloat16 or float16. Default: float16 on GPUs, float32 on processors.")
    ] = None,
    batch: Annotated[int | None, typer.Option(min=1, help="Patches at a time. Default: 64.")] = None,
    input_px: Annotated[int | None, typer.Option(help="Of a file: side of its input.")] = None,
    mean: Annotated[
        str | None, typer.Option(help="Of a file: mean of each channel in [0, 1], such as 0.5,0.5,0.5.")
    ] = None,
    std: Annotated[str | None, typer.Option(help="Of a file: standard deviation of each channel.")] = None,
    slide_mpp: SlideMpp = None,
    slide_id: Annotated[str | None, typer.Option(help="Id of a single slide; default: the file's stem.")] = None,
    settings: Settings = None,
    _list: Annotated[
        bool, typer.Option("--list", callback=_show_encoders, is_eager=True, help="List the encoders known by name.")
    ] = False,
    workers: Workers = 1,
    timeout: Timeout = None,
    memory_gb: MemoryGb = None,
    retry_failed: RetryFailed = False,
    quiet: Quiet = False,
    force: Force = False,
) -> None:
    """Encode patches into features by a pathology encoder whose weights are at hand."""
    from pathopatch.core.config import EncodeConfig, load_settings, parse
    from pathopatch.stages.encode import encode_cohort

    given = {
        "encoder": encoder, "weights": weights, "pooling": pooling, "mpp": mpp, "min_tissue": min_tissue,
        "batch": batch, "precision": precision, "input_px": input_px, "mean": _numbers(mean), "std": _numbers(std),
        "channels": channels and tuple(name.strip() for name in channels.split(",")),
        "devices": tuple(devices.split(",")),
    }  # fmt: skip
    config = parse(
        EncodeConfig, {name: value for name, value in given.items() if value is not None}, place="command line"
    )
    with progress_bars(quiet) as progress:
        encoded = encode_cohort(
            source,
            config,
            out,
            tiling=None if settings is None else load_settings(settings, reads=("tile",)).tile,
            slide_id=slide_id,
            slide_mpp=slide_mpp,
            workers=workers,
            **limits(timeout, memory_gb),
            only_failed=retry_failed,
            force=force,
            progress=progress,
        )
    for note in encoded.notes:
        say(note)
    print(encoded.folder)
    if encoded.labels is not None:
        say(f"labels of the patches: {encoded.labels}")
    finish(encoded.outcomes)


def _numbers(text: str | None) -> tuple[float, ...] | None:
    """Return the numbers of a list such as 0.5,0.5,0.5."""
    try:
        return None if text is None else tuple(parse_number(part) for part in text.split(","))
    except ValueError as error:
        raise typer.BadParameter(f"{text!r} is no list of numbers") from error
