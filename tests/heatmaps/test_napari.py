"""napari shows a heatmap over the overview of the slide's store: where its OME-Zarr reader puts the two images."""

import re
import sys
import textwrap
from pathlib import Path
from types import SimpleNamespace

import made_slides as made
import numpy as np
import pytest
import zarr
from made_model import write_model
from made_review import MODALITIES, predict, write_other_model
from ome_zarr.io import parse_url
from ome_zarr.reader import Reader

from pathopatch.core.config import TileConfig, TissueConfig
from pathopatch.heatmaps.colors import HEAT_COLORS
from pathopatch.patches.tile import tile_slide
from pathopatch.slides import open_slide

pytestmark = pytest.mark.slow

WIDTH, HEIGHT = 4500, 181  # longer than an overview, whose pixels are then larger than the slide's, and not square
MPP, CELL_UM = 0.5, 8.0  # patches of 16 px side by side are the cells


def _bright():
    disc = made.disc_image(WIDTH, HEIGHT, (300, 90), 70, tissue=(170, 80, 140), glass=(240, 240, 240))
    return disc + np.random.default_rng(1).integers(0, 15, disc.shape).astype(np.uint8)


def _dark():
    mean = made.disc_image(WIDTH, HEIGHT, (300, 90), 70, tissue=(60, 60, 60), glass=(3, 3, 3))
    return np.random.default_rng(3).poisson(mean).astype(np.uint16)


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """A folder with `work` and `out`: a bright and a dark slide, tiled and predicted."""
    root = tmp_path_factory.mktemp("napari")
    plain = write_model(root / "plain")
    of_dark = {"channels": MODALITIES, "dtype": "uint16", "background": "dark"}
    dark = write_other_model(root / "dark-model", seed=2, like=plain, tissue=TissueConfig(background="dark"), **of_dark)
    made.write_rgb_pyramid(root / "bright.tif", _bright(), levels=1)
    (root / "dark").mkdir()
    sources = {"bright": root / "bright.tif", "dark": made.write_modalities(root / "dark", _dark(), MODALITIES)}
    for (slide_id, source), model in zip(sources.items(), (plain, dark), strict=True):
        predict(source, [model], root / "out", slide_id, outputs=("heatmap.ome.zarr",))
        config = TileConfig(patch_px=16, mpp=MPP, tissue=TissueConfig(background=slide_id))
        with open_slide(source) as slide:
            tile_slide(slide, config, root / "work", slide_id=slide_id)
    return root


class _Layer:
    """A layer as napari makes it of an OME-Zarr: it places the centres of pixels."""

    def __init__(self, shape, scale, name):
        self.name, self.shape, self.scale = name, np.array(shape[-2:]), np.array(scale[-2:])
        self.translate = np.zeros(2)  # where an image lies is left out, as by several versions of napari's plugin

    @property
    def extent(self):
        """(top, left), (bottom, right) in um."""
        corner = self.translate - self.scale / 2
        return np.array([corner, corner + self.scale * self.shape])


class _Viewer:
    """A viewer without a window that opens OME-Zarr images by the reader `ome-zarr`."""

    def __init__(self):
        self.layers = []

    def open(self, path, *, plugin):
        assert plugin == "napari-ome-zarr"
        nodes = [node for node in Reader(parse_url(path))() if node.data]
        scales = [node.metadata["coordinateTransformations"][0][0]["scale"] for node in nodes]
        opened = [
            _Layer(node.data[0].shape, scale, node.metadata["name"]) for node, scale in zip(nodes, scales, strict=True)
        ]
        self.layers += opened
        return opened


def _shown(folders, slide_id, monkeypatch):
    """Run the script of the page, and return its layers."""
    viewer = _Viewer()
    napari = SimpleNamespace(Viewer=lambda: viewer, run=lambda: None)
    utils = SimpleNamespace(Colormap=lambda colors, name: (colors, name))
    monkeypatch.setitem(sys.modules, "napari", napari)
    monkeypatch.setitem(sys.modules, "napari.utils", utils)
    monkeypatch.setattr(sys, "argv", ["show.py", str(folders / "work"), str(folders / "out"), slide_id])
    page = (Path(__file__).parents[2] / "docs" / "how-to" / "napari.md").read_text(encoding="utf-8")
    (script,) = re.findall(r"    ```python\n(.*?)    ```\n", page, flags=re.DOTALL)
    exec(compile(textwrap.dedent(script), "show.py", "exec"), {})
    return viewer.layers


@pytest.mark.parametrize("slide_id", ["bright", "dark"])
def test_the_map_begins_at_the_slides_corner_and_ends_within_a_cell(folders, slide_id, monkeypatch):
    slide, *labels, heatmap = _shown(folders, slide_id, monkeypatch)
    assert (slide.name, heatmap.name) == ("overview", slide_id)
    np.testing.assert_allclose(slide.extent, [[0, 0], [HEIGHT * MPP, WIDTH * MPP]], atol=1e-9)
    for label in labels:
        np.testing.assert_allclose(label.extent, slide.extent)
    np.testing.assert_allclose(heatmap.extent[0], slide.extent[0], atol=1e-9)
    overhang = heatmap.extent[1] - slide.extent[1]
    assert (overhang >= -1e-9).all()
    assert (overhang < CELL_UM).all()
    color = tuple(np.round(np.divide(HEAT_COLORS["bright"][1], 255), 2))  # of the overlay
    assert heatmap.colormap[0] == [(*color, 0), (*color, 1)]


@pytest.mark.parametrize("slide_id", ["bright", "dark"])
def test_the_maps_tissue_lies_on_that_of_the_overview(folders, slide_id):
    """Corner on corner, the centre of tissue in um is the same by the overview's label and by the map."""
    out = folders / "out" / "heatmaps" / slide_id / "heatmap.ome.zarr"
    label = zarr.open_array(folders / "work" / "slides" / f"{slide_id}.zarr" / "overview" / "labels" / "tissue" / "0")
    fraction = np.nan_to_num(zarr.open_array(out / "0")[1])
    centres = []
    for mask, um in (
        (label[:] > 0, np.array([HEIGHT, WIDTH]) * MPP / label.shape),
        (fraction, np.array([CELL_UM, CELL_UM])),
    ):
        rows, columns = np.indices(mask.shape) + 0.5
        centres.append(um * [(rows * mask).sum() / mask.sum(), (columns * mask).sum() / mask.sum()])
    np.testing.assert_allclose(*centres, atol=CELL_UM / 4)
