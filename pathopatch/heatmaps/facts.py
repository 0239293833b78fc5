"""Read ``heatmap.json``: what a slide's heatmap was made of, and the marks of all files beside it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NotRequired, TypedDict, cast

from pathopatch.core.artefacts import damages, fingerprint
from pathopatch.core.files import read_json
from pathopatch.heatmaps import FACTS
from pathopatch.models.leakage import SELECTED_ON, TRAINED_ON
from pathopatch.patches.grid import Grid

HEATMAP = "heatmap.ome.tif"
EXPORTS = (
    HEATMAP, "heatmap.ome.zarr", "heatmap.rgb.tif", "overlay.png", "regions.geojson.gz", "patches.geojson.gz",
    "patches.csv",
)  # fmt: skip
"""Files and folders of a heatmap beside its facts."""
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
    patch_px: int  # px of the network's input before it is resized
    stride_px: int
    downsample: float
    read_level: int
    read_level_downsample: float
    cell_px: float
    cell_um: float
    cells: tuple[int, int]  # nx, ny
    placement: NotRequired[str]  # grid or nearest; earlier versions knew only a grid
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
    summary: dict[str, float | None]  # see `pathopatch.heatmaps.summary.SUMMARY`
    leakage: NotRequired[str]  # earlier versions do not say it
    warnings: list[str]
    outputs: dict[str, dict[str, Any]]  # bytes and fingerprint of each export and the table


def read_facts(folder: Path) -> HeatmapFacts:
    """Return the facts of a heatmap's folder; errors as `read_json`."""
    return cast(HeatmapFacts, read_json(folder / FACTS))


def grid_of(facts: HeatmapFacts) -> Grid:
    """Return the grid that the patches were cut by."""
    width, height = facts["size_px"]
    return Grid(
        width=width,
        height=height,
        downsample=facts["downsample"],
        patch_px=facts["patch_px"],
        stride_px=facts["stride_px"],
    )


def heatmap_damages(folder: Path, table_path: Path, *, exports: Sequence[str] = EXPORTS) -> list[str]:
    """List the files of a heatmap, its facts and its table that differ from what was written."""
    facts = read_json(folder / FACTS)
    own_fingerprint = facts.pop(OWN, None)
    if fingerprint(facts) != own_fingerprint:
        return [f"{FACTS} has another content than was written"]
    return damages({name: folder / name for name in exports} | {TABLE: table_path}, facts["outputs"])
