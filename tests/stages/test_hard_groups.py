"""Groups by what a trained model finds hard: formed by one command, trained on by another, and in a study."""

import json
import re
import shutil

import numpy as np
import pandas as pd
import pytest
from made_model import stated
from made_patches import write_work
from typer.testing import CliRunner

from pathopatch.cli import app
from pathopatch.core.artefacts import read_table
from pathopatch.core.config import StudyConfig, TrainConfig
from pathopatch.core.errors import BetaOutOfBoundsError, GroupEmptyError, InputMissingError, StaleArtefactError
from pathopatch.evaluation.evaluate import evaluate_run
from pathopatch.groups.hard_share import hard_share_facts, hardest_patches
from pathopatch.stages.groups import form_hard_groups
from pathopatch.stages.study import study_runs
from pathopatch.training.fit import fit_arrays
from pathopatch.training.group_checks import require_groups
from pathopatch.training.run import fit, load_sets

SMALL = {"input_px": 16, "steps": 6, "batch_per_class": 4, "evaluations": 2, "threads": 1, "device": "cpu"}
RUN = "erm-balanced-t0.25-s0"
HARD = {"method": "gerne", "groups_from": RUN, "hard_share": 0.25}


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    work = tmp_path_factory.mktemp("trained")
    write_work(work)
    fit(work, TrainConfig(method="erm-balanced", **SMALL))
    return work


@pytest.fixture
def work(trained, tmp_path):
    """A copy of it."""
    return shutil.copytree(trained, tmp_path, dirs_exist_ok=True)


def _predictions(rows):
    table = pd.DataFrame(rows, columns=["split", "label", "logit"])
    return table.assign(patch_id=[f"p{number}" for number in range(len(table))])


def test_the_hardest_share_of_each_class_has_the_lowest_logit_of_its_class():
    train = [("train", 0, z) for z in (-3.0, 2.0, -1.0, 0.5)] + [("train", 1, z) for z in (1.0, -2.0, 3.0, 0.0)]
    val = [("val", 0, 9.0), ("val", 0, 8.0), ("val", 1, -9.0), ("val", 1, 9.0)]
    table = hardest_patches(_predictions(train + val), 0.25).set_index("patch_id")
    assert table.index[table["hard"] == 1].tolist() == ["p1", "p5", "p8", "p10"]  # validation by its own ranks
    half = hardest_patches(_predictions(train), 0.5)
    assert half["hard"].tolist() == [0, 1, 0, 1, 0, 1, 0, 1]


def test_a_class_of_one_patch_is_refused_in_training_and_left_out_in_validation():
    train = [("train", 0, 1.0), ("train", 0, 0.0), ("train", 1, 0.0)]
    with pytest.raises(GroupEmptyError, match=r"\[2, 1\]"):
        hardest_patches(_predictions(train), 0.5)
    both = [*train, ("train", 1, 1.0), ("val", 0, 0.0), ("val", 1, 0.0)]
    assert set(hardest_patches(_predictions(both), 0.5)["split"]) == {"train"}


def test_facts_count_the_hard_and_hold_them_against_the_known_minority():
    predictions = _predictions([("train", y, z) for y in (0, 1) for z in (2.0, 1.0, -1.0, -2.0)])
    groups = predictions.assign(**{"group@0.25": 0, "attribute@0.25": [1, 0, 0, 0, 1, 1, 1, 0]})
    facts = hard_share_facts(hardest_patches(predictions, 0.5), groups)["train"]
    assert (facts["patches"], facts["hard"]) == ([4, 4], [2, 2])
    # Hard are 0 and 1 of class 0, 6 and 7 of class 1; the minority is 0 and 7.
    assert facts["minority"] == {"0.25": {"precision": 0.5, "recall": 1.0}}


def test_gerne_draws_by_the_hard_share_and_is_selected_by_the_known_attribute(work):
    text = form_hard_groups([work], RUN, [0.1, 0.25])
    assert [line.partition(":")[0] for line in text.splitlines()] == [
        f"hardest {share} % for {RUN}" for share in ("10", "25")
    ]
    run = fit(work, TrainConfig(**HARD, **SMALL))
    assert run.name == "gerne-t0.25-h0.25-s0"
    # By hand: the ranks of the model's own logits of the patches that it was trained on.
    groups = read_table(work / "groups.parquet")
    train, val = load_sets(work, groups, TrainConfig(**SMALL))
    margin = fit_arrays(train, val, TrainConfig(method="erm-balanced", **SMALL)).margins(train)
    hard = np.zeros(len(train), np.int64)
    for y in (0, 1):
        of_class = np.flatnonzero(train.label == y)
        order = np.argsort(margin[of_class] * (2 * y - 1), kind="stable")
        hard[of_class[order[: int(0.25 * len(of_class))]]] = 1
    expected = fit_arrays(train.with_attribute(hard), val, TrainConfig(method="gerne", **SMALL))
    history = pd.read_csv(run / "history.csv")
    np.testing.assert_allclose(history["loss"], [row["loss"] for row in expected.history], rtol=1e-6)
    assert history["val_wga"].tolist() == [row["val_wga"] for row in expected.history]
    data = stated(run / "model")["data"]
    assert data["trained"]["by"] == f"by the hardest 25 % of each class for {RUN}"
    assert np.array(data["trained"]["counts"])[:, 1].tolist() == [int(0.25 * n) for n in np.bincount(train.label)]
    assert data["validated"]["by"] == "at tissue threshold 0.25"
    assert "; selected at tissue threshold 0.25." in (run / "model" / "README.md").read_text()


