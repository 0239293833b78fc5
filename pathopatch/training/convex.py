"""Train a linear head to convergence: logistic regression with weighted samples and an L2 penalty.

Where the head is linear, a method is a convex problem, whose solution needs no learning rate and no steps. The weights
of the samples are those that the method's sampler and objective give them in expectation:

    minimise  sum_i w_i loss(W x_i + b, y_i) + penalty / 2 tr(W M W'),   sum_i w_i = 1

over standardised features x. With two classes there is one row in W, the difference of both logits. Group DRO is the
minimum over W of the maximum over weights of the groups [1]_. M is 1, or 1 + rho S where the head shall not answer to
what moves the features by the second moment S.

L-BFGS runs in coordinates in which the curvature at W = 0 is about 1 in all directions. That takes 10 to 50 passes over
the features, and up to 120 at a penalty of 1e-3, instead of hundreds.

References
----------
.. [1] Sagawa, Koh, Hashimoto, Liang, "Distributionally Robust Neural Networks for Group Shifts", ICLR 2020,
   arXiv:1911.08731.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.linalg import cholesky, solve_triangular
from scipy.optimize import minimize
from threadpoolctl import threadpool_limits
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, one_hot, pad

from pathopatch.core.config import TrainConfig
from pathopatch.core.errors import InputUnsupportedError, NonFiniteError
from pathopatch.debias import gerne
from pathopatch.debias.methods import Method
from pathopatch.debias.objectives import GroupDRO
from pathopatch.models.networks import classifier_of
from pathopatch.training import checkpoint
from pathopatch.training.checkpoint import State
from pathopatch.training.dataset import PatchSet
from pathopatch.training.loop import Run, evaluate

Floats = NDArray[np.float64]

TOLERANCE = 1e-8
"""Largest entry of the gradient in the solver's coordinates, which takes passes in float64. At penalties from 1e-3 on
the logits were then within 1e-4 of Newton's, with 600 to 6,000 rows and 12 to 1,280 features."""
_GAP = 1e-3  # nats between the worst group's loss and the weighted mean, at which Group DRO ends: a tenth costs twice
_ROUNDS = 200  # of Group DRO
_MOST_FALL = 2.0  # of the logarithm of a group's weight in one round
_ROUND_TOLERANCE = 1e-4  # of the rounds before the last solution
_ROUNDING = 1e-6  # nats that this may take from a round's minimum
_ITERATIONS = 4000  # 46 patches of 1,280 features took 1,600 at a penalty of 1e-3
_CHUNK = 512  # rows: 6 MB of 1,536 values as float64 stay in the cache for both products
_MOMENT_ROWS = 16_384  # more rows do not save enough passes to pay for themselves
_LEAST_RIDGE = 1e-4  # of the coordinates alone: with fewer rows than features the moments are singular
_second_moments: WeakKeyDictionary[PatchSet, Floats] = WeakKeyDictionary()  # the trials of a search share them


@dataclass(frozen=True, eq=False)
class Solution:
    """A linear head."""

    weight: Floats  # (M, D), on standardised features; M is 1 for two classes, else K
    bias: Floats  # (M,)
    loss: Floats  # (N,), of each sample
    penalty: float  # penalty / 2 tr(W M W')

    def of_classes(self) -> tuple[Floats, Floats]:
        """Return weight (K, D) and bias (K,) of a logit per class."""
        weight, bias = self.weight, self.bias
        if len(weight) > 1:
            return weight, bias
        return np.concatenate([-weight, weight]) / 2, np.concatenate([-bias, bias]) / 2  # the two are opposite


def write_head(layer: nn.Linear, weight: Floats, bias: Floats) -> None:
    """Write weight (K, D) and bias (K,) into a layer with an output per class."""
    with torch.no_grad():
        layer.weight.copy_(torch.from_numpy(weight))
        layer.bias.copy_(torch.from_numpy(bias))


