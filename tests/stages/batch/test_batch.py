import os
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from pathopatch.core.config import BatchOptions, PredictConfig
from pathopatch.core.errors import DiskFullError, InputCorruptError
from pathopatch.core.locks import folder_lock, slide_lock
from pathopatch.core.status import read_status, update_status
from pathopatch.core.task import Outcome, Within
from pathopatch.stages.batch.run import exit_code, run_slides, workers_for


@dataclass(frozen=True)
class Row:
    slide_id: str
    fault: str = ""
    sources: tuple[str, ...] = ()


def one(row: Row, progress: Within) -> Outcome:
    progress(1, 2)
    if row.fault == "corrupt":
        raise InputCorruptError("cut file", place=row.slide_id)
    if row.fault == "bug":
        raise ZeroDivisionError("oh")
    if row.fault == "abort":
        os.abort()
    if row.fault == "full":
        raise DiskFullError("no space left", remedy="free space")
    if row.fault == "slow":
        time.sleep(60)
    return Outcome(slide_id=row.slide_id, state="done", counts={"pid": os.getpid()})


def run(out: Path, rows: Sequence[Row], workers: int = 2, **options: Any) -> list[Outcome]:
    with workers_for(out, "tile", rows, BatchOptions(workers=workers)) as processes:
        return run_slides(out, "tile", one, rows, processes, **options)


@pytest.mark.slow
@pytest.mark.parametrize("workers", [1, 2])
def test_one_bad_slide_does_not_stop_the_others(tmp_path: Path, workers: int) -> None:
    rows = [Row("a"), Row("b", "corrupt"), Row("c", "bug")]
    rows.append(Row("d"))
    seen: list[str] = []
    outcomes = run(tmp_path, rows, workers, progress=lambda _what, _done, _total, note="": seen.append(note))
    assert [outcome.state for outcome in outcomes] == ["done", "failed", "failed", "done"]
    assert [outcome.code for outcome in outcomes] == ["", "INPUT_CORRUPT", "INTERNAL", ""]
    assert {"a done", "b failed", "c failed", "d done"} <= set(seen)
    assert read_status(tmp_path, "b")["tile"]["code"] == "INPUT_CORRUPT"
    assert "ZeroDivisionError" in read_status(tmp_path, "c")["tile"]["trace"]


def test_the_largest_files_come_first_and_results_stay_in_the_order_of_the_rows(tmp_path: Path) -> None:
    for name, size in (("small.tif", 10), ("large.tif", 30), ("x.mrxs", 1), ("x/Data0001.dat", 50), ("s/1.dcm", 20)):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(bytes(size))
    files = {"a": "small.tif#page=1", "b": "gone.tif", "c": "large.tif", "d": "x.mrxs", "e": "s", "f": "small.tif"}
    rows = [Row(name, sources=(str(tmp_path / file),)) for name, file in files.items()]
    seen: list[str] = []
    outcomes = run(tmp_path / "out", rows, 1, progress=lambda _what, _done, _total, note="": seen.append(note))
    assert [outcome.slide_id for outcome in outcomes] == list("abcdef")
    assert [note[0] for note in seen if note.endswith(" done")] == list("dceafb")


def test_a_worker_that_dies_takes_down_its_own_slide_only(tmp_path: Path) -> None:
    rows = [Row("a"), Row("b", "abort"), Row("c")]
    outcomes = run(tmp_path, rows)
    assert [(outcome.state, outcome.code) for outcome in outcomes] == [
        ("done", ""), ("failed", "WORKER_CRASH"), ("done", ""),
    ]  # fmt: skip