def test_a_model_by_a_hard_share_is_judged_by_known_groups_alone(work):
    form_hard_groups([work], RUN, [0.25])
    run = fit(work, TrainConfig(**HARD, **SMALL))
    metrics = json.loads((evaluate_run(work, run.name, device="cpu") / "metrics.json").read_text())
    assert list(metrics["splits"]["test"]["thresholds"]) == ["0.25"]
    table = read_table(work / "groups" / "hard" / RUN / "0.25.parquet")
    assert set(table["split"]) == {"train", "val"}


def test_another_model_makes_the_groups_and_what_was_trained_on_them_stale(work):
    config = RUN, [0.25]
    form_hard_groups([work], *config)
    run = fit(work, TrainConfig(**HARD, **SMALL))
    before = (run / "run.json").read_bytes()
    form_hard_groups([work], *config)  # nothing changed: nothing is made
    fit(work, TrainConfig(**HARD, **SMALL))
    assert (run / "run.json").read_bytes() == before
    fit(work, TrainConfig(method="erm-balanced", **{**SMALL, "steps": 30, "learning_rate": 0.02}), force=True)
    with pytest.raises(StaleArtefactError):
        form_hard_groups([work], *config)
    form_hard_groups([work], *config, force=True)
    with pytest.raises(StaleArtefactError):
        fit(work, TrainConfig(**HARD, **SMALL))


def test_what_is_missing_is_named_with_the_command_that_makes_it(work):
    with pytest.raises(InputMissingError, match=f"no finished run 'gerne'; there are {RUN}"):
        form_hard_groups([work], "gerne", [0.1])
    with pytest.raises(InputMissingError) as caught:
        fit(work, TrainConfig(**HARD, **SMALL))
    assert caught.value.remedy.endswith(f"--from-run {RUN} --hard-share 0.25")


def test_a_beta_out_of_the_bounds_of_the_share_is_refused_early(work):
    groups = read_table(work / "groups.parquet")  # which are hard is not known yet
    require_groups(groups, TrainConfig(method="gerne", gerne={"beta": 4.5}, **SMALL))
    # Hard are 4 of 19 and 20: the bound of beta at c = .5 is .8 / (.5 (.8 - .5)) - 1 = 4.3 or a little less.
    with pytest.raises(BetaOutOfBoundsError, match="beta = 4.5"):
        require_groups(groups, TrainConfig(**HARD, gerne={"beta": 4.5}, **SMALL))


def test_the_commands_form_groups_and_train_on_them(work):
    def run(*words):
        return CliRunner().invoke(app, [*map(str, words), "--quiet"])

    done = run("groups", work, "--from-run", RUN, "--hard-share", "0.1,0.25")
    assert done.exit_code == 0, done.output
    assert re.search(
        r"hardest 25 % .*: \d+ of \d+ and \d+ of \d+ training patches; at 0.25 their precision", done.output
    )
    config = work / "settings.toml"
    config.write_text(f"[train]\n{''.join(f'{k} = {json.dumps(v)}' + chr(10) for k, v in SMALL.items())}")
    words = ("--method", "gerne", "--groups-from", RUN, "--hard-share", "0.25", "--config", config)
    assert run("train", work, *words).exit_code == 0
    assert (work / "runs" / "gerne-t0.25-h0.25-s0" / "run.json").is_file()
    assert "it goes without --from-run" in run("groups", work, "--from-run", RUN, "--threshold", "0.5").output
    assert "no list of numbers" in run("groups", work, "--from-run", RUN, "--hard-share", "a").output
    assert "it goes with --from-run" in run("groups", work, "--hard-share", "0.5").output


ROWS = [
    {"name": "biased, early", "method": "erm-balanced"},
    {"name": "gerne, hard", "method": "gerne", "groups_from": "biased, early", "hard_share": 0.2},
]


def test_a_row_of_a_study_names_the_row_that_its_groups_come_from():
    study = StudyConfig.model_validate({"manifest": "m.csv", "work": "w", "seeds": (0, 1), "runs": ROWS})
    assert [(run.run_name, run.groups_from) for run in study_runs(study)][2:4] == [
        ("erm-balanced-t0.5-s0-biased-early", ""),
        ("gerne-t0.5-h0.2-s0-gerne-hard", "erm-balanced-t0.5-s0-biased-early"),
    ]


@pytest.mark.parametrize("base", ["erm", "gerne, hard"])
def test_a_row_whose_groups_come_from_no_other_row_is_refused(base):
    rows = [ROWS[0], {**ROWS[1], "groups_from": base}]
    with pytest.raises(ValueError, match="names no row with known groups"):
        StudyConfig.model_validate({"manifest": "m.csv", "work": "w", "runs": rows})
