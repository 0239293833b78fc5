"""Write a slide's predictions into the work folder: the table, the heatmap with its exports, the status.

``heatmap.ome.tif`` (Bio-Formats, QuPath), ``overlay.png`` (to look at), ``regions.geojson.gz`` (QuPath),
``heatmap.json`` (facts, and the size and fingerprint of every other file, the table among them, and its own
fingerprint: damaged outputs are made again). ``[predict] outputs`` asks for more: ``patches.geojson.gz`` (QuPath),
``patches.csv`` (wsinfer's columns) and ``heatmap.ome.zarr`` (napari and other readers of OME-Zarr).
"""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from pathopatch.core.artefacts import (
    Job,
    Stamp,
    file_marks,
    fingerprint,
    fingerprint_file,
    made,
    read_stamp,
    require_same_source,
    write_tables,
)
from pathopatch.core.config import PredictConfig
from pathopatch.core.errors import InputUnsupportedError, StaleArtefactError
from pathopatch.core.files import atomic_path, json_text, write_json
from pathopatch.core.status import FINISHED, SlideStatus, read_status
from pathopatch.core.task import Outcome
from pathopatch.core.work_folder import WorkFolder
from pathopatch.features.source import FromFeatures
from pathopatch.heatmaps import CHANGED, FACTS
from pathopatch.heatmaps.colors import ground_of
from pathopatch.heatmaps.facts import (
    CSV,
    EXPORTS,
    HEATMAP,
    OTHER_MODEL,
    OWN,
    REGIONS,
    TABLE,
    TILES,
    TISSUE,
    ZARR,
    HeatmapFacts,
    heatmap_damages,
    read_facts,
    summary,
)
from pathopatch.heatmaps.overlay import Legend, render
from pathopatch.heatmaps.patch_exports import (
    PositiveRegions,
    positive_regions,
    write_regions,
    write_tiles,
    write_wsinfer_csv,
)
from pathopatch.heatmaps.predict import DEFAULTS, FLAG_LIMITS, DrawnSource, Prediction, predict_patches
from pathopatch.heatmaps.pyramids import write_ome_tiff, write_ome_zarr
from pathopatch.heatmaps.stitch import Cells
from pathopatch.models.bundle import joint_fingerprint
from pathopatch.models.forward import CORRECTED, Ensemble
from pathopatch.models.leakage import leakage, leakage_warning
from pathopatch.models.spec import BundleSpec, patch_limits
from pathopatch.patches.analysis import read_level
from pathopatch.patches.picture import write_png
from pathopatch.patches.source import FromSlide
from pathopatch.slides.composite import Picture, compose, shrunk
from pathopatch.slides.manifest import file_times, source_content
from pathopatch.slides.slide_paths import ID_REMEDY, valid_slide_id

STAGE = "predict"
_NO_TISSUE = "the tissue fractions are not known: no area of tissue is stated"
_OVERVIEW_PX = 1536  # longest side of the picture: as large as a screen shows at once


