"""Write the folder of a slide's heatmap: the map, its facts, and a file for each program that reads it.

``heatmap.ome.tif`` (Bio-Formats, QuPath), ``heatmap.ome.zarr`` (napari and other readers of OME-Zarr),
``heatmap.rgb.tif`` (viewers that stand on OpenSlide), ``overlay.png`` (eyes), ``patches.geojson.gz`` and
``regions.geojson.gz`` (QuPath), ``patches.csv`` (wsinfer's columns), ``heatmap.json`` (facts).
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pathopatch.core.artefacts import Stamp, fingerprint_file
from pathopatch.core.files import write_json
from pathopatch.heatmaps import FACTS
from pathopatch.heatmaps.geojson import positive_regions, write_regions, write_tiles
from pathopatch.heatmaps.ome_tiff import CHANNELS, WITH_SPREAD, write_ome_tiff
from pathopatch.heatmaps.ome_zarr import write_ome_zarr
from pathopatch.heatmaps.overlay import Legend, render
from pathopatch.heatmaps.predict import Prediction, decision_probability
from pathopatch.heatmaps.rgb_pyramid import write_rgb_pyramid
from pathopatch.heatmaps.stitch import coverage, stitch
from pathopatch.heatmaps.summary import summary
from pathopatch.heatmaps.wsinfer_csv import write_wsinfer_csv
from pathopatch.models.spec import BundleSpec
from pathopatch.patches.analysis import SlideAnalysis
from pathopatch.patches.picture import Picture, compose, shrunk, write_png
from pathopatch.patches.source import read_level
from pathopatch.slides import Slide

_OVERVIEW_PX = 1536  # the picture's longest side: as large as a screen shows at once


def write_folder(
    folder: Path,
    slide: Slide,
    spec: BundleSpec,
    prediction: Prediction,
    stamp: Stamp,
    *,
    drawn_name: str,
    warnings: Sequence[str] = (),
) -> dict[str, Any]:
    """Write the heatmap's files into an empty folder and return the content of ``heatmap.json``.

    `drawn_name` is the slide's name in the picture; "" for none. `warnings` are for the reader of the slide's facts.
    """
    slide_id, analysis, threshold = prediction.slide_id, prediction.analysis, decision_probability(spec)
    cells, channels = _cells(prediction)
    probability = np.asarray(cells[0], np.float64)
    cell_um = round(analysis.grid.stride * slide.mpp, 9)
    shown, over_um = cells.astype(np.float32), _overview_um(slide, analysis)
    write_ome_tiff(folder / "heatmap.ome.tif", shown, channels=channels, cell_um=cell_um, name=slide_id)
    write_ome_zarr(
        folder / "heatmap.ome.zarr", shown, channels=channels, cell_um=cell_um, over_um=over_um, name=slide_id
    )
    write_rgb_pyramid(folder / "heatmap.rgb.tif", probability, cell_um=cell_um)
    write_png(folder / "overlay.png", _overlay(slide, analysis, cells, drawn_name, spec))
    regions = positive_regions(
        probability,
        decision_probability=threshold,
        cell_px=analysis.grid.stride,
        mpp=slide.mpp,
        slide_size=slide.size,
    )
    run, origin = stamp.inputs["model"], slide.bounds[:2]
    write_regions(
        folder / "regions.geojson.gz",
        regions,
        slide_id=slide_id,
        run=run,
        class_name=spec.class_names[1],
        origin=origin,
    )
    write_tiles(
        folder / "patches.geojson.gz",
        prediction.tables(),
        slide_id=slide_id,
        run=run,
        class_names=spec.class_names,
        decision_threshold=spec.decision_threshold,
        slide_size=slide.size,
        origin=origin,
    )
    write_wsinfer_csv(folder / "patches.csv", prediction.tables(), class_names=spec.class_names)
    numbers = summary(prediction, cells, regions=regions, decision_probability=threshold, mpp=slide.mpp)
    results = {"counts": _counts(prediction, spec), "summary": numbers, "warnings": list(warnings)}
    facts = {**_facts(slide, slide_id, analysis, spec, stamp), "map_channels": list(channels), **results}
    write_json(folder / FACTS, facts)
    return facts


def _cells(prediction: Prediction) -> tuple[NDArray[np.float64], tuple[str, ...]]:
    """Return the maps (C, ny, nx) and their names; that of the spread only where there is one."""
    grid = prediction.analysis.grid
    x, y = prediction.origins.T
    every_x, every_y = grid.origins().T
    probability, spread = np.asarray(prediction.columns["probability"]), np.asarray(prediction.columns["spread"])
    tissue = stitch(grid, every_x, every_y, prediction.tissue_fraction)
    maps = [stitch(grid, x, y, probability), tissue, coverage(grid, x, y, probability)]
    if not np.isfinite(spread).any():
        return np.stack(maps), CHANNELS
    return np.stack([*maps, stitch(grid, x, y, spread)]), WITH_SPREAD


def _overview_um(slide: Slide, analysis: SlideAnalysis) -> tuple[float, float]:
    """Return the um per px of the overview, (x, y)."""
    height, width = analysis.overview.shape[1:]
    return slide.mpp * slide.size[0] / width, slide.mpp * slide.size[1] / height


def _counts(prediction: Prediction, spec: BundleSpec) -> dict[str, int]:
    return {
        "patches": len(prediction.tissue_fraction),
        "predicted": len(prediction),
        "tumour": int(np.count_nonzero(np.asarray(prediction.columns["logit"]) > spec.decision_threshold)),
        "unreadable": prediction.unreadable,
    }


def _overlay(slide: Slide, analysis: SlideAnalysis, cells: NDArray[np.float64], name: str, spec: BundleSpec) -> Picture:
    """Return the picture of the map on the slide; where even the tissue is unknown, pixels cannot be decoded."""
    probability, tissue, *_ = cells
    overview = shrunk(analysis.overview, _OVERVIEW_PX)
    scale_y, scale_x = slide.size[1] / overview.shape[1], slide.size[0] / overview.shape[2]
    stride = analysis.grid.stride
    return render(
        compose(overview, analysis.windows, is_rgb=slide.is_rgb),
        probability,
        unreadable=np.isnan(tissue),
        cell_px=(stride / scale_y, stride / scale_x),
        um_per_px=slide.mpp * scale_x,
        legend=Legend(
            threshold=decision_probability(spec),
            name=name,
            class_name=spec.class_names[1],
            channels=() if slide.is_rgb else slide.channels,
            warning="" if spec.mpp is not None else "model's scale: unknown",
        ),
    )


def _facts(slide: Slide, slide_id: str, analysis: SlideAnalysis, spec: BundleSpec, stamp: Stamp) -> dict[str, Any]:
    """Return what a reader of the heatmap needs besides its cells."""
    grid = analysis.grid
    return {
        "slide_id": slide_id,
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
        "class_names": list(spec.class_names),
        "method": spec.method,
        "decision_threshold": spec.decision_threshold,
        "decision_probability": decision_probability(spec),
        "temperature": spec.temperature,
        "background": analysis.background,
        "tissue_threshold": analysis.tissue.threshold,
        "intensity_windows": analysis.windows.tolist(),
        "shifts": [shift.to_dict() for shift in analysis.shifts],
        "offsets_px": [list(offset) for offset in analysis.offsets],
        "stamp": stamp.to_dict(),
    }
