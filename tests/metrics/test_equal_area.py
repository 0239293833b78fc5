"""AUROC at equal area against loops over all pairs and all resamples, and its laws."""

from __future__ import annotations

import math
import time

import numpy as np
import pytest

from pathopatch.core.errors import InputUnsupportedError, NonFiniteError
from pathopatch.metrics import auroc, auroc_at_equal_area, bootstrap_by_patient, equal_area_draws
from pathopatch.metrics.bootstrap import interval
from pathopatch.metrics.equal_area import CALIPERS, _count_below, compared_text, tells_area


def drawn_set(rng: np.random.Generator, n: int) -> dict[str, np.ndarray]:
    """Patches with ties of scores and of areas, some without an answer, in up to four folds."""
    by_grid = rng.integers(0, 101, n) / 100
    return {
        "score": rng.integers(0, 1 + int(rng.integers(1, 12)), n) - 3.5,
        "label": rng.integers(0, 2, n),
        "fraction": by_grid if rng.random() < 0.5 else rng.random(n) ** rng.integers(1, 4),
        "stratum": rng.integers(0, rng.integers(1, 5), n),
        "answered": rng.random(n) > rng.choice([0, 0.2]),
    }


def looped(score, label, fraction, stratum, answered, caliper):  # type: ignore[no-untyped-def]
    """Return wins and pairs by tenth of the mean area, wins and pairs among answered patches, and who has a partner."""
    rank = [((fraction < each).mean() + (fraction <= each).mean()) / 2 for each in fraction]
    won, pairs, of_answered, partnered = np.zeros(10), np.zeros(10), np.zeros(2), set()
    for i in np.flatnonzero(label == 1):
        for j in np.flatnonzero(label == 0):
            if stratum[i] != stratum[j] or abs(fraction[i] - fraction[j]) > 0.02 + 1e-9:
                continue
            if abs(rank[i] - rank[j]) > caliper + 1e-9:
                continue
            win = float(score[i] > score[j]) + 0.5 * float(score[i] == score[j])
            is_answered = answered[i] and answered[j]
            tenth = min(int(10 * ((fraction[i] + fraction[j]) / 2 + 1e-9)), 9)
            won[tenth] += win * is_answered
            pairs[tenth] += 1
            of_answered += is_answered * np.array([win, 1])
            partnered.add(i)
    return won, pairs, of_answered, len(partnered)


def test_it_equals_the_loop_over_all_pairs() -> None:
    rng = np.random.default_rng(0)
    for _ in range(500):
        patches = drawn_set(rng, int(rng.integers(2, 60)))
        found = auroc_at_equal_area(**patches)
        won, pairs, of_answered, partnered = looped(**patches, caliper=found.caliper)
        assert found.pairs == pairs.sum()
        with np.errstate(invalid="ignore"):
            tenths, value, answered = won / pairs, won.sum() / pairs.sum(), of_answered[0] / of_answered[1]
        np.testing.assert_allclose(found.tenths, tenths, rtol=0, atol=1e-12)
        known = tenths[pairs > 0]
        expected = [value, answered, known.mean() if len(known) else math.nan]
        np.testing.assert_allclose([found.value, found.answered, found.even], expected, rtol=0, atol=1e-12)
        positives = int(patches["label"].sum())
        assert found.partnered == pytest.approx(partnered / positives if positives else math.nan, nan_ok=True)


