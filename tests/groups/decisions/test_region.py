"""Regions that reviewers draw: which outlines are taken, which one counts, and what `tile` reads of them."""

from __future__ import annotations

import json
import sqlite3
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import shapely

from pathopatch.core.config import AnnotationConfig
from pathopatch.core.errors import InputUnsupportedError
from pathopatch.groups.decisions.decision import (
    Decision,
    RecordedDecision,
    StandingDecisions,
    apply_decisions,
    decision_summary,
    region_polygon,
)
from pathopatch.groups.decisions.table import decisions_csv, read_decisions
from pathopatch.heatmaps.qupath import region_files
from pathopatch.patches.annotations.masks import TissueCorrection, read_tissue_mask
from pathopatch.patches.annotations.outlines import read_annotations
from pathopatch.patches.labels import find_regions
from pathopatch.review.decisions import DecisionLog

SQUARE = "POLYGON ((100 200, 300 200, 300 400, 100 400, 100 200))"
TRIANGLE = "POLYGON ((0 0, 40 0, 0 30, 0 0))"


def region(outline: str = SQUARE, verdict: str = "tumour", **values: Any) -> Decision:
    return Decision(**{"slide_id": "s1", "verdict": verdict, "reviewer": "Ada", "region": outline, **values})


def test_an_outline_is_a_polygon_of_level_0_px() -> None:
    assert region_polygon(TRIANGLE).area == 600
    assert region_polygon(SQUARE).bounds == (100, 200, 300, 400)


@pytest.mark.parametrize(
    ("outline", "message"),
    [
        ("POLYGON ((0 0, 10 10, 10 0, 0 10, 0 0))", r"crosses or touches itself near 5, 5 px"),
        ("POLYGON ((0 0, 10 0, 10 10, 5 0, 0 10, 0 0))", "crosses or touches itself near 5, 0 px"),
        ("POLYGON ((0 0, 10 0, 0 10, 3 3))", "not closed"),
        ("POLYGON ((0 0, 10 0, 0 0, 0 0))", "fewer than three places"),
        ("POLYGON ((0 0, 10 0, 20 0, 0 0))", "crosses or touches itself"),
        ("POLYGON ((0 0, 10 0, 0 0))", "no outline"),
        ("POLYGON ((0 0, 10 0, 0 -10, 0 0))", "no outline"),
        ("POLYGON ((0 0, 10.5 0, 0 10, 0 0))", "no outline"),
        ("POLYGON EMPTY", "no outline"),
        ("here", "no outline"),
    ],
)
def test_what_is_no_valid_outline_is_refused_in_words(outline: str, message: str) -> None:
    with pytest.raises(InputUnsupportedError, match=message) as raised:
        region(outline)
    assert raised.value.place == "region"
    assert raised.value.remedy


def test_a_region_has_no_corner_and_its_own_verdicts() -> None:
    for values in ({"x": 0, "y": 0}, {"verdict": "accept"}, {"verdict": "unsure"}):
        with pytest.raises(InputUnsupportedError):
            region(**values)
    with pytest.raises(InputUnsupportedError, match="no verdict on a slide"):
        Decision(slide_id="s1", verdict="removed", reviewer="Ada")


def test_a_region_is_drawn_relabelled_removed_and_comes_back_by_undo(tmp_path: Path) -> None:
    with DecisionLog(tmp_path / "review.sqlite") as log:
        log.record(region(), revision=0)
        log.record(region(TRIANGLE, "non-tumour"), revision=1)
        log.record(region(SQUARE, "non-tumour", reviewer="Bo"), revision=2)
        assert [(one.decision.region, one.decision.verdict) for one in StandingDecisions(log.rows()).by_time()] == [
            (TRIANGLE, "non-tumour"),
            (SQUARE, "non-tumour"),
        ]
        log.record(region(TRIANGLE, "removed"), revision=3)
        state = log.state("s1")
        assert [row["region"] for row in state["regions"]] == [SQUARE]
        assert (state["decision"], state["patches"]) == (None, [])
        assert not any(verdict["decision"] for verdict in log.verdicts().values())
        assert [row["stands"] for row in state["history"]] == [True, True, False, False]
        log.undo("s1", "Ada", 4)  # the removal
        assert [one.decision.region for one in StandingDecisions(log.rows()).by_time()] == [TRIANGLE, SQUARE]
        log.undo("s1", "Bo", 5)  # the other class
        assert [(one.decision.region, one.decision.verdict) for one in StandingDecisions(log.rows()).by_time()] == [
            (SQUARE, "tumour"),
            (TRIANGLE, "non-tumour"),
        ]


