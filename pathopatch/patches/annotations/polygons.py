"""What share of each patch lies in a polygon? Analytic: no pixel grid, no scale.

An outline of many vertices is cut into pieces of few, once; each patch then meets only the pieces near it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import shapely
from numpy.typing import NDArray

_VERTICES = 128  # of a piece; half or twice as many take about as long
_CHUNK = 8192  # patches at a time, to bound the memory
_SMALLEST_SIDE = 1.0  # level-0 px; smaller pieces are not cut further, however many vertices they have


class PolygonFractions:
    """Area shares of a region over squares given in level-0 px.

    Parameters
    ----------
    region : shapely Polygon, MultiPolygon or GeometryCollection
        Valid; level-0 px. Parts without area do not count.
    slide_size : tuple of int
        (width, height) of the slide, level-0 px.
    """

    def __init__(self, region: Any, slide_size: tuple[int, int]) -> None:
        self._slide_size = slide_size
        self._pieces = _pieces(region)
        self._tree = shapely.STRtree(self._pieces)

    def fractions(self, x: NDArray[np.int64], y: NDArray[np.int64], extent: float) -> NDArray[np.float64]:
        """Return area(region, patch and slide) / area(patch and slide) of each patch.

        Level-0 px in, [0, 1] out, as `pathopatch.patches.annotations.masks.MaskFractions.fractions` says.
        """
        shares = np.zeros(len(x))
        for start in range(0, len(x), _CHUNK):
            part = slice(start, start + _CHUNK)
            left, right = (np.clip(x[part] + side, 0, self._slide_size[0]) for side in (0.0, extent))
            top, bottom = (np.clip(y[part] + side, 0, self._slide_size[1]) for side in (0.0, extent))
            whole = (right - left) * (bottom - top)
            boxes = shapely.box(left, top, right, bottom)
            patch, piece = self._tree.query(boxes, predicate="intersects")
            # A piece that covers the patch needs no cutting; most patches are of this kind, or meet nothing at all.
            is_within = shapely.covers(self._pieces[piece], boxes[patch])
            common = np.where(is_within, whole[patch], 0.0)
            cut = np.flatnonzero(~is_within)
            common[cut] = shapely.area(shapely.intersection(self._pieces[piece[cut]], boxes[patch[cut]]))
            covered = np.bincount(patch, weights=common, minlength=len(boxes))
            shares[part] = np.divide(covered, whole, out=np.zeros_like(whole), where=whole > 0)
        return np.clip(shares, 0.0, 1.0)


def _pieces(region: Any) -> NDArray[Any]:
    """Return valid polygons of few vertices that make up a region, prepared; they meet in edges only.

    Clipping is forty times faster than intersecting and may come out unclean; where it does, intersecting is used.
    """
    pieces = _quartered(region, lambda geometry, box: shapely.clip_by_rect(geometry, *box))
    lost = abs(float(shapely.area(pieces).sum()) - float(shapely.area(region)))
    if lost > 1e-12 * float(shapely.area(region)) or not shapely.is_valid(pieces).all():
        pieces = _quartered(region, lambda geometry, box: shapely.intersection(geometry, shapely.box(*box)))
    shapely.prepare(pieces)
    return pieces


def _quartered(region: Any, cut: Callable[[Any, tuple[float, float, float, float]], Any]) -> NDArray[Any]:
    """Return a region's polygons, those of many vertices halved across their longer side until they have few."""
    waiting, found = [region], []
    while waiting:
        geometry = waiting.pop()
        if geometry.geom_type != "Polygon":
            waiting += list(shapely.get_parts(geometry)) if hasattr(geometry, "geoms") else []
            continue
        if geometry.is_empty:
            continue
        left, top, right, bottom = geometry.bounds
        x, y = (left + right) / 2, (top + bottom) / 2
        if shapely.get_num_coordinates(geometry) <= _VERTICES or max(right - left, bottom - top) <= _SMALLEST_SIDE:
            found.append(geometry)
        elif right - left > bottom - top:
            waiting += [cut(geometry, (left, top, x, bottom)), cut(geometry, (x, top, right, bottom))]
        else:
            waiting += [cut(geometry, (left, top, right, y)), cut(geometry, (left, y, right, bottom))]
    return np.array(found, dtype=object)
