"""One contract for every method: a sampler and an objective that train together."""

import pickle

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy

from pathopatch.debias import methods
from pathopatch.debias.objectives import GradientExtrapolation, GroupDRO, Mean
from pathopatch.errors import BetaOutOfBoundsError, GroupEmptyError, InputUnsupportedError

torch.set_num_threads(1)
every_method = pytest.mark.parametrize("name", methods.NAMES)

COUNTS = np.array([[40, 8], [6, 26]])
LABEL, ATTRIBUTE = np.divmod(np.repeat(np.arange(4), COUNTS.ravel()), 2)
SIZES = {"batch_per_class": 6, "steps": 12, "seed": 0}


@every_method
def test_a_method_trains_a_linear_network(name: str) -> None:
    torch.manual_seed(0)
    rng = np.random.default_rng(0)
    features = np.stack([LABEL + rng.normal(0, 0.5, len(LABEL)), ATTRIBUTE + rng.normal(0, 0.5, len(LABEL))], axis=1)
    x, y = torch.from_numpy(features).float(), torch.from_numpy(LABEL)
    group = torch.from_numpy(2 * LABEL + ATTRIBUTE)
    network = nn.Linear(2, 2)
    before = cross_entropy(network(x), y).item()
    for phase in methods.method(name):
        objective = phase.objective(4)
        optimiser = torch.optim.SGD(network.parameters(), lr=0.5 * phase.lr_scale)
        for batch in phase.sampler(LABEL, ATTRIBUTE, **SIZES):
            assert len(batch) == 2 * SIZES["batch_per_class"]
            assert 0 <= min(batch) <= max(batch) < len(LABEL)
            value = objective(cross_entropy(network(x[batch]), y[batch], reduction="none"), group[batch])
            assert value.isfinite()
            optimiser.zero_grad()
            value.backward()
            optimiser.step()
    assert cross_entropy(network(x), y).item() < before


@every_method
def test_the_same_seed_gives_the_same_batches_and_another_seed_others(name: str) -> None:
    (phase,) = methods.method(name)
    first, again, other = (phase.sampler(LABEL, ATTRIBUTE, **{**SIZES, "seed": seed}) for seed in (0, 0, 1))
    assert list(first) == list(again) == [first.batch(step) for step in range(len(first))]
    assert list(first) != list(other)


@every_method
def test_a_phase_can_be_sent_to_another_process(name: str) -> None:
    (phase,) = pickle.loads(pickle.dumps(methods.method(name)))
    (here,) = methods.method(name)
    assert list(phase.sampler(LABEL, ATTRIBUTE, **SIZES)) == list(here.sampler(LABEL, ATTRIBUTE, **SIZES))
    assert type(phase.objective(4)) is type(here.objective(4))


@every_method
def test_a_phase_trains_everything_on_the_training_split_and_selects_by_wga(name: str) -> None:
    (phase,) = methods.method(name)
    assert (phase.split, phase.trainable, phase.lr_scale, phase.select_by) == ("train", "all", 1.0, "wga")
    assert phase.on_validation is None


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("erm", Mean),
        ("erm-balanced", Mean),
        ("resample", Mean),
        ("groupdro", GroupDRO),
        ("gerne", GradientExtrapolation),
    ],
)
def test_each_name_has_its_objective(name: str, kind: type[nn.Module]) -> None:
    (phase,) = methods.method(name, beta=0.25, eta=0.5)
    objective = phase.objective(4)
    assert type(objective) is kind
    if isinstance(objective, GradientExtrapolation):
        assert objective.beta.item() == 0.25
    if isinstance(objective, GroupDRO):
        assert (objective.eta, len(objective.q)) == (0.5, 4)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        # shares of the cells (0,0) (0,1) (1,0) (1,1) over a period of many steps
        ("erm", COUNTS.ravel() / 80),
        ("erm-balanced", [40 / 96, 8 / 96, 6 / 64, 26 / 64]),
        ("resample", [0.25] * 4),
        ("groupdro", [0.25] * 4),
    ],
)
def test_each_name_has_its_shares(name: str, expected: list[float]) -> None:
    (phase,) = methods.method(name)
    drawn = np.concatenate(list(phase.sampler(LABEL, ATTRIBUTE, batch_per_class=8, steps=60, seed=0)))
    found = np.bincount(2 * LABEL[drawn] + ATTRIBUTE[drawn], minlength=4)
    assert np.abs(found - np.array(expected) * len(drawn)).max() <= 1 + 1e-9


def test_gerne_gives_half_of_the_samples_of_each_class_to_each_half() -> None:
    (phase,) = methods.method("gerne", c=1.0, beta=0.0)
    for batch in phase.sampler(LABEL, ATTRIBUTE, batch_per_class=8, steps=20, seed=0):
        biased, less_biased = batch[:8], batch[8:]
        assert np.bincount(LABEL[biased]).tolist() == [4, 4]
        assert np.bincount(2 * LABEL[less_biased] + ATTRIBUTE[less_biased]).tolist() == [2, 2, 2, 2]


def test_gerne_refuses_an_odd_number_of_samples_a_class() -> None:
    (phase,) = methods.method("gerne")
    with pytest.raises(InputUnsupportedError, match="batch_per_class = 7"):
        phase.sampler(LABEL, ATTRIBUTE, batch_per_class=7, steps=1, seed=0)


def test_gerne_refuses_a_beta_outside_the_bounds_of_the_data() -> None:
    # largest alpha 40/48: the bound is (5/6) / (.5 * (1/3)) - 1 = 4
    (inside,), (outside,) = methods.method("gerne", beta=3.99), methods.method("gerne", beta=4.01)
    assert len(inside.sampler(LABEL, ATTRIBUTE, **SIZES)) == 12
    with pytest.raises(BetaOutOfBoundsError, match="4]"):
        outside.sampler(LABEL, ATTRIBUTE, **SIZES)


@pytest.mark.parametrize("name", ["resample", "groupdro", "gerne"])
def test_an_empty_group_stops_the_methods_that_balance_groups(name: str) -> None:
    (phase,) = methods.method(name)
    with pytest.raises(GroupEmptyError):
        phase.sampler([0, 0, 1, 1], [0, 1, 1, 1], **SIZES)


def test_an_empty_group_of_more_attributes_warns_once() -> None:
    (phase,) = methods.method("gerne")
    with pytest.warns(UserWarning, match="label 1, attribute 2") as caught:
        phase.sampler([0, 0, 0, 1, 1], [0, 1, 2, 0, 1], **SIZES)
    assert len(caught) == 1


@pytest.mark.parametrize("wrong", [{"name": "GERNE"}, {"c": 0.0}, {"beta": float("nan")}])
def test_an_unknown_name_or_parameter_is_refused_at_once(wrong: dict) -> None:
    with pytest.raises(InputUnsupportedError):
        methods.method(**{"name": "gerne", **wrong})


def test_an_eta_of_zero_is_refused_at_once() -> None:
    with pytest.raises(InputUnsupportedError, match="eta = 0"):
        methods.method("groupdro", eta=0.0)
