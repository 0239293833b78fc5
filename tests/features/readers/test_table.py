from pathlib import Path

import made_features
import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from payload import Touch
from pyarrow import parquet

from pathopatch.core.errors import CheckpointUnsafeError, InputCorruptError, InputMissingError, InputUnsupportedError
from pathopatch.features.readers import open_features


def test_a_file_without_ids_is_one_slide(tmp_path: Path) -> None:
    np.savez(tmp_path / "case 7.npz", features=made_features.vectors("A"))
    opened = open_features(tmp_path / "case 7.npz")
    assert opened.slide_ids == ("case_7",)
    assert opened.read("case_7").x is None


def test_rows_of_slides_may_be_mixed_and_known_columns_are_taken(tmp_path: Path) -> None:
    frame = made_features.table_columns()
    frame["features"] = [list(row) for slide_id in "AB" for row in made_features.vectors(slide_id)]
    frame["tissue_fraction"] = np.concatenate([made_features.TISSUE[slide_id] for slide_id in "AB"])
    frame["mpp"] = 0.25
    frame.iloc[[5, 0, 4, 1, 2, 3]].to_parquet(tmp_path / "all.parquet")
    slide = open_features(tmp_path).read("B")
    assert slide.mpp == 0.25
    np.testing.assert_array_equal(slide.tissue_fraction, made_features.TISSUE["B"][[1, 0]])
    np.testing.assert_array_equal(slide.features, made_features.vectors("B")[[1, 0]])
    np.testing.assert_array_equal(slide.x, made_features.XY["B"][[1, 0], 0])


def test_labels_beside_the_features_are_no_features(tmp_path: Path) -> None:
    made_features.arrays(tmp_path)
    (tmp_path / "labels.csv").write_text("slide_id,x,y,label\nA,0,0,1\n")
    pd.DataFrame({"slide_id": ["A"], "f0": [1.0], "f1": [2.0]}).to_parquet(tmp_path / "numbered.parquet")
    assert open_features(tmp_path).slide_ids == ("A", "B")
    for name in ("labels.csv", "numbered.parquet"):
        with pytest.raises(InputMissingError, match="npz or Parquet with features as lists"):
            open_features(tmp_path / name)


def test_lists_of_two_lengths_are_mixed_encoders(tmp_path: Path) -> None:
    pd.DataFrame({"slide_id": ["A", "A"], "features": [[1.0, 2.0], [1.0]]}).to_parquet(tmp_path / "a.parquet")
    with pytest.raises(InputUnsupportedError, match="have the lengths 1, 2"):
        open_features(tmp_path).read("A")


def test_two_sides_within_a_slide_are_refused(tmp_path: Path) -> None:
    sides = np.array([512, 512, 256, 256])
    np.savez(tmp_path / "A.npz", features=made_features.vectors("A"), side_px=sides)
    with pytest.raises(InputUnsupportedError, match=r"side_px of the slide A is 256\.0, 512\.0"):
        open_features(tmp_path).read("A")


def test_whole_numbers_are_no_features(tmp_path: Path) -> None:
    np.savez(tmp_path / "A.npz", features=np.arange(8).reshape(2, 4))
    with pytest.raises(InputUnsupportedError, match="features of the type int64"):
        open_features(tmp_path).read("A")


def test_a_row_without_its_list_is_refused(tmp_path: Path) -> None:
    pd.DataFrame({"features": [[1.0, 2.0], None]}).to_parquet(tmp_path / "A.parquet")
    with pytest.raises(InputUnsupportedError, match="have the lengths -1, 2"):
        open_features(tmp_path).read("A")


def test_lists_of_half_precision_stay_so(tmp_path: Path) -> None:
    values = made_features.vectors("A", dtype=np.float16)
    parquet.write_table(pa.table({"features": pa.array(list(values))}), tmp_path / "A.parquet")
    features = open_features(tmp_path).read("A").features
    assert features.dtype == np.float16
    np.testing.assert_array_equal(features, values)


@pytest.mark.parametrize("name", ["B.npz", "B.parquet"])
def test_a_damaged_table_is_named_and_not_left_out(tmp_path: Path, name: str) -> None:
    made_features.arrays(tmp_path)
    (tmp_path / "B.npz").unlink()
    (tmp_path / name).write_bytes(b"PK or PAR1, and no more")
    with pytest.raises(InputCorruptError, match=name):
        open_features(tmp_path)


@pytest.mark.parametrize("blank", ["", " ", None])
def test_a_row_without_its_slide_is_refused(tmp_path: Path, blank: str | None) -> None:
    frame = pd.DataFrame({"slide_id": ["A", blank], "features": [[1.0, 2.0], [3.0, 4.0]]})
    frame.to_parquet(tmp_path / "table.parquet")
    with pytest.raises(InputUnsupportedError, match="1 of 2 rows have no slide_id"):
        open_features(tmp_path)


@pytest.mark.parametrize("name", ["slide_id", "x", "coords"])
def test_arrays_that_are_shorter_than_the_features_are_refused(tmp_path: Path, name: str) -> None:
    values = {"slide_id": np.array(["A", "A"]), "x": np.arange(2), "coords": np.zeros((2, 2))}[name]
    np.savez(tmp_path / "A.npz", features=np.zeros((3, 4), np.float32), **{name: values})
    with pytest.raises(InputUnsupportedError, match=f"{name} of the shape .* for 3 patches"):
        open_features(tmp_path).read("A")


def test_pickled_arrays_are_not_run(tmp_path: Path) -> None:
    np.savez(tmp_path / "A.npz", features=np.array([[Touch(tmp_path / "ran")]], object))
    with pytest.raises(CheckpointUnsafeError, match=r"pickled.*nothing was run.*A\.npz"):
        open_features(tmp_path).read("A")
    assert not (tmp_path / "ran").exists()
