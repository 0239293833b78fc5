"""Each flag stands for one reason, holds from its stated bound on, and is missing where it cannot be known."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pytest

from pathopatch.heatmaps import FLAGS
from pathopatch.heatmaps.predict import flags
from pathopatch.models.spec import TrainingRange

SEEN = TrainingRange(mean=((0.2, 0.6), (0.1, 0.5)), sharpness=0.01)


BY_TISSUE = SEEN.model_copy(update={"sharpness_by_tissue": ((0.05, 0.001), (0.5, 0.01))})


def raised(**changed: Any) -> dict[str, bool | None]:
    """The flags of one patch that is as it should be but for what is changed."""
    values: dict[str, Any] = {
        "tissue_fraction": 0.8, "saturated_fraction": 0.0, "sharpness": 0.02, "mean": (0.4, 0.3), "probability": 0.9,
        "spread": 0.01,
    }  # fmt: skip
    settings = {"decision_probability": 0.5, "seen": SEEN}
    settings |= {name: changed.pop(name) for name in list(changed) if name in settings}
    arrays = {name: np.array([value], dtype=np.float64) for name, value in (values | changed).items()}
    flagged = flags(**arrays, **settings)  # type: ignore[arg-type]
    return {name: None if flag[0] is pd.NA else bool(flag[0]) for name, flag in flagged.items()}


def test_a_patch_as_it_should_be_carries_none() -> None:
    assert raised() == dict.fromkeys(FLAGS, False)


@pytest.mark.parametrize(
    ("flag", "changed", "just_not"),
    [
        ("low_tissue", {"tissue_fraction": 0.099}, {"tissue_fraction": 0.1}),
        ("saturated", {"saturated_fraction": 0.051}, {"saturated_fraction": 0.05}),
        ("blurred", {"sharpness": 0.009}, {"sharpness": 0.01}),
        ("out_of_range", {"mean": (0.61, 0.3)}, {"mean": (0.6, 0.3)}),
        ("out_of_range", {"mean": (0.4, 0.09)}, {"mean": (0.4, 0.1)}),
        ("near_threshold", {"probability": 0.59}, {"probability": 0.61}),
        ("near_threshold", {"probability": 0.41}, {"probability": 0.39}),
        ("near_threshold", {"probability": 0.9, "decision_probability": 0.85}, {"probability": 0.9}),
        ("uncertain", {"spread": 0.11}, {"spread": 0.1}),
    ],
)
def test_a_flag_holds_for_its_reason_alone_and_from_its_bound_on(
    flag: str, changed: dict[str, Any], just_not: dict[str, Any]
) -> None:
    assert raised(**changed) == dict.fromkeys(FLAGS, False) | {flag: True}
    assert raised(**just_not) == dict.fromkeys(FLAGS, False)


@pytest.mark.parametrize(
    ("tissue", "sharpness", "is_blurred"),
    [
        (0.04, 0.0, None),  # with so little tissue none was seen
        (0.05, 0.0009, True), (0.05, 0.001, False), (0.499, 0.001, False),
        (0.5, 0.009, True), (0.5, 0.01, False), (1.0, 0.009, True),
    ],
)  # fmt: skip
def test_a_patch_is_blurred_by_those_of_as_much_tissue(
    tissue: float, sharpness: float, is_blurred: bool | None
) -> None:
    assert raised(seen=BY_TISSUE, tissue_fraction=tissue, sharpness=sharpness)["blurred"] is is_blurred


def test_a_bundle_that_does_not_know_tissue_compares_with_all_patches() -> None:
    assert raised(tissue_fraction=0.04, sharpness=0.009)["blurred"] is True


def test_an_unknown_flag_is_missing_and_counts_as_not_raised() -> None:
    flagged = raised(seen=None, spread=np.nan)
    assert {name for name, value in flagged.items() if value is None} == {"blurred", "out_of_range", "uncertain"}
    assert raised(seen=TrainingRange(mean=SEEN.mean))["blurred"] is None
