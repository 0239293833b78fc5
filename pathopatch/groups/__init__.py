"""Form groups and splits, and audit how much the tissue alone gives away of the label: numbers only."""

from pathopatch.groups.assign import assign_groups as assign_groups
from pathopatch.groups.assign import assign_splits as assign_splits
from pathopatch.groups.assign import given_splits as given_splits
from pathopatch.groups.attribute import GroupingAttribute as GroupingAttribute
from pathopatch.groups.attribute import HardShare as HardShare
from pathopatch.groups.attribute import PatchAttribute as PatchAttribute
from pathopatch.groups.attribute import TissueBins as TissueBins
from pathopatch.groups.attribute import TissueThreshold as TissueThreshold
from pathopatch.groups.attribute import attribute_in as attribute_in
from pathopatch.groups.attribute import bins_attributes as bins_attributes
from pathopatch.groups.attribute import slides_of as slides_of
from pathopatch.groups.attribute import threshold_attributes as threshold_attributes
from pathopatch.groups.attribute import unit_noun as unit_noun
from pathopatch.groups.attribute import units_of as units_of
from pathopatch.groups.audit import audit as audit
from pathopatch.groups.audit import audit_tables as audit_tables
from pathopatch.groups.audit import format_audit as format_audit
from pathopatch.groups.audit import verdict_text as verdict_text
