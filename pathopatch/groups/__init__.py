"""Which group and split is a patch in, and how much does the tissue alone give away of the label? Numbers only."""

from pathopatch.groups.assign import assign_groups
from pathopatch.groups.attribute import (
    Attribute,
    GroupingAttribute,
    PatchAttribute,
    TissueBins,
    TissueRank,
    TissueThreshold,
    attribute_in,
    bins_attributes,
    threshold_attributes,
)
from pathopatch.groups.audit import audit, check_groups, group_counts
from pathopatch.groups.audit_format import describe, tables, verdict_text
from pathopatch.groups.splits import assign_splits, given_splits

__all__ = [
    "Attribute",
    "GroupingAttribute",
    "PatchAttribute",
    "TissueBins",
    "TissueRank",
    "TissueThreshold",
    "assign_groups",
    "assign_splits",
    "attribute_in",
    "audit",
    "bins_attributes",
    "check_groups",
    "describe",
    "given_splits",
    "group_counts",
    "tables",
    "threshold_attributes",
    "verdict_text",
]
