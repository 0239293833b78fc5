"""Outlines of QuPath and ASAP: what they mean, where they lie, and what is refused."""

from __future__ import annotations

import gzip
import json
import logging
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from made_outlines import feature, geojson, polygon, square
from malformed_slides import bounded

from pathopatch.core.config import AnnotationConfig, LabelConfig, TileConfig
from pathopatch.core.errors import (
    InputCorruptError,
    InputMissingError,
    InputTooLargeError,
    InputUnsupportedError,
    ModalityMismatchError,
    StaleArtefactError,
)
from pathopatch.patches.annotations import outlines
from pathopatch.patches.annotations.outlines import read_annotations
from pathopatch.patches.labels import LabelSource, Regions, SlideLabels, find_regions
from pathopatch.patches.tile import tile_slide

CONFIG = AnnotationConfig(tumor=("Tumor",), non_tumor=("Stroma",), holes=("Hole",), ignored=("Ignore*", "None"))
SIZE = (1000, 800)


def area(x: float, y: float, side: float, name: str | None = "Tumor", kind: str | None = "annotation") -> Any:
    return polygon(square(x, y, side), name=name, kind=kind)


def asap(folder: Path, *shapes: tuple[str, str, list[list[float]]], head: str = "") -> Path:
    """(type, group, points) of each annotation; the points come in the wrong order and are numbered."""
    lines = [head, "<ASAP_Annotations><Annotations>"]
    for kind, group, points in shapes:
        lines.append(f'<Annotation Name="a" Type="{kind}" PartOfGroup="{group}" Color="#F4FA58"><Coordinates>')
        lines += [
            f'<Coordinate Order="{i}" X="{x}" Y="{y}" />'
            for i, (x, y) in sorted(enumerate(points), key=lambda point: point[0] % 2)
        ]
        lines.append("</Coordinates></Annotation>")
    lines += ['</Annotations><AnnotationGroups><Group Name="Tumor" PartOfGroup="None"/></AnnotationGroups>']
    (folder / "a.xml").write_text("\n".join([*lines, "</ASAP_Annotations>"]))
    return folder / "a.xml"


def regions_of(path: Path, config: AnnotationConfig = CONFIG, **options: Any) -> Regions:
    return find_regions(read_annotations(path), config, slide_size=SIZE, **options)


def test_polygons_with_holes_multipolygons_and_collections_have_their_area(tmp_path: Path) -> None:
    ring = polygon(square(0, 0, 100), square(20, 20, 50))
    two = {"type": "MultiPolygon", "coordinates": [[square(200, 0, 10)], [square(300, 0, 10), square(302, 2, 5)]]}
    mixed = {"type": "GeometryCollection", "geometries": [two, {"type": "LineString", "coordinates": [[0, 0], [9, 9]]}]}
    features = (ring, feature({"type": "GeometryCollection", "geometries": [mixed]}))
    expected = 100**2 - 50**2 + 100 + 75
    assert regions_of(geojson(tmp_path, *features)).tumor.area == expected
    bare = tmp_path / "bare.json"
    bare.write_text(json.dumps(features))
    packed = tmp_path / "packed.geojson.gz"
    packed.write_bytes(gzip.compress(bare.read_bytes()))
    one = tmp_path / "one.geojson"
    one.write_text(json.dumps(features[0]))
    assert [regions_of(path).tumor.area for path in (bare, packed, one)] == [expected, expected, 7500]


def test_overlaps_count_once_tumour_prevails_and_holes_are_cut_out(tmp_path: Path) -> None:
    path = geojson(
        tmp_path,
        area(0, 0, 100),
        area(50, 0, 100),
        area(140, 0, 20, "Stroma"),
        area(0, 0, 10, "Hole"),
        area(500, 500, 10, "Hole"),
        area(700, 700, 50, "Ignore*"),
    )
    regions = regions_of(path)
    assert regions.tumor.area == 150 * 100 - 100
    assert regions.labelled.area == 150 * 100 + 10 * 20 + 100
    assert regions.warnings == ("1 outlines of ignored classes left out",)
    assert regions_of(path, CONFIG.model_copy(update={"labelled": "whole-slide"})).labelled is None


