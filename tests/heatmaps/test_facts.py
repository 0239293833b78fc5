"""The numbers of a slide are those of its cells: areas of what lies on the slide, regions by their sides."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest
from made_prediction import GLASS, TUMOUR, grey_slide, mean_model, predict_to
from made_prediction import TISSUE as TISSUE_LEVEL
from read_page import Page

from pathopatch.core.config import IntensityConfig, PredictConfig
from pathopatch.core.files import read_json
from pathopatch.heatmaps import FLAGS
from pathopatch.heatmaps.facts import SUMMARY, summary
from pathopatch.heatmaps.patch_exports import positive_regions
from pathopatch.patches.grid import Grid
from pathopatch.report import write_report
from pathopatch.review.reviewed_cohort import open_cohort
from pathopatch.review.values import browser_facts
from pathopatch.stages.batch.summaries import write_cohort_table

GRID = Grid(width=350, height=200, downsample=1.0, patch_px=100, stride_px=100)  # the last column lies half outside
MPP = 10.0  # a whole cell has 1 mm2
NAN = np.nan
PROBABILITY = np.array([[0.9, 0.2, NAN, 0.8], [0.2, 0.9, NAN, 0.8]])
TISSUE = np.array([[1.0, 0.5, 0.0, 0.4], [0.5, 0.5, 0.0, 1.0]])


def numbers(
    probability: np.ndarray = PROBABILITY,
    scanned: np.ndarray | None = None,
    grid: Grid = GRID,
    has_patch: Any = True,
    **flagged: Any,
) -> dict[str, float | None]:
    is_predicted = np.isfinite(probability)
    none = np.zeros(is_predicted.sum(), bool)
    columns = {"probability": probability[is_predicted], **{f"flag_{name}": flagged.get(name, none) for name in FLAGS}}
    prediction: Any = SimpleNamespace(grid=grid, columns=columns, has_patch=has_patch)
    regions = positive_regions(
        probability,
        decision_probability=0.5,
        cell_px=100.0,
        mpp=MPP,
        slide_size=(grid.width, grid.height),
        patch_px=grid.extent,
        scanned=1.0 if scanned is None else scanned,
    )
    maps = {
        "probability": probability,
        "tissue_fraction": TISSUE,
        **({} if scanned is None else {"scanned_fraction": scanned}),
    }
    result = summary(prediction, maps, regions=regions, decision_probability=0.5, mpp=MPP)
    assert tuple(result) == SUMMARY
    return result


def test_areas_are_of_what_lies_on_the_slide() -> None:
    result = numbers()
    assert result["tissue_mm2"] == pytest.approx(1.0 + 0.5 + 0.2 + 0.5 + 0.5 + 0.5)
    assert result["positive_mm2"] == pytest.approx(1 + 1 + 0.5 + 0.5)
    assert result["positive_tissue_mm2"] == pytest.approx(1.0 + 0.5 + 0.2 + 0.5)
    assert result["positive_share"] == pytest.approx(2.2 / 3.2)
    assert result["mean_probability"] == pytest.approx(PROBABILITY[np.isfinite(PROBABILITY)].mean())


def test_between_patches_that_leave_gaps_nothing_counts() -> None:
    result = numbers(grid=replace(GRID, width=325, patch_px=50))  # a patch has 0.25 mm2, those at the edge half of it
    assert result["scanned_mm2"] == pytest.approx(6 * 0.25 + 2 * 0.125)
    assert result["tissue_mm2"] == pytest.approx(0.25 * (1.0 + 0.5 + 0.5 + 0.5) + 0.125 * (0.4 + 1.0))
    assert result["positive_mm2"] == pytest.approx(2 * 0.25 + 2 * 0.125)
    assert result["largest_region_mm2"] == pytest.approx(0.25)


def test_where_no_patch_lies_nothing_counts_as_scanned() -> None:
    assert numbers(has_patch=TISSUE > 0)["scanned_mm2"] == pytest.approx(7.0 - 2)


def test_areas_are_of_scanned_pixels() -> None:
    scanned = np.array([[0.5, 1.0, 0.0, 1.0], [1.0, 0.6, 1.0, 1.0]])
    result = numbers(scanned=scanned)
    assert result["scanned_mm2"] == pytest.approx(0.5 + 1 + 0 + 0.5 + 1 + 0.6 + 1 + 0.5)
    assert result["tissue_mm2"] == pytest.approx(0.5 + 0.5 + 0.2 + 0.5 + 0.3 + 0.5)
    assert result["positive_tissue_mm2"] == pytest.approx(0.5 + 0.3 + 0.2 + 0.5)
    assert result["positive_mm2"] == pytest.approx(0.5 + 0.6 + 0.5 + 0.5)
    assert numbers()["scanned_mm2"] == pytest.approx(7.0)


def test_a_region_is_of_cells_that_share_a_side() -> None:
    assert numbers()["largest_region_mm2"] == pytest.approx(1.0)  # 1 + 1 would be by the corner; 0.5 + 0.5
    below = PROBABILITY.copy()
    below[1, 0] = 0.9
    assert numbers(below)["largest_region_mm2"] == pytest.approx(3.0)


def test_flags_are_shares_of_the_predicted_patches() -> None:
    first, second = np.eye(6, dtype=bool)[:2]
    unknown = pd.array([pd.NA] * 6, dtype="boolean")
    blurred = pd.array([True, False, False, pd.NA, pd.NA, pd.NA], dtype="boolean")
    result = numbers(low_tissue=first, saturated=first | second, blurred=blurred, uncertain=unknown)
    assert result["flagged_share"] == pytest.approx(2 / 6)
    assert result["flag_low_tissue"] == pytest.approx(1 / 6)
    assert result["flag_blurred"] == pytest.approx(1 / 3)  # of those of which it can be said
    assert result["flag_uncertain"] is None


def test_a_slide_without_predictions_has_no_shares_of_them() -> None:
    result = numbers(np.full((2, 4), NAN))
    assert result["positive_mm2"] == result["largest_region_mm2"] == 0
    assert (result["mean_probability"], result["flagged_share"], result["lowest_margin"]) == (None, None, None)


def test_the_lowest_margin_is_that_of_the_patch_nearest_to_the_decision() -> None:
    assert numbers()["lowest_margin"] == pytest.approx(0.3)  # 0.2 and 0.8 against 0.5
    near = PROBABILITY.copy()
    near[1, 0] = 0.45
    assert numbers(near)["lowest_margin"] == pytest.approx(0.05)
    near[0, 3] = 0.5
    assert numbers(near)["lowest_margin"] == 0


def predict(out: Path, pixels: np.ndarray, *, stride_px: int = 16, **of_model: object) -> None:
    """Predict a slide by the mean of each scaled patch: logit 2 mean - 1, threshold 0."""
    config = PredictConfig(device="cpu", precision="float32", threads=1, stride_px=stride_px)
    with grey_slide(out.parent / "s1.tif", pixels) as slide:
        model = mean_model(gain=2.0, bias=1.0, **of_model)
        predict_to(slide, model, out, slide_id="s1", patient_id="p1", config=config)
    write_cohort_table(out)


def test_every_place_says_the_same_share_of_the_tissue_area(tmp_path: Path) -> None:
    out = tmp_path / "out"
    pixels = np.full((16, 40), GLASS, np.uint8)
    pixels[:, :16] = TUMOUR  # full of tissue, mean 1: logit 1
    pixels[4:12, 20:28] = TUMOUR  # a quarter of tissue, mean a quarter: logit -0.5
    pixels[:, 32:] = TISSUE_LEVEL  # half of it on the slide, that half full of tissue; the darkest is 0: logit -1
    predict(out, pixels)
    recorded = read_json(out / "heatmaps/s1/heatmap.json")
    assert (recorded["counts"]["tumour"], recorded["counts"]["predicted"]) == (1, 3)
    due = pytest.approx(1 / (1 + 1 / 4 + 1 / 2), rel=1e-8)  # in areas of a patch; of the patches it would be 1 / 3
    assert recorded["summary"]["positive_share"] == due
    assert pd.read_csv(out / "cohort.csv").loc[0, "positive_share"] == due
    cohort = open_cohort(out)
    assert cohort.rows()[0]["positive_share"] == due
    assert browser_facts(cohort.open("s1"))["summary"]["positive_share"] == due
    page = write_report(out)
    assert "57.1" in Page(page).text
    assert "share of the tissue area above the threshold" in Page(page).text


def test_tissue_under_overlapping_patches_counts_once(tmp_path: Path) -> None:
    out = tmp_path / "out"
    pixels = np.zeros((16, 32), np.uint8)
    pixels[:, :16] = TUMOUR
    predict(out, pixels, stride_px=8, intensity=IntensityConfig(windows={"SHG": (0, TUMOUR)}))
    summary = read_json(out / "heatmaps/s1/heatmap.json")["summary"]
    # Cells of 8 px. Tissue from the left, in both rows: 1, (1 + 1/2) / 2, (1/2 + 0) / 2, 0. Probability above 1/2 in
    # the first two; in the third all patches have logit 0 or less.
    assert summary["tissue_mm2"] == pytest.approx(2 * 2 * (8 * 0.5 / 1000) ** 2, rel=1e-8)
    assert summary["positive_share"] == pytest.approx((1 + 3 / 4) / 2, rel=1e-8)
