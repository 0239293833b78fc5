"""Read ``heatmap.json``, what a slide's heatmap was made of, and compute the numbers that summarise it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypedDict, cast, get_args

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from pathopatch.core.artefacts import damages, fingerprint
from pathopatch.core.config import Output
from pathopatch.core.files import read_json
from pathopatch.heatmaps import FACTS, FLAGS
from pathopatch.heatmaps.stitch import Cells, inside_share
from pathopatch.models.leakage import SELECTED_ON, TRAINED_ON
from pathopatch.patches.grid import Grid

if TYPE_CHECKING:  # what is read here is read without torch
    from pathopatch.heatmaps.patch_exports import PositiveRegions
    from pathopatch.heatmaps.predict import Prediction

HEATMAP = "heatmap.ome.tif"
REGIONS = "regions.geojson.gz"
EXPORTS = (HEATMAP, "overlay.png", REGIONS)
"""Files of every heatmap beside its facts."""
TISSUE = "tissue.png"
"""Where tissue was found, white on black, as coarse as the overlay; not of features, whose tissue nobody looked for."""
ON_REQUEST: tuple[str, ...] = get_args(Output)
TILES, CSV, ZARR, *_ = ON_REQUEST
"""Files and a folder that `PredictConfig.outputs` asks for."""
SUMMARY = (
    "scanned_mm2", "tissue_mm2", "positive_mm2", "positive_tissue_mm2", "positive_share", "largest_region_mm2",
    "mean_probability", "decision_probability", "lowest_margin", "flagged_share", *(f"flag_{name}" for name in FLAGS),
)  # fmt: skip
"""Names of the numbers in ``heatmap.json`` and ``cohort.csv``."""
OTHER_MODEL = "predicted by another model"
"""Words of the error of a slide whose outputs are not the present model's."""
LEAKS = (TRAINED_ON, SELECTED_ON)
"""Words of ``leakage`` that call for a warning."""
OWN, TABLE = "fingerprint", "predictions"  # a mark of the facts themselves, and the table's name among the marks


class HeatmapFacts(TypedDict):
    """Content of ``heatmap.json``, where tuples are lists; px are those of level 0 of the slide."""

    slide_id: str
    size_px: tuple[int, int]  # width, height
    bounds_px: tuple[int, int, int, int]  # x, y, width, height of the scanned part
    mpp: float
    model_mpp: float | None
    channels: list[str]
    dtype: str
    files: list[str]  # fingerprints
    patch_px: int  # side of a patch and step of the grid, px at the scale that patches are cut at
    stride_px: int
    downsample: float  # level-0 px per such px
    read_level: int
    read_level_downsample: float
    cell_px: float  # side of a cell of the map
    cell_um: float
    cells: tuple[int, int]  # nx, ny
    placement: str  # grid or nearest
    class_names: list[str]
    method: str
    decision_threshold: float  # on the logit
    decision_probability: float
    temperature: float
    background: str
    tissue_threshold: Any  # a number, or one by channel
    intensity_windows: list[list[float]]  # low, high of each channel, source units
    shifts: list[dict[str, Any]]
    offsets_px: list[list[int]]
    stamp: dict[str, Any]
    computed_by: str
    map_channels: list[str]
    counts: dict[str, int]  # patches, predicted, tumour, unreadable
    summary: dict[str, float | None]  # see `SUMMARY`
    leakage: str  # a word of `pathopatch.models.leakage`
    warnings: list[str]
    outputs: dict[str, dict[str, Any]]  # bytes and fingerprint of each export and the table


def read_facts(folder: Path) -> HeatmapFacts:
    """Return the facts of a heatmap's folder; errors as `read_json`."""
    return cast(HeatmapFacts, read_json(folder / FACTS))


def heatmap_grid(facts: HeatmapFacts) -> Grid:
    """Return the grid that the patches were cut by."""
    width, height = facts["size_px"]
    return Grid(
        width=width,
        height=height,
        downsample=facts["downsample"],
        patch_px=facts["patch_px"],
        stride_px=facts["stride_px"],
    )


