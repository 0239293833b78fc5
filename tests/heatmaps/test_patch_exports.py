"""GeoJSON tiles: QuPath's rules, and the geometry read back with shapely."""

import gzip
import json
import re
import tracemalloc
import uuid

import numpy as np
import pandas as pd
import pytest
import qupath_rules
from shapely.geometry import box, shape

from pathopatch.heatmaps.patch_exports import write_tiles, write_wsinfer_csv

TABLE = pd.DataFrame(
    {
        "patch_id": ["s1@0,0", "s1@10,0", "s1@20,10"],
        "x": [0, 10, 20],
        "y": [0, 0, 10],
        "width": 10,
        "height": 10,
        "tissue_fraction": [0.5, 1.0, np.nan],
        "scanned_fraction": 1.0,
        "logit": [-1.0, 0.3, np.nan],
        "probability": [0.25, 0.6, np.nan],
    }
)


def _write_only(path, table=TABLE, **changed):
    settings = {
        "slide_id": "s1", "run": "abc", "class_names": ("non-tumour", "tumour"),
        "decision_threshold": 0.29, "slide_size": (25, 20), "origin": (0, 0),
    }  # fmt: skip
    write_tiles(path, table, **(settings | changed))


def _write(path, table=TABLE, **changed):
    _write_only(path, table, **changed)
    return json.loads(gzip.decompress(path.read_bytes()))


def test_each_patch_is_its_square_cut_at_the_slides_edge(tmp_path):
    collection = _write(tmp_path / "a.geojson.gz")
    shapes = [shape(feature["geometry"]) for feature in collection["features"]]
    assert all(square.is_valid for square in shapes)
    for square, due in zip(shapes, (box(0, 0, 10, 10), box(10, 0, 20, 10), box(20, 10, 25, 20)), strict=True):
        assert square.equals(due)


def test_slide_bounds_are_subtracted(tmp_path):
    collection = _write(tmp_path / "a.geojson.gz", origin=(7, 3))
    assert shape(collection["features"][1]["geometry"]).bounds == (3, -3, 13, 7)


def test_tiles_follow_qupaths_rules_and_keep_their_area(tmp_path):
    _write(tmp_path / "a.geojson.gz")
    features = qupath_rules.read_features(tmp_path / "a.geojson.gz", "tile")
    assert qupath_rules.areas(features) == [100, 100, 50]
    points = [point for feature in features for ring in feature["geometry"]["coordinates"] for point in ring]
    assert all(type(number) is int for point in points for number in point)


def test_the_text_is_that_of_pythons_own_json(tmp_path):
    awkward = TABLE.assign(
        patch_id=['"quoted"@0,0', "naïve\\@10,0", "s1@20,10"],
        logit=[-1e-9, 1e300, 5e-7],
        probability=[1 / 3, 1.0, 1e-6],
    )
    _write(tmp_path / "a.geojson.gz", awkward, class_names=('non "tumour"', "Tumör"), slide_id="sö")
    first, *lines, last, empty = gzip.decompress((tmp_path / "a.geojson.gz").read_bytes()).decode().split("\n")
    assert (first, last, empty) == ('{"type": "FeatureCollection", "features": [', "]}", "")
    for line, patch_id in zip(lines, awkward["patch_id"], strict=True):
        feature = json.loads(line.removesuffix(","))
        assert json.dumps(feature, ensure_ascii=False) == line.removesuffix(",")
        assert feature["properties"]["metadata"] == {"patch_id": patch_id}


def test_ids_are_made_of_run_slide_and_place_alone(tmp_path):
    namespace = uuid.uuid5(uuid.NAMESPACE_URL, "pathopatch:patch")
    ids = [feature["id"] for feature in _write(tmp_path / "a.geojson.gz")["features"]]
    assert ids == [str(uuid.uuid5(namespace, f"abc/s1/{place}")) for place in ("0,0", "10,0", "20,10")]


def test_a_patch_beyond_the_slide_is_left_out(tmp_path):
    names = [f["properties"]["metadata"]["patch_id"] for f in _write(tmp_path / "a", slide_size=(20, 20))["features"]]
    assert names == ["s1@0,0", "s1@10,0"]


