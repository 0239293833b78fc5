"""Commands on slides: manifest, check, info, tile, tissue."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from pathopatch.cli.options import (
    IN_DRY_RUN,
    Batch,
    ConfigFile,
    Fields,
    Manifest,
    Quiet,
    SlideId,
    SlideMpp,
    Source,
    Work,
    refuse,
    with_options,
)
from pathopatch.cli.output import finish, progress_bars, say, say_left_out, say_warnings, show_plan
from pathopatch.core.text import pluralize

if TYPE_CHECKING:
    from pathopatch.core.config import BatchOptions, ReadyConfig, SplitsConfig, TileConfig

_MOST_SHOWN = 20  # lines of a manifest
_CHECKED = ("slide_id", "patient_id", "split", "width", "height", "mpp", "channels", "background", "tissue_share")
"""What `check` prints of each slide; ``slides.parquet`` holds the rest, and `info` tells it of one."""
_TILE_REFUSES = {
    "--patches": {
        "ready patches are as they are": "patch_px stride_px dry_run",
        "it is of slides; --mpp states the um per px of ready patches": "slide_mpp",
        "they are limits of a slide, and a set of patches is no slide": "timeout memory_gb",
        "it is of slides, and a set of patches is no slide": "workers align warn_shift_um retry_failed",
    },
    "MANIFEST": {"it goes with --patches; slides are cut by --patch-px": "resize_px"},
}
"""Options that are refused for ready patches, and for slides, by the reason."""


def manifest(
    folder: Annotated[Path, typer.Argument(help="Folder with slides, at any depth.", metavar="FOLDER")],
    out: Annotated[Path, "CSV file to write, such as cohort.csv."],
    pattern: Annotated[
        str | None, "How files are named, such as '{slide}_{channel}.tif'; it may hold {patient} and *"
    ] = None,
    from_dicom: Annotated[bool, "Take patients and slides' ids from DICOM files, as they state them."] = False,
    quiet: Quiet = False,
    force: Annotated[bool, "Replace the file if it is there."] = False,
) -> None:
    """Write a manifest of all slides below a folder: channels grouped, masks and outlines paired, patients proposed."""
    from pathopatch.stages.manifest import make_manifest

    with progress_bars(quiet) as progress:
        written = make_manifest(folder, out, pattern=pattern, from_dicom=from_dicom, force=force, progress=progress)
    lines = written.table()
    if not quiet:
        _show_rows(lines)
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


def _show_rows(lines: list[dict[str, str]]) -> None:
    """Print a table, of many lines the first."""
    header = {name: name for name in lines[0]}
    shown = [header, *lines[:_MOST_SHOWN]]
    for line in shown:
        cells = (f"{line[name]:{max(len(other[name]) for other in shown)}}" for name in header)
        say("  ".join(cells).rstrip())
    if len(lines) > _MOST_SHOWN:
        say(f"… and {pluralize(len(lines) - _MOST_SHOWN, 'further slide')}")


def check(
    manifest: Manifest,
    out: Annotated[Path | None, "Work folder for slides.parquet."] = None,
    quick: Annotated[bool, "Do not look for tissue and shifts."] = False,
    slide_mpp: SlideMpp = None,
    config: ConfigFile = None,
    *,
    tiling: Annotated[TileConfig, Fields(warn_shift_um="registration.warn_um")],
    splits: Annotated[SplitsConfig, Fields()],
    batch: Annotated[BatchOptions, Fields("memory_gb quiet force", timeout="timeout_s")],
) -> None:
    r"""Check a manifest and open every slide and mask in it; report every problem in one go, and what each slide is.

    With --config the settings of its table \[tile] hold, and the class names of annotations must be among them.
    """
    from pathopatch.stages.check import check_manifest

    with progress_bars(batch.quiet) as progress:
        slides = check_manifest(
            manifest,
            out,
            batch,
            measure=None if quick else tiling,
            labels=None if config is None else tiling.labels,
            slide_mpp=slide_mpp,
            distinct_patients=splits.distinct_patients,
            progress=progress,
        )
    shown = slides[[name for name in _CHECKED if name in slides]]
    print(shown.to_string(index=False, na_rep="-", float_format="{:.4g}".format))
    warnings = [(row["slide_id"], warning) for row in slides.to_dict("records") for warning in row.get("warnings", ())]
    say_warnings(warnings)
    profiles = Counter(slides.get("icc", ()))
    if any(profiles):
        counts = "; ".join(f"{name or 'none'} ({pluralize(n, 'slide')})" for name, n in profiles.most_common())
        print(f"ICC profiles, not applied: {counts}")
    warned = len({slide_id for slide_id, _ in warnings})
    print(
        f"{pluralize(len(slides), 'slide')} can be worked on" + (f", {warned} of them with warnings" if warned else "")
    )


def info(
    source: Source,
    out: Annotated[Path | None, "PNG file of the picture. Default: <slide_id>-info.png here."] = None,
    slide_mpp: SlideMpp = None,
    slide_id: SlideId = None,
    background: Annotated[str | None, "auto, dark, bright, or CHANNEL=dark,CHANNEL=bright. Default: auto."] = None,
    config: ConfigFile = None,
    *,
    tiling: Annotated[TileConfig, Fields("mpp", warn_shift_um="registration.warn_um")],
) -> None:
    """Say what a slide is, and draw it with its tissue outlined."""
    from pathopatch.stages.find_slides import slides_to_predict
    from pathopatch.stages.info import describe_row

    (row,) = slides_to_predict(source, slide_id=slide_id)
    if background not in (None, "auto"):  # as the manifest's column says it, so that `check` says the same
        row = replace(row, background=background)
    picture = Path(f"{row.slide_id}-info.png") if out is None else out
    described = describe_row(row, tiling, slide_mpp=slide_mpp, picture=picture)
    width = max(len(name) for name, _ in described.lines())
    for name, text in [*described.lines(), ("picture", str(picture))]:
        print(f"{name:{width}}  {text}")
    say_warnings((row.slide_id, warning) for warning in described.warnings)


def tile(
    context: typer.Context,
    out: Annotated[Path, "Work folder for the outputs."],
    manifest: Annotated[Path | None, typer.Argument(help="Table with a row a slide.", metavar="MANIFEST")] = None,
    patches: Annotated[Path | None, "In place of a manifest: a CSV or folder of ready patches."] = None,
    mpp: Annotated[
        float | None, "Target um per px. Default: the slides' own. Ready patches: the images' own um per px."
    ] = None,
    slide_mpp: SlideMpp = None,
    config: ConfigFile = None,
    *,
    tiling: Annotated[
        TileConfig,
        Fields("patch_px stride_px store tissue.background registration.align", warn_shift_um="registration.warn_um"),
    ],
    ready: Annotated[ReadyConfig, Fields(resize_px="px")],
    splits: Annotated[SplitsConfig, Fields()],
    batch: Batch,
) -> None:
    """Cut the slides into patches, measure their tissue, label them, and store them."""
    from pathopatch.stages.tile import import_patches, tile_cohort

    if (manifest is None) == (patches is None):
        raise typer.BadParameter("give a MANIFEST or --patches, one of the two")
    known: dict[str, Any] = {"distinct_patients": splits.distinct_patients}
    if patches is not None:
        refuse(context, _TILE_REFUSES["--patches"])
        ready = ready if mpp is None else with_options(type(ready), ready, {"mpp": mpp})
        with progress_bars(batch.quiet) as progress:
            outcomes = import_patches(patches, out, tiling, ready=ready, **known, force=batch.force, progress=progress)
        finish(outcomes)
        return
    assert manifest is not None
    refuse(context, _TILE_REFUSES["MANIFEST"])
    tiling = tiling if mpp is None else with_options(type(tiling), tiling, {"mpp": mpp})
    if batch.dry_run:
        refuse(context, IN_DRY_RUN)
        from pathopatch.stages.tile import tile_plan

        plan = tile_plan(manifest, out, tiling, batch, slide_mpp=slide_mpp, **known)
        show_plan(plan, batch.workers)
        return
    with progress_bars(batch.quiet) as progress:
        outcomes = tile_cohort(manifest, out, tiling, batch, slide_mpp=slide_mpp, **known, progress=progress)
    finish(outcomes, batch)


def tissue(
    work: Work,
    quiet: Quiet = False,
    force: Annotated[bool, "Also replace outlines that somebody changed."] = False,
) -> None:
    """Draw every tiled slide with its tissue outlined, worst first, and write the outlines for QuPath."""
    from pathopatch.report import write_contact_sheet

    with progress_bars(quiet) as progress:
        written = write_contact_sheet(work, force=force, progress=progress)
    print(written.page)
    for slide in written.first:
        say(f"look at: {slide.slide_id}: {'; '.join(slide.reasons)}")
    for path in written.kept:
        say(f"kept: {path}: it was changed since it was written; --force replaces it")
    for name in written.without_overview:
        say(f"warning: {name}: ready patches have no overview, so their tissue is not drawn")