def heatmap_damages(folder: Path, table_path: Path, *, exports: Sequence[str] | None = None) -> list[str]:
    """List the files of a heatmap, its facts and its table that differ from what was written.

    By default all of `EXPORTS` must be there, and what was asked for beside them.
    """
    facts = read_json(folder / FACTS)
    own_fingerprint = facts.pop(OWN, None)
    if fingerprint(facts) != own_fingerprint:
        return [f"{FACTS} has another content than was written"]
    if exports is None:
        exports = (*EXPORTS, *(name for name in (TISSUE, *ON_REQUEST) if name in facts["outputs"]))
    return damages({name: folder / name for name in exports} | {TABLE: table_path}, facts["outputs"])


def summary(
    prediction: Prediction,
    maps: Mapping[str, Cells],
    *,
    regions: PositiveRegions,
    decision_probability: float,
    mpp: float,
) -> dict[str, float | None]:
    """Return `SUMMARY` of a slide; None where there are no patches to take a number of.

    `maps` are (ny, nx) each, by name. Areas are in mm2, of scanned pixels on the slide. Tissue is that of all patches,
    predicted or not; overlapping patches share it among their cells, exactly except at the edge if the stride divides
    the patch. What lies between patches counts nowhere. ``lowest_margin`` is the least
    ``|probability - decision_probability|``. ``flagged_share`` is the share of predicted patches with any flag, each
    ``flag_<reason>`` that of the patches for which the flag is known. Numbers of tissue are None where no cell's tissue
    is known.
    """
    grid, probability, tissue = prediction.grid, maps["probability"], maps["tissue_fraction"]
    scanned = np.nan_to_num(maps.get("scanned_fraction", np.ones_like(tissue))) * prediction.has_patch
    scanned_mm2 = scanned * inside_share(grid) * (min(grid.stride, grid.extent) * mpp / 1000) ** 2  # (ny, nx)
    tissue_mm2 = np.nan_to_num(tissue) * scanned_mm2
    total_tissue, positive_tissue = float(tissue_mm2.sum()), float(tissue_mm2[probability > decision_probability].sum())
    is_known = np.isfinite(tissue).any()
    raised = [pd.array(prediction.columns[f"flag_{name}"], dtype="boolean") for name in FLAGS]
    is_flagged = np.logical_or.reduce([flag.fillna(False).to_numpy(np.bool_) for flag in raised])
    of_patches = np.asarray(prediction.columns["probability"])
    margin = np.abs(of_patches - decision_probability)
    values = (
        float(scanned_mm2.sum()),
        total_tissue if is_known else None,
        float(regions.area_mm2.sum()),
        positive_tissue if is_known else None,
        share_of_tissue(positive_tissue, total_tissue),
        float(regions.area_mm2.max(initial=0.0)),
        _mean(of_patches),
        decision_probability,
        float(margin.min()) if len(margin) else None,
        _mean(is_flagged),
        *(_mean(flag[~flag.isna()].to_numpy(np.bool_)) for flag in raised),
    )
    # Nine significant digits are more than any area here is known to.
    return {name: None if value is None else float(f"{value:.9g}") for name, value in zip(SUMMARY, values, strict=True)}


def share_of_tissue(positive_tissue_mm2: float, tissue_mm2: float) -> float | None:
    """Return the share of the tissue area above the threshold, in [0, 1]; None where there is no tissue.

    This is ``positive_share`` everywhere: in ``heatmap.json``, ``cohort.csv``, the report and the
    review page. Glass within a positive patch does not count, nor does tissue twice where patches overlap.
    `tissue_mm2` is that of unpredicted cells too.
    """
    return positive_tissue_mm2 / tissue_mm2 if tissue_mm2 else None


def _mean(values: NDArray[np.generic]) -> float | None:
    """Return the mean; None for no values."""
    return None if len(values) == 0 else float(values.mean(dtype=np.float64))
