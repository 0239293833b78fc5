"""The linear head: a solution is where the gradient vanishes, and equals scikit-learn's."""

import numpy as np
import pytest
import torch
from scipy.special import softmax
from sklearn.linear_model import LogisticRegression as Reference

from pathopatch.core.config import TrainConfig
from pathopatch.core.errors import NonFiniteError
from pathopatch.debias.gerne import cell_counts, extrapolated
from pathopatch.debias.methods import method
from pathopatch.debias.objectives import GroupDRO
from pathopatch.training.convex import LogisticRegression, solve_method, solver_factor, write_head


def _made(*, n=600, dim=12, classes=2, seed=0, dtype=np.float32):
    rng = np.random.default_rng(seed)
    label = rng.integers(0, classes, n)
    attribute = np.where(rng.random(n) < 0.8, label % 2, 1 - label % 2)
    x = rng.normal(size=(n, dim)) @ rng.normal(size=(dim, dim)) + 3
    x[:, 0] += label
    x[:, 1] += 2 * attribute
    return x.astype(dtype), label, attribute


def _regression(x, label, *, penalty, classes=2, metric=None):
    mean, std = x.mean(axis=0, dtype=np.float64), x.std(axis=0, dtype=np.float64)
    standard = (x - mean) / std
    moments = standard.T @ standard / len(x)
    factor = solver_factor(moments, penalty, metric)
    options = {"mean": mean, "std": std, "factor": factor, "n_classes": classes, "penalty": penalty, "metric": metric}
    return LogisticRegression(x, label, **options), standard


def _weights(name, label, attribute, **own):
    """Expected weights of a method."""
    chosen = method(name, **own)
    counts = cell_counts(label, attribute)
    shares = chosen.sampler(label, attribute, batch_per_class=4, steps=1, seed=0).expected_shares(len(label))
    return chosen.objective(counts).expected_weights(shares, counts.shape[1] * label + attribute)


@pytest.mark.parametrize("classes", [2, 3])
@pytest.mark.parametrize("dtype", [np.float32, np.float16])
def test_the_gradient_of_the_weighted_loss_vanishes_at_the_solution(classes, dtype):
    x, label, _ = _made(classes=classes, dtype=dtype)
    weight = np.random.default_rng(1).random(len(x))
    weight /= weight.sum()
    regression, standard = _regression(x, label, penalty=0.01, classes=classes)
    head = regression.solve(weight)
    z = standard @ head.weight.T + head.bias
    logits = np.column_stack([np.zeros(len(z)), z]) if classes == 2 else z
    error = (softmax(logits, axis=1) - np.eye(classes)[label])[:, -len(head.bias) :] * weight[:, None]
    assert np.abs(error.T @ standard + 0.01 * head.weight).max() < 2e-5
    assert np.abs(error.sum(axis=0)).max() < 2e-5


@pytest.mark.parametrize("classes", [2, 3])
def test_the_solution_equals_scikit_learns_at_the_same_penalty(classes):
    x, label, _ = _made(classes=classes)
    regression, standard = _regression(x, label, penalty=0.01, classes=classes)
    head = regression.solve(np.full(len(x), 1 / len(x)))
    reference = Reference(C=1 / (0.01 * len(x)), tol=1e-8, max_iter=5000).fit(standard, label)
    np.testing.assert_allclose(head.weight, reference.coef_, atol=1e-4)
    bias = reference.intercept_ - (reference.intercept_.mean() if classes > 2 else 0)
    np.testing.assert_allclose(head.bias - (head.bias.mean() if classes > 2 else 0), bias, atol=1e-4)


def test_logits_at_a_small_penalty_are_newtons_to_four_decimals():
    x, label, _ = _made(n=400, dim=300)
    regression, standard = _regression(x, label, penalty=1e-3)
    head = regression.solve(np.full(len(x), 1 / len(x)))
    reference = Reference(C=1000 / len(x), solver="newton-cholesky", tol=1e-12, max_iter=500).fit(standard, label)
    logit = standard @ head.weight[0] + head.bias[0]
    np.testing.assert_allclose(logit, reference.decision_function(standard), atol=1e-4)


@pytest.mark.parametrize("name", ["erm", "resample", "gerne", "groupdro"])
def test_a_head_that_must_not_answer_to_a_direction_is_newtons_in_whitened_features(name):
    x, label, attribute = _made()
    moved = np.random.default_rng(2).normal(size=(5, x.shape[1]))
    metric = np.eye(x.shape[1]) + 10 * moved.T @ moved / 5
    regression, standard = _regression(x, label, penalty=0.01, metric=metric)
    chosen, counts = method(name), cell_counts(label, attribute)
    samples = label, attribute, np.zeros(len(label))
    head, weight = solve_method(regression, chosen, chosen.objective(counts), samples, TrainConfig(method=name))
    whitened = np.linalg.solve(np.linalg.cholesky(metric), standard.T).T
    reference = Reference(C=100.0, solver="newton-cholesky", tol=1e-12, max_iter=500)
    reference.fit(whitened, label, sample_weight=weight / weight.sum())
    found, expected = standard @ head.weight[0] + head.bias[0], reference.decision_function(whitened)
    np.testing.assert_allclose(found, expected, atol=1e-6)
    assert (
        np.std(moved @ head.weight[0])
        < np.std(moved @ _regression(x, label, penalty=0.01)[0].solve(weight / weight.sum()).weight[0]) / 2
    )


