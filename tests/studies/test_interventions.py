"""The study of interventions on natural tissue: which patches are left out, and what its tables say."""

import sys
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from made_patches import toy

FOLDER = Path(__file__).parents[2] / "pipelines" / "interventions"


@pytest.fixture(scope="module")
def modules() -> Any:
    """Its modules; `study` is a name that other pipelines have too."""
    sys.path.insert(0, str(FOLDER))
    other = sys.modules.pop("study", None)
    yield import_module("grounds"), import_module("study")
    sys.path.remove(str(FOLDER))
    sys.modules.pop("study")
    if other is not None:
        sys.modules["study"] = other


@pytest.mark.parametrize("count", [0, 2, 50])
def test_each_class_keeps_as_many_conflicting_patches_as_are_asked_for(modules: Any, count: int) -> None:
    grounds, _ = modules
    patches = toy([[30, 8], [9, 30]], seed=0, side=8)
    left = patches.rows(grounds.with_minority(patches, count, seed=1))
    counts = np.bincount(2 * left.label + left.attribute, minlength=4)
    assert counts.tolist() == [30, min(count, 8), min(count, 9), 30]
    again = patches.rows(grounds.with_minority(patches, count, seed=1))
    assert (left.patch_id == again.patch_id).all()


def test_resampling_is_not_run_without_conflicting_patches(modules: Any) -> None:
    grounds, _ = modules
    assert [(case.name, case.minority, case.seed) for case in grounds.cases("demo", (1, 2))] == [
        ("4 %", None, 1), ("4 %", None, 2), ("8 of each class", 8, 1), ("8 of each class", 8, 2), ("none", 0, 1),
        ("none", 0, 2),
    ]  # fmt: skip
    assert [case.name for case in grounds.cases("idc", (0,))] == ["14082 to 14306", "14306 to 14082"]


def test_the_tables_compare_with_resampling_of_the_same_case_and_seed(modules: Any) -> None:
    _, study = modules
    rows = [
        {"ground": "idc", "case": case, "seed": seed, "method": name, "wga": wga, "gba": 80.0, "auroc": 0.9,
         "slope_0": 0.1, "slope_1": 0.2}
        for case, seed, name, wga in (
            ("a", 0, "resample", 50.0), ("a", 1, "resample", 60.0), ("a", 0, "auto", 62.0), ("a", 1, "auto", 70.0),
            ("b", 0, "auto", 40.0),
        )
    ]  # fmt: skip
    text = study.tables(pd.DataFrame(rows))
    assert "| a | auto | 2 | 66.0 ± 5.7 | 80.0 ± 0.0 | 0.900 ± 0.000 | 0.100 ± 0.000 |" in text
    assert "| +11.0 ± 1.4 | +10.0 |" in text
    assert "| a | resample | 2 | 55.0 ± 7.1 |" in text
    assert text.rstrip().endswith("| b | auto | 1 | 40.0 | 80.0 | 0.900 | 0.100 | 0.200 |  |  |")
