"""A slide's prediction as an object: made from a slide, and read from a folder."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from made_prediction import GLASS, TISSUE, TUMOUR, grey_slide, mean_model, predict_to

from pathopatch.core.artefacts import content_fingerprint
from pathopatch.core.errors import InputCorruptError, InputMissingError, InputUnsupportedError
from pathopatch.heatmaps.slide_prediction import SlidePrediction, predict_slide, read_prediction
from pathopatch.patches.annotations.polygons import border_lines
from pathopatch.slides import open_slide

MPP = 0.5
model = partial(mean_model, gain=2.0, bias=1.0)


def write_slide(path: Path, *, width: int = 100) -> Path:
    """Write 7 x 6 cells of 16 px: one tumour cell at (row 1, column 2), one of other tissue at (row 3, column 4)."""
    image = np.full((84, width), GLASS, np.uint8)
    image[16:32, 32:48] = TUMOUR
    image[48:64, 64:80] = TISSUE
    grey_slide(path, image).close()
    return path


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return write_slide(tmp_path / "s1.tif")


@pytest.fixture
def predicted(path: Path) -> SlidePrediction:
    with open_slide(path, channels=("SHG",), background="dark") as slide:
        return predict_slide(slide, model())


def written(path: Path, out: Path, *slide_ids: str) -> Path:
    for slide_id in slide_ids:
        with open_slide(path, channels=("SHG",), background="dark") as slide:
            predict_to(slide, model(), out, slide_id=slide_id)
    return out


def test_maps_and_table_lie_where_the_tissue_is(predicted: SlidePrediction) -> None:
    assert predicted.table["patch_id"].tolist() == ["s1@32,16", "s1@64,48"]
    assert predicted.is_positive.tolist() == [True, False]
    has_value = np.isfinite(predicted.maps["probability"])
    assert np.argwhere(has_value).tolist() == [[1, 2], [3, 4]]
    assert predicted.maps["probability"][1, 2] == predicted.table["probability"][0]
    assert (predicted.cell_px, predicted.size_px, predicted.mpp) == (16.0, (100, 84), MPP)


def test_a_prediction_that_was_written_is_read_as_it_was_made(tmp_path: Path, predicted: SlidePrediction) -> None:
    out = written(tmp_path / "s1.tif", tmp_path / "out", "s1")
    read = read_prediction(str(out))
    pd.testing.assert_frame_equal(read.table, predicted.table)
    assert list(read.maps) == list(predicted.maps)
    for name, values in predicted.maps.items():
        np.testing.assert_allclose(read.maps[name], values, rtol=1e-6)
    for name in ("slide_id", "cell_px", "size_px", "mpp", "class_names", "decision_threshold", "decision_probability"):
        assert getattr(read, name) == getattr(predicted, name), name


def test_a_slide_that_the_model_was_trained_on_is_told(tmp_path: Path, path: Path) -> None:
    known = model(training={"train_slides": content_fingerprint([path])[:16]})
    with open_slide(path, channels=("SHG",), background="dark") as slide:
        predicted = predict_slide(slide, known)
        predict_to(slide, known, tmp_path / "out", slide_id="s1")
    assert predicted.leakage == read_prediction(tmp_path / "out").leakage == "trained on"
    assert repr(predicted).endswith(" tumour, by a model that was trained on this slide>")


def test_of_several_slides_one_that_is_there_is_to_be_named(tmp_path: Path, path: Path) -> None:
    out = written(path, tmp_path / "out", "a", "b")
    with pytest.raises(InputUnsupportedError, match="2 slides are predicted here.*name one of a, b"):
        read_prediction(out)
    assert read_prediction(out, "b").slide_id == "b"
    with pytest.raises(InputMissingError, match="no prediction of '../a'.*name one of a, b"):
        read_prediction(out, "../a")
    with pytest.raises(InputMissingError, match="name the folder that pathopatch predict wrote"):
        read_prediction(tmp_path / "elsewhere")


@pytest.mark.parametrize("name", ["heatmaps/a/heatmap.ome.tif", "predictions/a.parquet", "heatmaps/a/heatmap.json"])
def test_a_damaged_prediction_is_refused(tmp_path: Path, path: Path, name: str) -> None:
    damaged = written(path, tmp_path / "out", "a") / name
    content = damaged.read_bytes()
    damaged.write_bytes(content.replace(b'"mpp": 0.5', b'"mpp": 0.6') if name.endswith("json") else content[:-1])
    with pytest.raises(InputCorruptError, match="predict the slide again"):
        read_prediction(tmp_path / "out")


def test_border_lines_surround_what_is_inside() -> None:
    inside = np.array([[True, True], [False, True]])
    lines = border_lines(inside)
    assert np.abs(lines[:, 1] - lines[:, 0]).sum() == 8  # of an L of three cells
    assert len(border_lines(np.zeros((2, 3), np.bool_))) == 0


def test_a_slide_without_tissue_has_an_empty_table(tmp_path: Path) -> None:
    with grey_slide(tmp_path / "a.tif", np.full((64, 64), GLASS, np.uint8)) as slide:
        empty = predict_slide(slide, model())
    assert len(empty.table) == 0
    assert repr(empty) == "<SlidePrediction 'a': 0 patches predicted, 0 tumour>"
