"""Import a set of existing patches as if it were one slide: one store, one patch table, one status.

The set is laid out as a contact sheet, row by row; a patch's origin is its place on the sheet. Tissue is found by the
rule for slides with one threshold for the set: on the sheet at overview scale, then on each patch at full resolution.
The store holds each patch's tissue mask as it was found, also where the list states another fraction, and its tumour
mask if the list names one.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from pathopatch.core.artefacts import Stamp, fingerprint, fingerprint_file, made
from pathopatch.core.config import ReadyConfig, TileConfig, parse
from pathopatch.core.errors import InputUnsupportedError, TableError
from pathopatch.core.files import atomic_path
from pathopatch.core.patients import invented_patients_note
from pathopatch.core.status import SlideStatus
from pathopatch.core.task import Outcome
from pathopatch.core.work_folder import WorkFolder
from pathopatch.patches.import_list import LIST_NAME, ImageSpec, common_spec, find_copies, read_list, read_tumor_mask
from pathopatch.patches.source import STAGE, FromImages, sheet_grid
from pathopatch.patches.store import PatchStore, patch_ids
from pathopatch.patches.store_writer import SHARD_PATCHES
from pathopatch.patches.tile import (
    EXTRA_COLUMNS,
    Measured,
    finish_tiles,
    found_tiles,
    is_whole,
    store_and_measure,
    store_attributes,
    store_writer,
)
from pathopatch.slides.slide_paths import slide_id_from_path


def tile_patches(
    source: Path,
    config: TileConfig,
    out: Path,
    *,
    ready: ReadyConfig | None = None,
    distinct_patients: Collection[tuple[str, str]] = (),
    force: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> tuple[Outcome, dict[str, object]]:
    """Write the store, patch table and status of a set of existing patches; do nothing if they are current.

    The `source` is a CSV file or folder, and `distinct_patients` as well, see `read_list`.
    Its images have the size of the patches; `ready` states their
    scale, and the size to which images of several sizes are brought. An unknown scale gives a warning here and in each
    prediction by a model trained on the set. Other arguments and errors are those of `tile_slide`; a configuration with
    an `mpp` or without a store is an InputUnsupportedError.

    Returns the result of the set as if it were one slide, and its row of ``slides.parquet``. Patients and splits are in
    the patch table.
    """
    if config.store == "none":
        raise InputUnsupportedError(
            "ready patches without a store",
            place=str(source),
            remedy="leave [tile] store = 'zarr': no slide holds the pixels",
        )
    if config.mpp is not None:
        raise InputUnsupportedError(
            f"a target of {config.mpp:g} um/px for ready patches, which are not rescaled",
            place="[tile] mpp",
            remedy="leave it out, and state the images' own scale: mpp of [ready], --mpp",
        )
    named = source.parent if source.name == LIST_NAME else source
    name = slide_id_from_path(named.resolve())
    listed = read_list(source, distinct_patients)
    files = [Path(file) for file in listed["file"]]
    spec = common_spec(files, ready)
    mpp, warnings = _patch_mpp(spec, ready)
    warnings = (*warnings, *invented_patients_note(listed["patient_id"].tolist()))
    config = parse(TileConfig, {**config.model_dump(), "mpp": mpp}, place="[ready]")
    fingerprints = [fingerprint_file(file) for file in files]
    stamp = _stamp(listed, config, name, fingerprints, ready)
    parts = WorkFolder(out).store(name), WorkFolder(out).patches(name)
    with made(
        *parts,
        stamp=stamp,
        status=SlideStatus(out=out, slide_id=name, stage=STAGE),
        is_whole=lambda: is_whole(*parts, force=force),
        force=force,
    ) as job:
        if job.is_current:
            outcome = found_tiles(job, *parts)
        else:
            images = FromImages(files, spec, config)
            if problems := list(find_copies(listed, images.marks)):
                raise TableError(problems, place=str(source))
            masks = [Path(mask) for mask in listed.get("tumor_mask", ())]
            tumor_mask = (lambda row: read_tumor_mask(masks[row], files[row], spec)) if masks else None
            with atomic_path(parts[0]) as temporary:
                writer = store_writer(temporary, images, with_tumor=bool(masks))
                measured = store_and_measure(writer, images, tumor_mask=tumor_mask, progress=progress)
                record = {"slide_id": name, "warnings": warnings, "cohort_levels": {}, "stamp": stamp.to_dict()}
                writer.finish({"is_ready_set": True, **store_attributes(images), **record})
            outcome = finish_tiles(job, *parts, _table(listed, images.origins, name, PatchStore(parts[0]), measured))
    outcome = replace(outcome, warnings=warnings)
    return outcome, _slides_row(source, listed, spec, config, name, fingerprint(fingerprints))


def _patch_mpp(spec: ImageSpec, ready: ReadyConfig | None) -> tuple[float | None, tuple[str, ...]]:
    """Return um per px of the patches, or None with a warning that says why it is unknown."""
    if ready is not None and ready.mpp is not None and spec.shrinkage is not None:
        return ready.mpp * spec.shrinkage, ()
    if ready is None or ready.mpp is None:
        why, remedy = "it is not stated", "state mpp of [ready], or --mpp"
    else:
        why = f"images of {ready.mpp:g} um/px are brought to {spec.width} px by different factors"
        remedy = "give images of one size"
    return None, (f"the patches' scale is unknown: {why}; models trained on them take slides at any scale; {remedy}",)


def _table(
    listed: pd.DataFrame, origins: NDArray[np.int64], name: str, store: PatchStore, measured: Measured
) -> pd.DataFrame:
    """Return the patch table: a slide's columns, then `EXTRA_COLUMNS`."""
    x, y = origins.T
    # Without masks a label says whether there is tumour, not how much.
    tumor_fraction: Any = np.nan
    if store.has_masks("tumor"):
        rows = np.arange(len(store))
        parts = np.split(rows, rows[SHARD_PATCHES::SHARD_PATCHES])
        tumor_fraction = np.concatenate([store.masks(part, "tumor").mean(axis=(1, 2)) for part in parts])
    label = listed["label"].to_numpy(np.int64)
    stated = listed["tissue_fraction"].to_numpy(np.float64)
    return pd.DataFrame(
        {
            "patch_id": patch_ids(name, origins),
            "slide_id": name,
            "patient_id": listed["patient_id"],
            "x": x,
            "y": y,
            **measured,
            "tissue_fraction": np.where(np.isnan(stated), measured["tissue_fraction"], stated),
            "tumor_fraction": tumor_fraction,
            "labelled_fraction": (label >= 0).astype(np.float64),
            "label": label,
            **{column: listed[column] for column in EXTRA_COLUMNS if column in listed},
        }
    )


