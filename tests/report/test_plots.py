"""Pictures are PNGs whose bytes depend on nothing but the numbers."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
from PIL import Image

from pathopatch.evaluation.calibration import reliability
from pathopatch.report import plots


def pixels(content: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(content)).convert("RGB"))


def test_reliability_without_patches_of_one_kind_is_drawn_without_its_line() -> None:
    some = reliability(np.array([0.2, 0.8]), np.array([0, 1]), np.array(["a", "b"]))
    other = reliability(np.array([0.2, 0.8]), np.array([1, 0]), np.array(["a", "b"]))
    none = reliability(np.empty(0), np.empty(0, dtype=int), np.empty(0))
    pink = np.array([0xCC, 0x79, 0xA7])  # little tissue

    def pinks(content: bytes) -> int:
        return int((np.abs(pixels(content).astype(int) - pink).sum(axis=2) < 12).sum())

    both = pinks(plots.reliability_plot({"run": [some, other]}, names=("little", "much")))
    without = pinks(plots.reliability_plot({"run": [none, other]}, names=("little", "much")))
    assert without < both


def test_the_response_to_the_area_has_its_band_where_every_point_has_an_interval() -> None:
    points: list[dict[str, Any]] = [
        {"area": area, "margin": {"value": 0.0, "low": -1.0, "high": 1.0}, "positive": 0.5} for area in (0.2, 0.8)
    ]
    band = pixels(plots.response_curve({"curve": points}))
    points[1]["margin"] |= {"low": None, "high": None}
    line = pixels(plots.response_curve({"curve": points}))
    grey = [int((image.max(axis=2) < 250).sum()) for image in (band, line)]
    assert grey[0] > 2 * grey[1]


def test_the_response_is_drawn_by_class_where_labels_are_known() -> None:
    one, other = ({"value": value, "low": value - 1, "high": value + 1} for value in (-2.0, 2.0))
    curve = [{"area": area, "margin": one, "by_class": [one, other]} for area in (0.2, 0.8)]
    image = pixels(plots.response_curves({"a run": {"curve": curve}})).astype(int)
    for color in plots.LABEL_COLORS:
        rgb = [int(color[at : at + 2], 16) for at in (1, 3, 5)]
        assert (np.abs(image - rgb).sum(axis=2) < 12).sum() > 500
