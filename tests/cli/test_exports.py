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


@pytest.mark.parametrize(
    ("kind", "files"),
    [
        ("torchscript", ["README.md", "export.json", "model.pt"]),
        ("onnx", ["README.md", "export.json", "model.onnx"]),
        ("wsinfer", ["README.md", "config.json", "export.json", "torchscript_model.pt"]),
    ],
)
def test_an_export_without_a_name_bears_the_runs(
    tmp_path: Path,
    typed: Type,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    kind: str,
    files: list[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    bundle = write_model(tmp_path / "runs" / "erm-t0.25-s0" / "model")
    assert typed("export", kind, bundle) == 0
    assert capsys.readouterr().out.split() == [f"erm-t0.25-s0-{kind}"]
    assert sorted(file.name for file in Path(f"erm-t0.25-s0-{kind}").iterdir()) == files
    assert json.loads(Path(f"erm-t0.25-s0-{kind}", "export.json").read_text())["format"] == kind


def test_another_export_in_the_way_is_refused_until_forced(
    tmp_path: Path, typed: Type, capsys: pytest.CaptureFixture[str]
) -> None:
    bundle = write_model(tmp_path / "model")
    assert typed("export", "torchscript", bundle, "-o", tmp_path / "out") == 0
    assert typed("export", "torchscript", bundle, "-o", tmp_path / "out") == 0
    assert typed("export", "wsinfer", bundle, "-o", tmp_path / "out") == 1
    assert "STALE_ARTEFACT" in capsys.readouterr().err
    assert typed("export", "wsinfer", bundle, "-o", tmp_path / "out", "--force", "--quiet") == 0
    assert (tmp_path / "out" / "config.json").exists()


def test_a_folder_that_is_no_bundle_or_no_export_is_named(
    tmp_path: Path, typed: Type, capsys: pytest.CaptureFixture[str]
) -> None:
    assert typed("export", "onnx", tmp_path, "-o", tmp_path / "out") == 1
    assert "INPUT_MISSING: no file model.json" in capsys.readouterr().err
    bundle = write_model(tmp_path / "model")
    (tmp_path / "mine").mkdir()
    assert typed("export", "torchscript", bundle, "-o", tmp_path / "mine", "--force") == 1
    assert "INPUT_UNSUPPORTED" in capsys.readouterr().err
    assert typed("export", "tensorflow", bundle) == 2


SQUARE = "POLYGON ((40 20, 60 20, 60 40, 40 20))"


def test_regions_are_exported_for_tile_and_no_other_folder_is_replaced(
    tmp_path: Path, typed: Type, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    write_json(tmp_path / "heatmaps" / "s1" / "heatmap.json", {"bounds_px": [30, 10, 60, 70]})
    with DecisionLog(tmp_path / "review.sqlite") as decisions:
        decisions.record(Decision(slide_id="s1", verdict="accept", reviewer="Ada"), revision=0)
        assert typed("export", "regions", tmp_path) == 1
        assert "INPUT_MISSING: no region was drawn" in capsys.readouterr().err
        decisions.record(Decision(slide_id="s1", verdict="tumour", reviewer="Ada", region=SQUARE), revision=1)
        assert typed("export", "regions", tmp_path) == 0
        assert capsys.readouterr().out == "regions\n"
        outlines = read_annotations(tmp_path / "regions" / "s1.geojson")
        assert (outlines.names, outlines.shapes[0].bounds) == (("tumour (reviewer)",), (10, 10, 30, 30))
        assert typed("export", "regions", tmp_path) == 1
        assert "STALE_ARTEFACT" in capsys.readouterr().err
        decisions.record(Decision(slide_id="s1", verdict="non-tumour", reviewer="Ada", region=SQUARE), revision=2)
    assert typed("export", "regions", tmp_path, "--force") == 0
    assert read_annotations(tmp_path / "regions" / "s1.geojson").names == ("non-tumour (reviewer)",)
    (tmp_path / "regions" / "mine.txt").write_text("kept")
    assert typed("export", "regions", tmp_path, "--force") == 1
    assert "INPUT_UNSUPPORTED" in capsys.readouterr().err
    assert (tmp_path / "regions" / "mine.txt").read_text() == "kept"


def test_the_agreement_is_exported_once_two_reviewers_decided_on_the_same(
    tmp_path: Path, typed: Type, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    with DecisionLog(tmp_path / "review.sqlite") as decisions:
        decisions.record(Decision(slide_id="s1", verdict="accept", reviewer="Ada"), revision=0)
        assert typed("export", "agreement", tmp_path) == 1
        assert "INPUT_MISSING: no slide or patch that two reviewers decided on" in capsys.readouterr().err
        decisions.record(Decision(slide_id="s1", verdict="flag", reviewer="Bo"), revision=1)
    assert typed("export", "agreement", tmp_path) == 0
    assert Path("agreement.csv").read_text().splitlines()[1] == "s1,,,Ada,accept,,Bo,flag,,false"


def test_a_review_is_exported_as_csv_and_no_other_file_is_replaced(
    tmp_path: Path, typed: Type, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert typed("export", "review", tmp_path) == 1
    assert "INPUT_MISSING: no decisions" in capsys.readouterr().err
    with DecisionLog(tmp_path / "review.sqlite") as decisions:
        decisions.record(Decision(slide_id="s1", verdict="accept", reviewer="Ada"), revision=0)
        assert typed("export", "review", tmp_path) == 0  # while a page has it open
        assert capsys.readouterr().out == "review.csv\n"
        decisions.record(Decision(slide_id="s1", verdict="reject", reviewer="Ada"), revision=1)
    assert typed("export", "review", tmp_path) == 1
    assert "STALE_ARTEFACT" in capsys.readouterr().err
    assert typed("export", "review", tmp_path, "--force", "-q") == 0
    assert typed("export", "review", tmp_path) == 0
    assert [row.verdict for row in read_decisions(Path("review.csv"))] == ["accept", "reject"]
    assert typed("export", "review", tmp_path, "-o", "review.xlsx") == 1
    assert "not a CSV file: review.xlsx" in capsys.readouterr().err


def test_a_folder_for_qupath_is_named_with_what_to_do_next_and_what_is_left_out(
    tmp_path: Path, typed: Type, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert typed("export", "qupath", tmp_path / "out") == 1
    assert "INPUT_MISSING: no prediction here" in capsys.readouterr().err
    write_heatmap(tmp_path / "out", "a")
    assert typed("export", "qupath", "out") == 0
    told = capsys.readouterr()
    assert told.out == "qupath\n"
    assert "next, in QuPath" in told.err
    write_heatmap(tmp_path / "out", "b")
    (tmp_path / "out" / "heatmaps" / "b" / "patches.geojson.gz").unlink()
    (tmp_path / "out" / "heatmaps" / "a" / "heatmap.json").write_text("{")
    assert typed("export", "qupath", "out", "-q") == 1
    assert "STALE_ARTEFACT" in capsys.readouterr().err
    assert typed("export", "qupath", "out", "-q", "--force") == 0
    assert "warning: b: the heatmap lacks patches.geojson.gz" in capsys.readouterr().err
