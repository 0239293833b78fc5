"""A head on features predicts slides from feature files; the outputs are those of a slide."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import made_features
import numpy as np
import pandas as pd
import pytest
import torch
from made_prediction import predict_features_to
from made_slides import write_rgb_pyramid

from pathopatch.core.artefacts import content_fingerprint, read_table
from pathopatch.core.config import PredictConfig
from pathopatch.core.errors import InputMissingError, InputUnsupportedError, MppMissingError
from pathopatch.core.files import read_json
from pathopatch.features.readers import open_features
from pathopatch.features.slide_features import Encoder, SlideFeatures
from pathopatch.features.source import grid_of_patches
from pathopatch.heatmaps.pyramids import read_ome_tiff
from pathopatch.models.bundle import save_bundle
from pathopatch.models.forward import Ensemble
from pathopatch.models.loading import load_model
from pathopatch.models.networks import build_network
from pathopatch.models.spec import BundleSpec
from pathopatch.review.reviewed_cohort import ReviewedCohort
from pathopatch.slides import open_slide
from pathopatch.stages.find_slides import features_to_predict
from pathopatch.stages.predict import predict_cohort

DIM, SIDE = made_features.DIM, made_features.SIDE
WEIGHT = np.linspace(-0.4, 0.6, DIM, dtype=np.float32)
MEAN = 40.0


def write_head(folder: Path, **changes: object) -> Path:
    """Write a linear head whose logit is ``WEIGHT @ (x - MEAN)``, and that knows its encoder by name."""
    encoder = {"dim": DIM, "name": "uni_v1"}
    values = {
        "architecture": "linear", "channels": (), "encoder": encoder, "dtype": "float32", "patch_px": 1,
        "stride_px": 1, "input_px": 1, "mean": (MEAN,) * DIM, "std": (1.0,) * DIM, "method": "gerne",
    }  # fmt: skip
    spec = BundleSpec(**{**values, **changes})
    network = build_network("linear", DIM, n_classes=2, input_px=1)
    state = {name: torch.zeros_like(value) for name, value in network.state_dict().items()}
    state["classifier.weight"][1] = torch.from_numpy(WEIGHT)
    network.load_state_dict(state)
    save_bundle(folder, network, spec)
    return folder


def logits(slide_id: str) -> np.ndarray:
    """Return what the head gives for the patches of a made slide."""
    return (made_features.vectors(slide_id) - MEAN) @ WEIGHT


@pytest.fixture
def head(tmp_path: Path) -> Path:
    return write_head(tmp_path / "head")


@pytest.fixture
def model(head: Path) -> Ensemble:
    return Ensemble([load_model(head)])


def features_of(slide_id: str = "A", **changes: object) -> SlideFeatures:
    xy = made_features.XY[slide_id].astype(np.float64)
    made = SlideFeatures(
        slide_id=slide_id, features=made_features.vectors(slide_id), encoder=Encoder(dim=DIM, name="uni_v1"),
        path=Path(__file__), x=xy[:, 0], y=xy[:, 1], side=SIDE, mpp=0.5, size_px=made_features.SIZE_PX,
    )  # fmt: skip
    return replace(made, **changes)


def test_a_folder_of_features_becomes_tables_maps_and_a_cohort(
    tmp_path: Path, head: Path, typed: Callable[..., int], capsys: pytest.CaptureFixture[str]
) -> None:
    folder, out = made_features.trident(tmp_path), tmp_path / "out"
    assert typed("predict", folder, "--model", head, "-o", out, "--slide-mpp", 0.5, "--quiet") == 0
    pictures = [str(out / "heatmaps" / name / "overlay.png") for name in "AB"]
    assert capsys.readouterr().out.splitlines()[:2] == pictures
    for slide_id in "AB":
        table = read_table(out / "predictions" / f"{slide_id}.parquet")
        np.testing.assert_array_equal(table[["x", "y"]], made_features.XY[slide_id])
        assert set(table["width"]) == {SIDE}
        np.testing.assert_allclose(table["logit"], logits(slide_id), rtol=1e-5)
        np.testing.assert_allclose(table["probability"], 1 / (1 + np.exp(-logits(slide_id))), rtol=1e-4)
        heatmap = read_ome_tiff(out / "heatmaps" / slide_id / "heatmap.ome.tif")
        assert (heatmap.cell_um, heatmap.levels[0].shape) == (SIDE * 0.5, (2, 8, 8))
        column, row = (made_features.XY[slide_id] // SIDE).T
        np.testing.assert_allclose(heatmap.levels[0][0][row, column], table["probability"], rtol=1e-5)
        assert np.isfinite(heatmap.levels[0][0]).sum() == len(table)
    cohort = pd.read_csv(out / "cohort.csv")
    assert cohort["slide_id"].tolist() == ["A", "B"]
    assert cohort["predicted"].tolist() == [4, 2]
    assert cohort["tumour"].tolist() == [int((logits(name) > 0).sum()) for name in "AB"]
    assert cohort["tissue_mm2"].isna().all()  # TRIDENT stores no tissue fraction
    assert cohort["warnings"].str.contains("tissue fractions are not known").all()


@pytest.mark.slow
def test_features_and_slides_that_a_head_knows_are_told(tmp_path: Path, head: Path) -> None:
    folder = made_features.trident(tmp_path)
    width, height = made_features.SIZE_PX
    (tmp_path / "slides").mkdir()
    for name, value in (("A", 200), ("B", 210)):
        pixels = np.full((3, height, width), value, np.uint8)
        write_rgb_pyramid(tmp_path / "slides" / f"{name}.tif", pixels, mpp=0.5, levels=1)
    of_file = open_features(folder).fingerprint("A")[:16]
    of_slide = content_fingerprint([tmp_path / "slides" / "B.tif"])[:16]
    write_head(head, training={"train_slides": of_file, "val_slides": of_slide})
    for slides, words in ((None, ["trained on", ""]), (tmp_path / "slides", ["trained on", "selected on"])):
        out = tmp_path / f"out-{slides is None}"
        predict_cohort(features_to_predict(folder, slides=slides), head, out, PredictConfig(), slide_mpp=0.5)
        assert pd.read_csv(out / "cohort.csv")["leakage"].fillna("").tolist() == words


def test_a_manifest_without_a_row_for_a_feature_file_is_refused(tmp_path: Path) -> None:
    folder = made_features.trident(tmp_path)
    write_rgb_pyramid(tmp_path / "A.tif", np.full((3, 64, 64), 200, np.uint8), mpp=0.5, levels=1)
    (tmp_path / "slides.csv").write_text("slide_id,patient_id,path\nA,p1,A.tif\n")
    with pytest.raises(InputMissingError, match="no row for 1 of 2 feature files, such as B"):
        features_to_predict(folder, slides=tmp_path / "slides.csv")


def test_a_scale_of_the_slide_that_the_feature_file_contradicts_is_said() -> None:
    (note,) = features_of(mpp=0.5).in_level0_px(0.25).notes
    assert note == "um/px: 0.5 of the feature file counts for the patches, though the slide has 0.25"
    assert features_of(mpp=0.5).in_level0_px(0.505).notes == ()


def test_a_head_on_other_features_leaves_what_is_finished(tmp_path: Path, head: Path) -> None:
    folder = made_features.trident(tmp_path)
    predict_cohort(features_to_predict(folder), head, tmp_path / "out", PredictConfig(), slide_mpp=0.5)
    before = (tmp_path / "out" / "cohort.csv").read_bytes()
    other = write_head(tmp_path / "other", encoder={"dim": DIM, "name": "virchow2"})
    outcomes = predict_cohort(features_to_predict(folder), other, tmp_path / "out", PredictConfig(), slide_mpp=0.5)
    assert {outcome.code for outcome in outcomes} == {"CHECKPOINT_INCOMPATIBLE"}
    assert (tmp_path / "out" / "cohort.csv").read_bytes() == before


def test_a_slide_of_another_size_than_the_features_state_is_refused(tmp_path: Path, model: Ensemble) -> None:
    width, height = made_features.SIZE_PX
    write_rgb_pyramid(tmp_path / "A.tif", np.full((3, height // 2, width // 2), 200, np.uint8), mpp=0.5, levels=1)
    said = f"the slide has {width // 2} x {height // 2} px, and the features of A are of a slide of {width} x {height}"
    with open_slide(tmp_path / "A.tif") as slide, pytest.raises(InputUnsupportedError, match=said):
        predict_features_to(features_of(), model, tmp_path / "out", slide=slide, config=PredictConfig())
    assert not (tmp_path / "out").exists()


def test_patches_below_the_least_tissue_are_not_predicted_unless_asked_for(tmp_path: Path, model: Ensemble) -> None:
    features = features_of(tissue_fraction=np.array([0.005, 0.5, 0.9, 1.0], np.float32))
    result = predict_features_to(features, model, tmp_path / "out", config=PredictConfig())
    assert (result.counts["patches"], result.counts["predicted"]) == (4, 3)
    # Patches of 512 px of 0.5 um: 0.065536 mm2 each.
    summary = read_json(tmp_path / "out" / "heatmaps" / "A" / "heatmap.json")["summary"]
    assert summary["tissue_mm2"] == pytest.approx((0.005 + 0.5 + 0.9 + 1.0) * 0.065536, rel=1e-6)
    every = predict_features_to(features, model, tmp_path / "all", config=PredictConfig(all_patches=True))
    assert every.counts["predicted"] == 4


def test_patches_of_several_grids_count_in_the_nearest_cell(tmp_path: Path, model: Ensemble) -> None:
    x, y = np.array([0.0, 512.0, 900.0, 1412.0]), np.array([0.0, 0.0, 600.0, 600.0])
    features = features_of(x=x, y=y)
    grid, is_on_grid = grid_of_patches(features, made_features.SIZE_PX)
    assert (grid.stride, is_on_grid) == (512, False)
    predict_features_to(features, model, tmp_path / "out", config=PredictConfig())
    table = read_table(tmp_path / "out" / "predictions" / "A.parquet")
    np.testing.assert_array_equal(table["x"], x)  # exact in the table
    assert read_json(tmp_path / "out" / "heatmaps" / "A" / "heatmap.json")["placement"] == "nearest"
    cells = read_ome_tiff(tmp_path / "out" / "heatmaps" / "A" / "heatmap.ome.tif").levels[0][0]
    assert [tuple(cell) for cell in np.argwhere(np.isfinite(cells))] == [(0, 0), (0, 1), (1, 2), (1, 3)]
    np.testing.assert_allclose(cells[np.isfinite(cells)], table["probability"], rtol=1e-5)
    reviewed = ReviewedCohort(tmp_path / "out").open("A")
    assert len(reviewed.patches) == 4


def test_overlapping_patches_are_averaged_by_area(tmp_path: Path, model: Ensemble) -> None:
    x = np.array([0.0, 256.0, 512.0, 768.0])
    features = features_of(x=x, y=np.zeros(4))
    grid, is_on_grid = grid_of_patches(features, made_features.SIZE_PX)
    assert (grid.stride, grid.extent, is_on_grid) == (256, 512, True)
    predict_features_to(features, model, tmp_path / "out", config=PredictConfig())
    probability = 1 / (1 + np.exp(-logits("A")))
    cells = read_ome_tiff(tmp_path / "out" / "heatmaps" / "A" / "heatmap.ome.tif").levels[0][0]
    expected = [probability[0], probability[:2].mean(), probability[1:3].mean(), probability[2:].mean()]
    np.testing.assert_allclose(cells[0, :4], expected, rtol=1e-4)


def test_patches_with_gaps_fill_their_cells(tmp_path: Path, model: Ensemble) -> None:
    features = features_of(x=512.0 * np.arange(4), y=np.zeros(4), side=256.0)
    grid, is_on_grid = grid_of_patches(features, made_features.SIZE_PX)
    assert (grid.stride, grid.extent, is_on_grid) == (512, 256, True)
    predict_features_to(features, model, tmp_path / "out", config=PredictConfig())
    cells, _ = read_ome_tiff(tmp_path / "out" / "heatmaps" / "A" / "heatmap.ome.tif").levels[0]
    np.testing.assert_allclose(cells[0, :3], 1 / (1 + np.exp(-logits("A")[:3])), rtol=1e-4)


def test_a_step_of_micrometres_need_not_be_whole_pixels() -> None:
    step = 256 / 0.2532
    x = step * np.arange(40)
    features = features_of(x=np.tile(x, 2), y=np.repeat([0.0, step], 40), side=step, features=np.zeros((80, DIM)))
    grid, is_on_grid = grid_of_patches(features, (50000, 4000))
    assert (grid.stride, is_on_grid) == (pytest.approx(step), True)


def test_a_slide_without_patches_is_done_and_empty(tmp_path: Path, model: Ensemble) -> None:
    nothing = features_of(features=np.empty((0, DIM), np.float32), x=np.empty(0), y=np.empty(0))
    result = predict_features_to(nothing, model, tmp_path / "out", config=PredictConfig())
    assert (result.state, result.counts["patches"]) == ("done_empty", 0)


def test_features_without_scale_side_or_coordinates_are_refused(tmp_path: Path, model: Ensemble) -> None:
    out, config = tmp_path / "out", PredictConfig()
    with pytest.raises(MppMissingError, match="--slide-mpp"):
        predict_features_to(features_of(mpp=None), model, out, config=config)
    with pytest.raises(InputUnsupportedError, match="without coordinates"):
        predict_features_to(features_of(x=None, y=None), model, out, config=config)
    with pytest.raises(InputUnsupportedError, match="without stride_px"):
        predict_features_to(features_of(), model, out, config=PredictConfig(stride_px=8))


@pytest.mark.slow
def test_the_slides_are_drawn_measured_and_shown_in_review(
    tmp_path: Path, head: Path, typed: Callable[..., int]
) -> None:
    folder = made_features.trident(tmp_path, slides=("A",))
    pixels = np.full((3, 4096, 4096), 240, np.uint8)
    pixels[:, :1024, :768] = np.array([170, 90, 150])[:, None, None]
    (tmp_path / "slides").mkdir()
    write_rgb_pyramid(tmp_path / "slides" / "A.tif", pixels, levels=3, mpp=0.5)
    out = tmp_path / "out"
    arguments = ("predict", folder, "--model", head, "-o", out, "--slides", tmp_path / "slides", "--quiet")
    (tmp_path / "all.toml").write_text("[predict]\nall_patches = true\n")
    assert typed(*arguments, "--config", tmp_path / "all.toml") == 0
    table = read_table(out / "predictions" / "A.parquet")
    np.testing.assert_allclose(table["tissue_fraction"], [1.0, 0.5, 1.0, 0.0], atol=0.02)
    reviewed = ReviewedCohort(out).open("A")
    assert reviewed.why_no_pixels() is None
    with open_slide(tmp_path / "slides" / "A.tif") as slide, reviewed.reading() as shown:
        assert shown.size == slide.size
    reviewed.close()


def test_a_slide_for_a_head_on_features_is_refused(tmp_path: Path, head: Path, said: Callable) -> None:
    write_rgb_pyramid(tmp_path / "s.tif", np.full((3, 64, 64), 200, np.uint8), levels=1, mpp=0.5)
    told = said("predict", tmp_path / "s.tif", "--model", head, "-o", tmp_path / "out", code=1).err
    assert "the model takes features, and this file has none" in told


def test_a_model_of_patches_takes_no_slides_option(tmp_path: Path, typed: Callable[..., int]) -> None:
    from made_model import write_model

    arguments = ("predict", "s.tif", "--model", write_model(tmp_path / "m"), "-o", tmp_path, "--slides", tmp_path)
    assert typed(*arguments) == 2
