"""Robustness indices of features: equal to the reference package, and right on cases done by hand."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import pandas as pd
import pytest
from croma.metrics.croma import CrossConfounderRobustnessMargin
from croma.metrics.mari import MarginAwareRobustnessIndex
from croma.metrics.ri import RobustnessIndex
from numpy.typing import NDArray

from pathopatch.features.robustness import draw_patches, robustness_indices, tissue_thirds

K = (1, 3, 5, 9, 15)


def made(
    n: int = 240, *, values: int = 2, by_label: float = 0.8, by_confounder: float = 0.8, seed: int = 0
) -> tuple[NDArray[np.float64], NDArray[np.int64], NDArray[np.int64], NDArray[np.str_]]:
    """Features of 12 slides that follow the label and the confounder."""
    rng = np.random.default_rng(seed)
    label, confounder = rng.integers(0, 2, n), rng.integers(0, values, n)
    features = rng.normal(size=(n, 8))
    features[:, 0] += by_label * (2 * label - 1)
    features[:, 1] += by_confounder * (2 * confounder - 1)
    return features, label, confounder, np.array([f"s{number}" for number in rng.integers(0, 12, n)])


def flat(result: dict[str, Any]) -> dict[str, float]:
    """Return all numbers of a result, those of the curve by k."""
    return {**{name: value for name, value in result.items() if name != "curve"}, **result["curve"]}


@pytest.mark.parametrize(("values", "seed"), [(2, 0), (2, 1), (3, 2)])
def test_indices_equal_those_of_croma(values: int, seed: int) -> None:
    features, label, confounder, slide = made(values=values, seed=seed)
    manifest = pd.DataFrame(
        {
            "sample_id": np.arange(len(label)).astype(str),
            "image_path": "",
            "label": label,
            "group_id": slide,
            "tissue": confounder,
        }
    )
    options = {"confounder_column": "tissue"}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # it warns of patches without typed neighbours
        ri = RobustnessIndex.compute(features, manifest, k_candidates=K, **options)
        curve = RobustnessIndex.compute_curve(features, manifest, k_values=K, **options)
        mari = MarginAwareRobustnessIndex.compute(features, manifest, k_candidates=K, **options)
    croma = CrossConfounderRobustnessMargin.compute(features, manifest, **options)
    ours = robustness_indices(features, label, confounder, slide, k_candidates=K)

    assert ours["k"] == ri.k
    expected = [ri.value, ri.support, mari.value, mari.tau, croma.value, croma.ltm_alpha, croma.f0, *curve.values()]
    names = ("ri", "support", "mari", "tau", "croma", "croma_worst", "croma_f0")
    assert [*(ours[name] for name in names), *ours["curve"].values()] == pytest.approx(expected, abs=1e-9)


def test_equal_features_leave_mari_equal_to_ri_and_no_margin() -> None:
    label, confounder = np.array([0, 1, 0, 1] * 4), np.array([0, 0, 1, 1] * 4)
    result = robustness_indices(np.tile([0.0, 2.0], (16, 1)), label, confounder, np.arange(16), k_candidates=(3,))
    assert result["tau"] == 0
    assert result["mari"] == result["ri"]
    assert result["croma"] is None


def test_one_slide_gives_no_index() -> None:
    features, label, confounder, _ = made(40)
    result = robustness_indices(features, label, confounder, np.zeros(40), k_candidates=K)
    assert {name for name, value in result.items() if value is not None} == {"patches", "curve", "m"}


def test_random_index_is_the_share_among_all_of_other_slides() -> None:
    # Slide a: one patch of each cell. Slide b: two of (0, 0), one of (0, 1). Cells are (label, confounder).
    label = np.array([0, 0, 1, 1, 0, 0, 0])
    confounder = np.array([0, 1, 0, 1, 0, 0, 1])
    slide = np.array([*"aaaabbb"])
    # SO: a's (0,0) 1, (0,1) 2, and b's twice (0,0) 1, (0,1) 1. OS: a's (1,0) 2, (1,1) 1, and b's 1, 1, 1.
    result = robustness_indices(np.eye(7), label, confounder, slide, k_candidates=(1,))
    assert result["ri_random"] == pytest.approx(6 / 12)


def test_features_of_the_label_alone_have_indices_above_random() -> None:
    by_label = robustness_indices(*made(by_label=3, by_confounder=0), k_candidates=K)
    by_tissue = robustness_indices(*made(by_label=0, by_confounder=3), k_candidates=K)
    assert by_label["ri"] > 0.9 > 0.1 > by_tissue["ri"]
    assert by_label["croma"] > 0 > by_tissue["croma"]
    assert by_label["ri_low"] > by_label["ri_random"] > by_tissue["ri_high"]


def test_half_precision_features_change_the_indices_little() -> None:
    features, *rest = made()
    whole = robustness_indices(features, *rest, k_candidates=K)
    half = robustness_indices(features.astype(np.float16), *rest, k_candidates=K)
    assert half["ri"] == pytest.approx(whole["ri"], abs=0.02)
    assert half["croma"] == pytest.approx(whole["croma"], abs=1e-3)


def test_thirds_leave_the_middle_and_the_unknown_out() -> None:
    fraction = [0.1, 0.2, 0.3, 0.4, 0.5, 0.6, np.nan]
    assert tissue_thirds(fraction).tolist() == [0, 0, -1, -1, 1, 1, -1]


@pytest.mark.parametrize(
    ("fraction", "thirds"),
    [
        ([1, 1, 1, 1, 0.4], [1, 1, 1, 1, 0]),
        ([0, 0, 0, 0, 0.4], [0, 0, 0, 0, 1]),
        ([0.1, 0.5, 0.5, 0.5, 0.9], [0, -1, -1, -1, 1]),
        ([0.5, 0.5], [-1, -1]),
        ([], []),
    ],
)
def test_thirds_of_patches_that_mostly_have_one_fraction(fraction: list[float], thirds: list[int]) -> None:
    assert tissue_thirds(fraction).tolist() == thirds


def test_a_draw_takes_equal_shares_and_keeps_small_cells_whole() -> None:
    label = np.array([0] * 50 + [1] * 50 + [-1] * 20)
    confounder = np.array([0] * 50 + [0] * 45 + [1] * 5 + [0] * 20)
    rows = draw_patches(label, confounder, most=60)
    assert [int((rows < 50).sum()), int(((rows >= 50) & (rows < 95)).sum()), rows[rows >= 95].tolist()] == [
        20, 20, [95, 96, 97, 98, 99],
    ]  # fmt: skip
    assert (np.diff(rows) > 0).all()
    assert draw_patches(label, confounder, most=60, seed=1).tolist() != rows.tolist()


def test_a_draw_of_no_patch_is_empty() -> None:
    assert draw_patches(np.array([-1, 0]), np.array([0, -1])).tolist() == []


def test_no_patches_give_no_index() -> None:
    none = np.empty(0, np.int64)
    assert robustness_indices(np.empty((0, 4), np.float32), none, none, none)["ri"] is None


def test_indices_do_not_depend_on_the_blocks_of_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = flat(robustness_indices(*made(), k_candidates=K))
    monkeypatch.setattr("pathopatch.features.robustness._BLOCK_VALUES", 7 * 240)
    assert flat(robustness_indices(*made(), k_candidates=K)) == pytest.approx(whole, abs=1e-12)
