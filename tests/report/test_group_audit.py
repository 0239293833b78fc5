"""The audit of groups as an object: verdict and tables."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from pathopatch.core.artefacts import Stamp, write_table
from pathopatch.core.errors import InputMissingError, InputUnsupportedError
from pathopatch.groups import assign_groups, audit, format_audit
from pathopatch.report.group_audit import GroupAudit, audit_groups


@pytest.fixture
def groups() -> pd.DataFrame:
    """400 patches of 20 patients; tumour patches hold more tissue than all others."""
    number = np.arange(400)
    label = number % 2
    tissue = 0.1 + 0.5 * label + 0.3 * (number % 7) / 7
    patches = {"patch_id": number.astype(str), "slide_id": "s", "patient_id": (number // 20).astype(str)}
    return assign_groups(pd.DataFrame({**patches, "label": label, "tissue_fraction": tissue}), [0.25, 0.5])


@pytest.fixture
def audited(groups: pd.DataFrame) -> GroupAudit:
    return audit_groups(groups, resamples=50)


def test_the_object_says_what_the_numbers_say(groups: pd.DataFrame, audited: GroupAudit) -> None:
    assert audited.numbers == audit(groups, [0.25, 0.5], resamples=50)
    assert str(audited) == format_audit(audited.numbers)
    assert audited.numbers["verdict"]["is_flagged"]
    assert audited.verdict.startswith(
        "SHORTCUT. In all labelled patches with a group the tissue fraction alone tells the label"
    )
    assert repr(audited) == f"<GroupAudit: {audited.verdict}>"
    assert audited.tables()["cells"]["n"].sum() == 2 * 400  # both thresholds


def test_a_work_folder_is_audited_as_its_table(tmp_path: Path, groups: pd.DataFrame, audited: GroupAudit) -> None:
    write_table(tmp_path / "groups.parquet", groups, Stamp(stage="groups"))
    assert audit_groups(tmp_path, resamples=50).numbers == audited.numbers
    assert list(audit_groups(tmp_path, [0.5], resamples=0).numbers["thresholds"]) == ["0.5"]


def test_a_folder_or_table_without_groups_is_refused(tmp_path: Path, groups: pd.DataFrame) -> None:
    with pytest.raises(InputMissingError, match=r"no table groups\.parquet"):
        audit_groups(tmp_path)
    with pytest.raises(InputUnsupportedError):
        audit_groups(groups[["patch_id", "slide_id", "patient_id", "label", "tissue_fraction"]])
