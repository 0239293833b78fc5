"""Phases: the stretches of training that make up a method, run by a loop that does not know the method's name.

A phase may be limited to a subset of the data in which class and tissue area are not correlated: the simplest kind of
debiasing.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, Protocol

import numpy as np
import numpy.typing as npt

from pathopatch.core.errors import GroupEmptyError, InputUnsupportedError
from pathopatch.debias import gerne
from pathopatch.debias.samplers import BatchSampler

if TYPE_CHECKING:
    from torch import nn


Bools = npt.NDArray[np.bool_]
Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]


class MakeSampler(Protocol):
    """A callable that returns the batches of a phase; ``batch_per_class`` counts all streams together."""

    def __call__(
        self, label: npt.ArrayLike, attribute: npt.ArrayLike, *, batch_per_class: int, steps: int, seed: int
    ) -> BatchSampler:
        """Return the batches for these labels and attributes."""


Relabel = Callable[[Floats, Ints, Ints], Ints]
"""Maps ``(probability (N, K), label (N,), attribute (N,))`` of a phase's samples to the attribute that it draws by.

The probabilities are of the previous phase; an attribute is -1 where unknown, and the result 1 for hard samples.
"""


Subset = Callable[[npt.NDArray[np.int64], npt.NDArray[np.int64], npt.NDArray[np.float64], int], npt.NDArray[np.bool_]]
"""Maps ``(label, attribute, tissue_fraction, seed)`` of samples (N,) to those that a phase draws from, (N,)."""


@dataclass(frozen=True, kw_only=True)
class Phase:
    """One stretch of training: what is drawn, minimised and trained, and how the result is picked.

    Parameters
    ----------
    sampler : callable
        ``(label, attribute, *, batch_per_class, steps, seed)`` to a `BatchSampler`.
    objective : callable
        ``counts``, the samples of each cell as ndarray of int64 of shape (K, A), to a module with
        ``forward(loss, group)``; groups are numbered A y + a.
    """

    sampler: MakeSampler
    objective: Callable[[Ints], nn.Module]
    # Split whose patches are drawn. "val" is one half of validation, by which no phase of the method selects anything.
    split: Literal["train", "val"] = "train"
    trainable: Literal["all", "head"] = "all"  # with "head", all before the last layer runs as in prediction
    starts_anew: bool = False  # from the first phase's initial weights, not from the previous phase's checkpoint
    subset: Subset | None = None  # the samples that are drawn at all; None: all of the split
    relabel: Relabel | None = None  # gives the attribute to draw by; None: the known attribute
    lr_scale: float = 1.0  # factors on the learning rate, the weight decay and the number of steps
    weight_decay_scale: float = 1.0
    steps_scale: float = 1.0
    # What picks the checkpoint on validation: the run's own measure, class-balanced accuracy, or the last step.
    select_by: Literal["wga", "cba", "last"] = "wga"
    needs_val_attribute: bool = False  # whether validation needs the attribute
    # Of the draws, composed by an area intervention; auto: by the size of the smallest group; None: as the run says.
    intervene_share: float | Literal["auto"] | None = None

    def steps(self, steps: int) -> int:
        """Return the steps of this phase in a run of `steps` steps; at least 1."""
        return max(1, round(self.steps_scale * steps))


def steps_in_all(phases: Sequence[Phase], steps: int) -> int:
    """Return the steps of all phases in a run of `steps` steps: the unit of a search's budget."""
    return sum(phase.steps(steps) for phase in phases)


def equal_groups(label: Ints, attribute: Ints, tissue_fraction: Floats, seed: int) -> Bools:
    """Return a random subset (N,) in which each group has as many samples as the smallest; the area is not used.

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


def equal_areas(label: Ints, attribute: Ints, tissue_fraction: Floats, seed: int, *, caliper: float) -> Bools:
    """Return the largest subset (N,) of pairs, one sample of each class, whose areas differ by at most a caliper.

    Each sample is in one pair at most. GroupEmptyError where there is no pair, InputUnsupportedError for other than two
    classes or unknown areas. Attributes are not used.
    """
    if label.max(initial=0) > 1 or not np.isfinite(tissue_fraction).all():
        raise InputUnsupportedError(
            "patches are matched by their tissue area between two classes",
            place="[train] method",
            remedy="use subsample, resample or gerne",
        )
    rng = np.random.default_rng(seed)
    shuffled = rng.permutation(len(label))  # which of equal areas is taken
    order = shuffled[np.argsort(tissue_fraction[shuffled], kind="stable")]
    queues = [order[label[order] == y].tolist() for y in (0, 1)]
    is_kept, i, j = np.zeros(len(label), np.bool_), 0, 0
    # On a line, pairing the two smallest that fit loses no pair.
    while i < len(queues[0]) and j < len(queues[1]):
        first, second = queues[0][i], queues[1][j]
        difference = tissue_fraction[first] - tissue_fraction[second]
        if abs(difference) <= caliper:
            is_kept[[first, second]] = True
        i += difference <= caliper
        j += difference >= -caliper
    if not is_kept.any():
        raise GroupEmptyError(
            f"no two patches of both classes have areas within {caliper:g}",
            place="[train] caliper",
            remedy="raise [train] caliper, or train with mask = 'interior', which needs no overlap",
        )
    return is_kept
