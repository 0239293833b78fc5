"""One contract for every method: phases of sampler and objective that train together, for any number of groups."""

import inspect
import pickle
import warnings
from collections.abc import Iterator

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy

from pathopatch.core.config import TrainConfig
from pathopatch.core.errors import BetaOutOfBoundsError, GroupEmptyError, InputUnsupportedError
from pathopatch.debias import methods
from pathopatch.debias.gerne import cell_counts
from pathopatch.debias.objectives import GradientExtrapolation, GroupDRO, GroupWeighted, Mean
from pathopatch.training.phase_data import own_parameters

torch.set_num_threads(1)
every_method = pytest.mark.parametrize("name", methods.NAMES)

COUNTS = np.array([[40, 8], [6, 26]])
MANY = np.array([[30, 4, 2], [3, 40, 5], [2, 6, 20], [9, 1, 3]])  # 4 classes, 3 attribute values
every_shape = pytest.mark.parametrize("counts", [COUNTS, MANY], ids=["2x2", "4x3"])
SIZES = {"batch_per_class": 6, "steps": 12, "seed": 0}
BALANCE_GROUPS = ["reweight", "resample", "subsample", "groupdro", "gerne", "dfr"]


def samples(counts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Labels and attributes with these counts of each cell."""
    return tuple(np.divmod(np.repeat(np.arange(counts.size), counts.ravel()), counts.shape[1]))  # type: ignore[return-value]


LABEL, ATTRIBUTE = samples(COUNTS)


def relabelled(phase: methods.Phase, label: np.ndarray, attribute: np.ndarray) -> np.ndarray:
    """The attribute that a phase draws by, after a model that follows the attribute: it errs on the minority."""
    if phase.relabel is None:
        return attribute
    n_classes = label.max() + 1
    right = np.where(attribute == np.minimum(label, attribute.max()), 0.9, 0.2)
    probability = np.full((len(label), n_classes), (1 - right[:, None]) / (n_classes - 1))
    probability[np.arange(len(label)), label] = right
    return phase.relabel(probability, label, attribute)


def drawn(name: str, label: np.ndarray, attribute: np.ndarray, **sizes: int) -> Iterator[list[list[int]]]:
    """All batches of each phase."""
    for phase in methods.method(name):
        yield list(phase.sampler(label, relabelled(phase, label, attribute), **{**SIZES, **sizes}))


@every_method
@every_shape
def test_every_method_trains_a_linear_network_at_equal_batch_size(name: str, counts: np.ndarray) -> None:
    torch.manual_seed(0)
    label, attribute = samples(counts)
    n_classes = len(counts)
    rng = np.random.default_rng(0)
    features = np.concatenate([np.eye(n_classes)[label], np.eye(counts.shape[1])[attribute]], axis=1)
    x, y = torch.from_numpy(features + rng.normal(0, 0.3, features.shape)).float(), torch.from_numpy(label)
    network = nn.Linear(x.shape[1], n_classes)
    before = cross_entropy(network(x), y).item()
    for phase in methods.method(name):
        own = relabelled(phase, label, attribute)
        of_own = cell_counts(label, own)
        group = torch.from_numpy(of_own.shape[1] * label + own)
        objective = phase.objective(of_own)
        optimiser = torch.optim.SGD(network.parameters(), lr=0.5 * phase.lr_scale)
        for batch in phase.sampler(label, own, **SIZES):
            assert len(batch) == n_classes * SIZES["batch_per_class"]
            assert 0 <= min(batch) <= max(batch) < len(label)
            logits, further = network(x[batch]), {}
            if getattr(objective, "reads_area", False):
                further = {"margin": logits[:, 1] - logits[:, 0], "area": x[batch, -1], "label": y[batch]}
            value = objective(cross_entropy(logits, y[batch], reduction="none"), group[batch], **further)
            assert value.isfinite()
            optimiser.zero_grad()
            value.backward()
            optimiser.step()
    assert cross_entropy(network(x), y).item() < before


@every_method
@every_shape
def test_batches_are_a_pure_function_of_seed_and_step(name: str, counts: np.ndarray) -> None:
    label, attribute = samples(counts)
    first, again, other = (list(drawn(name, label, attribute, seed=seed)) for seed in (0, 0, 1))
    assert first == again
    assert all(one != another for one, another in zip(first, other, strict=True))
    for phase, batches in zip(methods.method(name), first, strict=True):
        sampler = phase.sampler(label, relabelled(phase, label, attribute), **SIZES)
        assert [sampler.batch(step) for step in reversed(range(12))] == batches[::-1]


@every_method
def test_a_method_can_be_sent_to_another_process(name: str) -> None:
    here = methods.method(name)
    there = pickle.loads(pickle.dumps(here))
    for one, other in zip(here, there, strict=True):
        own, others = (relabelled(phase, LABEL, ATTRIBUTE) for phase in (one, other))
        assert list(one.sampler(LABEL, own, **SIZES)) == list(other.sampler(LABEL, others, **SIZES))
        assert type(one.objective(COUNTS)) is type(other.objective(COUNTS))


@every_method
def test_only_methods_that_balance_known_groups_refuse_an_empty_one(name: str) -> None:
    label, attribute = np.array([0] * 6 + [1] * 6), np.array([0, 1] * 3 + [1] * 6)
    if name in BALANCE_GROUPS:
        with pytest.raises(GroupEmptyError, match=r"\[\[3, 3\], \[0, 6\]\]"):
            list(drawn(name, label, attribute))
    else:
        assert [len(batches) for batches in drawn(name, label, attribute)] == [12] * len(methods.method(name))


@every_method
def test_an_empty_group_of_three_warns_and_its_class_keeps_its_share(name: str) -> None:
    label, attribute = samples(np.array([[3, 4, 5], [9, 3, 0]]))
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        *_, batches = drawn(name, label, attribute)
    messages = [str(warning.message) for warning in caught]
    assert [("label 1, attribute 2" in text) for text in messages] == [True] * (name in BALANCE_GROUPS)
    if name not in ("erm", "jtt", "reweight"):
        assert np.bincount(label[np.concatenate(batches)]).tolist() == [72, 72]


@every_method
def test_every_method_says_its_sampler_its_objective_and_its_paper(name: str) -> None:
    text = inspect.getdoc(methods.METHODS[name])
    assert text is not None
    for word in (
        "Sampler",
        "Objective" if "GradientExtrapolation" not in text else "GradientExtrapolation",
        "References",
    ):
        assert word in text
    for phase in methods.method(name):
        named = type(phase.sampler(LABEL, relabelled(phase, LABEL, ATTRIBUTE), **SIZES))
        assert f"`{named.__name__}`" in text
        assert f"`{type(phase.objective(COUNTS)).__name__}`" in text


@pytest.mark.parametrize(
    ("name", "kinds"),
    [
        ("erm", [Mean]),
        ("erm-balanced", [Mean]),
        ("reweight", [GroupWeighted]),
        ("resample", [Mean]),
        ("groupdro", [GroupDRO]),
        ("gerne", [GradientExtrapolation]),
        ("gerne-unknown", [Mean, GradientExtrapolation]),
        ("jtt", [Mean, Mean]),
        ("dfr", [Mean, Mean]),
    ],
)
def test_each_name_has_its_objectives(name: str, kinds: list[type[nn.Module]]) -> None:
    objectives = [phase.objective(COUNTS) for phase in methods.method(name, beta=0.25, eta=0.5)]
    assert [type(objective) for objective in objectives] == kinds
    last = objectives[-1]
    if isinstance(last, GradientExtrapolation):
        assert last.beta.item() == 0.25
    if isinstance(last, GroupDRO):
        assert (last.eta, len(last.q)) == (0.5, 4)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        # shares of the cells (0,0) (0,1) (1,0) (1,1) over a period of many steps
        ("erm", COUNTS.ravel() / 80),
        ("reweight", COUNTS.ravel() / 80),
        ("erm-balanced", [40 / 96, 8 / 96, 6 / 64, 26 / 64]),
        ("resample", [0.25] * 4),
        ("groupdro", [0.25] * 4),
        # the errors are the 8 and 6 of the minority, each worth 3: of 80 + 2 * 14
        ("jtt", [40 / 108, 24 / 108, 18 / 108, 26 / 108]),
    ],
)
def test_each_name_has_its_shares(name: str, expected: list[float]) -> None:
    phase = methods.method(name, upweight=3.0)[-1]
    own = relabelled(phase, LABEL, ATTRIBUTE)
    indices = np.concatenate(list(phase.sampler(LABEL, own, batch_per_class=8, steps=60, seed=0)))
    group = np.bincount(2 * LABEL[indices] + ATTRIBUTE[indices], minlength=4)
    assert np.abs(group - np.array(expected) * len(indices)).max() <= 1 + 1e-9


def test_reweight_and_resample_have_the_same_expected_loss() -> None:
    loss = torch.from_numpy(np.random.default_rng(0).random(80))
    (reweight,), (resample,) = methods.method("reweight"), methods.method("resample")
    group = torch.from_numpy(2 * LABEL + ATTRIBUTE)
    every = np.concatenate(list(reweight.sampler(LABEL, ATTRIBUTE, batch_per_class=40, steps=3, seed=0)))
    balanced = np.concatenate(list(resample.sampler(LABEL, ATTRIBUTE, batch_per_class=3120, steps=1, seed=0)))
    by_weight = reweight.objective(COUNTS)(loss[every], group[every])
    by_drawing = resample.objective(COUNTS)(loss[balanced], group[balanced])  # whole rounds of 40, 8, 6 and 26
    torch.testing.assert_close(by_weight, by_drawing, rtol=0, atol=1e-12)


def test_gerne_follows_the_extrapolated_shares_in_expectation() -> None:
    # (1 + beta) x less biased half - beta x biased half, over a period of both: the shares of s = c (beta + 1) = 1.5
    (gerne,) = methods.method("gerne", c=0.5, beta=2.0)
    halves = np.array(
        [np.split(np.array(b), 2) for b in gerne.sampler(LABEL, ATTRIBUTE, batch_per_class=24, steps=16, seed=0)]
    )
    biased, less = (np.bincount((2 * LABEL + ATTRIBUTE)[halves[:, k].ravel()], minlength=4) / 384 for k in (0, 1))
    # 5/6 + 1.5 (1/2 - 5/6) = 1/3 of class 0; 3/16 + 1.5 (1/2 - 3/16) = 21/32 of class 1
    np.testing.assert_allclose(3 * less - 2 * biased, [1 / 6, 2 / 6, 21 / 64, 11 / 64], atol=1e-12)


def test_beta_outside_the_bounds_of_pseudo_groups_is_refused_at_once() -> None:
    methods.method("gerne-unknown", c=1.0, beta=-0.5, t=0.1)
    with pytest.raises(BetaOutOfBoundsError, match="beta = 9 "):
        methods.method("gerne-unknown", c=1.0, beta=9.0, t=0.1)


def test_gerne_gives_half_of_the_samples_of_each_class_to_each_half() -> None:
    (phase,) = methods.method("gerne", c=0.5)
    drawn_by_half = [
        np.split(np.array(b), 2) for b in phase.sampler(LABEL, ATTRIBUTE, batch_per_class=12, steps=16, seed=0)
    ]
    for half, expected in enumerate(([80, 16, 18, 78], [64, 32, 33, 63])):  # 96 a class: alpha, and half-way to 48
        indices = np.concatenate([parts[half] for parts in drawn_by_half])
        assert np.bincount(2 * LABEL[indices] + ATTRIBUTE[indices]).tolist() == expected
    assert any(set(biased) != set(less) for biased, less in drawn_by_half)


def test_gerne_refuses_an_odd_number_of_samples_a_class() -> None:
    (phase,) = methods.method("gerne")
    with pytest.raises(InputUnsupportedError, match="batch_per_class = 7"):
        phase.sampler(LABEL, ATTRIBUTE, batch_per_class=7, steps=1, seed=0)


def test_gerne_refuses_beta_outside_the_bounds() -> None:
    # largest alpha 40/48: the bound is (5/6) / (.5 * (1/3)) - 1 = 4
    (inside,), (outside,) = methods.method("gerne", beta=3.99), methods.method("gerne", beta=4.01)
    assert len(inside.sampler(LABEL, ATTRIBUTE, **SIZES)) == 12
    with pytest.raises(BetaOutOfBoundsError, match="4]"):
        outside.sampler(LABEL, ATTRIBUTE, **SIZES)


def test_second_models_start_anew_but_dfr_continues_the_first() -> None:
    for name, anew in (("gerne-unknown", True), ("jtt", True), ("dfr", False)):
        first, second = methods.method(name)
        assert (first.starts_anew, second.starts_anew) == (False, anew)
        assert (first.relabel is None, second.relabel is None) == (True, name == "dfr")
        assert (second.split, second.trainable) == (("val", "head") if name == "dfr" else ("train", "all"))


def test_the_biased_model_has_own_rate_and_decay_and_is_picked_by_class() -> None:
    biased, second = methods.method("gerne-unknown", biased_lr_scale=0.1)
    assert (biased.lr_scale, biased.weight_decay_scale, biased.select_by) == (0.1, 2.0, "cba")
    assert (second.lr_scale, second.weight_decay_scale, second.select_by) == (1.0, 1.0, "wga")


@pytest.mark.parametrize(("t", "needs"), [(0.5, False), (0.51, True)])
def test_t_above_one_half_needs_the_attribute_in_validation(t: float, needs: bool) -> None:
    assert any(phase.needs_val_attribute for phase in methods.method("gerne-unknown", t=t)) == needs


def test_jtt_warns_if_the_first_model_makes_no_error() -> None:
    relabel = methods.method("jtt")[-1].relabel
    assert relabel is not None
    with pytest.warns(UserWarning, match="no error"):
        relabelled_attribute = relabel(np.eye(2)[LABEL], LABEL, ATTRIBUTE)
    assert not relabelled_attribute.any()


def test_the_budget_counts_the_steps_of_all_phases() -> None:
    assert methods.steps_in_all(methods.method("gerne"), 600) == 600
    assert methods.steps_in_all(methods.method("gerne-unknown"), 600) == 1200
    assert methods.steps_in_all(methods.method("jtt", identify_share=0.1), 600) == 660
    assert methods.steps_in_all(methods.method("dfr", refit_share=1e-9), 600) == 601


def test_the_defaults_of_methods_and_of_the_configuration_agree() -> None:
    defaults = {name: p.default for name, p in inspect.signature(methods.method).parameters.items() if name != "name"}
    for name in methods.NAMES:
        own = own_parameters(TrainConfig(method=name))
        assert own == {parameter: defaults[parameter] for parameter in methods.parameters_of(name)}
    assert set(defaults) == {parameter for name in methods.NAMES for parameter in methods.parameters_of(name)}
    assert tuple(methods.METHODS) == methods.NAMES


@pytest.mark.parametrize(
    "wrong",
    [
        {"name": "GERNE"},
        {"c": 0.0},
        {"beta": float("nan")},
        {"name": "groupdro", "eta": 0.0},
        {"name": "gerne-unknown", "t": 1.0},
        {"name": "gerne-unknown", "biased_lr_scale": 0.0},
        {"name": "gerne-unknown", "c": 1.5},
        {"name": "jtt", "upweight": 0.5},
        {"name": "jtt", "identify_share": 0.0},
        {"name": "dfr", "refit_share": float("nan")},
        {"name": "dfr", "refit_lr_scale": -1.0},
    ],
)
def test_an_unknown_name_or_parameter_is_refused_at_once(wrong: dict) -> None:
    with pytest.raises(InputUnsupportedError):
        methods.method(**{"name": "gerne", **wrong})


def test_auto_balances_groups_and_where_one_is_empty_classes() -> None:
    (phase,) = methods.method("auto")
    label, attribute = np.repeat([0, 1], 50), np.tile([0, 0, 0, 0, 1], 20)
    drawn = phase.sampler(label, attribute, batch_per_class=16, steps=50, seed=0)
    indices = np.concatenate([drawn.batch(step) for step in range(50)])
    assert np.bincount(2 * label[indices] + attribute[indices]).tolist() == [400] * 4
    empty = phase.sampler(label, label, batch_per_class=16, steps=50, seed=0)
    indices = np.concatenate([empty.batch(step) for step in range(50)])
    assert np.bincount(label[indices]).tolist() == [800, 800]
    assert phase.intervene_share == "auto"
