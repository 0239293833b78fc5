"""Tissue as a person outlined it: read from QuPath's and ASAP's files, and written for QuPath to be corrected."""

from __future__ import annotations

import json
import logging
import uuid
from pathlib import Path
from typing import Any

import numpy as np
import shapely
from numpy.typing import NDArray
from scipy import ndimage

from pathopatch.patches.annotations.mask_polygons import mask_polygons
from pathopatch.patches.annotations.masks import check_mask, read_mask, require_proportions
from pathopatch.patches.annotations.placing import on_slide
from pathopatch.patches.annotations.regions import read_annotations
from pathopatch.slides.manifest import ANNOTATION_SUFFIXES

NOT_TISSUE = ("Ignore*",)
"""Classes whose outlines are cut out of the tissue: QuPath's own name for what does not count. All others add."""
TISSUE_CLASS = "Tissue"
_COLOR = [0, 160, 90]
_TOLERANCE_PX = 1.0  # of the overview: a staircase of pixels becomes a line
_MAX_AREA_CHANGE = 0.02  # thin fibres would lose half of their area to that tolerance: they keep their corners
_NAMESPACE = uuid.uuid5(uuid.NAMESPACE_URL, "pathopatch:tissue")
_log = logging.getLogger(__name__)


def read_tissue_mask(
    path: Path, *, slide_size: tuple[int, int], overview_px: tuple[int, int], bounds_origin: tuple[int, int] = (0, 0)
) -> NDArray[np.bool_]:
    """Return a supplied tissue mask: a raster at its own scale, outlines at the overview's.

    Parameters
    ----------
    path : Path
        Raster that covers the whole slide, or outlines of QuPath or ASAP, by its ending. Every outline is tissue but
        those of the classes `NOT_TISSUE`; holes count. A file without outlines says that there is no tissue.
    slide_size : tuple of int
        (width, height), level-0 px.
    overview_px : tuple of int
        (width, height) of the overview.
    bounds_origin : tuple of int
        (x, y) of the slide's bounds, level-0 px; added to QuPath's points, not to ASAP's.

    Returns
    -------
    ndarray of bool, shape (h, w)
        A pixel of outlined tissue is set where its middle lies inside.

    Raises
    ------
    ModalityMismatchError
        The raster is out of proportion, or every outline lies beyond the slide.
    InputMissingError, InputCorruptError, InputTooLargeError, InputUnsupportedError
        See `read_mask` and `read_annotations`.
    """
    if not _is_outlines(path):
        mask = read_mask(path)
        require_proportions((mask.shape[1], mask.shape[0]), slide_size, place=str(path))
        return mask
    region = _tissue_region(path, slide_size, bounds_origin)
    scale = np.array(overview_px) / slide_size
    return rasterized(shapely.transform(region, lambda xy: xy * scale), overview_px)


def check_tissue_mask(path: Path, slide_size: tuple[int, int], *, is_quick: bool = False) -> None:
    """Refuse a tissue mask that is not there or broken.

    Parameters
    ----------
    path : Path
        Raster, or outlines of QuPath or ASAP; these are read.
    slide_size : tuple of int
        (width, height) of the slide, level-0 px.
    is_quick : bool
        Look at a raster's header alone.

    Raises
    ------
    ModalityMismatchError
        The raster is out of proportion.
    InputMissingError, InputCorruptError, InputTooLargeError, InputUnsupportedError
        See `check_mask` and `read_annotations`.
    """
    if _is_outlines(path):
        read_annotations(path)
    else:
        check_mask(path, slide_size, is_quick=is_quick, is_banded=False)


def _is_outlines(path: Path) -> bool:
    return path.name.lower().endswith(ANNOTATION_SUFFIXES)


def _tissue_region(path: Path, slide_size: tuple[int, int], bounds_origin: tuple[int, int]) -> Any:
    """Return the valid shape that a file's outlines make up, level-0 px; what was mended is logged."""
    outlines = read_annotations(path)
    names, shapes, warnings = on_slide(
        np.array(outlines.names, dtype=object),
        np.array(outlines.shapes, dtype=object),
        slide_size=slide_size,
        bounds_origin=bounds_origin if outlines.is_from_bounds else (0, 0),
        place=outlines.place,
    )
    for warning in [f"{count} {what} left out" for what, count in outlines.skipped.items()] + warnings:
        _log.warning("%s: %s", path.name, warning)
    is_cut_out = np.isin(names, NOT_TISSUE)
    return shapely.difference(shapely.union_all(shapes[~is_cut_out]), shapely.union_all(shapes[is_cut_out]))


