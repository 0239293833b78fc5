"""Objectives against hand-computed numbers and the laws of the paper, in float64 at 1e-10."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from pathopatch.core.errors import InputUnsupportedError
from pathopatch.debias import gerne
from pathopatch.debias.objectives import GradientExtrapolation, GroupDRO, Mean
from pathopatch.debias.samplers import GerneBatchSampler

torch.set_num_threads(1)
TOLERANCE = 1e-10
COUNTS = np.array([[6, 2], [3, 5]])  # samples of each cell of the toy data


def groups_of(loss: Tensor) -> Tensor:
    """Any groups: where the objective does not look at them."""
    return torch.zeros(len(loss), dtype=torch.int64)


def toy_data() -> tuple[Tensor, Tensor, Tensor]:
    """Features (N, 3), labels and attributes of `COUNTS`."""
    y, a = np.divmod(np.repeat(np.arange(4), COUNTS.ravel()), 2)
    x = torch.from_numpy(np.random.default_rng(0).normal(size=(len(y), 3)))
    return x, torch.from_numpy(y), torch.from_numpy(a)


def gradient(network: nn.Module, scalar: Tensor) -> Tensor:
    """The gradient of a scalar by all weights, flat."""
    return torch.cat([g.flatten() for g in torch.autograd.grad(scalar, list(network.parameters()))])


def cell_gradients(network: nn.Module) -> Tensor:
    """Mean gradient of the loss over each cell, shape (K, A, P)."""
    x, y, a = toy_data()
    loss = cross_entropy(network(x), y, reduction="none")
    rows = []
    for label, attribute in np.ndindex(2, 2):
        of_cell = loss[(y == label) & (a == attribute)]
        rows.append(
            torch.cat(
                [
                    g.flatten()
                    for g in torch.autograd.grad(of_cell.mean(), list(network.parameters()), retain_graph=True)
                ]
            )
        )
    return torch.stack(rows).reshape(2, 2, -1)


def linear() -> nn.Module:
    """A linear classifier of fixed weights in float64."""
    network = nn.Linear(3, 2, dtype=torch.float64)
    with torch.no_grad():
        for weights in network.parameters():
            weights.copy_(torch.linspace(-1, 1, weights.numel(), dtype=torch.float64).reshape(weights.shape))
    return network


def expected_gradient(network: nn.Module, c: float, beta: float) -> Tensor:
    """E[grad L_lb] + beta (E[grad L_lb] - E[grad L_b]), in closed form over the cells."""
    alpha = COUNTS / COUNTS.sum(axis=1, keepdims=True)
    cells = cell_gradients(network)
    biased = (torch.from_numpy(alpha)[..., None] * cells).sum(dim=(0, 1)) / 2
    less = (torch.from_numpy(gerne.less_biased(alpha, c))[..., None] * cells).sum(dim=(0, 1)) / 2
    return less + beta * (less - biased)


def test_the_mean_is_the_mean() -> None:
    loss = torch.tensor([1.0, 2.0, 6.0])
    assert Mean()(loss, groups_of(loss)).item() == 3.0


def test_extrapolation_by_hand() -> None:
    loss = torch.tensor([1.0, 3.0, 4.0, 6.0])  # L_b = 2, L_lb = 5
    objective = GradientExtrapolation(0.5)
    assert objective(loss, groups_of(loss)).item() == 6.5
    assert (objective.loss_biased.item(), objective.loss_less_biased.item()) == (2.0, 5.0)


@pytest.mark.parametrize(("beta", "expected"), [(-1.0, 2.0), (0.0, 5.0)])
def test_beta_minus_one_is_the_biased_half_and_zero_the_other(beta: float, expected: float) -> None:
    loss = torch.tensor([1.0, 3.0, 4.0, 6.0])
    assert GradientExtrapolation(beta)(loss, groups_of(loss)).item() == expected


@settings(deadline=None)
@given(st.lists(st.floats(0, 10), min_size=2, max_size=20).filter(lambda x: len(x) % 2 == 0), st.floats(-1, 3))
def test_the_weighted_form_equals_the_two_loss_form(losses: list[float], beta: float) -> None:
    loss = torch.tensor(losses, dtype=torch.float64, requires_grad=True)
    value = GradientExtrapolation(beta)(loss, groups_of(loss))
    half = len(losses) // 2
    weights = torch.tensor([-beta / half] * half + [(1 + beta) / half] * half, dtype=torch.float64)
    (loss_gradient,) = torch.autograd.grad(value, loss)
    torch.testing.assert_close(loss_gradient, weights, rtol=0, atol=TOLERANCE)
    torch.testing.assert_close(value, (weights * loss).sum(), rtol=0, atol=TOLERANCE)


@pytest.mark.parametrize(("c", "beta"), [(0.5, 1.0), (0.5, 0.4), (1.0, -0.3), (0.25, 2.0)])
def test_the_expected_gradient_is_that_of_the_extrapolated_shares(c: float, beta: float) -> None:
    network = linear()
    alpha = COUNTS / COUNTS.sum(axis=1, keepdims=True)
    shares = torch.from_numpy(gerne.extrapolated(alpha, c, beta))
    by_shares = (shares[..., None] * cell_gradients(network)).sum(dim=(0, 1)) / 2
    torch.testing.assert_close(expected_gradient(network, c, beta), by_shares, rtol=0, atol=TOLERANCE)


@pytest.mark.parametrize(
    ("one", "other"), [((0.5, 1.0), (1.0, 0.0)), ((0.5, 0.2), (0.25, 1.4)), ((1.0, 0.1), (0.55, 1.0))]
)
def test_equal_s_gives_equal_expected_gradients(one: tuple[float, float], other: tuple[float, float]) -> None:
    network = linear()
    torch.testing.assert_close(
        expected_gradient(network, *one), expected_gradient(network, *other), rtol=0, atol=TOLERANCE
    )
    different = expected_gradient(network, one[0], one[1] + 0.1)
    assert (different - expected_gradient(network, *one)).abs().max() > 1e-4


@pytest.mark.parametrize(("c", "beta"), [(0.5, 1.0), (1.0, 0.3)])
def test_sampler_and_objective_together_average_to_the_expected_gradient(c: float, beta: float) -> None:
    # 8 samples a class and half: over 60 steps every cell is seen a whole number of times, so the mean is exact
    x, y, a = toy_data()
    network, objective = linear(), GradientExtrapolation(beta)
    total = torch.zeros(8, dtype=torch.float64)
    for batch in GerneBatchSampler(y, a, batch_per_class=8, c=c, steps=60, seed=0):
        loss = cross_entropy(network(x[batch]), y[batch], reduction="none")
        total += gradient(network, objective(loss, groups_of(loss)))
    torch.testing.assert_close(total / 60, expected_gradient(network, c, beta), rtol=0, atol=TOLERANCE)


def two_ways(network: nn.Module) -> tuple[Tensor, Tensor]:
    """Gradient of GERNE's loss by one concatenated forward, and by one forward a half."""
    rng = np.random.default_rng(1)
    x = torch.from_numpy(rng.normal(size=(16, 2, 6, 6)) + np.repeat([0, 1], 8)[:, None, None, None])
    y = torch.from_numpy(rng.integers(2, size=16))
    loss = cross_entropy(network(x), y, reduction="none")
    together = gradient(network, GradientExtrapolation(1.5)(loss, groups_of(loss)))
    biased, less = (cross_entropy(network(x[half]), y[half]) for half in (slice(0, 8), slice(8, 16)))
    return together, gradient(network, less + 1.5 * (less - biased))


