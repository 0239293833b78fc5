"""A channel that the model needs is missed when it is taken away; one that it does not look at is not."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest

from pathopatch.evaluation import predicting
from pathopatch.evaluation.evaluate import ablation, ablation_table
from pathopatch.evaluation.predicting import WITHOUT, without_channel


class TwoChannels:
    """Right by its first channel alone, deaf to the second."""

    spec = SimpleNamespace(
        encoder=None,
        input_px=1,
        temperature=1.0,
        decision_threshold=0.0,
        channels=("CARS", "SHG"),
        mean=(0.5, 0.4),
        mask="none",
        crop_px=None,
    )

    def predict_logits(self, batch: np.ndarray, tissue: None) -> np.ndarray:
        margin = 8 * (batch[:, 0, 0, 0] - 0.5)
        return np.stack([np.zeros_like(margin), margin], axis=1)


class Pixels:
    """Patches of one pixel: CARS tells the label, SHG is noise."""

    tissue, is_rgb = None, False

    def __init__(self, rows: pd.DataFrame) -> None:
        self.patch_id = rows["patch_id"].to_numpy()
        self.tissue_fraction = rows["tissue_fraction"].to_numpy()
        noise = np.linspace(0, 1, len(rows))
        self._x = np.stack([0.2 + 0.6 * rows["label"].to_numpy(), noise], axis=1)[:, :, None, None].astype(np.float32)

    def __len__(self) -> int:
        return len(self.patch_id)

    def read(self, index: Any) -> np.ndarray:
        return self._x[index]


@pytest.fixture
def table(monkeypatch: pytest.MonkeyPatch) -> pd.DataFrame:
    group = np.tile(np.arange(4), 10)
    groups = pd.DataFrame({"label": group // 2, "tissue_fraction": 0.3 + 0.4 * (group % 2), "group@0.5": group})
    groups = groups.assign(patch_id=[f"s@{i},0" for i in range(40)], slide_id="s", split="test")
    monkeypatch.setattr(predicting, "load_patches", lambda work, rows, **settings: Pixels(rows))
    return predicting.predict_labelled("", groups, TwoChannels(), splits=("test",), ablate=True)  # type: ignore[arg-type]


def test_the_needed_channel_costs_everything_and_the_other_nothing(table: pd.DataFrame) -> None:
    assert [name for name in table if name.startswith(WITHOUT)] == ["logit without CARS", "logit without SHG"]
    rows = ablation(table, np.repeat(np.arange(10), 4), resamples=50)
    needed, other = rows
    assert [needed[name] for name in ("channel", "equal_area", "without", "lost")] == ["CARS", 1, 0.5, 0.5]
    assert (needed["lost_low"], needed["lost_high"]) == (0.5, 0.5)
    assert [other[f"lost{end}"] for end in ("", "_low", "_high")] == [0, 0, 0]


def test_a_patch_without_an_answer_is_wrong_with_every_channel(table: pd.DataFrame) -> None:
    is_first = np.arange(40) == 3  # one of ten tumour patches with much tissue, so a tenth of the pairs there
    rows = ablation(table.assign(has_answer=~is_first), np.arange(40).astype(str), resamples=0)
    assert [row["equal_area"] for row in rows] == [pytest.approx(0.95)] * 2
    assert rows[0]["without"] == pytest.approx(0.5 * 0.95)


def test_a_channel_is_replaced_by_its_mean_and_the_patches_are_left_alone() -> None:
    batch = np.arange(8, dtype=np.float32).reshape(1, 2, 2, 2)
    blanked = without_channel(batch, 1, 0.4)
    assert (blanked[0, 1] == np.float32(0.4)).all()
    assert (blanked[0, 0] == batch[0, 0]).all()
    assert batch[0, 1, 0, 0] == 4


def test_the_table_names_split_and_channel(table: pd.DataFrame) -> None:
    groups = table[["patch_id"]].assign(patient_id=np.arange(40).astype(str))
    written = ablation_table(table, groups, resamples=0, seed=0)
    assert written[["split", "channel"]].to_numpy().tolist() == [["test", "CARS"], ["test", "SHG"]]
