"""Check whether a slide is tiled, and from which inputs. Store and table count only with the same stamp."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from functools import partial
from pathlib import Path

import numpy as np

from pathopatch.core.artefacts import Stamp, fingerprint_file, is_up_to_date, read_stamp, require_same_source
from pathopatch.core.config import TileConfig
from pathopatch.core.status import is_recorded_done
from pathopatch.core.work_folder import WorkFolder
from pathopatch.patches.labels import LabelSource
from pathopatch.patches.store import PatchStore, store_levels, store_source
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
    store_path, table_path = WorkFolder(out).store(slide_id), WorkFolder(out).patches(slide_id)
    # Without a store there is nothing to compare, and making the stamp would read the slide in vain.
    if read_stamp(store_path) is None:
        return False
    config = with_cohort_levels(config, {} if force else store_levels(store_path))
    stamp = tile_stamp(slide, config, slide_id, patient_id, labels, tissue_mask)
    refuse = partial(refuse_other_slide, slide, stamp)
    is_current = is_up_to_date(store_path, table_path, stamp=stamp, force=force, refuse=refuse)
    return is_current and not (force and lacks_pixels(store_path, config))


def refuse_other_slide(slide: Slide, stamp: Stamp, existing: Stamp, store_path: Path) -> None:
    """Raise DuplicateIdError if the existing store is of another slide with the same id."""

    def slide_inputs(inputs: Mapping[str, str]) -> dict[str, str]:
        return {role: value for role, value in inputs.items() if role.startswith(("slide ", "pixels"))}

    # That is a mistake in the manifest, not a stale artefact: its remedy is another id, not `--force`.
    if slide_inputs(stamp.inputs) != slide_inputs(existing.inputs):
        require_same_source(store_source(store_path), slide.source, slide_id=store_path.stem, place=store_path)


def with_cohort_levels(config: TileConfig, levels: Mapping[str, float]) -> TileConfig:
    """Return a configuration with the cohort's background levels for channels of which it states none."""
    if not levels:
        return config
    tissue = config.tissue.model_copy(update={"background_level": {**levels, **config.tissue.background_level}})
    return config.model_copy(update={"tissue": tissue})


def lacks_pixels(store_path: Path, config: TileConfig) -> bool:
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
    settings = {
        **config.model_dump(mode="json", exclude={"registration": {"warn_um"}}),  # which changes no artefact
        "slide": {
            "id": slide_id,
            "patient_id": patient_id,
            "channels": slide.channels,
            "mpp": slide.mpp,
            "background": slide.background,
            "whole_slide_non_tumor": source is not None and source.whole_slide_non_tumor,
        },
    }
    inputs = {f"slide {index}": fingerprint_file(path) for index, path in enumerate(slide.paths)}
    # Two pages of one file have the same fingerprint of the file: only their pixels differ.
    inputs["pixels"] = _probe(slide)
    for role, path in (source.paths if source is not None else {}).items():
        inputs[role] = fingerprint_file(path)
    if tissue_mask is not None:
        inputs["tissue_mask"] = fingerprint_file(tissue_mask)
    return Stamp(stage=STAGE, settings=settings, inputs=inputs)


def _probe(slide: Slide) -> str:
    """Return a fingerprint of scattered pixels."""
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
    store, table = read_stamp(WorkFolder(work).store(slide_id)), read_stamp(WorkFolder(work).patches(slide_id))
    return store is not None and table is not None and not table.differences(store)
