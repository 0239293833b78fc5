"""Which sampler and which objective make up each debiasing method: the only place that knows methods by name.

A method is a tuple of phases (`phases.Phase`) that a training loop runs one after another without knowing the name. All
methods see the same number of samples a step, K * batch_per_class, so that they are compared at equal cost; what a
method with two phases takes in all, `phases.steps_in_all` says. Averaging the weights and a decision threshold from
validation belong to no method: the loop does them for all or for none.
"""

from __future__ import annotations

import inspect
import math
import warnings
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from types import MappingProxyType
from typing import Literal

import numpy as np
import numpy.typing as npt
from torch import nn

from pathopatch.core.errors import InputUnsupportedError
from pathopatch.debias import gerne as shares
from pathopatch.debias import pseudo
from pathopatch.debias.objectives import GradientExtrapolation, GroupDRO, GroupWeighted, Mean
from pathopatch.debias.oversampling import ExtrapolatedBatchSampler, UpweightedBatchSampler, check_upweight
from pathopatch.debias.phases import Batches, MakeSampler, Phase, steps_in_all
from pathopatch.debias.rank_sampler import RankBalancedBatchSampler, half_of, rank_gerne_sampler
from pathopatch.debias.samplers import (
    ClassBalancedBatchSampler,
    GerneBatchSampler,
    GroupBalancedBatchSampler,
    UniformBatchSampler,
)

__all__ = ["METHODS", "NAMES", "Batches", "MakeSampler", "Phase", "method", "parameters_of", "steps_in_all"]

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]
_AUTO_LR_SCALE = 10**-0.5  # gerne-auto: one over the growth of the gradient's standard deviation


def method(
    name: str,
    *,
    c: float = 0.5,
    beta: float = 1.0,
    eta: float = 0.01,
    s: float = 1.25,
    t: float = 0.1,
    biased_lr_scale: float = 1.0,
    biased_weight_decay_scale: float = 2.0,
    biased_select: Literal["cba", "last"] = "cba",
    upweight: float = 20.0,
    identify_share: float = 0.25,
    refit_share: float = 1.0,
    refit_lr_scale: float = 10.0,
) -> tuple[Phase, ...]:
    """Return the phases of a method.

    Parameters
    ----------
    name : str
        One of `NAMES`; the function of that name says what the method is.
    c, beta : float
        Of gerne and gerne-unknown: strength of the less biased half, in (0, 1], and extrapolation. Whether beta is
        inside its bounds depends on the data and is checked when the sampler is made. The defaults give
        s = c (beta + 1) = 1.
    eta : float
        Of groupdro: step of the group weights, above 0.
    s : float
        Of oversample: c (beta + 1) of the shares that are drawn; its bounds are checked when the sampler is made.
    t : float
        Of gerne-unknown: share of each class that is called hard, in (0, 1).
    biased_lr_scale, biased_weight_decay_scale : float
        Of gerne-unknown: factors on learning rate and weight decay of the biased model. The paper has a tenth and 2; at
        a tenth the biased model was under-trained where this was measured, so the first is to be tuned.
    biased_select : {"cba", "last"}
        Of gerne-unknown: which step of the biased model is kept.
    upweight, identify_share : float
        Of jtt: how many samples one of the error set stands for, and steps of the first model by those of the second:
        it has to stop before it knows the training set by heart.
    refit_share, refit_lr_scale : float
        Of dfr: steps of the last layer by those of the network, and factor on its learning rate. The layer's problem is
        convex and its gradients are small: with AdamW at the network's own rate it hardly moved where this was tried.

    Returns
    -------
    tuple of Phase
        In the order in which they are run; picklable.

    Raises
    ------
    InputUnsupportedError
        An unknown name, or a parameter outside its range.
    """
    if name not in METHODS:
        raise InputUnsupportedError(f"method {name!r}", remedy=f"Use one of {', '.join(NAMES)}.")
    given = {
        "c": c,
        "beta": beta,
        "eta": eta,
        "s": s,
        "t": t,
        "biased_lr_scale": biased_lr_scale,
        "biased_weight_decay_scale": biased_weight_decay_scale,
        "biased_select": biased_select,
        "upweight": upweight,
        "identify_share": identify_share,
        "refit_share": refit_share,
        "refit_lr_scale": refit_lr_scale,
    }
    phases = METHODS[name](**{parameter: given[parameter] for parameter in parameters_of(name)})
    for phase in phases:
        phase.objective(np.ones((2, 2), dtype=np.int64))  # what the objective refuses is refused now, not hours later
    return phases