def _stamp(
    listed: pd.DataFrame, config: TileConfig, name: str, fingerprints: Sequence[str], ready: ReadyConfig | None
) -> Stamp:
    """Return the stamp of a set's artefacts; it does not depend on where the files are."""
    rules: dict[str, object] = {
        "tissue": config.tissue,
        "intensity": config.intensity,
        "mpp": config.mpp,
        "set_id": name,
    }
    if ready is not None and ready.px is not None:
        rules["ready"] = {"px": ready.px, "fit": "crop"}  # once there was another fit; the mpp is in the rules already
    cells = {column: list(map(str, listed[column])) for column in listed if column not in ("file", "tumor_mask")}
    inputs = {"list": fingerprint(cells), "images": fingerprint(list(fingerprints))}
    if "tumor_mask" in listed:
        inputs["tumor_masks"] = fingerprint([fingerprint_file(Path(mask)) for mask in listed["tumor_mask"]])
    return Stamp(stage=STAGE, settings=rules, inputs=inputs)


def _slides_row(
    source: Path, listed: pd.DataFrame, spec: ImageSpec, config: TileConfig, name: str, images: str
) -> dict[str, object]:
    """Return a set's row of ``slides.parquet``; its patient is empty, since a set has many."""
    grid = sheet_grid(len(listed), spec.width)
    return {
        "slide_id": name,
        "patient_id": "",
        "split": "",
        "width": grid.width,
        "height": grid.height,
        "mpp": config.mpp,
        "levels": 1,
        "channels": ",".join(spec.channels),
        "dtype": spec.dtype,
        "background": "",
        "has_labels": bool((listed["label"] >= 0).any()),
        "annotation_classes": "",
        "source": str(source.absolute()),  # a study names the same by its own folder
        "fingerprint": images,
    }
