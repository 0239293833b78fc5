"""Convert polygons to area fractions and to masks, and masks to polygons and their GeoJSON."""

from __future__ import annotations

import json
import uuid
from typing import Any

import cv2
import numpy as np
import shapely
from numpy.typing import NDArray

_MAX_VERTICES = 128  # of a piece; half or twice as many take about as long
_CHUNK = 8192  # patches at a time, to bound the memory
_MIN_SIDE_PX = 1.0  # level-0 px; smaller pieces are not cut further, however many vertices they have
_TISSUE_CLASS = "Tissue", (0, 160, 90)
_TOLERANCE_PX = 1.0  # of the overview: a staircase of pixels becomes a line
_MAX_AREA_CHANGE = 0.02
_NAMESPACE = uuid.uuid5(uuid.NAMESPACE_URL, "pathopatch:tissue")


class PolygonRegion:
    """What polygons cover of squares; all in level-0 px, as is (width, height) of the slide.

    The region is a valid shapely Polygon, MultiPolygon or GeometryCollection; points and lines in it do not count.
    """

    def __init__(self, region: Any, slide_size: tuple[int, int]) -> None:
        self._slide_size = slide_size
        # An outline of many vertices is cut once into pieces of few: each patch then meets only the pieces near it.
        self._pieces = _pieces(region)
        self._tree = shapely.STRtree(self._pieces)

    def fractions(self, x: NDArray[np.int64], y: NDArray[np.int64], extent: float) -> NDArray[np.float64]:
        """Return the region's fraction of each patch's part on the slide; as `MaskRegion.fractions`."""
        fractions = np.zeros(len(x))
        for start in range(0, len(x), _CHUNK):
            part = slice(start, start + _CHUNK)
            left, right = (np.clip(x[part] + side, 0, self._slide_size[0]) for side in (0.0, extent))
            top, bottom = (np.clip(y[part] + side, 0, self._slide_size[1]) for side in (0.0, extent))
            area_px = (right - left) * (bottom - top)
            boxes = shapely.box(left, top, right, bottom)
            patch, piece = self._tree.query(boxes, predicate="intersects")
            # Intersecting is slow. Most patches lie within a piece, or meet none at all.
            is_within = shapely.covers(self._pieces[piece], boxes[patch])
            common = np.where(is_within, area_px[patch], 0.0)
            cut = np.flatnonzero(~is_within)
            common[cut] = shapely.area(shapely.intersection(self._pieces[piece[cut]], boxes[patch[cut]]))
            covered = np.bincount(patch, weights=common, minlength=len(boxes))
            fractions[part] = np.divide(covered, area_px, out=np.zeros_like(area_px), where=area_px > 0)
        return np.clip(fractions, 0.0, 1.0)

    def patch_mask(self, x: int, y: int, *, downsample: float, inside: tuple[int, int]) -> NDArray[np.bool_]:
        """Return the pixels of a patch whose centre the region covers, (height, width); as `MaskRegion.patch_mask`."""
        right, bottom = (start + n * downsample for start, n in zip((x, y), inside, strict=True))
        pieces = self._pieces[self._tree.query(shapely.box(x, y, right, bottom), predicate="intersects")]
        return rasterize(shapely.transform(pieces, lambda xy: (xy - (x, y)) / downsample), inside)


def _pieces(region: Any) -> NDArray[Any]:
    """Return prepared valid polygons of few vertices that make up a region and meet in edges only."""
    pending, pieces = [region], []
    while pending:
        geometry = pending.pop()
        if geometry.geom_type != "Polygon":
            pending += list(shapely.get_parts(geometry)) if hasattr(geometry, "geoms") else []
            continue
        if geometry.is_empty:
            continue
        left, top, right, bottom = geometry.bounds
        x, y = (left + right) / 2, (top + bottom) / 2
        if shapely.get_num_coordinates(geometry) <= _MAX_VERTICES or max(right - left, bottom - top) <= _MIN_SIDE_PX:
            pieces.append(geometry)
            continue
        # Halved across the longer side. Clipping is faster, but its result may be invalid or lose area.
        is_wide = right - left > bottom - top
        first = shapely.box(left, top, x, bottom) if is_wide else shapely.box(left, top, right, y)
        second = shapely.box(x, top, right, bottom) if is_wide else shapely.box(left, y, right, bottom)
        pending += [shapely.intersection(geometry, half) for half in (first, second)]
    prepared = np.array(pieces, dtype=object)
    shapely.prepare(prepared)
    return prepared


