"""Which sampler and which objective make up each debiasing method: the only place that knows methods by name.

A method is a tuple of phases that a training loop runs one after another without knowing the name. All methods see
the same number of samples a step, K * batch_per_class, so that they are compared at equal cost.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal, Protocol

import numpy.typing as npt
from torch import nn

from pathopatch.debias import gerne
from pathopatch.debias.objectives import GradientExtrapolation, GroupDRO, Mean
from pathopatch.debias.ranks import RankBalancedBatchSampler, RankGerneBatchSampler, rank_alpha
from pathopatch.debias.samplers import (
    ClassBalancedBatchSampler,
    GerneBatchSampler,
    GroupBalancedBatchSampler,
    UniformBatchSampler,
)
from pathopatch.errors import InputUnsupportedError

NAMES = ("erm", "erm-balanced", "resample", "groupdro", "gerne")


class Batches(Protocol):
    """What a sampler gives: lists of indices, in order or by step."""

    def batch(self, step: int) -> list[int]:
        """Return the indices of one step."""

    def __iter__(self) -> Iterator[list[int]]: ...

    def __len__(self) -> int: ...


class MakeSampler(Protocol):
    """Makes the batches of a phase; ``batch_per_class`` counts a class's samples in a step, all streams together."""

    def __call__(
        self, label: npt.ArrayLike, attribute: npt.ArrayLike, *, batch_per_class: int, steps: int, seed: int
    ) -> Batches:
        """Return the batches for these labels and attributes."""


@dataclass(frozen=True, kw_only=True)
class Phase:
    """One stretch of training: what is drawn, what is minimised, what is trained and how the result is picked.

    Parameters
    ----------
    sampler : callable
        ``(label, attribute, *, batch_per_class, steps, seed)`` to an iterable of index lists with ``.batch(step)``.
    objective : callable
        ``n_groups`` to a module with ``forward(loss, group)``; groups are numbered A y + a.
    split : str
        The split whose patches are drawn.
    trainable : {"all", "head"}
        Which weights move.
    lr_scale : float
        Factor on the learning rate.
    select_by : str
        Validation measure that picks the checkpoint.
    rank_sampler : callable or None
        The same as `sampler` for a measurement in place of an attribute of few values, if there is such a form.
    on_validation : callable or None
        Called with the objective and the validation measures after each validation; may move the objective's state.
    """

    sampler: MakeSampler
    objective: Callable[[int], nn.Module]
    split: str = "train"
    trainable: Literal["all", "head"] = "all"
    lr_scale: float = 1.0
    select_by: str = "wga"
    rank_sampler: MakeSampler | None = None
    on_validation: Callable[[nn.Module, dict[str, Any]], None] | None = None


def method(name: str, *, c: float = 0.5, beta: float = 1.0, eta: float = 0.01) -> tuple[Phase, ...]:
    """Return the phases of a method.

    Parameters
    ----------
    name : str
        One of `NAMES`: ``erm`` (uniform), ``erm-balanced`` (class-balanced), ``resample`` (group-balanced),
        ``groupdro``, ``gerne``.
    c, beta : float
        Of gerne only: strength of the less biased half, in (0, 1], and extrapolation. Whether beta is inside its bounds
        depends on the data and is checked when the sampler is made. The defaults give s = c (beta + 1) = 1.
    eta : float
        Of groupdro only: step of the group weights, above 0.

    Returns
    -------
    tuple of Phase
        In the order in which they are run; picklable.

    Raises
    ------
    InputUnsupportedError
        An unknown name, c outside (0, 1], or a beta or eta that the objective refuses.
    """
    gerne.check_c(c)
    phases = {
        "erm": Phase(sampler=UniformBatchSampler, objective=_mean),
        "erm-balanced": Phase(sampler=ClassBalancedBatchSampler, objective=_mean),
        "resample": Phase(sampler=GroupBalancedBatchSampler, objective=_mean, rank_sampler=RankBalancedBatchSampler),
        "groupdro": Phase(sampler=GroupBalancedBatchSampler, objective=partial(GroupDRO, eta=eta)),
        "gerne": Phase(
            sampler=partial(_gerne_sampler, c=c, beta=beta),
            objective=partial(_extrapolation, beta=beta),
            rank_sampler=partial(_rank_gerne_sampler, c=c, beta=beta),
        ),
    }
    if name not in phases:
        raise InputUnsupportedError(f"method {name!r}", remedy=f"Use one of {', '.join(NAMES)}.")
    phase = phases[name]
    phase.objective(1)  # a parameter that the objective refuses is refused now, not hours later
    return (phase,)


def _mean(n_groups: int) -> nn.Module:
    """Return the mean, whatever the number of groups."""
    return Mean()


def _extrapolation(n_groups: int, *, beta: float) -> nn.Module:
    """Return the extrapolated loss, whatever the number of groups."""
    return GradientExtrapolation(beta)


def _gerne_sampler(
    label: npt.ArrayLike,
    attribute: npt.ArrayLike,
    *,
    c: float,
    beta: float,
    batch_per_class: int,
    steps: int,
    seed: int,
) -> GerneBatchSampler:
    """Return GERNE's batches with half of ``batch_per_class`` in each half; beta must suit the data."""
    half = _half(batch_per_class)
    batches = GerneBatchSampler(label, attribute, batch_per_class=half, c=c, steps=steps, seed=seed)
    counts = gerne.cell_counts(label, attribute)
    gerne.check_beta(counts / counts.sum(axis=1, keepdims=True), c, beta)
    return batches


def _rank_gerne_sampler(
    label: npt.ArrayLike,
    attribute: npt.ArrayLike,
    *,
    c: float,
    beta: float,
    batch_per_class: int,
    steps: int,
    seed: int,
) -> RankGerneBatchSampler:
    """Return GERNE's batches by the rank of a measurement; beta must suit the data in bins of equal pooled counts."""
    half = _half(batch_per_class)
    batches = RankGerneBatchSampler(label, attribute, batch_per_class=half, c=c, steps=steps, seed=seed)
    gerne.check_beta(rank_alpha(label, attribute), c, beta)
    return batches


def _half(batch_per_class: int) -> int:
    """Return half of the samples of a class, of which there must be an even number."""
    if batch_per_class % 2:
        raise InputUnsupportedError(
            f"batch_per_class = {batch_per_class} does not split into two halves", remedy="Use an even number."
        )
    return batch_per_class // 2
