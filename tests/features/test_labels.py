"""Labels of patches and of slides: what the CSV may hold, and how they are joined to features."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from pathopatch.core.errors import InputMissingError, InputUnsupportedError, TableError
from pathopatch.features.labels import are_of_slides, join_labels, read_labels, read_slide_labels


def written(folder: Path, text: str) -> Path:
    path = folder / "labels.csv"
    path.write_text(text)
    return path


def patches(*keys: tuple[str, int, int]) -> pd.DataFrame:
    return pd.DataFrame(list(keys), columns=["slide_id", "x", "y"])


def test_labels_are_read_with_whole_pixels_and_the_slide_as_patient(tmp_path: Path) -> None:
    labels = read_labels(written(tmp_path, "slide_id,x,y,label\na,0,512.5,1\na,511.6,0,\nb,0,0,0\n"))
    assert labels["x"].tolist() == [0, 512, 0]
    assert labels["y"].tolist() == [513, 0, 0]
    assert labels["label"].tolist() == [1, -1, 0]
    assert labels["patient_id"].tolist() == ["a", "a", "b"]
    assert labels["tissue_fraction"].isna().all()


def test_an_attribute_is_taken_from_the_column_that_is_named(tmp_path: Path) -> None:
    path = written(tmp_path, "slide_id,x,y,label,scanner\na,0,0,1,GT450\na,9,0,0, AT2 \n")
    assert read_labels(path, attribute="scanner")["attribute"].tolist() == ["GT450", "AT2"]
    with pytest.raises(InputMissingError, match="no column 'site'.*scanner"):
        read_labels(path, attribute="site")


def test_labels_of_whole_slides_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputUnsupportedError, match="whole slides.*x and y"):
        read_labels(written(tmp_path, "slide_id,label\na,1\n"))


@pytest.mark.parametrize(
    ("rows", "expected"),
    [
        ("a,0,0,2,p,,\n", "label.*not a label"),
        ("a,zero,0,1,p,,\n", "x.*not a number"),
        ("a,1_0,0,1,p,,\n", "x.*not a number"),
        ("a,0,inf,1,p,,\n", "y.*not a number"),
        (",0,0,1,p,,\n", "slide_id.*no slide"),
        ("a,0,0,1,p,,\nb,9,0,0,,,\n", "row 3.*patient_id.*no patient"),
        ("a,0,0,1,p/q,,\n", "patient_id.*not an allowed id"),
        ("a,0,0,1,p,later,\n", "split.*not a split"),
        ("a,0,0,1,p,,0.0_5\n", r"tissue_fraction.*not in \[0, 1\]"),
        ("a,0,0,1,p,,1.5\n", r"tissue_fraction.*not in \[0, 1\]"),
        ("a,0,0,1,p,,0.5\na,9,0,1,p,,\n", r"row 3.*tissue_fraction.*not in \[0, 1\]"),
        ("a,0,0,1,p,,\na,0.4,0,0,p,,\n", "row 3.*the patch at 0, 0 is listed twice"),
        ("a,0,0,1,p,train,\nb,9,0,0,p,test,\n", "SPLIT_LEAKAGE.*train, test|SPLIT_LEAKAGE.*test, train"),
        ("a,0,0,1,p,,\nb,9,0,0,P,,\n", "may be one patient"),
        ("", "no rows"),
    ],
)
def test_problems_of_rows_are_named_with_row_and_column(tmp_path: Path, rows: str, expected: str) -> None:
    header = "slide_id,x,y,label,patient_id,split,tissue_fraction\n"
    with pytest.raises(TableError, match=f"(?s){expected}"):
        read_labels(written(tmp_path, header + rows))


def test_a_missing_column_is_named(tmp_path: Path) -> None:
    with pytest.raises(TableError, match="'y'.*the column is missing"):
        read_labels(written(tmp_path, "slide_id,x,label\na,0,1\n"))


def test_join_keeps_patches_without_a_label(tmp_path: Path) -> None:
    labels = read_labels(written(tmp_path, "slide_id,x,y,label,patient_id,split\na,0,0,1,p,val\n"))
    joined, notes = join_labels(patches(("a", 9, 0), ("a", 0, 0)), labels, place="labels.csv")
    assert joined["label"].tolist() == [-1, 1]
    assert joined["patient_id"].tolist() == ["p", "p"]
    assert joined["split"].tolist() == ["val", "val"]
    assert notes == ()


def test_the_label_of_a_slide_is_that_of_all_its_patches(tmp_path: Path) -> None:
    head = "slide_id,x,y,label,slide_label\n"
    labels = read_labels(written(tmp_path, head + "a,0,0,1,1\na,9,0,,1\nb,0,0,0,0\nc,0,0,0,\n"))
    places = patches(("a", 0, 0), ("a", 18, 0), ("b", 0, 0), ("c", 0, 0), ("d", 0, 0))
    joined, _ = join_labels(places, labels, place="labels.csv")
    assert joined["slide_label"].tolist() == [1, 1, 0, -1, -1]
    with pytest.raises(TableError, match="row 3.*slide_label.*the rows of the slide differ"):
        read_labels(written(tmp_path, head + "a,0,0,1,1\na,9,0,,0\n"))
    with pytest.raises(TableError, match="slide_label.*not a label"):
        read_labels(written(tmp_path, head + "a,0,0,1,tumor\n"))


def test_patients_in_one_slide_keep_their_patches_and_splits(tmp_path: Path) -> None:
    head = "slide_id,x,y,label,patient_id,split\n"
    rows = "a,0,0,1,p,train\na,9,0,0,q,test\nb,0,0,1,r,val\n"
    labels = read_labels(written(tmp_path, head + rows))
    unlabelled = ("a", 18, 0)
    joined, notes = join_labels(
        patches(("a", 9, 0), unlabelled, ("a", 0, 0), ("b", 0, 0), ("b", 9, 0)), labels, place="labels.csv"
    )
    assert joined["patient_id"].tolist() == ["q", "p", "r", "r"]
    assert joined["split"].tolist() == ["test", "train", "val", "val"]
    assert notes == (
        "1 slide of several patients: a",
        "1 patch of them left out: without a label the patient is not known",
    )


def test_join_says_what_does_not_match(tmp_path: Path) -> None:
    rows = "a,0,0,1\na,5,5,0\nc,0,0,1\n"
    labels = read_labels(written(tmp_path, f"slide_id,x,y,label\n{rows}"))
    joined, notes = join_labels(patches(("a", 0, 0), ("b", 0, 0)), labels, place="labels.csv")
    assert joined["patient_id"].tolist() == ["a", "b"]
    assert notes == (
        "labels of 1 slide without features: c",
        "1 slide without any label: b",
        "1 of 2 labels match no patch, such as a at 5, 5",
    )


@pytest.mark.parametrize("key", [("other", 0, 0), ("a", 1, 0)])
def test_labels_that_match_nothing_are_refused_with_examples(tmp_path: Path, key: tuple[str, int, int]) -> None:
    labels = read_labels(written(tmp_path, "slide_id,x,y,label\na,0,0,1\n"))
    with pytest.raises(InputMissingError, match=f"labels are of a at 0, 0; features are of {key[0]} at {key[1]}, 0"):
        join_labels(patches(key), labels, place="labels.csv")


def test_a_slide_none_of_whose_labels_match_is_refused(tmp_path: Path) -> None:
    labels = read_labels(written(tmp_path, "slide_id,x,y,label\na,0,0,1\nb,256,256,1\n"))
    with pytest.raises(
        InputMissingError, match="in 1 slide: b; labels are of b at 256, 256; features are of b at 0, 0"
    ):
        join_labels(patches(("a", 0, 0), ("b", 0, 0)), labels, place="labels.csv")


def test_a_large_file_is_read_in_seconds(tmp_path: Path) -> None:
    n = 20_000
    table = pd.DataFrame({"slide_id": "a", "x": np.arange(n), "y": 0, "label": 1})
    path = tmp_path / "labels.csv"
    table.to_csv(path, index=False)
    assert len(read_labels(path)) == n


def problems(folder: Path, text: str) -> list[tuple[str, int | None, str]]:
    with pytest.raises(TableError) as caught:
        read_slide_labels(written(folder, text))
    return [(problem.code, problem.row, problem.column) for problem in caught.value.problems]


def test_labels_are_1_or_0_and_what_is_open_stays_open(tmp_path: Path) -> None:
    text = "slide_id,slide_label,site\ns1,1,a\ns2, 0,a\ns3,,b\n"
    table = read_slide_labels(written(tmp_path, text))
    assert table.to_dict("list") == {
        "slide_id": ["s1", "s2", "s3"],
        "patient_id": ["s1", "s2", "s3"],
        "split": ["", "", ""],
        "slide_label": [1, 0, -1],
    }
    text = "slide_id,slide_label,patient_id,split\ns1,1,p1,TEST\ns2,0,p1,test\n"
    table = read_slide_labels(written(tmp_path, text))
    assert table["split"].tolist() == ["test", "test"]
    assert table["patient_id"].tolist() == ["p1", "p1"]


def test_every_problem_of_the_labels_is_listed(tmp_path: Path) -> None:
    head = "slide_id,slide_label,patient_id,split\n"
    rows = "s1,2,p1,train\ns1,1,p2,train\n,0,p3,val\ns4,0,,val\ns5,1,p5,none\ns6,1,p6,val\ns7,1,P6,test\n"
    assert problems(tmp_path, head + rows) == [
        ("INPUT_UNSUPPORTED", 2, "slide_label"),
        ("DUPLICATE_ID", 3, "slide_id"),
        ("INPUT_UNSUPPORTED", 4, "slide_id"),
        ("INPUT_UNSUPPORTED", 5, "patient_id"),
        ("INPUT_UNSUPPORTED", 6, "split"),
        ("SPLIT_LEAKAGE", 8, "patient_id"),
    ]


def test_a_file_without_rows_or_columns_is_refused(tmp_path: Path) -> None:
    assert problems(tmp_path, "slide_id,slide_label\n") == [("INPUT_MISSING", None, "slide_id")]
    assert problems(tmp_path, "slide_id,label\ns1,1\n") == [("INPUT_MISSING", None, "slide_label")]


@pytest.mark.parametrize(
    ("header", "expected"),
    [("slide_id,slide_label", True), ("slide_id,x,y,label,slide_label", False), ("slide_id,label", False)],
)
def test_labels_of_slides_are_those_without_positions(tmp_path: Path, header: str, *, expected: bool) -> None:
    assert are_of_slides(written(tmp_path, f"{header}\n")) is expected