def test_regions_come_back_from_an_export(tmp_path: Path) -> None:
    with DecisionLog(tmp_path / "review.sqlite") as log:
        log.record(region(comment="glands"), revision=0)
        log.record(Decision(slide_id="s1", verdict="accept", reviewer="Ada"), revision=1)
        rows = log.rows()
        (tmp_path / "review.csv").write_bytes(decisions_csv(rows).encode())
        with DecisionLog(tmp_path / "other.sqlite") as other:
            assert other.merge(read_decisions(tmp_path / "review.csv")) == 2
            assert other.rows() == rows


def test_a_log_without_regions_takes_its_first_one(tmp_path: Path) -> None:
    path = tmp_path / "review.sqlite"
    with DecisionLog(path) as log:
        log.record(Decision(slide_id="s1", verdict="accept", reviewer="Ada"), revision=0)
    with sqlite3.connect(path) as earlier:
        earlier.execute("ALTER TABLE decisions DROP COLUMN region")
    earlier.close()
    with DecisionLog(path) as log:
        log.record(region(), revision=1)
    with DecisionLog(path) as log:
        assert [row.region for row in log.rows()] == ["", SQUARE]


def test_tile_reads_a_region_at_its_place_whatever_the_bounds(tmp_path: Path) -> None:
    """The slide's bounds begin at (30, 50), from which QuPath measures; `tile` adds them again."""
    with DecisionLog(tmp_path / "review.sqlite") as log:
        log.record(region(comment="ä"), revision=0)
        log.record(region(TRIANGLE, "non-tumour"), revision=1)
        log.record(region(SQUARE, "tumour", slide_id="s2"), revision=0)
        log.record(region(SQUARE, "removed", slide_id="s2"), revision=1)
        files = region_files(log.rows(), lambda _: (30, 50))
    assert list(files) == ["s1.geojson"]
    path = tmp_path / "s1.geojson"
    path.write_text(files["s1.geojson"], encoding="utf-8")
    config = AnnotationConfig(tumor=("tumour (reviewer)",), non_tumor=("non-tumour (reviewer)",))
    found = find_regions(read_annotations(path), config, slide_size=(1000, 1000), bounds_origin=(30, 50))
    assert found.warnings == ()
    assert shapely.equals(found.tumor, region_polygon(SQUARE))
    assert found.labelled.area == 200 * 200 + 600
    first, second = json.loads(files["s1.geojson"])["features"]
    assert first["geometry"]["coordinates"][0][0] == [70, 150]
    assert first["properties"]["metadata"]["note"] == "ä"
    assert first["id"] != second["id"]


def test_tile_reads_corrections_of_the_tissue_apart_from_annotations(tmp_path: Path) -> None:
    with DecisionLog(tmp_path / "review.sqlite") as log:
        log.record(region(), revision=0)
        log.record(region(SQUARE, "missed tissue", slide_id="s2"), revision=0)
        log.record(region(TRIANGLE, "not tissue", slide_id="s2"), revision=1)
        files = region_files(log.rows(), lambda _: (30, 50))
    assert list(files) == ["s1.geojson", "s2.tissue.geojson"]
    path = tmp_path / "s2.geojson"
    path.write_text(files["s2.tissue.geojson"], encoding="utf-8")
    size = (1000, 1000)
    found = read_tissue_mask(path, slide_size=size, overview_px=size, bounds_origin=(30, 50))
    assert isinstance(found, TissueCorrection)
    square, triangle = region_polygon(SQUARE), region_polygon(TRIANGLE)
    assert found.missed.sum() == pytest.approx(square.difference(triangle).area, rel=0.01)
    assert found.not_tissue.sum() == pytest.approx(triangle.area, rel=0.05)


def test_regions_label_no_patch_and_are_counted() -> None:
    patches = pd.DataFrame({"patch_id": ["s1@0,0"], "slide_id": ["s1"], "label": [0]})
    rows = [
        RecordedDecision(slide_id="s1", verdict=verdict, reviewer="Ada", region=SQUARE, id=n, made=f"2026-01-0{n}")
        for n, verdict in enumerate(("tumour", "non-tumour"), 1)
    ]
    applied = apply_decisions(patches, rows)
    pd.testing.assert_frame_equal(applied.patches, patches)
    assert applied.summary["regions"] == 1
    assert "1 region drawn and not used here" in decision_summary(applied.summary)
