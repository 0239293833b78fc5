"""Methods that train twice, by the public functions of the package: GERNE with unknown attributes, JTT and DFR.

Each takes training and validation images and the settings of a run, and returns the result and how well the samples
that it found match the minority of each class.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import torch
from scipy.special import softmax
from torch import nn

from pathopatch.core.config import EXACT, LINEAR_HEAD, TrainConfig
from pathopatch.debias.methods import Method, method
from pathopatch.debias.pseudo import minority_found, pseudo_attributes
from pathopatch.debias.samplers import BatchSampler, UniformBatchSampler
from pathopatch.models.networks import classifier_of
from pathopatch.training.dataset import PatchSet
from pathopatch.training.fit import fit_arrays
from pathopatch.training.result import TrainingResult

Found = dict[str, float]
_PENALTIES = (1e-3, 1e-2, 1e-1, 1.0)


def gerne_unknown(
    train: PatchSet, val: PatchSet, config: TrainConfig, *, hard_share: float
) -> tuple[TrainingResult, Found]:
    """Train a biased model, then GERNE on the hardest share of each class.

    The biased model is class-balanced, has twice the weight decay and is taken at its last step: validation is
    balanced, and would prefer the least biased step.

    References
    ----------
    Asaad, Shadaydeh, Denzler, ICCV 2025, arXiv:2503.13236, section 4.2 and Algorithm 2.
    """
    unknown = train.with_attribute(np.full(len(train), -1))
    biased = {"method": "erm-balanced", "select": "last", "weight_decay": 2 * config.weight_decay}
    probability = softmax(fit_arrays(unknown, None, config.model_copy(update=biased)).logits(train), axis=1)
    hard = pseudo_attributes(probability[np.arange(len(train)), train.label], train.label, hard_share)
    fitted = fit_arrays(train.with_attribute(hard), val, config.model_copy(update={"method": "gerne"}))
    return fitted, minority_found(hard, train.label, train.attribute)


def jtt(
    train: PatchSet, val: PatchSet, config: TrainConfig, *, upweight: int, identify_share: float = 0.25
) -> tuple[TrainingResult, Found]:
    """Train by ERM for a share of the steps, then a new model with the first one's errors in the data several times.

    The first model must stop before it memorises the training set.

    References
    ----------
    Liu et al., "Just Train Twice: Improving Group Robustness without Training Group Information", ICML 2021,
    arXiv:2107.09044, Algorithm 1.
    """
    erm = config.model_copy(update={"method": "erm"})
    short = {"select": "last", "steps": max(1, round(identify_share * config.steps))}
    wrong = fit_arrays(train, None, erm.model_copy(update=short)).logits(train).argmax(axis=1) != train.label
    upweighted = Method(sampler=partial(_upweighted, times=upweight), objective=method("erm").objective)
    fitted = fit_arrays(train.with_attribute(wrong), val, erm, method=upweighted)
    return fitted, minority_found(wrong, train.label, train.attribute)


def _upweighted(label: Any, attribute: Any, *, times: int, **sizes: int) -> BatchSampler:
    """Return uniform batches of the samples, those of attribute 1 several times."""
    index = np.concatenate([np.arange(len(label)), np.repeat(np.flatnonzero(attribute == 1), times - 1)])
    return UniformBatchSampler(label[index], attribute[index], **sizes).of_samples(index)


def dfr(train: PatchSet, val: PatchSet, config: TrainConfig) -> tuple[TrainingResult, Found]:
    """Train by ERM, then its last layer alone, exactly, on one half of validation with all groups alike.

    The other half selects the checkpoint of ERM and the penalty. The paper fits a logistic regression with an L1
    penalty, averaged over ten balanced draws; here groups are weighted and the penalty is L2.

    References
    ----------
    Kirichenko, Izmailov, Wilson, "Last Layer Re-Training is Sufficient for Robustness to Spurious Correlations", ICLR
    2023, arXiv:2204.02937 (DFR trained on validation data).
    """
    _, group = np.unique(np.stack([val.label, val.attribute]), axis=1, return_inverse=True)
    order = np.random.default_rng(config.seed).permutation(len(val))
    order = order[np.argsort(group[order], kind="stable")]  # every other image of each group
    held_out, select = val.rows(np.sort(order[::2])), val.rows(np.sort(order[1::2]))
    first = fit_arrays(train, select, config.model_copy(update={"method": "erm"}))
    head = {**EXACT, "architecture": LINEAR_HEAD, "input_px": 1, "method": "resample"}
    features = [_features(first, patches) for patches in (held_out, select)]
    heads = [fit_arrays(*features, config.model_copy(update={**head, "weight_decay": p})) for p in _PENALTIES]
    best = max(heads, key=lambda each: float(each.validation["gba"]))
    layer, solved = classifier_of(first.network), classifier_of(best.network)
    with torch.no_grad():  # the head takes standardised features
        weight = solved.weight / torch.tensor(best.std)
        layer.weight.copy_(weight)
        layer.bias.copy_(solved.bias - weight @ torch.tensor(best.mean))
    first.validation.update(best.validation)
    return first, {}


def _features(fitted: TrainingResult, patches: PatchSet) -> PatchSet:
    """Return what the last layer of a trained network takes, as patches of one pixel."""
    taken: list[torch.Tensor] = []

    def keep(layer: nn.Module, inputs: tuple[torch.Tensor, ...]) -> None:
        taken.append(inputs[0].detach())

    with classifier_of(fitted.network).register_forward_pre_hook(keep):
        fitted.logits(patches)
    x = torch.cat(taken).numpy()[:, :, None, None]
    return PatchSet(x, patches.label, patches.attribute, patches.tissue_fraction, patches.patient, patches.patch_id)


TWO_STEPS: dict[str, Callable[..., tuple[TrainingResult, Found]]] = {
    "gerne-unknown": gerne_unknown,
    "jtt": jtt,
    "dfr": dfr,
}
