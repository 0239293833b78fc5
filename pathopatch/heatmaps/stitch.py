"""Stitch one value per patch into a map of cells (arithmetic only).

Cell (row j, column i) is the square ``[i s, (i + 1) s) x [j s, (j + 1) s)`` in level-0 px, s the grid's real stride,
so that scaling a map by s aligns it with the slide. The last cells overhang the slide; only what lies inside counts.
Patch i covers ``[i s, i s + extent)``: the half pixel by which its read was rounded is not carried into the map.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from pathopatch.core.errors import InternalError
from pathopatch.patches.grid import Grid

Cells = NDArray[np.float64]


def cell_positions(grid: Grid, x: ArrayLike, y: ArrayLike) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return (row, column), int64 of shape (N,) each, of the cell at whose corner each patch starts.

    Parameters
    ----------
    grid : Grid
        The grid that the patches were cut by.
    x, y : array of int, shape (N,)
        Origins, level-0 px.

    Raises
    ------
    InternalError
        An origin is not one of the grid's, or occurs twice.
    """
    positions: list[NDArray[np.int64]] = []
    for axis, coordinates, count in (("x", x, grid.nx), ("y", y, grid.ny)):
        origin = np.asarray(coordinates, np.int64)
        starts = np.floor(np.arange(count) * grid.stride + 0.5).astype(np.int64)
        index = np.minimum(np.searchsorted(starts, origin), count - 1)
        is_wrong = starts[index] != origin
        if is_wrong.any():
            wrong = int(origin[is_wrong][0])
            raise InternalError(
                f"{axis} = {wrong} is not an origin of the grid with stride {grid.stride:g} level-0 px",
                place="heatmap",
                remedy="predict the slide again with --force",
            )
        positions.append(index.astype(np.int64))
    column, row = positions
    flat = row * grid.nx + column
    if len(np.unique(flat)) != len(flat):
        raise InternalError(
            f"{len(flat) - len(np.unique(flat))} patch origins occur twice",
            place="heatmap",
            remedy="predict the slide again with --force",
        )
    return row, column


def stitch(grid: Grid, x: ArrayLike, y: ArrayLike, values: ArrayLike) -> Cells:
    """Return one value per cell: the mean of the patches that cover it, weighted by covered area.

    Parameters
    ----------
    grid : Grid
        The grid that the patches were cut by.
    x, y : array of int, shape (N,)
        Origins of the patches that have a value, in any order, level-0 px.
    values : array of float, shape (N,)
        One value per patch; NaN counts as none.

    Returns
    -------
    ndarray of float64, shape (ny, nx)
        NaN where no patch with a value covers the cell. Only area inside the slide counts.

    Raises
    ------
    InternalError
        An origin is not one of the grid's, or occurs twice.
    """
    placed = _placed(grid, x, y, values)
    if grid.patch_px == grid.stride_px:
        return placed
    valued = np.isfinite(placed)
    columns, rows = _axis_weights(grid, grid.width, grid.nx), _axis_weights(grid, grid.height, grid.ny)
    total = _spread(_spread(np.where(valued, placed, 0.0), columns).T, rows).T
    weight = _spread(_spread(valued.astype(np.float64), columns).T, rows).T
    return np.divide(total, weight, out=np.full_like(total, np.nan), where=weight > 0)


def coverage(grid: Grid, x: ArrayLike, y: ArrayLike, values: ArrayLike) -> Cells:
    """Return the share, in [0, 1], of each cell's area inside the slide that patches with a value cover, (ny, nx).

    Arguments and errors as `stitch`.
    """
    valued = np.isfinite(_placed(grid, x, y, values))
    covered = np.zeros((grid.ny, grid.nx))
    # Every patch covers a cell from the cell's top-left corner on, so at most 2 x 2 parts of a cell differ.
    for reach_y, height in _axis_parts(grid, grid.height, grid.ny):
        for reach_x, width in _axis_parts(grid, grid.width, grid.nx):
            is_covered = _any_before(_any_before(valued, reach_x).T, reach_y).T
            covered += is_covered * height[:, None] * width[None, :]
    return np.minimum(covered / inside_share(grid), 1.0)


def inside_share(grid: Grid) -> Cells:
    """Return the share of each cell that lies on the slide, shape (ny, nx), in (0, 1]."""
    rows, columns = (_inside(grid.stride, *side) for side in ((grid.height, grid.ny), (grid.width, grid.nx)))
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


def _placed(grid: Grid, x: ArrayLike, y: ArrayLike, values: ArrayLike) -> Cells:
    """Return the patches' values at their cells, NaN elsewhere."""
    row, column = cell_positions(grid, x, y)
    placed = np.full((grid.ny, grid.nx), np.nan)
    placed[row, column] = np.asarray(values, np.float64)
    return placed


def _inside(stride: float, length: int, count: int) -> NDArray[np.float64]:
    """Return the share of each cell's side inside the slide, shape (count,), in (0, 1]."""
    return np.clip(length / stride - np.arange(count), 1e-9, 1.0)


def _axis_weights(grid: Grid, length: int, count: int) -> NDArray[np.float64]:
    """Return weights (K, count): the share of a cell's side that a patch starting k cells before it covers."""
    ratio = grid.patch_px / grid.stride_px
    reach = np.arange(-(-grid.patch_px // grid.stride_px))
    return np.clip(ratio - reach[:, None], 0.0, _inside(grid.stride, length, count)[None, :])


def _axis_parts(grid: Grid, length: int, count: int) -> list[tuple[int, NDArray[np.float64]]]:
    """Return the parts of a cell's side that different patches cover: (number of patches that reach it, its width)."""
    whole, rest = divmod(grid.patch_px, grid.stride_px)
    inside = _inside(grid.stride, length, count)
    if rest == 0:
        return [(whole, inside)]
    near = np.minimum(rest / grid.stride_px, inside)
    return [(whole + 1, near), (whole, inside - near)]


def _spread(values: NDArray[np.float64], weights: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return, along the last axis, the sum over k of ``weights[k, i] * values[i - k]``."""
    total = np.zeros_like(values)
    count = values.shape[1]
    for offset, weight in enumerate(weights[:count]):
        total[:, offset:] += weight[offset:] * values[:, : count - offset]
    return total


def _any_before(flags: NDArray[np.bool_], reach: int) -> NDArray[np.bool_]:
    """Return, along the last axis, whether any of a cell and the ``reach - 1`` before it is set."""
    count = flags.shape[1]
    any_before = np.zeros_like(flags)
    for offset in range(min(reach, count)):
        any_before[:, offset:] |= flags[:, : count - offset]
    return any_before
