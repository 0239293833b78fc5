"""The debiasing methods by name: sampler and objective of each. No other module branches on a method's name.

A method is a tuple of phases (`phases.Phase`) that a training loop runs one after another without knowing the name. All
methods see the same number of samples per step, K * batch_per_class, so that they are compared at equal cost;
`phases.steps_in_all` counts the steps of methods with two phases. Weight averaging and the decision threshold belong to
no method: the loop applies them to all or to none. An objective loads torch when it is made: an evaluation, which asks
for the phases of a run, does without.
"""

from __future__ import annotations

import inspect
import math
import warnings
from collections.abc import Callable
from functools import partial
from types import MappingProxyType
from typing import TYPE_CHECKING, Literal

import numpy as np
import numpy.typing as npt

from pathopatch.core.errors import InputUnsupportedError
from pathopatch.core.method_names import METHOD_NAMES
from pathopatch.debias import gerne as shares
from pathopatch.debias import pseudo
from pathopatch.debias.phases import Phase, equal_areas, equal_groups, steps_in_all
from pathopatch.debias.samplers import (
    BatchSampler,
    ClassBalancedBatchSampler,
    GerneBatchSampler,
    GroupBalancedBatchSampler,
    UniformBatchSampler,
    UpweightedBatchSampler,
    check_upweight,
)

if TYPE_CHECKING:
    from torch import nn

__all__ = ["METHODS", "NAMES", "Phase", "Searched", "method", "parameters_of", "searched_parameters", "steps_in_all"]

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]
Searched = Literal["extrapolation", "t", "biased_lr_scale"]
"""What a search tries beside learning rate and weight decay. ``extrapolation`` is the pair of c and beta, so that
s = c (beta + 1); the others are parameters of the same name."""
NAMES = METHOD_NAMES
_BIASED_DECAY_SCALE = 2.0  # gerne-unknown: twice the weight decay for the biased model, as in the paper


def method(
    name: str,
    *,
    c: float = 0.5,
    beta: float = 1.0,
    eta: float = 0.01,
    t: float = 0.1,
    biased_lr_scale: float = 1.0,
    biased_select: Literal["cba", "last"] = "cba",
    upweight: float = 20.0,
    identify_share: float = 0.25,
    refit_share: float = 1.0,
    refit_lr_scale: float = 10.0,
    caliper: float = 0.02,
    dcor_weight: float = 1.0,
) -> tuple[Phase, ...]:
    """Return the phases of a method.

    Parameters
    ----------
    name : str
        One of `NAMES`; the function of that name documents the method.
    c, beta : float
        gerne, gerne-unknown: strength of the less biased half, in (0, 1], and extrapolation. The defaults give
        s = c (beta + 1) = 1. The bounds of beta depend on the data and are checked when the sampler is made.
    eta : float
        groupdro: step size of the group weights, above 0.
    t : float
        gerne-unknown: hard share of each class, in (0, 1).
    biased_lr_scale : float
        gerne-unknown: factor on the learning rate of the biased model. The paper has 0.1, at which it was under-trained
        where it was measured, so this needs tuning.
    biased_select : {"cba", "last"}
        gerne-unknown: which checkpoint of the biased model is kept.
    upweight, identify_share : float
        jtt: weight of a sample of the error set, and steps of the first model relative to the second. The first model
        must stop before it memorises the training set.
    refit_share, refit_lr_scale : float
        dfr: steps and learning rate of the last layer relative to the network's. Its gradients are small: with AdamW at
        the network's own rate it hardly moved where it was tried.
    caliper : float
        area-matched: largest difference of the tissue fractions of a pair, above 0.
    dcor_weight : float
        decorrelate: weight of the penalty, at least 0.

    Returns
    -------
    tuple of Phase
        In the order in which they run; picklable.

    Raises
    ------
    InputUnsupportedError
        An unknown name, or a parameter outside its range.
    """
    given = locals()
    if name not in METHODS:
        raise InputUnsupportedError(f"method {name!r}", remedy=f"Use one of {', '.join(NAMES)}.")
    # Each method receives only the parameters in its signature, so that others cannot change it.
    return METHODS[name](**{parameter: given[parameter] for parameter in parameters_of(name)})


