"""A difference between two rows is shown where patients, seeds and the number of comparisons all allow it."""

from __future__ import annotations

import re
import warnings
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import timm
from made_patches import small_config, write_work
from safetensors.torch import save_file

from pathopatch.core.artefacts import Stamp, read_table, write_table
from pathopatch.core.config import EvaluateConfig, GroupsConfig, TrainConfig, TuneConfig
from pathopatch.core.files import read_json, write_json
from pathopatch.core.text import pluralize
from pathopatch.evaluation import summary
from pathopatch.evaluation.group_scores import effective_sizes, smallest_group, too_few_of
from pathopatch.evaluation.reference import Measured
from pathopatch.evaluation.run_settings import head_text, row_name, run_records
from pathopatch.groups import TissueThreshold
from pathopatch.stages.groups import fold_tables, write_folds
from pathopatch.stages.train import train_run
from pathopatch.training import frozen
from pathopatch.training import run as training_run

UNIT, LABEL = np.repeat(np.arange(20), 10), np.tile([0, 1], 100)


def row_of(seeds: int, *, accuracy: float = 0.8, equal_area: float = 0.8, seed_sd: float = 0.0, luck: int = 0) -> Any:
    """A method on 20 patients of 20 patches a group, by seed, which moves the accuracy of each group by a normal."""
    rng = np.random.default_rng((luck, seeds, int(1000 * seed_sd)))
    n, spread = np.full((20, 4), 20), np.linspace(-0.02, 0.02, 500)
    runs = [rng.binomial(20, np.clip(accuracy + rng.normal(0, seed_sd, 4), 0, 1), (20, 4)) for _ in range(seeds)]
    return {seed: Measured(hits, n, equal_area, equal_area + spread, 20.0) for seed, hits in enumerate(runs)}


def pair_of(row: Any, other: Any) -> dict[str, Any]:
    return summary._pair(row, other, "")


@pytest.mark.parametrize(("seeds", "words"), [(1, "only 1 seed of both"), (2, "only 2 seeds of both"), (3, "")])
def test_a_difference_is_shown_from_three_shared_seeds_on(seeds: int, words: str) -> None:
    pair = pair_of(row_of(seeds), row_of(5, accuracy=0.5))
    assert pair["wga"] > 0.2
    assert pair["wga_low"] > 0 or seeds == 2  # whose t has one degree of freedom
    assert (pair["is_shown"], pair["outcome"]) == ((True, "evener") if seeds == 3 else (False, "too few"))
    assert pair["too_few"] == words
    assert np.isnan(pair["p"]) == (seeds < 3)


@pytest.mark.parametrize("is_first", [True, False])
@pytest.mark.parametrize(("equal_area", "outcome"), [(0.76, "traded"), (0.81, "evener"), (0.85, "better")])
def test_an_outcome_is_that_of_the_higher_row(equal_area: float, outcome: str, is_first: bool) -> None:
    high, low = row_of(3, equal_area=equal_area), row_of(5, accuracy=0.5)
    low = {seed: replace(each, drawn=np.full(500, 0.8)) for seed, each in low.items()}
    pair = pair_of(*((high, low) if is_first else (low, high)))
    assert (pair["is_shown"], pair["outcome"]) == (True, outcome)


def test_runs_of_other_patches_are_not_compared() -> None:
    fewer = {seed: replace(each, n=each.n - 1) for seed, each in row_of(3, accuracy=0.5).items()}
    assert pair_of(row_of(3), fewer)["too_few"] == "only 0 seeds of both"


@pytest.mark.slow
@pytest.mark.parametrize("seed_sd", [0, 0.02, 0.05])
def test_two_equal_methods_differ_shown_in_at_most_6_percent(seed_sd: float) -> None:
    pairs = (
        pair_of(row_of(3, seed_sd=seed_sd, luck=2 * luck), row_of(3, seed_sd=seed_sd, luck=2 * luck + 1))
        for luck in range(100)
    )
    assert sum(pair["is_shown"] for pair in pairs) <= 6


def test_holm_compares_each_p_with_5_percent_by_how_many_are_left() -> None:
    pairs = pd.DataFrame({"p": [0.04, 0.01, np.nan, 0.03, 0.012], "is_shown": [True, True, False, True, True]})
    # .01 <= .05 / 4 and .012 <= .05 / 3, but .03 > .05 / 2, and then .04 does not count either.
    assert summary._holds_by_holm(pairs).tolist() == [False, True, False, False, True]


