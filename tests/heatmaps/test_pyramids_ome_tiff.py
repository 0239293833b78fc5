"""The OME-TIFF heatmap, read back with tifffile; what other readers make of it stands in test_pyramids_elsewhere."""

import numpy as np
import pytest
import tifffile

from pathopatch.core.errors import InputCorruptError, InputMissingError
from pathopatch.heatmaps.pyramids import CHANNELS, read_ome_tiff, write_ome_tiff


def _cells(ny=150, nx=131):
    cells = np.random.default_rng(3).random((2, ny, nx)).astype(np.float32)
    cells[0, 10:40, 5:90] = np.nan
    return cells


@pytest.fixture
def heatmap(tmp_path):
    path = tmp_path / "heatmap.ome.tif"
    write_ome_tiff(path, _cells(), cell_um=127.74, name="s1")
    return path


def test_planes_names_units_and_nan_come_back_to_the_bit(heatmap):
    pyramid = read_ome_tiff(heatmap)
    np.testing.assert_array_equal(pyramid.levels[0].view(np.uint32), _cells().view(np.uint32))
    assert (pyramid.channels, pyramid.cell_um, pyramid.name) == (CHANNELS, 127.74, "s1")
    with tifffile.TiffFile(heatmap) as file:
        assert file.is_ome
        assert file.series[0].axes == "CYX"
        assert 'PhysicalSizeXUnit="µm"' in file.ome_metadata


def test_each_level_is_the_nan_aware_half_of_the_one_before(heatmap):
    levels = read_ome_tiff(heatmap).levels
    assert [level.shape for level in levels] == [(2, 150, 131), (2, 75, 66), (2, 38, 33)]
    fine = np.full((2, 150, 132), np.nan, np.float32)
    fine[:, :, :131] = levels[0]
    blocks = fine.reshape(2, 75, 2, 66, 2).transpose(0, 1, 3, 2, 4).reshape(2, 75, 66, 4)
    has_any = np.isfinite(blocks).any(axis=3)
    np.testing.assert_allclose(levels[1][has_any], np.nanmean(blocks[has_any], axis=1), rtol=1e-6)
    assert np.isnan(levels[1][~has_any]).all()
    assert (~has_any).any()


def test_coarser_levels_are_reduced_images_in_subifds(heatmap):
    with tifffile.TiffFile(heatmap) as file:
        assert len(file.pages) == 2
        assert all(len(page.pages) == 2 for page in file.pages)
        assert all(part.is_reduced for page in file.pages for part in page.pages)


@pytest.mark.parametrize("shape", [(1, 1), (1, 70), (64, 64)])
def test_small_maps_of_any_shape_come_back(tmp_path, shape):
    cells = np.full((2, *shape), np.nan, np.float32)
    write_ome_tiff(tmp_path / "a.tif", cells, cell_um=1.0)
    np.testing.assert_array_equal(read_ome_tiff(tmp_path / "a.tif").levels[0], cells)


def test_the_spread_of_several_models_is_a_further_channel_at_every_level(tmp_path):
    cells = np.concatenate([_cells(), _cells()[:1] / 4])
    write_ome_tiff(tmp_path / "a.ome.tif", cells, cell_um=127.74, channels=(*CHANNELS, "spread"))
    pyramid = read_ome_tiff(tmp_path / "a.ome.tif")
    assert pyramid.channels == ("probability", "tissue_fraction", "spread")
    assert [level.shape for level in pyramid.levels] == [(3, 150, 131), (3, 75, 66), (3, 38, 33)]
    np.testing.assert_array_equal(pyramid.levels[0], cells)
    np.testing.assert_array_equal(pyramid.levels[2][2], pyramid.levels[2][0] / 4)


def test_equal_maps_give_equal_bytes_and_another_map_another_uuid(tmp_path):
    paths = [tmp_path / name for name in "abc"]
    changed = _cells()
    changed[1, 0, 0] += 0.5
    for path, cells in zip(paths, (_cells(), _cells(), changed), strict=True):
        write_ome_tiff(path, cells, cell_um=2.0)
    assert paths[0].read_bytes() == paths[1].read_bytes()
    uuids = [tifffile.tiffcomment(path).split('UUID="')[1][:45] for path in paths]
    assert uuids[0] == uuids[1] != uuids[2]


def test_a_missing_file_says_so(tmp_path):
    with pytest.raises(InputMissingError, match="no heatmap"):
        read_ome_tiff(tmp_path / "none.tif")


@pytest.mark.parametrize("share", [0.01, 0.3, 0.6, 0.95, 0.999])
def test_a_cut_copy_fails_the_check(heatmap, share):
    content = heatmap.read_bytes()
    heatmap.write_bytes(content[: int(len(content) * share)])
    with pytest.raises(InputCorruptError):
        read_ome_tiff(heatmap)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (b'PhysicalSizeX="127.74"', b'PhysicalSizeX="128.74"'),
        (b'Name="tissue_fraction"', b'Nome="tissue_fraction"'),
        (b"<Pixels ", b"<Pixelz "),
    ],
)
def test_a_copy_with_a_broken_description_fails_the_check(heatmap, old, new):
    content = heatmap.read_bytes()
    assert old in content
    heatmap.write_bytes(content.replace(old, new))
    with pytest.raises(InputCorruptError):
        read_ome_tiff(heatmap)


def test_a_copy_without_its_pyramid_fails_the_check(heatmap):
    tifffile.imwrite(
        heatmap, _cells(), ome=True, tile=(256, 256), photometric="minisblack",
        metadata={"axes": "CYX", "Channel": {"Name": list(CHANNELS)}, "PhysicalSizeX": 1, "PhysicalSizeY": 1},
    )  # fmt: skip
    with pytest.raises(InputCorruptError):
        read_ome_tiff(heatmap)
