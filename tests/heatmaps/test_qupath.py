"""The folder for QuPath: its files follow QuPath's rules, and nothing of a person is replaced."""

import json
import os
import re
import unicodedata
from pathlib import Path

import pytest
import qupath_rules
from made_heatmap import BOUNDS, SIZE, write_heatmap
from shapely.geometry import shape
from written_files import contents

from pathopatch.core.errors import InputMissingError, InputUnsupportedError, StaleArtefactError
from pathopatch.groups.decisions.decision import Decision
from pathopatch.groups.decisions.log import read_log
from pathopatch.heatmaps.qupath import decision_files, region_files, write_qupath_folder
from pathopatch.patches.annotations.outlines import place_on_slide, read_annotations
from pathopatch.review.decisions import DecisionLog
from pathopatch.slides.slide_paths import slide_id_from_path


@pytest.fixture
def out(tmp_path):
    write_heatmap(tmp_path / "out", "a", str(tmp_path / "slides" / "a.svs"))
    return tmp_path / "out"


@pytest.fixture
def decided(tmp_path):
    return tmp_path / "qupath" / "a" / "decisions.geojson.gz"


def decide(out, verdict, **more):
    with DecisionLog(out / "review.sqlite") as log:
        slide_id = more.pop("slide_id", "a")
        decision = Decision(slide_id=slide_id, verdict=verdict, reviewer=more.pop("reviewer", "Ada"), **more)
        log.record(decision, revision=log.state(slide_id)["revision"])


def test_regions_are_those_of_predict_and_patches_are_made_of_the_table(out, tmp_path):
    write_qupath_folder(out, tmp_path / "qupath")
    folder, name = tmp_path / "qupath" / "a", "regions.geojson.gz"
    assert (folder / name).samefile(out / "heatmaps" / "a" / name)
    assert qupath_rules.areas(qupath_rules.read_features(folder / "patches.geojson.gz", "tile")) == [256, 256]
    assert qupath_rules.areas(qupath_rules.read_features(folder / "regions.geojson.gz", "annotation")) == [256]


def test_where_links_are_impossible_heatmaps_are_copied(out, tmp_path, monkeypatch):
    def refuse(*_):
        raise OSError("another disk")

    monkeypatch.setattr(os, "link", refuse)
    write_qupath_folder(out, tmp_path / "qupath")
    name = "a/regions.geojson.gz"
    assert (tmp_path / "qupath" / name).read_bytes() == (out / "heatmaps" / name).read_bytes()
    assert not (tmp_path / "qupath" / name).samefile(out / "heatmaps" / name)


def test_decisions_are_annotations_in_the_frame_of_the_scanned_part(out, tmp_path, decided):
    decide(out, "reject", reason="blurred", comment="scan again")
    decide(out, "tumour", x=48, y=32, comment="=1+1")
    decide(out, "non-tumour", x=96, y=80)  # 4 x 10 px of it are on the slide
    write_qupath_folder(out, tmp_path / "qupath")
    features = qupath_rules.read_features(decided, "annotation")
    assert [shape(feature["geometry"]).bounds for feature in features] == [
        (0, 0, 60, 70), (18, 22, 34, 38), (66, 70, 70, 80),
    ]  # fmt: skip
    assert [feature["properties"]["classification"]["name"] for feature in features] == [
        "slide rejected", "tumour (reviewer)", "non-tumour (reviewer)",
    ]  # fmt: skip
    rejected, tumour, _ = (feature["properties"] for feature in features)
    assert rejected["name"] == "reject (Ada)"
    assert rejected["metadata"]["ANNOTATION_DESCRIPTION"] == "blurred. scan again"
    assert (rejected["metadata"]["reason"], rejected["metadata"]["note"]) == ("blurred", "scan again")
    assert tumour["metadata"]["note"] == "=1+1"
    alone = json.loads(decision_files(out, read_log(out / "review.sqlite"))["a.geojson"])["features"]
    assert [shape(feature["geometry"]) for feature in alone] == [shape(feature["geometry"]) for feature in features]


def test_what_two_reviewers_differ_in_lies_at_its_place(out):
    decide(out, "tumour", x=48, y=32)
    decide(out, "non-tumour", x=48, y=32, reviewer="Bo")
    features = json.loads(decision_files(out, read_log(out / "review.sqlite"))["a.geojson"])["features"]
    assert {shape(feature["geometry"]).bounds for feature in features} == {(18, 22, 34, 38)}
    names = ["disputed (Ada: tumour, Bo: non-tumour)", "tumour (Ada)", "non-tumour (Bo)"]
    assert [feature["properties"]["name"] for feature in features] == names
    assert len({feature["id"] for feature in features}) == 3