class LogisticRegression:
    """Weighted logistic regression on one set of features (N, D); several problems may be solved on it.

    The features stay as stored: rows are converted and standardised by `mean` and `std` (D,) chunk by chunk, so that no
    second copy is held. `factor` (D, D) is what `solver_factor` returns for the same penalty and `metric`; problems
    share it. `metric` is M (D, D) of the penalty; None: 1.
    """

    def __init__(
        self,
        features: NDArray[np.floating],
        label: NDArray[np.int64],
        *,
        mean: Floats,
        std: Floats,
        factor: Floats,
        n_classes: int,
        penalty: float,
        metric: Floats | None = None,
    ) -> None:
        self._x, self._label = _without_copy(features), _without_copy(label)
        self._mean, self._std, self._penalty, self._metric = mean, std, penalty, metric
        self._rows = 1 if n_classes == 2 else n_classes
        # (N, M): what the probabilities of the rows of W should be.
        self._target = (self._label[:, None] if n_classes == 2 else one_hot(self._label, n_classes)).double()
        self._factor = factor

    def solve(self, sample_weight: Floats, start: Solution | None = None, *, tolerance: float = TOLERANCE) -> Solution:
        """Return the head of least loss for weights (N,) of sum 1, none negative; `start` saves passes.

        NonFiniteError where the gradient does not vanish: the features hold values that are not finite, or are
        separable without a penalty.
        """
        weight = torch.from_numpy(sample_weight)[:, None]
        latest: list[Solution] = []

        def objective(coordinates: Floats) -> tuple[float, Floats]:
            head, gradient = self._pass(*self._head(coordinates), weight)
            latest[:] = [head]
            return float(sample_weight @ head.loss) + head.penalty, gradient

        begin = np.zeros(self._rows * (len(self._mean) + 1)) if start is None else self._coordinates(start)
        options = {"gtol": tolerance, "ftol": 0.0, "maxiter": _ITERATIONS, "maxfun": 2 * _ITERATIONS, "maxcor": 20}
        found = minimize(objective, begin, jac=True, method="L-BFGS-B", options=options)
        # Rounding may end the line search a little before the tolerance is reached.
        if not np.abs(found.jac).max() <= 100 * tolerance:  # NaN is not <=
            raise NonFiniteError(
                f"the linear head has not converged: a gradient of {np.abs(found.jac).max():.3g} is left",
                place="[train] weight_decay",
                remedy="raise [train] weight_decay, or look for features that are not finite",
            )
        if not np.array_equal(latest[0].bias, self._head(found.x)[1]):
            objective(found.x)  # the last pass was of a step that was not taken
        return latest[0]

    def solve_worst_group(self, shares: Floats, group: NDArray[np.int64], objective: GroupDRO) -> Solution:
        """Return the head whose worst group has the least loss; leave the groups' weights in the objective.

        The weights rise by exponentiated steps while the minimum over W, which is concave in them, rises too. They end
        within 1e-3 nats of the least loss of the worst group; the logits were within 0.04 of those of the optimum.
        `shares` (parts, N) as the sampler expects them, `group` (N,).
        """
        share = shares.mean(axis=0)
        of_group = np.bincount(group, weights=share, minlength=len(objective.q))

        def solve_at(q: Floats, start: Solution | None) -> tuple[Solution, Floats, float]:
            objective.q = torch.from_numpy(q)
            head = self.solve(objective.expected_weights(shares, group), start, tolerance=_ROUND_TOLERANCE)
            total = np.bincount(group, weights=share * head.loss, minlength=len(q))
            loss = np.divide(total, of_group, out=np.zeros(len(q)), where=of_group > 0)  # (G,)
            return head, loss, float(q @ loss) + head.penalty

        q, step = np.where(of_group > 0, 1.0, 0.0) / np.count_nonzero(of_group), 1.0
        head, loss, value = solve_at(q, None)
        for _ in range(_ROUNDS):
            if loss.max() - q @ loss <= _GAP:
                break
            step = min(step, _MOST_FALL / np.ptp(loss))  # a weight that has fallen to 0 could not rise again
            risen = q * np.exp(step * (loss - loss.max()))
            risen /= risen.sum()
            new, new_loss, new_value = solve_at(risen, head)
            if new_value >= value - _ROUNDING:
                q, head, loss, value, step = risen, new, new_loss, new_value, 2 * step
            else:
                step /= 4
        else:
            warnings.warn(
                f"Group DRO has not converged: a gap of {loss.max() - q @ loss:.3g} is left to the worst group's loss",
                UserWarning,
                stacklevel=2,
            )
        objective.q = torch.from_numpy(q)
        return self.solve(objective.expected_weights(shares, group), head)

    def _head(self, coordinates: Floats) -> tuple[Floats, Floats]:
        """Return weight (M, D) and bias (M,) of a point in the solver's coordinates."""
        points = coordinates.reshape(self._rows, -1)
        # Whether the factor is finite was checked when it was made; a check in every pass takes a fifth of the time.
        weight = solve_triangular(self._factor, points[:, :-1].T, lower=True, trans="T", check_finite=False).T
        return weight, 2 * points[:, -1]  # its curvature is 1/4

    def _coordinates(self, head: Solution) -> Floats:
        """Return the point of a head in the solver's coordinates."""
        points = np.column_stack([head.weight @ self._factor, head.bias / 2])
        return np.asarray(points.ravel())

    def _pass(self, weight: Floats, bias: Floats, sample_weight: Tensor) -> tuple[Solution, Floats]:
        """Return the losses of a head, and the gradient in the solver's coordinates, by one pass over the features."""
        # x is standardised within the head: W (x - mean) / std + b.
        slope = weight / self._std
        columns = torch.from_numpy(slope.T)  # (D, M)
        offset = torch.from_numpy(bias - slope @ self._mean)
        gradient = torch.zeros(weight.shape, dtype=torch.float64)
        z = torch.empty(len(self._x), self._rows, dtype=torch.float64)
        error = torch.empty_like(z)
        # Reused: new memory takes as long as the sums.
        part = torch.empty(min(_CHUNK, len(self._x)), self._x.shape[1], dtype=torch.float64)
        for start in range(0, len(self._x), _CHUNK):
            rows = slice(start, start + _CHUNK)
            x = part[: len(z[rows])].copy_(self._x[rows])
            torch.addmm(offset, x, columns, out=z[rows])
            probability = z[rows].sigmoid() if self._rows == 1 else z[rows].softmax(dim=1)
            torch.mul(probability - self._target[rows], sample_weight[rows], out=error[rows])
            gradient += error[rows].T @ x
        logits = pad(z, (1, 0)) if self._rows == 1 else z  # (N, K)
        loss = cross_entropy(logits, self._label, reduction="none").numpy()
        errors = error.sum(dim=0).numpy()
        shrunk = self._penalty * (weight if self._metric is None else weight @ self._metric)
        own = (gradient.numpy() - np.outer(errors, self._mean)) / self._std + shrunk
        inner = solve_triangular(self._factor, own.T, lower=True, check_finite=False).T  # (M, D)
        head = Solution(weight, bias, loss, float((weight * shrunk).sum()) / 2)
        return head, np.column_stack([inner, 2 * errors]).ravel()


