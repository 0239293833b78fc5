"""Methods of the benchmark: subsets in which class and area are not correlated, and the distance correlation."""

import sys
from dataclasses import replace
from importlib import import_module
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from made_patches import toy

from pathopatch.core.config import TrainConfig, head_settings
from pathopatch.core.errors import GroupEmptyError, InputUnsupportedError
from pathopatch.training.fit import fit_arrays

sys.path.insert(0, str(Path(__file__).parents[2] / "pipelines" / "area-benchmark"))
registered = import_module("area_benchmark.methods")
equal_areas, equal_groups, distance_correlation = (
    getattr(registered, name) for name in ("equal_areas", "equal_groups", "distance_correlation")
)
LABEL = np.repeat([0, 0, 1, 1], [50, 5, 8, 40])
ATTRIBUTE = np.repeat([0, 1, 0, 1], [50, 5, 8, 40])


def test_each_group_is_as_large_as_the_smallest_and_the_seed_chooses():
    kept = equal_groups(LABEL, ATTRIBUTE, 0)
    assert np.bincount(2 * LABEL[kept] + ATTRIBUTE[kept]).tolist() == [5] * 4
    assert (kept == equal_groups(LABEL, ATTRIBUTE, 0)).all()
    assert (kept != equal_groups(LABEL, ATTRIBUTE, 1)).any()
    with pytest.raises(GroupEmptyError):
        equal_groups(LABEL, np.where(LABEL == 1, 1, ATTRIBUTE), 0)


@given(
    st.lists(st.tuples(st.integers(0, 1), st.floats(0, 1)), min_size=2, max_size=12),
    st.floats(0.01, 0.3),
    st.integers(0, 3),
)
def test_pairs_have_equal_areas_and_no_more_could_be_made(samples, caliper, seed):
    label, area = (np.array(column) for column in zip(*samples, strict=True))

    def most(first, second):
        """Size of the largest matching, by trying everything."""
        if not first or not second:
            return 0
        rest = most(first[1:], second)
        fits = [k for k, value in enumerate(second) if abs(value - first[0]) <= caliper]
        return max([rest, *(1 + most(first[1:], second[:k] + second[k + 1 :]) for k in fits)])

    lists = [area[label == y].tolist() for y in (0, 1)]
    if max(map(len, lists)) > 6:
        return
    due = most(*lists)
    if due == 0:
        with pytest.raises(GroupEmptyError):
            equal_areas(label, area, seed, caliper=caliper)
        return
    kept = equal_areas(label, area, seed, caliper=caliper)
    chosen = [np.sort(area[kept & (label == y)]) for y in (0, 1)]
    assert len(chosen[0]) == len(chosen[1]) == due
    assert np.abs(chosen[0] - chosen[1]).max() <= caliper + 1e-12


def test_three_classes_and_unknown_areas_are_refused():
    with pytest.raises(InputUnsupportedError):
        equal_areas(np.array([0, 1, 2]), np.full(3, 0.5), 0, caliper=0.1)
    with pytest.raises(InputUnsupportedError):
        equal_areas(np.array([0, 1]), np.array([0.5, np.nan]), 0, caliper=0.1)


def _distance_correlation(x, y):
    """The unbiased estimate by its definition, entry by entry."""

    def centred(values):
        n = len(values)
        d = np.abs(values[:, None] - values[None])
        result = np.zeros_like(d)
        for i in range(n):
            for j in range(n):
                if i != j:
                    result[i, j] = (
                        d[i, j] - d[i].sum() / (n - 2) - d[:, j].sum() / (n - 2) + d.sum() / ((n - 1) * (n - 2))
                    )
        return result

    a, b = centred(x), centred(y)
    return (a * b).sum() / np.sqrt((a * a).sum() * (b * b).sum())


def test_the_distance_correlation_is_the_unbiased_one():
    rng = np.random.default_rng(0)
    for n in (4, 9, 30):
        x, y = rng.normal(size=(2, n))
        value = distance_correlation(torch.from_numpy(x), torch.from_numpy(y))
        assert float(value) == pytest.approx(_distance_correlation(x, y), rel=1e-9)
    independent = [float(distance_correlation(*torch.from_numpy(rng.normal(size=(2, 20))))) for _ in range(300)]
    assert abs(np.mean(independent)) < 0.02  # the biased estimate has about 0.1
    z = torch.from_numpy(rng.normal(size=40))
    assert float(distance_correlation(z, z**2)) > 0.2  # which no correlation sees
    for short in (z[:3], torch.ones(8)):
        assert float(distance_correlation(short, short)) == 0


def test_decorrelated_adds_the_penalty_of_each_class_and_pulls_the_logit_from_the_area():
    rng = np.random.default_rng(1)
    area, label = torch.from_numpy(rng.random(60)), torch.tensor([0, 1] * 30)
    margin = (3 * area + 0.1 * torch.from_numpy(rng.normal(size=60))).requires_grad_()
    loss, group = torch.zeros(60, dtype=torch.float64), torch.zeros(60, dtype=torch.int64)
    objective = registered.Decorrelated(2.0)
    total = objective(loss, group, margin=margin, area=area, label=label)
    parts = [_distance_correlation(margin.detach().numpy()[k::2], area.numpy()[k::2]) for k in (0, 1)]
    assert float(total.detach()) == pytest.approx(2 * sum(parts))
    (gradient,) = torch.autograd.grad(total, margin)
    moved = margin.detach() - 0.5 * gradient
    assert float(objective(loss, group, margin=moved, area=area, label=label)) < float(total.detach())
    with pytest.raises(InputUnsupportedError):
        registered.Decorrelated(-1.0)


PATCHES = toy([[20, 6], [6, 20]], seed=0)
SMALL = {"input_px": 16, "steps": 3, "batch_per_class": 4, "evaluations": 1, "threads": 1}


@pytest.mark.parametrize("name", registered.METHODS)
def test_a_registered_method_trains_as_those_of_the_package(name):
    first, again = (fit_arrays(PATCHES, PATCHES, TrainConfig(method=name, **SMALL)) for _ in range(2))
    assert first.history == again.history
    assert first.history[-1]["step"] == 3


@pytest.mark.parametrize("name", ["area-matched", "decorrelate"])
def test_methods_that_compare_two_classes_by_area_refuse_three(name):
    three = toy([[6, 6], [6, 6], [6, 6]], seed=0)
    with pytest.raises(InputUnsupportedError, match="two classes"):
        fit_arrays(three, three, TrainConfig(method=name, **SMALL))


def test_an_objective_that_reads_the_area_goes_without_composing_and_has_no_exact_head():
    with pytest.raises(InputUnsupportedError, match="penalises the area"):
        fit_arrays(PATCHES, PATCHES, TrainConfig(method="decorrelate", composing={"share": 0.5}, **SMALL))
    features = replace(PATCHES, x=PATCHES.x[:, :, :1, :1], tissue=None)
    with pytest.raises(InputUnsupportedError, match="such as gerne"):
        fit_arrays(features, features, head_settings(TrainConfig(method="decorrelate")))


def test_a_head_of_pairs_of_equal_area_is_solved():
    features = replace(PATCHES, x=PATCHES.x[:, :, :1, :1], tissue=None)
    config = head_settings(TrainConfig(method="area-matched", method_args={"caliper": 0.5}))
    assert np.isfinite(fit_arrays(features, features, config).history[0]["val_wga"])
