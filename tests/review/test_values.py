"""The browser gets the predictions: maps to the bit, patches at their places, decisions on their side."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import tifffile
from hypothesis import given
from hypothesis import strategies as st
from made_review import Folders, write_labels
from made_slides import write_aperio

from pathopatch.core.errors import InputMissingError
from pathopatch.core.status import read_status
from pathopatch.heatmaps import FLAGS
from pathopatch.review.reviewed_cohort import ReviewedSlide, open_cohort
from pathopatch.review.values import browser_facts, patch_facts, round_on_decided_side, slide_values

TYPES = {"float32": "<f4", "uint32": "<u4", "uint16": "<u2", "int8": "<i1"}
CASES = [("out", "bright"), ("out", "dark"), ("fine", "bright")]


def arrays(slide: ReviewedSlide) -> dict[str, np.ndarray]:
    """Read the bytes by their layout alone."""
    raw = slide_values(slide)
    layout = browser_facts(slide)["layout"]
    assert all(part["offset"] % 4 == 0 for part in layout)
    return {p["name"]: np.frombuffer(raw, TYPES[p["type"]], p["length"], p["offset"]) for p in layout}


def table_of(out: Path, slide_id: str) -> pd.DataFrame:
    return pd.read_parquet(out / "predictions" / f"{slide_id}.parquet")


@pytest.mark.parametrize(("where", "slide_id"), CASES)
def test_cells_are_those_of_the_heatmap_to_the_bit(where: str, slide_id: str, folders: Folders) -> None:
    out = folders.root / where
    values = arrays(open_cohort(out).open(slide_id))
    maps = tifffile.imread(out / "heatmaps" / slide_id / "heatmap.ome.tif", level=0)
    assert np.isnan(maps[0]).any()
    assert values["cell_probability"].tobytes() == maps[0].astype("<f4").tobytes()
    assert values["cell_tissue"].tobytes() == maps[1].astype("<f4").tobytes()
    assert ("cell_spread" in values) == (where == "fine")
    if where == "fine":
        assert values["cell_spread"].tobytes() == maps[2].astype("<f4").tobytes()


@pytest.mark.parametrize(("where", "slide_id"), CASES)
def test_patches_stand_at_their_cells_with_what_the_table_says(where: str, slide_id: str, folders: Folders) -> None:
    out, stride = folders.root / where, 8 if where == "fine" else 16
    slide = open_cohort(out).open(slide_id)
    values, table, about = arrays(slide), table_of(out, slide_id), browser_facts(slide)
    nx, ny = (-(-side // stride) for side in about["size_px"])
    assert about["cells"] == [nx, ny]
    np.testing.assert_array_equal(values["patch_cell"], table["y"] // stride * nx + table["x"] // stride)
    np.testing.assert_allclose(values["patch_probability"], table["probability"], atol=1e-7)
    np.testing.assert_array_equal(values["patch_tissue"], table["tissue_fraction"].astype("f4"))
    for bit, name in enumerate(FLAGS):
        raised = table[f"flag_{name}"].fillna(False).to_numpy(bool)
        np.testing.assert_array_equal(values["patch_flags"] >> bit & 1, raised)


@pytest.mark.parametrize(("where", "slide_id"), CASES)
def test_at_the_stored_decision_as_many_are_positive_as_the_counts_say(
    where: str, slide_id: str, folders: Folders
) -> None:
    slide = open_cohort(folders.root / where).open(slide_id)
    about = json.loads(json.dumps(browser_facts(slide)))
    probability = arrays(slide)["patch_probability"].astype(np.float64)  # as JavaScript has both
    assert np.count_nonzero(probability > about["decision_probability"]) == about["counts"]["tumour"]
    if where == "out":
        assert 0 < about["counts"]["tumour"] < about["counts"]["predicted"]


@given(
    decision=st.floats(0, 1, exclude_min=True, exclude_max=True),
    ulps=st.lists(st.integers(-4, 4), min_size=1, max_size=9),
    seed=st.integers(0, 99),
)
def test_rounding_moves_no_patch_over_the_decision(decision: float, ulps: list[int], seed: int) -> None:
    """Probabilities a few float64 steps from the decision, whatever the logit said."""
    probability = np.clip(decision + np.array(ulps) * np.spacing(decision), 0, 1)
    is_tumour = np.random.default_rng(seed).random(len(ulps)) < 0.5
    rounded = round_on_decided_side(probability, is_tumour, decision)
    assert rounded.dtype == np.float32
    np.testing.assert_array_equal(rounded.astype(np.float64) > decision, is_tumour)
    np.testing.assert_allclose(rounded, probability, rtol=3e-7, atol=1e-44)


def test_the_run_beside_is_joined_by_origin(folders: Folders) -> None:
    slide = open_cohort(folders.out, beside=folders.fine).open("bright")
    values = arrays(slide)
    theirs = table_of(folders.fine, "bright").set_index(["x", "y"])["probability"]
    ours = table_of(folders.out, "bright")
    due = [theirs.get((x, y), np.nan) for x, y in zip(ours["x"], ours["y"], strict=True)]
    np.testing.assert_array_equal(values["patch_beside"], np.array(due, "f4"))
    about = browser_facts(slide)
    assert about["beside"]["model"]["name"].endswith(" (erm, gerne)")
    assert about["why_no_beside"] is None
    assert "difference" in about["fields"]


def test_cells_beside_are_those_under_the_middle_of_each_cell(folders: Folders) -> None:
    same = arrays(open_cohort(folders.out, beside=folders.beside).open("bright"))["cell_beside"]
    maps = tifffile.imread(folders.beside / "heatmaps" / "bright" / "heatmap.ome.tif", level=0)
    assert same.tobytes() == maps[0].astype("<f4").tobytes()
    finer = arrays(open_cohort(folders.out, beside=folders.fine).open("bright"))["cell_beside"].reshape(18, 19)
    fine = tifffile.imread(folders.fine / "heatmaps" / "bright" / "heatmap.ome.tif", level=0)[0]
    np.testing.assert_array_equal(finer[:17, :18], fine[1:34:2, 1:36:2])  # cell i: its middle 16 i + 8 begins 2 i + 1


def test_a_run_beside_of_other_pixels_is_not_compared(folders: Folders, tmp_path: Path) -> None:
    from made_review import bright_image, predict

    write_aperio(tmp_path / "bright.svs", np.ascontiguousarray(bright_image()[:, ::-1]), levels=1)
    predict(tmp_path / "bright.svs", [folders.root / "other"], tmp_path / "turned", "bright")
    slide = open_cohort(folders.out, beside=tmp_path / "turned").open("bright")
    about = browser_facts(slide)
    assert about["beside"] is None
    assert "other pixels" in about["why_no_beside"]
    assert not {"cell_beside", "patch_beside"} & set(arrays(slide))


def test_a_slide_missing_in_the_other_run_has_the_reason(folders: Folders) -> None:
    about = browser_facts(open_cohort(folders.out, beside=folders.beside).open("dark"))
    assert about["beside"] is None
    assert about["why_no_beside"].endswith(" (erm) has no slide of this id")


@pytest.fixture
def labelled(folders: Folders, tmp_path: Path) -> Path:
    """A groups table in which every third patch of the bright slide is not labelled."""
    table = table_of(folders.out, "bright")
    write_labels(tmp_path, table, "bright", [index % 3 - 1 for index in range(len(table))])
    return tmp_path


def test_labels_and_groups_come_from_the_groups_table(folders: Folders, labelled: Path) -> None:
    slide = open_cohort(folders.out, work=labelled).open("bright")
    values, tissue = arrays(slide), table_of(folders.out, "bright")["tissue_fraction"]
    label = np.arange(len(tissue)) % 3 - 1
    np.testing.assert_array_equal(values["patch_label"], label)
    np.testing.assert_array_equal(values["patch_group"], np.where(label < 0, -1, 2 * label + (tissue >= 0.25)))
    table = pd.read_parquet(labelled / "groups.parquet").set_index("patch_id")
    names = [f"bright@{x},{y}" for x, y in zip(slide.patches.x, slide.patches.y, strict=True)]
    np.testing.assert_array_equal(values["patch_group"], table.loc[names, "group@0.25"])
    assert (browser_facts(slide)["tau"], browser_facts(slide)["group_of"]) == (0.25, "label")


def test_a_patch_is_its_row_of_the_table_not_rounded(folders: Folders, labelled: Path) -> None:
    slide = open_cohort(folders.out, beside=folders.beside, work=labelled).open("bright")
    row, other = table_of(folders.out, "bright").iloc[7], table_of(folders.beside, "bright").iloc[7]
    facts: dict[str, Any] = json.loads(json.dumps(patch_facts(slide, int(row["x"]), int(row["y"])), allow_nan=False))
    for name, value in row.items():
        assert facts[name] == (None if pd.isna(value) else value), name
    assert (facts["label"], facts["group"]) == (0, int(row["tissue_fraction"] >= 0.25))
    assert (facts["x_um"], facts["y_um"], facts["width_um"]) == (row["x"] / 2, row["y"] / 2, 8)
    assert facts["beside"] == other["probability"]
    assert facts["model"] == browser_facts(slide)["model"]["fingerprint"]
    assert facts["is_tumour"] == (row["logit"] > 0.65)


def test_where_nothing_was_predicted_there_is_no_patch(folders: Folders) -> None:
    slide = open_cohort(folders.out).open("bright")
    for place in ((0, 0), (1, 0), (-16, 0), (10**9, 16)):
        with pytest.raises(InputMissingError, match="no predicted patch"):
            patch_facts(slide, *place)


@pytest.mark.parametrize(("where", "slide_id"), CASES)
def test_facts_are_json_and_their_lengths_those_of_the_bytes(where: str, slide_id: str, folders: Folders) -> None:
    slide = open_cohort(folders.root / where).open(slide_id)
    about = json.loads(json.dumps(browser_facts(slide), allow_nan=False))
    last = about["layout"][-1]
    size = np.dtype(TYPES[last["type"]]).itemsize
    assert len(slide_values(slide)) == -(-(last["offset"] + last["length"] * size) // 4) * 4
    status = read_status(folders.root / where, slide_id)["predict"]
    assert (about["counts"], about["summary"]) == (status["counts"], status["summary"])
    assert about["span_px"] == 16
    assert ("spread" in about["fields"]) == (where == "fine")
