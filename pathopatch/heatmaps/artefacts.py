"""Write a slide's predictions into the work folder: the table, the heatmap with its exports, the status.

``heatmap.ome.tif`` (Bio-Formats, QuPath), ``heatmap.ome.zarr`` (napari and other readers of OME-Zarr),
``heatmap.rgb.tif`` (viewers that stand on OpenSlide), ``overlay.png`` (to look at), ``patches.geojson.gz`` and
``regions.geojson.gz`` (QuPath), ``patches.csv`` (wsinfer's columns), ``heatmap.json`` (facts, and the size and
fingerprint of every other file, the table among them, and its own fingerprint: damaged outputs are made again).
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from pathopatch.core.artefacts import (
    Artefact,
    SlideStatus,
    Stamp,
    artefact,
    content_fingerprints,
    damages,
    file_marks,
    fingerprint,
    fingerprint_file,
    is_up_to_date,
    read_stamp,
    require_same_source,
    write_tables,
)
from pathopatch.core.config import PredictConfig
from pathopatch.core.errors import InputUnsupportedError
from pathopatch.core.files import atomic_path, json_text, read_json, write_json
from pathopatch.core.locks import folder_lock, slide_lock
from pathopatch.core.status import FINISHED, read_status, update_status
from pathopatch.core.work_folder import WorkFolder
from pathopatch.heatmaps import FACTS
from pathopatch.heatmaps.colors import ground_of
from pathopatch.heatmaps.overlay import Legend, render
from pathopatch.heatmaps.patch_exports import positive_regions, write_regions, write_tiles, write_wsinfer_csv
from pathopatch.heatmaps.predict import DEFAULTS, Prediction, predict_patches
from pathopatch.heatmaps.pyramids import write_ome_tiff, write_ome_zarr, write_rgb_pyramid
from pathopatch.heatmaps.stitch import Cells
from pathopatch.heatmaps.summary import summary
from pathopatch.models.bundle import joint_fingerprint
from pathopatch.models.forward import Ensemble, PatchClassifier
from pathopatch.models.leakage import TRAINED, leakage, leakage_warning
from pathopatch.models.spec import BundleSpec, check_slide, patch_limits, tiling_of
from pathopatch.patches.analysis import read_level
from pathopatch.patches.picture import write_png
from pathopatch.slides import Slide, in_order, tolerant
from pathopatch.slides.composite import Picture, compose, shrunk
from pathopatch.slides.slide_paths import ID_REMEDY, split_fragment, valid_slide_id

STAGE = "predict"
HEATMAP = "heatmap.ome.tif"
EXPORTS = (
    HEATMAP, "heatmap.ome.zarr", "heatmap.rgb.tif", "overlay.png", "regions.geojson.gz", "patches.geojson.gz",
    "patches.csv",
)  # fmt: skip
"""Files and folders of a heatmap beside its facts."""
_MARKS, _OWN = "outputs", "fingerprint"  # in the facts: marks of all other files by name, and a mark of the facts
_TABLE = "predictions"  # the table's name there
_PROBES, _PROBE_PX = 6, 32  # per axis
_OVERVIEW_PX = 1536  # longest side of the picture: as large as a screen shows at once


@dataclass(frozen=True, kw_only=True)
class PredictResult:
    """The result for one slide."""

    slide_id: str
    state: str  # "done", "done_empty" (no patch with tissue), or "current" (outputs were up to date)
    counts: Mapping[str, int]  # patches of the grid, predicted, tumour (above the threshold), unreadable
    summary: Mapping[str, float | None]  # see `pathopatch.heatmaps.summary`
    warnings: tuple[str, ...]


def predict_to(
    slide: Slide,
    model: PatchClassifier | Ensemble,
    out: Path,
    *,
    slide_id: str,
    patient_id: str = "",
    tissue_mask: Path | None = None,
    config: PredictConfig = DEFAULTS,
    force: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> PredictResult:
    """Predict a slide and write ``predictions/<id>.parquet``, ``heatmaps/<id>/`` and its status, unless up to date.

    A second process waits for the first one, and then finds its outputs. Damaged outputs are made again with a warning.
    The patient is kept in the status, for the summary by patient; `progress` is called with (grid positions done, all).

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
    ChannelMismatchError, CheckpointIncompatibleError, MppMissingError, InputCorruptError, NonFiniteError
        As `predict_slide`.
    """
    if not valid_slide_id(slide_id):
        raise InputUnsupportedError(f"{slide_id!r} is no slide id", place="slide_id", remedy=ID_REMEDY)
    ensemble = model if isinstance(model, Ensemble) else Ensemble([model])
    spec = ensemble.spec
    slide = in_order(slide, spec.channels)
    if config.max_bad_tiles:
        slide = tolerant(slide, config.max_bad_tiles)

    def predict() -> tuple[Prediction, list[str]]:
        prediction = predict_patches(slide, ensemble, slide_id, config, tissue_mask=tissue_mask, progress=progress)
        warnings = prediction.analysis.warnings(slide.mpp, tiling_of(spec, config).registration.warn_um)
        unreadable, patches = prediction.unreadable, len(prediction.tissue_fraction)
        if unreadable:
            share = f"{unreadable} of {patches} patches ({unreadable / patches:.1%})"
            warnings.append(f"{share} cannot be decoded and have no value")
        return prediction, warnings

    return write_outputs(
        slide,
        ensemble,
        out,
        slide_id=slide_id,
        warnings=[*slide.notes, *check_slide(spec, slide)],
        make_stamp=lambda: _stamp(slide, ensemble, config, tissue_mask),
        predict=predict,
        fingerprints=content_fingerprints(slide.paths),
        structure=slide.structure if any(TRAINED in member.spec.training for member in ensemble.members) else "",
        about={} if config.deidentify else {"source": slide.source, "patient_id": patient_id},
        drawn_name="" if config.deidentify else slide_id,
        force=force,
    )


def write_outputs(
    slide: Slide,
    ensemble: Ensemble,
    out: Path,
    *,
    slide_id: str,
    warnings: Sequence[str],
    make_stamp: Callable[[], Stamp],
    predict: Callable[[], tuple[Prediction, list[str]]],
    fingerprints: Collection[str],
    structure: str = "",
    about: Mapping[str, Any],
    drawn_name: str,
    force: bool = False,
) -> PredictResult:
    """Write the outputs of a slide, unless they are up to date; errors as of `predict_to`.

    `make_stamp` is called with the slide locked. `predict` returns the prediction, and warnings about it beside
    `warnings`, those about slide and model. By `fingerprints` and `structure` a model may know the slide,
    see `pathopatch.models.leakage`. `about` is for the slide's status: its patient and its place. `drawn_name` is the
    slide's name in the picture; "" for none.
    """
    known_as = leakage([member.spec for member in ensemble.members], fingerprints, structure=structure)
    leaks = [warning] if (warning := leakage_warning(known_as)) else []
    folder, table_path = WorkFolder(out).heatmap(slide_id), WorkFolder(out).predictions(slide_id)
    with folder_lock(out, slide_lock(slide_id, STAGE), waiting_for=f"slide {slide_id} ({STAGE})"):
        stamp = make_stamp()
        damaged = [f"{path.name} cannot be read" for path in (folder / FACTS, table_path) if _is_unreadable(path)]

        def is_whole() -> bool:
            damaged.extend(heatmap_damages(folder, table_path))
            if leaks and not damaged and read_json(folder / FACTS).get("leakage") != known_as:
                damaged.append(f"they do not say that {leaks[0]}")
            return not damaged

        with artefact(
            folder / FACTS,
            table_path,
            stamp=stamp,
            force=force,
            refuse=partial(_refuse_other_slide, out, slide, stamp),
            is_whole=is_whole,
            require_unchanged=slide.require_unchanged,
            status=SlideStatus(out, slide_id, STAGE, about=about),
        ) as outputs:
            if outputs.is_current:
                return _reuse_existing(out, slide_id, folder, about, outputs)
            prediction, further = predict()
            # All is written under temporary names. The table takes its place first, then the folder, the status last:
            # on a full disk the earlier outputs stay as they were.
            with atomic_path(folder) as temporary, atomic_path(table_path) as table:
                write_tables(table, prediction.tables(), stamp)
                temporary.mkdir()
                facts = _write_folder(
                    temporary,
                    table,
                    slide,
                    ensemble,
                    prediction,
                    stamp,
                    drawn_name=drawn_name,
                    known_as=known_as,
                    warnings=[*leaks, *warnings, *further],
                )
                outputs.require_unchanged()
            outputs.record(_status_entry(facts, about))
            result = _result(slide_id, facts)
            if damaged:  # told once: what is there now is whole
                notice = f"the outputs were damaged and are made again: {'; '.join(damaged)}"
                result = replace(result, warnings=(*result.warnings, notice))
            return result


def is_predicted(
    slide: Slide,
    model: PatchClassifier | Ensemble,
    out: Path,
    *,
    slide_id: str,
    tissue_mask: Path | None = None,
    config: PredictConfig = DEFAULTS,
    force: bool = False,
) -> bool:
    """Return whether `predict_to` would find its own finished outputs and do nothing; arguments and errors as there."""
    ensemble = model if isinstance(model, Ensemble) else Ensemble([model])
    slide = in_order(slide, ensemble.spec.channels)
    if config.max_bad_tiles:
        slide = tolerant(slide, config.max_bad_tiles)
    facts_path, table_path = WorkFolder(out).heatmap(slide_id) / FACTS, WorkFolder(out).predictions(slide_id)
    if not facts_path.is_file():  # first, since a stamp reads pixels of the slide
        return False
    stamp = _stamp(slide, ensemble, config, tissue_mask)
    refuse = partial(_refuse_other_slide, out, slide, stamp)
    is_current = is_up_to_date(facts_path, table_path, stamp=stamp, force=force, refuse=refuse)
    return is_current and not heatmap_damages(facts_path.parent, table_path)


def _is_unreadable(path: Path) -> bool:
    """Return whether a part of a slide's outputs is there and has no stamp that can be read."""
    return path.exists() and read_stamp(path) is None


