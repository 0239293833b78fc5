from pathlib import Path

import h5py
import made_features
import numpy as np

from pathopatch.features.readers import open_features


def test_a_magnification_bin_is_no_mpp(tmp_path: Path) -> None:
    slide = open_features(made_features.trident(tmp_path)).read("A")
    assert slide.mpp is None
    assert any("um/px of the scan is not in its files" in note for note in slide.notes)


def test_an_empty_slide_has_the_dimension_of_the_others(tmp_path: Path) -> None:
    folder = made_features.trident(tmp_path, slides=("B",))
    made_features.trident_file(folder / "A.h5", np.empty(0, np.float32), np.empty((0, 2), np.int64), name="A")
    empty = open_features(folder).read("A")
    assert empty.features.shape == (0, made_features.DIM)
    assert (len(empty.x), empty.encoder.dim) == (0, made_features.DIM)


def test_lock_files_are_no_slides(tmp_path: Path) -> None:
    folder = made_features.trident(tmp_path)
    (folder / "A.h5.lock").touch()
    (folder / "C.h5.lock").touch()
    assert open_features(folder).slide_ids == ("A", "B")


def test_the_encoder_is_named_by_the_file_or_else_the_folder(tmp_path: Path) -> None:
    folder = made_features.trident(tmp_path, encoder="uni_v1")  # its file says "None"
    assert open_features(folder).read("A").encoder.name == "uni_v1"
    made_features.trident_file(
        folder / "A.h5", made_features.vectors("A"), made_features.XY["A"], name="A", encoder="conch_v15"
    )
    assert open_features(folder / "A.h5").read("A").encoder.name == "conch_v15"


def test_features_of_whole_slides_are_no_features_of_patches(tmp_path: Path) -> None:
    folder = made_features.trident(tmp_path)
    whole = folder.parent / "slide_features_titan"
    made_features.trident_file(whole / "A.h5", np.ones(768, np.float32), made_features.XY["A"], name="A")
    assert open_features(tmp_path).read("A").encoder.dim == made_features.DIM


def test_of_a_tensor_and_a_file_with_coordinates_the_latter_is_read(tmp_path: Path) -> None:
    folder = made_features.trident(tmp_path)
    (folder / "A.pt").write_bytes(b"not even a tensor")
    opened = open_features(folder)
    assert opened.file("A") == folder / "A.h5"
    assert len(opened.read("A")) == 4


def test_a_tensor_takes_the_coordinates_of_its_patches(tmp_path: Path) -> None:
    import torch

    folder = made_features.trident(tmp_path)
    (folder / "A.h5").unlink()
    torch.save(torch.from_numpy(made_features.vectors("A")), folder / "A.pt")
    slide = open_features(folder).read("A")
    np.testing.assert_array_equal(slide.x, made_features.XY["A"][:, 0])
    assert slide.side == made_features.SIDE


def test_half_precision_stays_as_it_is_stored(tmp_path: Path) -> None:
    folder = tmp_path / "features_uni"
    half = made_features.vectors("A", dtype=np.float16)
    made_features.trident_file(folder / "A.h5", half, made_features.XY["A"], name="A")
    assert open_features(folder).read("A").features.dtype == np.float16


def test_bfloat16_is_read_as_the_upper_half_of_float32(tmp_path: Path) -> None:
    exact = made_features.vectors("A")  # a few bits each: bfloat16 holds them
    halves = (exact.view(np.uint32) >> 16).astype(np.uint16).view("V2")
    features = open_features(made_features.trident(tmp_path, slides=("A",), features=halves)).read("A").features
    assert features.dtype == np.float32
    np.testing.assert_array_equal(features, exact)


def test_a_file_without_a_side_leaves_it_unknown(tmp_path: Path) -> None:
    folder = made_features.trident(tmp_path)
    with h5py.File(folder / "A.h5", "r+") as file:
        file["coords"].attrs["patch_size_level0"] = 0
    assert open_features(folder / "A.h5").read("A").side is None
