"""Which patches a phase draws from, and by which attribute."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from pathopatch.config import TrainConfig
from pathopatch.debias import gerne
from pathopatch.debias.methods import Batches, Phase
from pathopatch.debias.ranks import rank_alpha
from pathopatch.errors import GroupEmptyError, InputUnsupportedError
from pathopatch.training.dataset import PatchSet


def needs_groups(phase: Phase) -> bool:
    """Return whether a phase's sampler refuses data in which a group is empty."""
    try:
        phase.sampler([0, 1, 1], [0, 0, 1], batch_per_class=2, steps=1, seed=0)
    except GroupEmptyError:
        return True
    return False


def drawn_attribute(phase: Phase, data: PatchSet) -> NDArray[np.int64]:
    """Return the attribute that a phase draws by: that of the patches, and 0 where none is known and none is needed.

    Where no patch has one it is 0 for all, so that a sampler which needs groups says which of them are empty.
    """
    is_known = data.attribute >= 0
    if not is_known.any() or not needs_groups(phase):
        return np.where(is_known, data.attribute, 0)
    return data.attribute


def batches_of(phase: Phase, data: PatchSet, config: TrainConfig, *, seed: int) -> Batches:
    """Return the batches of a phase: by the patches' attribute, or by the rank of their tissue fraction.

    Raises
    ------
    InputUnsupportedError
        The method has no form that draws by rank.
    """
    sizes = {"batch_per_class": config.batch_per_class, "steps": config.steps, "seed": seed}
    if config.attribute != "rank":
        return phase.sampler(data.label, drawn_attribute(phase, data), **sizes)
    if phase.rank_sampler is None:
        raise InputUnsupportedError(
            f"method {config.method!r} does not draw by rank",
            place="attribute",
            remedy="train resample or gerne, or by a threshold or bins",
        )
    return phase.rank_sampler(data.label, data.tissue_fraction, **sizes)


def shares_of(data: PatchSet, config: TrainConfig) -> NDArray[np.float64]:
    """Return p(a|y) of the training patches, by which beta is bounded; by rank, over bins of equal pooled counts."""
    if config.attribute == "rank":
        return rank_alpha(data.label, data.tissue_fraction)
    return gerne.alpha(data.label, data.attribute)
