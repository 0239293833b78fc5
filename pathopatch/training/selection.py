"""Which checkpoint is picked? By validation patches, never by others."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from pathopatch import metrics
from pathopatch.core.errors import GroupEmptyError, InputUnsupportedError
from pathopatch.debias import gerne
from pathopatch.models.forward import predict_logits
from pathopatch.training.dataset import PatchSet

PER_GROUP = 512
"""Patches of each group in a validation pass during training: a standard error of at most 2.2 points, and cheap.
Smaller groups, which decide, are used whole. The final numbers and the threshold use all validation patches."""
BATCH = 256
"""Patches in one forward pass of a validation."""


@dataclass(frozen=True, eq=False)
class Standardised:
    """Makes a network's input of patches in [0, 1]: less the training set's mean, by its standard deviation.

    Parameters
    ----------
    mean, std : Tensor of float32, shape (C, 1, 1)
        On the device.
    """

    mean: Tensor
    std: Tensor

    @classmethod
    def of(cls, mean: tuple[float, ...], std: tuple[float, ...], device: torch.device) -> Standardised:
        """Return it for values per channel."""
        mean_std = torch.tensor([mean, std], dtype=torch.float32, device=device)[:, :, None, None]  # (2, C, 1, 1)
        return cls(mean_std[0], mean_std[1])

    def __call__(self, x: Tensor) -> Tensor:
        """Return standardised patches (N, C, H, W), channels last in memory."""
        return self.in_place(x.clone())

    def in_place(self, x: Tensor) -> Tensor:
        """Return what the call does, for patches that nobody else needs: they are changed, which saves new memory."""
        return x.sub_(self.mean).div_(self.std).contiguous(memory_format=torch.channels_last)


def some_of_each_group(patches: PatchSet, *, per_group: int = PER_GROUP, seed: int = 0) -> NDArray[np.int64]:
    """Return sorted indices of at most `per_group` patches of each (label, attribute) group."""
    n_attributes = int(patches.attribute.max(initial=0)) + 2
    group = n_attributes * patches.label + patches.attribute + 1  # an attribute of -1, not known, is one more value
    rng = np.random.default_rng(seed)
    chosen = [rng.permutation(np.flatnonzero(group == number))[:per_group] for number in np.unique(group)]
    return np.sort(np.concatenate(chosen)).astype(np.int64)


def table_shape(*sets: PatchSet | None) -> tuple[int, int]:
    """Return how many classes and attribute values there are in some sets of patches together, at least two of each."""
    given = [patches for patches in sets if patches is not None and len(patches)]
    largest = [(int(patches.label.max()), int(patches.attribute.max())) for patches in given]
    return max([1, *(y for y, _ in largest)]) + 1, max([1, *(a for _, a in largest)]) + 1


def logits_of(
    network: nn.Module, patches: PatchSet, index: NDArray[np.int64], standardised: Standardised
) -> NDArray[np.float64]:
    """Return the logits of some patches.

    Parameters
    ----------
    network : nn.Module
        Its mode is restored.
    patches : PatchSet
        Where they are.
    index : ndarray of int64, shape (n,)
        Which.
    standardised : Standardised
        Of the training set.

    Returns
    -------
    ndarray of float64, shape (n, K)
    """
    parts = []
    for start in range(0, len(index), BATCH):
        x = torch.from_numpy(patches.read(index[start : start + BATCH])).to(standardised.mean.device)
        parts.append(predict_logits(network, standardised(x), batch=BATCH))
    return np.concatenate(parts).astype(np.float64)


def measure(
    logits: NDArray[np.float64], label: NDArray[np.int64], attribute: NDArray[np.int64], *, threshold: float = 0.0
) -> dict[str, float]:
    """Return `wga`, `gba`, `average` and `cba`, the mean of the accuracies of the classes.

    Where no attribute is known, the groups are the classes: `wga` is the accuracy of the worst class. Where some are,
    `wga` and `gba` are of those patches.

    Parameters
    ----------
    logits : ndarray of float64, shape (N, K)
        One a class.
    label, attribute : ndarray of int64, shape (N,)
        Of the same patches; an attribute of -1 is not known. Groups without patches take no part.
    threshold : float
        On z1 - z0, where K = 2.
    """
    prediction = metrics.predicted_class(logits, decision_threshold=threshold)
    known, no_attribute = is_known(attribute), np.zeros(len(label), dtype=np.int64)
    groups = (prediction[known], label[known], np.maximum(attribute[known], 0))
    return {
        "wga": metrics.worst_group_accuracy(*groups),
        "gba": metrics.group_balanced_accuracy(*groups),
        "average": metrics.average_accuracy(prediction, label),
        "cba": metrics.group_balanced_accuracy(prediction, label, no_attribute),
    }


def is_known(attribute: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Return which patches have an attribute; all of them if none has one."""
    known = attribute >= 0
    return known if known.any() else ~known


