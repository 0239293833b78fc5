"""Each flag stands for one reason, holds from its stated bound on, and is missing where it cannot be known."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pytest

from pathopatch.config import FlagsConfig
from pathopatch.heatmaps.flags import FLAGS, flags, is_flagged
from pathopatch.models.spec import SeenRange

SEEN = SeenRange(mean=((0.2, 0.6), (0.1, 0.5)), sharpness=0.01)


def raised(**changed: Any) -> dict[str, bool | None]:
    """The flags of one patch that is as it should be but for what is changed."""
    values: dict[str, Any] = {
        "tissue_fraction": 0.8, "saturated_fraction": 0.0, "sharpness": 0.02, "mean": (0.4, 0.3), "probability": 0.9,
        "spread": 0.01,
    }  # fmt: skip
    settings = {"decision_probability": 0.5, "seen": SEEN, "config": FlagsConfig()}
    settings |= {name: changed.pop(name) for name in list(changed) if name in settings}
    arrays = {name: np.array([value], dtype=np.float64) for name, value in (values | changed).items()}
    found = flags(**arrays, **settings)  # type: ignore[arg-type]
    return {name: None if each is None else bool(each[0]) for name, each in found.items()}


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


def test_what_cannot_be_known_is_missing_and_counts_as_no_flag() -> None:
    found = raised(seen=None, spread=np.nan)
    assert {name for name, value in found.items() if value is None} == {"blurred", "out_of_range", "uncertain"}
    assert raised(seen=SeenRange(mean=SEEN.mean))["blurred"] is None
    columns = {f"flag_{name}": pd.array([value, value], dtype="boolean") for name, value in found.items()}
    table = pd.DataFrame(columns)
    table.loc[1, "flag_low_tissue"] = True
    assert is_flagged(table).tolist() == [False, True]
