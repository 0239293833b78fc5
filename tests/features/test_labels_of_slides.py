"""Labels of slides are read as a whole, and everything wrong in them is reported at once."""

from __future__ import annotations

from pathlib import Path

import pytest

from pathopatch.core.errors import TableError
from pathopatch.features.labels import are_of_slides, read_slide_labels


def write(folder: Path, text: str) -> Path:
    path = folder / "labels.csv"
    path.write_text(text, encoding="utf-8")
    return path


def problems(folder: Path, text: str) -> list[tuple[str, int | None, str]]:
    with pytest.raises(TableError) as caught:
        read_slide_labels(write(folder, text))
    return [(problem.code, problem.row, problem.column) for problem in caught.value.problems]


def test_labels_are_1_or_0_and_what_is_open_stays_open(tmp_path: Path) -> None:
    text = "slide_id,slide_label,site\ns1,1,a\ns2, 0,a\ns3,,b\n"
    table = read_slide_labels(write(tmp_path, text))
    assert table.to_dict("list") == {
        "slide_id": ["s1", "s2", "s3"],
        "patient_id": ["s1", "s2", "s3"],
        "split": ["", "", ""],
        "slide_label": [1, 0, -1],
    }
    text = "slide_id,slide_label,patient_id,split\ns1,1,p1,TEST\ns2,0,p1,test\n"
    table = read_slide_labels(write(tmp_path, text))
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
    assert are_of_slides(write(tmp_path, f"{header}\n")) is expected