def rasterized(region: Any, size_px: tuple[int, int]) -> NDArray[np.bool_]:
    """Return which pixels have their middle inside a region.

    Parameters
    ----------
    region : shapely geometry
        Valid polygons; px of the mask.
    size_px : tuple of int
        (width, height) of the mask.

    Returns
    -------
    ndarray of bool, shape (height, width)
    """
    width, height = size_px
    toggles = np.zeros((height, width + 1), np.bool_)
    rings = shapely.get_rings(shapely.get_parts(region))
    points, ring = shapely.get_coordinates(rings, return_index=True)
    is_edge = ring[1:] == ring[:-1]
    start, end = points[:-1][is_edge], points[1:][is_edge]
    upward = start[:, 1] > end[:, 1]
    start[upward], end[upward] = end[upward], start[upward]
    # An edge crosses the rows whose middles lie in [top, bottom); every ring crosses a row an even number of times.
    first, stop = (np.clip(np.ceil(side[:, 1] - 0.5), 0, height).astype(np.int64) for side in (start, end))
    count = stop - first
    edge = np.repeat(np.arange(len(count)), count)
    row = np.arange(len(edge)) - np.repeat(np.cumsum(count) - count, count) + first[edge]
    slope = (end[edge, 0] - start[edge, 0]) / (end[edge, 1] - start[edge, 1])
    x = start[edge, 0] + (row + 0.5 - start[edge, 1]) * slope
    column = np.clip(np.ceil(x - 0.5), 0, width).astype(np.int64)
    np.logical_xor.at(toggles, (row, column), True)
    return np.asarray(np.logical_xor.accumulate(toggles, axis=1)[:, :width], np.bool_)


def tissue_geojson(
    mask: NDArray[np.bool_],
    *,
    slide_id: str,
    slide_size: tuple[int, int],
    bounds_origin: tuple[int, int] = (0, 0),
) -> str:
    """Return a mask's outlines as QuPath's GeoJSON: one annotation of the class "Tissue" for each connected piece.

    Parameters
    ----------
    mask : ndarray of bool, shape (h, w)
        Tissue on the overview, which covers the whole slide.
    slide_id : str
        Makes each annotation's id, with the corner of its piece.
    slide_size : tuple of int
        (width, height), level-0 px.
    bounds_origin : tuple of int
        (x, y) of the slide's bounds, level-0 px; subtracted, since QuPath measures from there.

    Returns
    -------
    str
        A FeatureCollection, a line a feature; equal arguments give equal text.
    """
    labels, _ = ndimage.label(mask)  # by sides
    scale = np.array(slide_size) / mask.shape[::-1]
    features = []
    for polygon in _simplified(mask_polygons(mask, labels)):
        rings = [
            shapely.get_coordinates(ring) * scale - bounds_origin for ring in (polygon.exterior, *polygon.interiors)
        ]
        first = min(rings[0].tolist(), key=lambda at: (at[1], at[0]))
        feature = {
            "type": "Feature",
            "id": str(uuid.uuid5(_NAMESPACE, f"{slide_id}/{first[0]:g},{first[1]:g}")),
            "geometry": {"type": "Polygon", "coordinates": [np.round(ring, 2).tolist() for ring in rings]},
            "properties": {"objectType": "annotation", "classification": {"name": TISSUE_CLASS, "color": _COLOR}},
        }
        features.append(json.dumps(feature))
    return '{"type": "FeatureCollection", "features": [\n' + ",\n".join(features) + "\n]}\n"


def _simplified(polygons: NDArray[Any]) -> NDArray[Any]:
    """Return polygons of fewer corners, px of the mask; those whose area would change by more than 2 % stay."""
    fewer = shapely.simplify(polygons, _TOLERANCE_PX, preserve_topology=True)
    area = shapely.area(polygons)
    is_close = shapely.is_valid(fewer) & (np.abs(shapely.area(fewer) - area) <= _MAX_AREA_CHANGE * area)
    return np.asarray(shapely.orient_polygons(shapely.normalize(np.where(is_close, fewer, polygons))), object)