def parameters_of(name: str) -> tuple[str, ...]:
    """Return the parameters of `method` that a method reads."""
    return tuple(inspect.signature(METHODS[name]).parameters)


def searched_parameters(name: str) -> tuple[Searched, ...]:
    """Return which of a method's own parameters a search tries; the method's signature decides."""
    own = parameters_of(name)
    pair: tuple[Searched, ...] = ("extrapolation",) if {"c", "beta"} <= set(own) else ()
    single: tuple[Searched, ...] = ("t", "biased_lr_scale")
    return pair + tuple(parameter for parameter in single if parameter in own)


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

    Sampler: `UniformBatchSampler`. Objective: `GroupWeighted`, by `gerne.balancing_weights`; A counts non-empty groups.

    References
    ----------
    Shimodaira, "Improving predictive inference under covariate shift by weighting the log-likelihood function", Journal
    of Statistical Planning and Inference 90(2), 2000: the weighted likelihood, here by uniform p(y, a) over p(y, a).
    """
    return (Phase(sampler=_uniform_over_cells, objective=_balanced),)


def resample() -> tuple[Phase, ...]:
    """Return group-balanced resampling: beta = 0, c = 1 in eq. 8 of arXiv:2503.13236.

    Sampler: `GroupBalancedBatchSampler`. Objective: `Mean`.

    References
    ----------
    Idrissi et al., "Simple data balancing achieves competitive worst-group-accuracy", CLeaR 2022, arXiv:2110.14503
    (there RWG).
    """
    return (Phase(sampler=GroupBalancedBatchSampler, objective=_mean),)


def subsample() -> tuple[Phase, ...]:
    """Return training on a subset with equal groups: most of the data is thrown away.

    Samples: `phases.equal_groups`. Sampler: `GroupBalancedBatchSampler`. Objective: `Mean`.

    References
    ----------
    Idrissi et al., "Simple data balancing achieves competitive worst-group-accuracy", CLeaR 2022, arXiv:2110.14503
    (there SUBG).
    """
    return (Phase(sampler=GroupBalancedBatchSampler, objective=_mean, subset=equal_groups),)


def area_matched(*, caliper: float) -> tuple[Phase, ...]:
    """Return training on pairs of both classes with nearly equal tissue area; no threshold and no group is needed.

    Samples: `phases.equal_areas`. Sampler: `ClassBalancedBatchSampler` by the label alone. Objective: `Mean`.

    References
    ----------
    Rosenbaum, Rubin, "Constructing a control group using multivariate matched sampling methods that incorporate the
    propensity score", The American Statistician 39(1), 1985: matching within a caliper.
    """
    subset = partial(equal_areas, caliper=_above_zero("caliper", caliper))
    return (Phase(sampler=_class_balanced_by_label, objective=_mean, subset=subset),)


def decorrelate(*, dcor_weight: float) -> tuple[Phase, ...]:
    """Return class-balanced training with a penalty on the distance correlation of logit and area within each class.

    Sampler: `ClassBalancedBatchSampler` by the label alone. Objective: `Decorrelated`.

    References
    ----------
    Szekely, Rizzo, "Partial distance correlation with methods for dissimilarities", Annals of Statistics 42(6), 2014.
    """
    return (Phase(sampler=_class_balanced_by_label, objective=partial(_decorrelated, weight=dcor_weight)),)


def groupdro(*, eta: float) -> tuple[Phase, ...]:
    """Return online group distributionally robust optimisation.

    Sampler: `GroupBalancedBatchSampler`. Objective: `GroupDRO`.

    References
    ----------
    Sagawa, Koh, Hashimoto, Liang, "Distributionally Robust Neural Networks for Group Shifts", ICLR 2020,
    arXiv:1911.08731, Algorithm 1.
    """
    objective = partial(_group_dro, eta=_above_zero("eta", eta))
    return (Phase(sampler=GroupBalancedBatchSampler, objective=objective),)


def gerne(*, c: float, beta: float) -> tuple[Phase, ...]:
    """Return gradient extrapolation with known attributes.

    Sampler: `GerneBatchSampler`, half of the samples in each half. Objective: `GradientExtrapolation`.

    References
    ----------
    Asaad, Shadaydeh, Denzler, "Gradient Extrapolation for Debiased Representation Learning", ICCV 2025,
    arXiv:2503.13236, Algorithm 1, eq. 5 to 7.
    """
    shares.check_c(c)
    if not math.isfinite(beta):
        raise InputUnsupportedError(f"beta = {beta}", remedy="Use a number inside gerne.beta_bounds.")
    return (Phase(sampler=partial(_gerne_sampler, c=c, beta=beta), objective=partial(_extrapolation, beta=beta)),)


def gerne_unknown(
    *, c: float, beta: float, t: float, biased_lr_scale: float, biased_select: Literal["cba", "last"]
) -> tuple[Phase, ...]:
    """Return gradient extrapolation with unknown attributes: a biased model, its pseudo-groups, then a new model.

    Samplers: `ClassBalancedBatchSampler` by the label alone, with `Mean`; then `GerneBatchSampler` with
    `GradientExtrapolation` on the attributes of `pseudo.pseudo_attributes`, A = 2. The biased model's checkpoint is
    picked by class-balanced accuracy, as in the paper, or is the last: a balanced validation set would prefer the least
    biased model. If validation has no attribute, its groups are the classes, and t must be at most 1/2.

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
        weight_decay_scale=_BIASED_DECAY_SCALE,
        select_by=biased_select,
        needs_val_attribute=t > 0.5,
    )
    (known,) = gerne(c=c, beta=beta)
    shares.check_beta((1 - t, t), c, beta)  # these will be the pseudo-groups' shares in each class
    second = Phase(
        sampler=known.sampler, objective=known.objective, starts_anew=True, relabel=partial(_hardest_share, t=t)
    )
    return biased, second


