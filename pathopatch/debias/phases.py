"""What a method is made of: phases, each one stretch of training that a loop runs without knowing the method's name."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import numpy as np
import numpy.typing as npt
from torch import nn


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


Relabel = Callable[
    [npt.NDArray[np.float64], npt.NDArray[np.int64], npt.NDArray[np.int64]],
    npt.NDArray[np.int64],
]
"""``(probability (N, K), label (N,), attribute (N,))`` of a phase's samples to the attribute that it draws by."""


@dataclass(frozen=True, kw_only=True)
class Phase:
    """One stretch of training: what is drawn, what is minimised, what is trained and how the result is picked.

    Parameters
    ----------
    sampler : callable
        ``(label, attribute, *, batch_per_class, steps, seed)`` to an iterable of index lists with ``.batch(step)``.
    objective : callable
        ``counts``, the samples of each cell as ndarray of int64 of shape (K, A), to a module with
        ``forward(loss, group)``; groups are numbered A y + a.
    split : {"train", "val"}
        Whose patches are drawn. ``val`` is one half of the validation patches; in a method with such a phase nothing is
        selected by that half, in no phase.
    trainable : {"all", "head"}
        Which weights move. Where only the last layer does, all before it is as in prediction.
    starts_anew : bool
        From new weights, the same that the first phase began with, in place of those that the phase before picked.
    relabel : callable or None
        Called before the phase draws, with the probabilities that the picked network of the phase before gives this
        phase's samples, their labels and their attributes (-1: not known); returns the attribute to draw by, 1 for the
        samples that it calls hard. None: the attribute that is known.
    lr_scale, weight_decay_scale : float
        Factors on the learning rate and the weight decay.
    steps_scale : float
        Factor on the number of steps.
    select_by : str
        Validation measure that picks the checkpoint: ``wga`` (what the run is set to select by), ``cba``, the mean of
        the classes' accuracies, or ``last``.
    needs_val_attribute : bool
        Whether validation must know the attribute.
    on_validation : callable or None
        Called with the objective and the validation measures after each validation; may move the objective's state.
    """

    sampler: MakeSampler
    objective: Callable[[npt.NDArray[np.int64]], nn.Module]
    split: Literal["train", "val"] = "train"
    trainable: Literal["all", "head"] = "all"
    starts_anew: bool = False
    relabel: Relabel | None = None
    lr_scale: float = 1.0
    weight_decay_scale: float = 1.0
    steps_scale: float = 1.0
    select_by: Literal["wga", "cba", "last"] = "wga"
    needs_val_attribute: bool = False
    on_validation: Callable[[nn.Module, dict[str, Any]], None] | None = None

    def steps(self, steps: int) -> int:
        """Return how many steps this phase takes where a run is set to take `steps`; at least 1."""
        return max(1, round(self.steps_scale * steps))


def steps_in_all(phases: Sequence[Phase], steps: int) -> int:
    """Return how many steps a method takes where a run is set to take `steps`: what its budget is counted in."""
    return sum(phase.steps(steps) for phase in phases)
