"""napari shows a heatmap over the overview of the slide's store: where its OME-Zarr reader puts the two images."""

import made_slides as made
import numpy as np
import pytest
from made_model import write_model
from made_review import MODALITIES, predict, write_other_model
from ome_zarr.io import parse_url
from ome_zarr.reader import Reader

from pathopatch.core.config import TileConfig, TissueConfig
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
        predict(source, [model], root / "out", slide_id)
        config = TileConfig(patch_px=16, mpp=MPP, tissue=TissueConfig(background=slide_id))
        with open_slide(source) as slide:
            tile_slide(slide, config, root / "work", slide_id=slide_id)
    return root


def _extents(path):
    """Return (top, left, bottom, right) in um of each level that napari shows: it places the centres of pixels."""
    node = next(iter(Reader(parse_url(str(path)))()))
    extents = []
    for level, (scale, translation) in zip(node.data, node.metadata["coordinateTransformations"], strict=True):
        um, first = np.array(scale["scale"][-2:]), np.array(translation["translation"][-2:])
        corner = first - um / 2
        extents.append((*corner, *(corner + um * level.shape[-2:])))
    return np.array(extents)


@pytest.mark.parametrize("slide_id", ["bright", "dark"])
def test_the_map_begins_at_the_slides_corner_and_ends_within_a_cell(folders, slide_id):
    (slide, *_), (heatmap, *_) = (
        _extents(folders / "work" / "slides" / f"{slide_id}.zarr" / "overview"),
        _extents(folders / "out" / "heatmaps" / slide_id / "heatmap.ome.zarr"),
    )
    np.testing.assert_allclose(slide[2:] - slide[:2], [HEIGHT * MPP, WIDTH * MPP])
    np.testing.assert_allclose(heatmap[:2], slide[:2], atol=1e-6)
    overhang = heatmap[2:] - slide[2:]
    assert (overhang >= -1e-6).all()
    assert (overhang < CELL_UM).all()


@pytest.mark.parametrize("slide_id", ["bright", "dark"])
def test_tissue_lies_under_the_cells_that_have_some(folders, slide_id):
    """The centre of tissue in um is the same by the overview's label and by the map's tissue fraction."""
    overview = folders / "work" / "slides" / f"{slide_id}.zarr" / "overview"
    heatmap = folders / "out" / "heatmaps" / slide_id / "heatmap.ome.zarr"
    centres = []
    for path, mask_of in (
        (overview / "labels" / "tissue", lambda levels: np.asarray(levels[0]).squeeze()),
        (heatmap, lambda levels: np.nan_to_num(np.asarray(levels[0])[1])),
    ):
        node = next(iter(Reader(parse_url(str(path)))()))
        mask = mask_of(node.data).astype(np.float64)
        scale, translation = node.metadata["coordinateTransformations"][0]
        centre = [(np.arange(n) * mask.sum(axis=1 - axis)).sum() / mask.sum() for axis, n in enumerate(mask.shape)]
        centres.append(np.array(centre) * scale["scale"][-2:] + translation["translation"][-2:])
    np.testing.assert_allclose(*centres, atol=CELL_UM / 4)
