"""The picture for OpenSlide-based viewers, as OpenSlide itself opens it."""

import numpy as np
import openslide
import pytest
import tifffile

from pathopatch.heatmaps.overlay import blend
from pathopatch.heatmaps.pyramids import colored, pyramid, write_rgb_pyramid

CELL_UM = 127.74


def _cells(ny=150, nx=131):
    cells = np.random.default_rng(3).random((ny, nx))
    cells[10:40, 5:90] = np.nan
    return cells


def _continued(cells, step):
    """The map with NaN to the right and below, sides multiples of `step`."""
    larger = np.full([-(-side // step) * step for side in cells.shape], np.nan)
    larger[: cells.shape[0], : cells.shape[1]] = cells
    return larger


def _opened(path):
    """(pixels of all levels, downsample of each, mpp of x and y), as OpenSlide gives them."""
    with openslide.OpenSlide(path) as slide:
        levels = []
        for level, size in enumerate(slide.level_dimensions):
            rgba = np.asarray(slide.read_region((0, 0), level, size))
            assert (rgba[..., 3] == 255).all()
            levels.append(rgba[..., :3])
        mpp = [float(slide.properties[name]) for name in ("openslide.mpp-x", "openslide.mpp-y")]
        return levels, slide.level_downsamples, mpp


def _check(path, cells=None, count=3):
    """Assert that OpenSlide shows the map: every level, its scale, its colours, its mpp."""
    cells = _cells() if cells is None else cells
    levels, downsamples, mpp = _opened(path)
    due = pyramid(_continued(cells, 2 ** (count - 1))[None].astype(np.float32))
    assert downsamples == tuple(2.0**level for level in range(count))
    assert mpp == pytest.approx([CELL_UM, CELL_UM], rel=1e-6)
    for level, expected in zip(levels, due, strict=True):
        np.testing.assert_array_equal(level, colored(expected[0]))


@pytest.fixture
def picture(tmp_path):
    path = tmp_path / "heatmap.tif"
    write_rgb_pyramid(path, _cells(), cell_um=CELL_UM)
    return path


def test_openslide_shows_all_levels_in_their_colours_and_scale(picture):
    _check(picture)


@pytest.mark.parametrize(
    ("shape", "count"), [((1, 1), 1), (((64, 64)), 1), ((1, 65), 2), ((3, 700), 5), ((130, 129), 3), ((257, 520), 5)]
)
def test_maps_of_any_shape_open_and_halve_exactly(tmp_path, shape, count):
    cells = np.random.default_rng(1).random(shape)
    write_rgb_pyramid(tmp_path / "a.tif", cells, cell_um=CELL_UM)
    _check(tmp_path / "a.tif", cells, count)


def test_colours_grow_from_the_ground_and_grey_is_what_was_not_predicted():
    values = np.array([[0.0, 0.5, 1.0, np.nan]])
    np.testing.assert_array_equal(colored(values), [[[255, 255, 255], [175, 242, 132], [0, 205, 20], [200] * 3]])
    np.testing.assert_array_equal(colored(values, "dark"), [[[0, 0, 0], [30, 99, 128], [120, 255, 255], [64] * 3]])


@pytest.mark.parametrize(("ground", "paper"), [("bright", 255), ("dark", 0)])
def test_colours_are_those_of_the_overlay(ground, paper):
    cells = np.linspace(0, 1, 40)[None]
    over = blend(np.full((1, 40, 3), paper, np.uint8), cells, (1.0, 1.0), ground).astype(float)
    np.testing.assert_allclose(over - paper, 0.38 * (colored(cells, ground).astype(float) - paper), atol=0.8)


@pytest.mark.parametrize("ground", ["bright", "dark"])
def test_no_probability_is_drawn_in_the_grey_of_no_prediction(ground):
    grey = colored(np.array([[np.nan]]), ground)[0, 0].astype(int)
    assert np.abs(colored(np.linspace(0, 1, 1001)[None], ground) - grey).max(axis=2).min() > 20


def test_a_map_of_nan_is_a_grey_picture(tmp_path):
    write_rgb_pyramid(tmp_path / "a.tif", np.full((70, 5), np.nan), cell_um=CELL_UM)
    assert all((level == 200).all() for level in _opened(tmp_path / "a.tif")[0])


def test_the_file_explains_grey_and_names_neither_slide_nor_date(picture):
    with openslide.OpenSlide(picture) as slide:
        properties = {name: value for name, value in slide.properties.items() if name.startswith("tiff.")}
    assert properties.pop("tiff.ImageDescription").endswith("grey: not predicted")
    assert set(properties) == {"tiff.ResolutionUnit", "tiff.Software", "tiff.XResolution", "tiff.YResolution"}


def test_every_level_states_its_own_pixel_size(picture):
    with tifffile.TiffFile(picture) as file:
        pixel_sizes_um = [1e4 / page.resolution[0] for page in file.pages]
    assert pixel_sizes_um == pytest.approx([CELL_UM, 2 * CELL_UM, 4 * CELL_UM], rel=1e-6)


def test_equal_maps_give_equal_bytes(picture, tmp_path):
    write_rgb_pyramid(tmp_path / "again.tif", _cells(), cell_um=CELL_UM)
    assert picture.read_bytes() == (tmp_path / "again.tif").read_bytes()
