from pathlib import Path

import made_features
import numpy as np
import pytest

from pathopatch.core.errors import (
    DuplicateIdError,
    InputCorruptError,
    InputMissingError,
    InputUnsupportedError,
    NonFiniteError,
)
from pathopatch.features.readers import LAYOUTS, open_features


def test_two_tools_are_refused_with_both_names(tmp_path: Path) -> None:
    made_features.trident(tmp_path / "one", slides=("A",))
    made_features.stamp(tmp_path / "two", slides=("A",))
    with pytest.raises(InputUnsupportedError, match=r"2 layouts: trident: 1 files.*stamp: 1 files"):
        open_features(tmp_path)
    assert open_features(tmp_path, layout="stamp").read("A").unit == "um"


def test_two_encoders_are_refused_with_both_folders(tmp_path: Path) -> None:
    made_features.trident(tmp_path, encoder="uni_v1")
    made_features.trident(tmp_path, encoder="conch_v15")
    with pytest.raises(InputUnsupportedError, match=r"2 sets of features: .*features_conch_v15, .*features_uni_v1"):
        open_features(tmp_path)


@pytest.mark.parametrize(
    ("dim", "encoder", "problem"),
    [(8, "None", "dim is 8 for B, 6 for A"), (6, "uni_v2", "name is uni_v2 for B, uni_v1")],
)
def test_another_encoder_in_one_folder_is_refused(tmp_path: Path, dim: int, encoder: str, problem: str) -> None:
    folder = made_features.trident(tmp_path, slides=("A",))
    other = made_features.vectors("B", dim=dim)
    made_features.trident_file(folder / "B.h5", other, made_features.XY["B"], name="B", encoder=encoder)
    with pytest.raises(InputUnsupportedError, match=problem):
        open_features(folder).read("B")


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_rows_with_nan_or_infinity_are_named(tmp_path: Path, value: float) -> None:
    features = made_features.vectors("A")
    features[[1, 3], 2] = value
    folder = made_features.trident(tmp_path, slides=("A",), features=features)
    with pytest.raises(NonFiniteError, match=r"NaN or infinity among the features of A, in 2 of 4 rows: 1, 3 .*A\.h5"):
        open_features(folder).read("A")


def test_large_values_whose_sum_overflows_half_are_finite(tmp_path: Path) -> None:
    features = np.full((4, made_features.DIM), np.finfo(np.float16).max, np.float16)
    folder = made_features.trident(tmp_path, slides=("A",), features=features)
    np.testing.assert_array_equal(open_features(folder).read("A").features, features)


def test_patches_outside_the_slide_are_refused(tmp_path: Path) -> None:
    folder = made_features.trident(tmp_path, slides=("A",))
    xy = made_features.XY["A"].copy()
    xy[2] = (4095, 4095)  # which overhangs the slide
    made_features.trident_file(folder / "A.h5", made_features.vectors("A"), xy, name="A")
    assert open_features(folder).read("A").x[2] == 4095
    xy[2] = (4096, 0)  # the first column beyond
    made_features.trident_file(folder / "A.h5", made_features.vectors("A"), xy, name="A")
    with pytest.raises(InputCorruptError, match="outside the slide of 4096 x 4096 px of A, in 1 of 4 rows: 2"):
        open_features(folder).read("A")


def test_fewer_coordinates_than_features_are_refused(tmp_path: Path) -> None:
    folder = made_features.trident(tmp_path, slides=("A",))
    made_features.trident_file(folder / "A.h5", made_features.vectors("A"), made_features.XY["B"], name="A")
    with pytest.raises(InputCorruptError, match="4 features and 2 values of x"):
        open_features(folder).read("A")


def test_a_file_that_was_cut_off_is_named(tmp_path: Path) -> None:
    folder = made_features.trident(tmp_path)
    path = folder / "B.h5"
    path.write_bytes(path.read_bytes()[:-200])
    with pytest.raises(InputCorruptError, match=r"not a whole HDF5 file.*B\.h5"):
        open_features(folder)


def test_a_place_without_features_and_an_unknown_layout_are_refused(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").touch()
    with pytest.raises(InputMissingError, match=r"no features of patches.*trident, stamp, clam, table"):
        open_features(tmp_path)
    with pytest.raises(InputMissingError, match="no file or folder"):
        open_features(tmp_path / "no" / "such")
    with pytest.raises(InputUnsupportedError, match=r"no layout 'clamm'.*clam"):
        open_features(tmp_path, layout="clamm")


def test_one_slide_in_two_folders_is_refused(tmp_path: Path) -> None:
    folder = made_features.stamp(tmp_path, slides=("A",))
    path = next(folder.rglob("A.h5"))
    other = path.parent.parent / "more" / "A.h5"
    other.parent.mkdir()
    other.write_bytes(path.read_bytes())
    with pytest.raises(DuplicateIdError, match="two files of features of the slide A"):
        open_features(folder)
    other.rename(path.with_name("A.svs.h5"))  # which makes the same id
    with pytest.raises(DuplicateIdError, match="slide A"):
        open_features(folder)


def test_an_unknown_slide_is_refused_with_those_there(tmp_path: Path) -> None:
    with pytest.raises(InputMissingError, match="no features of the slide C.*there are A, B"):
        open_features(made_features.trident(tmp_path)).read("C")


def test_one_file_is_one_slide(tmp_path: Path) -> None:
    opened = open_features(made_features.trident(tmp_path) / "B.h5")
    assert opened.slide_ids == ("B",)


def test_without_h5py_the_message_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = made_features.trident(tmp_path)
    monkeypatch.setitem(__import__("sys").modules, "h5py", None)
    with pytest.raises(InputUnsupportedError, match="pip install 'h5py'"):
        open_features(folder)


def test_hidden_and_temporary_files_are_left_alone(tmp_path: Path) -> None:
    folder = made_features.trident(tmp_path)
    (folder / "._A.h5").write_bytes(b"of another system")
    for name in ("C.h5.tmp-0a1b2c3d-1-0a1b2c3d", "A.h5.lock", "C.h5.lock"):
        (folder / name).write_bytes(b"")
    assert open_features(folder).slide_ids == ("A", "B")


def test_every_layout_has_a_writer_in_the_contract() -> None:
    assert {layout for layout, _ in made_features.WRITERS.values()} == set(LAYOUTS)