def heatmap_damages(folder: Path, table_path: Path, *, exports: Sequence[str] = EXPORTS) -> list[str]:
    """Return in words what of a slide's facts, table and exports is not as it was written; none if all is."""
    facts = read_json(folder / FACTS)
    own_fingerprint = facts.pop(_OWN, None)
    if fingerprint(facts) != own_fingerprint:
        return [f"{FACTS} has another content than was written"]
    return damages({name: folder / name for name in exports} | {_TABLE: table_path}, facts[_MARKS])


def _refuse_other_slide(out: Path, slide: Slide, stamp: Stamp, existing: Stamp, facts_path: Path) -> None:
    """Refuse to replace outputs of another slide with the same id."""
    if stamp.inputs["slide"] != existing.inputs.get("slide"):
        slide_id = facts_path.parent.name
        source = read_status(out, slide_id).get(STAGE, {}).get("source")
        require_same_source(source, slide.source, slide_id=slide_id, place=facts_path.parent)


def _stamp(slide: Slide, model: Ensemble, config: PredictConfig, tissue_mask: Path | None) -> Stamp:
    """Return the stamp of everything that the outputs depend on; batch size, device and threads are not part of it."""
    settings: dict[str, Any] = {
        "all_patches": config.all_patches,
        **patch_limits(model.spec, config),
        "tiling": tiling_of(model.spec, config),
        "precision": model.precision,
        "tta": config.tta,
        "deidentify": config.deidentify,
        "flags": config.flags,
        "max_bad_tiles": config.max_bad_tiles,
    }
    inputs = {"slide": slide_fingerprint(slide), "model": model_fingerprint(model)}
    if tissue_mask is not None:
        inputs["tissue_mask"] = fingerprint_file(tissue_mask)
    return Stamp(stage=STAGE, settings=settings, inputs=inputs)


