"""Choose a frozen network's head where no setting names one: `[train] choose`.

- **Validation can tell** where each group has `LEAST_PER_GROUP` patches in it. It compares masked `erm`, masked
  `resample`, both with invariance, and `erm` on crops, by `[train] select`.
- **Elsewhere** WGA is that of a few patches. Where a group is empty and the tissue fraction alone tells the label,
  crops are taken, which cannot follow the area. Else masked `erm` is, its penalty by AUROC at equal area.
- **Crops are never taken** where more than `MOST_WITHOUT_CROP` of the training patches hold none, or where they lose
  more than `MOST_LOSS` of the best masked head's AUROC at equal area.
- **Of those that are left** the best one is kept whose answers to validation patches stay when their area is set,
  within the limits of `audit-model`. If none does, the one that moves least is.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pathopatch.core.config import TrainConfig
from pathopatch.debias import gerne
from pathopatch.groups.shortcut import fraction_only
from pathopatch.metrics.area_response import MARGINS, Floats, adj, eta
from pathopatch.training.dataset import PatchSet
from pathopatch.training.invariance import Edits
from pathopatch.training.selection import score

INVARIANCE = 10.0
"""rho of the masked heads, as found on breast arrays. Other values were not compared on the other grounds."""
LEAST_PER_GROUP = 10
MOST_WITHOUT_CROP = 0.1
MOST_LOSS = 0.02
ASKED: Edits = ((0.15, 1.0), (0.4, 1.0), (0.65, 1.0), (0.9, 1.0))
"""Areas of validation patches, none of which training sets."""
N_ASKED = 150
_LEAST_ASKED, _LEAST_AREAS = 20, 3


@dataclass(frozen=True)
class Comparison:
    """Which heads are compared, and by which measure on validation."""

    ways: tuple[dict[str, Any], ...]  # settings of [train]
    select: str
    prefers_crops: bool = False
    reason: str = ""  # why validation does not choose freely


@dataclass(frozen=True, eq=False)
class Tried:
    """A head that was tried on validation."""

    config: TrainConfig
    logits: NDArray[np.float64]  # (n, K) of the patches that validate
    measures: dict[str, float]
    row: dict[str, Any]  # of the history


def comparison(config: TrainConfig, patches: PatchSet, validated: PatchSet) -> Comparison:
    """Return which heads are compared; `patches` are all of train and val, `validated` those that validate."""
    if not config.choose:
        return Comparison(({},), config.select)
    rho = INVARIANCE if config.invariance is None else config.invariance
    erm, resample = ({"mask": "normalise", "method": name, "invariance": rho} for name in ("erm", "resample"))
    crops = {"mask": "interior", "method": "erm", "invariance": 0.0}
    validates = config.select != "last"
    known = validated if validates else patches
    least = int(gerne.cell_counts(known.label, np.maximum(known.attribute, 0), at_least=(2, 2)).min())
    if validates and least >= LEAST_PER_GROUP:
        return Comparison((erm, resample, crops), config.select)
    few = f"a group has {least} of at least {LEAST_PER_GROUP} validation patches" if validates else "nothing validates"
    if least == 0 and patches.label.max() == 1:
        alone = fraction_only(patches.label, patches.tissue_fraction, patches.patient)
        if alone["is_flagged"]:
            reason = f"{few}, and tissue area alone tells the label: crops are taken, where most patches hold one"
            return Comparison((crops, erm), "equal_area", prefers_crops=True, reason=reason)
    return Comparison((erm,), "equal_area", reason=f"{few}: masked erm is taken")


def ranked(tried: Sequence[Tried], by: Comparison) -> list[Tried]:
    """Return the heads that were tried, best first and of equals in their order, without crops that lose too much."""
    masked = [each.measures["equal_area"] for each in tried if each.config.mask != "interior"]
    least = max(masked, default=-np.inf) - MOST_LOSS  # NaN, which is not known, leaves out nothing
    kept = [
        each
        for each in tried
        if len(by.ways) == 1 or each.config.mask != "interior" or not each.measures["equal_area"] < least
    ]

    def rank(each: Tried) -> list[float]:
        rule = by.select if np.isfinite(each.measures[by.select]) else "cba"
        return [float(by.prefers_crops and each.config.mask == "interior"), *score(each.measures, rule)]

    return sorted(kept, key=rank, reverse=True)


def steady(heads: Sequence[Tried], margins_of: Callable[[Tried], Floats]) -> tuple[Tried, bool]:
    """Return the first head that set areas do not move, and True; without one the head of least eta, and False.

    `margins_of` gives the margins (n, T) of validation patches at the areas of `ASKED`, NaN without an answer. What
    was measured is added to the rows of the history.
    """
    found: list[tuple[float, Tried]] = []
    for each in heads:
        z = margins_of(each)
        z = z[:, np.isfinite(z).mean(axis=0) >= 0.5] if len(z) else z
        z = z[np.isfinite(z).all(axis=1)]
        if len(z) < _LEAST_ASKED or z.shape[1] < _LEAST_AREAS:  # not known
            return each, True
        share, moves = eta(z), [adj(z, a, b) for b in range(z.shape[1]) for a in range(b)]
        each.row.update(val_eta=share, val_adj=max(moves, key=abs))
        is_small = max(map(abs, moves)) < MARGINS.least_adj and share < MARGINS.most_eta
        if share < MARGINS.least_eta or is_small:
            return each, True
        found.append((share, each))
    return min(found, key=lambda pair: pair[0])[1], False
