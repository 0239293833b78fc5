"""Which checkpoint is picked, and where the decision threshold lies: by validation patches, never by others."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from pathopatch import metrics
from pathopatch.debias import gerne
from pathopatch.errors import GroupEmptyError, InputUnsupportedError
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
    group = 2 * patches.label + patches.attribute
    rng = np.random.default_rng(seed)
    chosen = [rng.permutation(np.flatnonzero(group == number))[:per_group] for number in np.unique(group)]
    return np.sort(np.concatenate(chosen)).astype(np.int64)


def margins(
    network: nn.Module, patches: PatchSet, index: NDArray[np.int64], standardised: Standardised
) -> NDArray[np.float64]:
    """Return z1 - z0 of some patches.

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
    ndarray of float64, shape (n,)
    """
    found = np.empty(len(index), dtype=np.float64)
    for start in range(0, len(index), BATCH):
        part = slice(start, start + BATCH)
        x = torch.from_numpy(patches.read(index[part])).to(standardised.mean.device)
        logits = predict_logits(network, standardised(x), batch=BATCH).astype(np.float64)
        found[part] = logits[:, 1] - logits[:, 0]
    return found


def measure(
    margin: NDArray[np.float64], label: NDArray[np.int64], attribute: NDArray[np.int64], *, threshold: float = 0.0
) -> dict[str, float]:
    """Return `wga`, `gba` and `average` of margins above a decision threshold taken for tumour.

    Parameters
    ----------
    margin : ndarray of float64, shape (N,)
        z1 - z0.
    label, attribute : ndarray of int64, shape (N,)
        Of the same patches. Groups without patches take no part.
    threshold : float
        On the margin.
    """
    prediction = (margin > threshold).astype(np.int64)
    return {
        "wga": metrics.worst_group_accuracy(prediction, label, attribute),
        "gba": metrics.group_balanced_accuracy(prediction, label, attribute),
        "average": metrics.average_accuracy(prediction, label),
    }


def score(measures: dict[str, float], rule: str) -> list[float]:
    """Return what two evaluations are compared by, higher is better: the rule's measure, then GBA.

    Parameters
    ----------
    measures : dict
        As `measure` returns them.
    rule : str
        ``wga`` or ``gba``.

    Raises
    ------
    InputUnsupportedError
        Another rule.
    """
    if rule not in ("wga", "gba"):
        raise InputUnsupportedError(
            f"no rule {rule!r} to select by", place="select", remedy="use 'wga', 'gba' or 'last'"
        )
    return [measures[rule], measures["gba"]]


def is_better(new: list[float], best: list[float] | None) -> bool:
    """Return whether an evaluation replaces the best so far; of equals the first stays."""
    return best is None or new > best


def check_validation(val: PatchSet | None, *, needs_groups: bool) -> None:
    """Refuse validation patches by which nothing can be selected.

    Parameters
    ----------
    val : PatchSet or None
        The validation patches.
    needs_groups : bool
        Whether the method needs all groups; ERM is selected by the groups that are there.

    Raises
    ------
    GroupEmptyError
        There is none, a class is missing, or a group that the method needs.
    """
    if val is None or len(val) == 0:
        raise GroupEmptyError(
            "no labelled validation patches to select a checkpoint by",
            place="split 'val'",
            remedy="give patients of the manifest the split 'val', or set select = 'last'",
        )
    try:
        counts = gerne.cell_counts(val.label, val.attribute)
        gerne.check_cells(counts if needs_groups else counts.sum(axis=1, keepdims=True))
    except GroupEmptyError as error:
        raise GroupEmptyError(
            f"in validation, {error.message}",
            place="split 'val'",
            remedy="move patients between the splits, choose another threshold, or set select = 'last'",
        ) from error


def decide(margin: NDArray[np.float64], val: PatchSet, *, tune_threshold: bool) -> tuple[float, dict[str, Any]]:
    """Return the decision threshold, and what validation says of the model with it and with 0.

    Parameters
    ----------
    margin : ndarray of float64, shape (N,)
        Of all validation patches.
    val : PatchSet
        Those.
    tune_threshold : bool
        Choose the threshold for the highest WGA, if every group has samples; otherwise it is 0.
    """
    is_tuned = tune_threshold and bool((gerne.cell_counts(val.label, val.attribute) > 0).all())
    threshold = metrics.best_decision_threshold(margin, val.label, val.attribute) if is_tuned else 0.0
    groups = metrics.group_accuracies(margin > threshold, val.label, val.attribute)
    found: dict[str, Any] = dict(measure(margin, val.label, val.attribute, threshold=threshold))
    at_zero = measure(margin, val.label, val.attribute)
    found |= {f"{name}_at_zero": value for name, value in at_zero.items()}
    found["is_threshold_tuned"] = is_tuned
    for row, y in enumerate(groups.labels):
        for column, a in enumerate(groups.attributes):
            found[f"accuracy of label {y}, attribute {a}"] = float(groups.accuracy[row, column])
            found[f"n of label {y}, attribute {a}"] = int(groups.n[row, column])
    return float(threshold), found
