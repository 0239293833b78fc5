from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pathopatch.core.errors import InputUnsupportedError
from pathopatch.patches.grid import Grid


def test_the_last_patches_overhang_and_none_is_left_out() -> None:
    grid = Grid(width=100, height=50, downsample=1.0, patch_px=32, stride_px=32)
    assert (grid.nx, grid.ny) == (4, 2)
    assert grid.origins().tolist() == [[x, y] for y in (0, 32) for x in (0, 32, 64, 96)]
    assert grid.inside(96, 32) == (4, 18)
    assert grid.inside(0, 0) == (32, 32)
    parts = grid.inside_fractions(np.array([[96, 32], [0, 0], [96, 0]]))
    np.testing.assert_array_equal(parts, [4 * 18 / 32**2, 1, 4 / 32])


def test_a_real_stride_is_rounded_at_each_patch_and_not_once() -> None:
    grid = Grid(width=20, height=5, downsample=1.3, patch_px=4, stride_px=3)
    # stride 3.9: 0, 3.9, 7.8, 11.7, 15.6, 19.5
    assert grid.origins()[:, 0].tolist() == [0, 4, 8, 12, 16, 20] * 2
    assert (grid.extent, grid.span_px) == (5.2, 5)


def test_a_rounding_error_makes_no_patch_of_its_own() -> None:
    grid = Grid(width=2560 * 3, height=10, downsample=0.7 / 0.07, patch_px=256, stride_px=256)
    assert grid.downsample != 10.0  # 9.999999999999998
    assert grid.nx == 3


def test_inside_counts_pixels_with_their_centre_on_the_slide() -> None:
    grid = Grid(width=10, height=11, downsample=4.0, patch_px=4, stride_px=2)
    assert grid.inside(0, 0) == (3, 3)  # 2.5 and 2.75 px
    assert grid.inside(9, 8) == (1, 1)  # 0.25 px and 0.75 px
    assert grid.inside(10, 0) == (0, 3)


@given(
    size=st.integers(1, 5000),
    downsample=st.floats(0.99, 9),
    patch_px=st.integers(8, 300),
    overlap=st.floats(0, 0.9),
)
def test_the_patches_cover_the_slide(size: int, downsample: float, patch_px: int, overlap: float) -> None:
    stride_px = max(2, int(patch_px * (1 - overlap)))
    grid = Grid(width=size, height=1, downsample=downsample, patch_px=patch_px, stride_px=stride_px)
    x = grid.origins()[: grid.nx, 0]
    assert x[0] == 0
    assert (x[1:] - x[:-1] > 0).all()
    assert (x[1:] - x[:-1] <= grid.extent + 1).all()
    assert x[-1] + grid.extent + 1 >= size
    assert (grid.nx - 1) * grid.stride < size


def test_a_stride_below_a_pixel_is_refused() -> None:
    with pytest.raises(InputUnsupportedError, match="stride"):
        Grid(width=10, height=10, downsample=0.99, patch_px=8, stride_px=1)
