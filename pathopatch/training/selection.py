"""Select a checkpoint and a decision threshold by validation patches, never by others."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.optimize import minimize_scalar
from torch import Tensor, nn

from pathopatch import metrics
from pathopatch.core.errors import GroupEmptyError, InputUnsupportedError
from pathopatch.debias import gerne
from pathopatch.metrics.bootstrap import patient_counts
from pathopatch.metrics.equal_area import auroc_at_equal_area
from pathopatch.metrics.intervals import share_interval, worst_interval
from pathopatch.models.forward import append_mask
from pathopatch.models.runtime.torch_runtime import predict_logits
from pathopatch.training.dataset import PatchSet

PER_GROUP = 512
"""Patches of each group in a validation pass during training: a standard error of at most 2.2 points, and cheap.
Smaller groups, which decide, are used whole. The final numbers and the threshold use all validation patches."""
BATCH = 256
"""Patches in one forward pass of a validation."""
TEMPERATURES = (0.25, 20.0)
"""Range of the fitted temperature. A small validation set may be classified without an error by luck, and the best
temperature would then be 0."""


class Standardizer:
    """Standardise patches in [0, 1] by the mean and std of each channel of the training set.

    With `has_mask`, patches have the tissue mask as a further channel, whose mean is 0 and whose std is 1.
    """

    def __init__(
        self, mean: tuple[float, ...], std: tuple[float, ...], device: torch.device, *, has_mask: bool = False
    ) -> None:
        if has_mask:
            mean, std = (*mean, 0.0), (*std, 1.0)
        self.mean, self.std = torch.tensor([mean, std], dtype=torch.float32, device=device)[:, :, None, None]
        self.has_mask = has_mask

    def __call__(self, x: Tensor) -> Tensor:
        """Standardise patches (N, C, H, W), which nobody else may need, in place; return them channels last."""
        x = x.contiguous(memory_format=torch.channels_last)
        n, channels, height, width = x.shape
        rows = x.permute(0, 2, 3, 1).view(n * height, width * channels)  # PyTorch is slow on an axis of two or three
        mean, std = (of.view(1, channels).repeat(1, width) for of in (self.mean, self.std))
        rows.sub_(mean).div_(std)
        return x


@dataclass(frozen=True, eq=False)
class DecisionThreshold:
    """How logits become a class and probabilities."""

    threshold: float = 0.0  # on z1 - z0, where there are two classes; otherwise 0
    chosen_for: str = "none"  # or "wga", or "sensitivity 0.95"
    temperature: float = 1.0  # divides the logits before they become probabilities
    # Measures at the threshold and at 0, WGA and GBA with intervals, likelihood at the temperature and at 1.
    validation: dict[str, Any] = field(default_factory=dict)


def sample_each_group(patches: PatchSet, *, per_group: int = PER_GROUP, seed: int = 0) -> NDArray[np.int64]:
    """Return sorted indices (n,) of at most `per_group` patches of each (label, attribute) group."""
    n_attributes = int(patches.attribute.max(initial=0)) + 2
    group = n_attributes * patches.label + patches.attribute + 1  # an unknown attribute, -1, is one more value
    rng = np.random.default_rng(seed)
    chosen = [rng.permutation(np.flatnonzero(group == number))[:per_group] for number in np.unique(group)]
    return np.sort(np.concatenate(chosen)).astype(np.int64)


def table_shape(*sets: PatchSet | None) -> tuple[int, int]:
    """Return the numbers of classes and attribute values in some sets of patches together, at least two of each."""
    given = [patches for patches in sets if patches is not None and len(patches)]
    largest = [(int(patches.label.max()), int(patches.attribute.max())) for patches in given]
    return max([1, *(y for y, _ in largest)]) + 1, max([1, *(a for _, a in largest)]) + 1


def logits_of(
    network: nn.Module, patches: PatchSet, index: NDArray[np.int64], standardize: Standardizer
) -> NDArray[np.float64]:
    """Return the logits (n, K) of the patches at `index`; the network's mode is restored."""
    parts = []
    for start in range(0, len(index), BATCH):
        pixels = patches.read(part := index[start : start + BATCH])
        if standardize.has_mask:
            assert patches.tissue is not None
            pixels = append_mask(pixels, patches.tissue.read(part))
        x = torch.from_numpy(pixels).to(standardize.mean.device)
        parts.append(predict_logits(network, standardize(x.clone()), batch=BATCH))
    return np.concatenate(parts).astype(np.float64)