def parameters_of(name: str) -> tuple[str, ...]:
    """Return which parameters of `method` a method reads."""
    return tuple(inspect.signature(METHODS[name]).parameters)


def erm() -> tuple[Phase, ...]:
    """Return empirical risk minimisation: uniform draws, mean loss.

    Sampler: `UniformBatchSampler`. Objective: `Mean`.

    References
    ----------
    Vapnik, "An overview of statistical learning theory", IEEE Transactions on Neural Networks 10(5), 1999: the
    empirical risk functional.
    """
    return (Phase(sampler=UniformBatchSampler, objective=_mean),)


def erm_balanced() -> tuple[Phase, ...]:
    """Return class-balanced ERM: GERNE's biased stream alone, beta = -1 in eq. 8 of arXiv:2503.13236.

    Sampler: `ClassBalancedBatchSampler`. Objective: `Mean`.

    References
    ----------
    Idrissi et al., "Simple data balancing achieves competitive worst-group-accuracy", CLeaR 2022, arXiv:2110.14503
    (there RWY).
    """
    return (Phase(sampler=ClassBalancedBatchSampler, objective=_mean),)


def reweight() -> tuple[Phase, ...]:
    """Return importance weighting: uniform draws, each loss times 1 / (K A p(y, a)).

    Sampler: `UniformBatchSampler`. Objective: `GroupWeighted`, by `gerne.balancing_weights`; groups that are empty
    where A > 2 are left out of A.

    References
    ----------
    Shimodaira, "Improving predictive inference under covariate shift by weighting the log-likelihood function", Journal
    of Statistical Planning and Inference 90(2), 2000: the weighted likelihood, here with the ratio of a uniform p(y, a)
    to that of the data.
    """
    return (Phase(sampler=_uniform_over_cells, objective=_balanced),)


def resample() -> tuple[Phase, ...]:
    """Return group-balanced resampling: beta = 0, c = 1 in eq. 8 of arXiv:2503.13236.

    Sampler: `GroupBalancedBatchSampler`, by rank `RankBalancedBatchSampler`. Objective: `Mean`.

    References
    ----------
    Idrissi et al., "Simple data balancing achieves competitive worst-group-accuracy", CLeaR 2022, arXiv:2110.14503
    (there RWG).
    """
    return (Phase(sampler=GroupBalancedBatchSampler, objective=_mean, rank_sampler=RankBalancedBatchSampler),)


def oversample(*, s: float) -> tuple[Phase, ...]:
    """Return draws with p_ext(a|y) = alpha + s (1/A - alpha), s possibly above 1, without extrapolating.

    Sampler: `ExtrapolatedBatchSampler`. Objective: `Mean`. The expected step is that of GERNE at c (beta + 1) = s.

    References
    ----------
    The shares are eq. 8 of Asaad, Shadaydeh, Denzler, ICCV 2025, arXiv:2503.13236.
    """
    _check_finite("s", s)
    return (Phase(sampler=partial(ExtrapolatedBatchSampler, s=s), objective=_mean),)


def groupdro(*, eta: float) -> tuple[Phase, ...]:
    """Return online group distributionally robust optimisation.

    Sampler: `GroupBalancedBatchSampler`. Objective: `GroupDRO`.

    References
    ----------
    Sagawa, Koh, Hashimoto, Liang, "Distributionally Robust Neural Networks for Group Shifts", ICLR 2020,
    arXiv:1911.08731, Algorithm 1.
    """
    return (Phase(sampler=GroupBalancedBatchSampler, objective=partial(_group_dro, eta=eta)),)


def gerne(*, c: float, beta: float) -> tuple[Phase, ...]:
    """Return gradient extrapolation with known attributes.

    Sampler: `GerneBatchSampler`, by rank `RankGerneBatchSampler`, half of the samples in each stream. Objective:
    `GradientExtrapolation`.

    References
    ----------
    Asaad, Shadaydeh, Denzler, "Gradient Extrapolation for Debiased Representation Learning", ICCV 2025,
    arXiv:2503.13236, Algorithm 1, eq. 5 to 7.
    """
    shares.check_c(c)
    return (
        Phase(
            sampler=partial(_gerne_sampler, c=c, beta=beta),
            objective=partial(_extrapolation, beta=beta),
            rank_sampler=partial(rank_gerne_sampler, c=c, beta=beta),
        ),
    )


