"""Check whether a slide is tiled, and from which inputs. Store and table count only with the same stamp."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from pathopatch.core.artefacts import Stamp, fingerprint, fingerprint_file, is_current, require_same_source, table_stamp
from pathopatch.core.config import TileConfig
from pathopatch.core.files import inside
from pathopatch.core.status import is_recorded_done
from pathopatch.patches.labels import LabelSource
from pathopatch.patches.store import PatchStore, store_levels, store_source, store_stamp
from pathopatch.slides import Slide

STAGE = "tile"
_PROBES = 8  # samples of pixels per axis
_PROBE_PX = 16  # side of a sample


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
    """Return whether `tile_slide` would do nothing; it has the same arguments.

    Raises
    ------
    StaleArtefactError
        The existing artefacts are of another configuration or other inputs, and `force` is off.
    InputMissingError
        A mask or an annotation file is missing.
    """
    store_path, table_path = inside(out, "slides", f"{slide_id}.zarr"), inside(out, "patches", f"{slide_id}.parquet")
    if finished_stamp(store_path, table_path) is None:
        return False
    config = with_cohort_levels(config, {} if force else store_levels(store_path))
    stamp = tile_stamp(slide, config, slide_id, patient_id, labels, tissue_mask)
    return is_current_output(slide, stamp, config, store_path, table_path, force)


def is_current_output(
    slide: Slide, stamp: Stamp, config: TileConfig, store_path: Path, table_path: Path, force: bool
) -> bool:
    """Return whether store and table carry this stamp, and a forced run would add no pixels; raises as `tile_slide`."""
    existing = finished_stamp(store_path, table_path)
    # The same id for another slide is a mistake in the manifest, not a stale artefact: `--force` would destroy work.
    if not force and existing is not None and _shows_other_pixels(stamp, existing):
        require_same_source(store_source(store_path), slide.source, slide_id=store_path.stem, place=store_path)
    current = is_current(stamp, existing, place=store_path, force=force)
    return current and not (force and _lacks_pixels(store_path, config))


def with_cohort_levels(config: TileConfig, levels: Mapping[str, float]) -> TileConfig:
    """Return a configuration with the cohort's background levels for channels of which it states none."""
    if not levels:
        return config
    tissue = config.tissue.model_copy(update={"background_level": {**levels, **config.tissue.background_level}})
    return config.model_copy(update={"tissue": tissue})


def _shows_other_pixels(stamp: Stamp, existing: Stamp) -> bool:
    """Return whether two stamps of one schema have different slide files or pixels."""
    if stamp.schema_version != existing.schema_version:
        return False

    def slide_inputs(inputs: Mapping[str, str]) -> dict[str, str]:
        return {role: value for role, value in inputs.items() if role.startswith(("slide ", "pixels"))}

    return slide_inputs(stamp.inputs) != slide_inputs(existing.inputs)


def _lacks_pixels(store_path: Path, config: TileConfig) -> bool:
    """Return whether the store's pixels were removed to free space."""
    return config.store == "zarr" and not PatchStore(store_path).has_patches


def tile_stamp(
    slide: Slide,
    config: TileConfig,
    slide_id: str,
    patient_id: str,
    source: LabelSource | None,
    tissue_mask: Path | None,
) -> Stamp:
    """Return the stamp of a slide's store and table: the configuration and the fingerprints of all inputs."""
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
    """Return a fingerprint of scattered pixels, which tells two pages or planes of one file apart."""
    digest = hashlib.sha256()
    width, height = slide.size
    side_x, side_y = min(_PROBE_PX, width), min(_PROBE_PX, height)
    for y in np.linspace(0, height - side_y, _PROBES).astype(int).tolist():
        for x in np.linspace(0, width - side_x, _PROBES).astype(int).tolist():
            digest.update(np.ascontiguousarray(slide.read_region(x, y, side_x, side_y)).tobytes())
    return digest.hexdigest()


def is_tiled(work: Path, slide_id: str) -> bool:
    """Return whether a slide is tiled: its status is done, and its store and table share a stamp."""
    if not is_recorded_done(work, slide_id, STAGE):
        return False
    return finished_stamp(work / "slides" / f"{slide_id}.zarr", work / "patches" / f"{slide_id}.parquet") is not None


def finished_stamp(store_path: Path, table_path: Path) -> Stamp | None:
    """Return the stamp that store and table share; None if one is missing or the two differ."""
    table, store = table_stamp(table_path), store_stamp(store_path)
    if table is None or store is None or table.differences(store):
        return None
    return table
