"""A manifest is read as a whole, and everything wrong in it is reported at once. Its parts name the same slides."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pathopatch.core.errors import InputMissingError, TableError
from pathopatch.slides.manifest import Manifest, read_manifest, write_rows
from pathopatch.slides.slide_paths import Fragment, slide_id_from_path, split_fragment, valid_slide_id


def write(folder: Path, text: str) -> Path:
    """A manifest, and the files a.tif to f.tif, each of other content, beside it."""
    for name in "abcdef":
        (folder / f"{name}.tif").write_bytes(name.encode() * 10)
    path = folder / "cohort.csv"
    path.write_text(text, encoding="utf-8")
    return path


def read(folder: Path, text: str) -> Manifest:
    return read_manifest(write(folder, text))


def problems(folder: Path, text: str) -> list[tuple[str, int | None, str]]:
    """(code, row, column) of every problem."""
    with pytest.raises(TableError) as caught:
        read(folder, text)
    assert "cohort.csv" in str(caught.value)
    assert all(problem.remedy for problem in caught.value.problems)
    return [(problem.code, problem.row, problem.column) for problem in caught.value.problems]


def test_a_row_becomes_a_slide_with_absolute_paths(tmp_path: Path) -> None:
    (row,) = read(
        tmp_path,
        "slide_id,patient_id,split,path,channels,mpp,tumor_mask,labelled_mask,annotations,tissue_mask,background,exclude\n"
        "s1,p1,train,a.tif#page=2,CARS; TPEF;SHG,0.5,b.tif,c.tif,,e.tif,dark,\n",
    )
    assert (row.slide_id, row.patient_id, row.split, row.row) == ("s1", "p1", "train", 2)
    assert row.source == f"{tmp_path / 'a.tif'}#page=2"
    assert row.channels == ("CARS", "TPEF", "SHG")
    assert row.mpp == 0.5
    assert row.tumor_mask == tmp_path / "b.tif"
    assert (row.labelled_mask, row.annotations) == (tmp_path / "c.tif", None)
    assert row.tissue_mask == tmp_path / "e.tif"
    assert (row.background, row.exclude, row.whole_slide) == ("dark", False, None)


def test_annotations_are_geojson_or_xml_and_stand_without_a_tumour_mask(tmp_path: Path) -> None:
    for name in ("a.geojson.gz", "b.xml"):
        (tmp_path / name).write_text("")
    head = "slide_id,patient_id,path,tumor_mask,annotations\n"
    rows = read(tmp_path, head + "s1,p1,a.tif,,a.geojson.gz\ns2,p2,b.tif,,b.xml\n").rows
    assert [row.annotations for row in rows] == [tmp_path / "a.geojson.gz", tmp_path / "b.xml"]
    assert all(row.has_tumor for row in rows)
    wrong = problems(tmp_path, head + "s1,p1,a.tif,,c.tif\ns2,p2,b.tif,none,b.xml\n")
    assert wrong == [("INPUT_UNSUPPORTED", 2, "annotations"), ("INPUT_UNSUPPORTED", 3, "annotations")]


def test_the_label_of_a_whole_slide_is_0_or_1_or_nothing(tmp_path: Path) -> None:
    head = "slide_id,patient_id,path,slide_label\n"
    rows = read(tmp_path, head + "s1,p1,a.tif,0\ns2,p2,b.tif, 1\ns3,p3,c.tif,\n").rows
    assert [row.slide_label for row in rows] == [0, 1, None]
    wrong = problems(tmp_path, head + "s1,p1,a.tif,2\ns2,p2,b.tif,tumor\n")
    assert wrong == [("INPUT_UNSUPPORTED", 2, "slide_label"), ("INPUT_UNSUPPORTED", 3, "slide_label")]


def test_a_block_may_be_any_text_and_is_written_again(tmp_path: Path) -> None:
    rows = read(tmp_path, "slide_id,patient_id,block,path\ns1,p1,2020/01/02,a.tif\ns2,p2,2020/01/02,b.tif\n")
    assert [row.block for row in rows] == ["2020/01/02"] * 2
    write_rows(tmp_path / "again.csv", rows.included)
    assert [row.block for row in read_manifest(tmp_path / "again.csv")] == ["2020/01/02"] * 2


def test_a_split_that_divides_a_block_and_a_missing_block_are_problems(tmp_path: Path) -> None:
    head = "slide_id,patient_id,block,split,path\n"
    text = "s1,p1,A 1,train,a.tif\ns2,p2,a1,test,b.tif\ns3,p3,,train,c.tif\n"
    assert problems(tmp_path, head + text) == [("SPLIT_LEAKAGE", 3, "block"), ("INPUT_MISSING", 4, "block")]


def test_one_file_a_channel_in_the_order_of_the_columns(tmp_path: Path) -> None:
    (row,) = read(tmp_path, "slide_id,patient_id,path:SHG,path:CARS\ns1,p1,a.tif#plane=1,b.tif\n")
    assert row.source == {"SHG": f"{tmp_path / 'a.tif'}#plane=1", "CARS": str(tmp_path / "b.tif")}
    assert list(row.source) == ["SHG", "CARS"]


def test_rows_by_file_and_by_channel_may_be_mixed(tmp_path: Path) -> None:
    rows = read(tmp_path, "slide_id,patient_id,path,path:SHG,path:CARS\ns1,p1,a.tif,,\ns2,p2,,b.tif,c.tif\n").rows
    assert isinstance(rows[0].source, str)
    assert isinstance(rows[1].source, dict)
    assert problems(tmp_path, "slide_id,patient_id,path,path:SHG,path:CARS\ns1,p1,a.tif,b.tif,\n") == [
        ("INPUT_UNSUPPORTED", 2, "path")
    ]


def test_a_word_says_that_all_of_a_slide_or_none_is_tumour(tmp_path: Path) -> None:
    rows = read(tmp_path, "slide_id,patient_id,path,tumor_mask\ns1,p1,a.tif,none\ns2,p2,b.tif,\ns3,p3,c.tif,All\n").rows
    assert [(row.tumor_mask, row.whole_slide) for row in rows] == [(None, "none"), (None, None), (None, "all")]
    assert [row.has_tumor for row in rows] == [True, False, True]


def test_variables_are_replaced_and_an_undefined_one_is_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SLIDES_HERE", str(tmp_path))
    (row,) = read(tmp_path, "slide_id,patient_id,path\ns1,p1,${SLIDES_HERE}/a.tif\n")
    assert row.source == str(tmp_path / "a.tif")
    monkeypatch.delenv("SLIDES_HERE")
    with pytest.raises(TableError, match="does not define SLIDES_HERE"):
        read(tmp_path, "slide_id,patient_id,path\ns1,p1,${SLIDES_HERE}/a.tif\n")


def test_an_excluded_row_is_checked_and_kept_apart(tmp_path: Path) -> None:
    text = "slide_id,patient_id,path,exclude\ns1,p1,a.tif,\ns2,p2,b.tif,yes\n"
    manifest = read(tmp_path, text)
    assert [row.exclude for row in manifest] == [False, True]
    assert [row.slide_id for row in manifest.included] == ["s1"]
    assert problems(tmp_path, text.replace("b.tif", "nowhere.tif")) == [("INPUT_MISSING", 3, "path")]


def test_excluding_a_copy_resolves_the_conflict(tmp_path: Path) -> None:
    text = "slide_id,patient_id,split,path,exclude\ns1,p1,train,a.tif,\ns2,p1,test,copy.tif,{}\n"
    (tmp_path / "copy.tif").write_bytes(b"a" * 10)
    assert {code for code, _, _ in problems(tmp_path, text.format(""))} == {"SPLIT_LEAKAGE"}
    assert len(read(tmp_path, text.format("1")).included) == 1


def test_all_problems_of_a_manifest_are_listed_at_once(tmp_path: Path) -> None:
    listed = problems(
        tmp_path,
        "slide_id,patient_id,split,path,mpp,tumor_mask,background,exclude,colour\n"
        "../x,p1,train,a.tif,0,,,,\n"
        "s2,p2,holdout,gone.tif,0.5,gone.png,grey,perhaps,\n"
        "s3,,test,c.tif,nan,,,,\n"
        "s4,p4,test\n"
        "s5,p5,test,,fine,,,,\n",
    )
    assert listed == [
        ("INPUT_UNSUPPORTED", None, "colour"),
        ("INPUT_UNSUPPORTED", 2, "slide_id"),
        ("MPP_MISSING", 2, "mpp"),
        ("INPUT_UNSUPPORTED", 3, "split"),
        ("INPUT_MISSING", 3, "path"),
        ("INPUT_MISSING", 3, "tumor_mask"),
        ("INPUT_UNSUPPORTED", 3, "background"),
        ("INPUT_UNSUPPORTED", 3, "exclude"),
        ("INPUT_UNSUPPORTED", 4, "patient_id"),
        ("MPP_MISSING", 4, "mpp"),
        ("INPUT_CORRUPT", 5, ""),
        ("INPUT_MISSING", 6, "path"),
        ("MPP_MISSING", 6, "mpp"),
    ]


@pytest.mark.parametrize("text", ["1_0", "0.2_5", "0.25um"])
def test_an_mpp_that_only_python_takes_for_a_number_is_refused(tmp_path: Path, text: str) -> None:
    listed = problems(tmp_path, f"slide_id,patient_id,path,mpp\ns1,p1,a.tif,{text}\n")
    assert listed == [("MPP_MISSING", 2, "mpp")]


def test_one_content_in_one_channel_of_two_slides_is_refused_once(tmp_path: Path) -> None:
    text = "slide_id,patient_id,path:SHG,path:CARS\ns1,p1,a.tif,b.tif\ns2,p2,a.tif,b.tif\n"
    assert [code for code, _, _ in problems(tmp_path, text)] == ["DUPLICATE_ID"]


def test_channel_names_that_contradict_the_files_are_refused(tmp_path: Path) -> None:
    text = "slide_id,patient_id,path:SHG,path:CARS,channels\ns1,p1,a.tif,b.tif,{}\n"
    assert problems(tmp_path, text.format("CARS;TPEF")) == [("CHANNEL_MISMATCH", 2, "channels")]
    assert problems(tmp_path, text.format("CARS;SHG;cars")) == [("CHANNEL_MISMATCH", 2, "channels")] * 2


def test_channels_of_files_are_named_in_any_order_and_case(tmp_path: Path) -> None:
    (row,) = read(tmp_path, "slide_id,patient_id,path:SHG,path: cars,channels\ns1,p1,a.tif,b.tif,CARS; shg\n")
    assert isinstance(row.source, dict)
    assert list(row.source) == ["SHG", "cars"]
    assert row.channels is None


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("slide_id,patient_id,path\n", [("INPUT_MISSING", None, "slide_id")]),
        ("slide_id,path\ns1,a.tif\n", [("INPUT_MISSING", None, "patient_id")]),
        ("slide_id,patient_id\ns1,p1\n", [("INPUT_MISSING", None, "path"), ("INPUT_MISSING", 2, "path")]),
        ("slide_id,patient_id,path:SHG,path:CARS\ns1,p1,a.tif,\n", [("INPUT_MISSING", 2, "path:CARS")]),
        ("slide_id,patient_id,path:SHG,path:shg\ns1,p1,a.tif,b.tif\n", [("CHANNEL_MISMATCH", None, "path:shg")]),
    ],
)
def test_a_table_of_the_wrong_shape_is_refused(
    text: str, expected: list[tuple[str, int | None, str]], tmp_path: Path
) -> None:
    assert problems(tmp_path, text) == expected


def test_a_folder_that_is_no_image_is_refused_and_not_looked_through(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
    monkeypatch.setattr(Path, "rglob", lambda *_: pytest.fail("it may be a whole disk"))
    text = "slide_id,patient_id,path\ns1,p1,one\ns2,p2,two\n"
    assert problems(tmp_path, text) == [("INPUT_UNSUPPORTED", 2, "path"), ("INPUT_UNSUPPORTED", 3, "path")]


def test_a_missing_manifest_and_one_in_another_encoding(tmp_path: Path) -> None:
    with pytest.raises(InputMissingError):
        read_manifest(tmp_path / "nowhere.csv")
    path = write(tmp_path, "")
    for encoding in ("utf-8-sig", "utf-16", "cp1252"):
        path.write_bytes("slide_id;patient_id;path;mpp\nMüller;p1;a.tif;0,5\n".encode(encoding))
        (row,) = read_manifest(path)
        assert (row.slide_id, row.mpp) == ("Müller", 0.5)


BAD_IDS = [
    "", ".", "..", "../x", "/etc/passwd", "a/b", "a\\b", "a\nb", "a b", "x" * 129, "CON", "con.txt", "Lpt1",
    "a\u202eb", "=cmd()", "+1", "-1", "@x", "_x", "a.", "a\0b", "a\n", "e\u0301", "é" * 65, "字" * 43, "a\ud800", "a²",
    "com¹", "\u0301a", "a\u200db", "＝a", "😀",
]  # fmt: skip


@pytest.mark.parametrize("text", BAD_IDS)
def test_an_id_that_could_do_harm_is_refused(text: str) -> None:
    assert not valid_slide_id(text)


GOOD_IDS = [
    "a", "S-1_2.b", "9", "x" * 128, "console", "TCGA-AA-0001.svs", "é", "Müller_2", "切片-7", "Срез.3", "هيكل1",
    "कोशिका", "é" * 64,
]  # fmt: skip


@pytest.mark.parametrize("text", GOOD_IDS)
def test_an_ordinary_id_is_allowed(text: str) -> None:
    assert valid_slide_id(text)


@given(st.text(max_size=200))
def test_an_id_made_from_any_path_is_allowed(text: str) -> None:
    assert valid_slide_id(slide_id_from_path(text))


def test_an_id_made_from_a_path_resembles_it() -> None:
    ids = [
        slide_id_from_path(text)
        for text in ("x/a b.svs", "a.tif#page=2", "CON.tif", "=x.svs", "p.ome.tif", "me\u0301.tif")
    ]
    assert ids == ["a_b", "a", "slide_CON", "x", "p.ome", "m\u00e9"]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a.tif", Fragment("a.tif")),
        ("a.tif#page=2", Fragment("a.tif", page=2)),
        ("a.tif#plane=0", Fragment("a.tif", plane=0)),
        ("a.tif#page=2&plane=1", Fragment("a.tif", 2, 1)),
        ("a#1.tif#plane=1&page=2", Fragment("a#1.tif", 2, 1)),
        ("a.tif#z=3&t=0&plane=1", Fragment("a.tif", plane=1, z=3, t=0)),
        ("a.tif#z=3&z=4", Fragment("a.tif#z=3&z=4")),
        ("a.tif#page=-1", Fragment("a.tif#page=-1")),
        ("a.tif#page=1&page=2", Fragment("a.tif#page=1&page=2")),
        ("#page=1", Fragment("#page=1")),
    ],
)
def test_a_fragment_names_a_page_and_a_plane(text: str, expected: Fragment) -> None:
    assert split_fragment(text) == expected


def test_conflicts_of_a_row_with_other_problems_are_listed_too(tmp_path: Path) -> None:
    text = "slide_id,patient_id,split,path\ns1,p1,train,a.tif\nS1,p1,test,gone.tif\n"
    assert {code for code, _, _ in problems(tmp_path, text)} == {"INPUT_MISSING", "DUPLICATE_ID", "SPLIT_LEAKAGE"}


@pytest.mark.parametrize(
    ("cell", "background"),
    [("", None), ("auto", None), ("dark", "dark"), ("CARS=dark, HE = bright", "CARS=dark,HE=bright")],
)
def test_a_background_is_stated_for_all_channels_or_by_name(tmp_path: Path, cell: str, background: str | None) -> None:
    (tmp_path / "a.tif").touch()
    (tmp_path / "m.csv").write_text(f'slide_id,patient_id,path,background\na,a,a.tif,"{cell}"\n')
    (row,) = read_manifest(tmp_path / "m.csv")
    assert row.background == background


@pytest.mark.parametrize("cell", ["grey", "CARS=grey", "CARS=dark,bright", "=dark"])
def test_a_background_that_is_no_polarity_is_a_problem(tmp_path: Path, cell: str) -> None:
    (tmp_path / "a.tif").touch()
    (tmp_path / "m.csv").write_text(f'slide_id,patient_id,path,background\na,a,a.tif,"{cell}"\n')
    with pytest.raises(TableError, match="CHANNEL=dark,CHANNEL=bright"):
        read_manifest(tmp_path / "m.csv")


@pytest.fixture
def manifest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "cohort, with a comma"
    folder.mkdir()
    for number in range(7):
        (folder / f"s{number}.tif").write_bytes(bytes(number + 1))
        (folder / f"m{number}.png").write_bytes(bytes(20 + number))
    (folder / "two.geojson").write_text("{}")
    monkeypatch.setenv("MASKS", str(folder))
    lines = [
        "slide_id,patient_id,split,path,path:CARS,path:SHG,channels,mpp,tumor_mask,annotations,background,slide_label,exclude",
        "a,p1,train,s0.tif,,,,0.2500000000000001,${MASKS}/m0.png,,bright,1,",
        "b,p2,val,,s1.tif,s2.tif#page=2,,,none,,dark,0,",
        'c,p3,,s3.tif,,,"R,G",,,,,,yes',
        'd,p3,,s4.tif,,,"R, G",1.5,,two.geojson,,,no',
        "e,p4,test,s5.tif,,,,,,,,,",
    ]
    path = folder / "cohort.csv"
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def test_rows_that_are_written_into_another_folder_are_read_as_they_were(manifest: Path, tmp_path: Path) -> None:
    whole = read_manifest(manifest)
    write_rows(tmp_path / "elsewhere" / "again.csv", whole.included)
    rows = list(read_manifest(tmp_path / "elsewhere" / "again.csv"))
    assert [replace(row, row=0) for row in rows] == [replace(row, row=0) for row in whole.included]