def gerne_unknown(
    *,
    c: float,
    beta: float,
    t: float,
    biased_lr_scale: float,
    biased_weight_decay_scale: float,
    biased_select: Literal["cba", "last"],
) -> tuple[Phase, ...]:
    """Return gradient extrapolation with unknown attributes: a biased model, pseudo-groups by it, then a new model.

    Samplers: `ClassBalancedBatchSampler` by the label alone, with `Mean`, the checkpoint picked by the mean of the
    classes' accuracies, as in the paper, or the last: where validation is balanced, the former prefers the least biased
    model; then `GerneBatchSampler` with `GradientExtrapolation` on the pseudo-attributes of `pseudo.pseudo_attributes`,
    A = 2. Where validation knows no attribute either, its groups are the classes, and t must be at most 1/2.

    References
    ----------
    Asaad, Shadaydeh, Denzler, ICCV 2025, arXiv:2503.13236, section 4.2 and Algorithm 2.
    """
    if biased_select not in ("cba", "last"):
        raise InputUnsupportedError(f"biased_select = {biased_select!r}", remedy="Use 'cba' or 'last'.")
    if not 0 < t < 1:
        raise InputUnsupportedError(f"t = {t} is outside (0, 1)", remedy="Use a share, for instance 0.1.")
    biased = Phase(
        sampler=_class_balanced_by_label,
        objective=_mean,
        lr_scale=_above_zero("biased_lr_scale", biased_lr_scale),
        weight_decay_scale=_above_zero("biased_weight_decay_scale", biased_weight_decay_scale),
        select_by=biased_select,
        needs_val_attribute=t > 0.5,
    )
    (known,) = gerne(c=c, beta=beta)
    shares.check_beta((1 - t, t), c, beta)  # the shares that the pseudo-groups will have in each class
    second = Phase(
        sampler=known.sampler, objective=known.objective, starts_anew=True, relabel=partial(_hardest_share, t=t)
    )
    return biased, second


def jtt(*, upweight: float, identify_share: float) -> tuple[Phase, ...]:
    """Return "just train twice": a first model by ERM, its errors upweighted, then a new model.

    Samplers: `UniformBatchSampler`, the last step taken; then `UpweightedBatchSampler` with the errors of the first
    model as attribute 1. Objective of both: `Mean`.

    References
    ----------
    Liu et al., "Just Train Twice: Improving Group Robustness without Training Group Information", ICML 2021,
    arXiv:2107.09044, Algorithm 1.
    """
    check_upweight(upweight)
    share = _above_zero("identify_share", identify_share)
    first = Phase(sampler=UniformBatchSampler, objective=_mean, steps_scale=share, select_by="last")
    sampler = partial(UpweightedBatchSampler, upweight=upweight)
    return first, Phase(sampler=sampler, objective=_mean, starts_anew=True, relabel=_errors)


def dfr(*, refit_share: float, refit_lr_scale: float) -> tuple[Phase, ...]:
    """Return deep feature reweighting: ERM, then its last layer alone on group-balanced held-out patches.

    Samplers: `UniformBatchSampler`; then `GroupBalancedBatchSampler` on one half of the validation patches, with all
    but the last layer frozen. Objective of both: `Mean`. Checkpoints of both phases, the decision threshold and the
    temperature are picked by the other half alone. Where the paper fits a logistic regression with an L1 penalty to
    features of unvaried patches, averaged over ten draws of balanced sets, this takes steps of the run's optimiser from
    ERM's last layer on, patches varied as in training: that problem is convex, and the loop is the one of all methods.

    References
    ----------
    Kirichenko, Izmailov, Wilson, "Last Layer Re-Training is Sufficient for Robustness to Spurious Correlations", ICLR
    2023, arXiv:2204.02937 (DFR trained on validation data).
    """
    refit = Phase(
        sampler=GroupBalancedBatchSampler,
        objective=_mean,
        split="val",
        trainable="head",
        steps_scale=_above_zero("refit_share", refit_share),
        lr_scale=_above_zero("refit_lr_scale", refit_lr_scale),
    )
    return Phase(sampler=UniformBatchSampler, objective=_mean), refit


