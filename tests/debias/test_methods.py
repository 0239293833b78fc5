"""One contract for every method: a sampler and an objective that train together, for any number of groups.

It runs over the methods of the package and over those that `pipelines/area-benchmark` registers, as a stranger does.
"""

import inspect
import pickle
import sys
import warnings
from collections.abc import Callable
from importlib import import_module
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy

from pathopatch.core.config import TrainConfig
from pathopatch.core.errors import BetaOutOfBoundsError, GroupEmptyError, InputUnsupportedError
from pathopatch.debias import methods
from pathopatch.debias.gerne import cell_counts
from pathopatch.debias.objectives import GradientExtrapolation, GroupDRO, Mean
from pathopatch.training.group_checks import own_parameters

sys.path.insert(0, str(Path(__file__).parents[2] / "pipelines" / "area-benchmark"))
registered = import_module("area_benchmark.methods")
torch.set_num_threads(1)
ALL = (*methods.NAMES, *registered.METHODS)
every_method = pytest.mark.parametrize("name", ALL)

COUNTS = np.array([[40, 8], [6, 26]])
MANY = np.array([[30, 4, 2], [3, 40, 5], [2, 6, 20], [9, 1, 3]])  # 4 classes, 3 attribute values
every_shape = pytest.mark.parametrize("counts", [COUNTS, MANY], ids=["2x2", "4x3"])
SIZES = {"batch_per_class": 6, "steps": 12, "seed": 0}
BALANCE_GROUPS = ["reweight", "resample", "subsample", "groupdro", "gerne"]
OF_TWO_CLASSES = ["area-matched"]


