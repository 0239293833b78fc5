"""Read tissue that a person outlined, and write found tissue for QuPath to be corrected there."""

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

from pathopatch.patches.annotations.masks import check_mask, read_mask, require_proportions
from pathopatch.patches.annotations.outlines import place_on_slide, read_annotations
from pathopatch.patches.annotations.polygons import mask_polygons, rasterize
from pathopatch.slides.manifest import ANNOTATION_SUFFIXES

_CUT_OUT_CLASS = "Ignore*"  # QuPath's own name for outlines that do not count
_TISSUE_CLASS = "Tissue"
_COLOR = [0, 160, 90]
_TOLERANCE_PX = 1.0  # of the overview: a staircase of pixels becomes a line
_MAX_AREA_CHANGE = 0.02
_NAMESPACE = uuid.uuid5(uuid.NAMESPACE_URL, "pathopatch:tissue")
_log = logging.getLogger(__name__)


def read_tissue_mask(
    path: Path, *, slide_size: tuple[int, int], overview_px: tuple[int, int], bounds_origin: tuple[int, int] = (0, 0)
) -> NDArray[np.bool_]:
    """Return a supplied tissue mask, bool: a raster at its own scale, outlines at that of the overview.

    A pixel is set where its centre is inside an outline. Outlines of every class are tissue, those of QuPath's class
    ``Ignore*`` are cut out of it; a file without outlines means no tissue. Sizes are (width, height); `slide_size` and
    `bounds_origin`, which is added to QuPath's points and not to ASAP's, are level-0 px.

    Raises
    ------
    ModalityMismatchError
        The raster is out of proportion, or every outline is outside the slide.
    InputMissingError, InputCorruptError, InputTooLargeError, InputUnsupportedError
        See `read_mask` and `read_annotations`.
    """
    if not _is_outlines(path):
        mask = read_mask(path)
        require_proportions((mask.shape[1], mask.shape[0]), slide_size, place=str(path))
        return mask
    outlines = read_annotations(path)
    names, shapes, warnings = place_on_slide(
        outlines, slide_size=slide_size, bounds_origin=bounds_origin if outlines.is_from_bounds else (0, 0)
    )
    for warning in outlines.skipped_text() + warnings:
        _log.warning("%s: %s", path.name, warning)
    is_cut_out = names == _CUT_OUT_CLASS
    region = shapely.difference(shapely.union_all(shapes[~is_cut_out]), shapely.union_all(shapes[is_cut_out]))
    scale = np.array(overview_px) / slide_size
    return rasterize(shapely.transform(region, lambda xy: xy * scale), overview_px)


def check_tissue_mask(path: Path, slide_size: tuple[int, int], *, is_quick: bool = False) -> None:
    """Refuse a tissue mask that is missing or broken; otherwise as `check_mask` and `read_annotations`."""
    if _is_outlines(path):
        read_annotations(path)
    else:
        check_mask(path, slide_size, is_quick=is_quick, is_banded=False)


def _is_outlines(path: Path) -> bool:
    return path.name.lower().endswith(ANNOTATION_SUFFIXES)


def tissue_geojson(
    mask: NDArray[np.bool_],
    *,
    slide_id: str,
    slide_size: tuple[int, int],
    bounds_origin: tuple[int, int] = (0, 0),
) -> str:
    """Return a mask's outlines as QuPath's GeoJSON, one annotation of the class "Tissue" for each connected piece.

    It is a FeatureCollection with one feature a line. Equal arguments give equal text.

    Parameters
    ----------
    mask : ndarray of bool, shape (h, w)
        Tissue on the overview, which covers the whole slide.
    slide_id : str
        Part of each annotation's id, with the corner of its piece.
    slide_size, bounds_origin : tuple of int
        (width, height), and (x, y) of the slide's bounds, from which QuPath measures; level-0 px.
    """
    labels, _ = ndimage.label(mask)  # connected by sides, as `mask_polygons` needs
    scale = np.array(slide_size) / mask.shape[::-1]
    features = []
    for polygon in _simplified(mask_polygons(mask, labels)):
        rings = [
            shapely.get_coordinates(ring) * scale - bounds_origin for ring in (polygon.exterior, *polygon.interiors)
        ]
        # An id that depends on the place alone: a second export replaces the first one in QuPath.
        first = min(rings[0].tolist(), key=lambda at: (at[1], at[0]))
        feature = {
            "type": "Feature",
            "id": str(uuid.uuid5(_NAMESPACE, f"{slide_id}/{first[0]:g},{first[1]:g}")),
            "geometry": {"type": "Polygon", "coordinates": [np.round(ring, 2).tolist() for ring in rings]},
            "properties": {"objectType": "annotation", "classification": {"name": _TISSUE_CLASS, "color": _COLOR}},
        }
        features.append(json.dumps(feature))
    return '{"type": "FeatureCollection", "features": [\n' + ",\n".join(features) + "\n]}\n"


def _simplified(polygons: NDArray[Any]) -> NDArray[Any]:
    """Return polygons with fewer corners, px of the mask; those whose area would change by more than 2 % stay."""
    # Thin fibres would lose half of their area to the tolerance.
    fewer = shapely.simplify(polygons, _TOLERANCE_PX, preserve_topology=True)
    area = shapely.area(polygons)
    is_close = shapely.is_valid(fewer) & (np.abs(shapely.area(fewer) - area) <= _MAX_AREA_CHANGE * area)
    return np.asarray(shapely.orient_polygons(shapely.normalize(np.where(is_close, fewer, polygons))), object)
