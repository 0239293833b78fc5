"""Pictures are PNGs whose bytes depend on nothing but the numbers."""

from __future__ import annotations

import io

import matplotlib as mpl
import numpy as np
import pandas as pd
from PIL import Image

from pathopatch.report.curves import _steps, training_histories
from pathopatch.report.markup import Html, safe, signed, tag
from pathopatch.report.plots import GROUP_COLORS, group_counts, probability_by_fraction

COUNTS = {"0.25": {"train": {"counts": [[90, 10], [20, 80]]}}}


def pixels(content: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(content)).convert("RGB"))


def test_bars_are_as_long_as_the_groups_are_large() -> None:
    picture = pixels(group_counts(COUNTS, ["train"]))
    widths = []
    for color in GROUP_COLORS:
        rgb = [int(color[i : i + 2], 16) for i in (1, 3, 5)]
        widths.append(int((picture == rgb).all(axis=2).sum(axis=1).max()))
    assert np.allclose(np.array(widths) / widths[0], [1, 10 / 90, 20 / 90, 80 / 90], atol=0.02)


def test_probabilities_are_viridis_whatever_the_user_has_set() -> None:
    # Pairs of 0 and 1 in one tenth of the fraction: the means lie at one half and hide neither.
    table = pd.DataFrame({"patch_id": list("abcdef"), "label": 0, "probability": [0.0, 1, 0, 1, 0, 1]})
    table["tissue_fraction"] = [0.15, 0.15, 0.45, 0.45, 0.85, 0.85]
    plain = probability_by_fraction({"erm": table})
    with mpl.rc_context({"image.cmap": "jet"}):
        assert probability_by_fraction({"erm": table}) == plain
    yellow, violet = ((0.7 * np.array(rgb) + 0.3 * 255).round() for rgb in ([253, 231, 37], [68, 1, 84]))
    for color in (yellow, violet):  # drawn at 70 % on white
        assert (np.abs(pixels(plain) - color).max(axis=2) <= 3).sum() > 20


def test_a_class_with_one_patch_or_none_is_drawn_without_a_line() -> None:
    table = pd.DataFrame({"patch_id": ["a"], "label": [0], "tissue_fraction": [0.3], "probability": [0.2]})
    assert pixels(probability_by_fraction({"erm": table})).shape[1] == 1440


def test_histories_without_validation_are_drawn() -> None:
    history = pd.DataFrame({"step": [1, 2], "loss": [0.7, 0.5], "val_wga": [np.nan, np.nan]})
    assert pixels(training_histories({("0.25", "erm"): [history]})).min() < 60


def test_a_second_phase_follows_a_shorter_first_one_without_a_gap() -> None:
    history = pd.DataFrame({"phase": [0, 0, 1, 1], "step": [5, 10, 20, 40]})
    assert _steps(history).tolist() == [5, 10, 30, 50]


def test_text_is_escaped_and_markup_is_not_twice() -> None:
    assert tag("p", "a < b & 'c'", title='"') == '<p title="&quot;">a &lt; b &amp; &#x27;c&#x27;</p>'
    assert tag("p", tag("b", "x")) == "<p><b>x</b></p>"
    assert safe(Html("<br>")) == "<br>"


def test_zero_has_no_sign_and_minus_is_a_minus() -> None:
    assert [signed(value, 1) for value in (-0.04, 0.0, -1.25, 2.0, None, float("nan"))] == [
        "0.0", "0.0", "\N{MINUS SIGN}1.2", "+2.0", "–", "–",
    ]  # fmt: skip
