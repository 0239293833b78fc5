"""What each tool's files state and do not state."""

from pathlib import Path

import h5py
import made_features
import numpy as np
import pytest

from pathopatch.core.errors import InputMissingError, MppMissingError
from pathopatch.features.readers import open_features

NO_SIDE = "the side of a patch is unknown"


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


def test_half_precision_stays_as_it_is_stored(tmp_path: Path) -> None:
    folder = tmp_path / "features_uni"
    half = made_features.vectors("A", dtype=np.float16)
    made_features.trident_file(folder / "A.h5", half, made_features.XY["A"], name="A")
    assert open_features(folder).read("A").features.dtype == np.float16


@pytest.mark.parametrize("side", [0, "many"])
def test_a_file_without_a_side_leaves_it_unknown(tmp_path: Path, side: object) -> None:
    folder = made_features.trident(tmp_path)
    with h5py.File(folder / "A.h5", "r+") as file:
        file["coords"].attrs["patch_size_level0"] = side
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
    with pytest.raises(InputMissingError, match="no features of patches"):
        open_features(folder)


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
    assert slide.notes[-1].endswith(NO_SIDE)


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
    assert slide.notes[-1].endswith(NO_SIDE)


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