def gerne_auto() -> tuple[Phase, ...]:
    """Return gradient extrapolation with nothing to tune: c = .5, beta = 1, so that p_ext = 1/A.

    Sampler: `GerneBatchSampler`, whose two streams draw independently. Objective: `GradientExtrapolation`. Its steps
    are shorter than those of other methods by the square root of 10: of two independent halves of a batch, one counts
    twice and the other is taken off, so that the variance of the gradient is 2 * (2**2 + 1) = 10 times that of the
    whole batch's mean. It counts on what the loop does for every method by default: a moving average of the weights,
    without which its noise makes it worse than resampling, and checkpoint and one decision threshold picked by
    validation.

    References
    ----------
    Asaad, Shadaydeh, Denzler, ICCV 2025, arXiv:2503.13236, Algorithm 1 at c (beta + 1) = 1; the rest is this package's.
    """
    return tuple(replace(phase, lr_scale=_AUTO_LR_SCALE) for phase in gerne(c=0.5, beta=1.0))


METHODS: MappingProxyType[str, Callable[..., tuple[Phase, ...]]] = MappingProxyType(
    {
        "erm": erm,
        "erm-balanced": erm_balanced,
        "reweight": reweight,
        "resample": resample,
        "oversample": oversample,
        "groupdro": groupdro,
        "gerne": gerne,
        "gerne-unknown": gerne_unknown,
        "jtt": jtt,
        "dfr": dfr,
        "gerne-auto": gerne_auto,
    }
)
NAMES = tuple(METHODS)


def _mean(counts: Ints) -> nn.Module:
    """Return the mean, whatever the groups."""
    return Mean()


def _balanced(counts: Ints) -> nn.Module:
    """Return the mean weighted so that all groups count alike."""
    return GroupWeighted(shares.balancing_weights(counts).ravel())


def _group_dro(counts: Ints, *, eta: float) -> nn.Module:
    """Return Group DRO over all groups."""
    return GroupDRO(counts.size, eta)


def _extrapolation(counts: Ints, *, beta: float) -> nn.Module:
    """Return the extrapolated loss, whatever the groups."""
    return GradientExtrapolation(beta)


def _hardest_share(probability: Floats, label: Ints, attribute: Ints, *, t: float) -> Ints:
    """Return the pseudo-attributes of GERNE with unknown attributes."""
    return pseudo.pseudo_attributes(probability[np.arange(len(label)), label], label, t)


def _errors(probability: Floats, label: Ints, attribute: Ints) -> Ints:
    """Return the error set of JTT; say so if it is empty, for then nothing is upweighted."""
    wrong = pseudo.error_set(probability, label)
    if not wrong.any():
        warnings.warn(
            "the first model makes no error, so none is upweighted; lower identify_share", UserWarning, stacklevel=2
        )
    return wrong


def _uniform_over_cells(
    label: npt.ArrayLike, attribute: npt.ArrayLike, *, batch_per_class: int, steps: int, seed: int
) -> UniformBatchSampler:
    """Return uniform batches of data whose cells can be weighed against each other."""
    shares.check_cells(shares.cell_counts(label, attribute))
    return UniformBatchSampler(label, attribute, batch_per_class=batch_per_class, steps=steps, seed=seed)


def _class_balanced_by_label(
    label: npt.ArrayLike, attribute: npt.ArrayLike, *, batch_per_class: int, steps: int, seed: int
) -> ClassBalancedBatchSampler:
    """Return class-balanced batches that are the same whatever the attribute is."""
    return ClassBalancedBatchSampler(
        label, np.zeros(np.shape(label), dtype=np.int64), batch_per_class=batch_per_class, steps=steps, seed=seed
    )


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
    half = half_of(batch_per_class)
    batches = GerneBatchSampler(label, attribute, batch_per_class=half, c=c, steps=steps, seed=seed)
    counts = shares.cell_counts(label, attribute)
    shares.check_beta(counts / counts.sum(axis=1, keepdims=True), c, beta)
    return batches


def _above_zero(name: str, value: float) -> float:
    """Return a factor, refused unless finite and above 0."""
    if not (math.isfinite(value) and value > 0):
        raise InputUnsupportedError(f"{name} = {value}", remedy="Use a finite number above 0.")
    return value


def _check_finite(name: str, value: float) -> None:
    """Refuse NaN and infinity."""
    if not math.isfinite(value):
        raise InputUnsupportedError(f"{name} = {value}", remedy="Use a finite number.")