def convolutional(norm: nn.Module) -> nn.Module:
    """A small convolutional network in float64 with the given normalisation."""
    torch.manual_seed(0)
    layers = [nn.Conv2d(2, 4, 3), norm, nn.ReLU(), nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(16, 2)]
    return nn.Sequential(*layers).double()


@pytest.mark.parametrize("norm", [nn.Identity(), nn.GroupNorm(2, 4)], ids=["none", "groupnorm"])
def test_without_batchnorm_one_concatenated_forward_equals_two_forwards(norm: nn.Module) -> None:
    together, apart = two_ways(convolutional(norm))
    torch.testing.assert_close(together, apart, rtol=0, atol=TOLERANCE)


def test_both_forms_agree_with_frozen_batchnorm_and_differ_in_train_mode() -> None:
    norm = nn.BatchNorm2d(4)
    together, apart = two_ways(convolutional(norm.eval()))
    torch.testing.assert_close(together, apart, rtol=0, atol=TOLERANCE)
    together, apart = two_ways(convolutional(norm.train()))
    assert ((together - apart).norm() / apart.norm()).item() > 0.1


def test_the_logged_parts_are_copies_without_a_graph() -> None:
    loss = torch.tensor([1.0, 3.0], requires_grad=True)
    objective = GradientExtrapolation(1.0)
    objective(loss, groups_of(loss)).backward()
    first = objective.loss_biased
    assert not first.requires_grad
    first.mul_(100)
    assert loss.tolist() == [1.0, 3.0]
    objective(torch.tensor([7.0, 8.0]), groups_of(loss))
    assert first.item() == 100.0
    assert objective.loss_biased.item() == 7.0


def test_before_the_first_call_the_logged_parts_are_nan() -> None:
    assert math.isnan(GradientExtrapolation(1.0).loss_biased.item())


def test_beta_is_in_the_state_and_the_logged_parts_are_not() -> None:
    state = GradientExtrapolation(1.25).state_dict()
    assert {name: value.item() for name, value in state.items()} == {"beta": 1.25}
    restored = GradientExtrapolation(0.0)
    restored.load_state_dict(state)
    loss = torch.tensor([1.0, 2.0])
    assert restored(loss, groups_of(loss)).item() == 2.0 + 1.25


