"""Decide which numbers rest on too few patches or patients: they are grey in all tables, and never a headline."""

from __future__ import annotations

import math

from pathopatch.core.text import pluralize
from pathopatch.evaluation.group_scores import SMALL_GROUP

LEAST_PATCHES = SMALL_GROUP
LEAST_PATIENTS = 5


def too_few(n: float | None, patients: float | None = None, unit: str = "patch") -> str:
    """Return why a number is grey, such as ``only 23 patches of 2 patients``; empty if enough lies behind it.

    Parameters
    ----------
    n : float, optional
        Patches, or what `unit` names, that the number was measured on. None or NaN: unknown, which greys nothing.
    patients : float, optional
        Patients that these come from; likewise.
    unit : str
        What `n` counts, in the singular.

    Examples
    --------
    >>> too_few(49, 12)
    'only 49 patches'
    >>> too_few(50, 4)
    'only 4 patients'
    >>> too_few(50, 5)
    ''
    """
    if n == 0:
        return f"no {unit}"
    amounts = [(n, LEAST_PATCHES, unit), (patients, LEAST_PATIENTS, "patient")]
    short = [
        pluralize(int(amount), noun)
        for amount, least, noun in amounts
        if amount is not None and math.isfinite(amount) and amount < least
    ]
    return f"only {' of '.join(short)}" if short else ""