def test_the_smallest_group_is_one_group_and_not_two_minima() -> None:
    row = {"n_0": 117, "patients_0": 16, "n_1": 300, "patients_1": 15, "patients": 20}
    assert smallest_group(row) == {"n_smallest": 117, "patients_smallest": 16}
    # A group that is too small comes before one that is smaller.
    assert smallest_group(row | {"patients_1": 4}) == {"n_smallest": 300, "patients_smallest": 4}


def test_a_claim_counts_patients_by_their_shares_of_the_patches() -> None:
    n = np.ones((12, 2), np.int64)
    row = {"n_0": 60, "n_1": 60, "patients_0": 12, "patients_1": 12, "patients": 12}
    assert too_few_of(row | effective_sizes(n)) == {}
    n[0] = 109
    reason = "only 12 patients, effectively 1.2"
    assert too_few_of(row | effective_sizes(n)) == {"group 0": reason, "group 1": reason, "all": reason}


@pytest.mark.parametrize("has_folds", [False, True])
def test_the_methods_paragraph_counts_what_was_judged_by_split_or_fold(has_folds: bool) -> None:
    groups = pd.DataFrame(
        {"patient_id": list("aabbcc"), "label": [0, 1, 0, 1, 0, 0], "tissue_fraction": 0.5, "split": "test"}
    )
    groups["group@0.5"] = [-1, 3, 1, -1, 1, 1]
    text = summary._data(groups.assign(fold=[1, 1, 2, 2, 2, 2]) if has_folds else groups)
    assert text.startswith(
        "4 patches labelled non-tumour or tumour (left out, as blank or hardly scanned: 1 non-tumour and 1 tumour) "
    )
    parts = "fold 1: 1 of 1 patient, fold 2: 3 of 2 patients." if has_folds else "test 4 of 3 patients."
    assert parts in text
    settings = {"architecture": "small", "input_px": 8, "steps": 9, "batch_per_class": 4, "optimizer": "sgd"}
    (networks,) = summary._training([settings | {"seed": seed, "learning_rate": 1} for seed in (0, 1)], 2 * has_folds)
    assert ("2 runs in each of 2 folds, 4 networks, seeds: 0, 1." in networks) == has_folds


def test_the_methods_paragraph_tells_solved_heads_from_networks_that_learnt() -> None:
    learnt = {"architecture": "small", "input_px": 8, "steps": 9, "batch_per_class": 4, "optimizer": "sgd", "seed": 0}
    learnt |= {"learning_rate": 0.1, "weight_decay": 0.2}
    frozen = {"frozen": True, "architecture": "lite", "input_px": 128, "inner_folds": 5, "steps": 1, "seed": 0}
    (text,) = summary._training([learnt, frozen], 2)
    assert text == (
        "Linear heads on frozen networks (lite, patches at 128 px) were solved exactly, their L2 penalty chosen on "
        "validation, by 5 inner folds of training and validation, solved on both; networks (small, patches at 8 px) "
        "learnt for 9 steps, 4 patches of each class a step, by sgd, learning rate 0.1, weight decay 0.2; 2 runs in "
        "each of 2 folds, 4 networks, seeds: 0."
    )
    (of_features,) = summary._training([{"architecture": "linear", "steps": 1, "weight_decay": 0.3, "seed": 1}], 0)
    assert of_features == "Linear heads on features were solved exactly with an L2 penalty of 0.3; 1 run, seeds: 1."


def test_a_chosen_row_says_which_heads_validation_took(tmp_path: Path) -> None:
    heads = (("normalise", "erm"), ("normalise", "resample"), ("normalise", "erm"), ("interior", "erm"))
    for fold, (mask, method) in enumerate(heads):
        chosen = {"mask": mask, "method": method, "invariance": 10.0 * (method == "resample")}
        write_json(tmp_path / f"folds/{fold}/runs/a/run.json", {"chosen": chosen})
        stood = heads if mask == "normalise" else heads[3:]  # a penalty each
        rows = "".join(f"{mask},{method}\n" for mask, method in stood)
        (tmp_path / f"folds/{fold}/runs/a/history.csv").write_text(f"mask,method\n{rows}")
    (tmp_path / "folds/4/runs/a").mkdir(parents=True)  # was not trained
    assert summary._chosen_text(run_records(tmp_path, "a")) == (
        "normalise erm 2 times, chosen by validation of 3 candidates; normalise resample, invariance 10 1 time, chosen "
        "by validation of 3 candidates; interior erm 1 time, the only candidate, so nothing was chosen"
    )
    assert summary._has_invariance({"records": run_records(tmp_path, "a")})
    config = {"choose": True, "method": "erm"}
    assert row_name(config, "erm", "seed 1") == "chosen head, seed 1"
    assert row_name(config | {"row_name": "mine"}, "erm", "") == "mine"