def solver_factor(moments: Floats, penalty: float, metric: Floats | None = None) -> Floats:
    """Return the factor (D, D) of the solver's coordinates by `second_moments`, a penalty and its metric."""
    ridge = max(penalty, _LEAST_RIDGE)
    # p (1 - p) is 1/4 at W = 0: the factor of the Hessian there.
    return np.asarray(cholesky(moments / 4 + ridge * (np.eye(len(moments)) if metric is None else metric), lower=True))


def second_moments(data: PatchSet, *, mean: Floats, std: Floats) -> Floats:
    """Return X'X / n (D, D) of standardised features, of up to 16,384 rows that are drawn once and for all.

    Of one set of patches they are computed once.
    """
    if data not in _second_moments:
        _second_moments[data] = second_moments_of(as_matrix(data), mean=mean, std=std)
    return _second_moments[data]


def second_moments_of(features: NDArray[np.floating], *, mean: Floats, std: Floats) -> Floats:
    """Return what `second_moments` does, of features (N, D)."""
    index = np.sort(np.random.default_rng(0).permutation(len(features))[:_MOMENT_ROWS])
    total = torch.zeros(len(mean), len(mean))
    shift, scale = torch.from_numpy(mean).float(), torch.from_numpy(std).float()
    rows = _without_copy(features)
    for start in range(0, len(index), _CHUNK):
        part = (rows[torch.from_numpy(index[start : start + _CHUNK])].float() - shift) / scale
        total += part.T @ part
    return (total.double() / len(index)).numpy()


