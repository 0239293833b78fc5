"""Pictures are PNGs whose bytes depend on nothing but the numbers."""

from __future__ import annotations

import io

import numpy as np
from PIL import Image

from pathopatch.evaluation.calibration import reliability
from pathopatch.report import plots


def pixels(content: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(content)).convert("RGB"))


def test_reliability_without_patches_of_one_kind_is_drawn_without_its_line() -> None:
    some = reliability(np.array([0.2, 0.8]), np.array([0, 1]), np.array(["a", "b"]), resamples=20)
    other = reliability(np.array([0.2, 0.8]), np.array([1, 0]), np.array(["a", "b"]), resamples=20)
    none = reliability(np.empty(0), np.empty(0, dtype=int), np.empty(0), resamples=20)
    pink = np.array([0xCC, 0x79, 0xA7])  # little tissue

    def pinks(content: bytes) -> int:
        return int((np.abs(pixels(content).astype(int) - pink).sum(axis=2) < 12).sum())

    both = pinks(plots.reliability_plot({"run": [some, other]}, names=("little", "much")))
    without = pinks(plots.reliability_plot({"run": [none, other]}, names=("little", "much")))
    assert without < both
