"""How ready patches become what `tile` makes of slides: one store, one patch table, one status for the whole set.

The set is laid out as a contact sheet, patch by patch and row by row; a patch's origin is its place there. Tissue is
found by the rule for slides, with one threshold for the set: on the sheet at the scale of an overview (4096 px), and
then on every patch at full resolution. Specks and holes are not cleaned: on the sheet, neighbours are strangers.
"""

from __future__ import annotations

import math
import socket
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from pathopatch.core.artefacts import Stamp, fingerprint, fingerprint_file, is_current, read_table, write_table
from pathopatch.core.config import ReadyConfig, TileConfig, parse
from pathopatch.core.errors import InputUnsupportedError
from pathopatch.core.files import atomic_path, inside
from pathopatch.core.locks import claimed, of_slide
from pathopatch.core.status import is_recorded_done, update_status
from pathopatch.patches import intensity
from pathopatch.patches.cache_check import STAGE, finished_stamp
from pathopatch.patches.import_images import Look, common_look, read_image
from pathopatch.patches.import_list import LIST_NAME, read_list
from pathopatch.patches.patch_features import store_measured
from pathopatch.patches.store import PatchStore
from pathopatch.patches.store_writer import StoreWriter
from pathopatch.patches.tile import COLUMNS, TileResult, write_status
from pathopatch.patches.tissue import TissueModel
from pathopatch.patches.tissue_fit import fit_tissue
from pathopatch.slides.background import background_text, guess_polarities, parse_background
from pathopatch.slides.manifest import slide_id_from_path
from pathopatch.slides.resample import resized

_SHEET_PX = 4096
_BATCH_BYTES = 32 * 2**20
EXTRA_COLUMNS = ("split", "attribute", "label_name", "path")
"""Columns of a set's patch table beside those of a slide's; attribute and label_name only where the list has them."""


def set_id(source: Path) -> str:
    """Return the id under which a set is stored: the name of its folder, or of its list."""
    named = source.parent if source.name == LIST_NAME else source
    return slide_id_from_path(named.resolve())


