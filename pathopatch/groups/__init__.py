"""Which group and split is a patch in, and how much does the tissue alone give away of the label? Numbers only."""

from pathopatch.groups.assign import (
    assign_groups,
    attribute_column,
    attribute_values,
    bins_column,
    bins_of,
    group_column,
    group_numbers,
    thresholds_of,
)
from pathopatch.groups.attribute import Naming, naming_of
from pathopatch.groups.audit import audit, check_groups, group_counts
from pathopatch.groups.audit_format import describe, tables, verdict_text
from pathopatch.groups.splits import assign_splits, given_splits

__all__ = [
    "Naming",
    "assign_groups",
    "assign_splits",
    "attribute_column",
    "attribute_values",
    "audit",
    "bins_column",
    "bins_of",
    "check_groups",
    "describe",
    "given_splits",
    "group_column",
    "group_counts",
    "group_numbers",
    "naming_of",
    "tables",
    "thresholds_of",
    "verdict_text",
]
