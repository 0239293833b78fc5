"""Polygons around the connected pieces of a mask, corners at whole pixels."""

from __future__ import annotations

from typing import Any

import numpy as np
import shapely
from numpy.typing import NDArray


def mask_polygons(mask: NDArray[np.bool_], labels: NDArray[np.int32]) -> NDArray[Any]:
    """Return the polygon of each piece with its holes; the area is exactly that of its pixels.

    Parameters
    ----------
    mask : ndarray of bool, shape (h, w)
    labels : ndarray of int32, shape (h, w)
        Number of each pixel's piece from 1 on, 0 outside the mask. Pieces hang together by sides of pixels: two that
        touch at a corner only are two, so that every polygon is valid.

    Returns
    -------
    ndarray of shapely Polygon, shape (R,)
        In the order of the labels; (x, y) in px of the mask, pixel (row 0, column 0) spans (0, 0) to (1, 1).
    """
    faces = shapely.get_parts(shapely.polygonize(shapely.linestrings(_border_lines(mask))))
    # The holes come as faces too. The cell below and right of a face's topmost, then leftmost corner is inside it.
    corner, face = shapely.get_coordinates(shapely.get_exterior_ring(faces), return_index=True)
    order = np.lexsort((corner[:, 0], corner[:, 1], face))
    column, row = corner[order][np.diff(face[order], prepend=-1) > 0].astype(np.int64).T
    label = labels[row, column]
    found = np.empty(labels.max(initial=0), dtype=object)
    found[label[label > 0] - 1] = faces[label > 0]
    return found


def _border_lines(mask: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Return straight lines ((x, y), (x, y)) that meet at their ends only, ndarray of shape (n, 2, 2)."""
    padded = np.pad(mask, 1)
    along_x = np.pad(padded[1:] != padded[:-1], ((0, 0), (1, 1)))[:, 1:-1]  # (ny + 1, nx + 2)
    along_y = np.pad(padded[:, 1:] != padded[:, :-1], ((1, 1), (0, 0)))[1:-1]  # (ny + 2, nx + 1)
    is_crossing = along_x[:, 1:] & along_x[:, :-1] & along_y[1:] & along_y[:-1]  # (ny + 1, nx + 1), corners of pixels
    y, left, right = _runs(along_x[:, 1:-1], is_crossing)
    x, top, bottom = _runs(along_y[1:-1].T, is_crossing.T)
    ends = ((left, y, right, y), (x, top, x, bottom))
    return np.concatenate([np.stack(end, axis=1) for end in ends]).reshape(-1, 2, 2).astype(np.float64)


def _runs(
    edges: NDArray[np.bool_], is_crossing: NDArray[np.bool_]
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
    """Return (line, first corner, last corner) of the runs of edges along each line, ended where two lines cross."""
    before, after = np.zeros_like(edges), np.zeros_like(edges)
    before[:, 1:], after[:, :-1] = edges[:, :-1], edges[:, 1:]
    line, first = np.nonzero(edges & (~before | is_crossing[:, :-1]))
    _, last = np.nonzero(edges & (~after | is_crossing[:, 1:]))
    return line, first, last + 1
