"""A folder predicted each night: what the summary and the exit code say of a week, of known failures and of rescans."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import made_slides as made
import numpy as np
import pytest
from made_model import write_model

from pathopatch.core.artefacts import read_stamp
from pathopatch.core.errors import InputUnsupportedError, TableError
from pathopatch.core.input_files import LeftOut
from pathopatch.core.status import update_status
from pathopatch.core.task import Outcome
from pathopatch.slides.manifest import SlideRow
from pathopatch.stages.batch.run_summary import RunSummary, ignore_failure, read_ignored, with_ignored

Night = Callable[..., tuple[dict[str, Any], str]]


def scan(folder: Path, name: str, seed: int, *, width: int = 64, share: float = 1.0) -> None:
    """Write a slide of its own pixels, or a first `share` of its bytes."""
    disc = made.disc_image(width, 64, (30, 30), 24, tissue=(180, 90, 150), glass=(245, 245, 245))
    path = folder / f"{name}.tif"
    made.write_rgb_pyramid(path, disc - made.noise(3, 64, width, np.uint8, seed=seed) // 16, levels=1)
    path.write_bytes(path.read_bytes()[: int(share * path.stat().st_size)])


@pytest.fixture
def slides(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    write_model(tmp_path / "model")
    (tmp_path / "slides").mkdir()
    monkeypatch.chdir(tmp_path)
    return tmp_path / "slides"


@pytest.fixture
def night(slides: Path, said: Callable[..., Any]) -> Night:
    """Return a function that predicts the folder as at night; it returns the summary, and the text that was printed."""

    def run(*options: str, code: int = 0) -> tuple[dict[str, Any], str]:
        words = ("predict", slides, "--model", "model", "-o", "out", "--summary", "out/last-run.json", *options)
        printed = said(*words, code=code)
        assert "slide" not in printed.err
        summary, text = json.loads(Path("out/last-run.json").read_text()), Path("out/last-run.txt").read_text()
        assert summary["exit_code"] == code
        assert printed.out == text
        assert len(text.splitlines()) <= 24
        assert max(map(len, text.splitlines())) <= 79
        return summary, text

    return run


def told(summary: dict[str, Any]) -> dict[str, Any]:
    """Return what a summary lists, without what is empty; of failures their codes."""
    listed = {
        name: summary[name] for name in ("new", "done", "changed", "gone", "ignored", "left_out") if summary[name]
    }
    failed = {slide: item["code"] for slide, item in summary["failed"].items()}
    return listed | ({"failed": failed} if failed else {}) | {"unchanged": summary["unchanged"]}


@pytest.mark.slow
def test_a_week_of_nights(slides: Path, night: Night, said: Callable[..., Any]) -> None:
    scan(slides, "a", 1)
    scan(slides, "b", 2)
    (slides / "notes.txt").write_text("the scanner was cleaned")
    monday, text = night()
    left_out = {str(slides / "notes.txt"): monday["left_out"][str(slides / "notes.txt")]}
    assert told(monday) == {
        "new": {"a": "done", "b": "done"},
        "done": {"a": "done", "b": "done"},
        "left_out": left_out,
        "unchanged": 0,
    }
    assert text.splitlines()[0] == "pathopatch predict: all well, exit code 0"
    assert "new 2: a (done), b (done)\n" in text
    assert "left out 1: notes.txt (" in text

    # A new slide, and one of which the scanner wrote a half.
    (slides / "notes.txt").unlink()
    scan(slides, "c", 3)
    scan(slides, "broken", 4, share=0.5)
    tuesday, text = night(code=3)
    assert told(tuesday) == {
        "new": {"broken": "failed", "c": "done"},
        "done": {"c": "done"},
        "failed": {"broken": "INPUT_CORRUPT"},
        "unchanged": 2,
    }
    assert tuesday["failed"]["broken"]["remedy"]
    assert text.splitlines()[0] == "pathopatch predict: not all well, exit code 3"
    assert "\nbroken: INPUT_CORRUPT: " in text
    assert f"\n  Remedy: {tuesday['failed']['broken']['remedy']}\n" in text
    assert "Remedy" not in tuesday["failed"]["broken"]["message"]

    # It was looked at: from now on it does not alarm.
    said("status", "out", "--ignore", "broken", "--why", "block lost, no rescan")
    wednesday, text = night()
    assert told(wednesday) == {"ignored": {"broken": "INPUT_CORRUPT: block lost, no rescan"}, "unchanged": 3}
    assert "ignored 1: broken (INPUT_CORRUPT: block lost, no rescan)" in text

    # A rescan under the name of a slide that is done: told, and nothing is replaced unasked.
    scan(slides, "b", 5, width=96)
    before = read_stamp(Path("out/predictions/b.parquet"))
    thursday, text = night(code=3)
    assert told(thursday) == {
        "failed": {"b": "STALE_ARTEFACT"},
        "changed": {"b": "not predicted again"},
        "ignored": wednesday["ignored"],
        "unchanged": 2,
    }
    assert "--replace-changed" in text
    assert read_stamp(Path("out/predictions/b.parquet")) == before

    friday, text = night("--replace-changed")
    assert told(friday) == {
        "done": {"b": "done"},
        "changed": {"b": "predicted again"},
        "ignored": wednesday["ignored"],
        "unchanged": 2,
    }
    assert "changed 1: b (predicted again)\n" in text
    assert read_stamp(Path("out/predictions/b.parquet")) != before

    # One is removed; the broken one is scanned anew, and broken again, which nobody has looked at.
    (slides / "a.tif").unlink()
    scan(slides, "broken", 4, share=0.6)
    saturday, text = night(code=3)
    assert told(saturday) == {
        "failed": {"broken": "INPUT_CORRUPT"},
        "changed": {"broken": "not predicted again"},
        "gone": {"a": "since the last run"},
        "unchanged": 2,
    }

    scan(slides, "broken", 4)
    sunday, text = night()
    assert told(sunday) == {
        "done": {"broken": "done"},
        "changed": {"broken": "predicted again"},
        "gone": {"a": "before"},
        "unchanged": 2,
    }
    assert "gone 1: a (before)\n" in text


def row(path: Path) -> SlideRow:
    return SlideRow(row=1, slide_id=path.stem, patient_id="p", source=str(path))


def failed(slide_id: str, code: str = "INPUT_CORRUPT", message: str = "", **about: Any) -> Outcome:
    text = message or f"{code}: cut [x] Remedy: copy it"
    return Outcome(slide_id=slide_id, state="failed", code=code, message=text, **about)


def states(out: Path, path: Path, code: str = "INPUT_CORRUPT") -> list[str]:
    return [each.state for each in with_ignored(read_ignored(out), [failed(path.stem, code, files=(str(path),))])]


def test_a_known_failure_holds_of_one_error_and_one_content(tmp_path: Path) -> None:
    file = tmp_path / "a.tif"
    file.write_bytes(b"cut")
    assert states(tmp_path, file) == ["failed"]
    update_status(tmp_path, "a", "predict", {"state": "failed", "code": "INPUT_CORRUPT", "files": [str(file)]})
    ignore_failure(tmp_path, "a", "=lost()")
    assert (
        (tmp_path / "ignore.csv").read_text().startswith("slide_id,code,why,when,content\na,INPUT_CORRUPT,'=lost(),20")
    )
    assert read_ignored(tmp_path)["a"]["why"] == "=lost()"
    assert states(tmp_path, file) == ["ignored"]
    assert states(tmp_path, file, "MPP_MISSING") == ["failed"]
    assert states(tmp_path, tmp_path / "b.tif") == ["failed"]
    file.write_bytes(b"cut elsewhere")
    assert states(tmp_path, file) == ["failed"]
    ignore_failure(tmp_path, "a", "again")
    assert states(tmp_path, file) == ["ignored"]
    assert len(read_ignored(tmp_path)) == 1
    file.unlink()
    assert states(tmp_path, file) == ["failed"]


def test_a_row_written_by_hand_holds_of_any_content(tmp_path: Path) -> None:
    (tmp_path / "ignore.csv").write_text("slide_id;code;why;when\na;INPUT_CORRUPT;lost;yesterday\n")
    assert states(tmp_path, tmp_path / "a.tif") == ["ignored"]


def test_a_slide_that_is_listed_twice_is_refused(tmp_path: Path) -> None:
    (tmp_path / "ignore.csv").write_text("slide_id,code\na,TIMEOUT\nb,TIMEOUT\na,WORKER_CRASH\n")
    with pytest.raises(TableError) as raised:
        read_ignored(tmp_path)
    assert [(problem.code, problem.row) for problem in raised.value.problems] == [("DUPLICATE_ID", 4)]


def test_status_lists_a_known_failure_and_ends_with_0(tmp_path: Path, said: Callable[..., Any]) -> None:
    file = tmp_path / "a.tif"
    file.write_bytes(b"cut")
    (tmp_path / "b.tif").touch()
    update_status(tmp_path, "a", "predict", {"state": "failed", "code": "INPUT_CORRUPT", "files": [str(file)]})
    update_status(tmp_path, "b", "predict", {"state": "done"})
    said("status", tmp_path, code=3)
    said("status", tmp_path, "--ignore", "a", code=2)
    said("status", tmp_path, "--why", "lost", code=2)
    assert "no failure of 'b'" in said("status", tmp_path, "--ignore", "b", "--why", "lost", code=1).err
    said("status", tmp_path, "--ignore", "a", "--why", "lost")
    assert "predict: 1 done, 1 ignored;" in said("status", tmp_path).out
    file.write_bytes(b"cut elsewhere")
    assert "predict: 1 done, 1 failed;" in said("status", tmp_path, code=3).out
    file.unlink()
    assert "predict: 1 done, 1 gone;" in said("status", tmp_path).out


def test_the_text_is_one_screen_however_much_failed(tmp_path: Path) -> None:
    for name in ("gone1", "gone2"):
        update_status(tmp_path, name, "predict", {"state": "done", "source": {"R": f"{tmp_path}/{name}.tif#page=1"}})
    (tmp_path / "gone2.tif").touch()
    names = [f"{'long' * 30}{number}" for number in range(40)]
    outcomes = [failed(name, message=f"INPUT_CORRUPT: {'cut ' * 90}[x] Remedy: {'copy ' * 90}") for name in names]
    outcomes += [Outcome(slide_id=f"d{name}", state="done") for name in names]
    outcomes += [Outcome(slide_id=f"i{name}", state="ignored", code="TIMEOUT", message="large") for name in names]
    rows = [row(tmp_path / outcome.slide_id) for outcome in outcomes]
    left_out = [LeftOut(tmp_path / f"{number}" / "caf\udce9.txt", "no slide") for number in range(2)]
    with RunSummary(tmp_path / "last-run.json", tmp_path) as record:
        text = record.write(rows, outcomes, left_out)
    lines = text.splitlines()
    assert len(lines) <= 24
    assert max(map(len, lines)) <= 79
    assert [line.split(":")[0] for line in lines[-6:-1]] == ["new 120", "done 40", "gone 1", "ignored 40", "left out 2"]
    summary = json.loads((tmp_path / "last-run.json").read_text(encoding="utf-8"))
    assert len(summary["failed"]) == 40
    assert list(summary["gone"]) == ["gone1"]
    assert list(summary["left_out"]) == [str(item.path) for item in left_out]


def break_off(path: Path, error: BaseException) -> None:
    with RunSummary(path, path.parent):
        update_status(path.parent, "a", "predict", {"state": "done"})
        raise error


def test_a_run_that_breaks_off_says_so_and_keeps_what_the_last_one_found(tmp_path: Path) -> None:
    path = tmp_path / "last-run.json"
    with RunSummary(path, tmp_path) as record:
        record.write([row(tmp_path / "a.tif")], [failed("a")], [])
    for error, code, words in ((OSError(5, "I/O"), 1, "I/O"), (KeyboardInterrupt(), 130, "a signal ended the run")):
        with pytest.raises(type(error)):
            break_off(path, error)
        summary, text = json.loads(path.read_text()), path.with_suffix(".txt").read_text()
        assert (summary["exit_code"], list(summary["failed"])) == (code, ["a"])
        assert words in summary["error"]
        assert words in text
        assert "failed 1" not in text  # not of this run
    with RunSummary(path, tmp_path) as record:
        record.write([row(tmp_path / "a.tif")], [Outcome(slide_id="a", state="current")], [])
    summary = json.loads(path.read_text())
    assert "error" not in summary
    assert summary["new"] == summary["done"] == {"a": "done"}  # by a run that broke off
    assert summary["unchanged"] == 0


@pytest.mark.parametrize("place", ["heatmaps/s/heatmap.json", "heatmaps/s/new.json", "left-out.json", "notes.json"])
def test_a_summary_takes_the_place_of_nothing_else(place: str, tmp_path: Path) -> None:
    for path in (tmp_path / "heatmaps/s/heatmap.json", tmp_path / "notes.txt"):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text('{"slide_id": "s"}')
    with pytest.raises(InputUnsupportedError, match="no place for a summary"):
        RunSummary(tmp_path / place, tmp_path)
    assert (tmp_path / "heatmaps/s/heatmap.json").read_text() == '{"slide_id": "s"}'


@pytest.mark.parametrize("value", [None, 5])
def test_other_types_in_the_last_summary_count_as_nothing(value: object, tmp_path: Path) -> None:
    update_status(tmp_path, "a", "predict", {"state": "done"})
    path = tmp_path / "last-run.json"
    path.write_text(json.dumps(dict.fromkeys(("known", "failed_files", "gone"), value) | {"exit_code": 0}))
    with RunSummary(path, tmp_path) as record:
        record.write([row(tmp_path / "a.tif")], [Outcome(slide_id="a", state="current")], [])
    assert (json.loads(path.read_text())["new"], json.loads(path.read_text())["unchanged"]) == ({}, 1)


def test_a_carriage_return_in_a_reason_is_kept_as_a_blank(tmp_path: Path) -> None:
    update_status(tmp_path, "a", "predict", {"state": "failed", "code": "TIMEOUT"})
    ignore_failure(tmp_path, "a", "slow\rdrive")
    assert read_ignored(tmp_path)["a"]["why"] == "slow drive"


def test_a_night_without_its_drive_is_told(slides: Path, said: Callable[..., Any]) -> None:
    words = ("predict", slides, "--model", "model", "-o", "out", "--summary")
    assert "INPUT_MISSING" in said(*words, "last-run.json", code=1).err
    assert json.loads(Path("last-run.json").read_text())["error"].startswith("INPUT_MISSING: no slide here")
    Path("out").mkdir(exist_ok=True)
    Path("out/ignore.csv").write_text("slide,code\na,TIMEOUT\n")
    scan(slides, "a", 1)
    assert "unknown column" in said(*words, "last-run.json", code=1).err
    assert not Path("out/predictions").exists()
    for refused in (("last-run.txt",), ("last-run.json", "--dry-run"), ("last-run.json", "--deidentify")):
        assert "--summary" in said(*words, *refused, code=2).err


@pytest.mark.slow
def test_a_rescan_is_ignored_until_the_next_one_and_never_replaced_for_another_model(
    slides: Path, night: Night, said: Callable[..., Any]
) -> None:
    scan(slides, "a", 1)
    scan(slides, "b", 2)
    night()
    scan(slides, "a", 3)
    night(code=3)
    said("status", "out", "--ignore", "a", "--why", "the first scan is better")
    assert told(night()[0])["ignored"] == {"a": "STALE_ARTEFACT: the first scan is better"}
    scan(slides, "a", 4)
    assert list(night(code=3)[0]["failed"]) == ["a"]
    Path("wide.toml").write_text("[predict]\nall_patches = true\n")
    before = read_stamp(Path("out/predictions/a.parquet"))
    night("--replace-changed", "--config", "wide.toml", code=1)
    assert read_stamp(Path("out/predictions/a.parquet")) == before
    assert told(night("--replace-changed")[0])["changed"] == {"a": "predicted again"}
