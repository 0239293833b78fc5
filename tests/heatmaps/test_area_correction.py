"""Predictions corrected for the tissue area: refused without a fitting verdict, marked, and as computed by hand."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pandas as pd
import pytest
from array_slides import h_and_e
from made_model import edit_spec, made_spec, write_model
from made_slides import write_png, write_rgb_pyramid
from pydantic import ValidationError

from pathopatch.core.config import PredictConfig
from pathopatch.core.files import read_json
from pathopatch.debias.interventions import set_area
from pathopatch.evaluation.area_reliance import margins_of
from pathopatch.heatmaps.model_record import read_model_record
from pathopatch.heatmaps.slide_prediction import predict_slide, read_prediction
from pathopatch.models.bundle import bundle_fingerprint, record_reliance, save_bundle
from pathopatch.models.forward import correct_for_area
from pathopatch.models.loading import load_ensemble
from pathopatch.models.networks import build_network
from pathopatch.models.spec import AreaReliance
from pathopatch.patches.intensity import scale
from pathopatch.slides import open_slide
from pathopatch.stages.area_samples import find_sources
from pathopatch.stages.audit_model import TABLE, audit_model

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
    return write_record(write_model(folder), **changed)


def write_record(folder: Path, **changed: Any) -> Path:
    values: dict[str, Any] = {
        "verdict": "relies", "direction": 1, "eta": 0.5, "adj": 2.0, "slides": 9, "patients": 9, "patches": 180,
        "date": "2026-11-30", "model": bundle_fingerprint([folder]), "backgrounds": ("bright",), "mpp": (0.5, 0.5),
        "areas": AREAS, "response": RESPONSE, "shift": {"subtract": 0.05, "average": -0.05},
        "turned": {"subtract": 0.125, "average": 0.25},
    }  # fmt: skip
    record_reliance(folder, AreaReliance(**(values | changed)))
    return folder


def predicted(slide: Path, model: Path, how: str = "none", *, mask: Path | None = None) -> pd.DataFrame:
    return predict_slide(slide, model, config=PredictConfig(device="cpu", area_correct=how), tissue_mask=mask).table


def test_subtracting_takes_the_mean_response_at_each_patchs_own_area(slide: Path, tmp_path: Path) -> None:
    model = write_asked(tmp_path / "model", mpp=(0.509, 0.6))  # 1.8 % above the slide's is like it
    plain, table = predicted(slide, model), predicted(slide, model, "subtract")
    expected = plain["logit"] - np.interp(plain["tissue_fraction"], AREAS, RESPONSE) + np.mean(RESPONSE) + 0.05
    np.testing.assert_allclose(table["logit"], expected, atol=1e-12)
    np.testing.assert_allclose(table["probability"], 1 / (1 + np.exp(-expected)), atol=1e-12)
    assert plain["tissue_fraction"].nunique() > 5


def test_averaging_takes_the_mean_answer_over_the_areas(slide: Path, tmp_path: Path) -> None:
    model = write_asked(tmp_path / "model", mpp=(0.4, 0.491))  # and 1.8 % below
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
    full = table["tissue_fraction"] == 1  # here the ground is that of another patch
    moved = (table["logit"] - predicted(slide, model)["logit"])[full].round(6)
    assert moved.nunique() == full.sum() >= 3


def test_patches_of_little_tissue_or_no_ground_are_corrected_by_the_mean_response(slide: Path, tmp_path: Path) -> None:
    model, full, mask = write_asked(tmp_path / "model"), tmp_path / "full.tif", tmp_path / "mask.png"
    write_rgb_pyramid(full, h_and_e(np.ones((64, 72), bool)), levels=1)
    write_png(mask, np.full((1, 64, 72), 255, np.uint8))  # no ground but beyond its right edge
    for path, truth in ((slide, None), (full, mask)):
        table, other = (predicted(path, model, how, mask=truth) for how in ("average", "subtract"))
        expected = table["tissue_fraction"] < 0.1 if path == slide else table["x"] < 64
        assert expected.nunique() == 2
        np.testing.assert_array_equal(np.isclose(table["logit"] - other["logit"], -0.1), expected)  # the shifts differ


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
    assert facts["method"] == "erm, corrected for the tissue area (subtract)"
    assert read_prediction(out).class_names[1] == "tumour (corrected)"
    record = read_model_record(out, read_json(next((out / "models").glob("*.json")))["fingerprint"])
    assert record["members"][0]["name"].endswith("corrected for the tissue area (subtract)")
    assert "it relies on it (more tissue, more tumour); asked on 2026-11-30" in record["members"][0]["card"]
    assert typed(*command) == 1  # the corrected outputs stand there
    assert "STALE" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("changed", "word"),
    [
        ({"verdict": "not shown", "direction": 0}, "not shown to rely"),
        ({"model": "another"}, "as it is now"),
        ({"mpp": (0.25, 0.489)}, "0.25 to 0.489 um/px"),
        ({"mpp": (0.511, 0.6)}, "0.511 to 0.6 um/px"),
        ({"mpp": None}, "audited on slides"),
        ({"backgrounds": ("dark",)}, "background dark"),
    ],
)
def test_a_record_that_does_not_fit_is_refused(
    typed: Callable[..., int], slide: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], changed: Any, word: str
) -> None:
    model = write_asked(tmp_path / "model", **changed)
    command = ("predict", slide, "--model", model, "-o", tmp_path / "out", "--device", "cpu")
    assert typed(*command, "--area-correct", "average") != 0
    said = " ".join(capsys.readouterr().err.split())
    assert "CHECKPOINT_INCOMPATIBLE" in said
    assert word in said


def test_a_record_changes_neither_model_nor_decision(tmp_path: Path) -> None:
    before = bundle_fingerprint([write_model(tmp_path / "plain")])
    model = write_asked(tmp_path / "model")
    assert bundle_fingerprint([model]) == before
    edit_spec(model, decision_threshold=0.5)
    assert bundle_fingerprint([model]) != before


def test_areas_without_an_answer_do_not_bias_an_average() -> None:
    areas, response = (0.1, 0.3, 0.5, 0.7, 0.9), (-3.0, -1.5, 0.0, 1.5, 3.0)
    set_margin = np.tile(np.array(response) + 0.5, (3, 1))  # patches of the same evidence
    set_margin[1, :3] = np.nan
    set_margin[2] = np.nan
    margin, area = np.array([9.0, 9.0, 3.5]), np.array([0.5, 0.5, 0.9])
    made = correct_for_area(margin, area, set_margin, areas=areas, response=response)
    np.testing.assert_allclose(made, [0.5, 0.5, 0.5])


def test_a_patch_that_overhangs_is_corrected_by_the_area_that_the_network_sees(slide: Path, tmp_path: Path) -> None:
    model = write_asked(tmp_path / "model")
    with open_slide(slide) as opened:
        tissue = opened.read_region(0, 0, *opened.size).mean(axis=0) < 200
    write_rgb_pyramid(tmp_path / "edge.tif", h_and_e(tissue[:120, :120]), levels=1)
    plain, table = predicted(tmp_path / "edge.tif", model), predicted(tmp_path / "edge.tif", model, "subtract")
    at_edge = (plain["x"] == 112) & (plain["y"] < 112)  # of 16 px there, 8 lie on the slide
    seen = plain["tissue_fraction"] / np.where(at_edge, 2, 1)
    expected = plain["logit"] - np.interp(seen, AREAS, RESPONSE) + np.mean(RESPONSE) + 0.05
    chosen = at_edge | ((plain["x"] < 112) & (plain["y"] < 112))
    assert (at_edge & (plain["tissue_fraction"] > 0.2)).any()
    np.testing.assert_allclose(table["logit"][chosen], expected[chosen], atol=1e-9)


@pytest.mark.slow
def test_audit_and_correction_read_the_same_area_of_fine_tissue(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    field = cv2.GaussianBlur(rng.normal(size=(128, 128)), (0, 0), 8)
    write_rgb_pyramid(tmp_path / "S.tif", h_and_e((field > 0) & (rng.random(field.shape) < 0.65)), levels=1)
    save_bundle(tmp_path / "model", build_network("small-groupnorm", 3), made_spec(background="bright", input_px=8))
    model = write_record(tmp_path / "model")
    sources = find_sources([str(tmp_path / "S.tif")], out=tmp_path)
    audit_model([model], sources, tmp_path / "asked", PredictConfig(device="cpu"), per_slide=99)
    asked = pd.read_csv(tmp_path / "asked" / TABLE).set_index("patch_id")["tissue_fraction"]
    plain, table = (predicted(tmp_path / "S.tif", model, how).set_index("patch_id") for how in ("none", "subtract"))
    plain, table = plain.loc[asked.index], table.loc[asked.index]
    assert (asked - plain["tissue_fraction"]).max() > 0.1  # at the network's side the holes are closed
    expected = plain["logit"] - np.interp(asked, AREAS, RESPONSE) + np.mean(RESPONSE) + 0.05
    np.testing.assert_allclose(table["logit"], expected, atol=1e-9)


@pytest.mark.parametrize("mask", ["normalise", "interior"])
def test_masked_networks_and_networks_of_crops_are_averaged(slide: Path, tmp_path: Path, mask: str) -> None:
    crop_px = 8 if mask == "interior" else None
    spec = made_spec(background="bright", mask=mask, crop_px=crop_px)
    form = {"input_px": crop_px or 16, "is_masked": mask == "normalise"}
    save_bundle(tmp_path / "model", build_network("small-groupnorm", 3, **form), spec)
    model = write_record(tmp_path / "model")
    plain, table = predicted(slide, model), predicted(slide, model, "average")
    assert len(table) == len(plain) > 5
    assert np.isfinite(table["logit"]).all()
    assert (table["logit"] != plain["logit"]).any()


def test_a_model_that_nobody_asked_is_not_corrected_and_can_still_be_asked(
    typed: Callable[..., int], slide: Path, tmp_path: Path, said: Callable
) -> None:
    model, settings = write_model(tmp_path / "model"), tmp_path / "settings.toml"
    settings.write_text('[predict]\narea_correct = "average"\n')
    for how in (("--area-correct", "subtract"), ("--config", settings, "--dry-run")):
        told = said("predict", slide, "--model", model, "-o", tmp_path / "out", *how, code=1).err
        assert "nobody has asked" in told
    assert not (tmp_path / "out" / "heatmaps").exists()
    # The settings are for predict: the command that has to come first asks the model as it is.
    assert typed("audit-model", model, slide, "-o", tmp_path / "asked", "--config", settings) == 0


@pytest.mark.parametrize(
    "changed",
    [
        {"shift": {"subtract": 0.0}},
        {"turned": {}},
        {"areas": (), "response": ()},
        {"areas": (0.5, 1.5, 2.0)},
        {"areas": tuple(np.linspace(0, 1, 100).tolist()), "response": (0.0,) * 100},
        {"direction": 0},
        {"date": "2026-11-30\n# Made up"},
    ],
)
def test_a_record_that_cannot_be_is_refused(tmp_path: Path, changed: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        write_asked(tmp_path / "model", **changed)


def test_a_record_brings_no_other_file_into_the_bundle(tmp_path: Path) -> None:
    model = write_model(tmp_path / "model")
    (tmp_path / "secret").write_text("key")
    (model / "notes.txt").symlink_to(tmp_path / "secret")
    write_record(model)
    assert (model / "notes.txt").is_symlink()