def test_tables_that_come_one_by_one_are_written_as_one(tmp_path):
    _write(tmp_path / "a.geojson.gz")
    _write(tmp_path / "b.geojson.gz", iter([TABLE.iloc[:1], TABLE.iloc[:0], TABLE.iloc[1:]]))
    assert (tmp_path / "a.geojson.gz").read_bytes() == (tmp_path / "b.geojson.gz").read_bytes()


def test_what_is_held_does_not_grow_with_the_number_of_tables(tmp_path):
    def tables(count):
        for row in range(count):
            yield TABLE.iloc[np.zeros(1000, int)].assign(x=np.arange(1000) * 10, y=row)

    peaks = []
    for count in (1, 2, 6):  # what is loaded once does not count
        tracemalloc.start()
        _write_only(tmp_path / "a.geojson.gz", tables(count), slide_size=(10**6, 10**6))
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[2] < 1.15 * peaks[1]


def test_the_decision_threshold_names_and_colours_the_class(tmp_path):
    classes = [f["properties"].get("classification") for f in _write(tmp_path / "a.geojson.gz")["features"]]
    assert [c and c["name"] for c in classes] == ["non-tumour", "tumour", None]
    assert classes[0]["color"] != classes[1]["color"]
    raised = _write(tmp_path / "b.geojson.gz", decision_threshold=0.3)["features"]  # on it is not above it
    assert raised[1]["properties"]["classification"]["name"] == "non-tumour"


def test_missing_numbers_are_left_out(tmp_path):
    features = _write(tmp_path / "a.geojson.gz")["features"]
    assert features[1]["properties"]["measurements"] == {
        "tumour probability": 0.6, "logit": 0.3, "tissue fraction": 1.0,
    }  # fmt: skip
    assert features[2]["properties"]["measurements"] == {}


def test_equal_tables_give_equal_bytes_without_a_date_or_a_name(tmp_path):
    _write(tmp_path / "a.geojson.gz")
    _write(tmp_path / "b.geojson.gz")
    content = (tmp_path / "a.geojson.gz").read_bytes()
    assert content == (tmp_path / "b.geojson.gz").read_bytes()
    assert content[3:8] == b"\0\0\0\0\0"  # no flags (no file name), modification time 0


@pytest.mark.parametrize("count", [0, 1, 1000, 2001])
def test_any_number_of_patches_is_one_valid_collection(tmp_path, count):
    many = pd.concat([TABLE.iloc[[0]]] * count) if count else TABLE.iloc[:0]
    many = many.assign(x=np.arange(count) * 10, patch_id=[f"s1@{n}" for n in range(count)])
    collection = _write(tmp_path / "a.geojson.gz", many, slide_size=(10**6, 20))
    assert [re.sub(r".*@", "", f["properties"]["metadata"]["patch_id"]) for f in collection["features"]] == [
        str(n) for n in range(count)
    ]


def test_the_csv_is_wsinfers_to_the_letter(tmp_path):
    table = pd.DataFrame({"x": [0, 224], "y": [0, 448], "width": 224, "height": 224, "probability": [0.25, 1e-7]})
    write_wsinfer_csv(tmp_path / "patches.csv", table, class_names=("non-tumour", "tumour"))
    assert (tmp_path / "patches.csv").read_bytes() == (
        b"minx,miny,width,height,prob_non-tumour,prob_tumour\n0,0,224,224,0.75,0.25\n224,448,224,224,0.9999999,1e-07\n"
    )


def test_without_patches_the_csv_has_its_header(tmp_path):
    empty = pd.DataFrame({"x": [], "y": [], "width": [], "height": [], "probability": []})
    write_wsinfer_csv(tmp_path / "patches.csv", empty, class_names=("no", "yes"))
    assert (tmp_path / "patches.csv").read_text() == "minx,miny,width,height,prob_no,prob_yes\n"


def test_a_tile_names_its_scanned_fraction_only_where_some_was_not_scanned(tmp_path):
    measured = [
        feature["properties"]["measurements"]
        for feature in _write(tmp_path / "a.geojson.gz", TABLE.assign(scanned_fraction=[0.6, 1.0, 1.0]))["features"]
    ]
    assert [numbers.get("scanned fraction") for numbers in measured] == [0.6, None, None]
    _write(tmp_path / "b.geojson.gz", TABLE.drop(columns="scanned_fraction"))
    _write(tmp_path / "c.geojson.gz", TABLE)
    assert (tmp_path / "b.geojson.gz").read_bytes() == (tmp_path / "c.geojson.gz").read_bytes()