def test_a_length_is_a_line_and_no_annotation_of_tile(out):
    decide(out, "length", region="LINESTRING (40 20, 70 60)")
    rows = read_log(out / "review.sqlite")
    (feature,) = json.loads(decision_files(out, rows)["a.geojson"])["features"]
    assert feature["geometry"] == {"type": "LineString", "coordinates": [[10, 10], [40, 50]]}
    assert region_files(rows, lambda _: (30, 10)) == {}
    for verdict, region in (("length", "POLYGON ((0 0, 9 0, 9 9, 0 0))"), ("tumour", "LINESTRING (0 0, 9 9)")):
        with pytest.raises(InputUnsupportedError, match="no outline of"):
            Decision(slide_id="a", verdict=verdict, reviewer="Ada", region=region)
    with pytest.raises(InputUnsupportedError, match="no outline of at least three points"):
        Decision(slide_id="a", verdict="length", reviewer="Ada", region="LINESTRING (5 5, 5 5)")


def test_a_removed_region_leaves_no_empty_file(out):
    outline = "POLYGON ((40 20, 60 20, 60 40, 40 20))"
    decide(out, "tumour", region=outline)
    decide(out, "removed", region=outline)
    assert decision_files(out, read_log(out / "review.sqlite")) == {}


def test_a_drawn_region_is_an_annotation_of_its_own_until_it_is_removed(out, tmp_path, decided):
    """The slide's scanned part begins at (30, 10), from which QuPath measures."""
    outlines = [f"POLYGON (({x} 20, 60 20, 60 40, {x} 20))" for x in (40, 50)]
    for outline, verdict in zip(outlines, ("tumour", "non-tumour"), strict=True):
        decide(out, verdict, region=outline, comment="glands")
    write_qupath_folder(out, tmp_path / "qupath")
    first, second = qupath_rules.read_features(decided, "annotation")
    assert shape(first["geometry"]).equals(shape({"type": "Polygon", "coordinates": [[[10, 10], [30, 10], [30, 30]]]}))
    assert [each["properties"]["classification"]["name"] for each in (first, second)] == [
        "tumour (reviewer)", "non-tumour (reviewer)",
    ]  # fmt: skip
    assert first["properties"]["metadata"]["note"] == "glands"
    assert first["id"] != second["id"]
    decide(out, "removed", region=outlines[0])
    write_qupath_folder(out, tmp_path / "qupath", force=True)
    assert [each["id"] for each in qupath_rules.read_features(decided, "annotation")] == [second["id"]]


def test_decisions_come_back_as_annotations_where_they_were_made(out, tmp_path, decided):
    decide(out, "reject")
    decide(out, "tumour", x=48, y=32)
    write_qupath_folder(out, tmp_path / "qupath")
    names, shapes, warnings = place_on_slide(read_annotations(decided), slide_size=SIZE, bounds_origin=BOUNDS[:2])
    assert list(names) == ["slide rejected", "tumour (reviewer)"]
    assert [shape.bounds for shape in shapes] == [(30, 10, 90, 80), (48, 32, 64, 48)]
    assert warnings == []


def test_a_later_decision_has_the_id_of_the_one_it_replaces(out, tmp_path, decided):
    decide(out, "tumour", x=48, y=32)
    write_qupath_folder(out, tmp_path / "qupath")
    (first,) = qupath_rules.read_features(decided, "annotation")
    decide(out, "unsure", x=48, y=32)
    write_qupath_folder(out, tmp_path / "qupath", force=True)
    (second,) = qupath_rules.read_features(decided, "annotation")
    assert first["id"] == second["id"]
    assert second["properties"]["classification"]["name"] == "unsure (reviewer)"


def test_a_withdrawn_decision_is_gone(out, tmp_path, decided):
    decide(out, "flag")
    with DecisionLog(out / "review.sqlite") as log:
        log.undo("a", "Ada", log.state("a")["revision"])
    write_qupath_folder(out, tmp_path / "qupath")
    assert not decided.exists()


