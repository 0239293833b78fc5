"""Phases: the stretches of training that make up a method, run by a loop that does not know the method's name."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, Protocol

import numpy as np
import numpy.typing as npt

from pathopatch.debias.samplers import BatchSampler

if TYPE_CHECKING:
    from torch import nn


class MakeSampler(Protocol):
    """A callable that returns the batches of a phase; ``batch_per_class`` counts all streams together."""

    def __call__(
        self, label: npt.ArrayLike, attribute: npt.ArrayLike, *, batch_per_class: int, steps: int, seed: int
    ) -> BatchSampler:
        """Return the batches for these labels and attributes."""


Relabel = Callable[
    [npt.NDArray[np.float64], npt.NDArray[np.int64], npt.NDArray[np.int64]],
    npt.NDArray[np.int64],
]
"""Maps ``(probability (N, K), label (N,), attribute (N,))`` of a phase's samples to the attribute that it draws by.

The probabilities are of the previous phase; an attribute is -1 where unknown, and the result 1 for hard samples.
"""


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
    objective: Callable[[npt.NDArray[np.int64]], nn.Module]
    # Split whose patches are drawn. "val" is one half of validation, by which no phase of the method selects anything.
    split: Literal["train", "val"] = "train"
    trainable: Literal["all", "head"] = "all"  # with "head", all before the last layer runs as in prediction
    starts_anew: bool = False  # from the first phase's initial weights, not from the previous phase's checkpoint
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
