"""Groups by the patches' own attribute, judged by bins of the tissue too: blank patches have a group and no bin."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from pathopatch.core.artefacts import Stamp, write_table
from pathopatch.core.config import EvaluateConfig, TrainConfig
from pathopatch.core.files import write_json
from pathopatch.evaluation.compare import compare
from pathopatch.evaluation.evaluate import evaluate_predictions
from pathopatch.groups import assign_groups

QUICK = EvaluateConfig(bootstrap=20)
STAMP = Stamp(stage="groups")


def cohort() -> pd.DataFrame:
    """Of each split 36 patches of two patients: three attribute values, two labels; the first six are blank."""
    parts = []
    for split in ("train", "val", "test"):
        n = np.arange(36)
        parts.append(
            pd.DataFrame(
                {
                    "patch_id": [f"{split}{i}" for i in n],
                    "slide_id": "set",
                    "patient_id": [f"{split}-{i % 2}" for i in n // 3],
                    "split": split,
                    "label": n // 3 % 2,
                    "attribute": np.array(["land", "sea", "sky"])[n % 3],
                    "tissue_fraction": np.where(n < 6, 0.0, np.where(n % 2 == 0, 0.2, 0.8)),
                }
            )
        )
    return assign_groups(pd.concat(parts, ignore_index=True), (0.25,), bins=(0.5,))


def write_run(work: Path, groups: pd.DataFrame, method: str, wrong: set[str]) -> dict:
    """Write a run that is wrong on some patches only; return what is judged of it."""
    table = groups[groups["split"] != "train"].reset_index(drop=True)
    table = table[["patch_id", "split", "label", "tissue_fraction", "group@0.25", "bin@0.5"]]
    sign = np.where(table["patch_id"].isin(wrong), -1, 1) * np.where(table["label"] == 1, 1, -1)
    table = table.assign(logit=2.0 * sign, probability=(1 + 0.8 * sign) / 2)
    numbers = evaluate_predictions(table, groups, decision_threshold=0.0, config=QUICK)
    folder = work / "runs" / f"{method}-t0.25-s0"
    write_table(folder / "evaluation" / "predictions.parquet", table, STAMP)
    write_json(folder / "evaluation" / "metrics.json", {"run": folder.name, **numbers})
    write_json(folder / "config.json", TrainConfig(method=method).model_dump(mode="json"))
    return numbers


def test_blank_patches_count_in_their_group_and_in_no_bin(tmp_path: Path) -> None:
    groups = cohort()
    write_table(tmp_path / "groups.parquet", groups, STAMP)
    blank = {f"test{i}" for i in range(6)}
    judged = write_run(tmp_path, groups, "erm", blank)["splits"]["test"]
    assert judged["thresholds"]["0.25"]["n"] == 36
    assert judged["thresholds"]["0.25"]["wga"]["value"] == pytest.approx(5 / 6)
    assert judged["bins"]["0.5"]["n"] == 30
    assert judged["bins"]["0.5"]["wga"]["value"] == 1
    write_run(tmp_path, groups, "gerne", set())
    table = compare(tmp_path, config=QUICK).set_index(["method", "attribute"])
    assert table.loc[("gerne", "0.25"), "gain_wga"] == pytest.approx(1 / 6)
    assert table.loc[("gerne", "bins 0.5"), "gain_wga"] == 0
