"""The command line of exports of models and reviews: destinations, exit codes and messages."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from made_heatmap import write_heatmap
from made_model import write_model

from pathopatch.core.files import write_json
from pathopatch.groups.decisions.decision import Decision
from pathopatch.groups.decisions.table import read_decisions
from pathopatch.patches.annotations.outlines import read_annotations
from pathopatch.review.decisions import DecisionLog

Type = Callable[..., int]


def test_an_export_without_a_name_bears_the_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, said: Callable
) -> None:
    monkeypatch.chdir(tmp_path)
    bundle = write_model(tmp_path / "runs" / "erm-t0.25-s0" / "model")
    assert said("export", "wsinfer", bundle).out.split() == ["erm-t0.25-s0-wsinfer"]
    assert json.loads(Path("erm-t0.25-s0-wsinfer", "export.json").read_text())["format"] == "wsinfer"
    assert said("export", "wsinfer", bundle.parent).out.split() == ["erm-t0.25-s0-wsinfer"]  # the run itself


SQUARE = "POLYGON ((40 20, 60 20, 60 40, 40 20))"


def test_regions_are_exported_for_tile_and_no_other_folder_is_replaced(
    tmp_path: Path, typed: Type, monkeypatch: pytest.MonkeyPatch, said: Callable
) -> None:
    monkeypatch.chdir(tmp_path)
    write_json(tmp_path / "heatmaps" / "s1" / "heatmap.json", {"bounds_px": [30, 10, 60, 70]})
    with DecisionLog(tmp_path / "review.sqlite") as decisions:
        decisions.record(Decision(slide_id="s1", verdict="accept", reviewer="Ada"), revision=0)
        assert "INPUT_MISSING: no region was drawn" in said("export", "regions", tmp_path, code=1).err
        decisions.record(Decision(slide_id="s1", verdict="tumour", reviewer="Ada", region=SQUARE), revision=1)
        assert said("export", "regions", tmp_path).out == "regions\n"
        outlines = read_annotations(tmp_path / "regions" / "s1.geojson")
        assert (outlines.names, outlines.shapes[0].bounds) == (("tumour (reviewer)",), (10, 10, 30, 30))
        assert "STALE_ARTEFACT" in said("export", "regions", tmp_path, code=1).err
        decisions.record(Decision(slide_id="s1", verdict="non-tumour", reviewer="Ada", region=SQUARE), revision=2)
    assert typed("export", "regions", tmp_path, "--force") == 0
    assert read_annotations(tmp_path / "regions" / "s1.geojson").names == ("non-tumour (reviewer)",)
    (tmp_path / "regions" / "mine.txt").write_text("kept")
    assert "INPUT_UNSUPPORTED" in said("export", "regions", tmp_path, "--force", code=1).err
    assert (tmp_path / "regions" / "mine.txt").read_text() == "kept"


def test_a_review_is_exported_as_csv_and_no_other_file_is_replaced(
    tmp_path: Path, typed: Type, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], said: Callable
) -> None:
    monkeypatch.chdir(tmp_path)
    assert "INPUT_MISSING: no decisions" in said("export", "review", tmp_path, code=1).err
    with DecisionLog(tmp_path / "review.sqlite") as decisions:
        decisions.record(Decision(slide_id="s1", verdict="accept", reviewer="Ada"), revision=0)
        assert typed("export", "review", tmp_path) == 0  # while a page has it open
        assert capsys.readouterr().out == "review.csv\n"
        decisions.record(Decision(slide_id="s1", verdict="reject", reviewer="Ada"), revision=1)
    assert "STALE_ARTEFACT" in said("export", "review", tmp_path, code=1).err
    assert typed("export", "review", tmp_path, "--force") == 0
    assert typed("export", "review", tmp_path) == 0
    assert [row.verdict for row in read_decisions(Path("review.csv"))] == ["accept", "reject"]
    assert "not a CSV file: review.xlsx" in said("export", "review", tmp_path, "-o", "review.xlsx", code=1).err


def test_a_folder_for_qupath_is_named_with_what_to_do_next(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, said: Callable
) -> None:
    monkeypatch.chdir(tmp_path)
    write_heatmap(tmp_path / "out", "a")
    told = said("export", "qupath", "out")
    assert told.out == "qupath\n"
    assert "next, in QuPath" in told.err
