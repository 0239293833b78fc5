"""Audit the groups of a work folder and format the result: the command `audit`.

``groups/audit.json`` holds every number with the stamp of the groups that it was made of;
``groups/audit_fraction_only.csv`` and ``audit_cells.csv`` hold the same as tables.
"""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pathopatch.core import artefacts, files
from pathopatch.core.artefacts import Stamp
from pathopatch.core.config import PatchLimits, known_limits
from pathopatch.core.work_folder import WorkFolder

if TYPE_CHECKING:
    import pandas as pd


_SMALL_PX = 64  # on imposed texture of 48 px `auto, masked` from scratch is ahead of the heads on a frozen network


def write_audit(
    work: Path,
    groups: pd.DataFrame,
    stamp: Stamp,
    *,
    limits: PatchLimits,
    left_out: Sequence[str] = (),
    decided: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Audit a cohort, write the results with the stamp of its groups table, and return them.

    Patches below the `limits` have no group.
    """
    from pathopatch.groups import audit, audit_tables
    from pathopatch.groups.attribute import stored_thresholds

    result = {"stamp": stamp.to_dict(), **limits, **audit(groups, stored_thresholds(groups))}
    result["left_out"] = sorted(left_out)
    if decided is not None:
        result["decided"] = dict(decided)
    for name, table in audit_tables(result).items():
        files.write_csv(work / "groups" / f"audit_{name}.csv", table)
    files.write_json(WorkFolder(work).audit, result)
    return result


def is_audited(work: Path, stamp: Stamp | None) -> bool:
    """Return whether the audit there belongs to the groups of this stamp and to this version of the audit."""
    from pathopatch.groups.audit import VERSION

    path = WorkFolder(work).audit
    return artefacts.read_stamp(path) == stamp and path.is_file() and files.read_json(path).get("version") == VERSION


def audit(work: Path, *, force: bool = False) -> Mapping[str, Any]:
    """Return the audit of a work folder's groups; redo it if the groups or the audit's version changed."""
    path, groups = WorkFolder(work).audit, WorkFolder(work).groups
    stamp = artefacts.read_stamp(groups)
    if is_audited(work, stamp) and not force:
        return files.read_json(path)
    table = artefacts.read_table(groups)
    previous = files.read_json(path) if path.is_file() else {}
    left_out, decided = previous.get("left_out", ()), previous.get("decided")
    stamp = stamp or Stamp(stage="groups")
    return write_audit(work, table, stamp, limits=known_limits(previous), left_out=left_out, decided=decided)


def audit_text(work: Path, *, force: bool = False) -> str:
    """Return the audit of a work folder as text and tables."""
    from pathopatch.groups import format_audit

    result = audit(work, force=force)
    return _what_was_left_out(result) + format_audit(result) + _empty_in_folds(work) + _alternative(work, result)


def counts_text(work: Path) -> str:
    """Return what the groups of a work folder hold, as text, and the command that says what that means."""
    from pathopatch.groups.audit import format_counts

    result = audit(work)
    counts = _what_was_left_out(result) + format_counts(result) + _empty_in_folds(work)
    return (
        f"{counts}\n\nnext: pathopatch audit {shlex.quote(str(work))}   (is there a shortcut, and what can be measured)"
    )


def _what_was_left_out(result: Mapping[str, Any]) -> str:
    from pathopatch.groups.decisions.decision import decision_summary

    left_out = f"Left out, not tiled to the end: {', '.join(result['left_out'])}\n\n" if result["left_out"] else ""
    return left_out + (f"{decision_summary(result['decided'])}\n\n" if "decided" in result else "")


def _alternative(work: Path, result: Mapping[str, Any]) -> str:
    """Return which row to train beside the default one, by the patches' size: from scratch where they are small."""
    from pathopatch.features.cohort import is_feature_cohort
    from pathopatch.groups import threshold_attributes
    from pathopatch.patches.store import PatchStore

    table = artefacts.read_table(WorkFolder(work).groups)
    is_of_tissue = not threshold_attributes(table)[0].is_patch_attribute
    if not (result["verdict"]["is_flagged"] and is_of_tissue) or is_feature_cohort(work):
        return ""
    store = PatchStore(WorkFolder(work).tiled.store(str(table["slide_id"].iloc[0])))
    if (side := int(store.attributes["patch_px"])) > _SMALL_PX:
        return ""
    return (
        f"\n\nPatches of {side} px are small for a frozen network, which enlarges them. Try a network from scratch "
        "beside the default: pathopatch train WORK --method auto --mask normalise"
    )


def _empty_in_folds(work: Path) -> str:
    """Return which groups are empty in a split of a fold: methods that need them cannot be trained there."""
    from pathopatch.core.patients import SPLITS
    from pathopatch.groups import threshold_attributes
    from pathopatch.groups.group_sizes import empty_groups

    table = artefacts.read_table(WorkFolder(work).groups)
    if "fold" not in table or threshold_attributes(table)[0].n_values > 2:
        return ""
    lines = []
    for number in sorted(set(table["fold"])):
        path = WorkFolder(work).fold(int(number)) / "groups.parquet"
        if not path.is_file():  # the work folder is that of a fold itself
            continue
        fold = artefacts.read_table(path)
        lines += [
            f"  fold {number}, split {split}, {attribute.phrase}: no patch of {' and none of '.join(empty)}"
            for attribute in threshold_attributes(fold)
            for split in SPLITS
            if (empty := empty_groups(fold, attribute, (split,)))
        ]
    return "\n\nGroups that are empty in a fold:\n" + "\n".join(lines) if lines else ""
