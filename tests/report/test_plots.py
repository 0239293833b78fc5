"""Pictures are PNGs whose bytes depend on nothing but the numbers."""

from __future__ import annotations

import io

import matplotlib as mpl
import numpy as np
import pandas as pd
from PIL import Image

from pathopatch.evaluation.calibration import reliability
from pathopatch.report import plots
from pathopatch.report.forest_plots import shortcut_strength
from pathopatch.report.plots import probability_by_fraction


def pixels(content: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(content)).convert("RGB"))


def test_probabilities_have_the_heatmaps_colours_whatever_is_set() -> None:
    # Pairs of 0 and 1 in one tenth of the fraction: the means lie at one half and hide neither.
    table = pd.DataFrame({"patch_id": list("abcdef"), "label": 0, "probability": [0.0, 1, 0, 1, 0, 1]})
    table["tissue_fraction"] = [0.15, 0.15, 0.45, 0.45, 0.85, 0.85]
    plain = probability_by_fraction({"erm": table})
    with mpl.rc_context({"image.cmap": "jet"}):
        assert probability_by_fraction({"erm": table}) == plain
    green = np.round(0.7 * np.array([0, 205, 20]) + 0.3 * 255)  # drawn at 70 % on white
    assert (np.abs(pixels(plain) - green).max(axis=2) <= 3).sum() > 20


def test_a_class_with_one_patch_or_none_is_drawn_without_a_line() -> None:
    table = pd.DataFrame({"patch_id": ["a"], "label": [0], "tissue_fraction": [0.3], "probability": [0.2]})
    assert pixels(probability_by_fraction({"erm": table})).shape[1] == 1440


def test_a_split_of_one_label_is_drawn_as_such() -> None:
    unknown = {"auroc": None, "auroc_low": None, "auroc_high": None, "n": 4, "patients": 1}
    step = {"threshold": 0.5, "gap": None, "gap_low": None, "gap_high": None}
    audit = {"fraction_only": {"test": unknown}, "whole": unknown, "sweep": {"test": [step]}}
    assert pixels(shortcut_strength(audit | {"verdict": {"least_effect": 0.05}})).size


def test_reliability_without_patches_of_one_kind_is_drawn_without_its_line() -> None:
    some = reliability(np.array([0.2, 0.8]), np.array([0, 1]), np.array(["a", "b"]), resamples=20)
    other = reliability(np.array([0.2, 0.8]), np.array([1, 0]), np.array(["a", "b"]), resamples=20)
    none = reliability(np.empty(0), np.empty(0, dtype=int), np.empty(0), resamples=20)
    pink = np.array([0xCC, 0x79, 0xA7])  # little tissue

    def pinks(content: bytes) -> int:
        return int((np.abs(pixels(content).astype(int) - pink).sum(axis=2) < 12).sum())

    both = pinks(plots.reliability({"run": [some, other]}, names=("little", "much")))
    without = pinks(plots.reliability({"run": [none, other]}, names=("little", "much")))
    assert without < both
