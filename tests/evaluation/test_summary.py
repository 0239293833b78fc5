"""A difference between two rows is shown where patients, seeds and the number of comparisons all allow it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from pathopatch.core.files import write_json
from pathopatch.evaluation import summary
from pathopatch.evaluation.group_scores import effective_sizes, smallest_group, too_few_of
from pathopatch.evaluation.reference import Measured, difference
from pathopatch.evaluation.run_settings import row_name

UNIT, LABEL = np.repeat(np.arange(20), 10), np.tile([0, 1], 100)


def row_of(seeds: int, *, accuracy: float = 0.8, equal_area: float = 0.8, seed_sd: float = 0.0, luck: int = 0) -> Any:
    """A method on 20 patients of 20 patches a group, by seed, which moves the accuracy of each group by a normal."""
    rng = np.random.default_rng((luck, seeds, int(1000 * seed_sd)))
    n, spread = np.full((20, 4), 20), np.linspace(-0.02, 0.02, 500)
    runs = [rng.binomial(20, np.clip(accuracy + rng.normal(0, seed_sd, 4), 0, 1), (20, 4)) for _ in range(seeds)]
    return {seed: Measured(hits, n, equal_area, equal_area + spread, 20.0) for seed, hits in enumerate(runs)}


def pair_of(row: Any, other: Any) -> dict[str, Any]:
    return summary._pair(difference(row, other), "")


@pytest.mark.parametrize(("seeds", "words"), [(1, "only 1 seed of both"), (2, "only 2 seeds of both"), (3, "")])
def test_a_difference_is_shown_from_three_shared_seeds_on(seeds: int, words: str) -> None:
    pair = pair_of(row_of(seeds), row_of(5, accuracy=0.5))
    assert pair["wga"] > 0.2
    assert pair["wga_low"] > 0 or seeds == 2  # whose t has one degree of freedom
    assert (pair["is_shown"], pair["outcome"]) == ((True, "evener") if seeds == 3 else (False, "too few"))
    assert pair["too_few"] == words
    assert np.isnan(pair["p"]) == (seeds < 3)


@pytest.mark.parametrize("is_first", [True, False])
@pytest.mark.parametrize(("equal_area", "outcome"), [(0.76, "traded"), (0.81, "evener"), (0.85, "better")])
def test_an_outcome_is_that_of_the_higher_row(equal_area: float, outcome: str, is_first: bool) -> None:
    high, low = row_of(3, equal_area=equal_area), row_of(5, accuracy=0.5)
    low = {seed: replace(each, drawn=np.full(500, 0.8)) for seed, each in low.items()}
    pair = pair_of(*((high, low) if is_first else (low, high)))
    assert (pair["is_shown"], pair["outcome"]) == (True, outcome)


def test_runs_of_other_patches_are_not_compared() -> None:
    fewer = {seed: replace(each, n=each.n - 1) for seed, each in row_of(3, accuracy=0.5).items()}
    assert pair_of(row_of(3), fewer)["too_few"] == "only 0 seeds of both"


@pytest.mark.slow
@pytest.mark.parametrize("seed_sd", [0, 0.02, 0.05])
def test_two_equal_methods_differ_shown_in_at_most_6_percent(seed_sd: float) -> None:
    pairs = (
        pair_of(row_of(3, seed_sd=seed_sd, luck=2 * luck), row_of(3, seed_sd=seed_sd, luck=2 * luck + 1))
        for luck in range(100)
    )
    assert sum(pair["is_shown"] for pair in pairs) <= 6


def test_holm_compares_each_p_with_5_percent_by_how_many_are_left() -> None:
    pairs = pd.DataFrame({"p": [0.04, 0.01, np.nan, 0.03, 0.012], "is_shown": [True, True, False, True, True]})
    # .01 <= .05 / 4 and .012 <= .05 / 3, but .03 > .05 / 2, and then .04 does not count either.
    assert summary._holds_by_holm(pairs).tolist() == [False, True, False, False, True]


def test_the_smallest_group_is_one_group_and_not_two_minima() -> None:
    row = {"n_0": 117, "patients_0": 16, "n_1": 300, "patients_1": 15, "patients": 20}
    assert smallest_group(row) == {"n_smallest": 117, "patients_smallest": 16}
    # A group that is too small comes before one that is smaller.
    assert smallest_group(row | {"patients_1": 4}) == {"n_smallest": 300, "patients_smallest": 4}


def test_a_claim_counts_patients_by_their_shares_of_the_patches() -> None:
    n = np.ones((12, 2), np.int64)
    row = {"n_0": 60, "n_1": 60, "patients_0": 12, "patients_1": 12, "patients": 12}
    assert too_few_of(row | effective_sizes(n)) == {}
    n[0] = 109
    reason = "only 12 patients, effectively 1.2"
    assert too_few_of(row | effective_sizes(n)) == {"group 0": reason, "group 1": reason, "all": reason}


@pytest.mark.parametrize("has_folds", [False, True])
def test_the_methods_paragraph_counts_what_was_judged_by_split_or_fold(has_folds: bool) -> None:
    groups = pd.DataFrame(
        {"patient_id": list("aabbcc"), "label": [0, 1, 0, 1, 0, 0], "tissue_fraction": 0.5, "split": "test"}
    )
    groups["group@0.5"] = [-1, 3, 1, -1, 1, 1]
    text = summary._data(groups.assign(fold=[1, 1, 2, 2, 2, 2]) if has_folds else groups)
    assert text.startswith(
        "4 patches labelled non-tumour or tumour (left out, as blank or hardly scanned: 1 non-tumour and 1 tumour) "
    )
    parts = "fold 1: 1 of 1 patient, fold 2: 3 of 2 patients." if has_folds else "test 4 of 3 patients."
    assert parts in text
    settings = {"architecture": "small", "input_px": 8, "steps": 9, "batch_per_class": 4, "optimizer": "sgd"}
    (networks,) = summary._training([settings | {"seed": seed, "learning_rate": 1} for seed in (0, 1)], 2 * has_folds)
    assert ("2 runs in each of 2 folds, 4 networks, seeds: 0, 1." in networks) == has_folds


def test_the_methods_paragraph_tells_solved_heads_from_networks_that_learnt() -> None:
    learnt = {"architecture": "small", "input_px": 8, "steps": 9, "batch_per_class": 4, "optimizer": "sgd", "seed": 0}
    learnt |= {"learning_rate": 0.1, "weight_decay": 0.2}
    frozen = {"frozen": True, "architecture": "lite", "input_px": 128, "inner_folds": 5, "steps": 1, "seed": 0}
    (text,) = summary._training([learnt, frozen], 2)
    assert text == (
        "Linear heads on frozen networks (lite, patches of 128 px) were solved exactly, their L2 penalty chosen on "
        "validation, by 5 inner folds of training and validation; networks (small, patches of 8 px) learnt for 9 "
        "steps, 4 patches of each class a step, by sgd, learning rate 0.1, weight decay 0.2; 2 runs in each of 2 "
        "folds, 4 networks, seeds: 0."
    )
    (of_features,) = summary._training([{"architecture": "linear", "steps": 1, "weight_decay": 0.3, "seed": 1}], 0)
    assert of_features == "Linear heads on features were solved exactly with an L2 penalty of 0.3; 1 run, seeds: 1."


def test_a_chosen_row_says_which_heads_validation_took(tmp_path: Path) -> None:
    paths = [tmp_path / f"{fold}.json" for fold in range(4)]
    for path, method in zip(paths, ("erm", "resample", "erm"), strict=False):  # the last one was not trained
        write_json(path, {"chosen": {"mask": "normalise", "method": method}})
    assert summary._chosen_text(paths) == "validation chose normalise erm 2 times, normalise resample 1 times"
    config = {"choose": True, "method": "erm"}
    assert row_name(config, "erm", "seed 1") == "chosen head, seed 1"
    assert row_name(config | {"row_name": "mine"}, "erm", "") == "mine"