def write_prediction(
    source: DrawnSource,
    ensemble: Ensemble,
    out: Path,
    *,
    patient_id: str = "",
    lies_at: str | dict[str, str] | None = None,
    config: PredictConfig = DEFAULTS,
    force: bool = False,
    dry: bool = False,
    progress: Callable[[int, int], None] = lambda _done, _all: None,
) -> Outcome:
    """Predict a slide and write ``predictions/<id>.parquet``, ``heatmaps/<id>/`` and its status, unless up to date.

    A second process waits for the first one, and then finds its outputs. Damaged outputs are made again with a warning.
    The patient is kept in the status, for the summary by patient; `progress` is called with (grid positions done, all).
    With `dry` nothing is written; see `FromSlide.to_do`. `lies_at` is where a slide lies whose files were brought here.

    Raises
    ------
    DuplicateIdError, StaleArtefactError
        There are outputs of another slide, model or setting, and `force` is off.
    InputUnsupportedError
        No valid slide id, or the outputs would leave the work folder.
    InputChangedError
        The slide's files changed while they were read.
    DiskFullError
        No space was left; earlier outputs are untouched.
    InputCorruptError, NonFiniteError
        As `predict_slide`.
    """
    slide_id = source.slide_id
    if not valid_slide_id(slide_id):
        raise InputUnsupportedError(f"{slide_id!r} is no slide id", place="slide_id", remedy=ID_REMEDY)
    lies_at = source.source if lies_at is None else lies_at
    files = [lies_at] if isinstance(lies_at, str) else list(lies_at.values())
    own = {"source": lies_at, "patient_id": patient_id, "file_times": file_times(files)}
    about = {} if config.deidentify else own | {"content": source_content(files)}
    folder, table_path = WorkFolder(out).heatmap(slide_id), WorkFolder(out).predictions(slide_id)
    damaged: list[str] = []

    def is_whole() -> bool:
        damaged.extend(heatmap_damages(folder, table_path))
        # What was not asked for before is not damaged, and yet to be made.
        return not damaged and _has_outputs(read_facts(folder), config)

    with made(
        folder / FACTS,
        table_path,
        stamp=lambda: _stamp(source, ensemble, config),
        status=SlideStatus(out=out, slide_id=slide_id, stage=STAGE, about=about),
        is_whole=is_whole,
        refuse=partial(_refuse_other_slide, out, slide_id, lies_at, config.replace_changed),
        require_unchanged=source.require_unchanged,
        force=force,
        dry=dry,
    ) as job:
        if job.is_current:
            return _reuse_existing(slide_id, folder, about, job)
        if dry:
            assert isinstance(source, FromSlide)
            return source.to_do()
        prediction = predict_patches(source, ensemble, config, progress=progress)
        facts = _write(prediction, source, ensemble, config, job.stamp, folder, table_path)
        job.record(_status_entry(facts, about))
        outcome = _outcome(slide_id, facts)
        damaged[:0] = [f"{path.name} cannot be read" for path in job.unreadable]
        if damaged:  # told once: what is there now is whole
            notice = f"the outputs were damaged and are made again: {'; '.join(damaged)}"
            outcome = replace(outcome, warnings=(*outcome.warnings, notice))
        return outcome


def finished_outcome(out: Path, slide_id: str, config: PredictConfig) -> Outcome | None:
    """Return the outcome of outputs that are whole, whatever they were made of; None if there are none."""
    folder, table_path = WorkFolder(out).heatmap(slide_id), WorkFolder(out).predictions(slide_id)
    stamps = [read_stamp(path) for path in (folder / FACTS, table_path)]
    if None in stamps or stamps[0] != stamps[1] or heatmap_damages(folder, table_path):
        return None
    facts = read_facts(folder)
    return replace(_outcome(slide_id, facts), state="current") if _has_outputs(facts, config) else None


def _has_outputs(facts: HeatmapFacts, config: PredictConfig) -> bool:
    """Return whether all files are there that are asked for beside the usual ones."""
    return facts["outputs"].keys() >= set(config.outputs)


def _write(
    prediction: Prediction,
    source: DrawnSource,
    ensemble: Ensemble,
    config: PredictConfig,
    stamp: Stamp,
    folder: Path,
    table_path: Path,
) -> HeatmapFacts:
    """Write the table and the heatmap's folder; return the content of ``heatmap.json``."""
    known_as = leakage([member.spec for member in ensemble.members], source.contents)
    leaks = [warning] if (warning := leakage_warning(known_as)) else []
    # All is written under temporary names. The table takes its place first, then the folder: on a full disk the earlier
    # outputs stay as they were.
    with atomic_path(folder) as temporary, atomic_path(table_path) as table:
        write_tables(table, prediction.tables(), stamp)
        temporary.mkdir()
        facts = _write_folder(
            temporary,
            table,
            ensemble,
            prediction,
            stamp,
            wanted=config.outputs,
            drawn_name="" if config.deidentify else source.slide_id,
            known_as=known_as,
            warnings=[*leaks, *_correction_warnings(ensemble), *source.warnings, *_tissue_warnings(prediction)],
        )
        source.require_unchanged()
    return facts


def _correction_warnings(ensemble: Ensemble) -> list[str]:
    """Return what a correction for the tissue area costs."""
    rule = ensemble.spec.area_reliance
    if ensemble.area_correct == "none" or rule is None:
        return []
    return [
        f"{CORRECTED} ({ensemble.area_correct}), as audited on {rule.date}: of the patches of that audit "
        f"{rule.turned[ensemble.area_correct]:.0%} got another answer; where the area does go along with tumour, "
        "accuracy falls"
    ]


