"""Predictions corrected for the tissue area: refused without a fitting verdict, marked, and as computed by hand."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pandas as pd
import pytest
from array_slides import h_and_e
from made_model import write_model
from made_slides import write_rgb_pyramid

from pathopatch.core.config import PredictConfig
from pathopatch.core.files import read_json, write_json
from pathopatch.debias.interventions import set_area
from pathopatch.evaluation.area_reliance import margins_of
from pathopatch.heatmaps.slide_prediction import predict_slide, read_prediction
from pathopatch.models.bundle import SPEC, bundle_fingerprint, record_reliance
from pathopatch.models.loading import load_ensemble
from pathopatch.models.spec import AreaReliance
from pathopatch.patches.intensity import scale
from pathopatch.slides import open_slide

AREAS, RESPONSE = (0.1, 0.5, 0.9), (-0.2, 0.1, 0.3)


@pytest.fixture(scope="module")
def slide(tmp_path_factory: pytest.TempPathFactory) -> Path:
    rng = np.random.default_rng(0)
    field = cv2.GaussianBlur(rng.normal(size=(128, 128)), (0, 0), 8)
    image = h_and_e(field > np.quantile(field, 0.6)) + rng.integers(0, 8, (3, 128, 128)).astype(np.uint8)
    path = tmp_path_factory.mktemp("slides") / "S.tif"
    write_rgb_pyramid(path, image, levels=1)
    return path


def write_asked(folder: Path, **changed: Any) -> Path:
    """Write a bundle with a record by which it relies on the area."""
    write_model(folder)
    values: dict[str, Any] = {
        "verdict": "relies", "direction": 1, "eta": 0.5, "adj": 2.0, "slides": 9, "patients": 9, "patches": 180,
        "date": "2026-11-30", "model": bundle_fingerprint([folder]), "backgrounds": ("bright",), "mpp": (0.5, 0.5),
        "areas": AREAS, "response": RESPONSE, "shift": {"subtract": 0.05, "average": -0.05},
        "turned": {"subtract": 0.125, "average": 0.25},
    }  # fmt: skip
    record_reliance(folder, AreaReliance(**(values | changed)))
    return folder


def predicted(slide: Path, model: Path, how: str = "none") -> pd.DataFrame:
    return predict_slide(slide, model, config=PredictConfig(device="cpu", area_correct=how)).table


def test_subtracting_takes_the_mean_response_at_each_patchs_own_area(slide: Path, tmp_path: Path) -> None:
    model = write_asked(tmp_path / "model")
    plain, table = predicted(slide, model), predicted(slide, model, "subtract")
    expected = plain["logit"] - np.interp(plain["tissue_fraction"], AREAS, RESPONSE) + 0.05
    np.testing.assert_allclose(table["logit"], expected, atol=1e-12)
    np.testing.assert_allclose(table["probability"], 1 / (1 + np.exp(-expected)), atol=1e-12)
    assert plain["tissue_fraction"].nunique() > 5


def test_averaging_takes_the_mean_answer_over_the_areas(slide: Path, tmp_path: Path) -> None:
    model = write_asked(tmp_path / "model")
    table, margins = predicted(slide, model, "average"), margins_of(load_ensemble([model], device="cpu"))
    with open_slide(slide) as opened:
        pixels = opened.read_region(0, 0, *opened.size)
    tissue = pixels.mean(axis=0) < 200
    clear = scale(pixels, np.array([[0, 255]] * 3))
    checked = 0
    for row in table.itertuples():
        y, x = slice(row.y, row.y + 16), slice(row.x, row.x + 16)
        if not 0.2 < tissue[y, x].mean() < 0.8 or tissue[y, x].mean() != row.tissue_fraction:
            continue
        edits = [
            set_area(clear[:, y, x], tissue[y, x], area, np.random.default_rng((row.x, row.y, place)))
            for place, area in enumerate(AREAS)
        ]
        answers = margins(np.stack([edit.pixels for edit in edits]), np.stack([edit.tissue for edit in edits]))
        assert row.logit == pytest.approx(answers.mean() - 0.05, abs=1e-3)
        checked += 1
    assert checked >= 3


def test_all_that_is_written_says_that_it_is_corrected(
    typed: Callable[..., int], slide: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model, out = write_asked(tmp_path / "model"), tmp_path / "out"
    command = ("predict", slide, "--model", model, "-o", out, "--device", "cpu")
    assert typed(*command, "--area-correct", "subtract") == 0
    said = capsys.readouterr().err
    assert "corrected for the tissue area (subtract)" in said
    assert "12% got another answer" in said  # the price
    facts = read_json(out / "heatmaps" / "S" / "heatmap.json")
    assert facts["class_names"] == ["non-tumour (corrected)", "tumour (corrected)"]
    assert facts["method"] == "erm, corrected for the tissue area"
    assert "prob_tumour (corrected)" in (out / "heatmaps" / "S" / "patches.csv").read_text()
    assert read_prediction(out).class_names[1] == "tumour (corrected)"
    record = read_json(next((out / "models").glob("*.json")))
    assert record["members"][0]["name"].endswith("corrected for the tissue area")
    assert "it relies on it (more tissue, more tumour); asked on 2026-11-30" in record["members"][0]["card"]
    assert typed(*command) == 1  # the corrected outputs stand there
    assert "STALE" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("changed", "word"),
    [
        ({"verdict": "not shown", "direction": 0}, "not shown to rely"),
        ({"model": "another"}, "has changed since"),
        ({"mpp": (0.25, 0.45)}, "0.25 to 0.45 um/px"),
        ({"mpp": None}, "audited on slides"),
        ({"backgrounds": ("dark",)}, "background dark"),
    ],
)
def test_a_record_that_does_not_fit_is_refused(
    typed: Callable[..., int],
    slide: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    changed: dict[str, Any],
    word: str,
) -> None:
    model = write_asked(tmp_path / "model", **changed)
    command = ("predict", slide, "--model", model, "-o", tmp_path / "out", "--device", "cpu")
    assert typed(*command, "--area-correct", "average") != 0
    said = " ".join(capsys.readouterr().err.split())
    assert "CHECKPOINT_INCOMPATIBLE" in said
    assert word in said


def test_a_model_that_nobody_asked_is_not_corrected(
    typed: Callable[..., int], slide: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = write_model(tmp_path / "model")
    command = ("predict", slide, "--model", model, "-o", tmp_path / "out", "--area-correct", "subtract")
    assert typed(*command) == 1
    assert "nobody has asked" in capsys.readouterr().err
    assert not (tmp_path / "out" / "heatmaps").exists()


def test_a_record_changes_neither_model_nor_decision(tmp_path: Path) -> None:
    before = bundle_fingerprint([write_model(tmp_path / "plain")])
    model = write_asked(tmp_path / "model")
    assert bundle_fingerprint([model]) == before
    spec = read_json(model / SPEC)
    write_json(model / SPEC, spec | {"decision_threshold": 0.5})
    assert bundle_fingerprint([model]) != before
