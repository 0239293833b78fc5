"""How a slide is cut into patches: the stage `tile`.

A slide in, its store, patch table and status out. A kill at any point leaves either nothing, or artefacts that do not
belong together and are made again: the store and the table count as finished only with one and the same stamp.
"""

from __future__ import annotations

import hashlib
import logging
import socket
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from pathopatch.config import TileConfig
from pathopatch.errors import InputUnsupportedError
from pathopatch.files import atomic_path, inside
from pathopatch.manifest import slide_id_from_path, valid_slide_id
from pathopatch.patches import intensity
from pathopatch.patches.analysis import SlideAnalysis, analyse_slide, iterate_patches
from pathopatch.patches.labels import LabelSource, label_fractions, labels
from pathopatch.patches.source import source_record
from pathopatch.patches.store import PatchStore, store_stamp
from pathopatch.patches.store_writer import StoreWriter
from pathopatch.provenance import (
    Stamp,
    fingerprint,
    fingerprint_file,
    is_current,
    read_status,
    read_table,
    table_stamp,
    update_status,
    write_table,
)
from pathopatch.slides import Slide

__all__ = [
    "COLUMNS",
    "STAGE",
    "SlideAnalysis",
    "TileResult",
    "analyse_slide",
    "is_finished",
    "iterate_patches",
    "tile_slide",
]

STAGE = "tile"
COLUMNS = (
    "patch_id",
    "slide_id",
    "patient_id",
    "x",
    "y",
    "tissue_fraction",
    "tumor_fraction",
    "labelled_fraction",
    "label",
    "saturated_fraction",
    "sharpness",
)
"""Columns of the patch table.

x, y: the patch's origin, level-0 px. tissue_fraction, tumor_fraction, labelled_fraction: shares of its part on the
slide, in [0, 1]; tumor_fraction is NaN where nothing is labelled. label: 1 tumour, 0 non-tumour, -1 not labelled.
saturated_fraction: share of pixels whose signal is cut off in any channel; on a dark background those at or above the
upper end of the channel's window, on a bright one those at or below its lower end (0 for uint8 RGB), for white glass is
no loss there and black is. sharpness: variance of the Laplacian at `sharpness_mpp`; low is out of focus, or empty.
"""
_PROBES = 8  # per axis
_PROBE_PX = 16
_log = logging.getLogger(__name__)

State = Literal["done", "done_empty", "current"]


@dataclass(frozen=True, kw_only=True)
class TileResult:
    """What became of a slide: the number of its patches, its state, and what a person should know of it.

    The state is done, done_empty (no tissue) or current (it was there already).
    """

    slide_id: str
    patches: int
    state: State
    warnings: tuple[str, ...] = ()