def model_fingerprint(model: Ensemble) -> str:
    """Return a fingerprint of the models, whatever runs them."""
    return joint_fingerprint([(member.spec, member.runtime.weights) for member in model.members])


def slide_fingerprint(slide: Slide) -> str:
    """Return a fingerprint of a slide's files, of the pages or planes chosen of them, and of some of its pixels."""
    digest = hashlib.sha256()
    # The fingerprint of a large file has samples of its bytes only, so some pixels are read too.
    for y in np.linspace(0, slide.size[1], _PROBES, endpoint=False).astype(int).tolist():
        for x in np.linspace(0, slide.size[0], _PROBES, endpoint=False).astype(int).tolist():
            digest.update(np.ascontiguousarray(slide.read_region(x, y, _PROBE_PX, _PROBE_PX)).tobytes())
    # Without the path: a moved slide is the same one, but two pages of one file are two slides.
    sources = slide.source if isinstance(slide.source, dict) else {"": slide.source}
    pixels = {
        "files": [fingerprint_file(path) for path in slide.paths],
        "chosen": {name: str(replace(split_fragment(source), path="")) for name, source in sources.items()},
        "channels": slide.channels,
        "mpp": slide.mpp,
        "background": slide.background,
        "probes": digest.hexdigest(),
    }
    return fingerprint(pixels)


