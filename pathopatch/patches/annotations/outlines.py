"""What is an outline, and which points can it have? Shared by the readers of annotation files."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import shapely
from numpy.typing import ArrayLike, NDArray

MAX_BYTES = 256 * 2**20  # of text; a hundred times the annotations of a slide, and the memory to read them is bounded
MAX_COORDINATE = 1e8  # px; no slide is as large, and areas stay exact
UNCLASSIFIED = "(unclassified)"
"""Name of outlines that have no class."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Outlines:
    """The areas that an annotation file holds.

    Parameters
    ----------
    names : tuple of str
        Class of each.
    shapes : tuple of shapely geometry
        Polygon or MultiPolygon, not checked for validity; level-0 px in the frame of the file.
    is_from_bounds : bool
        Points are measured from the corner of the slide's bounds (QuPath), not of the whole slide (ASAP).
    place : str
        The file.
    skipped : mapping of str to int
        What else was in the file, and how much of it.
    """

    names: tuple[str, ...]
    shapes: tuple[Any, ...]
    is_from_bounds: bool
    place: str
    skipped: Mapping[str, int] = field(default_factory=dict)


def ring(points: ArrayLike) -> NDArray[np.float64]:
    """Return the points of a ring, ndarray of float64, shape (N, 2); a third coordinate is dropped.

    Raises
    ------
    ValueError
        They are no numbers, fewer than three, or no pixels of any slide.
    """
    try:
        found = np.asarray(points, np.float64)
    except (TypeError, ValueError, OverflowError) as error:
        raise ValueError(f"coordinates that are no pairs of numbers: {error}") from error
    if found.ndim != 2 or found.shape[1] < 2:
        raise ValueError(f"coordinates that are no pairs of numbers: shape {found.shape}")
    found = found[:, :2]
    if len(found) < 3:
        raise ValueError(f"an outline of {len(found)} points")
    bad = ~(np.abs(found) <= MAX_COORDINATE).all(axis=1)  # NaN too
    if bad.any():
        raise ValueError(f"point {tuple(found[bad][0].tolist())} is none of a slide")
    return found


def polygon(rings: Sequence[ArrayLike]) -> Any:
    """Return a polygon of its outline and its holes; see `ring`."""
    if not rings:
        raise ValueError("a polygon without an outline")
    shell, *holes = (ring(points) for points in rings)
    return shapely.Polygon(shell, holes)
