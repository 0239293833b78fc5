"""GeoJSON tiles: QuPath's rules, and the geometry read back with shapely."""

import gzip
import json
import re
import uuid

import numpy as np
import pandas as pd
import pytest
from shapely.geometry import box, shape

from pathopatch.heatmaps.geojson import write_geojson

TABLE = pd.DataFrame(
    {
        "patch_id": ["s1@0,0", "s1@10,0", "s1@20,10"],
        "x": [0, 10, 20],
        "y": [0, 0, 10],
        "width": 10,
        "height": 10,
        "tissue_fraction": [0.5, 1.0, np.nan],
        "logit": [-1.0, 0.3, np.nan],
        "probability": [0.25, 0.6, np.nan],
    }
)


def _write(path, table=TABLE, **changed):
    settings = {
        "slide_id": "s1", "run": "abc", "class_names": ("non-tumour", "tumour"),
        "decision_threshold": 0.29, "slide_size": (25, 20), "origin": (0, 0),
    }  # fmt: skip
    write_geojson(path, table, **(settings | changed))
    return json.loads(gzip.decompress(path.read_bytes()))


def test_each_patch_is_its_square_cut_at_the_slides_edge(tmp_path):
    found = _write(tmp_path / "a.geojson.gz")
    shapes = [shape(feature["geometry"]) for feature in found["features"]]
    assert all(square.is_valid for square in shapes)
    for square, due in zip(shapes, (box(0, 0, 10, 10), box(10, 0, 20, 10), box(20, 10, 25, 20)), strict=True):
        assert square.equals(due)


def test_slide_bounds_are_subtracted(tmp_path):
    found = _write(tmp_path / "a.geojson.gz", origin=(7, 3))
    assert shape(found["features"][1]["geometry"]).bounds == (3, -3, 13, 7)


def test_tiles_follow_the_rules_of_qupath(tmp_path):
    found = _write(tmp_path / "a.geojson.gz")
    assert found["type"] == "FeatureCollection"
    for feature in found["features"]:
        assert str(uuid.UUID(feature["id"])) == feature["id"]
        assert uuid.UUID(feature["id"]).version == 5
        properties = feature["properties"]
        assert (properties["objectType"], properties["isLocked"]) == ("tile", True)
        assert all(type(value) in (int, float) for value in properties["measurements"].values())
        assert all(type(value) is str for value in properties["metadata"].values())
        ring = feature["geometry"]["coordinates"][0]
        assert ring[0] == ring[-1]
        assert all(type(number) is int for point in ring for number in point)


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


def test_ids_tell_runs_and_slides_apart_and_stay_the_same_otherwise(tmp_path):
    def ids(**changed):
        return [f["id"] for f in _write(tmp_path / "a.geojson.gz", **changed)["features"]]

    assert len(set(ids())) == 3
    assert ids() == ids(decision_threshold=9.0)
    assert not set(ids()) & set(ids(run="other")) | set(ids()) & set(ids(slide_id="s2"))


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
    found = _write(tmp_path / "a.geojson.gz", many, slide_size=(10**6, 20))
    assert [re.sub(r".*@", "", f["properties"]["metadata"]["patch_id"]) for f in found["features"]] == [
        str(n) for n in range(count)
    ]
