"""Mix seeds: of a run, a phase, a step, a process."""

from __future__ import annotations

import numpy as np


def mixed_seed(*parts: int) -> int:
    """Return one seed of 63 bits that depends on all parts; neighbouring parts give unrelated seeds."""
    return int(np.random.SeedSequence(parts).generate_state(1, np.uint64)[0] >> np.uint64(1))