def _tissue_warnings(prediction: Prediction) -> list[str]:
    """Return warnings of patches that cannot be decoded, and of tissue that is not known."""
    patches, unreadable = len(prediction.tissue_fraction), prediction.unreadable
    counted = (
        (unreadable, "cannot be decoded"),
        (len(prediction.too_little_tissue), "hold too little tissue for a crop that the model could judge"),
    )
    warnings = [f"{n} of {patches} patches ({n / patches:.1%}) {why} and have no value" for n, why in counted if n]
    if warnings:
        return warnings
    return [_NO_TISSUE] if patches and np.isnan(prediction.tissue_fraction).all() else []


def _refuse_other_slide(
    out: Path,
    slide_id: str,
    lies_at: str | dict[str, str],
    replace_changed: bool,
    stamp: Stamp,
    existing: Stamp,
    facts_path: Path,
) -> bool:
    """Refuse to replace outputs of another model, or slide of the same id; True to replace those of an earlier file."""
    if stamp.inputs["slide"] == existing.inputs.get("slide"):
        if stamp.inputs["model"] == existing.inputs.get("model"):
            return False
        raise StaleArtefactError(
            f"the slide was {OTHER_MODEL}: {'; '.join(stamp.differences(existing))}",
            place=str(facts_path),
            remedy="use --force to predict it by this one, or another work folder to keep both",
        )
    before = read_status(out, slide_id).get(STAGE, {}).get("source")
    require_same_source(before, lies_at, slide_id=slide_id, place=facts_path.parent)
    if len(changes := stamp.differences(existing)) > 1 or replace_changed:
        return len(changes) == 1
    raise StaleArtefactError(
        f"{CHANGED}: {changes[0]}",
        place=str(facts_path),
        remedy="use --replace-changed to predict it again, or give the new file a name of its own",
    )


def _stamp(source: DrawnSource, model: Ensemble, config: PredictConfig) -> Stamp:
    """Return the stamp of everything that the outputs depend on; batch size, device and threads are not part of it."""
    settings: dict[str, Any] = {
        "all_patches": config.all_patches,
        **patch_limits(model.spec, config),
        "flags": FLAG_LIMITS,
    }
    if model.area_correct != "none":
        settings["area_correct"] = model.area_correct
    members = [(member.spec, member.runtime.weights) for member in model.members]
    model_mark = model.fingerprint or joint_fingerprint(members, correct=model.area_correct)
    if isinstance(source, FromFeatures):
        inputs = {"slide": source.files, "model": model_mark}
        if source.slide is not None:
            inputs["picture"] = source.slide.fingerprint
        return Stamp(stage=STAGE, settings=settings | {"mpp": source.mpp}, inputs=inputs)
    settings |= {
        "tiling": source.tiling,
        "precision": model.precision,
        "deidentify": config.deidentify,
        "max_bad_tiles": config.max_bad_tiles,
    }
    inputs = {"slide": source.slide.fingerprint, "model": model_mark}
    if source.tissue_mask is not None:
        inputs["tissue_mask"] = fingerprint_file(source.tissue_mask)
    return Stamp(stage=STAGE, settings=settings, inputs=inputs)


def _reuse_existing(slide_id: str, folder: Path, about: Mapping[str, Any], job: Job) -> Outcome:
    """Return the outcome of existing outputs, and bring the slide's status up to date."""
    facts = read_facts(folder)
    if job.status is not None:
        entry, current = job.status.read(), {name: value for name, value in about.items() if value}
        # The status is missing after an interruption, and outdated if the slide has moved or has another patient now.
        if entry.get("state") not in FINISHED:
            job.record(_status_entry(facts, about))
        elif any(entry.get(name) != value for name, value in current.items()):
            job.status.write({**entry, **current})
    return replace(_outcome(slide_id, facts), state="current")


def _outcome(slide_id: str, facts: HeatmapFacts) -> Outcome:
    """Return the outcome that a slide's ``heatmap.json`` tells."""
    entry = _status_entry(facts, {})
    warnings = tuple(entry["warnings"])
    return Outcome(slide_id=slide_id, state=entry["state"], counts=entry["counts"], warnings=warnings)


