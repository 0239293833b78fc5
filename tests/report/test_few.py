"""Numbers of fewer than 50 patches, or fewer than 5 patients, are grey with the reason, in every table."""

from __future__ import annotations

import math
import re
from pathlib import Path

import pytest

from pathopatch.evaluation.group_scores import too_few
from pathopatch.report.cells import Column, cell

CELL = re.compile(r"<td([^>]*)>(.*?)</td>", re.S)


@pytest.mark.parametrize(
    ("n", "patients", "reason"),
    [
        (50, 5, ""),
        (49, 5, "only 49 patches"),
        (50, 4, "only 4 patients"),
        (49, 4, "only 49 patches of 4 patients"),
        (1, 1, "only 1 patch of 1 patient"),
        (0, 0, "no patch"),
        (50, None, ""),
        (None, None, ""),
        (math.nan, math.nan, ""),
        (49.0, math.nan, "only 49 patches"),
    ],
)
def test_50_patches_of_5_patients_are_enough(n: float | None, patients: float | None, reason: str) -> None:
    assert too_few(n, patients) == reason


def test_the_reason_counts_what_was_measured() -> None:
    assert too_few(49, 5, "slide") == "only 49 slides"


@pytest.mark.parametrize(("n", "patients", "is_grey"), [(50, 5, False), (49, 5, True), (50, 4, True)])
def test_a_cell_of_too_few_is_grey_and_says_why(n: int, patients: int, is_grey: bool) -> None:
    text = cell({"wga": 0.777, "n": n, "patients": patients}, Column("WGA", "wga", "percent", sizes="own"))
    assert ('class="few"' in text) == is_grey
    assert (f'<span class="reason">{too_few(n, patients)}</span>' in text) == is_grey
    assert "77.7" in text


@pytest.mark.usefixtures("page")
def test_the_cells_of_a_small_group_are_grey_and_no_others(work: Path) -> None:
    source = (work / "report" / "index.html").read_text()
    for table in re.findall(r"<table>\s*<caption>\s*Accuracy, test split.*?</table>", source, re.S):
        # Columns: WGA, AUROC at equal area of all patches, GBA, then a group each with its n and patients in the head.
        sizes = [(int(n), int(k)) for n, k in re.findall(r"n = (\d+), (\d+) patient", table)]
        assert len(sizes) == 4
        is_few = [n < 50 or k < 5 for n, k in sizes]
        rows = re.findall(r"<tr><th scope=\"row\">.*?</tr>", table, re.S)
        assert len(rows) == 4
        for row in rows:
            grey = ['class="few"' in attributes for attributes, _ in CELL.findall(row)]
            assert grey == [any(is_few), False, any(is_few)] + is_few
