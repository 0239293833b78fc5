"""The folder for QuPath: its files follow QuPath's rules, slides are found, and nothing of a person is replaced."""

import csv
import json
import os
import re
from pathlib import Path

import pytest
import qupath_rules
from made_heatmap import BOUNDS, SIZE, write_heatmap
from shapely.geometry import shape

from pathopatch.core.artefacts import Stamp
from pathopatch.core.errors import InputMissingError, InputUnsupportedError, StaleArtefactError
from pathopatch.groups.decisions.decision import Decision
from pathopatch.heatmaps.qupath_project import write_qupath_folder
from pathopatch.patches.annotations.outlines import place_on_slide, read_annotations
from pathopatch.review.decisions import DecisionLog
from pathopatch.slides.manifest import SlideRow, pseudonym


def written(out, path, **options):
    """Write the folder; return what the script reads of each slide, by id."""
    write_qupath_folder(out, path, **options)
    return {slide["slide_id"]: slide for slide in json.loads((path / "slides.json").read_text())["slides"]}


@pytest.fixture
def out(tmp_path):
    (tmp_path / "slides").mkdir()
    (tmp_path / "slides" / "a.svs").write_bytes(b"pixels of a")
    write_heatmap(tmp_path / "out", "a", str(tmp_path / "slides" / "a.svs"))
    return tmp_path / "out"


def contents(folder):
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def decide(out, verdict, **more):
    with DecisionLog(out / "review.sqlite") as log:
        slide_id = more.pop("slide_id", "a")
        decision = Decision(slide_id=slide_id, verdict=verdict, reviewer=more.pop("reviewer", "Ada"), **more)
        log.record(decision, revision=log.state(slide_id).revision)


def test_every_file_that_the_script_or_the_list_names_is_there(out, tmp_path):
    decide(out, "accept")
    slides = written(out, tmp_path / "qupath")
    script = (tmp_path / "qupath" / "make_project.groovy").read_text()
    named = set(re.findall(r'"([^"\s]+\.[a-z]+)"', script)) - {"project.qpproj"}  # the project's own, which it makes
    assert named == {"slides.json"}
    named |= {"README.txt", "slides.csv", "make_project.groovy", *slides["a"]["objects"]}
    assert named == set(contents(tmp_path / "qupath"))
    for name in re.findall(r"\b[\w]+\.(?:groovy|csv|json)\b", (tmp_path / "qupath" / "README.txt").read_text()):
        assert name in named


def test_every_value_that_the_script_reads_of_a_slide_is_there(out, tmp_path):
    slide = written(out, tmp_path / "qupath")["a"]
    script = (tmp_path / "qupath" / "make_project.groovy").read_text()
    assert set(re.findall(r"\bslide\.(\w+)", script)) <= set(slide)
    assert set(re.findall(r"\bfile\.(\w+)\b(?!\()", script)) <= set(slide["files"][0])
    assert set(re.findall(r"\bchannel\.(\w+)", script)) == set(slide["channels"][0])


def test_the_readme_has_ten_lines_at_most(out, tmp_path):
    written(out, tmp_path / "qupath")
    assert len((tmp_path / "qupath" / "README.txt").read_text().splitlines()) <= 10


def test_heatmaps_are_those_of_predict_and_take_no_room(out, tmp_path):
    written(out, tmp_path / "qupath")
    for name in ("patches.geojson.gz", "regions.geojson.gz"):
        assert (tmp_path / "qupath" / "objects" / "a" / name).samefile(out / "heatmaps" / "a" / name)
    folder = tmp_path / "qupath" / "objects" / "a"
    assert qupath_rules.areas(qupath_rules.read_features(folder / "patches.geojson.gz", "tile")) == [256, 256]
    assert qupath_rules.areas(qupath_rules.read_features(folder / "regions.geojson.gz", "annotation")) == [256]


