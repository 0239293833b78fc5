"""A folder predicted each night: what the summary and the exit code say of a week, of known failures and of rescans."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import made_slides as made
import numpy as np
import psutil
import pytest
from made_model import made_spec, write_model

from pathopatch.core.artefacts import read_stamp
from pathopatch.core.errors import DiskFullError, InputUnsupportedError, TableError
from pathopatch.core.files import FAULT_VARIABLE
from pathopatch.core.input_files import LeftOut
from pathopatch.core.status import update_status
from pathopatch.core.task import Outcome
from pathopatch.models.bundle import save_bundle
from pathopatch.models.networks import build_network
from pathopatch.slides.manifest import SlideRow
from pathopatch.stages.batch.run_summary import RunSummary, ignore_failure, read_ignored, with_ignored

ROOT = Path(__file__).parents[3]
CRON = re.findall(r"^0 2 \* \* \* (.*)$", (ROOT / "docs/how-to/nightly.md").read_text(), re.MULTILINE)
"""The lines of the documented crontab: for a mail each morning, and for one where something is wrong."""


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


def mail(data: Path, *, line: str = CRON[0], fault: str = "", kill_after_s: float | None = None) -> str:
    """Run a line of the crontab as cron does, without terminal, home and settings; return what cron mails."""
    line = line.replace("/opt/pathopatch/bin/pathopatch", f"{sys.executable} -m pathopatch").replace(
        "/data/", f"{data}/"
    )
    given = {"PATH": "/usr/bin:/bin", "PYTHONPATH": str(ROOT), "XDG_CACHE_HOME": str(data / "cache")}
    streams: Any = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    with subprocess.Popen(
        ["/bin/sh", "-c", line], cwd="/", env=given | ({FAULT_VARIABLE: fault} if fault else {}), **streams
    ) as run:
        if kill_after_s is not None:
            summary = data / "out/last-run.json"
            while json.loads(summary.read_text())["ended"] is not None:
                time.sleep(0.01)
            time.sleep(kill_after_s)
            for child in psutil.Process(run.pid).children():
                child.kill()
        text, _ = run.communicate(timeout=100)
    return str(text)


def told(data: Path) -> dict[str, Any]:
    """Return what the last summary lists, without what is empty; of failures their codes."""
    summary = json.loads((data / "out/last-run.json").read_text())
    listed = {name: summary[name] for name in ("new", "done", "gone", "ignored", "left_out") if summary[name]}
    failed = {slide: item["code"] for slide, item in summary["failed"].items()}
    return listed | ({"failed": failed} if failed else {}) | {"unchanged": summary["unchanged"]}


def command_of(text: str) -> str:
    """Return the command that a mail gives, to be run in another shell."""
    (line,) = re.findall(r"^To do:.*:\n  (.*)$", text, re.MULTILINE)
    return line.replace("REASON", "'block lost'").replace("pathopatch status", f"{sys.executable} -m pathopatch status")


def typed_into_a_shell(command: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.run(["/bin/sh", "-c", command], env=environment, capture_output=True, text=True, check=False)


@pytest.mark.slow
def test_seven_mails_of_cron_say_what_to_do_each_morning(slides: Path, tmp_path: Path) -> None:
    mails: list[str] = []

    def night(**how: Any) -> list[str]:
        text = mail(tmp_path, **how)
        (tmp_path / f"mail{len(mails) + 1}.txt").write_text(text)
        mails.append(text)
        lines = text.splitlines()
        assert len(lines) <= 24, text
        return lines

    scan(slides, "a", 1)
    scan(slides, "b", 2)
    (slides / "notes.txt").write_text("the scanner was cleaned")
    lines = night()
    assert lines[0] == "pathopatch predict: all well, exit code 0"
    assert lines[2:5] == ["To do: nothing", "", "done 2: a (new), b (new)"]
    assert lines[5].startswith("left out 1: notes.txt (")

    # A new slide, and one of which the scanner wrote a half. What was left out is not told again.
    scan(slides, "c", 3)
    scan(slides, "broken", 4, share=0.5)
    lines = night()
    assert lines[0] == "pathopatch predict: not all well, exit code 3"
    assert lines[2:5] == ["To do: copy it again from its source", "", "1 new failure, INPUT_CORRUPT: broken"]
    assert lines[-2:] == ["done 1: c (new)", "of 4 slides 2 are as before"]
    assert "notes" not in "".join(lines)

    # A night that was killed once its slide was done.
    scan(slides, "d", 5)
    lines = night(fault="renamed:11")
    assert json.loads((tmp_path / "out/status/d.json").read_text())["predict"]["state"] == "done"
    assert "a signal ended the run; the text that stands there:" in lines
    assert "pathopatch predict: not ended" in lines

    # The drive is away: its folder is there, and empty.
    slides.rename(tmp_path / "away")
    slides.mkdir()
    lines = night()
    assert lines[0] == "pathopatch predict: not all well, exit code 1"
    assert lines[2] == "To do: mount its drive, or leave it out"
    assert lines[4].startswith("INPUT_MISSING: no slide here")

    slides.rmdir()
    (tmp_path / "away").rename(slides)
    lines = night()
    assert told(tmp_path)["new"] == told(tmp_path)["done"] == {"d": "done"}
    assert "1 failure as before: broken (INPUT_CORRUPT)" in lines
    assert "did not end; this one tells what it did" in lines[-3]
    assert lines[-2:] == ["done 1: d (new)", "of 5 slides 3 are as before"]
    assert typed_into_a_shell(command_of(mails[-1])).returncode == 0

    # The failure is known now. A slide was removed, and the model replaced.
    (slides / "b.tif").unlink()
    scan(slides, "e", 6)
    shutil.rmtree(tmp_path / "model")
    save_bundle(tmp_path / "model", build_network("small-groupnorm", 3), made_spec(background="bright"))
    lines = night()
    assert lines[0] == "pathopatch predict: not all well, exit code 3"
    assert "The model changed. What another one predicted of 3 slides stays, and counts as" in lines
    assert lines[-3:] == [
        "done 1: e (new)",
        "files gone 1: b",
        "of 5 slides 0 are as before, 1 failed as ignore.csv lists, 3 are another model's",
    ]
    assert "broken" not in mails[-1]
    assert (
        typed_into_a_shell(command_of(mails[-1])).stdout.splitlines()[4]
        == "done 3: a (failed before), c (failed before), d (failed before)"
    )

    lines = night()
    assert lines[0] == "pathopatch predict: all well, exit code 0"
    assert lines[2:] == ["To do: nothing", "", "of 5 slides 4 are as before, 1 failed as ignore.csv lists"]
    assert mail(tmp_path, line=CRON[1]) == ""


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize(
    "killed", [*(f"{point}:{number}" for point in ("rename", "renamed") for number in range(1, 11)), *range(3)]
)
def test_a_night_that_is_killed_says_so_and_the_next_one_tells_all(
    killed: str | int, slides: Path, tmp_path: Path
) -> None:
    scan(slides, "a", 1)
    mail(tmp_path)
    for number, name in enumerate("bc", 2):
        scan(slides, name, number)
    how: dict[str, Any] = {"fault": killed} if isinstance(killed, str) else {"kill_after_s": 0.1 * killed}
    text = mail(tmp_path, **how)
    assert "a signal ended the run" in text
    assert "all well" not in text
    text = mail(tmp_path)
    assert told(tmp_path) == {"new": {"b": "done", "c": "done"}, "done": {"b": "done", "c": "done"}, "unchanged": 1}
    assert "done 2: b (new), c (new)\n" in text


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


def summarized(out: Path, outcomes: list[Outcome], left_out: list[LeftOut] | None = None) -> tuple[dict[str, Any], str]:
    """Write the summary of a run that had these outcomes; return its JSON, and its text."""
    record = RunSummary(out / "last-run.json", out)
    record.begin()
    text = record.write([row(out / f"{outcome.slide_id}.tif") for outcome in outcomes], outcomes, left_out or [])
    assert (out / "last-run.txt").read_bytes() == f"{text}\n".encode(errors="backslashreplace")
    return json.loads((out / "last-run.json").read_text(encoding="utf-8")), text


def done(slide_id: str, state: str = "current") -> Outcome:
    return Outcome(slide_id=slide_id, state=state)


@pytest.mark.parametrize(("length", "screen"), [(6, 30), (23, 38)])
def test_forty_failures_are_named_and_the_text_is_a_screen(length: int, screen: int, tmp_path: Path) -> None:
    long = f"{'cut ' * 90}[x] Remedy: {'copy ' * 90}"
    kinds = ("INPUT_CORRUPT", "TIMEOUT", "MPP_MISSING", "NO_TISSUE", "WORKER_CRASH")
    names = [f"{number:0{length}}" for number in range(50)]
    outcomes = [failed(name, kinds[int(name) % 5], f"{kinds[int(name) % 5]}: {long}") for name in names]
    outcomes += [done(f"d{name}", "done") for name in names]
    outcomes += [Outcome(slide_id=f"i{name}", state="ignored", code="TIMEOUT", message="large") for name in names]
    left_out = [LeftOut(tmp_path / f"{number}" / "caf\udce9.txt", "no slide") for number in range(2)]
    summary, text = summarized(tmp_path, outcomes, left_out)
    lines = text.splitlines()
    assert sum(name in text.partition("done 50")[0] for name in names) == 40
    assert "10 more in last-run.json" in text
    assert len(lines) <= screen
    assert max(map(len, lines[2:])) <= 79
    assert [line.split(":")[0] for line in lines[-3:]] == [
        "done 50",
        "left out 2",
        "of 150 slides 0 are as before, 50 failed as ignore.csv lists",
    ]
    assert len(summary["failed"]) == 50
    assert list(summary["left_out"]) == [str(item.path) for item in left_out]


def test_new_failures_come_first_and_equal_ones_are_one(tmp_path: Path) -> None:
    summarized(tmp_path, [failed("old")])
    outcomes = [
        failed("old"),
        failed("slow", "TIMEOUT", "TIMEOUT: long [x] Remedy: wait"),
        failed("cut1"),
        failed("cut2"),
    ]
    summary, text = summarized(tmp_path, outcomes)
    assert [name for name, one in summary["failed"].items() if one["is_new"]] == ["slow", "cut1", "cut2"]
    assert text.splitlines()[2:-2] == [
        "To do: what the remedies below say",
        "",
        "2 new failures, INPUT_CORRUPT: cut1, cut2",
        "  cut1: cut [x]",
        "  Remedy: copy it",
        "1 new failure, TIMEOUT: slow",
        "  long [x]",
        "  Remedy: wait",
        "1 failure as before: old (INPUT_CORRUPT)",
    ]
    assert "--ignore old" in summarized(tmp_path, [failed("old")])[1]


def test_what_is_gone_and_what_was_left_out_is_told_once(tmp_path: Path) -> None:
    for name in ("gone1", "gone2"):
        update_status(tmp_path, name, "predict", {"state": "done", "source": {"R": f"{tmp_path}/{name}.tif#page=1"}})
    (tmp_path / "gone2.tif").touch()
    left_out = [LeftOut(tmp_path / "notes.txt", "no slide")]
    for since, lines in (
        ("since the last run", ["files gone 1: gone1", "left out 1: notes.txt (no slide)"]),
        ("before", []),
    ):
        summary, text = summarized(tmp_path, [done("a", "done")], left_out)
        assert summary["gone"] == {"gone1": since}
        assert [line for line in text.splitlines() if line.startswith(("files gone", "left"))] == lines


def test_what_no_whole_summary_told_is_in_the_next_one(tmp_path: Path) -> None:
    """A night is killed once it has done a new slide, one that failed before, and one that was done before."""
    ended = {"kept": "1", "failed": "1", "again": "1"}
    for name, time_ended in ended.items():
        update_status(tmp_path, name, "predict", {"state": "done", "ended": time_ended})
    summarized(tmp_path, [done("kept"), failed("failed"), done("again")])
    for night in ("killed", "killed too", "error"):
        record = RunSummary(tmp_path / "last-run.json", tmp_path)
        record.begin()
        text = (tmp_path / "last-run.txt").read_text()
        assert text.startswith("pathopatch predict: not ended\n")
        assert "if this is older than the night, it was killed" in text.replace("\n  ", " ")
        assert json.loads((tmp_path / "last-run.json").read_text())["exit_code"] is None
        if night == "error":
            for name in ("new", "failed", "again"):
                update_status(tmp_path, name, "predict", {"state": "done", "ended": "2"})
            assert "I/O" in record.fail(OSError(5, "I/O"))
    names = ("kept", "failed", "again", "new")
    summary, text = summarized(tmp_path, [done(name) for name in names])
    assert summary["new"] == {"new": "done"}
    assert list(summary["done"]) == ["failed", "again", "new"]
    assert len(summary["not_ended"]) == 1  # both began in one second
    assert "done 3: failed (failed before), again (again), new (new)\n" in text
    assert text.endswith("of 4 slides 1 are as before")
    assert summarized(tmp_path, [done(name) for name in names])[0]["done"] == {}


def test_a_run_tells_nothing_that_another_told_meanwhile(tmp_path: Path) -> None:
    first = RunSummary(tmp_path / "last-run.json", tmp_path)
    first.begin()
    update_status(tmp_path, "a", "predict", {"state": "done", "ended": "1"})
    assert summarized(tmp_path, [done("a")])[0]["new"] == {"a": "done"}
    text = first.write([row(tmp_path / "a.tif")], [done("a", "done")], [])
    assert text.endswith("To do: nothing\n\nof 1 slides 1 are as before")


def test_a_text_that_cannot_be_written_is_returned_and_no_older_one_stays(tmp_path: Path) -> None:
    summarized(tmp_path, [done("a", "done")])
    record = RunSummary(tmp_path / "last-run.json", tmp_path)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("pathopatch.stages.batch.run_summary.write_bytes", refuse)
        with pytest.raises(DiskFullError) as raised:
            record.begin()
        assert "To do: free space\n\nDISK_FULL: no space left [out]" in record.fail(raised.value)
    assert not (tmp_path / "last-run.txt").exists()


def refuse(_path: Path, _content: bytes) -> None:
    raise DiskFullError("no space left", place="out", remedy="free space")


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
    path.write_text(
        json.dumps(dict.fromkeys(("told", "failures", "gone", "left_out", "not_ended"), value) | {"exit_code": 0})
    )
    summary, _ = summarized(tmp_path, [done("a")])
    assert (summary["new"], summary["unchanged"]) == ({}, 1)


def test_a_carriage_return_in_a_reason_is_kept_as_a_blank(tmp_path: Path) -> None:
    update_status(tmp_path, "a", "predict", {"state": "failed", "code": "TIMEOUT"})
    ignore_failure(tmp_path, "a", "slow\rdrive")
    assert read_ignored(tmp_path)["a"]["why"] == "slow drive"


def test_a_night_without_its_drive_is_told(slides: Path, said: Callable[..., Any]) -> None:
    words = ("predict", slides, "--model", "model", "-o", "out", "--summary")
    told = said(*words, "last-run.json", code=1)
    assert "To do: name the folder that holds the slides\n\nINPUT_MISSING: no slide here" in told.out
    assert told.err == ""  # cron would mail it too
    assert json.loads(Path("last-run.json").read_text())["error"].startswith("INPUT_MISSING: no slide here")
    Path("out").mkdir(exist_ok=True)
    Path("out/ignore.csv").write_text("slide,code\na,TIMEOUT\n")
    scan(slides, "a", 1)
    assert "unknown column" in said(*words, "last-run.json", code=1).out
    assert not Path("out/predictions").exists()
    Path("out/ignore.csv").unlink()
    made.write_rgb_pyramid(slides / "a.tif", np.full((3, 64, 64), 200, np.uint8), levels=1, mpp=None)
    text = " ".join(said(*words, "last-run.json", code=1).out.split())
    assert "To do: give --slide-mpp to tile, predict, check or info; in a manifest fill the column mpp" in text
    for refused in (("last-run.txt",), ("last-run.json", "--dry-run"), ("last-run.json", "--deidentify")):
        assert "--summary" in said(*words, *refused, code=2).err


@pytest.mark.slow
def test_a_rescan_is_ignored_until_the_next_one_and_never_replaced_for_another_model(
    slides: Path, said: Callable[..., Any]
) -> None:
    def night(*options: str, code: int = 0) -> str:
        words = ("predict", slides, "--model", "model", "-o", "out", "--summary", "out/last-run.json", *options)
        return str(said(*words, code=code).out)

    scan(slides, "a", 1)
    scan(slides, "b", 2)
    night()
    scan(slides, "a", 3)
    assert "--replace-changed" in night(code=3)
    said("status", "out", "--ignore", "a", "--why", "the first scan is better")
    night()
    assert told(slides.parent)["ignored"] == {"a": "STALE_ARTEFACT: the first scan is better"}
    scan(slides, "a", 4)
    assert "1 new failure, STALE_ARTEFACT: a\n" in night(code=3)
    Path("wide.toml").write_text("[predict]\nall_patches = true\n")
    before = read_stamp(Path("out/predictions/a.parquet"))
    night("--replace-changed", "--config", "wide.toml", code=1)
    assert read_stamp(Path("out/predictions/a.parquet")) == before
    assert "done 1: a (failed before)\n" in night("--replace-changed")
    assert read_stamp(Path("out/predictions/a.parquet")) != before
