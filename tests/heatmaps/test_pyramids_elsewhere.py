"""The OME-TIFF heatmap in other people's readers: Bio-Formats by its own tools, and ome-types."""

import bioformats
import numpy as np
import ome_types
import pytest
import tifffile

from pathopatch.heatmaps.pyramids import CHANNELS, pyramid, write_ome_tiff

CELL_UM = 127.74


def _cells(channels=3, ny=150, nx=131):
    cells = np.random.default_rng(3).random((channels, ny, nx)).astype(np.float32)
    cells[0, 10:40, 5:90] = np.nan
    return cells


def _write(path, cells=None, channels=(*CHANNELS, "spread")):
    cells = _cells() if cells is None else cells
    write_ome_tiff(path, cells, cell_um=CELL_UM, channels=channels, name="s1")
    return path


@pytest.fixture
def heatmap(tmp_path):
    return _write(tmp_path / "heatmap.ome.tif")


def _check_bio_formats(bio_formats, path, cells=None, channels=(*CHANNELS, "spread")):
    """Assert that Bio-Formats sees resolutions, names and sizes, and reads every level to the bit."""
    levels = pyramid(_cells() if cells is None else cells)
    assert bio_formats.seen(path) == bioformats.Seen(
        reader="OME-TIFF", name="s1", size=levels[0].shape[:0:-1], resolutions=len(levels), pixel_type="float",
        channels=channels, physical_size=(str(CELL_UM), "µm", str(CELL_UM), "µm"),
    )  # fmt: skip
    for level, due in zip(bio_formats.levels(path), levels, strict=True):
        np.testing.assert_array_equal(level.view(np.uint32), due.view(np.uint32))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("shape", "channels"), [((3, 150, 131), (*CHANNELS, "spread")), ((2, 600, 40), CHANNELS), ((2, 1, 1), CHANNELS)]
)
def test_bio_formats_reads_levels_names_sizes_and_equal_pixels(bio_formats, tmp_path, shape, channels):
    cells = _cells(*shape)
    _check_bio_formats(bio_formats, _write(tmp_path / "a.ome.tif", cells, channels), cells, channels)


def test_ome_types_finds_the_description_valid(heatmap):
    with tifffile.TiffFile(heatmap) as file:
        description = file.ome_metadata
    ome_types.validate_xml(description)
    pixels = ome_types.from_xml(description).images[0].pixels
    assert tuple(channel.name for channel in pixels.channels) == (*CHANNELS, "spread")
    assert (pixels.physical_size_x, pixels.physical_size_x_unit.value) == (CELL_UM, "µm")
    assert (pixels.physical_size_y, pixels.physical_size_y_unit.value) == (CELL_UM, "µm")
    assert (pixels.size_x, pixels.size_y, pixels.size_c, pixels.type.value) == (131, 150, 3, "float")
