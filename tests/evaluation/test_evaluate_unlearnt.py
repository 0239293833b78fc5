"""Validation that a run learnt from is no validation of it: it is neither judged nor chosen by."""

import numpy as np
import pandas as pd
import pytest
from made_patches import write_work

from pathopatch.core.config import EvaluateConfig, TrainConfig
from pathopatch.core.files import read_json
from pathopatch.evaluation.evaluate import evaluate_run
from pathopatch.training.run import fit

JUDGE = EvaluateConfig(bootstrap=0, ablation=False)


def trained(work, **changes):
    small = {"input_px": 16, "steps": 4, "batch_per_class": 4, "evaluations": 2, "threads": 1}
    return fit(work, TrainConfig(**{**small, **changes}))


def test_a_run_is_not_evaluated_on_validation_patches_it_learnt_from(tmp_path):
    groups = write_work(tmp_path)
    run = trained(tmp_path, method="dfr")
    learnt = set(pd.read_csv(run / "learnt_from_val.csv")["patch_id"])
    out = evaluate_run(tmp_path, run.name, config=JUDGE, device="cpu")
    predicted = pd.read_parquet(out / "predictions.parquet")
    judged = set(predicted.loc[predicted["split"] == "val", "patch_id"])
    of_val = groups[(groups["split"] == "val") & (groups["group@0.25"] >= 0)]
    assert not judged & learnt
    assert judged | learnt == set(of_val["patch_id"])
    at = read_json(out / "metrics.json")["splits"]["val"]["thresholds"]["0.25"]
    assert at["n"] == len(judged)
    assert at["wga"]["value"] == pytest.approx(read_json(run / "run.json")["validation"]["wga"])
    assert np.sum(predicted["split"] == "test") == 38


def test_validation_counts_fully_for_other_methods(tmp_path):
    write_work(tmp_path)
    plain = trained(tmp_path, method="erm")
    assert not (plain / "learnt_from_val.csv").exists()
    splits = read_json(evaluate_run(tmp_path, plain.name, config=JUDGE) / "metrics.json")["splits"]
    assert set(splits) == {"val", "test"}
    assert splits["val"]["thresholds"]["0.25"]["n"] == 38