def tile_patches(
    source: Path,
    config: TileConfig,
    out: Path,
    *,
    ready: ReadyConfig | None = None,
    force: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> tuple[TileResult, dict[str, object]]:
    """Write the store, patch table and status of a set of ready patches; do nothing if they are there and current.

    Parameters
    ----------
    source : Path
        CSV file or folder, see `pathopatch.patches.import_list.read_list`.
    config : TileConfig
        Its rules of tissue and intensity count. The images decide the patch size, and `ready` states their scale.
    out : Path
        Work folder.
    ready : ReadyConfig, optional
        The scale of the images as they are, and the size that images of several sizes are brought to. Where the scale
        of the patches is unknown, the result has a warning, and so has each prediction by a model trained on them.
    force : bool
        Redo what was made otherwise, in place of stopping.
    progress : callable, optional
        Called with (patches done, patches in all).

    Returns
    -------
    result : TileResult
        The set as if it were one slide.
    facts : dict
        Its row of ``slides.parquet``. Patients and splits stand in the patch table.

    Raises
    ------
    InputUnsupportedError
        ``store = "none"``: there is no slide to read the patches from later. Or `config` has an `mpp`, which is for
        slides. Or see `read_list`, `common_look`.
    ManifestError, InputMissingError, InputCorruptError, InputTooLargeError, ChannelMismatchError, NonFiniteError
        The list or an image is wrong, see `read_list` and `common_look`.
    StaleArtefactError
        What stands there was made of another configuration or other inputs, and `force` is off.
    DiskFullError
        No space was left.
    """
    if config.store == "none":
        raise InputUnsupportedError(
            "ready patches without a store",
            place=str(source),
            remedy="leave [tile] store = 'zarr': no slide holds the pixels",
        )
    if config.mpp is not None:
        raise InputUnsupportedError(
            f"a target of {config.mpp:g} um/px for ready patches, which are as they are",
            place="[tile] mpp",
            remedy="leave it out, and state the images' own scale: mpp of [ready], --mpp",
        )
    name, started = set_id(source), time.time()
    listed = read_list(source)
    files = [Path(file) for file in listed["file"]]
    look = common_look(files, ready)
    mpp, warnings = _scale(look, ready)
    config = parse(TileConfig, {**config.model_dump(), "mpp": mpp}, place="[ready]")
    prints = [fingerprint_file(file) for file in files]
    stamp = _stamp(listed, config, name, prints, ready)
    store_path, table_path = inside(out, "slides", f"{name}.zarr"), inside(out, "patches", f"{name}.parquet")
    with claimed(out, of_slide(name, STAGE), words=f"the set {name}"):
        existing = finished_stamp(store_path, table_path)
        state: Literal["done", "done_empty", "current"] = "current"
        if is_current(stamp, existing, place=store_path, force=force):
            table = read_table(table_path)
            if not is_recorded_done(out, name, STAGE):
                write_status(out, table, PatchStore(store_path).attributes, started)  # cut off before it
        else:
            update_status(out, name, STAGE, {"state": "running", "host": socket.gethostname()})
            sheet = analyse_set(files, look, config)
            with atomic_path(store_path) as temporary:
                record = {"slide_id": name, "warnings": warnings, "cohort_levels": {}, "stamp": stamp.to_dict()}
                measured = _write_store(temporary, sheet, config, record, progress)
            table = _table(listed, sheet, measured, name)
            write_table(table_path, table, stamp)
            state = write_status(out, table, PatchStore(store_path).attributes, started)
    result = TileResult(slide_id=name, patches=len(table), state=state, warnings=warnings)
    return result, _facts(source, listed, look, config, result, fingerprint(prints))


def _scale(look: Look, ready: ReadyConfig | None) -> tuple[float | None, tuple[str, ...]]:
    """Return um per px of the patches, None if unknown, and then a warning that says why."""
    if ready is not None and ready.mpp is not None and look.shrinkage is not None:
        return ready.mpp * look.shrinkage, ()
    if ready is None or ready.mpp is None:
        why, remedy = "nobody stated it", "state mpp of [ready], or --mpp"
    else:
        why = f"images of {ready.mpp:g} um/px are brought to {look.width} px by factors that differ"
        remedy = "give images of one size"
    return None, (f"the patches' scale is unknown: {why}; models trained on them take slides at any scale; {remedy}",)


@dataclass(frozen=True, kw_only=True, eq=False)
class SetAnalysis:
    """What is known of a set before its patches are stored.

    Parameters
    ----------
    files : tuple of Path
        The images, in the order of the list.
    look : Look
        What they have in common.
    tissue : TissueModel
        What tells tissue from background; its overview is the patches one below the other, P px of height each.
    windows : ndarray of float64, shape (C, 2)
        Intensities that become 0 and 1 in the whole set, source units.
    columns : int
        Patches in a row of the sheet.
    """

    files: tuple[Path, ...]
    look: Look
    tissue: TissueModel
    windows: NDArray[np.float64]
    columns: int

    @property
    def origins(self) -> NDArray[np.int64]:
        """(x, y) of each patch on the sheet, px: ndarray of int64, shape (N, 2)."""
        row, column = np.divmod(np.arange(len(self.files), dtype=np.int64), self.columns)
        return np.stack([column, row], axis=1) * self.look.width  # (N, 2)

    def patches(self) -> Iterator[tuple[NDArray[np.int64], NDArray[np.generic], NDArray[np.float64]]]:
        """Yield each patch's row (1,), pixels (1, C, P, P) and tissue fraction (1,), as `iterate_patches` does."""
        side = self.look.width
        for number, file in enumerate(self.files):
            patch = read_image(file, self.look)
            mask = self.tissue.patch_mask(patch, 0, number * side, 1.0, (side, side))
            yield np.array([number]), patch[None], np.array([mask.mean()])


def analyse_set(files: Sequence[Path], look: Look, config: TileConfig) -> SetAnalysis:
    """Return a set's tissue model and intensity windows, found on all its patches at once.

    Parameters
    ----------
    files : sequence of Path
        The images.
    look : Look
        What they have in common.
    config : TileConfig
        The rules.
    """
    side, columns = look.width, math.ceil(math.sqrt(len(files)))
    small = max(1, min(side, _SHEET_PX // columns))
    strip = _strip(files, look, small)
    polarities = guess_polarities(strip, is_colour=look.is_colour)
    if config.tissue.background != "auto":
        stated = parse_background(config.tissue.background, look.channels, place="[tile.tissue] background")
        polarities = tuple(one or other for one, other in zip(stated, polarities, strict=True))
    tissue = fit_tissue(
        strip,
        polarities=polarities,
        is_colour=look.is_colour,
        config=config.tissue.model_copy(update={"min_speck_um2": 0.0, "max_hole_um2": 0.0}),
        scale_x=side / small,
        scale_y=side / small,
        mpp=1.0,  # of no effect: nothing is cleaned by its area
        channels=look.channels,
        is_flat=True,
    )
    windows = intensity.windows(
        strip,
        tissue.mask != 0,
        rule=config.intensity,
        is_rgb_uint8=look.is_rgb,
        polarities=polarities,
        channels=look.channels,
    )
    return SetAnalysis(files=tuple(files), look=look, tissue=tissue, windows=windows, columns=columns)


def _strip(files: Sequence[Path], look: Look, small: int) -> NDArray[np.generic]:
    """Return all patches at low resolution, one below the other: ndarray of shape (C, N * small, small)."""
    strip = np.empty((len(look.channels), len(files) * small, small), np.dtype(look.dtype))
    for number, file in enumerate(files):
        rows = slice(number * small, (number + 1) * small)
        strip[:, rows] = resized(read_image(file, look), (small, small))
    return strip


def _write_store(
    path: Path,
    sheet: SetAnalysis,
    config: TileConfig,
    record: Mapping[str, Any],
    progress: Callable[[int, int], None] | None,
) -> dict[str, NDArray[np.float64]]:
    """Write the store, its attributes with a record added; return what was measured on the way, per patch."""
    look, origins = sheet.look, sheet.origins
    writer = StoreWriter(
        path, origins=origins, channels=len(look.channels), patch_px=look.width, dtype=np.dtype(look.dtype)
    )
    blur = 1.0 if config.mpp is None else config.intensity.sharpness_mpp / config.mpp  # unknown scale: their own
    measured = store_measured(
        writer,
        sheet.patches(),
        len(origins),
        windows=sheet.windows,
        sharpness_factor=blur,
        polarities=sheet.tissue.polarities,
        progress=progress,
    )
    writer.finish({**_attributes(sheet, config), **record})
    return measured


def _attributes(sheet: SetAnalysis, config: TileConfig) -> dict[str, object]:
    """Return what a reader of the patches must know: the attributes of a slide's store where they make sense."""
    look, tissue = sheet.look, sheet.tissue
    rows = math.ceil(len(sheet.files) / sheet.columns)
    return {
        "is_ready_set": True,
        "channels": list(look.channels),
        "dtype": look.dtype,
        "size_px": [sheet.columns * look.width, rows * look.height],
        "mpp": config.mpp,
        "target_mpp": config.mpp,
        "downsample": 1.0,
        "patch_px": look.width,
        "stride_px": look.width,
        "grid": [sheet.columns, rows],
        "is_rgb": look.is_rgb,
        "background": background_text(look.channels, tissue.polarities),
        "windows": sheet.windows.tolist(),
        "intensity": config.intensity.model_dump(mode="json"),
        "tissue": {
            **config.tissue.model_dump(mode="json"),
            "threshold": tissue.threshold,
            "windows": tissue.windows.tolist(),
            "scale": [tissue.scale_x, tissue.scale_y],
            "confidence": tissue.confidence,
            "doubts": list(tissue.doubts),
        },
    }


def _table(
    listed: pd.DataFrame, sheet: SetAnalysis, measured: dict[str, NDArray[np.float64]], name: str
) -> pd.DataFrame:
    """Return the patch table: a slide's columns, and those that only a set has."""
    x, y = sheet.origins.T
    label = listed["label"].to_numpy(np.int64)
    given = listed["tissue_fraction"].to_numpy(np.float64)
    known = {
        "patch_id": [f"{name}@{left},{top}" for left, top in zip(x.tolist(), y.tolist(), strict=True)],
        "slide_id": name,
        "patient_id": listed["patient_id"],
        "x": x,
        "y": y,
        **measured,
        "tissue_fraction": np.where(np.isnan(given), measured["tissue_fraction"], given),
        "tumor_fraction": np.nan,  # a patch's own label says whether, not how much
        "labelled_fraction": (label >= 0).astype(np.float64),
        "label": label,
        **{column: listed[column] for column in EXTRA_COLUMNS if column in listed},
    }
    return pd.DataFrame(known)[[*COLUMNS, *(column for column in EXTRA_COLUMNS if column in listed)]]


def _stamp(
    listed: pd.DataFrame, config: TileConfig, name: str, prints: Sequence[str], ready: ReadyConfig | None
) -> Stamp:
    """Return what the artefacts of a set are made of; where the files lie does not matter."""
    rules: dict[str, object] = {
        "tissue": config.tissue,
        "intensity": config.intensity,
        "mpp": config.mpp,
        "set_id": name,
    }
    if ready is not None and ready.px is not None:
        rules["ready"] = ready.model_dump(mode="json", exclude={"mpp"})  # the patches' own stands beside it
    said = {column: list(map(str, listed[column])) for column in listed if column != "file"}
    return Stamp(
        stage=STAGE,
        config=fingerprint(rules),
        inputs={"list": fingerprint(said), "images": fingerprint(list(prints))},
    )


def _facts(
    source: Path, listed: pd.DataFrame, look: Look, config: TileConfig, result: TileResult, images: str
) -> dict[str, object]:
    """Return a set's row of ``slides.parquet``; a set has many patients, so that none stands here."""
    columns = math.ceil(math.sqrt(result.patches))
    return {
        "slide_id": result.slide_id,
        "patient_id": "",
        "split": "",
        "width": columns * look.width,
        "height": math.ceil(result.patches / columns) * look.height,
        "mpp": config.mpp,
        "levels": 1,
        "channels": ",".join(look.channels),
        "dtype": look.dtype,
        "background": "",
        "has_labels": bool((listed["label"] >= 0).any()),
        "annotation_classes": "",
        "source": str(source),
        "fingerprint": images,
    }
