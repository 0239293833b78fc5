"""Cut a slide into patches: write its store, patch table and status.

The store holds the pixels of all patches (unless ``store = "none"``), the tissue mask of each, and its tumour mask
where the manifest states the tumour; see `pathopatch.patches.store_writer`.

A kill at any point leaves nothing, or artefacts without a common stamp. The latter are made again.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from pathopatch.core.artefacts import Job, Stamp, made, read_stamp, read_table, require_same_source
from pathopatch.core.config import MIN_SCANNED, TileConfig
from pathopatch.core.errors import InputCorruptError, InputUnsupportedError, StaleArtefactError
from pathopatch.core.files import atomic_path
from pathopatch.core.mask_bits import MaskKind, pack_masks
from pathopatch.core.status import FINISHED, SlideStatus, is_recorded_done
from pathopatch.core.task import Outcome
from pathopatch.core.work_folder import WorkFolder
from pathopatch.patches.analysis import read_level
from pathopatch.patches.background_levels import slide_levels, with_cohort_levels
from pathopatch.patches.grid import Grid
from pathopatch.patches.labels import LabelSource, SlideLabels, labels, tumor_on_glass
from pathopatch.patches.source import STAGE, FromImages, FromSlide, measured
from pathopatch.patches.store import PatchStore, patch_ids, recorded_attributes, source_record, tile_stamp
from pathopatch.patches.store_writer import StoreWriter
from pathopatch.slides import Slide
from pathopatch.slides.background import background_text
from pathopatch.slides.slide_paths import ID_REMEDY, slide_id_from_path, valid_slide_id

COLUMNS = (
    "patch_id", "slide_id", "patient_id", "x", "y", "tissue_fraction", "scanned_fraction", "tumor_fraction",
    "labelled_fraction", "label", "saturated_fraction", "sharpness", "pixels_checksum",
)  # fmt: skip
"""Columns of the patch table.

x, y: the patch's origin, level-0 px.
scanned_fraction: of the whole patch, in [0, 1]; what lies beyond the slide was not scanned. tissue_fraction: of its
scanned pixels; the tissue's area is the patch's area times both fractions. tumor_fraction, labelled_fraction: of its
part on the slide; tumor_fraction is NaN where nothing is labelled. It is exact; the store's tumour mask rounds it to
whole pixels. label: 1 tumour, 0 non-tumour, -1 not labelled.
saturated_fraction: of its pixels, in [0, 1], see `pathopatch.patches.intensity.saturated_fraction`. It and
tissue_fraction count scanned pixels only.
sharpness: variance of the Laplacian at `sharpness_mpp`; low is out of focus, or empty.
pixels_checksum: hash of all pixels and masks of the store, the same for all its patches.
"""
EXTRA_COLUMNS = ("source_slide", "block", "split", "attribute", "label_name", "path")
"""Columns of a patch table after `COLUMNS`: block where it is given, and of ready patches what their list has.

source_slide: the slide that a ready patch was cut from; slide_id is then the name of the set."""
MEASURED_COLUMNS = ("tissue_fraction", "scanned_fraction", "saturated_fraction", "sharpness")
"""Columns of the patch table that need the patch's pixels."""
_log = logging.getLogger(__name__)


Measured = dict[str, NDArray[np.float64]]
"""The `MEASURED_COLUMNS`, shape (N,) each."""


