from pathlib import Path

import made_features
import numpy as np
import pytest
import zarr
from pyarrow import parquet

from pathopatch.core.errors import InputCorruptError, InputUnsupportedError
from pathopatch.features.readers import open_features


@pytest.mark.parametrize("zarr_format", [2, 3])
def test_stores_of_both_zarr_formats_are_read(tmp_path: Path, zarr_format: int) -> None:
    slide = open_features(made_features.lazyslide(tmp_path, zarr_format=zarr_format)).read("A")
    np.testing.assert_array_equal(slide.features, made_features.vectors("A"))
    assert (slide.mpp, slide.side, slide.encoder.name) == (0.5, 512.0, "uni")


def test_one_of_several_encoders_is_chosen_by_its_name(tmp_path: Path) -> None:
    folder = made_features.lazyslide(tmp_path, encoders=("uni", "conch"))
    with pytest.raises(InputUnsupportedError, match=r"2 sets of features: .*conch_tiles, .*uni_tiles"):
        open_features(folder)
    for name in ("uni", "uni_tiles"):
        assert open_features(folder / name).read("B").encoder.name == "uni"
    assert open_features(folder / "A.zarr" / "conch").slide_ids == ("A",)


def test_the_side_is_a_whole_number_of_pixels(tmp_path: Path) -> None:
    folder = made_features.lazyslide(tmp_path, slides=("A",))
    root = zarr.open_group(folder / "A.zarr", mode="r+")
    spec = {"tiles": root.attrs["tile_spec"]["tiles"] | {"width": 256, "base_downsample": 1.999}}
    root.attrs["tile_spec"] = spec
    assert open_features(folder).read("A").side == 511.0  # LazySlide cuts 511.74 to an integer


def test_dense_tokens_are_no_patches(tmp_path: Path) -> None:
    folder = made_features.lazyslide(tmp_path, slides=("A",))
    root = zarr.open_group(folder / "A.zarr", mode="r+")
    root.attrs["tile_spec"] = root.attrs["tile_spec"] | {"tiles_dense": {}}
    made_features.anndata_table(root, "tables/uni_tiles_dense", made_features.vectors("A"), np.arange(4))
    assert open_features(folder).read("A").encoder.name == "uni"


def test_a_row_without_its_polygon_is_refused(tmp_path: Path) -> None:
    folder = made_features.lazyslide(tmp_path, slides=("A",))
    root = zarr.open_group(folder / "A.zarr", mode="r+")
    root["tables/uni_tiles/obs/tile_id"][:] = np.array([0, 1, 2, 99])
    with pytest.raises(InputCorruptError, match="no polygon for each tile_id: 99"):
        open_features(folder).read("A")


def test_tiles_without_ids_are_numbered_by_their_rows(tmp_path: Path) -> None:
    folder = made_features.lazyslide(tmp_path, slides=("A",))
    path = folder / "A.zarr" / "shapes" / "tiles" / "shapes.parquet"
    reversed_boxes = parquet.read_table(path)
    parquet.write_table(reversed_boxes.drop_columns(["tile_id"]), path)
    slide = open_features(folder).read("A")
    np.testing.assert_array_equal(slide.x, made_features.XY["A"][::-1, 0])