def _reuse_existing(
    out: Path, slide_id: str, folder: Path, about: Mapping[str, Any], outputs: Artefact
) -> PredictResult:
    """Return the result of existing outputs, and bring the slide's status up to date."""
    facts = read_json(folder / FACTS)
    entry = read_status(out, slide_id).get(STAGE, {})
    current = {name: value for name, value in about.items() if value}
    # The status is missing after an interruption, and outdated if the slide has moved or has another patient now.
    if entry.get("state") not in FINISHED:
        outputs.record(_status_entry(facts, about))
    elif any(entry.get(name) != value for name, value in current.items()):
        update_status(out, slide_id, STAGE, {**entry, **current})
    return replace(_result(slide_id, facts), state="current")


def _result(slide_id: str, facts: Mapping[str, Any]) -> PredictResult:
    """Return the result that a slide's ``heatmap.json`` tells."""
    entry = _status_entry(facts, {})
    values = {name: entry[name] for name in ("state", "counts", "summary")}
    return PredictResult(slide_id=slide_id, warnings=tuple(entry["warnings"]), **values)


def _status_entry(facts: Mapping[str, Any], about: Mapping[str, Any]) -> dict[str, Any]:
    """Return the slide's status; only this has the slide's patient and path, never the heatmap."""
    names = ("counts", "summary", "warnings", "read_level", "read_level_downsample")
    state = "done" if facts["counts"]["predicted"] else "done_empty"
    # Facts of an earlier version do not say it.
    return {"state": state, **about, "leakage": facts.get("leakage", ""), **{name: facts[name] for name in names}}


