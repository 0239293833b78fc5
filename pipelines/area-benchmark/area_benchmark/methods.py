"""Methods of papers that the benchmark compares with those of the package; to import this module registers them.

Each is a pair of sampler and objective, as `pathopatch.debias.methods.Method` describes them.
"""

from __future__ import annotations

import math
from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor, nn

from pathopatch.core.errors import GroupEmptyError, InputUnsupportedError
from pathopatch.debias import gerne
from pathopatch.debias.methods import Method, register_method
from pathopatch.debias.objectives import Mean
from pathopatch.debias.samplers import (
    BatchSampler,
    ClassBalancedBatchSampler,
    GroupBalancedBatchSampler,
    UniformBatchSampler,
)

_LEAST_TO_CORRELATE = 4  # samples: the unbiased estimate divides by n (n - 3)
Bools, Floats, Ints = NDArray[np.bool_], NDArray[np.float64], NDArray[np.int64]


def reweight() -> Method:
    """Return importance weighting: uniform draws, each loss times 1 / (K A p(y, a)).

    Sampler: `UniformBatchSampler`. Objective: `GroupWeighted`; A counts non-empty groups.

    References
    ----------
    Shimodaira, "Improving predictive inference under covariate shift by weighting the log-likelihood function", Journal
    of Statistical Planning and Inference 90(2), 2000: the weighted likelihood, here by uniform p(y, a) over p(y, a).
    """
    return Method(sampler=_uniform_over_cells, objective=GroupWeighted)


def subsample() -> Method:
    """Return training on a subset with equal groups: most of the data is thrown away.

    Samples: `equal_groups`. Sampler: `GroupBalancedBatchSampler`. Objective: `Mean`.

    References
    ----------
    Idrissi et al., "Simple data balancing achieves competitive worst-group-accuracy", CLeaR 2022, arXiv:2110.14503
    (there SUBG).
    """
    return Method(sampler=_of_equal_groups, objective=_mean)


def area_matched(*, caliper: float = 0.02) -> Method:
    """Return training on pairs of both classes with nearly equal tissue area; no threshold and no group is needed.

    Samples: `equal_areas`, which differ by at most `caliper` in a pair. Sampler: `ClassBalancedBatchSampler` by the
    label alone. Objective: `Mean`.

    References
    ----------
    Rosenbaum, Rubin, "Constructing a control group using multivariate matched sampling methods that incorporate the
    propensity score", The American Statistician 39(1), 1985: matching within a caliper.
    """
    if not (math.isfinite(caliper) and caliper > 0):
        raise InputUnsupportedError(f"caliper = {caliper}", remedy="Use a finite number above 0.")
    return Method(sampler=partial(_of_equal_areas, caliper=caliper), objective=_mean)


def decorrelate(*, dcor_weight: float = 1.0) -> Method:
    """Return class-balanced training with a penalty on the distance correlation of logit and area within each class.

    Sampler: `ClassBalancedBatchSampler` by the label alone. Objective: `Decorrelated`.

    References
    ----------
    Szekely, Rizzo, "Partial distance correlation with methods for dissimilarities", Annals of Statistics 42(6), 2014.
    """
    return Method(sampler=_class_balanced_by_label, objective=partial(_decorrelated, weight=dcor_weight))


METHODS = {"reweight": reweight, "subsample": subsample, "area-matched": area_matched, "decorrelate": decorrelate}


def equal_groups(label: Ints, attribute: Ints, seed: int) -> Bools:
    """Return a random subset (N,) in which each group has as many samples as the smallest.

    GroupEmptyError where a group of a binary attribute is empty.
    """
    counts = gerne.cell_counts(label, attribute)
    gerne.check_cells(counts)
    size = counts[counts > 0].min()
    rng = np.random.default_rng(seed)
    is_kept = np.zeros(len(label), np.bool_)
    for y, a in np.argwhere(counts > 0):
        is_kept[rng.permutation(np.flatnonzero((label == y) & (attribute == a)))[:size]] = True
    return is_kept


def equal_areas(label: Ints, area: Floats, seed: int, *, caliper: float) -> Bools:
    """Return the largest subset (N,) of pairs, one sample of each class, whose areas differ by at most a caliper.

    Each sample is in one pair at most. GroupEmptyError where there is no pair, InputUnsupportedError for other than two
    classes or unknown areas.
    """
    if label.max(initial=0) > 1 or not np.isfinite(area).all():
        raise InputUnsupportedError(
            "patches are matched by their tissue area between two classes",
            place="[train] method",
            remedy="use subsample, resample or gerne",
        )
    rng = np.random.default_rng(seed)
    shuffled = rng.permutation(len(label))  # which of equal areas is taken
    order = shuffled[np.argsort(area[shuffled], kind="stable")]
    queues = [order[label[order] == y].tolist() for y in (0, 1)]
    is_kept, i, j = np.zeros(len(label), np.bool_), 0, 0
    # On a line, pairing the two smallest that fit loses no pair.
    while i < len(queues[0]) and j < len(queues[1]):
        first, second = queues[0][i], queues[1][j]
        difference = area[first] - area[second]
        if abs(difference) <= caliper:
            is_kept[[first, second]] = True
        i += difference <= caliper
        j += difference >= -caliper
    if not is_kept.any():
        raise GroupEmptyError(
            f"no two patches of both classes have areas within {caliper:g}",
            place="[train] method_args",
            remedy="raise caliper, or train with mask = 'interior', which needs no overlap",
        )
    return is_kept


