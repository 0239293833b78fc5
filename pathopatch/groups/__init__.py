"""Form groups and splits, and audit how much the tissue alone gives away of the label: numbers only."""

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
from pathopatch.groups.audit import audit, audit_tables, format_audit, verdict_text
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
    "audit_tables",
    "bins_attributes",
    "format_audit",
    "given_splits",
    "threshold_attributes",
    "verdict_text",
]
