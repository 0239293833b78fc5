"""The audit in the report: the verdict with its rule, and cells that are too small."""

from __future__ import annotations

from pathlib import Path

import pytest
from read_page import Page

from pathopatch.core.config import EvaluateConfig
from pathopatch.core.files import read_json

QUICK = EvaluateConfig(bootstrap=40)


@pytest.mark.slow
def test_the_verdict_stands_first_in_the_audit_and_with_its_rule(work: Path, page: Page) -> None:
    whole = read_json(work / "groups" / "audit.json")["fraction_only"]["train"]
    auroc_text = (
        f"AUROC {whole['auroc']:.3f} [{whole['auroc_low']:.3f}, {whole['auroc_high']:.3f}] (12 patients), wholly above"
    )
    assert f"SHORTCUT. In the training patches the tissue fraction alone tells the label with {auroc_text}" in page.text
    assert "lies wholly above 0.55 or below 0.45" in page.text


def test_cells_that_are_too_small_are_named_with_their_reasons(work: Path, page: Page) -> None:
    cell = read_json(work / "groups" / "audit.json")["thresholds"]["0.25"]["test"]["expected"]["cells"][2]
    assert cell["n"] < 50
    assert f"{cell['n']} patches, fewer than 50" in page.text
    assert f"± {100 * cell['half_width']:.0f}" in page.text
