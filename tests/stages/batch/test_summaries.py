"""The table of a cohort says what the slides' status says."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from pathopatch.core.errors import InputUnsupportedError
from pathopatch.core.status import update_status
from pathopatch.stages.batch.summaries import COHORT, keep_cohort_table, status_summary, write_cohort_table


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
    write_cohort_table(tmp_path)
    return tmp_path


def test_the_cohort_has_a_row_a_slide_with_its_numbers(out: Path) -> None:
    table = pd.read_csv(out / "cohort.csv").set_index("slide_id")
    assert (table.index.name, *table.columns) == COHORT
    assert table.loc["a1", ["predicted", "tissue_mm2", "largest_region_mm2"]].tolist() == [10, 2.0, 0.5]
    assert table.loc["a3", "code"] == "INPUT_CORRUPT"
    assert table.loc["a3", ["predicted", "tissue_mm2"]].isna().all()


def test_after_a_kill_status_makes_the_table_right(out: Path) -> None:
    add(out, "c1", "C", state="running")
    (out / "status/a3.json").unlink()
    status_summary(out)
    table = pd.read_csv(out / "cohort.csv")
    assert table["slide_id"].tolist() == ["a1", "a2", "b1", "c1"]
    assert table["state"].tolist() == ["done", "done", "done_empty", "interrupted"]
    (out / "cohort.csv").unlink()
    status_summary(out)
    pd.testing.assert_frame_equal(pd.read_csv(out / "cohort.csv"), table)


@pytest.mark.fault("escaped")
def test_what_looks_like_a_formula_is_none_in_the_table(tmp_path: Path) -> None:
    add(tmp_path, "a", "=1+1")
    write_cohort_table(tmp_path)
    assert pd.read_csv(tmp_path / "cohort.csv")["patient_id"].tolist() == ["'=1+1"]


def test_without_any_slide_the_table_has_its_columns(tmp_path: Path) -> None:
    write_cohort_table(tmp_path)
    assert tuple(pd.read_csv(tmp_path / "cohort.csv").columns) == COHORT


def test_the_first_error_is_raised_if_the_table_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "status").write_text("in the way")
    with pytest.raises(KeyboardInterrupt), keep_cohort_table(tmp_path):
        raise KeyboardInterrupt
    with pytest.raises(InputUnsupportedError), keep_cohort_table(tmp_path):
        pass
