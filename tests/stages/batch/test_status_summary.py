"""`pathopatch status` says what became of every slide."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from pathopatch.core.locks import folder_lock, slide_lock
from pathopatch.core.status import update_status

DONE = {"state": "done", "counts": {"patches": 30, "predicted": 20, "tumour": 4}, "seconds": "1.25"}
FAILED = {"state": "failed", "code": "MPP_MISSING", "message": "MPP_MISSING: no mpp. Remedy: give one"}


def fill(out: Path, done: int, failed: int = 0) -> None:
    for number in range(done + failed):
        update_status(out, f"s{number:03d}", "predict", DONE if number < done else FAILED)


def test_few_slides_are_listed_with_totals_and_errors(tmp_path: Path, said: Callable) -> None:
    fill(tmp_path, 2, 1)
    update_status(tmp_path, "s009", "tile", {"state": "running"})
    with folder_lock(tmp_path, slide_lock("s009", "tile")):
        output = said("status", tmp_path, code=3).out
    assert [line.split()[:3] for line in output.splitlines()[1:3]] == [
        ["s000", "predict", "done"],
        ["s001", "predict", "done"],
    ]
    assert "\ns002: MPP_MISSING: no mpp. Remedy: give one\n" in output
    assert "4 slides" in output
    assert "predict: 2 done, 1 failed; 60 patches" in output
    assert "tile: 1 running; 0 patches" in output
    assert "failed, by code: 1 MPP_MISSING" in output
    assert "tissue" not in output  # no status says how sure it is


def test_a_shared_message_is_printed_once_and_slides_count_once_by_code(tmp_path: Path, said: Callable) -> None:
    fill(tmp_path, 1, 5)
    update_status(tmp_path, "s001", "tile", FAILED)
    output = said("status", tmp_path, code=3).out
    assert output.count("Remedy: give one") == 1
    assert "\nMPP_MISSING: no mpp. Remedy: give one (in 5 slides: s001, s002, s003, …)\n" in output
    assert "6 slides\n" in output
    assert "failed, by code: 5 MPP_MISSING" in output


def test_of_many_slides_finished_ones_are_only_counted_without_slides(tmp_path: Path, said: Callable) -> None:
    fill(tmp_path, 60, 1)
    output = said("status", tmp_path, code=3).out
    assert "s060" in output
    assert "s000" not in output
    assert "60 done, 1 failed; 1,800 patches" in output
    assert "s000" in said("status", tmp_path, "--slides", code=3).out


@pytest.mark.parametrize(("done", "failed", "code"), [(3, 0, 0), (2, 1, 3), (0, 2, 1)])
def test_its_exit_code_is_that_of_a_run(tmp_path: Path, said: Callable, done: int, failed: int, code: int) -> None:
    fill(tmp_path, done, failed)
    assert said("status", tmp_path, "--quiet", code=code).out == ""


def test_slides_whose_tissue_is_uncertain_are_counted_and_named(tmp_path: Path, said: Callable) -> None:
    for slide, confidence in (("a", 0.49), ("b", 0.5), ("c", 0.1), ("old", None)):
        confidence_entry = {} if confidence is None else {"tissue_confidence": confidence}
        update_status(tmp_path, slide, "tile", {"state": "done", "patches": 30, **confidence_entry})
        update_status(tmp_path, slide, "predict", DONE)
    assert "tissue: 2 of 3 slides uncertain: a, c; look at them with pathopatch tissue" in said("status", tmp_path).out


def test_a_killed_run_is_told_with_all_its_slides(tmp_path: Path, said: Callable) -> None:
    fill(tmp_path, 1)
    update_status(tmp_path, "s001", "predict", {"state": "running"})
    log = tmp_path / "logs" / "predict-20261201T000000000Z-1.jsonl"
    log.parent.mkdir()
    begin = json.dumps({"event": "begin", "slide_ids": [f"s{number:03d}" for number in range(8)]})
    odd = '5\n[]\n"begin"\n{"event": "begin"}\n{"event": "slide", "slide_id": []}\n'
    log.write_bytes(f'{begin}\n{odd}{{"event": "slide", "slide_id": "s000"}}\n{{"event": "sl'.encode() + b"\xc3")
    output = said("status", tmp_path, code=3).out
    assert "\n8 slides\npredict: 1 done, 1 interrupted, 6 not begun; 30 patches\n" in output
    # Another process that shares the slides finished some, another stage all, and an earlier run another slide.
    for slide in ("s005", "s006", "other"):
        update_status(tmp_path, slide, "predict", DONE)
    for number in range(8):
        update_status(tmp_path, f"s{number:03d}", "tile", DONE)
    output = said("status", tmp_path, code=3).out
    assert "\n9 slides\npredict: 4 done, 1 interrupted, 4 not begun; 120 patches\ntile: 8 done; " in output
    with log.open("a") as file:
        file.write('\n{"event": "end"}\n')
    assert "\n9 slides\npredict: 4 done, 1 interrupted; 120 patches\n" in said("status", tmp_path, code=3).out


def test_a_failed_slide_whose_file_was_removed_is_gone_until_clean(tmp_path: Path, said: Callable) -> None:
    fill(tmp_path, 1)
    slide, absent = tmp_path / "slides" / "a.tif", tmp_path / "unmounted" / "b.tif"
    slide.parent.mkdir()
    slide.touch()
    (slide.parent / "other.tif").touch()
    mounted = tmp_path / "mounted" / "b.tif"
    mounted.parent.mkdir()
    update_status(tmp_path, "a", "predict", {**FAILED, "files": [f"{slide}#page=1"]})
    assert "1 done, 1 failed" in said("status", tmp_path, code=3).out
    slide.unlink()
    assert "1 done, 1 gone" in said("status", tmp_path).out
    # Where the folder is gone too or empty, its drive may be away; a path that never led to a file is wrong.
    update_status(tmp_path, "b", "predict", {**FAILED, "files": [str(absent)]})
    update_status(tmp_path, "d", "predict", {**FAILED, "files": [str(mounted)]})
    update_status(tmp_path, "c", "predict", {"state": "failed", "code": "INPUT_MISSING", "files": [str(slide)]})
    assert "1 done, 3 failed, 1 gone" in said("status", tmp_path, code=3).out
    assert "1 removed" in said("clean", tmp_path).out
    assert "1 done, 3 failed;" in said("status", tmp_path, code=3).out


def test_a_folder_where_nothing_was_done_is_an_error(tmp_path: Path, said: Callable) -> None:
    assert "INPUT_MISSING" in said("status", tmp_path, code=1).err