@pytest.mark.parametrize(
    ("settings", "is_tuned", "start"),
    [
        ({"select": "last", "frozen": True}, None, "Nothing was compared on validation, at a decision threshold of 0;"),
        ({"select": "gba", "sensitivity": 0.95}, True, "2 checkpoints of each network were compared by group-balanced "
         "accuracy on validation, at the decision threshold that has a sensitivity of 95 % there; "),
        ({"select": "wga"}, False, "2 checkpoints of each network were compared by worst-group accuracy on validation, "
         "at a decision threshold of 0; "),
    ],
)  # fmt: skip
def test_the_methods_paragraph_says_how_a_run_was_selected(settings: Any, is_tuned: bool | None, start: str) -> None:
    validation = {} if is_tuned is None else {"is_threshold_tuned": is_tuned}  # nothing is known where nothing selects
    of_run = settings | {"tune_threshold": True, "evaluations": 2, "records": [{"validation": validation}]}
    assert summary._rule([of_run], "test").startswith(start)
    frozen = {"frozen": True, "architecture": "lite", "input_px": 9, "weight_decay": 0.3, "seed": 0, "select": "last"}
    assert "solved exactly, their L2 penalty 0.3; 1 run" in summary._training([frozen], 0)[0]


STAMP = Stamp(stage="groups", settings={"is": "c"})


def trained_study(work: Path, kind: str, weights: Path) -> None:
    """Train exact heads in folds, networks by steps with a search, or crops where validation lacks a group."""
    head: dict[str, Any] = {"frozen": True, "architecture": "test_efficientnet", "pretrained": weights, "threads": 1}
    groups, config = write_work(work, is_solid=True), GroupsConfig(thresholds=(0.25,))
    chosen = TrainConfig(method="erm", choose=True, row_name="chosen head", name="chosen", inner_folds=3, **head)
    if kind == "folds":
        groups["patient_id"] += (groups.index % 4).astype(str)
        columns = groups.drop(columns=["group@0.25", "attribute@0.25"])
        write_folds(work, fold_tables(columns, config, folds=3), config, stamp=STAMP, left_out=[])
        train_run(work, chosen)
        write_json(work / "runs" / chosen.run_name / "config.json", chosen.model_dump(mode="json"))  # as pooling does
    if kind == "steps":
        for method, seed in (("erm", 0), ("erm", 1), ("gerne", 0)):
            train_run(work, small_config(method=method, seed=seed, steps=6, evaluations=3), TuneConfig(trials=2))
    if kind == "crops":
        is_left_out = (groups["split"] == "val") & (groups["group@0.25"] == 2)
        write_table(work / "groups.parquet", groups.assign(label=groups["label"].mask(is_left_out, -1)), STAMP)
        for run in (chosen, TrainConfig(method="erm", mask="interior", name="crops", row_name="crops", **head)):
            train_run(work, run)
        train_run(work, small_config(method="erm", steps=5, weight_decay=0.03))


