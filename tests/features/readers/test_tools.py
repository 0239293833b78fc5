"""What each tool's files state and do not state."""

import json
from pathlib import Path

import h5py
import made_features
import numpy as np
import pytest
import torch
from payload import Touch

from pathopatch.core.errors import (
    CheckpointUnsafeError,
    InputCorruptError,
    InputMissingError,
    InputUnsupportedError,
    MppMissingError,
)
from pathopatch.features.readers import open_features, tools


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
    folder = made_features.trident(tmp_path)
    (folder / "A.h5").unlink()
    torch.save(torch.from_numpy(made_features.vectors("A")), folder / "A.pt")
    slide = open_features(folder).read("A")
    np.testing.assert_array_equal(slide.x, made_features.XY["A"][:, 0])
    assert slide.side == made_features.SIDE
    with h5py.File(folder.parent / "patches" / "A_patches.h5", "r+") as file:
        del file["coords"]
    with pytest.raises(InputCorruptError, match="4 features and 0 values of x"):
        open_features(folder).read("A")


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


def test_coordinates_are_micrometres_until_um_per_px_is_known(tmp_path: Path) -> None:
    slide = open_features(made_features.stamp(tmp_path)).read("A")
    assert (slide.unit, slide.side, slide.x.max()) == ("um", 256.0, 512.0)
    with pytest.raises(MppMissingError, match="micrometres"):
        slide.in_level0_px()
    at_quarter = slide.in_level0_px(0.25)
    assert (at_quarter.unit, at_quarter.side, at_quarter.x.max()) == ("px", 1024.0, 2048.0)


@pytest.mark.parametrize("order", [-1, 1])
def test_rows_come_in_one_order_however_threads_ended(tmp_path: Path, order: int) -> None:
    slide = open_features(made_features.stamp(tmp_path, order=order)).read("A")
    np.testing.assert_array_equal(slide.features, made_features.vectors("A"))


def test_version_2_0_names_the_size_without_its_unit(tmp_path: Path) -> None:
    folder = made_features.stamp(tmp_path, slides=("A",))
    _forget(folder, "tile_size_um")
    with h5py.File(next(folder.rglob("A.h5")), "r+") as file:
        file.attrs["tile_size"] = 300.0
    assert open_features(folder).read("A").side == 300.0


def test_coordinates_without_a_unit_are_not_guessed(tmp_path: Path) -> None:
    folder = made_features.stamp(tmp_path, slides=("A",))
    _forget(folder, "tile_size_um", "unit")
    with pytest.raises(InputUnsupportedError, match="no unit"):
        open_features(folder).read("A")


def test_a_newer_version_is_read(tmp_path: Path) -> None:
    assert len(open_features(made_features.stamp(tmp_path, stamp_version="9.0.0")).read("A")) == 4


@pytest.mark.parametrize("kind", ["slide", "patient"])
def test_features_of_slides_and_patients_are_no_patches(tmp_path: Path, kind: str) -> None:
    folder = made_features.stamp(tmp_path)
    path = folder / "titan-slide" / "A.h5"
    path.parent.mkdir()
    with h5py.File(path, "w") as file:
        file["feats"] = np.ones((1, 768), np.float16)
        file["coords"] = np.zeros((1, 2), np.float32)
        file.attrs.update({"feat_type": kind, "encoder": "titan"})
    assert open_features(folder).file("A").parent.name == "cohort"


def _forget(folder: Path, *names: str) -> None:
    for path in folder.rglob("*.h5"):
        with h5py.File(path, "r+") as file:
            for name in names:
                del file.attrs[name]


def test_without_the_patches_the_side_is_unknown_and_said_so(tmp_path: Path) -> None:
    slide = open_features(made_features.clam(tmp_path, patches=False)).read("A")
    assert slide.side is None
    assert slide.x.dtype == np.float64  # int32 in the file
    assert tools.CLAM_NO_PATCHES in slide.notes


def test_of_several_sizes_the_patches_with_these_corners_count(tmp_path: Path) -> None:
    folder = made_features.clam(tmp_path)
    other = made_features.XY["A"] // 2
    made_features.clam_patches(folder.parent / "patches" / "A.h5", other, patch_px=128)
    made_features.clam_patches(tmp_path / "run2" / "patches" / "A.h5", made_features.XY["A"], patch_px=64)
    assert open_features(folder).read("A").side == 64 * 2