class GroupWeighted(nn.Module):
    """The mean of the losses, each times 1 / (K A_y p(y, a)) of its group: with uniform draws the group-balanced risk.

    `counts` (K, A) are the samples of each group; A_y counts the non-empty ones of a class. Steps are noisier than with
    resampling: of four groups, a sample of one that holds 1/200 of the data weighs 50.
    """

    weight: Tensor  # float64 (G,)

    def __init__(self, counts: Ints) -> None:
        super().__init__()
        share = counts / counts.sum()
        target = (counts > 0) / np.maximum((counts > 0).sum(axis=1, keepdims=True), 1) / len(counts)
        weights = np.divide(target, share, out=np.zeros(counts.shape), where=counts > 0)
        # Not in the state dict: the weights follow from the data of each run.
        self.register_buffer("weight", torch.from_numpy(weights.ravel()), persistent=False)

    def forward(self, loss: Tensor, group: Tensor) -> Tensor:
        """Return the weighted mean of losses (B,) by their groups (B,)."""
        return (self.weight.to(loss.dtype)[group] * loss).mean()

    def expected_weights(self, shares: Floats, group: Ints) -> Floats:
        """Return the shares, each times the weight of its group."""
        return np.asarray(shares.mean(axis=0) * self.weight.numpy(force=True)[group])


class Decorrelated(nn.Module):
    """The mean loss plus `weight` times the squared distance correlation of logit and tissue area within each class.

    The unbiased estimate of [1]_, whose mean is 0 where both are independent. It sees nothing where the area is
    constant within a class. The penalty is the sum over both classes.

    References
    ----------
    .. [1] Szekely, Rizzo, "Partial distance correlation with methods for dissimilarities", Annals of Statistics 42(6),
       2014, section 3; as a penalty: Zhen, Meng, Chakraborty, Singh, "On the Versatile Uses of Partial Distance
       Correlation in Deep Learning", ECCV 2022.
    """

    def __init__(self, weight: float) -> None:
        super().__init__()
        if not (math.isfinite(weight) and weight >= 0):
            raise InputUnsupportedError(f"weight = {weight}", remedy="Use a finite number of at least 0.")
        self.weight = weight

    def forward(self, loss: Tensor, group: Tensor, margin: Tensor, area: Tensor, label: Tensor) -> Tensor:
        """Return the penalised loss of samples with margins z1 - z0, areas and labels, all (B,); no group is used."""
        classes = [label == y for y in (0, 1)]
        return loss.mean() + self.weight * sum(distance_correlation(margin[own], area[own]) for own in classes)


def distance_correlation(x: Tensor, y: Tensor) -> Tensor:
    """Return the unbiased squared distance correlation of numbers (n,); 0 with fewer than four, or without spread."""
    if len(x) < _LEAST_TO_CORRELATE:
        return x.sum() * 0
    a, b = (_centred(values.double()) for values in (x, y))  # its sums cancel
    covariance, spread = (a * b).sum(), ((a * a).sum() * (b * b).sum()).sqrt()
    return (covariance / spread).to(x.dtype) if bool(spread > 0) else x.sum() * 0


def _centred(values: Tensor) -> Tensor:
    """Return the U-centred distances (n, n) of numbers (n,)."""
    distance, n = (values[:, None] - values).abs(), len(values)
    rows = distance.sum(dim=0) / (n - 2)
    centred = distance - rows - rows[:, None] + distance.sum() / ((n - 1) * (n - 2))
    return centred - torch.diag(torch.diag(centred))


def _mean(counts: Ints) -> nn.Module:
    return Mean()


def _decorrelated(counts: Ints, *, weight: float) -> nn.Module:
    return Decorrelated(weight)


def _uniform_over_cells(label: ArrayLike, attribute: ArrayLike, **sizes: int) -> BatchSampler:
    """Return uniform batches; refuse empty cells, which have no weight."""
    gerne.check_cells(gerne.cell_counts(label, attribute))
    return UniformBatchSampler(label, attribute, **sizes)


def _class_balanced_by_label(label: ArrayLike, attribute: ArrayLike, **sizes: int) -> BatchSampler:
    """Return class-balanced batches that do not depend on the attribute."""
    return ClassBalancedBatchSampler(label, np.zeros(np.shape(label), dtype=np.int64), **sizes)


def _of_equal_groups(label: ArrayLike, attribute: ArrayLike, **sizes: int) -> BatchSampler:
    label, attribute = np.asarray(label), np.asarray(attribute)
    index = np.flatnonzero(equal_groups(label, attribute, sizes["seed"]))
    return GroupBalancedBatchSampler(label[index], attribute[index], **sizes).of_samples(index)


def _of_equal_areas(label: ArrayLike, attribute: Any, *, area: ArrayLike, caliper: float, **sizes: int) -> BatchSampler:
    label = np.asarray(label)
    index = np.flatnonzero(equal_areas(label, np.asarray(area), sizes["seed"], caliper=caliper))
    return _class_balanced_by_label(label[index], label[index], **sizes).of_samples(index)


for name, make in METHODS.items():
    register_method(name, make)
