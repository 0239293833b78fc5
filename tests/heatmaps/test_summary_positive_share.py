"""The positive share is one number wherever it stands: of the tissue's area, not of the patches."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import tifffile
from made_prediction import predict_to
from read_page import Page
from test_artefacts import GLASS, TISSUE, TUMOUR, model

from pathopatch.core.config import IntensityConfig, PredictConfig
from pathopatch.core.files import read_json
from pathopatch.report import write_report
from pathopatch.review.reviewed_cohort import open_cohort
from pathopatch.review.values import slide_facts
from pathopatch.slides import open_slide
from pathopatch.stages.batch.summaries import CohortTables


def predict(out: Path, pixels: np.ndarray, *, stride_px: int = 16, **of_model: object) -> None:
    """Predict a slide by the mean of each scaled patch: logit 2 mean - 1, threshold 0."""
    out.mkdir()
    path = out.parent / "s1.tif"
    tifffile.imwrite(
        path, pixels, tile=(64, 64), photometric="minisblack", resolution=(2e4, 2e4), resolutionunit="CENTIMETER"
    )
    with open_slide(path, channels=("SHG",), background="dark") as slide:
        config = PredictConfig(device="cpu", precision="float32", threads=1, stride_px=stride_px)
        predict_to(slide, model(**of_model), out, slide_id="s1", patient_id="p1", config=config)
    CohortTables(out).write()


def test_every_place_says_the_same_share_of_the_tissue_area(tmp_path: Path) -> None:
    out = tmp_path / "out"
    pixels = np.full((16, 40), GLASS, np.uint8)
    pixels[:, :16] = TUMOUR  # full of tissue, mean 1: logit 1
    pixels[4:12, 20:28] = TUMOUR  # a quarter of tissue, mean a quarter: logit -0.5
    pixels[:, 32:] = TISSUE  # half of it on the slide, that half full of tissue; the darkest is scaled to 0: logit -1
    predict(out, pixels)
    recorded = read_json(out / "heatmaps/s1/heatmap.json")
    assert (recorded["counts"]["tumour"], recorded["counts"]["predicted"]) == (1, 3)
    due = pytest.approx(1 / (1 + 1 / 4 + 1 / 2), rel=1e-8)  # in areas of a patch; of the patches it would be 1 / 3
    assert recorded["summary"]["positive_share"] == due
    assert pd.read_csv(out / "cohort.csv").loc[0, "positive_share"] == due
    assert pd.read_csv(out / "patients.csv").loc[0, "positive_share"] == due
    cohort = open_cohort(out)
    assert cohort.rows()[0]["positive_share"] == due
    assert slide_facts(cohort.open("s1"))["summary"]["positive_share"] == due
    page = write_report(out)
    assert pd.read_csv(page.parent / "predictions.csv").loc[0, "positive_share"] == due
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
