"""The demo's study on a toy cohort: every number that it claims is computed, from the right runs."""

from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from pathopatch.demo import study as demo
from pathopatch.demo.slides import CohortSpec

SCRIPT = Path(__file__).parents[2] / "pipelines" / "demo" / "study.py"
study = module_from_spec(spec := spec_from_file_location("demo_study", SCRIPT))
spec.loader.exec_module(study)


@pytest.fixture
def toy(monkeypatch: pytest.MonkeyPatch) -> None:
    """A cohort of eight tiny slides, two steps a run, one trial."""
    spec = CohortSpec(slides=(4, 2, 2), patients=(2, 2, 2), fields=6, minority_share=0.2, between_share=0.0)
    monkeypatch.setattr(demo, "CohortSpec", lambda: spec)
    monkeypatch.setattr(demo, "TRAIN", demo.TRAIN.model_copy(update={"steps": 2, "evaluations": 1, "input_px": 32}))
    monkeypatch.setattr(study, "TRIALS", 1)


@pytest.mark.slow
@pytest.mark.usefixtures("toy")
def test_the_study_tunes_trains_longer_and_runs_its_controls(tmp_path: Path) -> None:
    text = study.run_seeds(tmp_path, seeds=1, jobs=1)
    table, controls = pd.read_csv(tmp_path / "study.csv"), pd.read_csv(tmp_path / "controls.csv")
    assert len(table) == 5 * 2 + 3 * 2  # methods of each length, thresholds
    assert table.groupby("steps")["method"].nunique().to_dict() == {2: 5, 4: 3}
    references = table["reference"].str.endswith("-twice")
    assert (references == (table["steps"] == 4)).all()
    assert controls["fraction_auroc"].between(0.3, 0.7).all()
    assert controls["brightness_accuracy"].between(0.3, 0.9).all()
    for words in ("tau 0.25, 2 steps", "tau 0.5, 4 steps", "gerne over ERM", "(a) WGA without the shortcut"):
        assert words in text


def test_the_better_erm_is_chosen_by_validation_in_every_seed() -> None:
    rows = [
        {"cohort": 1, "method": "erm", "run": "a", "wga": 0.9, "wga_val": 0.5, "gba_val": 0.5},
        {"cohort": 1, "method": "erm-balanced", "run": "b", "wga": 0.1, "wga_val": 0.6, "gba_val": 0.5},
        {"cohort": 2, "method": "erm", "run": "a", "wga": 0.2, "wga_val": 0.7, "gba_val": 0.5},
        {"cohort": 2, "method": "erm-balanced", "run": "b", "wga": 0.8, "wga_val": np.nan, "gba_val": 0.9},
        {"cohort": 1, "method": "gerne", "run": "c", "wga": 1.0, "wga_val": 1.0, "gba_val": 1.0},
    ]
    chosen = study._better_erm(pd.DataFrame(rows)).set_index("cohort")["wga"]
    assert chosen.to_dict() == {1: 0.1, 2: 0.2}
