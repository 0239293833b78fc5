"""Commands on slides: check, info, tile, tissue."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import typer

from pathopatch.cli.options import (
    DryRun,
    Force,
    Manifest,
    MemoryGb,
    Out,
    Quiet,
    RetryFailed,
    Settings,
    SlideMpp,
    Source,
    Strict,
    Timeout,
    WarnShift,
    Work,
    Workers,
    limits,
    require_no_limits,
    with_options,
)
from pathopatch.cli.output import finish, progress_bars, say, say_warnings, show_plan


def check(
    manifest: Manifest,
    out: Annotated[Path | None, typer.Option("--out", "-o", help="Work folder for slides.parquet.")] = None,
    quick: Annotated[bool, typer.Option("--quick", help="Do not look for tissue, shifts and saturation.")] = False,
    slides_per_part: Annotated[
        int | None,
        typer.Option(min=1, help="Open no slide: write the manifest in parts of so many slides to OUT/parts/."),
    ] = None,
    slide_mpp: SlideMpp = None,
    warn_shift_um: WarnShift = None,
    settings: Settings = None,
    timeout: Timeout = None,
    memory_gb: MemoryGb = None,
    quiet: Quiet = False,
    force: Force = False,
) -> None:
    r"""Check a manifest and open every slide and mask in it; report every problem in one go, and what each slide is.

    With --config the settings of its table \[tile] hold, and the class names of annotations must be among them.
    """
    from pathopatch.stages.check import check_manifest

    if slides_per_part is not None:
        if out is None:
            raise typer.BadParameter("--slides-per-part writes to OUT/parts/: give --out")
        from pathopatch.slides.manifest import read_manifest, write_parts

        for path in write_parts(read_manifest(manifest), out / "parts", slides_per_part):
            print(path)
        return
    config = _looking(settings, warn_shift_um)
    with progress_bars(quiet) as progress:
        slides = check_manifest(
            manifest,
            out,
            measure=None if quick else config,
            labels=None if settings is None else config.labels,
            slide_mpp=slide_mpp,
            **limits(timeout, memory_gb),
            force=force,
            progress=progress,
        )
    shown = slides.drop(columns=["source", "fingerprint", "structure", "bounds", "warnings"], errors="ignore")
    print(shown.to_string(index=False, na_rep="-", float_format="{:.4g}".format))
    say_warnings((row["slide_id"], warning) for row in slides.to_dict("records") for warning in row.get("warnings", ()))


def info(
    source: Source,
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="PNG file of the picture. Default: <slide_id>-info.png here.")
    ] = None,
    slide_mpp: SlideMpp = None,
    slide_id: Annotated[str | None, typer.Option(help="Id of the slide; default: the file's stem.")] = None,
    background: Annotated[
        str | None, typer.Option(help="auto, dark, bright, or CHANNEL=dark,CHANNEL=bright. Default: auto.")
    ] = None,
    mpp: Annotated[float | None, typer.Option(help="Target um per px: say from which level it is read.")] = None,
    warn_shift_um: WarnShift = None,
    settings: Settings = None,
    quiet: Quiet = False,
    force: Force = False,
) -> None:
    """Say what a slide is, and draw it with its tissue outlined."""
    from pathopatch.stages.info import describe_row
    from pathopatch.stages.predict import slides_to_predict

    (row,) = slides_to_predict(source, slide_id=slide_id, is_slide=True)
    if background not in (None, "auto"):  # as the manifest's column says it, so that `check` says the same
        row = replace(row, background=background)
    picture = Path(f"{row.slide_id}-info.png") if out is None else out
    described = describe_row(row, _looking(settings, warn_shift_um, mpp), slide_mpp=slide_mpp, picture=picture)
    width = max(len(name) for name, _ in described.lines())
    for name, text in [*described.lines(), ("picture", str(picture))]:
        print(f"{name:{width}}  {text}")
    say_warnings((row.slide_id, warning) for warning in described.warnings)


def _looking(settings: Path | None, warn_shift_um: float | None, mpp: float | None = None) -> Any:
    """Return the settings by which pixels are looked at where nothing is tiled."""
    from pathopatch.core.config import TileConfig, load_settings

    base = TileConfig() if settings is None else load_settings(settings, reads=("tile",)).tile
    return with_options(base, registration=with_options(base.registration, warn_um=warn_shift_um), mpp=mpp)


def tile(
    out: Out,
    manifest: Annotated[
        Path | None, typer.Argument(help="Table with a row a slide.", metavar="MANIFEST", show_default=False)
    ] = None,
    patches: Annotated[
        Path | None, typer.Option(help="In place of a manifest: a CSV or folder of ready patches.", show_default=False)
    ] = None,
    resize_px: Annotated[
        int | None, typer.Option(help="Ready patches only: bring images of any size to this side.")
    ] = None,
    fit: Annotated[str | None, typer.Option(help="How: crop (the middle square, the default) or stretch.")] = None,
    patch_px: Annotated[int | None, typer.Option(help="Patch side, px at the target mpp. Default: 256.")] = None,
    stride_px: Annotated[int | None, typer.Option(help="Step between patches; default: patch_px.")] = None,
    mpp: Annotated[
        float | None,
        typer.Option(help="Target um per px; default: the slides' own. Ready patches: the images' own um per px."),
    ] = None,
    slide_mpp: SlideMpp = None,
    background: Annotated[
        str | None, typer.Option(help="auto, dark, bright, or CHANNEL=dark,CHANNEL=bright. Default: auto.")
    ] = None,
    store: Annotated[str | None, typer.Option(help="zarr (default), or none to keep the table only.")] = None,
    settings: Annotated[
        Path | None, typer.Option("--config", help="TOML whose table \\[tile] holds all other settings.")
    ] = None,
    align: Annotated[bool, typer.Option("--align", help="Move the channels onto each other by whole pixels.")] = False,
    warn_shift_um: WarnShift = None,
    workers: Workers = 1,
    timeout: Timeout = None,
    memory_gb: MemoryGb = None,
    retry_failed: RetryFailed = False,
    strict: Strict = False,
    dry_run: DryRun = False,
    quiet: Quiet = False,
    force: Force = False,
) -> None:
    """Cut the slides into patches, measure their tissue, label them, and store them."""
    from pathopatch.core.config import SettingsConfig, load_settings
    from pathopatch.stages.tile import import_patches, tile_cohort

    if (manifest is None) == (patches is None):
        raise typer.BadParameter("give a MANIFEST or --patches, one of the two")
    stored = load_settings(settings, reads=("tile", "ready")) if settings else SettingsConfig()
    base = stored.tile
    parts = {
        "tissue": with_options(base.tissue, background=background),
        "registration": with_options(base.registration, align=align or None, warn_um=warn_shift_um),
    }
    target = mpp if patches is None else None
    config = with_options(base, patch_px=patch_px, stride_px=stride_px, mpp=target, store=store, **parts)
    if patches is not None:
        if patch_px or stride_px or dry_run:
            raise typer.BadParameter(
                "ready patches are as they are: --patch-px, --stride-px and --dry-run are not theirs"
            )
        if slide_mpp:
            raise typer.BadParameter("--slide-mpp is of slides: --mpp states the um per px of ready patches")
        if timeout or memory_gb:
            raise typer.BadParameter("--timeout and --memory-gb are limits of a slide: a set of patches is no slide")
        ready = with_options(stored.ready, px=resize_px, fit=fit, mpp=mpp)
        with progress_bars(quiet) as progress:
            outcomes = import_patches(patches, out, config, ready=ready, force=force, progress=progress)
        finish(outcomes)
        return
    if resize_px or fit:
        raise typer.BadParameter("--resize-px and --fit go with --patches: slides are cut by --patch-px")
    assert manifest is not None
    if dry_run:
        require_no_limits(timeout, memory_gb)
        from pathopatch.stages.dry_run import tile_plan

        show_plan(tile_plan(manifest, config, slide_mpp=slide_mpp, out=out, strict=strict, force=force), workers)
        return
    with progress_bars(quiet) as progress:
        outcomes = tile_cohort(
            manifest,
            out,
            config,
            slide_mpp=slide_mpp,
            workers=workers,
            **limits(timeout, memory_gb),
            only_failed=retry_failed,
            strict=strict,
            force=force,
            progress=progress,
        )
    finish(outcomes)


def tissue(
    work: Work,
    out: Annotated[
        Path | None,
        typer.Option("--out", "-o", help="PNG file of the contact sheet. Default: WORK/tissue/contact-sheet.png."),
    ] = None,
    quiet: Quiet = False,
    force: Annotated[bool, typer.Option("--force", help="Also replace outlines that somebody changed.")] = False,
) -> None:
    """Draw every tiled slide with its tissue outlined, worst first, and write the outlines for QuPath."""
    from pathopatch.report import write_contact_sheet

    with progress_bars(quiet) as progress:
        written = write_contact_sheet(work, out, force=force, progress=progress)
    print(written.page)
    for path in written.sheets:
        print(path)
    for slide in written.first:
        say(f"look at: {slide.slide_id}: {'; '.join(slide.reasons)}")
    for path in written.kept:
        say(f"kept: {path}: it was changed since it was written; --force replaces it")
    for name in written.without_overview:
        say(f"warning: {name}: ready patches have no overview, so their tissue is not drawn")
