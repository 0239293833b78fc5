"""The heatmap law on numbers: a cell's value is the area-weighted mean of the patches that cover it."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pathopatch.core.errors import InternalError
from pathopatch.heatmaps.stitch import cell_positions, halved, stitch
from pathopatch.patches.grid import Grid

NAN = np.nan


def _grid(width, height, patch, stride, downsample=1.0):
    return Grid(width=width, height=height, downsample=downsample, patch_px=patch, stride_px=stride)


def _by_pixels(grid, values):
    """Return the mean of each cell by counting every level-0 pixel (whole strides only)."""
    s, p = round(grid.stride), round(grid.extent)
    total, number = np.zeros((2, grid.ny, grid.nx))
    for y in range(grid.height):
        for x in range(grid.width):
            j, i = y // s, x // s
            over = [
                values[b, a]
                for b in range(grid.ny)
                for a in range(grid.nx)
                if a * s <= x < a * s + p and b * s <= y < b * s + p and np.isfinite(values[b, a])
            ]
            total[j, i] += sum(over)
            number[j, i] += len(over)
    return np.divide(total, number, out=np.full_like(total, NAN), where=number > 0)


def test_patches_side_by_side_keep_their_values_and_the_rest_is_nan():
    grid = _grid(10, 8, 4, 4)  # 3 x 2 cells, the last ones overhanging
    cells = stitch(grid, [0, 8, 4], [0, 0, 4], [0.1, 0.2, 0.3])
    np.testing.assert_array_equal(cells, [[0.1, NAN, 0.2], [NAN, 0.3, NAN]])


def test_half_stride_averages_the_patches_over_each_cell():
    grid = _grid(6, 2, 4, 2)  # patches at 0, 2, 4; cell 1 lies under patches 0 and 1
    cells = stitch(grid, [0, 2, 4], [0, 0, 0], [0.0, 1.0, 0.5])
    np.testing.assert_allclose(cells, [[0.0, 0.5, 0.75]])


def test_a_stride_that_does_not_divide_weighs_by_covered_area():
    grid = _grid(9, 3, 4, 3)  # patch 0 covers 1 of the 3 px of cell 1
    cells = stitch(grid, [0, 3], [0, 0], [1.0, 0.0])
    np.testing.assert_allclose(cells, [[1.0, 0.25, 0.0]])


def test_a_slide_narrower_than_a_patch_is_one_cell():
    grid = _grid(3, 5, 8, 8)
    np.testing.assert_array_equal(stitch(grid, [0], [0], [0.7]), [[0.7]])


def test_at_the_edge_only_area_inside_the_slide_counts():
    grid = _grid(7, 3, 4, 3)  # cell 2 is px 6; patches 1 (3 to 7) and 2 (6 to 10) both cover all of it
    np.testing.assert_allclose(stitch(grid, [3, 6], [0, 0], [0.0, 1.0])[0, 2], 0.5)


@pytest.mark.parametrize("downsample", [2.0, 1.37, 3.999])
def test_real_strides_find_the_cell_of_every_origin(downsample):
    grid = _grid(1000, 700, 16, 16, downsample)
    origins = grid.origins()
    row, column = cell_positions(grid, origins[:, 0], origins[:, 1])
    np.testing.assert_array_equal(row * grid.nx + column, np.arange(grid.nx * grid.ny))


@settings(max_examples=60, deadline=None)
@given(data=st.data(), patch=st.integers(1, 6), width=st.integers(1, 13), height=st.integers(1, 9))
def test_stitch_agrees_with_counting_pixels(data, patch, width, height):
    grid = _grid(width, height, patch, data.draw(st.integers(1, patch + 3)))  # above the patch's side it leaves gaps
    cell = st.one_of(st.just(NAN), st.floats(0, 1))
    count = grid.nx * grid.ny
    values = np.array(data.draw(st.lists(cell, min_size=count, max_size=count)))
    origins = grid.origins()
    mean = _by_pixels(grid, values.reshape(grid.ny, grid.nx))
    np.testing.assert_allclose(stitch(grid, origins[:, 0], origins[:, 1], values), mean, atol=1e-12)


def test_the_order_of_the_rows_does_not_matter():
    grid = _grid(50, 40, 7, 5)
    origins, values = grid.origins(), np.linspace(0, 1, grid.nx * grid.ny)
    turned = np.random.default_rng(0).permutation(len(values))
    np.testing.assert_array_equal(stitch(grid, *origins.T, values), stitch(grid, *origins[turned].T, values[turned]))


def test_an_origin_off_the_grid_or_twice_is_refused():
    grid = _grid(10, 10, 4, 4)
    with pytest.raises(InternalError, match="x = 3 is not an origin"):
        stitch(grid, [3], [0], [0.5])
    with pytest.raises(InternalError, match="occur twice"):
        stitch(grid, [4, 4], [0, 0], [0.5, 0.5])


def test_no_predicted_patch_gives_a_map_of_nan():
    grid = _grid(10, 8, 4, 2)
    assert np.isnan(stitch(grid, [], [], [])).all()


def test_halving_averages_what_is_there_and_rounds_odd_sides_up():
    cells = np.array([[[1, 3, 5], [NAN, 2, NAN], [NAN, NAN, 7]]], np.float32)
    np.testing.assert_array_equal(halved(cells), [[[2, 5], [NAN, 7]]])