def test_the_draws_are_those_of_the_value_on_resampled_units(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pathopatch.metrics.equal_area.CALIPERS", (1.0,))  # that of a resample may be another
    rng = np.random.default_rng(1)
    patches = drawn_set(rng, 200)
    unit = rng.integers(0, 15, 200).astype(str)  # of several folds each, so within and between units and folds

    def value(index: np.ndarray) -> float:
        return auroc_at_equal_area(**{name: each[index] for name, each in patches.items()}).value

    by_hand = bootstrap_by_patient(value, unit, resamples=60, seed=3)
    draws = equal_area_draws(**patches, unit=unit, resamples=60, seed=3)
    assert interval(draws) == pytest.approx(by_hand, abs=1e-12)


def full_frames(rng: np.random.Generator, n: int, *, most: float = 0.04) -> tuple[np.ndarray, np.ndarray]:
    """Labels and tissue fractions of patches that fill their frame: at most 0.04 is glass, and less in tumour."""
    label = rng.integers(0, 2, n)
    return label, 1 - most * rng.random(n) ** (1 + 2 * label)


def test_where_patches_are_full_pairs_are_near_by_rank_too() -> None:
    rng = np.random.default_rng(9)
    label, fraction = full_frames(rng, 400)
    score, fold = label + rng.normal(0, 1, 400), rng.integers(0, 2, 400)
    found = auroc_at_equal_area(score, label, fraction, stratum=fold)
    rank = np.argsort(np.argsort(fraction)) / 400  # of all folds
    floors = {}
    for caliper in CALIPERS[: CALIPERS.index(found.caliper) + 1]:
        near = np.abs(np.subtract.outer(fraction, fraction)) <= 0.02 + 1e-9
        near &= np.abs(np.subtract.outer(rank, rank)) <= caliper + 1e-9
        near &= np.equal.outer(fold, fold) & np.greater.outer(label, label)
        floors[caliper] = (np.greater.outer(fraction, fraction) & near).sum() / near.sum()
    assert list(floors) == [caliper for caliper, floor in floors.items() if floor > 0.55] + [found.caliper]
    assert [found.floor, found.pairs] == pytest.approx([floors[found.caliper], near.sum()])
    assert found.value == pytest.approx((np.greater.outer(score, score) & near).sum() / near.sum())
    # No score changes the pairs, and draws take those of the value, on the ranks of all patches.
    assert auroc_at_equal_area(-score, label, fraction, stratum=fold).caliper == found.caliper
    unit, wins = np.arange(400) % 20, np.greater.outer(score, score) & near
    by_hand = bootstrap_by_patient(lambda row: wins[np.ix_(row, row)].sum() / near[np.ix_(row, row)].sum(), unit)
    assert interval(equal_area_draws(score, label, fraction, unit, stratum=fold)) == pytest.approx(by_hand, abs=1e-12)


def test_no_caliper_helps_where_the_area_parts_the_labels_or_pairs_are_few() -> None:
    apart = auroc_at_equal_area([1.0, 0.0, 0.0], [1, 0, 1], [0.991, 0.99, 0.992])
    assert (apart.caliper, apart.floor, tells_area(apart.floor)) == (1, 1, True)
    assert "by at most 0.02; the fraction itself reaches 1.000, so a value cannot be" in compared_text(1, apart.floor)
    # Ties tell nothing, and here are a fifth of 200 patches.
    label, fraction = np.arange(200) % 2, np.where(np.arange(200) < 40, 1, 0.99 + np.arange(200) % 2 * 0.005)
    tied = auroc_at_equal_area(label, label, fraction)
    assert (tied.caliper, tied.floor, tied.pairs, tied.partnered) == (0.2, 0.5, 400, 0.2)
    assert compared_text(0, 0.5) == "patches of equal tissue fraction; the fraction itself reaches 0.500"
    few = auroc_at_equal_area(label[30:84], label[30:84], fraction[30:84])  # with 25 ties
    assert (few.caliper, few.pairs, tells_area(few.floor)) == (1, 729, True)


def test_units_merged_at_random_give_the_same_spread() -> None:
    rng = np.random.default_rng(2)
    n, unit = 6000, np.repeat(np.arange(1500), 4)
    label = rng.integers(0, 2, n)
    score = label + rng.normal(0, 1.5, n) + np.repeat(rng.normal(0, 1, 1500), 4)
    fraction = np.full(n, 0.5)  # all patches are partners, so the ordinary AUROC is the same number
    low, high = interval(equal_area_draws(score, label, fraction, unit))
    expected = bootstrap_by_patient(lambda index: auroc(score[index], label[index]), unit, resamples=300)
    assert (high - low) == pytest.approx(expected[1] - expected[0], rel=0.15)


def test_the_interval_covers_the_truth() -> None:
    rng, n_units, covered = np.random.default_rng(4), 40, 0
    unit = np.repeat(np.arange(n_units), 10)
    truth = 0.7602499  # Phi(1 / sqrt(2)): normal scores one standard deviation apart
    for _ in range(100):
        label, fraction = rng.integers(0, 2, 400), rng.integers(0, 5, 400) / 10
        score = rng.normal(0, 1, 400) + label + 5 * fraction
        low, high = interval(equal_area_draws(score, label, fraction, unit, resamples=200))
        covered += low <= truth <= high
    assert 88 <= covered <= 99


def test_an_offset_by_area_and_a_monotone_change_are_not_seen() -> None:
    rng = np.random.default_rng(5)
    label, fraction = rng.integers(0, 2, 300), rng.integers(0, 8, 300) / 8
    score = label + rng.normal(0, 1, 300)
    value = auroc_at_equal_area(score, label, fraction).value
    assert auroc_at_equal_area(score + 100 * fraction, label, fraction).value == value
    assert auroc_at_equal_area(np.exp(3 * score) - 7, label, fraction).value == value
    assert auroc(score + 100 * fraction, label) != pytest.approx(value, abs=0.02)


def test_area_alone_reaches_its_floor_and_no_more() -> None:
    rng = np.random.default_rng(6)
    label = rng.integers(0, 2, 3000)
    fraction = np.clip(0.3 + 0.3 * label + rng.normal(0, 0.2, 3000), 0, 1)
    floor = auroc_at_equal_area(fraction, label, fraction).value
    assert 0.5 < floor < 0.56 < 0.8 < auroc(fraction, label)
    assert auroc_at_equal_area(fraction**3, label, fraction).value == floor
    assert auroc_at_equal_area(-fraction, label, fraction).value == pytest.approx(1 - floor, abs=0.01)
    assert auroc_at_equal_area(np.rint(fraction), label, fraction).value == pytest.approx(0.5, abs=floor - 0.5)


def test_without_a_pair_it_is_unknown() -> None:
    apart = auroc_at_equal_area([1.0, 0.0], [1, 0], [0.2, 0.8])
    assert (apart.pairs, apart.partnered) == (0, 0)
    assert np.isnan([apart.value, apart.even, apart.answered, *apart.tenths]).all()
    other_fold = auroc_at_equal_area([1.0, 0.0], [1, 0], [0.2, 0.2], stratum=["a", "b"])
    assert (other_fold.pairs, other_fold.partnered) == (0, 0)
    of_one_label = auroc_at_equal_area([1.0, 0.0], [0, 0], [0.2, 0.2])
    assert of_one_label.pairs == 0
    assert math.isnan(of_one_label.partnered)
    assert np.isnan(equal_area_draws([1.0, 0.0], [1, 0], [0.2, 0.2], ["a", "a"], resamples=3)).all()


def test_arrays_that_do_not_fit_are_refused() -> None:
    with pytest.raises(InputUnsupportedError):
        auroc_at_equal_area([1.0, 0.0], [1, 0, 0], [0.2, 0.2, 0.2])
    with pytest.raises(InputUnsupportedError):
        auroc_at_equal_area([1.0, 0.0], [1, 2], [0.2, 0.2])
    for area in (-0.2, 20.0):
        with pytest.raises(InputUnsupportedError):
            auroc_at_equal_area([1.0, 0.0], [1, 0], [0.2, area])
    for score, fraction in (([np.nan, 0.0], [0.2, 0.2]), ([1.0, 0.0], [0.2, np.nan])):
        with pytest.raises(NonFiniteError):
            auroc_at_equal_area(score, [1, 0], fraction)
    # Without an answer there may be no score.
    assert auroc_at_equal_area([np.nan, 0.0], [1, 0], [0.2, 0.2], answered=[False, True]).value == 0


def test_ranks_below_a_limit_are_counted_in_any_range() -> None:
    rng = np.random.default_rng(7)
    for n in (1, 2, 7, 8, 33):
        rank = rng.permutation(n)
        first, end, limit = np.array([(i, j, k) for i in range(n + 1) for j in range(i, n + 1) for k in range(n + 1)]).T
        expected = [(rank[i:j] < k).sum() for i, j, k in zip(first, end, limit, strict=True)]
        assert _count_below(rank, first, end, limit).tolist() == expected


@pytest.mark.slow
def test_a_million_patches_take_seconds() -> None:
    rng = np.random.default_rng(8)
    label = rng.integers(0, 2, 1_000_000)
    score = label + rng.normal(0, 1, 1_000_000)
    start = time.process_time()
    found = auroc_at_equal_area(score, label, rng.random(1_000_000))
    assert time.process_time() - start < 5
    assert found.value == pytest.approx(0.7602499, abs=0.002)