def tile_slide(
    slide: Slide,
    config: TileConfig,
    out: Path,
    *,
    slide_id: str | None = None,
    patient_id: str | None = None,
    labels: LabelSource | None = None,
    tissue_mask: Path | None = None,
    force: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> TileResult:
    """Write a slide's store, patch table and status, in this order; do nothing if they are there and current.

    Parameters
    ----------
    slide : Slide
        An open slide.
    config : TileConfig
        How it is cut.
    out : Path
        Work folder.
    slide_id : str, optional
        A checked id; the stem of the slide's first file if not given.
    patient_id : str, optional
        The slide's id if not given.
    labels : LabelSource, optional
        Where labels come from; without it no patch is labelled.
    tissue_mask : Path, optional
        Raster that says what is tissue, see `analyse_slide`.
    force : bool
        Redo what was made otherwise, in place of stopping; write pixels again that were removed to free space.
    progress : callable, optional
        Called with (patches done, patches in all).

    Returns
    -------
    TileResult
        State ``done_empty``: the slide shows no tissue; all artefacts are there and valid.

    Raises
    ------
    StaleArtefactError
        What stands there was made of another configuration or other inputs, and `force` is off.
    MppMissingError, InputUnsupportedError, NonFiniteError
        See `analyse_slide`.
    ModalityMismatchError, InputMissingError, InputCorruptError, InputTooLargeError
        A mask or an annotation file does not fit the slide, is missing or cannot be read.
    DiskFullError
        No space was left.
    """
    slide_id = slide_id_from_path(slide.paths[0]) if slide_id is None else slide_id
    if not valid_slide_id(slide_id):
        raise InputUnsupportedError(f"slide id {slide_id!r}", remedy="use letters, digits, dots, dashes")
    patient_id = slide_id if patient_id is None else patient_id
    started = time.time()
    store_path = inside(out, "slides", f"{slide_id}.zarr")
    table_path = inside(out, "patches", f"{slide_id}.parquet")
    stamp = _stamp(slide, config, slide_id, patient_id, labels, tissue_mask)
    if _is_finished(stamp, config, store_path, table_path, force):
        table = read_table(table_path)
        if read_status(out, slide_id).get(STAGE, {}).get("state") not in ("done", "done_empty"):
            write_status(out, slide_id, table, stamp, started)  # cut off between the table and the status
        said = tuple(read_status(out, slide_id)[STAGE].get("warnings", ()))
        return TileResult(slide_id=slide_id, patches=len(table), state="current", warnings=said)
    update_status(out, slide_id, STAGE, {"state": "running", "host": socket.gethostname()})
    analysis = analyse_slide(slide, config, tissue_mask=tissue_mask)
    table = _table(slide, config, analysis, slide_id, patient_id, labels)
    with atomic_path(store_path) as temporary:
        measured = _write_store(temporary, slide, config, analysis, slide_id, stamp, progress)
    table = table.assign(**measured)[list(COLUMNS)]
    write_table(table_path, table, stamp)
    warnings = analysis.far_shifts(slide.mpp, config.registration.warn_um)
    state = write_status(out, slide_id, table, stamp, started, warnings)
    if state == "done_empty":
        _log.warning("slide %s shows no tissue: %d patches, all background", slide_id, len(table))
    return TileResult(slide_id=slide_id, patches=len(table), state=state, warnings=tuple(warnings))


def is_finished(
    slide: Slide,
    config: TileConfig,
    out: Path,
    *,
    slide_id: str,
    patient_id: str,
    labels: LabelSource | None = None,
    tissue_mask: Path | None = None,
    force: bool = False,
) -> bool:
    """Return whether `tile_slide` would find its own finished output and do nothing; the arguments are the same.

    Raises
    ------
    StaleArtefactError
        What stands there was made of another configuration or other inputs, and `force` is off.
    InputMissingError
        A mask or an annotation file is missing.
    """
    store_path, table_path = inside(out, "slides", f"{slide_id}.zarr"), inside(out, "patches", f"{slide_id}.parquet")
    if finished_stamp(store_path, table_path) is None:
        return False
    stamp = _stamp(slide, config, slide_id, patient_id, labels, tissue_mask)
    return _is_finished(stamp, config, store_path, table_path, force)


def _is_finished(stamp: Stamp, config: TileConfig, store_path: Path, table_path: Path, force: bool) -> bool:
    """Return whether store and table carry a stamp, and nothing is missing that a forced run would add."""
    existing = finished_stamp(store_path, table_path)
    current = is_current(stamp, existing, place=store_path, force=force)
    return current and not (force and _lacks_pixels(store_path, config))


def _lacks_pixels(store_path: Path, config: TileConfig) -> bool:
    """Return whether a finished store's pixels were removed to free space."""
    return config.store == "zarr" and not PatchStore(store_path).has_patches


def _stamp(
    slide: Slide,
    config: TileConfig,
    slide_id: str,
    patient_id: str,
    source: LabelSource | None,
    tissue_mask: Path | None,
) -> Stamp:
    """Return what the artefacts of a slide are made of."""
    facts = {
        "config": config.model_dump(mode="json", exclude={"registration": {"warn_um"}}),  # which changes no artefact
        "slide_id": slide_id,
        "patient_id": patient_id,
        "channels": slide.channels,
        "mpp": slide.mpp,
        "background": slide.background,
        "whole_slide_non_tumor": source is not None and source.whole_slide_non_tumor,
    }
    inputs = {f"slide {index}": fingerprint_file(path) for index, path in enumerate(slide.paths)}
    inputs["pixels"] = _probe(slide)
    for role, path in (source.paths if source is not None else {}).items():
        inputs[role] = fingerprint_file(path)
    if tissue_mask is not None:
        inputs["tissue_mask"] = fingerprint_file(tissue_mask)
    return Stamp(stage=STAGE, config=fingerprint(facts), inputs=inputs)


def _probe(slide: Slide) -> str:
    """Return a fingerprint of scattered pixels: two pages or planes of one file are two slides."""
    digest = hashlib.sha256()
    width, height = slide.size
    side_x, side_y = min(_PROBE_PX, width), min(_PROBE_PX, height)
    for y in np.linspace(0, height - side_y, _PROBES).astype(int).tolist():
        for x in np.linspace(0, width - side_x, _PROBES).astype(int).tolist():
            digest.update(np.ascontiguousarray(slide.read_region(x, y, side_x, side_y)).tobytes())
    return digest.hexdigest()


def is_tiled(work: Path, slide_id: str) -> bool:
    """Return whether a slide is tiled to the end: its status says so, and its store and table belong together.

    Parameters
    ----------
    work : Path
        Work folder.
    slide_id : str
        A checked slide id.
    """
    if read_status(work, slide_id).get(STAGE, {}).get("state") not in ("done", "done_empty"):
        return False
    return finished_stamp(work / "slides" / f"{slide_id}.zarr", work / "patches" / f"{slide_id}.parquet") is not None


def finished_stamp(store_path: Path, table_path: Path) -> Stamp | None:
    """Return the stamp that store and table share; None if one is missing or they do not belong together."""
    table, store = table_stamp(table_path), store_stamp(store_path)
    if table is None or store is None or table.differences(store):
        return None
    return table


def _table(
    slide: Slide,
    config: TileConfig,
    analysis: SlideAnalysis,
    slide_id: str,
    patient_id: str,
    source: LabelSource | None,
) -> pd.DataFrame:
    """Return the patch table as far as it is known without reading patches."""
    x, y = analysis.grid.origins().T
    tumor, labelled = label_fractions(
        source,
        x,
        y,
        extent=analysis.grid.extent,
        slide_size=slide.size,
        bounds_origin=slide.bounds[:2],
        config=config.labels,
    )
    return pd.DataFrame(
        {
            "patch_id": [f"{slide_id}@{left},{top}" for left, top in zip(x.tolist(), y.tolist(), strict=True)],
            "slide_id": slide_id,
            "patient_id": patient_id,
            "x": x,
            "y": y,
            "tumor_fraction": tumor,
            "labelled_fraction": labelled,
            "label": labels(tumor, labelled, patch_px=config.patch_px, config=config.labels),
        }
    )


def _write_store(
    path: Path,
    slide: Slide,
    config: TileConfig,
    analysis: SlideAnalysis,
    slide_id: str,
    stamp: Stamp,
    progress: Callable[[int, int], None] | None,
) -> dict[str, NDArray[np.float64]]:
    """Write the store and return what was measured on the way, per patch."""
    grid, tissue = analysis.grid, analysis.tissue
    origins = grid.origins()
    writer = StoreWriter(
        path,
        origins=origins,
        channels=len(slide.channels),
        patch_px=config.patch_px,
        dtype=slide.dtype,
        with_patches=config.store == "zarr",
    )
    writer.write_overview(
        analysis.overview,
        tissue.mask,
        channels=slide.channels,
        um_per_px=(slide.mpp * tissue.scale_x, slide.mpp * tissue.scale_y),
        windows=analysis.windows,
    )
    measured = {name: np.zeros(len(origins)) for name in ("tissue_fraction", "saturated_fraction", "sharpness")}
    blur, is_bright = config.intensity.sharpness_mpp / (slide.mpp * grid.downsample), tissue.background == "bright"
    for rows, patches, fraction in iterate_patches(slide, analysis):
        writer.append(patches)
        measured["tissue_fraction"][rows] = fraction
        for row, patch in zip(rows, patches, strict=True):
            width, height = grid.inside(*origins[row].tolist())
            part = patch[:, :height, :width]
            measured["saturated_fraction"][row] = intensity.saturated_fraction(
                part, analysis.windows, is_bright_background=is_bright
            )
            measured["sharpness"][row] = intensity.sharpness(intensity.scale(part, analysis.windows), factor=blur)
        if progress is not None:
            progress(int(rows[-1]) + 1, len(origins))
    writer.finish(_attributes(slide, config, analysis, slide_id, stamp))
    return measured


def _attributes(
    slide: Slide, config: TileConfig, analysis: SlideAnalysis, slide_id: str, stamp: Stamp
) -> dict[str, object]:
    """Return the store's attributes: all that a reader of the patches must know."""
    grid, tissue = analysis.grid, analysis.tissue
    return {
        "slide_id": slide_id,
        "source": source_record(slide),
        "channels": list(slide.channels),
        "dtype": str(slide.dtype),
        "size_px": list(slide.size),
        "mpp": slide.mpp,
        "target_mpp": slide.mpp * grid.downsample,
        "downsample": grid.downsample,
        "patch_px": grid.patch_px,
        "stride_px": grid.stride_px,
        "grid": [grid.nx, grid.ny],
        "is_rgb": slide.is_rgb,
        "background": tissue.background,
        "fill": analysis.fill,
        "windows": analysis.windows.tolist(),
        "intensity": config.intensity.model_dump(mode="json"),
        "tissue": {
            **config.tissue.model_dump(mode="json"),
            "threshold": tissue.threshold,
            "windows": tissue.windows.tolist(),
            "scale": [tissue.scale_x, tissue.scale_y],
            "is_supplied": tissue.is_supplied,
            "ink_share": tissue.ink_share,
            "black_share": tissue.black_share,
        },
        "registration": {
            "align": config.registration.align,
            "shifts": [shift.to_dict() for shift in analysis.shifts],
            "offsets_px": [list(offset) for offset in analysis.offsets],
        },
        "stamp": stamp.to_dict(),
    }


def write_status(
    out: Path, slide_id: str, table: pd.DataFrame, stamp: Stamp, started: float, warnings: Sequence[str] = ()
) -> Literal["done", "done_empty"]:
    """Write how the stage ended; times and host stand here and nowhere else."""
    state: Literal["done", "done_empty"] = "done" if (table["tissue_fraction"] > 0).any() else "done_empty"
    entry = {
        "state": state,
        "patches": len(table),
        "tissue_patches": int((table["tissue_fraction"] > 0).sum()),
        "labelled_patches": int((table["label"] >= 0).sum()),
        "warnings": list(warnings),
        "stamp": stamp.to_dict(),
        "host": socket.gethostname(),
        "seconds": f"{time.time() - started:.2f}",
        "ended": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
    }
    update_status(out, slide_id, STAGE, entry)
    return state
