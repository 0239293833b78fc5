"""Cohen's kappa against counts by hand and scikit-learn, and its interval by slide."""

from __future__ import annotations

import math

import numpy as np
import pytest
from sklearn.metrics import cohen_kappa_score

from pathopatch.groups.decisions.agreement import LEAST_SLIDES, agreement


def test_kappa_is_that_of_a_table_counted_by_hand() -> None:
    """20 both yes, 15 both no, 5 and 10 apart: 0.7 observed, 0.5 by chance."""
    counts = {("yes", "yes"): 20, ("yes", "no"): 5, ("no", "yes"): 10, ("no", "no"): 15}
    pairs = [pair for pair, count in counts.items() for _ in range(count)]
    found = agreement([one for one, _ in pairs], [other for _, other in pairs], [f"s{n}" for n in range(50)])
    assert (found.n, found.n_slides, found.n_agreed) == (50, 50, 35)
    assert found.kappa == pytest.approx(0.4)
    assert found.low < 0.4 < found.high


@pytest.mark.parametrize("seed", range(5))
def test_kappa_is_scikit_learns(seed: int) -> None:
    first, second = np.random.default_rng(seed).choice(["accept", "reject", "flag"], (2, 40)).tolist()
    found = agreement(first, second, [f"s{n % 7}" for n in range(40)])
    assert found.kappa == pytest.approx(cohen_kappa_score(first, second))
    assert found.n_slides == 7


def test_readers_who_always_agree_have_a_kappa_of_one() -> None:
    found = agreement(["a", "b"] * 5, ["a", "b"] * 5, [f"s{n}" for n in range(10)])
    assert (found.kappa, found.high) == (1, 1)


def test_one_answer_to_all_has_no_kappa_and_no_items_neither() -> None:
    """The third has three categories and a share of 1/3 each: no sum of shares is exactly 1."""
    for found in (agreement(["a"] * 3, ["a"] * 3, ["s1", "s2", "s3"]), agreement([], [], [])):
        assert math.isnan(found.kappa)
        assert math.isnan(found.low)
    assert agreement(["a", "b", "c"], ["a", "b", "c"], ["s1"] * 3).kappa == pytest.approx(1)


def test_patches_of_one_slide_are_drawn_together() -> None:
    """All disagreement lies in one slide of five: the interval is wider than if patches were drawn one by one."""
    first = ["tumour", "non-tumour"] * 25
    second = first[:40] + first[39:29:-1]
    by_slide = agreement(first, second, [f"s{n // 10}" for n in range(50)])
    one_by_one = agreement(first, second, [f"s{n}" for n in range(50)])
    assert by_slide.kappa == one_by_one.kappa
    assert by_slide.high - by_slide.low > 1.3 * (one_by_one.high - one_by_one.low)


def test_few_slides_have_no_interval() -> None:
    for n, is_known in ((LEAST_SLIDES - 1, False), (LEAST_SLIDES, True)):
        answers = ["a", "b", "a", "b", "a"][:n]
        found = agreement(answers, ["b", *answers[1:]], [f"s{number}" for number in range(n)])
        assert math.isfinite(found.low) == is_known