def test_where_links_are_impossible_heatmaps_are_copied(out, tmp_path, monkeypatch):
    def refuse(*_):
        raise OSError("another disk")

    monkeypatch.setattr(os, "link", refuse)
    written(out, tmp_path / "qupath")
    name = "a/patches.geojson.gz"
    copy = tmp_path / "qupath" / "objects" / name
    assert copy.read_bytes() == (out / "heatmaps" / name).read_bytes()
    assert not copy.samefile(out / "heatmaps" / name)


def test_decisions_are_annotations_in_the_frame_of_the_scanned_part(out, tmp_path):
    decide(out, "reject", reason="blurred", comment="scan again")
    decide(out, "tumour", x=48, y=32, comment="=1+1")
    decide(out, "non-tumour", x=96, y=80)  # 4 x 10 px of it are on the slide
    slide = written(out, tmp_path / "qupath")["a"]
    path = tmp_path / "qupath" / "objects" / "a" / "decisions.geojson.gz"
    assert slide["objects"][-1] == "objects/a/decisions.geojson.gz"
    features = qupath_rules.read_features(path, "annotation")
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
    assert {name: slide["metadata"][name] for name in ("decision", "reason", "note", "reviewer")} == {
        "decision": "reject", "reason": "blurred", "note": "scan again", "reviewer": "Ada",
    }  # fmt: skip


def test_a_drawn_region_is_an_annotation_of_its_own_until_it_is_removed(out, tmp_path):
    """The slide's scanned part begins at (30, 10), from which QuPath measures."""
    outlines = [f"POLYGON (({x} 20, 60 20, 60 40, {x} 20))" for x in (40, 50)]
    for outline, verdict in zip(outlines, ("tumour", "non-tumour"), strict=True):
        decide(out, verdict, region=outline, comment="glands")
    written(out, tmp_path / "qupath")
    place = tmp_path / "qupath" / "objects" / "a" / "decisions.geojson.gz"
    first, second = qupath_rules.read_features(place, "annotation")
    assert shape(first["geometry"]).equals(shape({"type": "Polygon", "coordinates": [[[10, 10], [30, 10], [30, 30]]]}))
    assert [each["properties"]["classification"]["name"] for each in (first, second)] == [
        "tumour (reviewer)", "non-tumour (reviewer)",
    ]  # fmt: skip
    assert first["properties"]["metadata"]["note"] == "glands"
    assert first["id"] != second["id"]
    decide(out, "removed", region=outlines[0])
    written(out, tmp_path / "qupath", force=True)
    assert [each["id"] for each in qupath_rules.read_features(place, "annotation")] == [second["id"]]


def test_decisions_come_back_as_annotations_where_they_were_made(out, tmp_path):
    decide(out, "reject")
    decide(out, "tumour", x=48, y=32)
    written(out, tmp_path / "qupath")
    outlines = read_annotations(tmp_path / "qupath" / "objects" / "a" / "decisions.geojson.gz")
    names, shapes, warnings = place_on_slide(outlines, slide_size=SIZE, bounds_origin=BOUNDS[:2])
    assert list(names) == ["slide rejected", "tumour (reviewer)"]
    assert [shape.bounds for shape in shapes] == [(30, 10, 90, 80), (48, 32, 64, 48)]
    assert warnings == []


def test_a_later_decision_has_the_id_of_the_one_it_replaces(out, tmp_path):
    path = tmp_path / "qupath" / "objects" / "a" / "decisions.geojson.gz"
    decide(out, "tumour", x=48, y=32)
    written(out, tmp_path / "qupath")
    (first,) = qupath_rules.read_features(path, "annotation")
    decide(out, "unsure", x=48, y=32)
    written(out, tmp_path / "qupath", force=True)
    (second,) = qupath_rules.read_features(path, "annotation")
    assert first["id"] == second["id"]
    assert second["properties"]["classification"]["name"] == "unsure (reviewer)"


