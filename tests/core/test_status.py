"""The state of every slide in a file of its own, and the table over all of them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from fresh_process import FRESH
from spoilt_status import CONTENTS

from pathopatch.core import status as statuses
from pathopatch.core.files import read_json

DONE = {
    "state": "done",
    "counts": {"patches": 4, "predicted": 3},
    "summary": {"tissue_mm2": 0.1 + 0.2},
    "warnings": ["a", "b"],
}
FAILED = {"state": "failed", "code": "INPUT_CORRUPT", "message": 'cut: "a",\nb', "patient_id": "p1"}


def fill(out: Path, count: int, *, first: int = 0) -> None:
    for number in range(first, first + count):
        statuses.update_status(out, f"s{number:03d}", "tile", {"state": "done", "seconds": "1.50"})
        statuses.update_status(out, f"s{number:03d}", "predict", FAILED if number % 5 == 0 else DONE)


def all_read(out: Path) -> dict[str, dict[str, object]]:
    return {slide_id: statuses.read_status(out, slide_id) for slide_id in statuses.slide_ids(out)}


def test_a_status_keeps_the_entries_of_the_other_stages(tmp_path: Path) -> None:
    fill(tmp_path, 2)
    assert all_read(tmp_path) == {
        "s000": {"tile": {"state": "done", "seconds": "1.50"}, "predict": FAILED},
        "s001": {"tile": {"state": "done", "seconds": "1.50"}, "predict": DONE},
    }
    assert statuses.read_status(tmp_path, "elsewhere") == {}


def test_the_table_has_a_row_for_each_slide_and_stage(tmp_path: Path) -> None:
    fill(tmp_path, 2)
    table = statuses.status_table(tmp_path, ("state", "code", "tissue_mm2", "predicted", "warnings"))
    assert table[["slide_id", "stage", "state"]].to_numpy().tolist() == [
        ["s000", "predict", "failed"], ["s000", "tile", "done"], ["s001", "predict", "done"], ["s001", "tile", "done"],
    ]  # fmt: skip
    assert table.iloc[0][["code", "tissue_mm2"]].isna().tolist() == [False, True]
    assert table.iloc[2][["tissue_mm2", "predicted", "warnings"]].tolist() == [0.1 + 0.2, 3, "a; b"]


def _write_many(out: Path, first: int) -> None:
    for number in range(first, first + 40):
        statuses.update_status(out, f"s{number:03d}", "predict", DONE)
        statuses.update_status(out, "shared", f"stage {first}", DONE)


def test_processes_that_write_at_a_time_lose_nothing(tmp_path: Path) -> None:
    others = [FRESH.Process(target=_write_many, args=(tmp_path, first)) for first in (0, 40, 80)]
    for process in others:
        process.start()
    for process in others:
        process.join(60)
        assert process.exitcode == 0
    assert statuses.slide_ids(tmp_path) == [*sorted(f"s{number:03d}" for number in range(120)), "shared"]
    assert statuses.read_status(tmp_path, "shared") == {f"stage {first}": DONE for first in (0, 40, 80)}
    assert not list(tmp_path.glob("status/*tmp*"))
    assert all(read_json(path) for path in tmp_path.glob("status/*.json"))


@pytest.mark.fault("spoilt-status")
@pytest.mark.parametrize("spoil", CONTENTS, ids=lambda spoil: spoil.__name__)
def test_a_spoilt_status_is_none_and_is_written_anew(spoil: Callable[[Path], object], tmp_path: Path) -> None:
    statuses.update_status(tmp_path, "a", "predict", {"state": "done"})
    assert statuses.is_recorded_done(tmp_path, "a", "predict")
    spoil(tmp_path / "status" / "a.json")
    assert statuses.read_status(tmp_path, "a") == {}
    assert not statuses.is_recorded_done(tmp_path, "a", "predict")
    statuses.update_status(tmp_path, "a", "predict", {"state": "done"})
    assert statuses.is_recorded_done(tmp_path, "a", "predict")