def test_a_damaged_heatmap_is_told_and_the_others_are_written(out, tmp_path):
    write_heatmap(out, "b", "b.svs")
    write_heatmap(out, "c", "c.svs")
    (out / "heatmaps" / "b" / "regions.geojson.gz").write_bytes(b"cut")
    (out / "heatmaps" / "c" / "heatmap.json").write_text("{")
    write_heatmap(out, "d", "d.svs")
    (out / "heatmaps" / "d" / "heatmap.json").unlink()
    folder = write_qupath_folder(out, tmp_path / "qupath")
    assert (folder.slides, set(folder.notes)) == (1, {"b", "c", "d"})
    assert folder.notes["b"] == "regions.geojson.gz is not as it was written; predict the slide again"
    assert folder.notes["c"].endswith("predict the slide again")
    assert sorted(path.name for path in (tmp_path / "qupath").iterdir()) == ["a", "export.json"]


def test_equal_inputs_give_equal_bytes_and_a_second_run_writes_nothing(out, tmp_path):
    decide(out, "accept")
    write_qupath_folder(out, tmp_path / "qupath")
    first, states = contents(tmp_path / "qupath"), [p.stat() for p in sorted((tmp_path / "qupath").rglob("*"))]
    write_qupath_folder(out, tmp_path / "qupath")
    assert [p.stat() for p in sorted((tmp_path / "qupath").rglob("*"))] == states
    write_qupath_folder(out, tmp_path / "again")
    assert contents(tmp_path / "again") == first


def test_an_export_of_other_content_is_replaced_by_force_alone(out, tmp_path, decided):
    write_qupath_folder(out, tmp_path / "qupath")
    decide(out, "accept")
    with pytest.raises(StaleArtefactError):
        write_qupath_folder(out, tmp_path / "qupath")
    write_qupath_folder(out, tmp_path / "qupath", force=True)
    assert decided.is_file()


@pytest.mark.parametrize("force", [False, True])
def test_no_other_folder_is_ever_replaced(out, tmp_path, force):
    (tmp_path / "mine").mkdir()
    for place in (tmp_path / "mine", out):
        before = contents(place)
        with pytest.raises(InputUnsupportedError, match="no export for QuPath"):
            write_qupath_folder(out, place, force=force)
        assert contents(place) == before


def test_a_folder_without_predictions_is_refused(tmp_path):
    with pytest.raises(InputMissingError, match="no prediction here"):
        write_qupath_folder(tmp_path, tmp_path / "qupath")
    assert not (tmp_path / "qupath").exists()


def test_the_page_names_the_files_that_are_written(out, tmp_path):
    decide(out, "accept")
    write_qupath_folder(out, tmp_path / "qupath")
    page = Path("docs/how-to/qupath.md").read_text(encoding="utf-8")
    assert set(re.findall(r"\b\w+\.geojson\.gz", page)) == {path.name for path in (tmp_path / "qupath" / "a").iterdir()}


@pytest.mark.parametrize(
    "name", ["S01.svs", "My slide 1.svs", " (lead) x.tif", "a.ome.tif", "Mü é+x.ndpi", "dots...svs"]
)
def test_the_pages_script_finds_a_slide_by_its_files_name(name):
    """The script's expressions, in their order, make the id that `predict` gives the file."""
    assert slide_id_from_path(name) in _ids_of_script(name)
    assert slide_id_from_path(name) in _ids_of_script(f"{name} - Series 0")
    for other in ("Series 1", "Series 10", "macro image"):
        assert slide_id_from_path(name) not in _ids_of_script(f"{name} - {other}")


def _ids_of_script(image):
    """Return the ids that the script on the page looks for, by its own expressions."""
    page = Path("docs/how-to/qupath.md").read_text(encoding="utf-8")
    (series,) = re.findall(r'image\.replaceFirst\(/(.+?)/, ""\)', page)
    forbidden, first, last = re.search(
        r'it\.replaceAll\(/(.+?)/, "_"\)\.replaceFirst\(/(.+?)/, ""\)\.replaceFirst\(/(.+?)/', page
    ).groups()
    source = re.sub(series, "", image)
    ids = [image, source, *(re.sub(end, "", source) for end in re.findall(r"source\.replaceFirst\(/(.+?)/", page))]
    for pattern, put in ((forbidden, "_"), (first, ""), (last, "")):
        ids += [re.sub(_python_pattern(pattern), put, found) for found in ids]
    return ids


def _python_pattern(pattern):
    """Python's `re` has no categories: write out those of the first thousand characters."""
    letters = (chr(code) for code in range(1024))
    of = {"L": "", "Nd": "", "Mn": "", "Mc": ""}
    for letter in letters:
        category = unicodedata.category(letter)
        for name in of:
            of[name] += letter if category.startswith(name) else ""
    return re.sub(r"\\p\{(\w+)\}", lambda match: of[match[1]], pattern)