def tile_slide(
    slide: Slide,
    config: TileConfig,
    out: Path | str,
    *,
    slide_id: str | None = None,
    patient_id: str | None = None,
    block: str = "",
    labels: LabelSource | None = None,
    tissue_mask: Path | str | None = None,
    cohort_levels: Mapping[str, float] | None = None,
    force: bool = False,
    dry: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> Outcome:
    """Write a slide's store, patch table and status into the work folder `out`; do nothing if they are current.

    A second process waits for the first and then finds its output.

    Parameters
    ----------
    slide_id, patient_id : str, optional
        Default: the stem of the slide's first file, and the slide's id.
    block : str
        Tissue array, day, site or scanner of the slide; "" where blocks are not known.
    labels : LabelSource, optional
        Default: no patch is labelled.
    tissue_mask : path, optional
        Raster or outlines of the tissue, see `analyse_slide`.
    cohort_levels : mapping of str to float, optional
        Background level by channel of the cohort's other slides, source units. A level in `config` comes first.
        Default: those of an earlier run, unless `force` is on.
    force : bool
        Replace stale artefacts in place of stopping, and write again pixels that were removed to free space.
    dry : bool
        Write nothing; see `FromSlide.to_do`.
    progress : callable, optional
        Called with (patches done, patches in all).

    Returns
    -------
    Outcome
        Its ``state``: done, done_empty (no tissue, all artefacts are valid) or current (nothing was to do); the number
        of ``patches``; and ``warnings`` for a person to check.

    Raises
    ------
    DuplicateIdError
        The existing store is of another slide, and `force` is off.
    StaleArtefactError
        The existing artefacts are of another configuration or other inputs, and `force` is off.
    InputCorruptError
        Chunks of the existing store are missing or changed, and `force` is off; see `PatchStore.check_files`.
    MppMissingError, InputUnsupportedError, NonFiniteError
        See `analyse_slide`.
    ModalityMismatchError, InputMissingError, InputCorruptError, InputTooLargeError
        A mask or an annotation file does not fit the slide, is missing or cannot be read.
    InputChangedError
        The slide's files changed while they were read.
    DiskFullError
        No space is left.

    Examples
    --------
    >>> from pathopatch.demo import EXAMPLE
    >>> with pathopatch.open_slide({"CARS": EXAMPLE / "example_CARS.tif"}, mpp=1, background="dark") as slide:
    ...     pathopatch.tile_slide(slide, pathopatch.TileConfig(patch_px=64), "work", slide_id="S01").state
    'done'
    """
    out = Path(out)
    slide_id = slide_id_from_path(slide.paths[0]) if slide_id is None else slide_id
    if not valid_slide_id(slide_id):
        raise InputUnsupportedError(f"slide id {slide_id!r}", remedy=ID_REMEDY)
    patient_id = slide_id if patient_id is None else patient_id
    given_mask = None if tissue_mask is None else Path(tissue_mask)
    store_path, table_path = parts = WorkFolder(out).store(slide_id), WorkFolder(out).patches(slide_id)

    @cache
    def source() -> FromSlide:  # first called with the slide locked
        levels = _cohort_levels(store_path, config, cohort_levels, force=force)
        return FromSlide(slide, slide_id, with_cohort_levels(config, levels), tissue_mask=given_mask)

    def stamp() -> Stamp:
        given = source().tiling, slide_id, patient_id, labels, given_mask
        return tile_stamp(slide, *given, block=block, earlier=read_stamp(table_path))

    with made(
        *parts,
        stamp=stamp,
        status=SlideStatus(out=out, slide_id=slide_id, stage=STAGE),
        # Pixels that were removed to free space are written again with `force`.
        is_whole=partial(is_whole, *parts, force=force, with_pixels=force and config.store == "zarr"),
        refuse=partial(_refuse_other_slide, slide),
        require_unchanged=slide.require_unchanged,
        force=force,
        dry=dry,
    ) as job:
        if job.is_current:
            return found_tiles(job, *parts)
        if dry:
            return source().to_do(keeps_pixels=config.store == "zarr")
        # Labels come before the patches: an unreadable mask must not cost an hour of reading first.
        stated = SlideLabels(
            labels, slide_size=slide.size, bounds_origin=slide.bounds[:2], config=config.labels, grid=source().grid
        )
        table = _write_store(store_path, source(), stated, config, job.stamp, progress)
        table = table.assign(patient_id=patient_id, **({"block": block} if block else {}))
        outcome = finish_tiles(job, *parts, table)
    if outcome.state == "done_empty":
        _log.warning("slide %s shows no tissue in a patch that is half scanned: %d patches", slide_id, len(table))
    return outcome


def _cohort_levels(
    store_path: Path, config: TileConfig, given: Mapping[str, float] | None, *, force: bool
) -> dict[str, float]:
    """Return the cohort's background levels that count; a later plain run must not lose those of an earlier one."""
    earlier = {} if force else recorded_attributes(store_path).get("cohort_levels", {})
    levels = earlier if given is None else given
    return {name: levels[name] for name in levels if name not in config.tissue.background_level}


def _write_store(
    path: Path,
    source: FromSlide,
    stated: SlideLabels,
    config: TileConfig,
    stamp: Stamp,
    progress: Callable[[int, int], None] | None,
) -> pd.DataFrame:
    """Write a slide's store and return the patch table without its patient.

    `config` lacks the background levels of the cohort, which those of the source have.
    """
    slide, tissue, table = source.slide, source.tissue, _table(source, stated)
    tumor_mask = _tumor_masks(stated, source.grid, table) if stated.has_tumor_mask else None
    with atomic_path(path) as temporary:
        writer = store_writer(temporary, source, with_tumor=tumor_mask is not None)
        writer.write_overview(
            source.analysis.overview,
            tissue.masks,
            channels=slide.channels,
            um_per_px=(slide.mpp * tissue.scale_x, slide.mpp * tissue.scale_y),
            windows=source.windows,
        )
        table = table.assign(**store_and_measure(writer, source, tumor_mask=tumor_mask, progress=progress))
        columns = (table[name].to_numpy() for name in ("x", "y", "label", "tissue_fraction", "scanned_fraction"))
        on_glass = tumor_on_glass(*columns, extent=source.grid.extent, whole_slide=stated.whole_slide)
        stated_levels, levels = config.tissue.background_level, source.tiling.tissue.background_level
        own = {
            "slide_id": source.slide_id,
            "warnings": [*source.warnings, *on_glass],
            "cohort_levels": {name: level for name, level in levels.items() if name not in stated_levels},
            "stamp": stamp.to_dict(),
        }
        writer.finish({**_slide_attributes(source), **own})
        slide.require_unchanged()
    return table


def found_tiles(job: Job, store_path: Path, table_path: Path) -> Outcome:
    """Return the outcome of a store and patch table that are current, and see to their status."""
    table, attributes = read_table(table_path), PatchStore(store_path).attributes
    # An earlier process may have been killed between the table and the status.
    if job.status is not None and job.status.read().get("state") not in FINISHED:
        job.record(_status_entry(table, attributes))
    return _outcome(store_path.stem, table, attributes, "current")


def finish_tiles(job: Job, store_path: Path, table_path: Path, table: pd.DataFrame) -> Outcome:
    """Write the patch table of a finished store, and the status; return the outcome."""
    store = PatchStore(store_path)
    table = table.assign(pixels_checksum=store.pixels_checksum)
    table = table[[*COLUMNS, *(name for name in EXTRA_COLUMNS if name in table)]]
    # The table comes last: with the store's stamp in it, both are complete.
    job.write_table(table_path, table)
    entry = _status_entry(table, store.attributes)
    job.record(entry)
    return _outcome(store_path.stem, table, store.attributes, entry["state"])


def _outcome(slide_id: str, table: pd.DataFrame, attributes: Mapping[str, Any], state: str) -> Outcome:
    warnings = tuple(attributes["warnings"])
    return Outcome(slide_id=slide_id, state=state, counts={"patches": len(table)}, warnings=warnings)


def _table(source: FromSlide, stated: SlideLabels) -> pd.DataFrame:
    """Return the patch table without its patient and the columns that need pixels."""
    config, grid = source.tiling, source.grid
    x, y = source.origins.T
    tumor, labelled = stated.fractions(x, y, grid.extent)
    return pd.DataFrame(
        {
            "patch_id": patch_ids(source.slide_id, source.origins),
            "slide_id": source.slide_id,
            "x": x,
            "y": y,
            "tumor_fraction": tumor,
            "labelled_fraction": labelled,
            "label": labels(tumor, labelled, patch_px=config.patch_px, config=config.labels),
        }
    )


def _tumor_masks(stated: SlideLabels, grid: Grid, table: pd.DataFrame) -> Callable[[int], NDArray[np.bool_]]:
    """Return a function that returns the tumour pixels of a row of the table, (P, P)."""
    x, y, fractions = (table[name].tolist() for name in ("x", "y", "tumor_fraction"))
    return lambda row: stated.tumor_mask(x[row], y[row], grid, fraction=fractions[row])


def store_writer(path: Path, source: FromSlide | FromImages, *, with_tumor: bool = False) -> StoreWriter:
    """Return a writer for the patches of a source."""
    return StoreWriter(
        path,
        origins=source.origins,
        channels=len(source.channels),
        patch_px=source.grid.patch_px,
        dtype=source.dtype,
        masks=("tissue", "tumor") if with_tumor else ("tissue",),
        with_patches=source.tiling.store == "zarr",
    )


def store_and_measure(
    writer: StoreWriter,
    source: FromSlide | FromImages,
    *,
    tumor_mask: Callable[[int], NDArray[np.bool_]] | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Measured:
    """Append all patches to a store, which the caller finishes, and return the `MEASURED_COLUMNS`, shape (N,) each.

    `tumor_mask` returns a row's tumour pixels, (P, P); without it the store has no such masks. `progress` is called
    with (patches done, patches in all).
    """
    origins = source.origins
    columns = {name: np.zeros(len(origins)) for name in MEASURED_COLUMNS}
    for numbers, patches, tissue_fraction, scanned_fraction, tissue_mask in source.batches():
        masks: dict[MaskKind, NDArray[np.uint8]] = {"tissue": tissue_mask}
        if tumor_mask is not None:
            masks["tumor"] = np.stack([pack_masks(tumor_mask(number)) for number in numbers.tolist()])
        writer.append(patches, masks)
        columns["tissue_fraction"][numbers] = tissue_fraction
        columns["scanned_fraction"][numbers] = scanned_fraction
        found = measured(source, patches, numbers)
        columns["saturated_fraction"][numbers], columns["sharpness"][numbers] = found.saturated, found.sharpness
        if progress is not None:
            progress(int(numbers[-1]) + 1, len(origins))
    return columns


def _slide_attributes(source: FromSlide) -> dict[str, Any]:
    """Return the attributes of a slide's store: all that a reader of the patches needs."""
    slide, analysis, tissue = source.slide, source.analysis, source.tissue
    attributes = store_attributes(source)
    attributes["tissue"] |= {
        "is_supplied": tissue.is_supplied,
        "ink_share": tissue.ink_share,
        "unscanned_share": tissue.unscanned_share,
        "levels": dict(slide_levels(tissue, slide.channels).levels),
    }
    return attributes | {
        "source": source_record(slide),
        "icc": slide.facts.icc,
        **read_level(slide.levels, source.grid.downsample),
        "fill": analysis.fill.tolist(),
        # A store without pixels needs the offsets to read the same patches again.
        "registration": {
            "align": source.tiling.registration.align,
            "shifts": [shift.to_dict() for shift in analysis.shifts],
            "offsets_px": [list(offset) for offset in analysis.offsets],
        },
    }


def store_attributes(source: FromSlide | FromImages) -> dict[str, Any]:
    """Return the attributes that the stores of slides and of imported patches have in common."""
    grid, tissue, mpp = source.grid, source.tissue, source.mpp
    return {
        "channels": list(source.channels),
        "dtype": str(source.dtype),
        "size_px": [grid.width, grid.height],
        "mpp": mpp,
        "target_mpp": None if mpp is None else mpp * grid.downsample,
        "downsample": grid.downsample,
        "patch_px": grid.patch_px,
        "stride_px": grid.stride_px,
        "grid": [grid.nx, grid.ny],
        "is_rgb": source.is_rgb,
        "background": background_text(source.channels, tissue.polarities),
        "windows": source.windows.tolist(),
        "intensity": source.tiling.intensity.model_dump(mode="json"),
        "tissue": {
            **source.tiling.tissue.model_dump(mode="json"),
            "threshold": tissue.threshold,
            "windows": tissue.windows.tolist(),
            "scale": [tissue.scale_x, tissue.scale_y],
            "confidence": tissue.confidence,
            "doubts": list(tissue.doubts),
        },
    }


def _status_entry(table: pd.DataFrame, attributes: Mapping[str, Any]) -> dict[str, Any]:
    """Return the stage's status from the patch table and the store's attributes."""
    has_tissue = table["tissue_fraction"] > 0
    return {
        "state": "done" if (has_tissue & (table["scanned_fraction"] >= MIN_SCANNED)).any() else "done_empty",
        "patches": len(table),
        "tissue_patches": int(has_tissue.sum()),
        "labelled_patches": int((table["label"] >= 0).sum()),
        "tissue_confidence": attributes["tissue"]["confidence"],
        "cohort_levels": attributes["cohort_levels"],
        "warnings": attributes["warnings"],
    }


def _refuse_other_slide(slide: Slide, stamp: Stamp, existing: Stamp, store_path: Path) -> None:
    """Raise DuplicateIdError if the existing store is of another slide with the same id."""

    def slide_inputs(inputs: Mapping[str, str]) -> dict[str, str]:
        return {role: value for role, value in inputs.items() if role.startswith(("slide", "pixels"))}

    # That is a mistake in the manifest, not a stale artefact: its remedy is another id, not `--force`.
    if slide_inputs(stamp.inputs) != slide_inputs(existing.inputs):
        source = recorded_attributes(store_path).get("source", {}).get("path")
        require_same_source(source, slide.source, slide_id=store_path.stem, place=store_path)


def is_whole(store_path: Path, table_path: Path, *, force: bool, with_pixels: bool = False) -> bool:
    """Return whether a store's files are as written, and its table is of its pixels; damage raises without `force`.

    With `with_pixels` a store without the pixels of patches is not whole.
    """
    try:
        store, table = PatchStore(store_path), read_table(table_path)
        store.check_files()
    except (InputCorruptError, StaleArtefactError):
        if force:
            return False
        raise
    return bool((table["pixels_checksum"] == store.pixels_checksum).all()) and (store.has_patches or not with_pixels)


def is_tiled(work: Path, slide_id: str) -> bool:
    """Return whether a slide is tiled: its status is done, and its store and table share a stamp.

    Of a cohort of features, which has no stores, the table and ``features.json`` share one.
    """
    if not is_recorded_done(work, slide_id, STAGE):
        return False
    features = WorkFolder(work).features
    if features.is_file():
        return (stamp := read_stamp(features)) is not None and stamp == read_stamp(WorkFolder(work).patches(slide_id))
    store, table = read_stamp(WorkFolder(work).store(slide_id)), read_stamp(WorkFolder(work).patches(slide_id))
    return store is not None and table is not None and not table.differences(store)
