from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from pathopatch.patches.store import PatchStore
from pathopatch.training.source import common_source


def store(name: str, level: dict[str, float]) -> PatchStore:
    attributes: dict[str, Any] = {
        "channels": ["SHG"],
        "dtype": "uint16",
        "patch_px": 64,
        "stride_px": 64,
        "target_mpp": 1.0,
        "background": "dark",
        "intensity": {},
        "tissue": {"background": "auto", "background_level": level},
    }
    return cast(PatchStore, SimpleNamespace(path=Path(f"{name}.zarr"), attributes=attributes))


@pytest.mark.parametrize(
    ("levels", "kept"),
    [
        ([{"SHG": 100.0}, {}], {}),
        ([{}, {"SHG": 100.0}], {}),
        ([{"SHG": 100.0}, {"SHG": 100.0}], {"SHG": 100.0}),
        ([{"SHG": 100.0}, {"SHG": 90.0}], {}),
    ],
)
def test_a_level_taken_from_the_cohort_is_no_rule_of_the_model(
    levels: list[dict[str, float]], kept: dict[str, float]
) -> None:
    source = common_source([store(str(number), level) for number, level in enumerate(levels)])
    assert source is not None
    assert source.tissue == {"background": "auto", "background_level": kept}
