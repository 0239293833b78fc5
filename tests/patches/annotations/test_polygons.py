"""Shares of patches in polygons, against answers by hand and against direct intersection."""

from __future__ import annotations

import json

import numpy as np
import pytest
import shapely
from numpy.typing import NDArray

from pathopatch.patches.annotations.polygons import PolygonRegion, region_text


def at(*origins: int) -> NDArray[np.int64]:
    return np.array(origins, np.int64)


def gear(centre: float, radius: float, vertices: int) -> shapely.Polygon:
    """An outline of many vertices, all its teeth crossing many patches."""
    angle = np.linspace(0, 2 * np.pi, vertices, endpoint=False)
    reach = radius * (0.8 + 0.15 * np.sin(7 * angle) + 0.05 * np.sin(900 * angle))
    return shapely.Polygon(np.stack([centre + reach * np.cos(angle), centre + reach * np.sin(angle)], axis=1))


def test_shares_by_hand() -> None:
    triangle = shapely.Polygon([(0, 0), (20, 0), (0, 20)])
    shares = PolygonRegion(triangle, (100, 100)).fractions(at(0, 10, 10, 0, 40), at(0, 0, 10, 12, 40), 10.0)
    # inside; cut along its diagonal; touched in a corner; a triangle of 8 x 8 px; nothing
    assert shares.tolist() == pytest.approx([1.0, 0.5, 0.0, 32 / 100, 0.0], abs=1e-15)


def test_a_patch_counts_what_is_on_the_slide_and_none_beyond() -> None:
    half = shapely.box(8, -50, 500, 500)
    fractions = PolygonRegion(half, (10, 12)).fractions(at(6, 6, 10, 0), at(0, 8, 0, 12), 8.5)
    assert fractions.tolist() == pytest.approx([0.5, 0.5, 0.0, 0.0], abs=1e-15)


def test_holes_and_parts_and_leftovers_without_area() -> None:
    ring = shapely.box(0, 0, 10, 10) - shapely.box(2, 2, 8, 8)
    parts = shapely.GeometryCollection([ring, shapely.Point(5, 5), shapely.MultiPolygon([shapely.box(20, 0, 25, 10)])])
    shares = PolygonRegion(parts, (30, 10)).fractions(at(0, 20, 2), at(0, 0, 2), 10.0)
    assert shares.tolist() == pytest.approx([0.64, 0.5, (8 * 8 - 6 * 6) / (10 * 8)], abs=1e-15)
    assert PolygonRegion(shapely.Polygon(), (30, 10)).fractions(at(0), at(0), 10.0).tolist() == [0.0]


@pytest.mark.parametrize(("x", "y", "downsample"), [(45, 90, 1.0), (50, 210, 1.0), (37, 61, 2.7), (250, 300, 1.3)])
def test_a_pixel_is_set_where_the_region_holds_its_centre(x: int, y: int, downsample: float) -> None:
    region = (gear(200, 150, 4_000) - gear(180, 40, 500)) | shapely.box(300, 300, 360, 390)
    pixels = PolygonRegion(region, (400, 400)).patch_mask(x, y, downsample=downsample, inside=(64, 48))
    columns, rows = np.meshgrid(x + (np.arange(64) + 0.5) * downsample, y + (np.arange(48) + 0.5) * downsample)
    np.testing.assert_array_equal(pixels, shapely.contains_xy(region, columns, rows))
    assert 0 < pixels.mean() < 1


def test_where_no_region_is_no_pixel_is_set_and_within_all_are() -> None:
    region = PolygonRegion(shapely.box(0, 0, 64, 64), (200, 200))
    assert not region.patch_mask(100, 100, downsample=1.0, inside=(8, 8)).any()
    assert region.patch_mask(8, 8, downsample=2.0, inside=(20, 20)).all()


@pytest.mark.parametrize("clip_loses", [False, True])
def test_a_long_outline_in_pieces_equals_the_whole(monkeypatch: pytest.MonkeyPatch, clip_loses: bool) -> None:
    if clip_loses:  # as it may, by its documentation: the clipped piece is another
        clip = "pathopatch.patches.annotations.polygons.shapely.clip_by_rect"
        monkeypatch.setattr(clip, lambda *_: shapely.box(0, 0, 1, 1))
    region = gear(12_800.5, 12_000, 4_000 if clip_loses else 50_000) - gear(12_800.5, 3_000, 1_000)
    x, y = (grid.ravel() for grid in np.meshgrid(np.arange(100) * 256, np.arange(100) * 256))
    shares = PolygonRegion(region, (25_600, 25_600)).fractions(x, y, 256.0)
    assert (shares * 256**2).sum() == pytest.approx(region.area, rel=1e-12)
    some = np.flatnonzero((shares > 0) & (shares < 1))[::250]
    boxes = shapely.box(x[some], y[some], x[some] + 256, y[some] + 256)
    assert len(some) > 3
    assert shares[some] == pytest.approx(shapely.area(shapely.intersection(region, boxes)) / 256**2, abs=1e-9)


def test_a_region_with_a_hole_is_an_annotation_in_the_frame_of_qupath() -> None:
    region = shapely.box(10, 20, 40, 50) - shapely.box(20, 30, 25.5, 35)
    feature = json.loads(region_text(region, "id", ("Tissue", (1, 2, 3)), (10, 20), isLocked=True))
    outer, hole = (shapely.Polygon(ring) for ring in feature["geometry"]["coordinates"])
    assert (outer.bounds, hole.bounds) == ((0, 0, 30, 30), (10, 10, 15.5, 15))
    assert feature["properties"] == {
        "objectType": "annotation", "classification": {"name": "Tissue", "color": [1, 2, 3]}, "isLocked": True,
    }  # fmt: skip
