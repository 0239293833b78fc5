"""Outlines as valid shapes in the frame of a slide."""

from __future__ import annotations

from typing import Any

import numpy as np
import shapely
from numpy.typing import NDArray

from pathopatch.core.errors import ModalityMismatchError


def on_slide(
    names: NDArray[Any],
    shapes: NDArray[Any],
    *,
    slide_size: tuple[int, int],
    bounds_origin: tuple[int, int] = (0, 0),
    place: str,
) -> tuple[NDArray[Any], NDArray[Any], list[str]]:
    """Return names and valid shapes of the outlines that have an area, and warnings about what was mended or left out.

    Parameters
    ----------
    names : ndarray of str, shape (N,)
        Class of each outline.
    shapes : ndarray of shapely Polygon or MultiPolygon, shape (N,)
        As a file holds them.
    slide_size : tuple of int
        (width, height), level-0 px.
    bounds_origin : tuple of int
        (x, y), level-0 px; added to every point.
    place : str
        The file, for messages.

    Raises
    ------
    ModalityMismatchError
        Every outline lies beyond the slide.
    """
    warnings = []
    shapes, repaired = _valid(shapes)
    if repaired:
        warnings.append(f"{repaired} outlines that cross themselves were mended")
    has_area = shapely.area(shapes) > 0
    if flat := int((~has_area).sum()):
        warnings.append(f"{flat} outlines without area left out")
    names, shapes = names[has_area], shapes[has_area]
    if bounds_origin != (0, 0):
        shapes = np.array([shapely.transform(shape, lambda xy: xy + bounds_origin) for shape in shapes], dtype=object)
    return names, shapes, warnings + _beyond(shapes, slide_size, place)


def _valid(shapes: NDArray[Any]) -> tuple[NDArray[Any], int]:
    """Return valid shapes, and how many had to be mended.

    An outline that crosses itself is taken as a hand drew it: what it goes round twice is inside, not a hole. What a
    hole holds outside its outline is no area. Those without any area come out empty and do not count as mended.
    """
    broken = ~shapely.is_valid(shapes)
    mended = shapes.copy()
    mended[broken] = _structured(shapes[broken])
    for index in np.flatnonzero(broken).tolist():
        parts = shapely.get_parts(shapes[index])
        if any(len(part.interiors) for part in parts):
            outer = shapely.union_all(_structured(np.array([shapely.Polygon(part.exterior) for part in parts], object)))
            mended[index] = shapely.intersection(mended[index], outer)
    return mended, int((broken & (shapely.area(mended) > 0)).sum())


def _structured(shapes: NDArray[Any]) -> NDArray[Any]:
    """Return shapes made valid; parts without area are dropped."""
    return np.asarray(shapely.make_valid(shapes, method="structure", keep_collapsed=False), object)


def _beyond(shapes: NDArray[Any], slide_size: tuple[int, int], place: str) -> list[str]:
    """Return warnings about outlines that lie beyond the slide; raise if all do."""
    if not len(shapes):
        return []
    slide = shapely.box(0, 0, *slide_size)
    off = ~shapely.intersects(shapes, slide)
    if off.all():
        left, top, right, bottom = shapely.total_bounds(shapes)
        raise ModalityMismatchError(
            f"all {len(shapes)} outlines lie beyond the slide: they span {left:.0f} to {right:.0f} and {top:.0f} to "
            f"{bottom:.0f} px, the slide is {slide_size[0]} x {slide_size[1]} px",
            place=place,
            remedy="give the annotations that belong to this slide, in level-0 pixels",
        )
    over = ~off & ~shapely.covers(slide, shapes)
    counts = ((off, "outlines beyond the slide left out"), (over, "outlines reach over the slide's edge and are cut"))
    return [f"{int(which.sum())} {what}" for which, what in counts if which.any()]