def test_a_withdrawn_decision_is_gone_and_the_list_of_images_says_so(out, tmp_path):
    decide(out, "flag")
    with DecisionLog(out / "review.sqlite") as log:
        log.undo("a", "Ada", log.state("a").revision)
    slide = written(out, tmp_path / "qupath")["a"]
    assert slide["metadata"]["decision"] == ""  # clears what an earlier run of the script wrote
    assert not (tmp_path / "qupath" / "objects" / "a" / "decisions.geojson.gz").exists()


def test_a_slide_lies_where_the_manifest_says_else_where_it_was_write_heatmap(out, tmp_path):
    (file,) = written(out, tmp_path / "qupath")["a"]["files"]
    assert file["absolute"] == str(tmp_path / "slides" / "a.svs")
    assert (tmp_path / "qupath" / file["relative"]).samefile(tmp_path / "slides" / "a.svs")
    moved = tmp_path / "moved.svs"
    rows = [SlideRow(row=2, slide_id="a", patient_id="p", source=str(moved))]
    slide = written(out, tmp_path / "other", rows=rows)["a"]
    assert slide["files"][0]["absolute"] == str(moved)
    assert slide["note"] == "not found now: moved.svs"


def test_a_deidentified_slide_is_found_by_its_content_alone(out, tmp_path):
    row = SlideRow(row=2, slide_id="x", patient_id="p", source=str(tmp_path / "slides" / "a.svs"))
    write_heatmap(out, pseudonym(row))
    unknown = written(out, tmp_path / "qupath")[pseudonym(row)]
    assert unknown["files"] == []
    assert "--manifest" in unknown["note"]
    assert write_qupath_folder(out, tmp_path / "qupath").notes == {pseudonym(row): unknown["note"]}
    found = written(out, tmp_path / "other", rows=[row])[pseudonym(row)]
    assert (found["files"][0]["name"], found["note"]) == ("a.svs", "")


def test_a_head_on_features_names_no_slide(out, tmp_path):
    stamp = Stamp(stage="predict", settings={"mpp": 0.5}, inputs={"slide": "features"}).to_dict()
    write_heatmap(out, "b", str(tmp_path / "slides" / "a.svs"), stamp=stamp)
    assert written(out, tmp_path / "qupath")["b"]["files"] == []


def test_channels_of_several_files_have_their_planes_names_and_colours(out, tmp_path):
    source = {name: str(tmp_path / f"{name}.tif") for name in ("CARS", "TPEF")}
    write_heatmap(
        out, "b", source | {"TPEF": f"{source['TPEF']}#plane=2"}, channels=["CARS", "TPEF"], dtype="uint16",
        background="dark",
    )  # fmt: skip
    slide = written(out, tmp_path / "qupath")["b"]
    assert [(file["channel"], file["name"], file["plane"]) for file in slide["files"]] == [
        ("CARS", "CARS.tif", None), ("TPEF", "TPEF.tif", 2),
    ]  # fmt: skip
    assert slide["channels"] == [{"name": "CARS", "color": [255, 0, 0]}, {"name": "TPEF", "color": [0, 255, 0]}]
    assert slide["image_type"] == "FLUORESCENCE"


@pytest.mark.parametrize(
    ("chosen", "is_told"), [("#page=0", False), ("#page=2", True), ("#z=0", True), ("#page=1&plane=0", True)]
)
def test_what_qupath_cannot_choose_is_left_out_with_the_reason(out, tmp_path, chosen, is_told):
    (tmp_path / "b.tif").touch()
    write_heatmap(out, "b", f"{tmp_path / 'b.tif'}{chosen}")
    slide = written(out, tmp_path / "qupath")["b"]
    assert bool(slide["files"][0]["chosen"]) == is_told
    assert ("by hand" in slide["note"]) == is_told