def test_a_start_changes_no_solution():
    x, label, _ = _made()
    regression, _ = _regression(x, label, penalty=0.01)
    even, first = np.full(len(x), 1 / len(x)), np.where(label == 0, 3.0, 1.0)
    cold = regression.solve(even)
    warm = regression.solve(even, regression.solve(first / first.sum()))
    np.testing.assert_allclose(cold.weight, warm.weight, atol=1e-4)


def test_features_that_are_not_finite_are_an_error_with_a_remedy():
    x, label, _ = _made()
    regression, _ = _regression(x, label, penalty=0.01)
    x[3, 1] = np.nan  # the regression holds the array itself
    with pytest.raises(NonFiniteError, match="not finite"):
        regression.solve(np.full(len(x), 1 / len(x)))


def test_arrays_that_cannot_be_written_are_taken_without_a_warning():
    x, label = _made(n=60, dim=3)[:2]
    x.flags.writeable = label.flags.writeable = False
    torch.set_warn_always(True)  # it warns once in a process otherwise, which another test may have used up
    try:
        regression, _ = _regression(x, label, penalty=0.1)
    finally:
        torch.set_warn_always(False)
    assert np.isfinite(regression.solve(np.full(60, 1 / 60)).loss).all()


def test_resampling_and_gerne_at_s_of_one_weigh_groups_alike():
    _, label, attribute = _made()
    counts = cell_counts(label, attribute)
    by_hand = 1 / (counts[label, attribute] * 4)
    np.testing.assert_allclose(_weights("resample", label, attribute), by_hand)
    np.testing.assert_allclose(_weights("gerne", label, attribute), by_hand)


def test_gerne_weights_follow_the_extrapolated_shares():
    _, label, attribute = _made()
    counts = cell_counts(label, attribute)
    shares = extrapolated(counts / counts.sum(axis=1, keepdims=True), 0.5, 1.3)
    weights = _weights("gerne", label, attribute, c=0.5, beta=1.3)
    np.testing.assert_allclose(weights, (shares / counts)[label, attribute] / 2)
    assert weights.min() > 0


@pytest.mark.parametrize("name", ["erm", "erm-balanced", "resample", "gerne"])
def test_expected_shares_are_those_of_many_batches(name):
    _, label, attribute = _made(n=60)
    sampler = method(name).sampler(label, attribute, batch_per_class=10, steps=800, seed=0)
    drawn = np.stack([sampler.batch(step) for step in range(800)])
    parts = drawn.reshape(800, sampler.parts, -1).transpose(1, 0, 2).reshape(sampler.parts, -1)
    share = np.stack([np.bincount(part, minlength=60) / len(part) for part in parts])
    np.testing.assert_allclose(sampler.expected_shares(60), share, atol=2e-4)


def test_group_dro_levels_the_groups_it_weights_and_no_group_is_worse():
    x, label, attribute = _made(n=800)
    group = 2 * label + attribute
    shares = (
        method("groupdro").sampler(label, attribute, batch_per_class=4, steps=1, seed=0).expected_shares(len(label))
    )
    regression, _ = _regression(x, label, penalty=1e-3)
    objective = GroupDRO(4, 0.01)
    head = regression.solve_worst_group(shares, group, objective)
    loss = np.array([head.loss[group == g].mean() for g in range(4)])
    q = objective.q.numpy()
    assert loss.max() - q @ loss < 1e-3
    assert loss[q > 0.05] == pytest.approx(loss.max(), abs=0.02)
    balanced = regression.solve(objective.__class__(4, 0.01).expected_weights(shares, group))
    assert loss.max() < max(balanced.loss[group == g].mean() for g in range(4))


def test_logits_of_two_classes_differ_by_the_head():
    x, label, _ = _made()
    regression, standard = _regression(x, label, penalty=0.01)
    head, layer = regression.solve(np.full(len(x), 1 / len(x))), torch.nn.Linear(12, 2)
    write_head(layer, *head.of_classes())
    logits = layer(torch.from_numpy(standard).float()).detach().numpy()
    np.testing.assert_allclose(logits[:, 1] - logits[:, 0], standard @ head.weight[0] + head.bias[0], atol=1e-4)