def rasterize(region: Any, size_px: tuple[int, int]) -> NDArray[np.bool_]:
    """Return which pixels have their centre inside a region, shape (height, width).

    The region is a geometry, or an array of them, made of valid polygons in px of the mask, which meet in edges at
    most; `size_px` is the mask's (width, height).
    """
    width, height = size_px
    toggles = np.zeros((height, width + 1), np.bool_)
    rings = shapely.get_rings(shapely.get_parts(region))
    points, ring = shapely.get_coordinates(rings, return_index=True)
    is_edge = ring[1:] == ring[:-1]
    start, end = points[:-1][is_edge], points[1:][is_edge]
    is_upward = start[:, 1] > end[:, 1]
    start[is_upward], end[is_upward] = end[is_upward], start[is_upward]
    # A pixel is inside if an odd number of edges lies left of its centre. An edge crosses the rows whose centres are in
    # [top, bottom): half open, so that a vertex on a centre line counts once.
    first, stop = (np.clip(np.ceil(side[:, 1] - 0.5), 0, height).astype(np.int64) for side in (start, end))
    count = stop - first
    edge = np.repeat(np.arange(len(count)), count)
    row = np.arange(len(edge)) - np.repeat(np.cumsum(count) - count, count) + first[edge]
    slope = (end[edge, 0] - start[edge, 0]) / (end[edge, 1] - start[edge, 1])
    x = start[edge, 0] + (row + 0.5 - start[edge, 1]) * slope
    column = np.clip(np.ceil(x - 0.5), 0, width).astype(np.int64)
    np.logical_xor.at(toggles, (row, column), True)
    return np.asarray(np.logical_xor.accumulate(toggles, axis=1)[:, :width], np.bool_)


def connected_pieces(mask: NDArray[np.bool_]) -> tuple[NDArray[np.int32], int]:
    """Return the number of each pixel's piece, int32 (h, w), 0 where the mask is not set, and how many there are.

    Pieces are connected by sides, and numbered from 1 on by their first pixels, row by row.
    """
    if not mask.size:  # OpenCV returns none
        return np.zeros(mask.shape, np.int32), 0
    count, labels = cv2.connectedComponents(mask.astype(np.uint8), connectivity=4)
    return np.asarray(labels, np.int32), count - 1


def mask_polygons(mask: NDArray[np.bool_], labels: NDArray[np.int32]) -> NDArray[Any]:
    """Return the polygon of each connected piece with its holes, (R,); its area is exactly that of its pixels.

    Polygons are in the order of the `labels` (h, w), which number the pieces from 1 on; 0 is outside the mask (h, w).
    Pieces are connected by sides of pixels, not by corners: otherwise a polygon would touch itself and be invalid.
    Points are (x, y) in px of the mask; the pixel in row 0, column 0 spans (0, 0) to (1, 1).
    """
    faces = shapely.get_parts(shapely.polygonize(shapely.linestrings(border_lines(mask))))
    # Holes are faces too, of label 0. The pixel below and right of a face's topmost, then leftmost corner is inside it.
    corner, face = shapely.get_coordinates(shapely.get_exterior_ring(faces), return_index=True)
    order = np.lexsort((corner[:, 0], corner[:, 1], face))
    column, row = corner[order][np.diff(face[order], prepend=-1) > 0].astype(np.int64).T
    label = labels[row, column]
    polygons = np.empty(labels.max(initial=0), dtype=object)
    polygons[label[label > 0] - 1] = faces[label > 0]
    return polygons