def _status_entry(facts: HeatmapFacts, about: Mapping[str, Any]) -> dict[str, Any]:
    """Return the slide's status; only this has the slide's patient and path, never the heatmap."""
    return {
        "state": "done" if facts["counts"]["predicted"] else "done_empty",
        **about,
        "leakage": facts["leakage"],
        "counts": facts["counts"],
        "summary": facts["summary"],
        "warnings": facts["warnings"],
        "read_level": facts["read_level"],
        "read_level_downsample": facts["read_level_downsample"],
    }


def _write_folder(
    folder: Path,
    table: Path,
    model: Ensemble,
    prediction: Prediction,
    stamp: Stamp,
    *,
    wanted: Collection[str],
    drawn_name: str,
    known_as: str,
    warnings: Sequence[str],
) -> HeatmapFacts:
    """Write the heatmap's files into an empty folder and return the content of ``heatmap.json``.

    `table` is the finished table, whose mark stands there too. `wanted` are files beside `EXPORTS`. `drawn_name` is the
    slide's name in the picture; "" for none. `known_as` is a word of `pathopatch.models.leakage`.
    """
    spec, tissue = model.spec, prediction.analysis.tissue.mask
    cells, channels = prediction.maps()
    maps = dict(zip(channels, cells, strict=True))
    _write_maps(folder, prediction, cells.astype(np.float32), channels, model, with_zarr=ZARR in wanted)
    write_png(folder / "overlay.png", _overlay(prediction, maps, drawn_name, model, known_as))
    always: tuple[str, ...] = EXPORTS
    if tissue.size:
        always = (*EXPORTS, TISSUE)
        share = shrunk(tissue[None] * np.uint8(255), _OVERVIEW_PX)[0]
        write_png(folder / TISSUE, np.where(share > 127, np.uint8(255), np.uint8(0)))
    regions = _write_patch_exports(folder, prediction, maps, spec, stamp, wanted)
    cropped = any(member.spec.crop_px is not None for member in model.members)
    facts = {
        **_facts(prediction, spec, stamp),
        "computed_by": model.computed_by,  # for information: it makes nothing stale
        "map_channels": list(channels),
        "counts": {
            "patches": len(prediction.tissue_fraction),
            "predicted": len(prediction.origins),
            "tumour": int(np.count_nonzero(np.asarray(prediction.columns["logit"]) > spec.decision_threshold)),
            "unreadable": prediction.unreadable,
            **({"too_little_tissue": len(prediction.too_little_tissue)} if cropped else {}),
        },
        "summary": summary(
            prediction,
            maps,
            regions=regions,
            decision_probability=prediction.decision_probability,
            mpp=prediction.mpp,
        ),
        "leakage": known_as,
        "warnings": list(warnings),
        "outputs": file_marks({name: folder / name for name in (*always, *wanted)} | {TABLE: table}),
    }
    plain: dict[str, Any] = json.loads(json_text(facts))  # as they are read again: JSON has no NaN and no tuples
    plain[OWN] = fingerprint(plain)
    write_json(folder / FACTS, plain)
    return cast(HeatmapFacts, plain)


def _write_maps(
    folder: Path,
    prediction: Prediction,
    cells: NDArray[np.float32],
    channels: Sequence[str],
    model: Ensemble,
    *,
    with_zarr: bool,
) -> None:
    """Write the map's channels, (C, ny, nx), as OME-TIFF, and as OME-Zarr beside the overview's scale."""
    grid, mpp, slide_id = prediction.grid, prediction.mpp, prediction.slide_id
    name = slide_id if model.area_correct == "none" else f"{slide_id}, {CORRECTED}"
    image: dict[str, Any] = {"channels": channels, "cell_um": round(grid.stride * mpp, 9), "name": name}
    write_ome_tiff(folder / HEATMAP, cells, **image)
    if with_zarr:
        height, width = prediction.analysis.overview.shape[1:]
        over_um = mpp * grid.width / width, mpp * grid.height / height
        write_ome_zarr(folder / ZARR, cells, over_um=over_um, **image)