def test_group_dro_by_hand() -> None:
    objective = GroupDRO(2, eta=math.log(2))
    loss = torch.tensor([1.0, 3.0, 0.0], dtype=torch.float64)  # group losses 2 and 0
    value = objective(loss, torch.tensor([0, 0, 1]))
    # q = (1/2 * 2^2, 1/2) normalised = (.8, .2)
    torch.testing.assert_close(objective.q, torch.tensor([0.8, 0.2], dtype=torch.float64), rtol=0, atol=TOLERANCE)
    assert value.item() == pytest.approx(1.6, abs=TOLERANCE)


def test_an_absent_group_moves_group_dro_by_normalisation_only() -> None:
    objective = GroupDRO(3, eta=math.log(2))
    value = objective(torch.tensor([1.0, 0.0], dtype=torch.float64), torch.tensor([0, 1]))
    # q = (2, 1, 1) / 4
    torch.testing.assert_close(
        objective.q, torch.tensor([0.5, 0.25, 0.25], dtype=torch.float64), rtol=0, atol=TOLERANCE
    )
    assert value.item() == pytest.approx(0.5, abs=TOLERANCE)


def test_group_dro_takes_its_weights_as_constants() -> None:
    objective = GroupDRO(2, eta=0.5)
    loss = torch.tensor([1.0, 3.0, 0.5], dtype=torch.float64, requires_grad=True)
    (loss_gradient,) = torch.autograd.grad(objective(loss, torch.tensor([0, 0, 1])), loss)
    q = objective.q
    torch.testing.assert_close(loss_gradient, torch.stack([q[0] / 2, q[0] / 2, q[1]]), rtol=0, atol=TOLERANCE)


def test_group_dro_leans_towards_the_worst_group() -> None:
    objective = GroupDRO(2, eta=0.1)
    for _ in range(200):
        objective(torch.tensor([0.1, 2.0]), torch.tensor([0, 1]))
    assert objective.q[1].item() > 0.99


def test_group_dro_survives_immense_losses() -> None:
    objective = GroupDRO(2, eta=1.0)
    value = objective(torch.tensor([1e5, 1.0]), torch.tensor([0, 1]))
    assert value.item() == pytest.approx(1e5)


def test_group_dro_keeps_q_in_evaluation_and_never_edits_it_in_place() -> None:
    objective = GroupDRO(2, eta=1.0).eval()
    before = objective.q
    objective(torch.tensor([5.0, 0.0]), torch.tensor([0, 1]))
    assert objective.q is before
    objective.train()(torch.tensor([5.0, 0.0]), torch.tensor([0, 1]))
    assert before.tolist() == [0.5, 0.5]
    assert objective.q[0].item() > 0.9


def test_the_weights_of_group_dro_survive_the_state_dict() -> None:
    trained, fresh = GroupDRO(2, eta=1.0), GroupDRO(2, eta=1.0)
    trained(torch.tensor([5.0, 0.0]), torch.tensor([0, 1]))
    fresh.load_state_dict(trained.state_dict())
    assert torch.equal(fresh.q, trained.q)


@pytest.mark.parametrize(
    "objective", [Mean(), GradientExtrapolation(1.0), GroupDRO(2, 0.1)], ids=lambda o: type(o).__name__
)
def test_the_type_of_the_losses_is_kept_and_they_are_left_as_they_were(objective: nn.Module) -> None:
    for kind in (torch.float32, torch.float64):
        loss = torch.tensor([1.0, 2.0], dtype=kind)
        assert objective(loss, torch.tensor([0, 1])).dtype == kind
        assert loss.tolist() == [1.0, 2.0]


@pytest.mark.parametrize(
    "objective", [Mean(), GradientExtrapolation(1.0), GroupDRO(2, 0.1)], ids=lambda o: type(o).__name__
)
@pytest.mark.parametrize(("n_loss", "n_group"), [(0, 0), (4, 2)])
def test_an_empty_batch_and_unequal_lengths_are_refused(objective: nn.Module, n_loss: int, n_group: int) -> None:
    with pytest.raises(InputUnsupportedError, match="shape"):
        objective(torch.zeros(n_loss), torch.zeros(n_group, dtype=torch.int64))


def test_an_odd_batch_has_no_halves() -> None:
    with pytest.raises(InputUnsupportedError, match="batch of 3"):
        GradientExtrapolation(1.0)(torch.zeros(3), torch.zeros(3, dtype=torch.int64))


@pytest.mark.parametrize("group", [-1, 2])
def test_a_group_outside_its_range_is_refused(group: int) -> None:
    with pytest.raises(InputUnsupportedError, match="n_groups = 2"):
        GroupDRO(2, 0.1)(torch.zeros(2), torch.tensor([0, group]))


def test_nan_in_the_losses_stays_visible() -> None:
    loss = torch.tensor([1.0, math.nan])
    for objective in (Mean(), GradientExtrapolation(1.0), GroupDRO(1, 0.1)):
        assert math.isnan(objective(loss, groups_of(loss)).item())


@pytest.mark.parametrize(
    "make", [lambda: GradientExtrapolation(math.nan), lambda: GroupDRO(0, 0.1), lambda: GroupDRO(2, 0.0)]
)
def test_parameters_that_are_none_are_refused(make) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(InputUnsupportedError):
        make()