def score(measures: dict[str, float], rule: str) -> list[float]:
    """Return what two evaluations are compared by, higher is better: the rule's measure, then GBA.

    Parameters
    ----------
    measures : dict
        As `measure` returns them.
    rule : str
        ``wga``, ``gba`` or ``cba``.

    Raises
    ------
    InputUnsupportedError
        Another rule.
    """
    if rule not in ("wga", "gba", "cba"):
        raise InputUnsupportedError(
            f"no rule {rule!r} to select by", place="[train] select", remedy="use 'wga', 'gba', 'cba' or 'last'"
        )
    return [measures[rule], measures["gba"]]


def is_better(new: list[float], best: list[float] | None) -> bool:
    """Return whether an evaluation replaces the best so far; of equals the first stays."""
    return best is None or new > best


def softmax(logits: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the probabilities that logits of shape (N, K) stand for."""
    exponential = np.exp(logits - logits.max(axis=1, keepdims=True))
    probability: NDArray[np.float64] = exponential / exponential.sum(axis=1, keepdims=True)
    return probability


def check_validation(
    val: PatchSet | None, *, needs_groups: bool, needs_attribute: bool = False, shape: tuple[int, int] = (2, 2)
) -> None:
    """Refuse validation patches by which nothing can be selected.

    Parameters
    ----------
    val : PatchSet or None
        The validation patches.
    needs_groups : bool
        Whether the method needs all groups of a binary attribute; otherwise, and where there are more values or none is
        known, a method is selected by the groups that are there.
    needs_attribute : bool
        Whether the method needs some known attribute, whatever the groups.
    shape : tuple of int
        Classes and attribute values of training and validation together.

    Raises
    ------
    GroupEmptyError
        There is none, a class is missing, or a group that the method needs.
    InputUnsupportedError
        No attribute is known and the method needs one.
    """
    if val is None or len(val) == 0:
        raise GroupEmptyError(
            "no labelled validation patches to select a checkpoint by",
            place="split 'val'",
            remedy="give patients of the manifest the split 'val', or set [train] select = 'last'",
        )
    if needs_attribute and not (val.attribute >= 0).any():
        raise InputUnsupportedError(
            "the attribute of no validation patch is known",
            place="split 'val'",
            remedy="use t of at most 0.5: without attributes a larger one cannot be told from it",
        )
    try:
        known = is_known(val.attribute)
        counts = gerne.cell_counts(val.label[known], np.maximum(val.attribute[known], 0), at_least=shape)
        needs_all = needs_groups and counts.shape[1] == 2 and bool((val.attribute >= 0).any())
        gerne.check_cells(counts if needs_all else counts.sum(axis=1, keepdims=True))
    except GroupEmptyError as error:
        raise GroupEmptyError(
            f"in validation, {error.message}",
            place="split 'val'",
            remedy="move patients between the splits, choose another threshold, or set [train] select = 'last'",
        ) from error
