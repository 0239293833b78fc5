"""The patches most worth a look, on six patches whose order is found by hand."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from pathopatch.core.errors import InputMissingError
from pathopatch.review.reviewed_slide import Patches
from pathopatch.review.values import KINDS, available_kinds, patches_to_look_at

PROBABILITY = np.array([0.875, 0.5625, 0.125, 0.25, 0.625, 0.75])
TISSUE = np.array([0.05, 0.20, 0.90, 0.25, 0.24, 0.80])
BESIDE = np.array([0.125, 0.5, 0.125, np.nan, 0.9375, 0.625])
LABEL = np.array([0, -1, 1, 1, 1, 0])
FLAGS = np.array([0, 0b10, 0, 0b11, 0b100, 0], np.uint16)


def slide(**changed: Any) -> Any:
    columns = {
        "x": np.array([0, 16, 32, 0, 16, 32]), "y": np.array([0, 0, 0, 16, 16, 16]), "cell": np.arange(6),
        "probability": PROBABILITY, "tissue_fraction": TISSUE, "spread": np.full(6, np.nan),
        "is_tumour": PROBABILITY > 0.5, "flags": FLAGS, "label": LABEL, "group": np.array([0, -1, 3, 3, 2, 1]),
        "group_of": "label", "tau": 0.25, "beside": BESIDE,
    }  # fmt: skip
    patches = Patches(**(columns | changed))
    return SimpleNamespace(slide_id="s", patches=patches, facts={"decision_probability": 0.5})


ORDER = {
    "near-threshold": [1, 4, 3, 5, 0, 2],  # 3 and 5 lie 0.25 off, 0 and 2 lie 0.375 off; by rows
    "against-area": [0, 2, 3, 4, 1],  # of either kind in turn; 3 has exactly tau
    "disagreement": [0, 4, 5, 1],  # 2 agrees, 3 is not known there
    "label-disagreement": [0, 2, 3, 5],
    "flagged": [3, 1, 4],
}


@pytest.mark.parametrize("kind", KINDS)
def test_the_most_striking_come_first(kind: str) -> None:
    entries = patches_to_look_at(slide(), kind)
    assert [entry["x"] // 16 + 3 * (entry["y"] // 16) for entry in entries] == ORDER[kind]
    assert patches_to_look_at(slide(), kind, 2) == entries[:2]
    assert patches_to_look_at(slide(), kind, 0) == patches_to_look_at(slide(), kind, -3) == []


def test_an_entry_says_what_is_known_of_a_patch() -> None:
    assert patches_to_look_at(slide(), "near-threshold")[0] == {
        "x": 16, "y": 0, "probability": 0.5625, "tissue_fraction": 0.2, "label": None, "group": None, "beside": 0.5,
        "flags": ["saturated"],
    }  # fmt: skip
    assert patches_to_look_at(slide(), "near-threshold")[2]["beside"] is None


def test_only_kinds_that_there_can_be_are_offered() -> None:
    assert available_kinds(slide()) == list(KINDS)
    assert "disagreement" not in available_kinds(slide(beside=None))
    assert "disagreement" not in available_kinds(slide(beside=np.full(6, np.nan)))
    assert "label-disagreement" not in available_kinds(slide(label=np.full(6, -1)))
    for kind in ("label-disagreement", "../x", ""):
        with pytest.raises(InputMissingError, match="no gallery"):
            patches_to_look_at(slide(label=np.full(6, -1)), kind)