def border_lines(mask: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Return straight lines ((x, y), (x, y)), (n, 2, 2), around what is inside a mask (h, w), in its px.

    They meet at their ends only, as polygonize needs.
    """
    padded = np.pad(mask, 1)
    along_x = np.pad(padded[1:] != padded[:-1], ((0, 0), (1, 1)))[:, 1:-1]  # (ny + 1, nx + 2)
    along_y = np.pad(padded[:, 1:] != padded[:, :-1], ((1, 1), (0, 0)))[1:-1]  # (ny + 2, nx + 1)
    is_crossing = along_x[:, 1:] & along_x[:, :-1] & along_y[1:] & along_y[:-1]  # (ny + 1, nx + 1), corners of pixels
    y, left, right = _runs(along_x[:, 1:-1], is_crossing)
    x, top, bottom = _runs(along_y[1:-1].T, is_crossing.T)
    lines = ((left, y, right, y), (x, top, x, bottom))
    return np.concatenate([np.stack(line, axis=1) for line in lines]).reshape(-1, 2, 2).astype(np.float64)


def _runs(
    edges: NDArray[np.bool_], is_crossing: NDArray[np.bool_]
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
    """Return (line, first corner, last corner) of each run of edges; a run ends where two lines cross."""
    before, after = np.zeros_like(edges), np.zeros_like(edges)
    before[:, 1:], after[:, :-1] = edges[:, :-1], edges[:, 1:]
    line, first = np.nonzero(edges & (~before | is_crossing[:, :-1]))
    _, last = np.nonzero(edges & (~after | is_crossing[:, 1:]))
    return line, first, last + 1


def tissue_geojson(
    mask: NDArray[np.bool_], *, slide_id: str, slide_size: tuple[int, int], bounds_origin: tuple[int, int] = (0, 0)
) -> str:
    """Return a mask's outlines as QuPath's GeoJSON, one annotation of the class "Tissue" for each connected piece.

    Equal arguments give equal text. The `mask`, (h, w), covers the whole slide. `slide_size` is (width, height), and
    `bounds_origin` (x, y) of the slide's bounds, from which QuPath measures; level-0 px.
    """
    labels, _ = connected_pieces(mask)
    # Fewer corners, unless the area changes by more than 2 %: thin fibres would lose half of it to the tolerance.
    polygons = mask_polygons(mask, labels)
    fewer, area = shapely.simplify(polygons, _TOLERANCE_PX, preserve_topology=True), shapely.area(polygons)
    is_close = shapely.is_valid(fewer) & (np.abs(shapely.area(fewer) - area) <= _MAX_AREA_CHANGE * area)
    polygons = shapely.orient_polygons(shapely.normalize(np.where(is_close, fewer, polygons)))
    scale = np.array(slide_size) / mask.shape[::-1]
    features = []
    for polygon in shapely.transform(polygons, lambda corners: np.round(corners * scale - bounds_origin, 2)):
        # An id that depends on the place alone: a second export replaces the first one in QuPath.
        x, y = min(shapely.get_coordinates(polygon.exterior).tolist(), key=lambda at: (at[1], at[0]))
        own_id = str(uuid.uuid5(_NAMESPACE, f"{slide_id}/{x:g},{y:g}"))
        features.append(region_text(polygon, own_id, _TISSUE_CLASS))
    return '{"type": "FeatureCollection", "features": [\n' + ",\n".join(features) + "\n]}\n"


def region_text(polygon: Any, own_id: str, class_: Any, origin: Any = (0, 0), **more: Any) -> str:
    """Return a polygon or line as QuPath's annotation; `class_` is (name, colour), `origin` (x, y) px is subtracted.

    QuPath gives a class without a colour, None, one of its own.
    """
    is_line = polygon.geom_type == "LineString"
    rings = (
        shapely.get_coordinates(ring) - origin
        for ring in ((polygon,) if is_line else (polygon.exterior, *polygon.interiors))
    )
    corners = [[[int(at) if at.is_integer() else at for at in corner] for corner in ring.tolist()] for ring in rings]
    name, color = class_
    classification = {"name": name} if color is None else {"name": name, "color": color}
    properties = {"objectType": "annotation", "classification": classification, **more}
    geometry = {"type": polygon.geom_type, "coordinates": corners[0] if is_line else corners}
    feature = {"type": "Feature", "id": own_id, "geometry": geometry, "properties": properties}
    return json.dumps(feature, ensure_ascii=False, allow_nan=False)
