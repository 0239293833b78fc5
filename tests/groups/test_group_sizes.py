"""Precision that cells of a given size allow, against the binomial law."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from pathopatch.groups import assign_groups, audit, audit_tables
from pathopatch.groups.group_sizes import expected_intervals as expected


def one_a_patient(sizes: list[int]) -> tuple[np.ndarray, np.ndarray]:
    """Groups of these sizes, each patch of a patient of its own."""
    group = np.repeat(np.arange(len(sizes)), sizes)
    return group, np.arange(len(group)).astype(str)


def test_a_cell_of_single_patches_has_the_binomial_half_width() -> None:
    result = expected(*one_a_patient([100, 400, 100, 100]), 4, accuracy=0.8, correlation=0.5, simulations=20000)
    widths = [cell["half_width"] for cell in result["cells"]]
    assert widths[0] == pytest.approx(1.96 * np.sqrt(0.8 * 0.2 / 100), abs=0.006)
    assert widths[1] == pytest.approx(1.96 * np.sqrt(0.8 * 0.2 / 400), abs=0.004)
    assert result["cells"][0]["effective_n"] == 100
    # sqrt(.16 / n) * 1.96 = .05 at n = 245.9
    assert result["cells"][0]["patients_for_5_points"] == 246


def test_patches_of_one_patient_tell_less_than_as_many_of_several() -> None:
    group = np.zeros(400, dtype=int)
    apart = expected(group, np.arange(400), 1)["cells"][0]
    together = expected(group, np.repeat(np.arange(20), 20), 1)["cells"][0]
    # Kish: 400 / (1 + .1 * 19)
    assert together["effective_n"] == pytest.approx(400 / 2.9)
    assert together["half_width"] == pytest.approx(apart["half_width"] * np.sqrt(2.9), rel=0.1)


def test_a_large_cohort_counts_as_a_small_one_of_the_same_law() -> None:
    drawn = expected(np.zeros(2000, dtype=int), np.repeat(np.arange(100), 20), 1, simulations=20000)["cells"][0]
    normal = expected(np.zeros(2020, dtype=int), np.repeat(np.arange(101), 20), 1, simulations=20000)["cells"][0]
    assert normal["half_width"] == pytest.approx(drawn["half_width"], rel=0.05)


def test_the_minimum_of_equal_cells_is_low_by_the_normal_order_statistic() -> None:
    wga = expected(*one_a_patient([400] * 4), 4, simulations=20000)["wga"]
    # The lowest of four standard normals is -1.0294 on average.
    assert wga["bias"] == pytest.approx(-1.0294 * np.sqrt(0.8 * 0.2 / 400), abs=0.001)
    assert wga["low"] < wga["mean"] < wga["high"]


def test_an_empty_cell_makes_the_worst_group_unknown_and_says_why() -> None:
    result = expected(*one_a_patient([100, 0, 100, 30]), 4)
    assert result["wga"] == {"mean": None, "low": None, "high": None, "bias": None}
    assert [cell["reasons"] for cell in result["cells"]][:3] == [[], ["no patches"], []]
    assert result["cells"][3]["reasons"][0] == "30 patches, fewer than 50"
    few = expected(np.zeros(9000, dtype=int), np.repeat(np.arange(3), 3000), 1)["cells"][0]
    assert few["reasons"][0] == "3 patients, fewer than 10"


def test_the_tables_hold_a_row_per_split_cell_and_threshold() -> None:
    rng = np.random.default_rng(0)
    patches = pd.DataFrame(
        {
            "patch_id": [f"s@{i},0" for i in range(80)],
            "slide_id": "s",
            "patient_id": [f"p{i % 8}" for i in range(80)],
            "split": [("train", "test")[i % 2] for i in range(80)],
            "label": rng.integers(0, 2, 80),
            "tissue_fraction": rng.uniform(0.05, 1, 80),
        }
    )
    tables = audit_tables(audit(assign_groups(patches, [0.25, 0.5]), [0.25, 0.5], resamples=20))
    assert tables["fraction_only"]["split"].tolist() == ["train", "test", "whole cohort"]
    assert len(tables["cells"]) == 2 * 2 * 4
    by_hand = patches[(patches["split"] == "test") & (patches["label"] == 1) & (patches["tissue_fraction"] >= 0.5)]
    cell = tables["cells"].query("threshold == 0.5 and split == 'test' and group == 3").iloc[0]
    assert (cell["n"], cell["patients"]) == (len(by_hand), by_hand["patient_id"].nunique())