def test_only_annotations_count_and_the_rest_is_counted(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    old = area(0, 0, 10, kind=None) | {"id": "PathDetectionObject"}
    path = geojson(
        tmp_path,
        area(0, 0, 10, "any", "tile"),
        area(0, 0, 10, "any", "detection"),
        area(0, 0, 10, None, "detection"),
        old,
        feature({"type": "Point", "coordinates": [1, 1]}, "any"),
        area(0, 0, 20, kind=None),
        area(0, 0, 10, kind=None) | {"id": "PathAnnotationObject"},
    )
    assert regions_of(path).tumor.area == 400
    with caplog.at_level(logging.WARNING):
        SlideLabels(LabelSource(annotations=path), slide_size=SIZE, config=LabelConfig(annotations=CONFIG))
    assert "2 objects of the type 'detection' left out" in caplog.text
    assert "1 annotations without area (points, lines) left out" in caplog.text


def test_an_unmapped_class_is_an_error_that_lists_the_names_and_the_key(tmp_path: Path) -> None:
    derived = area(0, 0, 10) | {"properties": {"classification": {"names": ["Immune", "CD3"]}}}
    path = geojson(tmp_path, area(0, 0, 10), area(0, 0, 10), derived, area(0, 0, 10, None))
    with pytest.raises(InputUnsupportedError) as caught:
        regions_of(path)
    assert "without a meaning: '(unclassified)', 'Immune: CD3'" in caught.value.message
    assert "'Tumor' (2)" in caught.value.message
    assert "[tile.labels.annotations]" in caught.value.remedy


def test_qupath_measures_from_the_bounds_and_asap_from_the_slide(tmp_path: Path) -> None:
    origin = {"bounds_origin": (300, 200)}
    path = geojson(tmp_path, area(10, 20, 100))
    assert regions_of(path, **origin).tumor.bounds == (310, 220, 410, 320)
    whole = CONFIG.model_copy(update={"subtracted_bounds": False})
    assert regions_of(path, whole, **origin).tumor.bounds == (10, 20, 110, 120)
    path = asap(tmp_path, ("Polygon", "Tumor", square(10, 20, 100)[:4]))
    assert regions_of(path, **origin).tumor.bounds == (10, 20, 110, 120)


def test_asap_groups_are_the_classes_and_what_has_no_area_is_counted(tmp_path: Path) -> None:
    shapes = [
        ("Polygon", "Tumor", square(0, 0, 100)[:4]),
        ("Spline", "Hole", square(10, 10, 20)[:4]),
        ("Rectangle", "Stroma", square(500, 0, 10)[:4]),
        ("Dot", "Tumor", [[1.0, 1.0]]),
        ("Polygon", "None", square(0, 0, 700)[:4]),
    ]
    regions = regions_of(asap(tmp_path, *shapes))
    assert (regions.tumor.area, regions.labelled.area) == (9600, 10100)
    assert "1 annotations of the type 'Dot' left out" in regions.warnings


def test_self_crossing_outlines_are_repaired_counted_and_have_no_hole(tmp_path: Path) -> None:
    bow = [[100, 0], [110, 10], [110, 0], [100, 10], [100, 0]]
    twice = [[0, 0], [10, 0], [10, 10], [0, 10], [0, 2], [8, 2], [8, 8], [2, 8], [2, 0], [0, 0]]
    path = geojson(tmp_path, *(polygon(points) for points in (bow, twice)))
    regions = regions_of(path)
    assert regions.warnings == ("2 outlines that cross themselves were repaired",)
    assert regions.tumor.area == pytest.approx(50 + 100 - 4)


def outline(points: Any) -> dict[str, Any]:
    """Return a feature of points that are not closed."""
    return polygon(np.vstack([points, points[:1]]).tolist())


def random_corners(number: int) -> Any:
    return np.random.default_rng(0).uniform((0, 0), SIZE, (number, 2))


def comb(teeth: int) -> Any:
    """A valid outline of long teeth, side by side."""
    y = np.arange(2 * teeth) * 700 / (2 * teeth)
    return np.vstack([np.column_stack([np.where(np.arange(2 * teeth) % 2, 700, 1), y]), [[700, 710], [0, 710]]])


TANGLES: dict[str, list[dict[str, Any]]] = {
    "random corners": [outline(random_corners(3000))],
    "many more random corners": [outline(random_corners(30_000))],
    "random corners after others": [area(x, 0, 1) for x in range(900)] + [outline(random_corners(3000))],
    "combs that are valid alone": [outline(comb(1500)), outline(comb(1500)[:, ::-1])],
    "corners on one line": [outline(np.vstack([random_corners(3000) * (1, 0), [[5, 5]]]))],
    "a fan": [outline(random_corners(6000) * np.tile([[0], [1]], (3000, 1)))],
}


@pytest.mark.fault("tangle")
@pytest.mark.parametrize("tangle", TANGLES)
def test_a_tangle_of_lines_is_refused_before_it_is_mended(tangle: str, tmp_path: Path) -> None:
    path = geojson(tmp_path, *TANGLES[tangle])
    with bounded(), pytest.raises(InputTooLargeError, match=r"\(Tumor\) crosses itself or others too often") as raised:
        regions_of(path)
    assert raised.value.place == str(path)


def test_a_scribble_and_regions_that_share_their_borders_are_no_tangle(tmp_path: Path) -> None:
    with bounded(6):  # 1 s alone, and 2.3 s in a process that has run thousands of tests
        assert regions_of(geojson(tmp_path, outline(random_corners(200)))).tumor.area > 0.3 * SIZE[0] * SIZE[1]
        triangles = [
            outline(np.array(corners) * 10)
            for x in range(70)
            for y in range(70)
            for corners in ([(x, y), (x + 1, y), (x + 1, y + 1)], [(x, y), (x + 1, y + 1), (x, y + 1)])
        ]
        assert regions_of(geojson(tmp_path, *triangles)).tumor.area == pytest.approx(700 * 700)


def test_an_outline_without_area_is_counted_as_such_and_refuses_nothing(tmp_path: Path) -> None:
    flat = [polygon(points) for points in ([[0, 0], [9, 0], [0, 0]],
            [[0, 0], [9, 0], [20, 0], [0, 0]])]  # fmt: skip
    unlocated = feature(None)
    expected = ("1 annotations without area (points, lines) left out", "2 outlines without area left out")
    regions = regions_of(geojson(tmp_path, *flat, unlocated, area(0, 0, 10)))
    assert (regions.tumor.area, regions.warnings) == (100, expected)
    assert regions_of(geojson(tmp_path, *flat)).tumor.is_empty
    shapes = [("Polygon", "Tumor", [[1.0, 1.0]]), ("Spline", "Tumor", [[1.0, 1.0], [5.0, 5.0]])]
    clicks = regions_of(asap(tmp_path, *shapes, ("Polygon", "Tumor", square(0, 0, 10)[:4])))
    assert (clicks.tumor.area, clicks.warnings) == (100, ("2 annotations of fewer than three points left out",))


def test_a_hole_takes_away_only_what_it_shares_with_its_outline(tmp_path: Path) -> None:
    shape = polygon(square(0, 0, 10), square(5, 0, 10), square(40, 0, 5))
    assert regions_of(geojson(tmp_path, shape)).tumor.area == 50


def test_outlines_beyond_the_slide_are_counted_and_all_of_them_refused(tmp_path: Path) -> None:
    path = geojson(tmp_path, area(0, 0, 100), area(2000, 0, 100), area(950, 0, 100))
    assert regions_of(path).warnings == (
        "1 outlines beyond the slide left out",
        "1 outlines reach over the slide's edge and are cut",
    )
    with pytest.raises(ModalityMismatchError, match="span 2000 to 2100 and 0 to 100 px, the slide is 1000 x 800"):
        regions_of(geojson(tmp_path, area(2000, 0, 100)))


def test_a_file_without_outlines_labels_nothing_or_the_whole_slide(tmp_path: Path) -> None:
    path = geojson(tmp_path)
    assert "no patch of this slide is labelled" in regions_of(path).warnings[0]
    origins = np.array([0], np.int64)
    for labelled, expected in (("annotated", 0.0), ("whole-slide", 1.0)):
        config = LabelConfig(annotations=CONFIG.model_copy(update={"labelled": labelled}))
        stated = SlideLabels(LabelSource(annotations=path), slide_size=SIZE, config=config)
        fractions = stated.fractions(origins, origins, 64.0)
        assert [fraction.tolist() for fraction in fractions] == [[0.0], [expected]]


BAD_POINTS = ("NaN", "Infinity", "1e9", "1" + "0" * 400, "null", '"a"', "[1]")


@pytest.mark.parametrize("number", BAD_POINTS)
def test_a_point_that_is_none_is_refused_by_its_feature(tmp_path: Path, number: str) -> None:
    path = geojson(tmp_path, area(0, 0, 10), area(77777, 0, 10))
    path.write_text(path.read_text().replace("77777", number, 1))
    with pytest.raises(InputCorruptError, match=r"feature 1: .*(point|coordinates)"):
        read_annotations(path)


BAD_JSON = {
    "empty": "",
    "cut": '{"type": "FeatureCollection", "features": [{"type"',
    "a number": "3",
    "a dictionary": '{"type": "Polygon"}',
    "deep": "[" * 100_000,
    "deep geometry": json.dumps(
        [feature(geometry) for geometry in [{"type": "GeometryCollection", "geometries": []}]]
    ).replace(
        '"geometries": []', '"geometries": [{"type": "GeometryCollection", ' * 40 + '"geometries": []' + "}]" * 40
    ),
    "no feature": "[1]",
    "no geometry": '[{"type": "Feature", "properties": {}}]',
    "two points": '[{"type": "Feature", "geometry": {"type": "Polygon", "coordinates": [[[0, 0], [1, 1]]]}}]',
    "a circle": '[{"type": "Feature", "geometry": {"type": "Circle", "coordinates": []}}]',
}


BOMB = '<!DOCTYPE a [<!ENTITY a "aaaaaaaaaa">' + "".join(
    f'<!ENTITY {chr(98 + i)} "{f"&{chr(97 + i)};" * 10}">' for i in range(10)
) + "]>"  # fmt: skip
BAD_XML = {
    "empty": "",
    "cut": "<ASAP_Annotations><Annotations>",
    "other": "<html/>",
    "deep": "<ASAP_Annotations>" + "<a>" * 10_000 + "</a>" * 10_000 + "</ASAP_Annotations>",
    "entity bomb": BOMB + "<ASAP_Annotations>&k;</ASAP_Annotations>",
    "external entity": '<!DOCTYPE a [<!ENTITY x SYSTEM "file:///etc/passwd">]><ASAP_Annotations>&x;</ASAP_Annotations>',
}


CORRUPT = [*((text, "a.geojson") for text in BAD_JSON.values()), *((text, "a.xml") for text in BAD_XML.values())]


@pytest.mark.parametrize(("content", "name"), CORRUPT, ids=[*BAD_JSON, *BAD_XML])
def test_what_is_no_file_of_annotations_is_corrupt(tmp_path: Path, content: str, name: str) -> None:
    path = tmp_path / name
    path.write_text(content)
    with pytest.raises(InputCorruptError):
        read_annotations(path)


@pytest.mark.parametrize("x", ["nan", "inf", "1e30", "a", ""])
def test_an_asap_point_that_is_none_is_refused(tmp_path: Path, x: str) -> None:
    path = asap(tmp_path, ("Polygon", "Tumor", [[77777, 0], [1, 0], [1, 1]]))
    path.write_text(path.read_text().replace("77777", x))
    with pytest.raises(InputCorruptError):
        read_annotations(path)


def test_missing_foreign_and_too_large_files_are_different_errors(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("a.xml", "a.geojson", "a.geojson.gz"):
        with pytest.raises(InputMissingError):
            read_annotations(tmp_path / name)
    with pytest.raises(InputUnsupportedError, match="qpdata"):
        read_annotations(tmp_path / "a.qpdata")
    monkeypatch.setattr(outlines, "MAX_BYTES", 2**20)
    bomb = tmp_path / "bomb.geojson.gz"
    bomb.write_bytes(gzip.compress(b" " * 2**24))
    with pytest.raises(InputTooLargeError):
        read_annotations(bomb)
    bomb.write_bytes(bomb.read_bytes()[:500])
    with pytest.raises(InputCorruptError, match="unpacked"):
        read_annotations(bomb)


def test_the_fractions_of_patches_follow_the_outlines_exactly(tmp_path: Path) -> None:
    path = geojson(tmp_path, area(0, 0, 100.5), area(100.5, 0, 50, "Stroma"))
    origins = np.array([0, 64, 128], np.int64)
    stated = SlideLabels(LabelSource(annotations=path), slide_size=SIZE, config=LabelConfig(annotations=CONFIG))
    tumor, labelled = stated.fractions(origins, np.zeros(3, np.int64), 64.0)
    assert tumor == pytest.approx([1, 36.5 / 64, 0], abs=1e-12)
    assert labelled == pytest.approx([1, (36.5 * 64 + 27.5 * 50) / 64**2, 22.5 * 50 / 64**2], abs=1e-12)


def test_10000_patches_and_an_outline_of_50000_points_take_seconds(tmp_path: Path) -> None:
    angle = np.linspace(0, 2 * np.pi, 50_000, endpoint=False)
    reach = 12_000 * (0.8 + 0.2 * np.sin(200 * angle))
    points = np.stack([12_800 + reach * np.cos(angle), 12_800 + reach * np.sin(angle)], axis=1).round(2).tolist()
    path = geojson(tmp_path, polygon([*points, points[0]]))
    x, y = (grid.ravel() for grid in np.meshgrid(np.arange(100) * 256, np.arange(100) * 256))
    config = LabelConfig(annotations=CONFIG)
    started = time.process_time()
    stated = SlideLabels(LabelSource(annotations=path), slide_size=(25_600, 25_600), config=config)
    tumor, _ = stated.fractions(x, y, 256.0)
    assert time.process_time() - started < 5
    exact = 0.5 * 12_000**2 * (0.8**2 + 0.2**2 / 2) * 2 * np.pi  # of the curve; the chords lose 1e-4 of it
    assert tumor.sum() * 256**2 == pytest.approx(exact, rel=1e-3)


def test_a_slide_with_bounds_is_labelled_where_qupath_shows_the_outline(
    make_slide: Callable[..., Any], two_discs: Any, tmp_path: Path
) -> None:
    slide = make_slide(np.where(two_discs, 157, 0).astype(np.uint16)[None])
    slide.bounds = (32, 64, 100, 80)
    source = LabelSource(annotations=geojson(tmp_path, area(0, 0, 32), area(32, 0, 16, "Stroma")))
    config = TileConfig(patch_px=32, labels=LabelConfig(annotations=CONFIG, min_labelled_fraction=0.25))
    tile_slide(slide, config, tmp_path / "work", labels=source)
    table = pd.read_parquet(tmp_path / "work" / "patches" / "slide.parquet").set_index("patch_id")
    labelled = table[table["label"] >= 0]
    assert labelled["label"].to_dict() == {"slide@32,64": 1, "slide@64,64": 0}
    geojson(tmp_path, area(0, 0, 30))
    with pytest.raises(StaleArtefactError, match="annotations"):
        tile_slide(slide, config, tmp_path / "work", labels=source)
