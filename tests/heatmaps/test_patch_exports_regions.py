"""Regions called tumour: valid outlines of whole cells, areas by hand, and what QuPath would import."""

import json
import uuid

import numpy as np
import pytest
import qupath_rules
import shapely
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from shapely.geometry import Polygon, box

from pathopatch.heatmaps.patch_exports import positive_regions, write_regions
from pathopatch.patches.annotations.outlines import read_qupath

NAN = np.nan


def _cells(*rows):
    """A map of text: # is 0.9, . is 0.1, blank is not predicted."""
    return np.array([[{"#": 0.9, ".": 0.1, " ": NAN}[letter] for letter in row] for row in rows])


def _regions(cells, **changed):
    ny, nx = cells.shape
    settings = {"decision_probability": 0.5, "cell_px": 10.0, "mpp": 100.0, "slide_size": (10 * nx, 10 * ny)}
    return positive_regions(cells, **(settings | changed))  # a cell of 1000 um: 1 mm2


RING = _cells(
    "####.",
    "#  #.",
    "####.",
    "....#",
)


def test_a_region_is_the_union_of_its_cells_with_its_hole_kept():
    regions = _regions(RING)
    due = Polygon([(0, 0), (40, 0), (40, 30), (0, 30)], holes=[[(10, 10), (30, 10), (30, 20), (10, 20)]])
    assert regions.polygons[0].equals(due)
    assert len(shapely.get_coordinates(regions.polygons[0])) == 10  # corners only
    assert regions.polygons[1].equals(box(40, 30, 50, 40))


def test_areas_means_and_numbers_of_cells_are_those_of_each_region():
    cells = RING.copy()
    cells[0, 0] = 0.6
    regions = _regions(cells)
    np.testing.assert_allclose(regions.area_mm2, [10, 1])
    np.testing.assert_allclose(regions.mean_probability, [0.87, 0.9])
    np.testing.assert_array_equal(regions.cells, [10, 1])
    assert (regions.area_mm2.sum(), regions.area_mm2.max(initial=0.0)) == pytest.approx((11, 10))


def test_cells_that_touch_at_a_corner_only_are_two_regions():
    regions = _regions(_cells("#.", ".#"))
    assert [polygon.bounds for polygon in regions.polygons] == [(0, 0, 10, 10), (10, 10, 20, 20)]


def test_holes_and_edges_that_touch_at_a_corner_make_valid_polygons():
    regions = _regions(_cells("#####", "#.###", "##.##", "###.#", "####."))
    assert len(regions.polygons) == 1
    assert shapely.is_valid(regions.polygons[0])
    assert len(regions.polygons[0].interiors) == 3
    assert regions.polygons[0].area == 21 * 100


def test_a_region_inside_a_hole_is_a_region_of_its_own():
    regions = _regions(_cells("#####", "#...#", "#.#.#", "#...#", "#####"))
    assert [polygon.area for polygon in regions.polygons] == [1600, 100]
    assert len(regions.polygons[0].interiors) == 1


def test_a_cell_on_the_threshold_or_without_a_value_is_not_positive():
    regions = _regions(np.array([[0.5, NAN, 0.51]]))
    assert [polygon.bounds for polygon in regions.polygons] == [(20, 0, 30, 10)]


def test_a_cell_of_which_no_pixel_is_on_the_slide_is_no_region():
    regions = _regions(_cells("..#", "..#"), cell_px=1.4, slide_size=(3, 2))  # begins at 2.8, that is at 3
    assert len(regions.polygons) == 0


@pytest.mark.parametrize("cells", [_cells("..", " ."), np.zeros((0, 0)), np.full((3, 4), NAN)])
def test_a_slide_without_a_positive_cell_has_no_region_and_no_area(cells):
    regions = _regions(cells)
    assert (len(regions.polygons), regions.area_mm2.sum(), regions.area_mm2.max(initial=0.0)) == (0, 0.0, 0.0)