def as_matrix(data: PatchSet) -> NDArray[np.floating]:
    """Return the features (N, D) of patches of one pixel, without a copy."""
    assert isinstance(data.x, np.ndarray)  # features are always in memory
    return data.x.reshape(len(data), -1)


def _without_copy(values: NDArray[Any]) -> torch.Tensor:
    """Return an array as a tensor that is only read."""
    with warnings.catch_warnings():
        # Columns of tables and mapped files cannot be written to, which torch warns of.
        warnings.filterwarnings("ignore", "The given NumPy array is not writable", UserWarning)
        return torch.from_numpy(values)


def solve_method(
    regression: LogisticRegression,
    method: Method,
    objective: nn.Module,
    data: tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float64]],
    config: TrainConfig,
) -> tuple[Solution, Floats]:
    """Return the head that a method converges to, and the weights (N,) of the samples there.

    `data` are label, attribute and tissue fraction of the samples.
    """
    label, attribute, _ = data
    # Size and seed of a batch hardly matter to the weights.
    sizes = {"batch_per_class": config.batch_per_class, "steps": 1, "seed": config.seed}
    shares = method.batches(*data, **sizes).expected_shares(len(label))
    group = gerne.cell_counts(label, attribute).shape[1] * label + attribute
    # A chunk is small: a second thread doubles the processor time and saves no other.
    with threadpool_limits(1):
        if isinstance(objective, GroupDRO):
            head = regression.solve_worst_group(shares, group, objective)
            return head, objective.expected_weights(shares, group)
        # At the bounds of beta a share is 0 up to rounding.
        weights = np.maximum(objective.expected_weights(shares, group), 0)  # type: ignore[operator]
        return regression.solve(weights / weights.sum()), weights


def solve_head(run: Run, state: State) -> None:
    """Solve the linear head of a run, in place of the steps of `train_network`."""
    config, data = run.config, run.train
    if state.step >= config.steps:
        return  # of a checkpoint
    if not hasattr(state.objective, "expected_weights"):
        raise InputUnsupportedError(
            f"{config.method} minimises no weighted mean of the losses, which a linear head needs",
            place="[train] method",
            remedy="use another method, such as gerne",
        )
    mean, std = (values.flatten().double().cpu().numpy() for values in (run.standardize.mean, run.standardize.std))
    regression = LogisticRegression(
        as_matrix(data),
        data.label,
        mean=mean,
        std=std,
        factor=solver_factor(second_moments(data, mean=mean, std=std), config.weight_decay),
        n_classes=run.n_classes,
        penalty=config.weight_decay,
    )
    samples = data.label, data.attribute, data.tissue_fraction
    head, weights = solve_method(regression, run.method, state.objective, samples, config)
    layer = classifier_of(state.network)
    assert isinstance(layer, nn.Linear)
    write_head(layer, *head.of_classes())
    state.step = config.steps
    state.losses.add(torch.tensor(float(weights @ head.loss)), nn.Identity())  # the objective has no terms to show
    evaluate(run, state)
    if run.checkpoints and run.processes.is_first:
        checkpoint.save(run.checkpoints, state)
    if run.progress:
        run.progress(state.step, config.steps, {"loss": float(weights @ head.loss), **run.shown})