def test_of_two_sizes_with_the_same_corners_none_is_chosen(tmp_path: Path) -> None:
    folder = made_features.clam(tmp_path)
    made_features.clam_patches(tmp_path / "run2" / "patches" / "A.h5", made_features.XY["A"], patch_px=64)
    slide = open_features(folder).read("A")
    assert slide.side is None
    assert tools.CLAM_NO_PATCHES in slide.notes


def test_the_side_counts_pixels_of_its_level(tmp_path: Path) -> None:
    folder = made_features.clam(tmp_path)
    made_features.clam_patches(tmp_path / "patches" / "A.h5", made_features.XY["A"], patch_px=100, custom_downsample=2)
    assert open_features(folder).read("A").side == 100 * 2 * 2


def test_the_id_ends_before_the_ending_of_the_slide_and_keeps_other_dots(tmp_path: Path) -> None:
    folder = made_features.clam(tmp_path, slides=("A",))
    path = folder / "h5_files" / "A.h5"
    path = path.rename(path.with_name("A.svs.h5"))
    assert open_features(folder).read("A").side == made_features.SIDE  # found as patches/A.h5
    path.rename(path.with_name("TCGA-02-0001-01Z.5f2e-11.h5"))
    assert open_features(folder).slide_ids == ("TCGA-02-0001-01Z.5f2e-11",)


def test_both_halves_are_one_slide_and_no_torch_is_needed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made_features.clam_tensors(tmp_path)
    folder = made_features.clam(tmp_path)
    monkeypatch.setitem(__import__("sys").modules, "torch", None)
    assert len(open_features(folder).read("A")) == 4


def test_tensors_without_patches_have_no_coordinates(tmp_path: Path) -> None:
    folder = made_features.clam_tensors(tmp_path)
    (tmp_path / "patches" / "A.h5").unlink()
    slide = open_features(folder).read("A")
    assert slide.x is None
    assert tools.CLAM_NO_COORDINATES in slide.notes


def test_without_torch_tensors_are_refused_with_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = made_features.clam_tensors(tmp_path)
    monkeypatch.setitem(__import__("sys").modules, "torch", None)
    with pytest.raises(InputUnsupportedError, match="pip install torch"):
        open_features(folder).read("A")


def test_a_pickle_in_place_of_a_tensor_is_not_run(tmp_path: Path) -> None:
    folder = made_features.clam_tensors(tmp_path)
    path = folder / "pt_files" / "A.pt"
    torch.save(Touch(tmp_path / "ran"), path)
    with pytest.raises(CheckpointUnsafeError, match=r"nothing was run.*A\.pt"):
        open_features(folder).read("A")
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("kind", ["pt", "npz"])
def test_tissue_fractions_and_mpp_are_taken_from_hs2p(tmp_path: Path, kind: str) -> None:
    slide = open_features(made_features.slide2vec(tmp_path, kind=kind)).read("A")
    np.testing.assert_array_equal(slide.tissue_fraction, made_features.TISSUE["A"])
    assert (slide.mpp, slide.size_px) == (made_features.MPP, made_features.SIZE_PX)
    assert (slide.encoder.name, slide.encoder.input_px) == ("uni2", 224)


def test_what_hs2p_left_out_is_said_and_a_threshold_of_0_is_known(tmp_path: Path) -> None:
    folder = made_features.slide2vec(tmp_path)
    assert open_features(folder).read("A").notes == ("hs2p left out tiles with less than 1 % tissue",)
    for path in (folder / "tiles").glob("*.meta.json"):
        about = json.loads(path.read_text())
        path.write_text(json.dumps({**about, "tiling": {**about["tiling"], "min_tissue_fraction": 0}}))
    assert open_features(folder).read("A").notes == ("hs2p left out no tiles for having little tissue",)


def test_coordinates_are_found_where_the_folders_were_moved(tmp_path: Path) -> None:
    slide = open_features(made_features.slide2vec(tmp_path, moved=True)).read("A")
    np.testing.assert_array_equal(slide.x, made_features.XY["A"][:, 0])


def test_missing_coordinates_are_named(tmp_path: Path) -> None:
    folder = made_features.slide2vec(tmp_path)
    (folder / "tiles" / "A.coordinates.npz").unlink()
    with pytest.raises(InputMissingError, match=r"no coordinates of the slide A.*copy the folder tiles"):
        open_features(folder).read("A")