def _write_patch_exports(
    folder: Path,
    prediction: Prediction,
    maps: Mapping[str, Cells],
    spec: BundleSpec,
    stamp: Stamp,
    wanted: Collection[str],
) -> PositiveRegions:
    """Write the positive regions, and what is wanted of the files of patches; return the regions."""
    grid, slide_size = prediction.grid, (prediction.grid.width, prediction.grid.height)
    regions = positive_regions(
        maps["probability"],
        decision_probability=prediction.decision_probability,
        cell_px=grid.stride,
        patch_px=grid.extent,
        mpp=prediction.mpp,
        slide_size=slide_size,
        scanned=maps.get("scanned_fraction", 1.0),
    )
    # Ids of this model's objects: QuPath replaces them when the same model's files are imported again.
    origin = prediction.facts.known_bounds[:2]
    identity: dict[str, Any] = {"slide_id": prediction.slide_id, "run": stamp.inputs["model"], "origin": origin}
    write_regions(folder / REGIONS, regions, class_name=spec.class_names[1], **identity)
    if TILES in wanted:
        write_tiles(
            folder / TILES,
            prediction.tables(),
            class_names=spec.class_names,
            decision_threshold=spec.decision_threshold,
            slide_size=slide_size,
            **identity,
        )
    if CSV in wanted:
        write_wsinfer_csv(folder / CSV, prediction.tables(), class_names=spec.class_names)
    return regions


def _overlay(prediction: Prediction, maps: Mapping[str, Cells], name: str, model: Ensemble, known_as: str) -> Picture:
    """Return the picture of the map on the slide."""
    analysis, grid, spec = prediction.analysis, prediction.grid, model.spec
    channels, is_rgb = prediction.facts.channels, prediction.facts.is_rgb
    overview, tissue = shrunk(analysis.overview, _OVERVIEW_PX), analysis.tissue.mask > 0
    scale_y, scale_x = grid.height / overview.shape[1], grid.width / overview.shape[2]
    return render(
        compose(overview, analysis.windows, is_rgb=is_rgb),
        maps["probability"],
        ground=ground_of(analysis.background),
        tissue=tissue if tissue.size else None,
        hatched={
            # Of features, tissue may be unknown.
            "unreadable": np.isnan(maps["tissue_fraction"]) & (prediction.unreadable > 0),
            "too little tissue": prediction.without_answer(maps),
        },
        cell_px=(grid.stride / scale_y, grid.stride / scale_x),
        um_per_px=prediction.mpp * scale_x,
        legend=Legend(
            threshold=prediction.decision_probability,
            name=name,
            class_name=spec.class_names[1],
            channels=() if is_rgb else channels,
            warnings=tuple(
                ["model's scale: unknown"] * (spec.mpp is None and spec.encoder is None)
                + [f"model was {known_as}", "this very slide"] * bool(leakage_warning(known_as))
                + [CORRECTED] * (model.area_correct != "none")
            ),
        ),
    )


def _facts(prediction: Prediction, spec: BundleSpec, stamp: Stamp) -> dict[str, Any]:
    """Return the facts that a reader of the heatmap needs besides its cells."""
    facts, analysis, grid = prediction.facts, prediction.analysis, prediction.grid
    return {
        "slide_id": prediction.slide_id,
        "size_px": [grid.width, grid.height],
        "bounds_px": list(facts.known_bounds),
        "mpp": prediction.mpp,
        "model_mpp": spec.mpp,
        "channels": list(facts.channels),
        "dtype": str(facts.dtype),
        "files": [fingerprint_file(path) for path in facts.paths],
        "patch_px": grid.patch_px,
        "stride_px": grid.stride_px,
        "downsample": grid.downsample,
        **read_level(facts.levels, grid.downsample),
        "cell_px": grid.stride,
        "cell_um": round(grid.stride * prediction.mpp, 9),
        "cells": [grid.nx, grid.ny],
        "placement": prediction.placement,
        "class_names": list(spec.class_names),
        "method": spec.method,
        "decision_threshold": spec.decision_threshold,
        "decision_probability": prediction.decision_probability,
        "temperature": spec.temperature,
        "background": analysis.background,
        "tissue_threshold": analysis.tissue.threshold,
        "intensity_windows": analysis.windows.tolist(),
        "shifts": [shift.to_dict() for shift in analysis.shifts],
        "offsets_px": [list(offset) for offset in analysis.offsets],
        "stamp": stamp.to_dict(),
    }
