"""A run that was really trained is judged as training judged it."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest
import torch
from made_patches import write_work

from pathopatch.core.config import EvaluateConfig, TrainConfig
from pathopatch.core.files import read_json
from pathopatch.evaluation.compare import compare, preferred_run
from pathopatch.evaluation.evaluate import evaluate_run
from pathopatch.models.bundle import read_spec
from pathopatch.training.run import fit

QUICK = EvaluateConfig(bootstrap=10)


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("trained")
    write_work(folder)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    for method in ("erm", "gerne"):
        config = TrainConfig(
            method=method, threshold=0.25, input_px=16, steps=4, batch_per_class=4, evaluations=2, augment=False
        )
        evaluate_run(folder, fit(folder, config).name, config=QUICK, device="cpu")
    torch.set_num_threads(threads)
    return folder


def test_validation_numbers_are_those_that_training_noted(work: Path) -> None:
    for method in ("erm", "gerne"):
        run = work / "runs" / f"{method}-t0.25-s0"
        noted = read_json(run / "run.json")["validation"]
        judged = read_json(run / "evaluation" / "metrics.json")["splits"]["val"]["thresholds"]["0.25"]
        assert judged["wga"]["value"] == pytest.approx(noted["wga"])
        assert judged["gba"]["value"] == pytest.approx(noted["gba"])
        assert judged["decision_threshold"] == read_spec(run / "model").decision_threshold


def test_the_trained_runs_are_compared_and_one_is_preferred(work: Path) -> None:
    table = compare(work, config=QUICK)
    rows = table[table["threshold"] == 0.25].set_index("method")
    assert rows.loc["gerne", "reference"] == "erm-t0.25-s0"
    assert pd.notna(rows.loc["gerne", "gain_wga"])
    best = rows.sort_values(["wga_val", "gba_val", "run"], ascending=[False, False, True])["run"].iloc[0]
    assert preferred_run(work, threshold=0.25) == best
