"""The map as OME-Zarr: other people's readers open it, and it lies on the slide's overview corner on corner."""

import numpy as np
import ome_zarr_models
import pytest
import zarr
from ome_zarr.io import parse_url
from ome_zarr.reader import Reader
from written_files import contents

from pathopatch.heatmaps.pyramids import CHANNELS, pyramid, write_ome_zarr
from pathopatch.patches.store_writer import StoreWriter

CELL_UM = 128.0
OVER_UM = (5.0, 4.0)


def _cells(channels=2, ny=150, nx=131):
    cells = np.random.default_rng(3).random((channels, ny, nx)).astype(np.float32)
    cells[0, 10:40, 5:90] = np.nan
    return cells


@pytest.fixture
def heatmap(tmp_path):
    path = tmp_path / "heatmap.ome.zarr"
    write_ome_zarr(path, _cells(), cell_um=CELL_UM, over_um=OVER_UM, name="s1")
    return path


def _valid(path):
    return ome_zarr_models.open_ome_zarr(zarr.open_group(path, mode="r"))


def _shown(path):
    """Return the levels and the metadata of the first node of the `ome-zarr` reader."""
    node = next(iter(Reader(parse_url(str(path)))()))
    return [np.asarray(level) for level in node.data], node.metadata


def _check(path, cells=None, channels=CHANNELS):
    """Assert that a validator accepts it and a reader shows the same bits, names and windows."""
    cells = _cells() if cells is None else cells
    image = _valid(path)
    assert type(image).__module__ == "ome_zarr_models.v05.image"
    levels, metadata = _shown(path)
    for level, due in zip(levels, pyramid(cells), strict=True):
        np.testing.assert_array_equal(level.view(np.uint32), due.view(np.uint32))
    assert metadata["channel_names"] == list(channels)
    assert metadata["contrast_limits"] == [[0.0, 1.0]] * len(channels)
    return image, metadata


def test_a_validator_accepts_it_and_a_reader_finds_every_level_to_the_bit(heatmap):
    image, metadata = _check(heatmap)
    assert metadata["name"] == "s1"
    assert [(axis.name, axis.unit) for axis in image.ome_attributes.multiscales[0].axes] == [
        ("c", None), ("y", "micrometer"), ("x", "micrometer"),
    ]  # fmt: skip
    assert metadata["visible"] == [True, False]


def test_a_fourth_channel_is_one_more_plane(tmp_path):
    names = (*CHANNELS, "spread")
    write_ome_zarr(tmp_path / "a.zarr", _cells(3), cell_um=CELL_UM, over_um=OVER_UM, channels=names)
    _check(tmp_path / "a.zarr", _cells(3), names)


@pytest.mark.parametrize("shape", [(1, 1), (1, 70), (64, 64), (600, 3)])
def test_maps_of_any_shape_are_valid_and_come_back(tmp_path, shape):
    cells = np.full((2, *shape), np.nan, np.float32)
    cells[1:] = 0  # also where all is the fill value
    write_ome_zarr(tmp_path / "a.zarr", cells, cell_um=CELL_UM, over_um=OVER_UM)
    _check(tmp_path / "a.zarr", cells)


def _corners(path):
    """Return the corner of each level's first pixel, (y, x) in um: half a pixel before its centre."""
    corners = []
    for scale, translation in _shown(path)[1]["coordinateTransformations"]:
        corners.append([t - s / 2 for t, s in zip(translation["translation"][-2:], scale["scale"][-2:], strict=True)])
    return corners


def test_the_map_lies_on_the_overview_corner_on_corner_at_every_level(tmp_path, heatmap):
    origins = np.zeros((1, 2), np.int64)
    store = StoreWriter(tmp_path / "store.zarr", origins=origins, channels=1, patch_px=8, dtype=np.dtype(np.uint8))
    store.write_overview(
        np.zeros((1, 1200, 700), np.uint8), {"tissue": np.zeros((1200, 700), np.uint8)}, channels=["CARS"],
        um_per_px=OVER_UM, windows=np.array([[0.0, 255.0]]),
    )  # fmt: skip
    due = _corners(tmp_path / "store.zarr" / "overview")
    assert due == [pytest.approx([-2.0, -2.5])] * len(due)
    corners = _corners(heatmap)
    assert corners == [pytest.approx([-2.0, -2.5])] * 3
    scales = [scale["scale"] for scale, _ in _shown(heatmap)[1]["coordinateTransformations"]]
    assert scales == [[1.0, CELL_UM * 2**level, CELL_UM * 2**level] for level in range(3)]


def test_equal_maps_give_equal_bytes(heatmap, tmp_path):
    write_ome_zarr(tmp_path / "again.zarr", _cells(), cell_um=CELL_UM, over_um=OVER_UM, name="s1")
    assert contents(heatmap) == contents(tmp_path / "again.zarr")
    assert len(contents(heatmap)) == 1 + 3 * 3  # a description of the image; of each level, and its two planes