def samples(counts: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Labels and attributes with these counts of each cell, and areas that follow the attribute."""
    label, attribute = np.divmod(np.repeat(np.arange(counts.size), counts.ravel()), counts.shape[1])
    return label, attribute, (attribute + np.random.default_rng(1).random(len(label))) / counts.shape[1]


DATA = LABEL, ATTRIBUTE, _ = samples(COUNTS)


def function_of(name: str) -> Callable[..., methods.Method]:
    return registered.METHODS.get(name) or vars(methods)[name.replace("-", "_")]


@every_method
@every_shape
def test_every_method_trains_a_linear_network_at_equal_batch_size(name: str, counts: np.ndarray) -> None:
    torch.manual_seed(0)
    label, attribute, area = samples(counts)
    if name in OF_TWO_CLASSES and len(counts) > 2:
        with pytest.raises(InputUnsupportedError, match="two classes"):
            methods.method(name).batches(label, attribute, area, **SIZES)
        return
    n_classes = len(counts)
    rng = np.random.default_rng(0)
    features = np.concatenate([np.eye(n_classes)[label], np.eye(counts.shape[1])[attribute]], axis=1)
    x, y = torch.from_numpy(features + rng.normal(0, 0.3, features.shape)).float(), torch.from_numpy(label)
    network = nn.Linear(x.shape[1], n_classes)
    before = cross_entropy(network(x), y).item()
    group = torch.from_numpy(counts.shape[1] * label + attribute)
    objective = methods.method(name).objective(cell_counts(label, attribute))
    optimiser = torch.optim.SGD(network.parameters(), lr=0.5)
    for batch in methods.method(name).batches(label, attribute, area, **SIZES):
        assert len(batch) == n_classes * SIZES["batch_per_class"]
        assert 0 <= min(batch) <= max(batch) < len(label)
        logits, further = network(x[batch]), {}
        if methods.takes_area(objective.forward):
            further = {"margin": logits[:, 1] - logits[:, 0], "area": torch.tensor(area)[batch], "label": y[batch]}
        value = objective(cross_entropy(logits, y[batch], reduction="none"), group[batch], **further)
        assert value.isfinite()
        optimiser.zero_grad()
        value.backward()
        optimiser.step()
    assert cross_entropy(network(x), y).item() < before


@every_method
def test_batches_are_a_pure_function_of_seed_and_step(name: str) -> None:
    first, again, other = (list(methods.method(name).batches(*DATA, **{**SIZES, "seed": seed})) for seed in (0, 0, 1))
    assert first == again
    assert first != other
    sampler = methods.method(name).batches(*DATA, **SIZES)
    assert [sampler.batch(step) for step in reversed(range(12))] == first[::-1]


@every_method
def test_a_method_can_be_sent_to_another_process(name: str) -> None:
    here = methods.method(name)
    there = pickle.loads(pickle.dumps(here))
    assert list(here.batches(*DATA, **SIZES)) == list(there.batches(*DATA, **SIZES))
    assert type(here.objective(COUNTS)) is type(there.objective(COUNTS))


@every_method
def test_only_methods_that_balance_groups_refuse_an_empty_one(name: str) -> None:
    label, attribute = np.array([0] * 6 + [1] * 6), np.array([0, 1] * 3 + [1] * 6)
    data = label, attribute, np.tile(np.arange(6) / 6, 2)
    if name in BALANCE_GROUPS:
        with pytest.raises(GroupEmptyError, match=r"\[\[3, 3\], \[0, 6\]\]"):
            methods.method(name).batches(*data, **SIZES)
    else:
        assert len(methods.method(name).batches(*data, **SIZES)) == 12


@every_method
def test_an_empty_group_of_three_warns_and_its_class_keeps_its_share(name: str) -> None:
    label, attribute, area = samples(np.array([[3, 4, 5], [9, 3, 0]]))
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        batches = list(methods.method(name).batches(label, attribute, area, **SIZES))
    is_named = ["label 1, attribute 2" in str(warning.message) for warning in caught]
    assert any(is_named) == (name in BALANCE_GROUPS)
    if name not in ("erm", "reweight"):
        assert np.bincount(label[np.concatenate(batches)]).tolist() == [72, 72]


@every_method
def test_every_method_says_its_sampler_its_objective_and_its_paper(name: str) -> None:
    text = inspect.getdoc(function_of(name))
    assert text is not None
    assert "References" in text
    own = methods.method(name)
    assert f"`{type(own.batches(*DATA, **SIZES)).__name__}`" in text
    assert f"`{type(own.objective(COUNTS)).__name__}`" in text


@every_method
def test_a_weighted_mean_has_the_gradient_of_its_expected_weights(name: str) -> None:
    own = methods.method(name)
    objective = own.objective(COUNTS).eval()
    if not hasattr(objective, "expected_weights"):
        return
    batches = own.batches(*DATA, batch_per_class=24960, steps=1, seed=0)  # whole rounds of every cell
    loss = torch.rand(len(LABEL), dtype=torch.float64, generator=torch.manual_seed(0), requires_grad=True)
    group = 2 * LABEL + ATTRIBUTE
    (batch,) = batches
    objective(loss[batch], torch.from_numpy(group)[batch]).backward()
    weights = objective.expected_weights(batches.expected_shares(len(LABEL)), group)
    np.testing.assert_allclose(loss.grad.numpy(), weights, atol=1e-4)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        # shares of the cells (0,0) (0,1) (1,0) (1,1) over a period of many steps
        ("erm", COUNTS.ravel() / 80),
        ("reweight", COUNTS.ravel() / 80),
        ("erm-balanced", [40 / 96, 8 / 96, 6 / 64, 26 / 64]),
        ("decorrelate", [40 / 96, 8 / 96, 6 / 64, 26 / 64]),
        ("resample", [0.25] * 4),
        ("subsample", [0.25] * 4),
        ("groupdro", [0.25] * 4),
        ("auto", [0.25] * 4),
    ],
)
def test_each_name_has_its_shares(name: str, expected: list[float]) -> None:
    indices = np.concatenate(list(methods.method(name).batches(*DATA, batch_per_class=96, steps=5, seed=0)))
    group = np.bincount(2 * LABEL[indices] + ATTRIBUTE[indices], minlength=4)
    # One stream by the label alone keeps the shares of attributes as far as its permutations are whole.
    slack = 24 if name == "decorrelate" else 1
    assert np.abs(group - np.array(expected) * len(indices)).max() <= slack + 1e-9


@pytest.mark.parametrize(
    ("name", "kind"), [("erm", Mean), ("resample", Mean), ("groupdro", GroupDRO), ("gerne", GradientExtrapolation)]
)
def test_each_name_has_its_objective_with_its_parameters(name: str, kind: type[nn.Module]) -> None:
    given = {"beta": 0.25} if name == "gerne" else {"eta": 0.5} if name == "groupdro" else {}
    objective = methods.method(name, **given).objective(COUNTS)
    assert type(objective) is kind
    if isinstance(objective, GradientExtrapolation):
        assert objective.beta.item() == 0.25
    if isinstance(objective, GroupDRO):
        assert (objective.eta, len(objective.q)) == (0.5, 4)


def test_reweight_and_resample_have_the_same_expected_loss() -> None:
    loss = torch.from_numpy(np.random.default_rng(0).random(80))
    reweight, resample = methods.method("reweight"), methods.method("resample")
    group = torch.from_numpy(2 * LABEL + ATTRIBUTE)
    every = np.concatenate(list(reweight.sampler(LABEL, ATTRIBUTE, batch_per_class=40, steps=3, seed=0)))
    balanced = np.concatenate(list(resample.sampler(LABEL, ATTRIBUTE, batch_per_class=3120, steps=1, seed=0)))
    by_weight = reweight.objective(COUNTS)(loss[every], group[every])
    by_drawing = resample.objective(COUNTS)(loss[balanced], group[balanced])  # whole rounds of 40, 8, 6 and 26
    torch.testing.assert_close(by_weight, by_drawing, rtol=0, atol=1e-12)


def test_gerne_follows_the_extrapolated_shares_in_expectation() -> None:
    # (1 + beta) x less biased half - beta x biased half, over a period of both: the shares of s = c (beta + 1) = 1.5
    gerne = methods.method("gerne", c=0.5, beta=2.0)
    halves = np.array(
        [np.split(np.array(b), 2) for b in gerne.sampler(LABEL, ATTRIBUTE, batch_per_class=24, steps=16, seed=0)]
    )
    biased, less = (np.bincount((2 * LABEL + ATTRIBUTE)[halves[:, k].ravel()], minlength=4) / 384 for k in (0, 1))
    # 5/6 + 1.5 (1/2 - 5/6) = 1/3 of class 0; 3/16 + 1.5 (1/2 - 3/16) = 21/32 of class 1
    np.testing.assert_allclose(3 * less - 2 * biased, [1 / 6, 2 / 6, 21 / 64, 11 / 64], atol=1e-12)


def test_gerne_gives_half_of_the_samples_of_each_class_to_each_half() -> None:
    own = methods.method("gerne", c=0.5)
    drawn_by_half = [
        np.split(np.array(b), 2) for b in own.sampler(LABEL, ATTRIBUTE, batch_per_class=12, steps=16, seed=0)
    ]
    for half, expected in enumerate(([80, 16, 18, 78], [64, 32, 33, 63])):  # 96 a class: alpha, and half-way to 48
        indices = np.concatenate([parts[half] for parts in drawn_by_half])
        assert np.bincount(2 * LABEL[indices] + ATTRIBUTE[indices]).tolist() == expected
    assert any(set(biased) != set(less) for biased, less in drawn_by_half)


def test_gerne_refuses_an_odd_number_of_samples_a_class() -> None:
    with pytest.raises(InputUnsupportedError, match="batch_per_class = 7"):
        methods.method("gerne").batches(*DATA, batch_per_class=7, steps=1, seed=0)


def test_gerne_refuses_beta_outside_the_bounds() -> None:
    # largest alpha 40/48: the bound is (5/6) / (.5 * (1/3)) - 1 = 4
    assert len(methods.method("gerne", beta=3.99).batches(*DATA, **SIZES)) == 12
    with pytest.raises(BetaOutOfBoundsError, match="4]"):
        methods.method("gerne", beta=4.01).batches(*DATA, **SIZES)


def test_the_defaults_of_methods_and_of_the_configuration_agree() -> None:
    for name in methods.NAMES:
        defaults = {p.name: p.default for p in inspect.signature(function_of(name)).parameters.values()}
        assert own_parameters(TrainConfig(method=name)) == defaults


@pytest.mark.parametrize(
    "wrong",
    [
        {"name": "GERNE"},
        {"c": 0.0},
        {"c": 1.5},
        {"beta": float("nan")},
        {"eta": 0.1},
        {"name": "groupdro", "eta": 0.0},
        {"name": "area-matched", "caliper": 0.0},
    ],
)
def test_an_unknown_name_or_parameter_is_refused_at_once(wrong: dict) -> None:
    with pytest.raises(InputUnsupportedError):
        methods.method(**{"name": "gerne", **wrong})


def test_a_registered_method_is_a_setting_with_its_parameters() -> None:
    config = TrainConfig(method="area-matched", method_args={"caliper": 0.1})
    assert own_parameters(config) == {"caliper": 0.1}
    methods.register_method("area-matched", registered.area_matched)  # a module may be imported twice
    with pytest.raises(InputUnsupportedError, match="already"):
        methods.register_method("gerne", registered.area_matched)


def test_an_unknown_method_is_refused_with_what_to_use() -> None:
    with pytest.raises(ValueError, match=r"no method gernee: did you mean gerne\? Use one of erm, "):
        TrainConfig(method="gernee")


def test_auto_balances_groups_and_where_one_is_empty_classes() -> None:
    own = methods.method("auto")
    label, attribute = np.repeat([0, 1], 50), np.tile([0, 0, 0, 0, 1], 20)
    drawn = own.sampler(label, attribute, batch_per_class=16, steps=50, seed=0)
    indices = np.concatenate([drawn.batch(step) for step in range(50)])
    assert np.bincount(2 * label[indices] + attribute[indices]).tolist() == [400] * 4
    empty = own.sampler(label, label, batch_per_class=16, steps=50, seed=0)
    indices = np.concatenate([empty.batch(step) for step in range(50)])
    assert np.bincount(label[indices]).tolist() == [800, 800]
    assert [methods.method(name).composes for name in methods.NAMES] == [False] * 5 + [True]
