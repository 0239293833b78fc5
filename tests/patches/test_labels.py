from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from pathopatch.core.config import LabelConfig, parse
from pathopatch.core.errors import InputUnsupportedError
from pathopatch.patches.labels import LabelSource, SlideLabels, labels


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
    assert fractions(LabelSource(whole_slide_non_tumor=True)) == ([0.0, 0.0], [1.0, 1.0])
    assert fractions(LabelSource(whole_slide_non_tumor=True, labelled_mask=mask)) == ([0.0, 0.0], [0.5, 0.0])
    for nothing in (None, LabelSource()):
        assert np.isnan(fractions(nothing)).all()
    tumor, labelled = fractions(LabelSource(labelled_mask=mask))
    assert np.isnan(tumor).all()
    assert labelled == [0.5, 0.0]


@pytest.mark.parametrize("two", [(0, 1), (0, 2), (1, 2)])
def test_the_tumour_is_stated_once(tmp_path: Path, two: tuple[int, int]) -> None:
    statements = [
        ("tumor_mask", tmp_path / "a.png"),
        ("annotations", tmp_path / "a.xml"),
        ("whole_slide_non_tumor", True),
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
