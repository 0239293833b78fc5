"""The tables of a cohort say what the slides' status says, and sum it up by patient."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from pathopatch.core import status
from pathopatch.core.errors import InputUnsupportedError
from pathopatch.core.status import update_status
from pathopatch.core.task import Outcome
from pathopatch.stages.batch.summaries import COHORT, PATIENTS, CohortTables, keep_cohort_tables


def add(out: Path, slide_id: str, patient: str, state: str = "done", **summary: Any) -> None:
    entry: dict[str, Any] = {"state": state, "patient_id": patient, "warnings": []}
    if state != "failed":
        entry |= {"counts": {"patches": 20, "predicted": 10, "tumour": 4}, "summary": summary}
    else:
        entry["code"] = "INPUT_CORRUPT"
    update_status(out, slide_id, "predict", entry)


@pytest.fixture
def out(tmp_path: Path) -> Path:
    areas = {"tissue_mm2": 2.0, "positive_mm2": 1.0, "positive_tissue_mm2": 0.8, "positive_share": 0.4}
    add(tmp_path, "a1", "A", **areas, largest_region_mm2=0.5, flagged_share=0.1)
    add(tmp_path, "a2", "A", tissue_mm2=6.0, positive_mm2=0.0, positive_tissue_mm2=0.0, largest_region_mm2=0.2,
        flagged_share=0.3)  # fmt: skip
    add(tmp_path, "a3", "A", state="failed")
    add(tmp_path, "b1", "B", state="done_empty", tissue_mm2=0.0, positive_mm2=0.0, positive_tissue_mm2=0.0)
    CohortTables(tmp_path).write()
    return tmp_path


def test_the_cohort_has_a_row_a_slide_with_its_numbers(out: Path) -> None:
    table = pd.read_csv(out / "cohort.csv").set_index("slide_id")
    assert (table.index.name, *table.columns) == COHORT
    assert table.loc["a1", ["predicted", "tissue_mm2", "largest_region_mm2"]].tolist() == [10, 2.0, 0.5]
    assert table.loc["a3", "code"] == "INPUT_CORRUPT"
    assert table.loc["a3", ["predicted", "tissue_mm2"]].isna().all()


def test_a_patient_is_the_sum_of_the_slides_that_are_done(out: Path) -> None:
    table = pd.read_csv(out / "patients.csv").set_index("patient_id")
    assert (table.index.name, *table.columns) == PATIENTS
    a, b = table.loc["A"], table.loc["B"]
    assert (a["slides"], a["done"], a["failed"], a["predicted"]) == (3, 2, 1, 20)
    assert (a["tissue_mm2"], a["positive_mm2"], a["largest_region_mm2"]) == (8.0, 1.0, 0.5)
    assert a["positive_share"] == pytest.approx(0.1)  # of all tissue, not the mean of the slides' shares
    assert a["flagged_share"] == pytest.approx(0.2)
    assert pd.isna(b["positive_share"])  # no tissue, no share of it


@pytest.mark.fault("escaped")
def test_what_looks_like_a_formula_is_none_in_the_table(tmp_path: Path) -> None:
    add(tmp_path, "a", "=1+1")
    CohortTables(tmp_path).write()
    assert pd.read_csv(tmp_path / "cohort.csv")["patient_id"].tolist() == ["'=1+1"]


def test_without_any_slide_the_tables_have_their_columns(tmp_path: Path) -> None:
    CohortTables(tmp_path).write()
    assert tuple(pd.read_csv(tmp_path / "cohort.csv").columns) == COHORT
    assert tuple(pd.read_csv(tmp_path / "patients.csv").columns) == PATIENTS


@pytest.mark.parametrize(("takes_s", "written_at"), [(0.0, [60.0, 120.0]), (4.0, [60.0, 144.0])])
def test_cohort_tables_are_written_each_minute_or_less_often_if_slow(
    takes_s: float, written_at: list[float], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    now, write_times = 0.0, []

    def write(_: CohortTables) -> None:
        nonlocal now
        write_times.append(now)
        now += takes_s

    monkeypatch.setattr(CohortTables, "write", write)
    with keep_cohort_tables(tmp_path, clock=lambda: now) as on_done:
        while now < 165:
            now += 10
            on_done(Outcome(slide_id="a", state="done"))
        assert write_times == written_at
    assert len(write_times) == 3  # and at the end


def test_a_status_is_read_again_only_when_it_was_written_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[str] = []
    honest = status.listed_status

    def counted(out: Path, slide_id: str) -> dict[str, Any]:
        read.append(slide_id)
        return honest(out, slide_id)

    add(tmp_path, "a", "A", tissue_mm2=1.0)
    add(tmp_path, "b", "A", tissue_mm2=1.0)
    tables = CohortTables(tmp_path)
    monkeypatch.setattr(status, "listed_status", counted)
    tables.write()
    add(tmp_path, "b", "A", tissue_mm2=3.0)
    tables.write()
    assert read == ["a", "b", "b"]
    assert pd.read_csv(tmp_path / "cohort.csv")["tissue_mm2"].tolist() == [1.0, 3.0]


def test_the_first_error_is_raised_if_the_tables_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "status").write_text("in the way")
    with pytest.raises(KeyboardInterrupt), keep_cohort_tables(tmp_path):
        raise KeyboardInterrupt
    with pytest.raises(InputUnsupportedError), keep_cohort_tables(tmp_path):
        pass