def stated(work: Path) -> Iterator[str]:
    """What the methods paragraph is to say, from ``run.json``, ``history.csv`` and the groups alone."""
    groups = read_table(work / "groups.parquet")
    folds = groups["fold"].nunique() if "fold" in groups else 0
    grouped = groups[(groups["label"] >= 0) & (TissueThreshold(0.25).groups_in(groups) >= 0)]
    yield f"{len(grouped)} patches labelled"
    left_out = [int((groups["label"] == y).sum() - (grouped["label"] == y).sum()) for y in (0, 1)]
    if any(left_out):
        yield f"(left out, as blank or hardly scanned: {left_out[0]} non-tumour and {left_out[1]} tumour)"
    for name, rows in grouped.groupby("fold" if folds else "split"):
        place = f"fold {name}:" if folds else name
        yield f"{place} {len(rows)} of {pluralize(rows['patient_id'].nunique(), 'patient')}"
    yield "at 0.25"
    records: dict[str, list[dict[str, Any]]] = {}
    for path in sorted(work.glob("**/run.json")):
        records.setdefault(path.parent.name, []).append({**read_json(path), "folder": path.parent})
    trained = {run: (own := each[0]["stamp"]["settings"]).get("train", own) for run, each in records.items()}
    for run, own in records.items():
        train, tune = trained[run], own[0]["stamp"]["settings"].get("tune")
        seen = f"({train['architecture']}, patches at {train['input_px']} px)"
        if train["frozen"]:
            yield f"inear heads on frozen networks {seen} were solved exactly, their L2 penalty chosen on validation"
            is_gerne = any(each["method"] == "gerne" for each in trained.values())
            yield "he heads of each penalty" + ", and of each s of gerne," * is_gerne
        else:
            rates = f", learning rate {train['learning_rate']}, weight decay {train['weight_decay']}"
            yield (
                f"etworks {seen} learnt for {train['steps']} steps, {train['batch_per_class']} patches of each class a "
                f"step, by {train['optimizer']}{'' if tune else rates}, the weights averaged over steps"
            )
            yield f"{train['evaluations']} checkpoints of each network"
        if tune:
            ranges = ("{:g} to {:g}".format(*tune[name]) for name in ("learning_rates", "weight_decays"))
            values = (", ".join(f"{value:g}" for value in tune[name]) for name in ("c_values", "s_values"))
            yield f"searched by {tune['trials']} trials"
            yield "learning rate {}; weight decay {}; c of {}; c (beta + 1) of {}.".format(*ranges, *values)
            yield "Trials and "
        if train["choose"]:
            history = pd.concat(pd.read_csv(record["folder"] / "history.csv") for record in own)
            stood = len(history[["mask", "method"]].drop_duplicates())
            heads = Counter(head_text(record["chosen"]) for record in own)
            of = (
                f"chosen by validation of {stood} candidates"
                if stood > 1
                else "the only candidate, so nothing was chosen"
            )
            yield "; ".join(f"{name} {pluralize(n, 'time')}, {of}" for name, n in heads.items())
        if crops := [record["crops"] for record in own if "crops" in record]:
            without = [max(each["without"][split] for each in crops) for split in ("train", "val")]
            yield (
                f"crops of {crops[0]['crop_px']} px that lie wholly in tissue, the mean of up to 8 in prediction; "
                f"without one, up to {pluralize(without[0], 'training patch')} left out and "
                f"{pluralize(without[1], 'validation patch')} counted as wrong"
            )
    if any(record.get("chosen", {}).get("invariance") for own in records.values() for record in own):
        yield from ("Solomonoff 2005", "Hatch 2006", "arXiv 2505.24843")
    networks = f" in each of {folds} folds, {folds * len(records)} networks" if folds else ""
    seeds = dict.fromkeys(str(train["seed"]) for train in trained.values())
    yield f"{pluralize(len(records), 'run')}{networks}, seeds: {', '.join(seeds)}."
    if folds:
        yield f"by {next(iter(trained.values()))['inner_folds']} inner folds of training and validation, solved on both"
        yield f"into {folds} folds"
    yield {"wga": "by worst-group accuracy on validation"}[next(iter(trained.values()))["select"]]
    for is_tuned in {record["validation"]["is_threshold_tuned"] for own in records.values() for record in own}:
        yield "the decision threshold that is best there" if is_tuned else "a decision threshold of 0"


@pytest.mark.parametrize("kind", ["folds", "steps", "crops"])
def test_the_methods_paragraph_has_the_numbers_of_the_records_alone(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def quick_features(backbone: frozen.Backbone, patches: Any, **_: Any) -> np.ndarray:
        features = np.zeros((len(patches), backbone.network.classifier.in_features), np.float32)
        pixels = patches.read(slice(0, len(patches)))
        features[:, :2], features[:, 2:4] = pixels.mean((2, 3)), pixels.std((2, 3))
        return features

    monkeypatch.setattr(frozen.Backbone, "features", quick_features)
    monkeypatch.setattr(frozen, "PENALTIES", (1.0, 10.0))
    monkeypatch.setattr(training_run, "save_bundle", lambda *_, **__: None)  # no model is asked for anything
    save_file(timm.create_model("test_efficientnet", num_classes=2).state_dict(), tmp_path / "weights.safetensors")
    work = tmp_path / "work"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of patches without a crop
        trained_study(work, kind, tmp_path / "weights.safetensors")
    runs = sorted({path.parent.name for path in work.glob("**/run.json")})
    table = pd.DataFrame({"run": runs, "variant": "", "attribute": "0.25", "split": "test", "seed": 0, "rerun_of": ""})
    table = table.assign(equal_area_caliper=1.0, equal_area_floor=np.linspace(0.5, 0.54, len(runs)))
    text, pairs = summary.methods_text(work, table, config=EvaluateConfig(bootstrap=0)).split(" AUROC at equal area:")
    assert "score intervals, none of AUROCs." in pairs
    assert f"the fraction itself reaches {0.52 if len(runs) > 1 else 0.5:.3f}" in pairs
    rest = re.sub(r"hash \w+|L2", "", text)
    for part in stated(work):
        assert part in text
        rest = rest.replace(part.replace("L2", ""), "")
    assert not re.search(r"\d", rest), rest
