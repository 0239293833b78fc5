"""A slide's prediction as an object: made from a slide, read from a folder, and drawn."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from made_prediction import GLASS, TISSUE, TUMOUR, grey_slide, mean_model, predict_to

from pathopatch.core.artefacts import content_fingerprint
from pathopatch.core.errors import ChannelMismatchError, InputCorruptError, InputMissingError, InputUnsupportedError
from pathopatch.heatmaps.slide_prediction import SlidePrediction, predict_slide, read_prediction
from pathopatch.models.forward import Ensemble
from pathopatch.patches.annotations.polygons import border_lines
from pathopatch.slides import open_slide

mpl.use("agg")  # a screen is not needed
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
    assert predicted.picture is not None
    assert predicted.picture.shape == (84, 100, 3)


def test_a_prediction_that_was_written_is_read_as_it_was_made(tmp_path: Path, predicted: SlidePrediction) -> None:
    out = written(tmp_path / "s1.tif", tmp_path / "out", "s1")
    with open_slide(tmp_path / "s1.tif", channels=("SHG",)) as slide:
        read = read_prediction(str(out), slide=slide)
    pd.testing.assert_frame_equal(read.table, predicted.table)
    assert list(read.maps) == list(predicted.maps)
    for name, values in predicted.maps.items():
        np.testing.assert_allclose(read.maps[name], values, rtol=1e-6)
    for name in ("slide_id", "cell_px", "size_px", "mpp", "class_names", "decision_threshold", "decision_probability"):
        assert getattr(read, name) == getattr(predicted, name), name
    np.testing.assert_array_equal(read.picture, predicted.picture)
    assert read_prediction(out).picture is None


def test_a_slide_that_the_model_was_trained_on_is_told_on_its_plot(tmp_path: Path, path: Path) -> None:
    known = model(training={"train_slides": content_fingerprint([path])[:16]})
    with open_slide(path, channels=("SHG",), background="dark") as slide:
        predicted = predict_slide(slide, known)
        predict_to(slide, known, tmp_path / "out", slide_id="s1")
    assert predicted.leakage == read_prediction(tmp_path / "out").leakage == "trained on"
    axes = predicted.plot()
    assert axes.get_title().endswith("\nmodel was trained on this slide")
    plt.close(axes.figure)


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


def test_another_slide_is_not_drawn_under_a_prediction(tmp_path: Path, path: Path) -> None:
    out = written(path, tmp_path / "out", "a")
    other = write_slide(tmp_path / "other.tif", width=101)
    with pytest.raises(InputUnsupportedError, match="101 x 84 px, the predicted one 100 x 84 px"):
        read_prediction(out, slide=other)
    with pytest.raises(ChannelMismatchError, match="the predicted one SHG"):
        read_prediction(out, slide={"CARS": path})


def test_a_plot_has_axes_in_micrometres_and_the_cells_in_place(predicted: SlidePrediction) -> None:
    axes = predicted.plot()
    slide, heat = axes.images
    assert slide.get_extent() == [0, 50, 42, 0]  # 100 x 84 px of 0.5 um
    assert heat.get_extent() == [0, 56, 48, 0]  # 7 x 6 cells of 8 um: the last ones overhang
    assert axes.get_xlim() == (0, 50)
    assert (axes.get_xlabel(), axes.get_title()) == ("um", "s1\n1 of 2 patches tumour (above 0.50)")
    # The slide is half black, half white under the map, and so is the ground of the colour bar.
    assert axes.figure.axes[1].get_facecolor() == (0.5, 0.5, 0.5, 1)
    area, lines, _ = axes.collections
    np.testing.assert_allclose(np.unique(np.concatenate(area.get_segments()), axis=0)[0], [16, 8])
    corners = np.unique(np.concatenate(lines.get_segments()), axis=0)
    np.testing.assert_allclose(corners, [[16, 8], [16, 16], [24, 8], [24, 16]])  # the one cell above the decision
    plt.close(axes.figure)


def test_a_plot_draws_on_given_axes_and_without_the_slide(predicted: SlidePrediction) -> None:
    figure, (left, right) = plt.subplots(1, 2)
    alone = SlidePrediction(**(vars(predicted) | {"picture": None, "slide_id": r"a$\bad$c", "mpp": 50.0}))
    assert alone.plot("tissue_fraction", axes=right) is right
    assert not left.images
    assert len(right.images) == 1
    assert (right.get_xlabel(), right.get_title()) == ("mm", "a$\\bad$c\ntissue fraction")
    figure.canvas.draw()  # a formula would fail here
    plt.close(figure)


def test_only_an_ensemble_has_a_map_of_the_spread(path: Path, predicted: SlidePrediction) -> None:
    with pytest.raises(InputUnsupportedError, match="no map 'spread'.*use probability, tissue_fraction, coverage"):
        predicted.plot("spread")
    with open_slide(path, channels=("SHG",), background="dark") as slide:
        both = predict_slide(slide, Ensemble([model(), model(temperature=2.0)]))
    axes = both.plot("spread")
    assert axes.get_title() == "s1\nspread"
    plt.close(axes.figure)


def test_border_lines_surround_what_is_inside() -> None:
    inside = np.array([[True, True], [False, True]])
    lines = border_lines(inside)
    assert np.abs(lines[:, 1] - lines[:, 0]).sum() == 8  # of an L of three cells
    assert len(border_lines(np.zeros((2, 3), np.bool_))) == 0


def test_a_slide_without_tissue_has_a_plot_and_an_empty_table(tmp_path: Path) -> None:
    with grey_slide(tmp_path / "a.tif", np.full((64, 64), GLASS, np.uint8)) as slide:
        empty = predict_slide(slide, model())
    assert len(empty.table) == 0
    assert repr(empty) == "<SlidePrediction 'a': 0 patches predicted, 0 tumour>"
    axes = empty.plot()
    axes.figure.canvas.draw()
    assert axes.get_title() == "a\n0 of 0 patches tumour (above 0.50)"
    plt.close(axes.figure)