def validation_measures(
    logits: NDArray[np.float64], label: NDArray[np.int64], attribute: NDArray[np.int64], *, threshold: float = 0.0
) -> dict[str, float]:
    """Return `wga`, `gba`, `average` and `cba`, the mean over classes; with no attribute known, groups are classes."""
    prediction = metrics.predicted_class(logits, decision_threshold=threshold)
    known, no_attribute = is_known(attribute), np.zeros(len(label), dtype=np.int64)
    groups = (prediction[known], label[known], np.maximum(attribute[known], 0))
    return {
        "wga": metrics.worst_group_accuracy(*groups),
        "gba": metrics.group_balanced_accuracy(*groups),
        "average": metrics.average_accuracy(prediction, label),
        "cba": metrics.group_balanced_accuracy(prediction, label, no_attribute),
    }


def validation_equal_area(
    logits: NDArray[np.float64],
    label: NDArray[np.int64],
    fraction: NDArray[np.float64],
    *,
    answered: NDArray[np.bool_] | None = None,
) -> float:
    """Return AUROC at equal area of logits (N, K), of which patches that are not `answered` (N,) lose every pair.

    NaN with more than two classes, where a tissue fraction is not known, and where no two patches make a pair.
    """
    if logits.shape[1] != 2 or not np.isfinite(fraction).all():
        return float("nan")
    return auroc_at_equal_area(logits[:, 1] - logits[:, 0], label, fraction, answered=answered).value


