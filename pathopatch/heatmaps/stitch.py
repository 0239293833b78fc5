"""Stitch one value per patch into a map of cells (arithmetic only).

Cell (row j, column i) is the square ``[i s, (i + 1) s) x [j s, (j + 1) s)`` in level-0 px, s the grid's real stride,
so that scaling a map by s aligns it with the slide. The last cells overhang the slide; only what lies inside counts.
Patch i covers ``[i s, i s + extent)``: the half pixel by which its read was rounded is not carried into the map.
"""

from __future__ import annotations

from functools import partial

import numpy as np
from numpy.typing import ArrayLike, NDArray

from pathopatch.core.errors import InternalError
from pathopatch.patches.grid import Grid

Cells = NDArray[np.float64]


def cell_positions(grid: Grid, x: ArrayLike, y: ArrayLike) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return (row, column), int64 of shape (N,) each, of the cell at whose corner each patch starts.

    `x` and `y` are origins, (N,), level-0 px.

    Raises
    ------
    InternalError
        An origin is not one of the grid's, or occurs twice.
    """
    positions: list[NDArray[np.int64]] = []
    refused = partial(InternalError, place="heatmap", remedy="predict the slide again with --force")
    for axis, coordinates, count in (("x", x, grid.nx), ("y", y, grid.ny)):
        origin = np.asarray(coordinates, np.int64)
        starts = np.floor(np.arange(count) * grid.stride + 0.5).astype(np.int64)
        index = np.minimum(np.searchsorted(starts, origin), count - 1)
        is_wrong = starts[index] != origin
        if is_wrong.any():
            wrong = int(origin[is_wrong][0])
            raise refused(f"{axis} = {wrong} is not an origin of the grid with stride {grid.stride:g} level-0 px")
        positions.append(index.astype(np.int64))
    column, row = positions
    flat = row * grid.nx + column
    if n_twice := len(flat) - len(np.unique(flat)):
        raise refused(f"{n_twice} patch origins occur twice")
    return row, column


def stitch(grid: Grid, x: ArrayLike, y: ArrayLike, values: ArrayLike) -> Cells:
    """Return one value per cell, (ny, nx): the mean of the patches that cover it, by the area covered on the slide.

    `x` and `y` are the origins of patches in any order, level-0 px, `values` one number per patch; NaN counts as none.
    NaN where no patch with a value covers the cell. Raises as `cell_positions`.
    """
    placed = np.full((grid.ny, grid.nx), np.nan)
    placed[cell_positions(grid, x, y)] = np.asarray(values, np.float64)
    if grid.patch_px == grid.stride_px:
        return placed
    valued = np.isfinite(placed)
    rows, columns = (_axis_weights(grid, inside) for inside in _inside(grid))
    total = _spread(_spread(np.where(valued, placed, 0.0), columns).T, rows).T
    weight = _spread(_spread(valued.astype(np.float64), columns).T, rows).T
    return np.divide(total, weight, out=np.full_like(total, np.nan), where=weight > 0)


def nearest_cells(grid: Grid, x: ArrayLike, y: ArrayLike) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return (row, column), int64 of shape (N,) each, of the cell whose corner is nearest to each patch's origin.

    For patches that lie on no common grid; `x` and `y` are origins, (N,), level-0 px.
    """
    column, row = (
        np.clip(np.floor(np.asarray(origin, np.float64) / grid.stride + 0.5).astype(np.int64), 0, count - 1)
        for origin, count in ((x, grid.nx), (y, grid.ny))
    )
    return row, column


def mean_of_nearest(grid: Grid, x: ArrayLike, y: ArrayLike, values: ArrayLike) -> Cells:
    """Return one value per cell, (ny, nx): the mean of the patches that are nearest to it; NaN counts as none."""
    values = np.asarray(values, np.float64)
    row, column = nearest_cells(grid, x, y)
    has_value = np.isfinite(values)
    flat = (row * grid.nx + column)[has_value]
    total = np.bincount(flat, values[has_value], grid.ny * grid.nx).astype(np.float64).reshape(grid.ny, grid.nx)
    number = np.bincount(flat, minlength=grid.ny * grid.nx).reshape(grid.ny, grid.nx)
    return np.divide(total, number, out=np.full_like(total, np.nan), where=number > 0)


def inside_share(grid: Grid) -> Cells:
    """Return the share of each cell on the slide, (ny, nx), in (0, 1]; of its patch where patches leave gaps."""
    rows, columns = _inside(grid)
    return rows[:, None] * columns[None, :]


def halved(cells: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return a map (C, ny, nx) at half resolution: the mean of each 2 x 2 block, NaN where a block has no value."""
    # Odd sides are rounded up, the last block overhanging, so that the scale stays exactly 2 from corner (0, 0).
    count, ny, nx = cells.shape
    padded = np.full((count, ny + ny % 2, nx + nx % 2), np.nan)
    padded[:, :ny, :nx] = cells
    blocks = padded.reshape(count, padded.shape[1] // 2, 2, padded.shape[2] // 2, 2)
    valued = np.isfinite(blocks)
    total, number = np.where(valued, blocks, 0.0).sum(axis=(2, 4)), valued.sum(axis=(2, 4))
    mean = np.divide(total, number, out=np.full_like(total, np.nan), where=number > 0)
    return np.asarray(mean, np.float32)


def _inside(grid: Grid) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the share of each cell's side inside the slide, by row (ny,) and by column (nx,), in (0, 1].

    Of patches that leave gaps it is that of the patch's side.
    """
    scale = max(1.0, grid.stride_px / grid.patch_px)
    rows, columns = (
        np.clip((length / grid.stride - np.arange(count)) * scale, 1e-9, 1.0)
        for length, count in ((grid.height, grid.ny), (grid.width, grid.nx))
    )
    return rows, columns


def _axis_weights(grid: Grid, inside: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return weights (K, count): the share of a cell's side that a patch starting k cells before it covers."""
    ratio = grid.patch_px / grid.stride_px
    reach = np.arange(-(-grid.patch_px // grid.stride_px))
    return np.clip(ratio - reach[:, None], 0.0, inside[None, :])


def _spread(values: NDArray[np.float64], weights: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return, along the last axis, the sum over k of ``weights[k, i] * values[i - k]``."""
    total = np.zeros_like(values)
    count = values.shape[1]
    for offset, weight in enumerate(weights[:count]):
        total[:, offset:] += weight[offset:] * values[:, : count - offset]
    return total