@pytest.mark.parametrize(
    ("channels", "dtype", "background", "image_type"),
    [
        (["R", "G", "B"], "uint8", "bright", "BRIGHTFIELD_H_E"),
        (["R", "G", "B"], "uint8", "dark", "FLUORESCENCE"),
        (["R", "G", "B"], "uint16", "bright", "OTHER"),
        (["CARS", "SHG"], "uint16", "dark", "FLUORESCENCE"),
        (["CARS", "HE"], "uint8", "CARS=dark,HE=bright", "OTHER"),
        (["T"], "uint8", "bright", "OTHER"),
    ],
)
def test_the_type_of_image_follows_colour_and_ground(out, tmp_path, channels, dtype, background, image_type):
    write_heatmap(out, "b", "b.svs", channels=channels, dtype=dtype, background=background)
    assert written(out, tmp_path / "qupath")["b"]["image_type"] == image_type


def test_a_damaged_heatmap_is_told_and_the_others_are_written(out, tmp_path):
    write_heatmap(out, "b", "b.svs")
    write_heatmap(out, "c", "c.svs")
    (out / "heatmaps" / "b" / "patches.geojson.gz").write_bytes(b"cut")
    (out / "heatmaps" / "c" / "heatmap.json").write_text("{")
    folder = write_qupath_folder(out, tmp_path / "qupath")
    assert folder.slides == 3
    assert folder.notes["b"] == "patches.geojson.gz is not as it was written; predict the slide again"
    assert folder.notes["c"].endswith("predict the slide again")
    assert sorted(path.name for path in (tmp_path / "qupath" / "objects").iterdir()) == ["a"]


def test_the_table_for_people_has_a_row_per_file_and_no_formula(out, tmp_path):
    write_heatmap(out, "b", {"CARS": "/s/=c.tif", "+T": "/s/t.tif#plane=1"}, channels=["CARS", "+T"])
    written(out, tmp_path / "qupath")
    rows = list(csv.DictReader((tmp_path / "qupath" / "slides.csv").read_text("utf-8-sig").splitlines()))
    assert [(row["slide_id"], row["channel"], row["path"], row["chosen"]) for row in rows] == [
        ("a", "", str(tmp_path / "slides" / "a.svs"), ""), ("b", "CARS", "/s/=c.tif", ""),
        ("b", "'+T", "/s/t.tif", "plane=1"),
    ]  # fmt: skip
    assert [rows[0][name] for name in ("width_px", "height_px", "um_per_px")] == ["100", "90", "0.5"]


def test_equal_inputs_give_equal_bytes_and_a_second_run_writes_nothing(out, tmp_path):
    decide(out, "accept")
    written(out, tmp_path / "qupath")
    first, states = contents(tmp_path / "qupath"), [p.stat() for p in sorted((tmp_path / "qupath").rglob("*"))]
    written(out, tmp_path / "qupath")
    assert [p.stat() for p in sorted((tmp_path / "qupath").rglob("*"))] == states
    written(out, tmp_path / "again")
    assert contents(tmp_path / "again") == first


def test_an_export_of_other_content_is_replaced_by_force_alone(out, tmp_path):
    written(out, tmp_path / "qupath")
    (tmp_path / "qupath-project").mkdir()
    (tmp_path / "qupath-project" / "project.qpproj").write_text("a pathologist's work")
    decide(out, "accept")
    with pytest.raises(StaleArtefactError):
        write_qupath_folder(out, tmp_path / "qupath")
    assert written(out, tmp_path / "qupath", force=True)["a"]["metadata"]["decision"] == "accept"
    assert (tmp_path / "qupath-project" / "project.qpproj").read_text() == "a pathologist's work"


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


def test_progress_counts_slides(out, tmp_path):
    seen = []
    write_qupath_folder(out, tmp_path / "qupath", progress=lambda *told: seen.append(told))
    assert seen == [("export", 1, 1, "a")]


def test_the_project_lies_beside_the_folder_that_a_new_export_replaces():
    script = Path("pathopatch/heatmaps/make_project.groovy").read_text()
    assert 'new File(folder.getParentFile(), folder.getName() + "-project")' in script