def jtt(*, upweight: float, identify_share: float) -> tuple[Phase, ...]:
    """Return "just train twice": a first model by ERM, then a new model with the first one's errors upweighted.

    Samplers: `UniformBatchSampler`, whose last step is kept; then `UpweightedBatchSampler` with the first model's
    errors as attribute 1. Objective of both: `Mean`.

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
    but the last layer frozen. Objective of both: `Mean`. The other half alone picks the checkpoints, the decision
    threshold and the temperature. The paper fits a logistic regression with an L1 penalty to features of patches
    without augmentation, averaged over ten balanced draws. Here the run's optimiser goes on from ERM's last layer, with
    augmentation: the problem is convex, and all methods share one loop.

    References
    ----------
    Kirichenko, Izmailov, Wilson, "Last Layer Re-Training is Sufficient for Robustness to Spurious Correlations", ICLR
    2023, arXiv:2204.02937 (DFR trained on validation data).
    """
    # The head goes on from ERM's, unlike the second models of jtt and gerne-unknown, which start anew.
    refit = Phase(
        sampler=GroupBalancedBatchSampler,
        objective=_mean,
        split="val",
        trainable="head",
        steps_scale=_above_zero("refit_share", refit_share),
        lr_scale=_above_zero("refit_lr_scale", refit_lr_scale),
    )
    return Phase(sampler=UniformBatchSampler, objective=_mean), refit


def intervene() -> tuple[Phase, ...]:
    """Return training on composed patches alone, whose tissue area says nothing about the class; no group is needed.

    Sampler: `ClassBalancedBatchSampler` by the label alone. Objective: `Mean`. See `interventions`.

    References
    ----------
    Gao et al., "Out-of-Domain Robustness via Targeted Augmentations", ICML 2023, arXiv:2302.11861: the idea; the
    intervention on the tissue area is this package's.
    """
    return (Phase(sampler=_class_balanced_by_label, objective=_mean, intervene_share=1.0),)


def auto() -> tuple[Phase, ...]:
    """Return what the measurements of this package speak for where the attribute is the tissue area; nothing to tune.

    Sampler: `GroupBalancedBatchSampler` where every group has samples, else `ClassBalancedBatchSampler` by the label.
    Objective: `Mean`. A share max(0.5, 1 - n / 100) of the draws is composed, n being the size of the smallest group.

    References
    ----------
    As `intervene` and `resample`; the rule for the share is this package's.
    """
    return (Phase(sampler=_balanced_as_far_as_possible, objective=_mean, intervene_share="auto"),)


