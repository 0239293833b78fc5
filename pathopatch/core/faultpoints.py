"""Named points at which a test may kill this process, chosen by an environment variable.

``PATHOPATCH_FAULT=rename:3`` ends the process with SIGKILL at its third passage of the point ``rename``. Points are
``chunk`` (pixels of a store were written), ``rename`` (an artefact is about to take its place), ``renamed`` (it has
taken it), ``step`` (a step of training is done), ``deciding`` (a reviewer's decision is about to be committed) and
``decided`` (it is). Without the variable nothing happens.
"""

from __future__ import annotations

import os
import signal
from collections import Counter

VARIABLE = "PATHOPATCH_FAULT"
_passed: Counter[str] = Counter()


def fault_point(name: str) -> None:
    """Pass a point; the process ends here if the variable says so."""
    wanted = os.environ.get(VARIABLE)
    if wanted is None:
        return
    _passed[name] += 1
    if wanted == f"{name}:{_passed[name]}":
        os.kill(os.getpid(), signal.SIGKILL)
