"""The debiasing methods by name: sampler and objective of each. No other module branches on a method's name.

All methods see the same number of samples per step, K * batch_per_class, so that they are compared at equal cost.
Weight averaging and the decision threshold belong to no method: the loop applies them to all or to none. What takes two
trainings, such as GERNE with unknown attributes, is two runs with a table between them, see `pseudo`. An objective
loads torch when it is made: the commands that only ask for names do without.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from pathopatch.core.errors import InputUnsupportedError
from pathopatch.core.method_names import METHOD_NAMES, add_method_name
from pathopatch.debias import gerne as shares
from pathopatch.debias.samplers import (
    BatchSampler,
    ClassBalancedBatchSampler,
    GerneBatchSampler,
    GroupBalancedBatchSampler,
    UniformBatchSampler,
)

if TYPE_CHECKING:
    from torch import nn

__all__ = ["NAMES", "Method", "extrapolates", "method", "parameters_of", "register_method", "takes_area"]

Ints = npt.NDArray[np.int64]
NAMES = METHOD_NAMES


@dataclass(frozen=True, kw_only=True)
class Method:
    """What is drawn and what is minimised.

    Parameters
    ----------
    sampler : callable
        ``(label, attribute, *, batch_per_class, steps, seed)`` to a `BatchSampler`: labels and attributes of N samples,
        and the samples of each class in a step, all parts of a batch together. With a parameter ``area`` it gets the
        tissue fraction of each sample too, float64 of shape (N,).
    objective : callable
        ``counts``, the samples of each cell as ndarray of int64 of shape (K, A), to a module with
        ``forward(loss, group)``; groups are numbered A y + a. With a parameter ``area`` it gets the tissue fraction of
        each sample of the batch too, and its ``margin``, the logit z1 - z0, and ``label``. With ``expected_weights`` as
        in `objectives` the method also has linear heads, which are solved exactly.
    composes : bool
        A share of the draws is composed to another tissue area: max(0.5, 1 - n / 100), n being the size of the smallest
        group.
    """

    sampler: Callable[..., BatchSampler]
    objective: Callable[[Ints], nn.Module]
    composes: bool = False

    def batches(
        self, label: npt.ArrayLike, attribute: npt.ArrayLike, area: npt.ArrayLike, **sizes: int
    ) -> BatchSampler:
        """Return the batches of samples with these labels, attributes and tissue fractions, all (N,)."""
        own = {"area": area} if takes_area(self.sampler) else {}
        return self.sampler(label, attribute, **own, **sizes)


def takes_area(function: Callable[..., Any]) -> bool:
    """Return whether a function has a parameter ``area``."""
    return "area" in inspect.signature(function).parameters


def method(name: str, **parameters: Any) -> Method:
    """Return the method of a name; `parameters` are those of its function, by default the defaults there.

    Raises
    ------
    InputUnsupportedError
        An unknown name or parameter, or a value outside its range.
    """
    if name not in _METHODS:
        raise InputUnsupportedError(f"method {name!r}", remedy=f"Use one of {', '.join(_METHODS)}.")
    if unknown := sorted(set(parameters) - set(parameters_of(name))):
        known = ", ".join(parameters_of(name)) or "none"
        raise InputUnsupportedError(f"{name} has no parameter {', '.join(unknown)}", remedy=f"It has {known}.")
    return _METHODS[name](**parameters)


def register_method(name: str, make: Callable[..., Method]) -> None:
    """Add a method, so that settings, studies and the contract of methods take its name as any other.

    Call it where a module is imported, not below ``if __name__ == "__main__"``: worker processes import it anew.

    Parameters
    ----------
    name : str
        How settings call it.
    make : callable
        Returns the `Method`. Its parameters need defaults; ``[train] method_args`` gives other values.

    Raises
    ------
    InputUnsupportedError
        The name is taken by another function.

    Examples
    --------
    >>> from functools import partial
    >>> from pathopatch.debias import methods, objectives, samplers
    >>> def slow_dro(*, eta=0.001):
    ...     "Group DRO whose weights follow the losses slowly, on class-balanced batches."
    ...     objective = lambda counts: objectives.GroupDRO(counts.size, eta)
    ...     return methods.Method(sampler=samplers.ClassBalancedBatchSampler, objective=objective)
    >>> methods.register_method("slow-dro", slow_dro)
    >>> pathopatch.TrainConfig(method="slow-dro", method_args={"eta": 0.002}).run_name
    'slow-dro-t0.25-s0'
    """
    if _METHODS.setdefault(name, make) is not make:
        raise InputUnsupportedError(f"there is a method {name!r} already", remedy="Choose another name.")
    add_method_name(name)


def parameters_of(name: str) -> tuple[str, ...]:
    """Return the parameters of a method; none of a name that is not known, such as that of a run of another version."""
    return tuple(inspect.signature(_METHODS[name]).parameters) if name in _METHODS else ()


def extrapolates(name: str) -> bool:
    """Return whether a method has c and beta, which a search tries as s = c (beta + 1)."""
    return {"c", "beta"} <= set(parameters_of(name))


def erm() -> Method:
    """Return empirical risk minimisation: uniform draws, mean loss.

    Sampler: `UniformBatchSampler`. Objective: `Mean`.

    References
    ----------
    Vapnik, "An overview of statistical learning theory", IEEE Transactions on Neural Networks 10(5), 1999: the
    empirical risk functional.
    """
    return Method(sampler=UniformBatchSampler, objective=_mean)


def erm_balanced() -> Method:
    """Return class-balanced ERM: GERNE's biased stream alone, beta = -1 in eq. 8 of arXiv:2503.13236.

    Sampler: `ClassBalancedBatchSampler`. Objective: `Mean`.

    References
    ----------
    Idrissi et al., "Simple data balancing achieves competitive worst-group-accuracy", CLeaR 2022, arXiv:2110.14503
    (there RWY).
    """
    return Method(sampler=ClassBalancedBatchSampler, objective=_mean)


def resample() -> Method:
    """Return group-balanced resampling: beta = 0, c = 1 in eq. 8 of arXiv:2503.13236.

    Sampler: `GroupBalancedBatchSampler`. Objective: `Mean`.

    References
    ----------
    Idrissi et al., "Simple data balancing achieves competitive worst-group-accuracy", CLeaR 2022, arXiv:2110.14503
    (there RWG).
    """
    return Method(sampler=GroupBalancedBatchSampler, objective=_mean)


def groupdro(*, eta: float = 0.01) -> Method:
    """Return online group distributionally robust optimisation; `eta` is the step size of the group weights, above 0.

    Sampler: `GroupBalancedBatchSampler`. Objective: `GroupDRO`.

    References
    ----------
    Sagawa, Koh, Hashimoto, Liang, "Distributionally Robust Neural Networks for Group Shifts", ICLR 2020,
    arXiv:1911.08731, Algorithm 1.
    """
    if not (math.isfinite(eta) and eta > 0):
        raise InputUnsupportedError(f"eta = {eta}", remedy="Use a finite number above 0.")
    return Method(sampler=GroupBalancedBatchSampler, objective=partial(_group_dro, eta=eta))


def gerne(*, c: float = 0.5, beta: float = 1.0) -> Method:
    """Return gradient extrapolation.

    `c` in (0, 1] is the strength of the less biased half, `beta` the extrapolation. The defaults give s = c (beta + 1)
    = 1. The bounds of beta depend on the data and are checked when the sampler is made.

    Sampler: `GerneBatchSampler`, half of the samples in each half. Objective: `GradientExtrapolation`.

    References
    ----------
    Asaad, Shadaydeh, Denzler, "Gradient Extrapolation for Debiased Representation Learning", ICCV 2025,
    arXiv:2503.13236, Algorithm 1, eq. 5 to 7.
    """
    shares.check_c(c)
    if not math.isfinite(beta):
        raise InputUnsupportedError(f"beta = {beta}", remedy="Use a number inside gerne.beta_bounds.")
    return Method(sampler=partial(_gerne_sampler, c=c, beta=beta), objective=partial(_extrapolation, beta=beta))


def auto() -> Method:
    """Return what the measurements of this package speak for where the attribute is the tissue area; nothing to tune.

    Sampler: `GroupBalancedBatchSampler` where every group has samples, else `ClassBalancedBatchSampler` by the label.
    Objective: `Mean`. A share of the draws is composed, see `interventions`.

    References
    ----------
    As `resample`; Gao et al., "Out-of-Domain Robustness via Targeted Augmentations", ICML 2023, arXiv:2302.11861: the
    idea of composing. The intervention on the tissue area, and the rule for its share, are this package's.
    """
    return Method(sampler=_balanced_as_far_as_possible, objective=_mean, composes=True)


_METHODS: dict[str, Callable[..., Method]] = {
    "erm": erm,
    "erm-balanced": erm_balanced,
    "resample": resample,
    "groupdro": groupdro,
    "gerne": gerne,
    "auto": auto,
}


def _mean(counts: Ints) -> nn.Module:
    """Return the mean loss; groups are not used."""
    from pathopatch.debias.objectives import Mean

    return Mean()


def _group_dro(counts: Ints, *, eta: float) -> nn.Module:
    """Return Group DRO over all groups."""
    from pathopatch.debias.objectives import GroupDRO

    return GroupDRO(counts.size, eta)


def _extrapolation(counts: Ints, *, beta: float) -> nn.Module:
    """Return the extrapolated loss; groups are not used."""
    from pathopatch.debias.objectives import GradientExtrapolation

    return GradientExtrapolation(beta)


def _balanced_as_far_as_possible(label: npt.ArrayLike, attribute: npt.ArrayLike, **sizes: int) -> BatchSampler:
    """Return group-balanced batches, or where a group is empty class-balanced ones that do not read the attribute."""
    if (shares.cell_counts(label, attribute) > 0).all():
        return GroupBalancedBatchSampler(label, attribute, **sizes)
    return ClassBalancedBatchSampler(label, np.zeros(np.shape(label), dtype=np.int64), **sizes)


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
