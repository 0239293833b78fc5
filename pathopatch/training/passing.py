"""Which patches a phase draws from, and by which attribute."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from pathopatch.debias.methods import Phase
from pathopatch.errors import GroupEmptyError
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