@settings(max_examples=150, deadline=None)
@given(
    cells=arrays(bool, st.tuples(st.integers(1, 9), st.integers(1, 9))),
    cell_px=st.floats(1, 4),
    cut=st.tuples(st.floats(0, 0.99), st.floats(0, 0.99)),
)
def test_the_outlines_are_valid_apart_and_cover_exactly_the_positive_cells(cells, cell_px, cut):
    ny, nx = cells.shape
    size = tuple(max(1, int(np.ceil((count - share) * cell_px))) for count, share in zip((nx, ny), cut, strict=True))
    regions = _regions(cells.astype(float), cell_px=cell_px, slide_size=size, mpp=1000.0)
    x, y = (np.floor(np.arange(count + 1) * cell_px + 0.5) for count in (nx, ny))
    row, column = np.nonzero(cells)
    squares = shapely.box(x[column], y[row], x[column + 1], y[row + 1])
    due = shapely.intersection(shapely.union_all(squares), box(0, 0, *size))
    assert shapely.is_valid(regions.polygons).all()
    assert shapely.symmetric_difference(shapely.union_all(regions.polygons), due).area == 0
    np.testing.assert_allclose(shapely.area(regions.polygons), regions.area_mm2)
    assert regions.area_mm2.sum() == pytest.approx(due.area)
    assert regions.cells.sum() == (shapely.area(shapely.intersection(squares, box(0, 0, *size))) > 0).sum()
    for one, polygon in enumerate(regions.polygons):  # regions share corners at most
        assert not shapely.overlaps(polygon, regions.polygons[one + 1 :]).any()
        shared = shapely.intersection(polygon, regions.polygons[one + 1 :])
        assert (shapely.length(shared) == 0).all()


def _write(path, cells=RING, origin=(0, 0), **changed):
    regions = _regions(cells)
    write_regions(path, regions, origin=origin, **({"slide_id": "s1", "run": "abc", "class_name": "tumour"} | changed))
    return qupath_rules.read_features(path, "annotation")


def test_annotations_follow_qupaths_rules_and_keep_their_area(tmp_path):
    features = _write(tmp_path / "a.geojson.gz")
    assert qupath_rules.areas(features) == [1000, 100]
    assert [len(feature["geometry"]["coordinates"]) for feature in features] == [2, 1]
    assert [feature["properties"]["measurements"] for feature in features] == [
        {"area mm2": 10.0, "mean tumour probability": 0.9, "cells": 10},
        {"area mm2": 1.0, "mean tumour probability": 0.9, "cells": 1},
    ]
    assert {feature["properties"]["classification"]["name"] for feature in features} == {"tumour"}


def test_our_own_reader_of_annotations_takes_them_back(tmp_path):
    _write(tmp_path / "a.geojson.gz")
    annotations = read_qupath(tmp_path / "a.geojson.gz")
    assert (annotations.names, annotations.skipped) == (("tumour", "tumour"), {})
    assert shapely.union_all(annotations.shapes).equals(shapely.union_all(_regions(RING).polygons))


def test_slide_bounds_are_subtracted_from_every_ring(tmp_path):
    features = _write(tmp_path / "a.geojson.gz", origin=(7, 3))
    outer, hole = features[0]["geometry"]["coordinates"]
    assert (Polygon(outer).bounds, Polygon(hole).bounds) == ((-7, -3, 33, 27), (3, 7, 23, 17))


def test_ids_are_made_of_run_slide_and_the_first_cell(tmp_path):
    def ids(**changed):
        return [feature["id"] for feature in _write(tmp_path / "a.geojson.gz", **changed)]

    namespace = uuid.uuid5(uuid.NAMESPACE_URL, "pathopatch:region")
    assert ids() == [str(uuid.uuid5(namespace, f"abc/s1/{place}")) for place in ("0,0", "40,30")]
    assert ids(cells=_cells(".#", "##")) == [str(uuid.uuid5(namespace, "abc/s1/10,0"))]  # row by row
    assert ids() == ids(origin=(7, 3))
    assert not set(ids()) & set(ids(run="other")) | set(ids()) & set(ids(slide_id="s2"))


def test_equal_maps_give_equal_bytes_without_a_date_or_a_name(tmp_path):
    for name in ("a.geojson.gz", "b.geojson.gz"):
        _write(tmp_path / name, class_name='"Tumör"')
    content = (tmp_path / "a.geojson.gz").read_bytes()
    assert content == (tmp_path / "b.geojson.gz").read_bytes()
    assert content[3:8] == b"\0\0\0\0\0"  # no flags (no file name), modification time 0


def test_rings_begin_and_turn_in_a_settled_way(tmp_path):
    text = json.dumps(_write(tmp_path / "a.geojson.gz")[0]["geometry"]["coordinates"])
    assert text == (
        "[[[0, 0], [40, 0], [40, 30], [0, 30], [0, 0]], [[10, 10], [10, 20], [30, 20], [30, 10], [10, 10]]]"
    )


def test_no_region_is_an_empty_collection(tmp_path):
    assert _write(tmp_path / "a.geojson.gz", _cells("..")) == []
