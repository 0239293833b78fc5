"""Outlines of annotation files: the shapes as drawn, and as valid shapes on a slide."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import shapely
from numpy.typing import ArrayLike, NDArray

from pathopatch.core.errors import ModalityMismatchError

MAX_BYTES = 256 * 2**20
"""Largest text of an annotation file, a hundred times that of usual ones: it bounds the memory of reading."""
UNCLASSIFIED = "(unclassified)"
"""Name of outlines without a class."""
_MAX_COORDINATE_PX = 1e8  # beyond any slide; float64 areas stay exact up to here


@dataclass(frozen=True, kw_only=True, eq=False)
class Outlines:
    """Areas that an annotation file holds.

    Parameters
    ----------
    names : tuple of str
        Class of each.
    shapes : tuple of shapely geometry
        Polygon or MultiPolygon, not checked for validity; level-0 px in the frame of the file.
    is_from_bounds : bool
        Points are relative to the corner of the slide's bounds (QuPath), not of the whole slide (ASAP).
    place : str
        The file.
    skipped : mapping of str to int
        Number of other things in the file, by description.
    """

    names: tuple[str, ...]
    shapes: tuple[Any, ...]
    is_from_bounds: bool
    place: str
    skipped: Mapping[str, int]

    def without(self, ignored: Collection[str]) -> Outlines:
        """Return these outlines but for some classes."""
        kept = [pair for pair in zip(self.names, self.shapes, strict=True) if pair[0] not in ignored]
        return replace(self, names=tuple(name for name, _ in kept), shapes=tuple(shape for _, shape in kept))

    def skipped_text(self) -> list[str]:
        """Return a warning for each kind of thing that was left out."""
        return [f"{count} {description} left out" for description, count in self.skipped.items()]


def checked_polygon(rings: Sequence[ArrayLike]) -> Any:
    """Return the shapely Polygon of an outline and its holes; ValueError if a point is none of a slide."""
    if not rings:
        raise ValueError("a polygon without an outline")
    shell, *holes = (_ring(points) for points in rings)
    return shapely.Polygon(shell, holes)


def _ring(points: ArrayLike) -> NDArray[np.float64]:
    """Return the points of a ring, shape (N, 2); a third coordinate is dropped."""
    try:
        xy = np.asarray(points, np.float64)
    except (TypeError, ValueError, OverflowError) as error:
        raise ValueError(f"coordinates that are no pairs of numbers: {error}") from error
    if xy.ndim != 2 or xy.shape[1] < 2:
        raise ValueError(f"coordinates that are no pairs of numbers: shape {xy.shape}")
    xy = xy[:, :2]
    if len(xy) < 3:
        raise ValueError(f"an outline of {len(xy)} points")
    # Not `> maximum`: a comparison with NaN is false.
    is_bad = ~(np.abs(xy) <= _MAX_COORDINATE_PX).all(axis=1)
    if is_bad.any():
        raise ValueError(f"point {tuple(xy[is_bad][0].tolist())} is outside any slide")
    return xy


def place_on_slide(
    outlines: Outlines, *, slide_size: tuple[int, int], bounds_origin: tuple[int, int]
) -> tuple[NDArray[Any], NDArray[Any], list[str]]:
    """Return names (N,), valid shapes (N,) and warnings of the outlines that have an area.

    Level-0 px of the whole slide; `bounds_origin` (x, y) is added to every point. Raises ModalityMismatchError if every
    outline is outside the slide.
    """
    warnings = []
    names, shapes = np.array(outlines.names, dtype=object), np.array(outlines.shapes, dtype=object)
    shapes, repaired = _repaired(shapes)
    if repaired:
        warnings.append(f"{repaired} outlines that cross themselves were mended")
    has_area = shapely.area(shapes) > 0
    if without_area := int((~has_area).sum()):
        warnings.append(f"{without_area} outlines without area left out")
    names, shapes = names[has_area], shapes[has_area]
    if bounds_origin != (0, 0):
        shapes = np.array([shapely.transform(shape, lambda xy: xy + bounds_origin) for shape in shapes], dtype=object)
    return names, shapes, warnings + _outside_warnings(shapes, slide_size, outlines.place)


def _repaired(shapes: NDArray[Any]) -> tuple[NDArray[Any], int]:
    """Return valid shapes, and how many of those with an area had to be repaired."""
    is_broken = ~shapely.is_valid(shapes)
    repaired = shapes.copy()
    repaired[is_broken] = _make_valid(shapes[is_broken])
    # A hand that circles a place twice means the inside, but make_valid makes it a hole, as it does with the part of a
    # hole that lies outside its outline. So the result is cut to the union of the outer rings.
    for index in np.flatnonzero(is_broken).tolist():
        parts = shapely.get_parts(shapes[index])
        if any(len(part.interiors) for part in parts):
            outer = shapely.union_all(_make_valid(np.array([shapely.Polygon(part.exterior) for part in parts], object)))
            repaired[index] = shapely.intersection(repaired[index], outer)
    return repaired, int((is_broken & (shapely.area(repaired) > 0)).sum())


def _make_valid(shapes: NDArray[Any]) -> NDArray[Any]:
    return np.asarray(shapely.make_valid(shapes, method="structure", keep_collapsed=False), object)


def _outside_warnings(shapes: NDArray[Any], slide_size: tuple[int, int], place: str) -> list[str]:
    """Return warnings about outlines outside the slide; raise if all are."""
    if not len(shapes):
        return []
    slide = shapely.box(0, 0, *slide_size)
    is_outside = ~shapely.intersects(shapes, slide)
    if is_outside.all():
        left, top, right, bottom = shapely.total_bounds(shapes)
        raise ModalityMismatchError(
            f"all {len(shapes)} outlines lie beyond the slide: they span {left:.0f} to {right:.0f} and {top:.0f} to "
            f"{bottom:.0f} px, the slide is {slide_size[0]} x {slide_size[1]} px",
            place=place,
            remedy="give the annotations that belong to this slide, in level-0 pixels",
        )
    is_cut = ~is_outside & ~shapely.covers(slide, shapes)
    counts = (
        (int(is_outside.sum()), "outlines beyond the slide left out"),
        (int(is_cut.sum()), "outlines reach over the slide's edge and are cut"),
    )
    return [f"{count} {text}" for count, text in counts if count]
