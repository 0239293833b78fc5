"""What the report says over seeds is of runs that differ in nothing but the seed."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from made_study import make_study, write_run

from pathopatch.core.artefacts import read_table
from pathopatch.core.config import EvaluateConfig, TrainConfig
from pathopatch.report import answer, results
from pathopatch.report.collect import Study

LEANS = {"erm": (1.0, 5.0), "gerne": (2.3, 0.3)}
MASKED, UNMASKED = "auto, mask normalise", "auto, mask none"


@pytest.fixture(scope="module")
def mixed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """ERM and GERNE of two seeds, auto of one seed, masked auto of another, and a run that repeats one of ERM's."""
    work = make_study(tmp_path_factory.mktemp("studies") / "mixed", has_runs=False)
    groups, rng = read_table(work / "groups.parquet"), np.random.default_rng(5)
    for lean, config in (
        *((lean, TrainConfig(method=name, seed=k)) for name, lean in LEANS.items() for k in (0, 1)),
        ((2.0, 1.4), TrainConfig(method="auto", seed=0)),
        ((2.3, 0.3), TrainConfig(method="auto", seed=1, mask="normalise", name="masked")),
        ((0.2, 6.0), TrainConfig(method="erm", seed=0, name="again")),
    ):
        write_run(work, config, groups, rng, label_lean=lean[0], tissue_lean=lean[1])
    return work


@pytest.fixture(scope="module")
def study(mixed: Path) -> Study:
    return Study(mixed, evaluate=EvaluateConfig(bootstrap=0))


@pytest.mark.slow
def test_the_table_over_seeds_has_a_row_for_each_setting(study: Study) -> None:
    collected = results.results(study)
    rows = {row["name"].removeprefix("0.25, "): row for row in collected["seeds"] if row["attribute"] == "0.25"}
    assert {name: rows[name]["seeds"] for name in ("erm", "gerne", UNMASKED, MASKED)} == {
        "erm": 2, "gerne": 2, UNMASKED: 1, MASKED: 1,
    }  # fmt: skip
    assert study.comparison is not None
    wga = study.comparison[study.comparison["threshold"] == 0.25].set_index("run")["wga"]
    assert rows["erm"]["wga"] == pytest.approx(wga[["erm-t0.25-s0", "erm-t0.25-s1"]].mean())
    assert rows[MASKED]["wga"] == wga["auto-t0.25-s1-masked"]


def test_seeds_are_counted_within_a_setting(study: Study) -> None:
    assert answer.answer(study)["limits"]["fewest_seeds"] == 1