def is_known(attribute: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Return which patches (N,) have an attribute; all of them if none has one."""
    known = attribute >= 0
    return known if known.any() else ~known


def counted_wrong(
    logits: NDArray[np.float64], label: NDArray[np.int64], answered: NDArray[np.bool_] | None, threshold: float
) -> NDArray[np.float64]:
    """Return logits (N, K) in which patches that are not `answered` (N,) have a wrong class at a decision threshold."""
    if answered is None:
        return logits
    far = 1 + abs(threshold)
    wrong_class = (label + 1) % logits.shape[1]
    wrong = np.where(np.arange(logits.shape[1]) == wrong_class[:, None], far, -far)
    return np.where(answered[:, None], logits, wrong)


def criterion(
    logits: NDArray[np.float64],
    label: NDArray[np.int64],
    attribute: NDArray[np.int64],
    fraction: NDArray[np.float64],
    *,
    tune_threshold: bool,
    sensitivity: float | None = None,
    answered: NDArray[np.bool_] | None = None,
) -> dict[str, float]:
    """Return the measures by which checkpoints and trials are compared, at the threshold that these logits choose.

    Those of `validation_measures` at `fitted_threshold`, with ``wga_at_zero`` and ``nll``, and `validation_equal_area`,
    which has no threshold. `fraction` (N,) is the tissue fraction. Patches that are not `answered` (N,) count as wrong.
    Threshold and likelihood are of the others.
    """
    answers = (
        (logits, label, attribute) if answered is None else (logits[answered], label[answered], attribute[answered])
    )
    threshold, _ = fitted_threshold(*answers, tune_threshold=tune_threshold, sensitivity=sensitivity)
    area = validation_equal_area(logits, label, fraction, answered=answered)
    at_zero = validation_measures(counted_wrong(logits, label, answered, 0), label, attribute)
    logits = counted_wrong(logits, label, answered, threshold)
    measures = validation_measures(logits, label, attribute, threshold=threshold)
    further = {"equal_area": area, "nll": nll(*answers[:2])}
    return measures | {"wga_at_zero": at_zero["wga"], "cba": at_zero["cba"], **further}


def score(measures: Mapping[str, float], rule: str) -> list[float]:
    """Return what evaluations are compared by, higher is better: the rule's measure, then GBA, then the likelihood."""
    # The WGA of a small worst group has few steps, so ties are common.
    return [measures[rule], measures["gba"], -measures["nll"]]


def fitted_threshold(
    logits: NDArray[np.float64],
    label: NDArray[np.int64],
    attribute: NDArray[np.int64],
    *,
    tune_threshold: bool,
    sensitivity: float | None = None,
) -> tuple[float, str]:
    """Return the threshold on z1 - z0 that validation patches choose, and for what: "none", "wga", "sensitivity 0.95".

    With two classes it has the highest WGA, if every group has samples, or finds the share `sensitivity` of class 1;
    otherwise it is 0. Where no attribute is known, the groups are the two classes.
    """
    if not tune_threshold or logits.shape[1] != 2:
        return 0.0, "none"
    margin = logits[:, 1] - logits[:, 0]
    if sensitivity is not None:
        return metrics.threshold_at_sensitivity(margin, label, sensitivity), f"sensitivity {sensitivity:g}"
    known = is_known(attribute)
    groups = label[known], np.maximum(attribute[known], 0)
    n_attributes = 2 if (attribute >= 0).any() else 1
    if (gerne.cell_counts(*groups, at_least=(2, n_attributes)) == 0).any():
        return 0.0, "none"
    return metrics.best_decision_threshold(margin[known], *groups), "wga"


def check_validation(
    val: PatchSet | None,
    *,
    needs_groups: bool,
    shape: tuple[int, int] = (2, 2),
    select: str = "wga",
    seed: int = 0,
) -> None:
    """Refuse validation patches by which nothing can be selected.

    `needs_groups`: the method needs all groups of a binary attribute; otherwise, and where there are more values or
    none is known, those that are there do. `shape`: classes and attribute values of training and validation together.
    `select` and `seed` are those of `TrainConfig`: AUROC at equal area needs pairs of patches.
    """
    if val is None or len(val) == 0:
        raise GroupEmptyError(
            "no labelled validation patches to select a checkpoint by",
            place="split 'val'",
            remedy="give patients of the manifest the split 'val', or set [train] select = 'last'",
        )
    index = sample_each_group(val, seed=seed)  # the patches of each validation pass
    if select == "equal_area" and np.isnan(
        validation_equal_area(np.zeros((len(index), shape[0])), val.label[index], val.tissue_fraction[index])
    ):
        raise InputUnsupportedError(
            "AUROC at equal area is not known: no tumour and non-tumour patch have nearly the same tissue fraction, a "
            "fraction is not known, or there are more than two classes",
            place="split 'val'",
            remedy="set [train] select, or [tune] objective, to 'wga'",
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


def lacks_a_group(val: PatchSet | None) -> bool:
    """Return whether a group of a binary attribute has no validation patch; False where no attribute is known."""
    if val is None or not len(val) or (val.attribute < 0).any():
        return False
    counts = gerne.cell_counts(val.label, val.attribute, at_least=(2, 2))
    return counts.shape[1] == 2 and bool((counts == 0).any())


def choose_threshold(
    logits: NDArray[np.float64],
    val: PatchSet,
    *,
    tune_threshold: bool,
    sensitivity: float | None = None,
    answered: NDArray[np.bool_] | None = None,
) -> DecisionThreshold:
    """Return `fitted_threshold` and temperature by the logits (N, K) of all validation patches, with their measures.

    Patches that are not `answered` (N,) count as wrong. Threshold, temperature and likelihood are of the others.
    """
    chosen = np.ones(len(logits), np.bool_) if answered is None else answered
    own_logits, own_label, own_attribute = logits[chosen], val.label[chosen], val.attribute[chosen]
    known = is_known(val.attribute)
    label, attribute = val.label[known], np.maximum(val.attribute[known], 0)
    has_attribute = bool((val.attribute >= 0).any())
    counts = gerne.cell_counts(label, attribute, at_least=(logits.shape[1], 2))  # (K, A)
    if not has_attribute:
        counts = counts.sum(axis=1, keepdims=True)  # the groups are the classes
    threshold, chosen_for = fitted_threshold(
        own_logits, own_label, own_attribute, tune_threshold=tune_threshold, sensitivity=sensitivity
    )
    at_zero = validation_measures(counted_wrong(logits, val.label, answered, 0), val.label, val.attribute)
    area = validation_equal_area(logits, val.label, val.tissue_fraction, answered=answered)
    logits = counted_wrong(logits, val.label, answered, threshold)
    temperature = best_temperature(own_logits, own_label)
    validation: dict[str, Any] = dict(validation_measures(logits, val.label, val.attribute, threshold=threshold))
    validation |= {"equal_area": area} if np.isfinite(area) else {}
    validation |= {f"{name}_at_zero": value for name, value in at_zero.items()}
    validation |= {"nll": nll(own_logits / temperature, own_label), "nll_at_one": nll(own_logits, own_label)}
    validation["is_threshold_tuned"] = chosen_for != "none"
    prediction = metrics.predicted_class(logits[known], decision_threshold=threshold)
    group = (int(attribute.max(initial=0)) + 1) * label + attribute
    intervals = accuracies_with_intervals(prediction == label, group, val.patient[known])
    validation["patients"] = len(np.unique(val.patient[known]))
    validation |= {name: value for name, value in intervals.items() if name.endswith(("_low", "_high"))}
    groups = metrics.group_accuracies(prediction, label, attribute)
    for row, y in enumerate(groups.labels):
        for column, a in enumerate(groups.attributes[: counts.shape[1]]):
            name = f"label {y}, attribute {a}" if has_attribute else f"label {y}"
            validation[f"accuracy of {name}"] = float(groups.accuracy[row, column])
            validation[f"n of {name}"] = int(groups.n[row, column])
    return DecisionThreshold(threshold, chosen_for, temperature, validation)


def nll(logits: NDArray[np.float64], label: NDArray[np.int64]) -> float:
    """Return the mean negative log-likelihood of labels (N,) under logits (N, K)."""
    z = logits - logits.max(axis=1, keepdims=True)
    return float(np.mean(np.log(np.exp(z).sum(axis=1)) - z[np.arange(len(label)), label]))


def best_temperature(logits: NDArray[np.float64], label: NDArray[np.int64]) -> float:
    """Return the temperature in `TEMPERATURES` with the lowest negative log-likelihood [1]_; 1 where that is 0 already.

    References
    ----------
    .. [1] Guo, Pleiss, Sun, Weinberger, "On Calibration of Modern Neural Networks", ICML 2017, arXiv:1706.04599,
       section 4.2.
    """
    if nll(logits, label) == 0:
        return 1.0
    low, high = TEMPERATURES
    # The loss is convex in 1/T, so it has one minimum, which a bracket on the logarithmic scale finds.
    fitted = minimize_scalar(
        lambda log_t: nll(logits / np.exp(log_t), label), bounds=(np.log(low), np.log(high)), method="bounded"
    )
    return float(np.exp(fitted.x))


def accuracies_with_intervals(
    is_right: NDArray[np.bool_], group: NDArray[np.int64], patient: NDArray[Any]
) -> dict[str, float]:
    """Return worst-group and group-balanced accuracy over the groups that have patches, with their 95 % intervals.

    ``wga`` and ``gba``, each with ``_low`` and ``_high``, see `worst_interval`. All arrays are (N,).
    """
    present, column = np.unique(group, return_inverse=True)
    hits, n = patient_counts(is_right, column, patient, n_groups=len(present))
    accuracy = hits.sum(axis=0) / n.sum(axis=0)  # (G,)
    measures = {"wga": float(accuracy.min()), "gba": float(accuracy.mean())}
    for name, ends in (("wga", worst_interval(hits, n)), ("gba", share_interval(hits, n))):
        measures[f"{name}_low"], measures[f"{name}_high"] = ends
    return measures