def _write_folder(
    folder: Path,
    table: Path,
    slide: Slide,
    model: Ensemble,
    prediction: Prediction,
    stamp: Stamp,
    *,
    drawn_name: str,
    known_as: str,
    warnings: Sequence[str],
) -> dict[str, Any]:
    """Write the heatmap's files into an empty folder and return the content of ``heatmap.json``.

    `table` is the finished table, whose mark stands there too. `drawn_name` is the slide's name in the picture; "" for
    none. `known_as` is a word of `pathopatch.models.leakage`.
    """
    spec, slide_id, analysis = model.spec, prediction.slide_id, prediction.analysis
    threshold, grid = prediction.decision_probability, analysis.grid
    cells, channels = prediction.maps()
    maps = dict(zip(channels, cells, strict=True))
    probability, shown = maps["probability"], cells.astype(np.float32)
    cell_um = round(grid.stride * slide.mpp, 9)
    height, width = analysis.overview.shape[1:]
    over_um = slide.mpp * slide.size[0] / width, slide.mpp * slide.size[1] / height
    image: dict[str, Any] = {"channels": channels, "cell_um": cell_um, "name": slide_id}
    write_ome_tiff(folder / HEATMAP, shown, **image)
    write_ome_zarr(folder / "heatmap.ome.zarr", shown, over_um=over_um, **image)
    write_rgb_pyramid(folder / "heatmap.rgb.tif", probability, cell_um=cell_um, ground=ground_of(slide.background))
    write_png(folder / "overlay.png", _overlay(slide, prediction, maps, drawn_name, spec, known_as))
    regions = positive_regions(
        probability,
        decision_probability=threshold,
        cell_px=grid.stride,
        mpp=slide.mpp,
        slide_size=slide.size,
        scanned=maps.get("scanned_fraction", 1.0),
    )
    # Ids of this model's objects: QuPath replaces them when the same model's files are imported again.
    identity: dict[str, Any] = {"slide_id": slide_id, "run": stamp.inputs["model"], "origin": slide.bounds[:2]}
    write_regions(folder / "regions.geojson.gz", regions, class_name=spec.class_names[1], **identity)
    write_tiles(
        folder / "patches.geojson.gz",
        prediction.tables(),
        class_names=spec.class_names,
        decision_threshold=spec.decision_threshold,
        slide_size=slide.size,
        **identity,
    )
    write_wsinfer_csv(folder / "patches.csv", prediction.tables(), class_names=spec.class_names)
    facts = {
        **_facts(slide, prediction, spec, stamp),
        "computed_by": model.computed_by,  # for information: it makes nothing stale
        "map_channels": list(channels),
        "counts": {
            "patches": len(prediction.tissue_fraction),
            "predicted": len(prediction.origins),
            "tumour": int(np.count_nonzero(np.asarray(prediction.columns["logit"]) > spec.decision_threshold)),
            "unreadable": prediction.unreadable,
        },
        "summary": summary(prediction, maps, regions=regions, decision_probability=threshold, mpp=slide.mpp),
        "leakage": known_as,
        "warnings": list(warnings),
        _MARKS: file_marks({name: folder / name for name in EXPORTS} | {_TABLE: table}),
    }
    plain: dict[str, Any] = json.loads(json_text(facts))  # as they are read again: JSON has no NaN and no tuples
    plain[_OWN] = fingerprint(plain)
    write_json(folder / FACTS, plain)
    return plain


def _overlay(
    slide: Slide, prediction: Prediction, maps: Mapping[str, Cells], name: str, spec: BundleSpec, known_as: str
) -> Picture:
    """Return the picture of the map on the slide."""
    analysis = prediction.analysis
    overview = shrunk(analysis.overview, _OVERVIEW_PX)
    scale_y, scale_x = slide.size[1] / overview.shape[1], slide.size[0] / overview.shape[2]
    stride = analysis.grid.stride
    return render(
        compose(overview, analysis.windows, is_rgb=slide.is_rgb),
        maps["probability"],
        ground=ground_of(analysis.background),
        unreadable=prediction.unreadable_cells(maps["tissue_fraction"]),
        cell_px=(stride / scale_y, stride / scale_x),
        um_per_px=slide.mpp * scale_x,
        legend=Legend(
            threshold=prediction.decision_probability,
            name=name,
            class_name=spec.class_names[1],
            channels=() if slide.is_rgb else slide.channels,
            warnings=tuple(
                ["model's scale: unknown"] * (spec.mpp is None and spec.encoder is None)
                + [f"model was {known_as}", "this very slide"] * bool(leakage_warning(known_as))
            ),
        ),
    )


def _facts(slide: Slide, prediction: Prediction, spec: BundleSpec, stamp: Stamp) -> dict[str, Any]:
    """Return the facts that a reader of the heatmap needs besides its cells."""
    analysis, grid = prediction.analysis, prediction.analysis.grid
    return {
        "slide_id": prediction.slide_id,
        "size_px": list(slide.size),
        "bounds_px": list(slide.bounds),
        "mpp": slide.mpp,
        "model_mpp": spec.mpp,
        "channels": list(slide.channels),
        "dtype": str(slide.dtype),
        "files": [fingerprint_file(path) for path in slide.paths],
        "patch_px": grid.patch_px,
        "stride_px": grid.stride_px,
        "downsample": grid.downsample,
        **read_level(slide, grid.downsample),
        "cell_px": grid.stride,
        "cell_um": round(grid.stride * slide.mpp, 9),
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