METHODS: MappingProxyType[str, Callable[..., tuple[Phase, ...]]] = MappingProxyType(
    {
        "erm": erm,
        "resample": resample,
        "groupdro": groupdro,
        "gerne": gerne,
        "dfr": dfr,
        "auto": auto,
        "erm-balanced": erm_balanced,
        "reweight": reweight,
        "subsample": subsample,
        "area-matched": area_matched,
        "decorrelate": decorrelate,
        "gerne-unknown": gerne_unknown,
        "jtt": jtt,
        "intervene": intervene,
    }
)


def _mean(counts: Ints) -> nn.Module:
    """Return the mean loss; groups are not used."""
    from pathopatch.debias.objectives import Mean

    return Mean()


def _balanced(counts: Ints) -> nn.Module:
    """Return the mean with equal total weight for every group."""
    from pathopatch.debias.objectives import GroupWeighted

    return GroupWeighted(shares.balancing_weights(counts).ravel())


def _group_dro(counts: Ints, *, eta: float) -> nn.Module:
    """Return Group DRO over all groups."""
    from pathopatch.debias.objectives import GroupDRO

    return GroupDRO(counts.size, eta)


def _decorrelated(counts: Ints, *, weight: float) -> nn.Module:
    """Return the mean loss with a penalty on what area tells of the logit; groups are not used."""
    from pathopatch.debias.objectives import Decorrelated

    return Decorrelated(weight)


def _extrapolation(counts: Ints, *, beta: float) -> nn.Module:
    """Return the extrapolated loss; groups are not used."""
    from pathopatch.debias.objectives import GradientExtrapolation

    return GradientExtrapolation(beta)


def _hardest_share(probability: Floats, label: Ints, attribute: Ints, *, t: float) -> Ints:
    """Return the pseudo-attributes of GERNE with unknown attributes."""
    return pseudo.pseudo_attributes(probability[np.arange(len(label)), label], label, t)


def _errors(probability: Floats, label: Ints, attribute: Ints) -> Ints:
    """Return the error set of JTT; warn if it is empty, since nothing is upweighted then."""
    is_error = pseudo.error_set(probability, label)
    if not is_error.any():
        warnings.warn(
            "the first model makes no error, so nothing is upweighted; lower identify_share", UserWarning, stacklevel=2
        )
    return is_error


def _uniform_over_cells(label: npt.ArrayLike, attribute: npt.ArrayLike, **sizes: int) -> UniformBatchSampler:
    """Return uniform batches; refuse empty cells, which have no weight."""
    shares.check_cells(shares.cell_counts(label, attribute))
    return UniformBatchSampler(label, attribute, **sizes)


def _class_balanced_by_label(label: npt.ArrayLike, attribute: npt.ArrayLike, **sizes: int) -> ClassBalancedBatchSampler:
    """Return class-balanced batches that do not depend on the attribute."""
    return ClassBalancedBatchSampler(label, np.zeros(np.shape(label), dtype=np.int64), **sizes)


def _balanced_as_far_as_possible(label: npt.ArrayLike, attribute: npt.ArrayLike, **sizes: int) -> BatchSampler:
    """Return group-balanced batches, or class-balanced ones where a group is empty."""
    has_all_groups = bool((shares.cell_counts(label, attribute) > 0).all())
    sampler = GroupBalancedBatchSampler if has_all_groups else _class_balanced_by_label
    return sampler(label, attribute, **sizes)


def _gerne_sampler(
    label: npt.ArrayLike, attribute: npt.ArrayLike, *, c: float, beta: float, batch_per_class: int, **sizes: int
) -> GerneBatchSampler:
    """Return GERNE's batches, half of `batch_per_class` in each half; refuse a beta outside the data's bounds."""
    # All methods see K * batch_per_class samples per step, both halves together.
    if batch_per_class % 2:
        raise InputUnsupportedError(
            f"batch_per_class = {batch_per_class} does not split into two halves", remedy="Use an even number."
        )
    batches = GerneBatchSampler(label, attribute, batch_per_class=batch_per_class // 2, c=c, **sizes)
    counts = shares.cell_counts(label, attribute)
    shares.check_beta(counts / counts.sum(axis=1, keepdims=True), c, beta)
    return batches


def _above_zero(name: str, value: float) -> float:
    """Return a factor; refuse it unless finite and above 0."""
    if not (math.isfinite(value) and value > 0):
        raise InputUnsupportedError(f"{name} = {value}", remedy="Use a finite number above 0.")
    return value