def test_rows_are_joined_by_their_tile_index(tmp_path: Path) -> None:
    folder = made_features.slide2vec(tmp_path, kind="npz")
    features = made_features.vectors("A", dtype=np.float16)[[2, 0]]
    np.savez(folder / "tile_embeddings" / "A.npz", features=features, tile_index=np.array([2, 0], np.int32))
    slide = open_features(folder).read("A")
    np.testing.assert_array_equal(slide.y, made_features.XY["A"][[2, 0], 1])
    np.testing.assert_array_equal(slide.tissue_fraction, made_features.TISSUE["A"][[2, 0]])


def test_tile_numbers_are_those_of_hs2p_not_its_rows(tmp_path: Path) -> None:
    folder = made_features.slide2vec(tmp_path, kind="npz")
    npz = folder / "tiles" / "A.coordinates.npz"
    with np.load(npz) as arrays:
        tiles = {name: values[[3, 1, 0]] for name, values in arrays.items()}
    np.savez(npz, **tiles)
    features = made_features.vectors("A", dtype=np.float16)[[0, 3]]
    np.savez(folder / "tile_embeddings" / "A.npz", features=features, tile_index=np.array([0, 3], np.int32))
    np.testing.assert_array_equal(open_features(folder).read("A").x, made_features.XY["A"][[0, 3], 0])
    np.savez(folder / "tile_embeddings" / "A.npz", features=features, tile_index=np.array([0, 2], np.int32))
    with pytest.raises(InputCorruptError, match="1 of 2 tiles are not among hs2p's coordinates"):
        open_features(folder).read("A")


def test_two_annotations_of_a_slide_are_two_sets(tmp_path: Path) -> None:
    folder = made_features.slide2vec(tmp_path, slides=("A",))
    place = folder / "tile_embeddings"
    for name in ("tumour", "stroma"):
        (place / name).mkdir()
        for path in place.glob("A.*"):
            (place / name / path.name).write_bytes(path.read_bytes())
    for path in place.glob("A.*"):
        path.unlink()
    with pytest.raises(InputUnsupportedError, match=r"2 sets of features: .*stroma, .*tumour"):
        open_features(folder)
    assert open_features(place / "tumour").slide_ids == ("A",)


def test_embeddings_of_whole_slides_are_left_alone(tmp_path: Path) -> None:
    folder = made_features.slide2vec(tmp_path)
    (folder / "slide_embeddings").mkdir()
    (folder / "slide_embeddings" / "A.pt").write_bytes(b"")
    (folder / "slide_embeddings" / "A.meta.json").write_text(json.dumps({"artifact_type": "slide_embeddings"}))
    assert open_features(folder).slide_ids == ("A", "B")


def test_pickled_arrays_are_not_run(tmp_path: Path) -> None:
    folder = made_features.slide2vec(tmp_path)
    np.savez(folder / "tiles" / "A.coordinates.npz", x=np.array([{}], object), y=np.zeros(1))
    with pytest.raises(CheckpointUnsafeError, match="pickled"):
        open_features(folder).read("A")


def test_the_fraction_of_an_annotated_class_is_no_tissue(tmp_path: Path) -> None:
    folder = made_features.slide2vec(tmp_path)
    about = folder / "tiles" / "A.coordinates.meta.json"
    sections = json.loads(about.read_text())
    sections["artifact"]["annotation"] = "tumour"
    about.write_text(json.dumps(sections))
    slide = open_features(folder).read("A")
    assert slide.tissue_fraction is None
    assert slide.notes[1] == "hs2p's fractions are those of the class tumour, not of tissue"
    sections["artifact"]["annotation"] = "tissue"
    about.write_text(json.dumps(sections))
    assert open_features(folder).read("A").tissue_fraction is not None


def test_a_slide_without_tiles_is_of_the_encoder_of_the_others(tmp_path: Path) -> None:
    folder = made_features.slide2vec(tmp_path, kind="npz")
    np.savez(folder / "tile_embeddings" / "A.npz", features=np.empty((0, made_features.DIM), np.float16))
    none = np.empty(0)
    np.savez(folder / "tiles" / "A.coordinates.npz", x=none, y=none, tissue_fractions=none)
    path = folder / "tile_embeddings" / "A.meta.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"encoder_input_size_px": None, "num_tiles": 0}))
    opened = open_features(folder)
    assert (len(opened.read("A")), opened.read("A").encoder) == (0, opened.read("B").encoder)