@pytest.mark.parametrize("workers", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_a_full_disk_ends_the_batch_and_is_told_of_once(tmp_path: Path, workers: int) -> None:
    rows = [Row("a", "full"), *(Row(name, "slow") for name in "bcd")]
    with workers_for(tmp_path, "tile", rows, BatchOptions(workers=workers)) as processes:
        (outcome,) = run_slides(tmp_path, "tile", one, rows, processes)
        assert outcome.message == "DISK_FULL: no space left Remedy: free space; 3 further slides not done"
        later = run_slides(tmp_path, "tile", one, [Row("d"), Row("e")], processes)
    assert [(each.slide_id, each.state) for each in later] == [("d", "done"), ("e", "done")]
    assert exit_code([outcome]) == 1
    assert exit_code([outcome, *later]) == 3


@pytest.mark.parametrize("state", ["done", "done_empty"])
def test_a_refusal_before_work_leaves_a_finished_slide(tmp_path: Path, state: str) -> None:
    entry = {"state": state, "counts": {"patches": 4}, "source": "a.tif"}
    update_status(tmp_path, "b", "tile", entry)
    (outcome,) = run(tmp_path, [Row("b", "corrupt")])
    assert (outcome.state, outcome.code) == ("failed", "INPUT_CORRUPT")
    assert read_status(tmp_path, "b")["tile"] == entry
    update_status(tmp_path, "b", "tile", {**entry, "state": "running"})  # work had begun
    run(tmp_path, [Row("b", "corrupt")])
    assert read_status(tmp_path, "b")["tile"]["state"] == "failed"


def test_a_slide_that_another_process_is_at_comes_after_all_others(tmp_path: Path) -> None:
    order = []

    def progress(what: str, done: int, _total: int, note: str = "") -> None:
        if what == "tile" and done:
            order.append(note)
            other.close()

    with ExitStack() as other:
        other.enter_context(folder_lock(tmp_path, slide_lock("a", "tile")))
        outcomes = run(tmp_path, [Row("a"), Row("b")], 1, progress=progress)
    assert order == ["b done", "a done"]
    assert [outcome.slide_id for outcome in outcomes] == ["a", "b"]


@pytest.mark.slow
def test_progress_within_a_slide_is_reported_only_by_a_single_process(tmp_path: Path) -> None:
    progress_calls: list[tuple[str, int, int, str]] = []
    rows = [Row("a"), Row("b")]
    run(tmp_path, rows, progress=lambda *words: progress_calls.append(words))
    assert {words[0] for words in progress_calls} == {"tile"}
    run(tmp_path, rows, 1, progress=lambda *words: progress_calls.append(words))
    assert [words for words in progress_calls if words[0] == "patches"] == [("patches", 1, 2, name) for name in "ab"]


def test_no_more_processes_start_than_there_are_slides_to_work_on(tmp_path: Path) -> None:
    rows = [Row(name) for name in "abc"]
    update_status(tmp_path, "a", "tile", {"state": "done"})
    update_status(tmp_path, "b", "tile", {"state": "failed"})
    many = BatchOptions(workers=8)
    count = partial(workers_for, tmp_path, "tile")
    assert [count(rows, BatchOptions(workers=workers)).count for workers in (1, 2, 8)] == [0, 2, 2]
    assert count(rows[:1], many).count == 0
    assert count([rows[0], rows[0]], many).count == 1  # what is finished may still crash whoever opens it
    assert count(rows, BatchOptions(workers=8, force=True)).count == 3


def test_exit_codes_tell_all_some_and_none() -> None:
    good = Outcome(slide_id="a", state="done_empty")
    bad = Outcome(slide_id="b", state="failed", code="INPUT_CORRUPT")
    assert [exit_code(outcomes) for outcomes in ([good], [good, bad], [bad], [])] == [0, 3, 1, 0]


@pytest.mark.slow
@pytest.mark.usefixtures("large_pictures")
def test_two_processes_predict_the_bytes_that_one_predicts(tmp_path: Path) -> None:
    # Imported here: the processes that the tests above start import this file, and need none of it.
    import made_slides as made
    import numpy as np
    from written_files import TIMES, contents

    from pathopatch.models.bundle import save_bundle
    from pathopatch.models.networks import build_network
    from pathopatch.models.spec import BundleSpec
    from pathopatch.slides.manifest import SlideRow
    from pathopatch.stages.predict import predict_cohort

    rows = []
    for number in range(2):
        disc = made.disc_image(160, 128, (80, 64), 40, tissue=[600 + number], glass=[20], dtype=np.uint16)
        made.write_channel(tmp_path / f"s{number}.tif", disc[0])
        source = str(tmp_path / f"s{number}.tif")
        rows.append(SlideRow(row=number + 2, slide_id=f"s{number}", patient_id="p", source=source))
    spec = BundleSpec(
        architecture="small-groupnorm", channels=("C0",), dtype="uint16", background="dark", patch_px=32, stride_px=32,
        mpp=0.5, input_px=32, mean=(0.5,), std=(0.2,), method="erm",
    )  # fmt: skip
    save_bundle(tmp_path / "model", build_network("small-groupnorm", 1), spec)
    config = PredictConfig(device="cpu", precision="float32", threads=1)
    written = []
    for workers in (1, 2):
        out = tmp_path / str(workers)
        outcomes = predict_cohort(rows, tmp_path / "model", out, config, BatchOptions(workers=workers))
        assert [(outcome.slide_id, outcome.state) for outcome in outcomes] == [("s0", "done"), ("s1", "done")]
        written.append(contents(out, without=TIMES))
    assert written[0] == written[1]
