"""The command encode."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from pathopatch.cli.options import ConfigFile, Fields, SlideId, SlideMpp, batch_arguments
from pathopatch.cli.output import finish, progress_bars, say
from pathopatch.core.config import BatchOptions, EncodeConfig, TileConfig


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
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="Work folder for the features. Default: WORK.")
    ] = None,
    slide_mpp: SlideMpp = None,
    slide_id: SlideId = None,
    config: ConfigFile = None,
    _list: Annotated[
        bool, typer.Option("--list", callback=_show_encoders, is_eager=True, help="List the encoders known by name.")
    ] = False,
    *,
    settings: Annotated[
        EncodeConfig,
        Fields("encoder weights pooling mpp channels min_tissue devices precision batch input_px mean std"),
    ],
    tiling: Annotated[TileConfig, Fields()],
    run: Annotated[BatchOptions, Fields("workers memory_gb retry_failed quiet force", timeout="timeout_s")],
) -> None:
    """Encode patches into features by a pathology encoder whose weights are at hand."""
    from pathopatch.stages.encode import encode_cohort

    with progress_bars(run.quiet) as progress:
        encoded = encode_cohort(
            source,
            settings,
            out,
            tiling=None if config is None else tiling,
            slide_id=slide_id,
            slide_mpp=slide_mpp,
            **batch_arguments(run),
            progress=progress,
        )
    for note in encoded.notes:
        say(note)
    print(encoded.folder)
    if encoded.labels is not None:
        say(f"labels of the patches: {encoded.labels}")
    finish(encoded.outcomes, run)
