"""Which connected regions of a slide are called tumour, how large they are, and how QuPath imports them.

A cell of the map is positive if its probability, stitched over the patches that cover it, is above the decision
threshold: the same cells that the overlay outlines. Cells hang together by their sides; two that touch at a corner only
are two regions, so that every outline is a valid polygon. A cell without a value is not positive.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import shapely
from numpy.typing import NDArray
from scipy import ndimage

from pathopatch.heatmaps.geojson import COLORS, id_maker, measurements, to_json, write_features
from pathopatch.patches.annotations.polygons import mask_polygons

_NAMESPACE = uuid.uuid5(uuid.NAMESPACE_URL, "pathopatch:region")
_UM2_PER_MM2 = 1e6


@dataclass(frozen=True, kw_only=True, eq=False)
class PositiveRegions:
    """The positive regions of one slide, in the order in which their first cells come, row by row.

    Parameters
    ----------
    polygons : ndarray of shapely Polygon, shape (R,)
        Outlines with their holes, valid, whole level-0 px, cut at the slide's edge.
    area_mm2 : ndarray of float64, shape (R,)
        Area of each polygon.
    mean_probability : ndarray of float64, shape (R,)
        Mean over the cells of each region, in [0, 1].
    cells : ndarray of int64, shape (R,)
        Number of cells.
    """

    polygons: NDArray[Any]
    area_mm2: NDArray[np.float64]
    mean_probability: NDArray[np.float64]
    cells: NDArray[np.int64]

    @property
    def total_mm2(self) -> float:
        """Area of all regions together, mm2; 0 if there is none."""
        return float(self.area_mm2.sum())

    @property
    def largest_mm2(self) -> float:
        """Area of the largest region, mm2; 0 if there is none."""
        return float(self.area_mm2.max(initial=0.0))


def positive_regions(
    probability: NDArray[np.floating[Any]],
    *,
    decision_probability: float,
    cell_px: float,
    mpp: float,
    slide_size: tuple[int, int],
) -> PositiveRegions:
    """Return the connected regions of cells above the decision threshold; only what lies on the slide counts.

    Parameters
    ----------
    probability : ndarray of float, shape (ny, nx)
        Stitched, in [0, 1]; NaN where nothing was predicted. Cell (0, 0) starts at level-0 (0, 0).
    decision_probability : float
        Threshold; a cell on it is not positive.
    cell_px : float
        Side of a cell, level-0 px; a real number of at least 1. Edges of cells are rounded to whole px.
    mpp : float
        Micrometres per level-0 px.
    slide_size : tuple of int
        (width, height), level-0 px.

    Returns
    -------
    PositiveRegions
    """
    ny, nx = probability.shape
    x, y = (
        np.minimum(np.floor(np.arange(count + 1) * cell_px + 0.5).astype(np.int64), length)
        for count, length in ((nx, slide_size[0]), (ny, slide_size[1]))
    )
    height, width = np.diff(y), np.diff(x)
    # Of a cell that begins within half a pixel of the slide's edge, no pixel is left.
    positive = (probability > decision_probability) & (height > 0)[:, None] & (width > 0)
    labels, count = ndimage.label(positive)  # by sides
    row, column = np.nonzero(positive)
    region = labels[row, column] - 1
    cells = np.bincount(region, minlength=count)
    total = np.bincount(region, weights=probability[row, column], minlength=count)
    area_px = np.bincount(region, weights=height[row] * width[column], minlength=count)
    return PositiveRegions(
        polygons=_on_slide(mask_polygons(positive, labels), x, y),
        area_mm2=np.asarray(area_px * (mpp**2 / _UM2_PER_MM2), np.float64),
        mean_probability=total / cells,
        cells=cells.astype(np.int64),
    )


def write_regions(
    path: Path,
    regions: PositiveRegions,
    *,
    slide_id: str,
    run: str,
    class_name: str,
    origin: tuple[int, int] = (0, 0),
) -> None:
    """Write one locked annotation a region, for QuPath; equal arguments give equal bytes.

    Parameters
    ----------
    path : Path
        File to write (``.geojson.gz``); the caller renames it into place.
    regions : PositiveRegions
    slide_id : str
        Id of the slide.
    run : str
        What tells this model from others; with slide and the corner of the region's first cell it makes the
        annotation's id, so that a second import replaces the first.
    class_name : str
        Class of the regions.
    origin : tuple of int
        The slide's bounds (x, y), level-0 px; subtracted, as from tiles.
    """
    write_features(path, _annotations(regions, slide_id, run, class_name, origin))


def _on_slide(polygons: NDArray[Any], x: NDArray[np.int64], y: NDArray[np.int64]) -> NDArray[Any]:
    """Return polygons whose corners are counted in cells in level-0 px, rings from a settled corner and direction."""
    placed = shapely.transform(
        polygons, lambda at: np.stack([x[at[:, 0].astype(int)], y[at[:, 1].astype(int)]], axis=1)
    )
    return np.asarray(shapely.orient_polygons(shapely.normalize(placed)), object)


def _annotations(
    regions: PositiveRegions, slide_id: str, run: str, class_name: str, origin: tuple[int, int]
) -> Iterator[str]:
    """Yield one GeoJSON feature a region."""
    make_id = id_maker(_NAMESPACE, run, slide_id)
    classification = to_json({"name": class_name, "color": COLORS[1]})
    mean_name = to_json(f"mean {class_name} probability")
    columns = (regions.area_mm2.tolist(), regions.mean_probability.tolist(), regions.cells.tolist())
    for polygon, area_mm2, mean, cells in zip(regions.polygons, *columns, strict=True):
        rings = [shapely.get_coordinates(ring).astype(np.int64) for ring in (polygon.exterior, *polygon.interiors)]
        first = min(rings[0].tolist(), key=lambda at: (at[1], at[0]))
        numbers = measurements((('"area mm2"', area_mm2), (mean_name, mean), ('"cells"', cells)))
        yield (
            f'{{"type": "Feature", "id": "{make_id(f"{first[0]},{first[1]}")}", "geometry": {{"type": "Polygon", '
            f'"coordinates": {to_json([(ring - origin).tolist() for ring in rings])}}}, '
            f'"properties": {{"objectType": "annotation", "isLocked": true, "classification": {classification}, '
            f'"measurements": {numbers}}}}}'
        )
