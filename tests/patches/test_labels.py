from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from pathopatch.core.config import LabelConfig, parse
from pathopatch.core.errors import InputUnsupportedError
from pathopatch.patches.grid import Grid
from pathopatch.patches.labels import LabelSource, SlideLabels, labels, patch_means, tumor_on_glass


def at(*origins: int) -> NDArray[np.int64]:
    return np.array(origins, np.int64)


def fractions(source: LabelSource | None) -> tuple[list[float], list[float]]:
    tumor, labelled = SlideLabels(source, slide_size=(4, 4)).fractions(at(0, 2), at(0, 0), 2.0)
    return tumor.tolist(), labelled.tolist()


def test_the_kind_of_label_source_decides_the_fractions(tmp_path: Path) -> None:
    pixels = np.zeros((4, 4), np.uint8)
    pixels[:, :1] = 255
    mask = tmp_path / "mask.png"
    assert cv2.imwrite(str(mask), pixels)
    assert fractions(LabelSource(tumor_mask=mask)) == ([0.5, 0.0], [1.0, 1.0])
    assert fractions(LabelSource(whole_slide="none")) == ([0.0, 0.0], [1.0, 1.0])
    assert fractions(LabelSource(whole_slide="all")) == ([1.0, 1.0], [1.0, 1.0])
    assert fractions(LabelSource(whole_slide="none", labelled_mask=mask)) == ([0.0, 0.0], [0.5, 0.0])
    for nothing in (None, LabelSource()):
        assert np.isnan(fractions(nothing)).all()
    tumor, labelled = fractions(LabelSource(labelled_mask=mask))
    assert np.isnan(tumor).all()
    assert labelled == [0.5, 0.0]


def test_tumour_on_glass_is_counted_and_placed() -> None:
    x, y = at(0, 100, 200, 300, 400), at(0, 0, 0, 50, 50)
    label, tissue = at(1, 1, 1, 0, -1), np.array([0.009, 0.01, 0.0, 0.0, 0.0])
    (warning,) = tumor_on_glass(x, y, label, tissue, np.ones(5), extent=100.0)
    assert warning.startswith("2 of 3 tumour patches (67%) hold next to no tissue, at x 0 to 300, y 0 to 100 px")
    assert tumor_on_glass(x, y, label, np.full(5, 0.01), np.ones(5), extent=100.0) == []
    assert tumor_on_glass(x, y, at(0, 0, -1, 0, -1), np.zeros(5), np.ones(5), extent=100.0) == []  # no tumour
    assert tumor_on_glass(x, y, at(-1, -1, 0, 0, -1), np.array([1.0, 1, 0, 0, 1]), np.ones(5), extent=100.0) == [
        "none of 2 labelled patches holds tissue: "
        "the labelled_mask or outlines may be turned, mirrored or shifted, or belong to another slide"
    ]
    many = np.arange(20)
    assert tumor_on_glass(many, many, np.ones(20, np.int64), (many > 0) * 1.0, np.ones(20), extent=1.0) == []  # an edge
    slivers = np.array([0.49, 1.0, 0.01, 1.0, 1.0])  # the two on glass overhang the slide by more than half
    assert tumor_on_glass(x, y, label, tissue, slivers, extent=100.0) == []
    assert tumor_on_glass(x, y, label, tissue, np.ones(5), extent=100.0, whole_slide="all") == []


def test_the_mean_over_a_patch_counts_the_overview_pixels_that_it_touches() -> None:
    grid = Grid(width=40, height=20, downsample=1.0, patch_px=15, stride_px=15)
    mask = np.zeros((2, 4), bool)  # 10 level-0 px a pixel
    mask[0, 1] = True
    assert patch_means(mask, grid).tolist() == [0.25, 0.25, 0.0, 0.0, 0.0, 0.0]


@pytest.mark.parametrize("two", [(0, 1), (0, 2), (1, 2)])
def test_the_tumour_is_stated_once(tmp_path: Path, two: tuple[int, int]) -> None:
    statements = [
        ("tumor_mask", tmp_path / "a.png"),
        ("annotations", tmp_path / "a.xml"),
        ("whole_slide", "none"),
    ]
    with pytest.raises(InputUnsupportedError, match="is stated by"):
        LabelSource(**dict(statements[i] for i in two))


def test_a_label_needs_enough_tumour_and_enough_labelled_area() -> None:
    nan = float("nan")
    tumor = np.array([0.0, 1 / 64, 0.9 / 64, 1.0, 1.0, nan, nan])
    labelled = np.array([1.0, 0.5, 1.0, 0.5, 0.49, 1.0, nan])
    result = labels(tumor, labelled, patch_px=8, config=LabelConfig())
    assert result.tolist() == [0, 1, 0, 1, -1, -1, -1]
    config = LabelConfig(min_tumor_fraction=0.5, min_labelled_fraction=1.0)
    assert labels(tumor[:5], np.ones(5), patch_px=8, config=config).tolist() == [0, 0, 0, 1, 1]


def test_patches_in_the_ambiguous_zone_have_no_label() -> None:
    tumor = np.array([0.0, 0.1, 0.11, 0.49, 0.5, 1.0])
    config = LabelConfig(ambiguous=(0.1, 0.5))
    assert labels(tumor, np.ones(6), patch_px=8, config=config).tolist() == [0, 0, -1, -1, 1, 1]
    config = LabelConfig(ambiguous=(0.0, 0.5), min_tumor_fraction=0.3)
    assert labels(tumor, np.ones(6), patch_px=8, config=config).tolist() == [0, -1, -1, -1, 1, 1]


@pytest.mark.parametrize(
    "raw",
    [
        {"ambiguous": [0.5, 0.5]},
        {"ambiguous": [0.1, 0.5], "min_tumor_fraction": 0.6},
        {"annotations": {"tumor": ["a"], "holes": ["a"]}},
    ],
)
def test_a_rule_that_contradicts_itself_is_refused(raw: dict[str, object]) -> None:
    with pytest.raises(InputUnsupportedError, match="configuration refused"):
        parse(LabelConfig, raw, place="test")
