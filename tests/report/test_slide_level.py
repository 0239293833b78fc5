"""Classification at slide level in the report."""

from __future__ import annotations

from pathlib import Path

import pytest
from made_labelled_slides import write_cohort
from read_page import Page

from pathopatch.core.config import EvaluateConfig, SlideLevelConfig
from pathopatch.report import write_report
from pathopatch.stages.slide_level import classify_slides

QUICK = EvaluateConfig(bootstrap=0)


@pytest.mark.slow
def test_the_report_shows_results_at_slide_level_with_maps(tmp_path: Path) -> None:
    write_cohort(tmp_path, [0, 1] * 9, splits=["train"] * 6 + ["val"] * 6 + ["test"] * 6)
    assert "Labels of slides" not in Page(write_report(tmp_path, evaluate=QUICK)).text
    small = {"hidden": 4, "epochs": 1, "bag_patches": 16, "threads": 1, "bootstrap": 0}
    classify_slides(tmp_path, SlideLevelConfig(pooling=("attention", "mean"), **small), name="first")
    page = Page(write_report(tmp_path, evaluate=QUICK))
    assert "Labels of slides" in page.text
    assert "18 labelled slides of 18 patients, 9 positive" in page.text
    assert "tissue area of the slide" in page.text
    maps = [image["src"] for image in page.images if image["src"].startswith("attention_1_")]
    assert len(maps) == 2
    assert all((tmp_path / "report" / name).is_file() for name in maps)
