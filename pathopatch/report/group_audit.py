"""The audit of a cohort's groups as an object, for notebooks: its verdict and tables."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from pathopatch.core.artefacts import read_table
from pathopatch.core.work_folder import WorkFolder
from pathopatch.groups import audit, audit_tables, format_audit, threshold_attributes, verdict_text


@dataclass(frozen=True, eq=False)
class GroupAudit:
    """How strong the tissue shortcut is in a cohort; printed, it is the text of ``pathopatch audit``.

    Attributes
    ----------
    numbers : mapping
        Every number, as plain values: see `pathopatch.groups.audit`.
    """

    numbers: Mapping[str, Any]

    @property
    def verdict(self) -> str:
        """The verdict in one or two sentences."""
        return verdict_text(self.numbers)

    def tables(self) -> dict[str, pd.DataFrame]:
        """Return the numbers as tables by name: ``fraction_only`` and ``cells``."""
        return audit_tables(self.numbers)

    def __str__(self) -> str:
        return format_audit(self.numbers)

    def __repr__(self) -> str:
        return f"<GroupAudit: {self.verdict}>"


def audit_groups(
    groups: pd.DataFrame | Path | str,
    thresholds: Sequence[float] | None = None,
    *,
    resamples: int = 1000,
    seed: int = 0,
) -> GroupAudit:
    """Return how strong the tissue shortcut is in a cohort; nothing is written.

    Parameters
    ----------
    groups : DataFrame or path
        As `assign_groups` returns it, or a work folder that has groups. Without a split column all patches are of the
        split "all".
    thresholds : sequence of float, optional
        Of its thresholds; by default all.
    resamples, seed : int
        Resamples of patients behind each interval, and their seed; with 0 there are no intervals and no verdict.

    Raises
    ------
    InputMissingError
        The folder has no groups, or there is no such threshold.
    InputUnsupportedError
        The table has no groups.

    Examples
    --------
    >>> patches = pd.DataFrame({"patch_id": ["a", "b"], "slide_id": "S01", "patient_id": "P01", "label": [0, 1]})
    >>> groups = pathopatch.assign_groups(patches.assign(tissue_fraction=[0.1, 0.9]), [0.25])
    >>> pathopatch.audit_groups(groups).verdict[:9]
    'NOT KNOWN'
    """
    table = groups if isinstance(groups, pd.DataFrame) else read_table(WorkFolder(Path(groups)).groups)
    chosen = [float(attribute.key) for attribute in threshold_attributes(table)] if thresholds is None else thresholds
    return GroupAudit(audit(table, chosen, resamples=resamples, seed=seed))
