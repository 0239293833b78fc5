from pathlib import Path

import h5py
import made_features
import numpy as np

from pathopatch.features.readers import mussel, open_features


def test_the_native_mpp_is_that_of_level_0(tmp_path: Path) -> None:
    slide = open_features(made_features.mussel(tmp_path)).read("A")
    assert (slide.mpp, slide.side, slide.size_px) == (0.25, 512.0, made_features.SIZE_PX)


def test_a_default_mpp_is_not_known(tmp_path: Path) -> None:
    folder = made_features.mussel(tmp_path, native_mpp=0.5, mpp_is_fallback=True)
    assert open_features(folder).read("A").mpp is None


def test_half_a_micrometre_of_an_old_file_is_doubted(tmp_path: Path) -> None:
    folder = made_features.mussel(tmp_path, native_mpp=0.5)
    assert mussel.DEFAULT_MPP not in open_features(folder).read("A").notes
    with h5py.File(folder / "A.features.h5", "r+") as file:
        del file["coords"].attrs["mpp_is_fallback"]
    assert mussel.DEFAULT_MPP in open_features(folder).read("A").notes


def test_what_was_left_out_is_said(tmp_path: Path) -> None:
    notes = open_features(made_features.mussel(tmp_path, max_tiles=500)).read("A").notes
    assert "Mussel left out patches with less than 10% tissue" in notes
    assert mussel.LAST_ROWS in notes
    assert "Mussel drew at most 500 patches of each slide" in notes


def test_bfloat16_is_read_as_the_upper_half_of_float32(tmp_path: Path) -> None:
    exact = made_features.vectors("A")  # a few bits each: bfloat16 holds them
    halves = (exact.view(np.uint32) >> 16).astype(np.uint16).view("V2")
    folder = made_features.mussel(tmp_path, slides=("A",), features=halves)
    features = open_features(folder).read("A").features
    assert features.dtype == np.float32
    np.testing.assert_array_equal(features, exact)
