import time
from dataclasses import replace
from pathlib import Path

import h5py
import made_features
import numpy as np
import pytest

from pathopatch.core.errors import InputUnsupportedError, NonFiniteError
from pathopatch.features.readers import open_features
from pathopatch.features.readers.pathopatch_h5 import write_slide_features
from pathopatch.features.slide_features import Encoder, SlideFeatures

ENCODER = Encoder(dim=6, name="uni", pooling="cls", input_px=224, mean=(0.5, 0.5, 0.5), std=(0.25, 0.25, 0.25))


def a_slide(path: Path) -> SlideFeatures:
    x, y = made_features.XY["A"].T.astype(np.float64)
    return SlideFeatures(
        slide_id="A", features=made_features.vectors("A", dtype=np.float16), encoder=ENCODER, path=path, x=x, y=y,
        side=512.0, mpp=0.25, tissue_fraction=made_features.TISSUE["A"], size_px=(4096, 4096), notes=("one",),
    )  # fmt: skip


def test_what_is_written_is_read_again(tmp_path: Path) -> None:
    path = tmp_path / "uni" / "A.h5"
    written = a_slide(path)
    write_slide_features(path, written, {"stage": "encode"})
    read = open_features(tmp_path).read("A")
    assert read.features.dtype == np.float16
    for name in ("features", "x", "y", "tissue_fraction"):
        np.testing.assert_array_equal(getattr(read, name), getattr(written, name))
    for name in ("encoder", "side", "mpp", "size_px", "notes"):
        assert getattr(read, name) == getattr(written, name)


def test_equal_features_give_equal_bytes_at_any_time(tmp_path: Path) -> None:
    first, second = tmp_path / "1.h5", tmp_path / "2.h5"
    write_slide_features(first, a_slide(first), {"stage": "encode"})
    time.sleep(1.1)  # HDF5 counts seconds
    write_slide_features(second, a_slide(second), {"stage": "encode"})
    assert first.read_bytes() == second.read_bytes()


def test_a_slide_without_patches_keeps_its_dimension(tmp_path: Path) -> None:
    path = tmp_path / "A.h5"
    none = np.empty(0)
    empty = replace(a_slide(path), features=np.empty((0, 6), np.float16), x=none, y=none, tissue_fraction=none)
    write_slide_features(path, empty, {})
    assert open_features(path).read("A").features.shape == (0, 6)


def test_a_reader_of_trident_finds_its_attributes(tmp_path: Path) -> None:
    path = tmp_path / "A.h5"
    write_slide_features(path, a_slide(path), {}, patch_px=256)
    with h5py.File(path) as file:
        known = dict(file["coords"].attrs)
    expected = {"patch_size": 256, "patch_size_level0": 512, "level0_magnification": 40, "target_magnification": 20}
    assert {name: known[name] for name in expected} == expected


def test_features_with_nan_are_not_written(tmp_path: Path) -> None:
    path = tmp_path / "A.h5"
    slide = a_slide(path)
    slide.features[2, 1] = np.nan
    with pytest.raises(NonFiniteError, match="in 1 of 4 rows: 2"):
        write_slide_features(path, slide, {})
    assert not path.exists()


def test_micrometres_are_not_written_as_pixels(tmp_path: Path) -> None:
    with pytest.raises(InputUnsupportedError, match="no place in level-0 pixels"):
        write_slide_features(tmp_path / "A.h5", replace(a_slide(tmp_path), unit="um"), {})


def test_another_pooling_under_one_name_is_another_folder() -> None:
    assert ENCODER.key != replace(ENCODER, pooling="mean").key
    assert ENCODER.key == replace(ENCODER).key
    assert replace(ENCODER, name="hf-hub:a/b c").key.startswith("hf-hub_a_b_c-")


def test_an_id_that_ends_like_a_slide_file_stays(tmp_path: Path) -> None:
    path = tmp_path / "A.svs.h5"
    write_slide_features(path, a_slide(path), {})
    assert open_features(path).slide_ids == ("A.svs",)
