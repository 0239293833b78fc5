"""Runs held against ERM, with answers by hand."""

from __future__ import annotations

import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from pathopatch.core.artefacts import Stamp, fingerprint_file, read_table, write_table
from pathopatch.core.config import EvaluateConfig, TrainConfig, TuneConfig
from pathopatch.core.errors import InputMissingError, StaleArtefactError
from pathopatch.core.files import read_json, write_json
from pathopatch.evaluation.compare import compare, comparison, comparison_text, preferred_run
from pathopatch.evaluation.evaluate import evaluate_predictions
from pathopatch.evaluation.reference import gain_text, gain_verdict
from pathopatch.evaluation.summary import methods_text, summarise_runs
from pathopatch.groups import PatchAttribute, TissueThreshold

STAMP = Stamp(stage="groups")
QUICK = EvaluateConfig(bootstrap=30)
# Each split: ten patches of each group, two of each of five patients.
GROUP = np.repeat(np.arange(4), 10)


def groups_table() -> pd.DataFrame:
    parts = [
        pd.DataFrame(
            {
                "patch_id": [f"{split}{index}" for index in range(40)],
                "slide_id": np.tile([f"{split}-{patient}@0" for patient in "pqrst"], 8),
                "patient_id": np.tile([f"{split}-{patient}" for patient in "pqrst"], 8),
                "split": split,
                "label": GROUP // 2,
                "tissue_fraction": np.where(GROUP % 2 == 1, 0.8, 0.2),
                "group@0.5": GROUP,
            }
        )
        for split in ("train", "val", "test")
    ]
    return pd.concat(parts, ignore_index=True)


def write_run(
    work: Path, config: TrainConfig, right: dict[str, tuple[int, int, int, int]], *, threshold: float = 0.0
) -> None:
    """Write a run that is right on the first so many of the ten patches of each group, split by split."""
    groups = groups_table()
    parts = []
    for split, counts in right.items():
        part = groups[groups["split"] == split].drop(columns=["slide_id", "patient_id"])
        is_right = np.tile(np.arange(10), 4) < np.repeat(counts, 10)
        sign = np.where(is_right, 1, -1) * np.where(part["label"] == 1, 1, -1)
        parts.append(part.assign(logit=threshold + 2.0 * sign, probability=(1 + 0.8 * sign) / 2))
    table = pd.concat(parts, ignore_index=True)
    folder = work / "runs" / config.run_name
    numbers = evaluate_predictions(table, groups, decision_threshold=threshold, config=QUICK)
    write_table(folder / "evaluation" / "predictions.parquet", table, STAMP)
    write_json(folder / "evaluation" / "metrics.json", {"run": config.run_name, **numbers})
    write_json(folder / "config.json", config.model_dump(mode="json"))


@pytest.fixture(scope="module")
def compared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    work = tmp_path_factory.mktemp("compared")
    write_table(work / "groups.parquet", groups_table(), STAMP)
    erm, balanced, gerne = (TrainConfig(method=name, threshold=0.5) for name in ("erm", "erm-balanced", "gerne"))
    # Plain ERM is better on test, balanced on validation: balanced is the reference.
    write_run(work, erm, {"val": (9, 2, 9, 9), "test": (9, 8, 9, 9)})
    write_run(work, balanced, {"val": (9, 4, 9, 9), "test": (10, 3, 5, 10)}, threshold=0.7)
    write_run(work, gerne, {"val": (8, 8, 8, 8), "test": (9, 7, 8, 9)})
    return work


@pytest.fixture
def work(compared: Path, tmp_path: Path) -> Path:
    """A copy of it."""
    return shutil.copytree(compared, tmp_path, dirs_exist_ok=True)


def test_a_gain_is_over_the_erm_that_validation_prefers_each_at_its_own_decision_threshold(work: Path) -> None:
    table = compare(work, config=QUICK).set_index("method")
    assert set(table["reference"]) == {"erm-balanced-t0.5-s0"}
    assert table.loc["erm", "wga_val"] == pytest.approx(0.2)
    gerne, balanced = table.loc["gerne"], table.loc["erm-balanced"]
    assert gerne["wga"] == pytest.approx(0.7)
    assert gerne["gain_wga"] == pytest.approx(0.7 - 0.3)
    assert [gerne[f"n_{g}"] for g in range(4)] == [10, 10, 10, 10]
    assert gerne["gain_wga_low"] < 0.4 < gerne["gain_wga_high"]
    assert gerne["wga_low"] < 0.7 < gerne["wga_high"]
    assert balanced["decision_threshold"] == 0.7
    assert balanced["gain_wga"] == 0
    assert balanced["accuracy_1"] == pytest.approx(0.3)


def test_an_erm_run_of_the_same_seed_comes_before_a_better_one(work: Path) -> None:
    other = TrainConfig(method="erm", threshold=0.5, seed=1)
    write_run(work, other, {"val": (10, 10, 10, 10), "test": (10, 10, 10, 10)})
    table = compare(work, config=QUICK).set_index("run")
    assert table.loc["gerne-t0.5-s0", "reference"] == "erm-t0.5-s0"  # by the mean of both seeds
    assert table.loc["erm-t0.5-s1", "reference"] == "erm-t0.5-s1"


def test_of_two_plain_settings_the_better_mean_over_seeds_is_the_reference(work: Path) -> None:
    shutil.rmtree(work / "runs" / "erm-balanced-t0.5-s0")
    of_gerne(work, seed=1)
    for name, rate, worst in (("steady", 0.1, (4, 4)), ("luck", 0.2, (5, 1))):  # of seed 0 the one by luck is ahead
        for seed in (0, 1):
            config = TrainConfig(method="erm", threshold=0.5, seed=seed, learning_rate=rate, name=name)
            write_run(work, config, {"val": (9, worst[seed], 9, 9), "test": (9, 9, 9, 9)})
    table = compare(work, config=QUICK).set_index("run")
    assert [table.loc[f"gerne-t0.5-s{seed}", "reference"] for seed in (0, 1)] == [
        f"erm-t0.5-s{seed}-steady" for seed in (0, 1)
    ]


@pytest.mark.parametrize("is_validated", [True, False])
def test_of_equal_plain_rows_the_first_of_the_study_is_the_reference(work: Path, is_validated: bool) -> None:
    for name in ("erm", "erm-balanced"):
        shutil.rmtree(work / "runs" / f"{name}-t0.5-s0")
    for name, rate in (("a-second", 0.1), ("z-first", 0.2)):
        config = TrainConfig(method="erm", threshold=0.5, learning_rate=rate, name=name, row_name=name)
        right = {"val": (9, 4, 9, 9), "test": (9, 9, 9, 9)}
        write_run(work, config, right if is_validated else {"test": right["test"]})
    rows = [{"name": name} for name in ("z-first", "a-second")]
    write_json(work / "study.json", {"methods": ["gerne"], "runs": rows})
    assert set(compare(work, config=QUICK)["reference"]) == {"erm-t0.5-s0-z-first"}


def test_without_erm_there_are_no_gains(work: Path) -> None:
    table = compare(work, ["gerne-t0.5-s0"], config=QUICK)
    assert table["reference"].tolist() == [""]
    assert table["gain_wga"].isna().all()


def test_the_csv_holds_what_a_person_reads_of_the_table(work: Path) -> None:
    table = compare(work, config=QUICK)
    text = dict.fromkeys(("reference", "attribute", "variant"), str)
    written = pd.read_csv(work / "comparison.csv", keep_default_na=True, dtype=text)
    assert len(written.columns) == 34
    assert {f"accuracy_{group}" for group in range(4)} < set(written)
    filled = written.fillna(dict.fromkeys(("variant", "reference"), ""))
    pd.testing.assert_frame_equal(filled, table[list(written)], check_dtype=False)


def test_the_text_shows_intervals_and_groups_and_a_gain_with_verdict_and_reference(work: Path) -> None:
    table = compare(work, config=QUICK)
    lines = comparison_text(work, table).splitlines()
    assert lines[0] == "Split test, in percent; smallest group n = 10"
    gerne = next(line for line in lines if "gerne" in line)
    assert gerne.split()[:3] == ["0.5", "gerne-t0.5-s0", "70.0"]
    assert gerne.split()[5] == "70.0"  # at a decision threshold of 0, which this run has
    assert gerne.split()[-4:] == ["80.0", "90.0", "1", "600"]
    row = table.set_index("run").loc["gerne-t0.5-s0"]
    ends = f"(95 % interval {100 * row['gain_wga_low']:+.1f} to {100 * row['gain_wga_high']:+.1f})"
    start = next(place for place, line in enumerate(lines) if line.startswith("Gain over ERM"))
    gains = {line.split()[1]: line for line in lines[start + 1 : start + 3]}
    assert set(gains) == {"erm-t0.5-s0", "gerne-t0.5-s0"}  # the reference is compared with nothing
    expected = "against erm-balanced-t0.5-s0, too few, only 10 patches in group 0: "
    expected += f"the worst group rose by 40.0 points {ends}, at equal area +0.125 ("
    assert expected in gains["gerne-t0.5-s0"]
    # Right are 33 of 40 patches, and of erm-balanced 28. With two logits AUROC is the same.
    assert (row["gain_average"], row["gain_auroc"]) == pytest.approx((5 / 40, 5 / 40))


CLAIMED = {
    "run": "gerne", "reference": "erm", "n_0": 50, "patients_0": 5, "patients": 12, "wga": 0.7, "gain_wga": 0.3,
    "gain_auroc": 0.1, "gain_average": 0.0, "gain_equal_area": -0.01, "gain_equal_area_high": 0.05, "gain_seeds": 3,
    "equal_area_floor": 0.55,
}  # fmt: skip


def claimed(ends: tuple[float, float, float], **values: Any) -> dict[str, Any]:
    """A row with some ends of its gain in WGA, and the lower end of that at equal area."""
    return CLAIMED | dict(zip(("gain_wga_low", "gain_wga_high", "gain_equal_area_low"), ends, strict=True)) | values


BY = TissueThreshold(0.5)


@pytest.mark.parametrize(
    ("ends", "equal_area", "verdict", "words"),
    [
        (
            (0.1, 0.5, 0.001),
            0.03,
            "better",
            "better: the worst group rose by 30.0 points (95 % interval +10.0 to ",
        ),
        ((0.1, 0.5, 0.0), 0.03, "evener", "errors are more even over area groups, and tumour is told as before: the w"),
        ((0.1, 0.5, -0.019), -0.01, "evener", "errors are more even over area groups, and tumour is told as before: "),
        (
            (0.1, 0.5, -0.1),
            -0.021,
            "traded",
            "errors are more even over area groups, and tumour is told worse: the w",
        ),
        ((0.1, 0.5, -0.1), -0.019, "no difference", "no difference is shown: the worst group rose by 30.0 points (95"),
        ((-0.1, 0.5, 0.1), 0.2, "no difference", "no difference is shown: the worst group rose by 30.0 points (95 % "),
        ((0.0, 0.5, 0.1), 0.2, "no difference", "no difference is shown: the worst group rose by 30.0 points (95 % i"),
        ((-0.5, -0.1, 0.1), 0.2, "worse", "worse: the worst group rose by 30.0 points (95 % interval -50.0 to -10.0)"),
        ((np.nan, np.nan, 0.1), 0.2, "no interval", "no claim: the worst group rose by 30.0 points over 3 seeds"),
        ((0.1, 0.5, np.nan), 0.2, "no interval", "no claim: the worst group rose by 30.0 points (95 % interval +1"),
    ],
)
def test_an_outcome_follows_from_wga_and_equal_area_together(
    ends: tuple[float, float, float], equal_area: float, verdict: str, words: str
) -> None:
    row = claimed(ends, gain_equal_area=equal_area)
    assert gain_verdict(row) == verdict
    assert gain_text(row, BY).startswith(f"against erm, {words}")
    assert "nan" not in gain_text(row, BY)
    few = row | {"gain_seeds": 2}
    assert gain_verdict(few) == "few seeds"
    assert gain_text(few, BY).startswith("against erm, without a claim, only 2 seeds of both: the worst group rose by")


def test_a_trade_is_told_with_all_that_fell() -> None:
    row = claimed((0.03, 0.5, -0.15), wga=0.468, gain_wga=0.286, gain_equal_area=-0.024)
    row |= {"gain_auroc": -0.037, "gain_average": -0.04}
    assert gain_text(row, BY) == (
        "against erm, errors are more even over area groups, and tumour is told worse: the worst group rose by 28.6 "
        "points (95 % interval +3.0 to +50.0) over 3 seeds, at equal area -0.024 (-0.150 to +0.050); AUROC fell by "
        "0.037; average accuracy fell by 4.0 points; the worst group, 46.8 % right, is below a coin"
    )
    unclear = gain_text(row | {"gain_equal_area": -0.01}, BY)
    assert ", but a loss at equal area is not excluded, -0.010 (-0.150 to +0.050); AUROC" in unclear
    # A fall that does not print is none, and half is no less than a coin.
    equal = row | {"wga": 0.5, "gain_auroc": -1e-5, "gain_average": -1e-5}
    assert gain_text(equal, BY).endswith("at equal area -0.024 (-0.150 to +0.050)")
    own = PatchAttribute(("sea", "land"), 0.5, label_names=("landbird", "waterbird"))
    assert "errors are more even over groups, and waterbird is told worse:" in gain_text(row, own)


def test_of_too_few_units_the_measures_are_told_without_a_claim() -> None:
    row = claimed((0.1, 0.5, -0.15), patients=10, unit="block")
    assert gain_verdict(row) == "too few"
    assert gain_text(row, BY) == (
        "against erm, too few, only 10 blocks in all: the worst group rose by 30.0 points (95 % interval +10.0 to "
        "+50.0) over 3 seeds, at equal area -0.010 (-0.150 to +0.050)"
    )


def test_a_run_without_a_reference_has_no_gain_in_words() -> None:
    row = claimed((np.nan, np.nan, np.nan), run="erm")
    assert (gain_verdict(row), gain_text(row, BY)) == ("plain", "")
    assert (gain_verdict(row | {"reference": ""}), gain_text(row | {"reference": ""}, BY)) == ("no plain", "")
    empty = row | {"run": "gerne", "wga": np.nan}
    assert gain_text(empty, BY) == "against erm, not known, since a group has no patch"


def test_validation_alone_prefers_a_run(work: Path) -> None:
    assert preferred_run(work, threshold=0.5) == "gerne-t0.5-s0"
    with pytest.raises(InputMissingError, match=r"threshold 0\.25"):
        preferred_run(work, threshold=0.25)
    # A tie goes to the higher GBA.
    write_run(work, TrainConfig(method="resample", threshold=0.5), {"val": (8, 9, 8, 8), "test": (1, 1, 1, 1)})
    assert preferred_run(work, threshold=0.5) == "resample-t0.5-s0"


def test_validation_is_reported_only_where_no_run_has_a_test_split(work: Path) -> None:
    assert set(compare(work, config=QUICK)["split"]) == {"test"}
    for name in ("erm", "erm-balanced", "gerne"):
        shutil.rmtree(work / "runs" / f"{name}-t0.5-s0")
    write_run(work, TrainConfig(method="erm", threshold=0.5), {"val": (9, 2, 9, 9)})
    assert set(compare(work, config=QUICK)["split"]) == {"val"}


def test_no_evaluated_run_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(InputMissingError, match="test or val"):
        compare(tmp_path)


def of_gerne(work: Path, **settings: Any) -> TrainConfig:
    """Write a further run of gerne, and return its configuration."""
    config = TrainConfig(method="gerne", threshold=0.5, **settings)
    write_run(work, config, {"val": (8, 8, 8, 8), "test": (2, 2, 2, 2)})
    return config


def test_runs_of_other_settings_are_no_seeds_of_each_other(work: Path) -> None:
    of_gerne(work, seed=1, mask="normalise", name="masked")
    rows = summarise_runs(work, compare(work, config=QUICK), config=QUICK).rows.set_index("name")
    assert rows.loc["gerne, mask none", ["seeds", "wga"]].tolist() == [1, pytest.approx(0.7)]
    assert rows.loc["gerne, mask normalise", ["seeds", "wga"]].tolist() == [1, pytest.approx(0.2)]


def test_a_run_that_repeats_another_counts_once(work: Path) -> None:
    of_gerne(work, seed=0, name="again", device="cpu", threads=1)
    of_gerne(work, seed=1)
    table = compare(work, config=QUICK)
    assert dict(zip(table["run"], table["rerun_of"], strict=True))["gerne-t0.5-s0-again"] == "gerne-t0.5-s0"
    row = summarise_runs(work, table, config=QUICK).rows.set_index("name").loc["gerne"]
    assert row["seeds"] == 2
    assert row["wga"] == pytest.approx((0.7 + 0.2) / 2)


def test_a_bad_erm_run_is_no_reference_for_want_of_another_of_its_seed(work: Path) -> None:
    shutil.rmtree(work / "runs" / "erm-balanced-t0.5-s0")
    bad = TrainConfig(method="erm", threshold=0.5, seed=1, learning_rate=1.0, name="bad")
    write_run(work, bad, {"val": (9, 1, 9, 9), "test": (9, 1, 9, 9)})
    of_gerne(work, seed=1)
    table = compare(work, config=QUICK).set_index("run")
    assert table.loc["gerne-t0.5-s1", "reference"] == "erm-t0.5-s0"


@pytest.mark.parametrize("given", [{"mask": "interior"}, {"frozen": True, "choose": True, "steps": 600}])
def test_erm_that_sees_masked_patches_is_no_reference(work: Path, given: dict[str, Any]) -> None:
    remedy = TrainConfig(method="erm", threshold=0.5, name="remedy", **given)
    write_run(work, remedy, {"val": (10, 10, 10, 10), "test": (9, 9, 9, 9)})
    write_json(work / "runs" / remedy.run_name / "run.json", {"chosen": {"mask": "interior", "method": "erm"}})
    (work / "runs" / remedy.run_name / "history.csv").write_text("mask,method\ninterior,erm\n")
    table = compare(work, config=QUICK).set_index("run")
    assert table.loc[remedy.run_name, "method"] == ("chosen: interior erm" if remedy.choose else "erm")
    assert table.loc[remedy.run_name, "reference"] == "erm-balanced-t0.5-s0"
    assert table.loc[remedy.run_name, "gain_wga"] == pytest.approx(0.9 - 0.3)
    alone = compare(work, ["gerne-t0.5-s0", remedy.run_name], config=QUICK)
    assert alone["reference"].tolist() == ["", ""]
    text = "No gain is given where no plain ERM run (no mask, no composing, no choice) had the same steps"
    assert text in comparison_text(work, alone)


def test_the_summary_has_each_setting_over_its_seeds_and_every_two_of_them(work: Path) -> None:
    of_gerne(work, seed=1)
    table = compare(work, config=QUICK)
    rows = pd.read_csv(work / "summary.csv").set_index("name")
    assert rows.index.tolist() == ["erm", "erm-balanced", "gerne"]
    gerne = rows.loc["gerne"]
    assert (gerne["seeds"], gerne["patients"]) == (2, 5)
    assert gerne["wga"] == pytest.approx((0.7 + 0.2) / 2)
    assert gerne["wga_sd"] == pytest.approx(np.std([0.7, 0.2], ddof=1))
    assert gerne["wga_lowest"] == pytest.approx(0.2)
    assert gerne["wga_low"] <= gerne["wga"] <= gerne["wga_high"]
    assert gerne["sensitivity"] == pytest.approx((0.85 + 0.2) / 2)
    pairs = pd.read_csv(work / "summary_pairs.csv").set_index(["name", "less"])
    assert pairs.loc[("gerne", "erm-balanced"), ["seeds", "wga"]].tolist() == [1, pytest.approx(0.7 - 0.3)]
    assert len(pairs) == 3
    assert table["run"].nunique() == 4
    assert "| 0.5 | gerne | 2 | 10, 5* | 45.0 ± 35.4 |" in (work / "summary.md").read_text()
    assert r"gerne & 10, 5* & 45.0 $\pm$ 35.4 &" in (work / "summary.tex").read_text()
    assert not pairs["is_shown"].any()  # ten patches
    assert "(only 10 patches in group 0)" in (work / "summary.md").read_text()


def searched(work: Path, run: str, *, trials: int, offered: str, steps: int) -> None:
    facts = {"offered": offered, "objective": "wga", "trials": trials, "steps_each": 600, "steps": steps}
    write_json(work / "runs" / run / "search.json", facts | {"pruned": 0, "diverged": 0})


def test_a_run_on_bins_is_compared_with_the_better_of_both_erm_runs(tmp_path: Path) -> None:
    write_table(tmp_path / "groups.parquet", groups_table(), STAMP)
    right = {"good": {"val": (9, 7, 9, 9), "test": (9, 6, 9, 9)}, "poor": {"val": (9, 2, 9, 9), "test": (9, 1, 9, 9)}}
    write_run(tmp_path, TrainConfig(method="erm", threshold=0.5), right["good"])
    write_run(tmp_path, TrainConfig(method="erm", bins=(0.3, 0.6)), right["poor"])
    write_run(tmp_path, TrainConfig(method="erm", threshold=0.25), {"val": (10,) * 4, "test": (9,) * 4})  # of neither
    write_run(tmp_path, TrainConfig(method="gerne", bins=(0.3, 0.6)), {"val": (8, 8, 8, 8), "test": (8, 8, 8, 8)})
    row = compare(tmp_path, config=QUICK).set_index("method").loc["gerne"]
    assert row["reference"] == "erm-t0.5-s0"
    assert row["gain_wga"] == pytest.approx(0.2)


def test_runs_that_were_judged_by_other_groups_are_not_compared(work: Path) -> None:
    path = work / "runs" / "gerne-t0.5-s0" / "evaluation" / "metrics.json"
    stamp = Stamp(stage="evaluate", inputs={"groups": fingerprint_file(work / "groups.parquet")})
    write_json(path, {**read_json(path), "stamp": stamp.to_dict()})
    compare(work, config=QUICK)
    write_table(work / "groups.parquet", groups_table().assign(tissue_fraction=0.5), STAMP)
    with pytest.raises(StaleArtefactError, match=r"1 of 3 runs were judged by groups .* the first is 'gerne-t0\.5-s0'"):
        compare(work, config=QUICK)


def test_only_runs_of_equal_searches_are_compared_with_each_other(work: Path) -> None:
    searched(work, "gerne-t0.5-s0", trials=8, offered="8 trials", steps=4200)
    table = compare(work, config=QUICK).set_index("method")
    assert table.loc["gerne", ["trials", "search_steps", "reference"]].tolist() == [8, 4200, ""]
    assert np.isnan(table.loc["gerne", "gain_wga"])
    assert table.loc["erm", ["trials", "search_steps", "search"]].tolist() == [1, 600, "none"]
    text = comparison_text(work, compare(work, config=QUICK))
    assert next(line for line in text.splitlines() if "gerne" in line).split()[-2:] == ["8", "4200"]
    assert "Searches differ (8 trials, none); no gain is given where no plain ERM run (no mask, " in text
    for name in ("erm", "erm-balanced"):
        searched(work, f"{name}-t0.5-s0", trials=8, offered="8 trials", steps=4800)
    table = compare(work, config=QUICK)
    assert set(table["reference"]) == {"erm-balanced-t0.5-s0"}
    assert "earches differ" not in comparison_text(work, table)


def test_gains_at_equal_area_are_beside_those_in_wga(work: Path) -> None:
    table = compare(work, config=QUICK).set_index("method")
    # All logits are equal but for their sign, so at either area a pair is won at the mean of both groups' accuracies.
    assert table.loc["gerne", "equal_area"] == pytest.approx(((0.8 + 0.9) / 2 + (0.7 + 0.9) / 2) / 2)
    assert table.loc["erm-balanced", "equal_area"] == pytest.approx(((1 + 0.5) / 2 + (0.3 + 1) / 2) / 2)
    gain, low, high = (table.loc["gerne", f"gain_equal_area{end}"] for end in ("", "_low", "_high"))
    assert gain == pytest.approx(0.825 - 0.7)
    assert low <= gain <= high
    assert table.loc["erm-balanced", "gain_equal_area"] == 0  # it is the reference itself
    written = pd.read_csv(work / "comparison.csv").set_index("method")
    assert written.loc["gerne", "gain_equal_area"] == gain
    assert "0.825 [" in comparison_text(work, compare(work, config=QUICK))
    summary = pd.read_csv(work / "summary_pairs.csv").set_index(["name", "less"]).loc[("gerne", "erm-balanced")]
    assert summary["equal_area"] == pytest.approx(gain)
    assert summary["equal_area_low"] <= gain <= summary["equal_area_high"]


def test_what_may_be_area_is_no_gain_at_equal_area(work: Path) -> None:
    for path in work.glob("runs/*/evaluation/predictions.parquet"):
        table = read_table(path)
        write_table(path, table.assign(tissue_fraction=0.99 + 0.005 * table["label"]), STAMP)
    table = compare(work, config=QUICK)
    assert table[[f"gain_equal_area{end}" for end in ("", "_low", "_high")]].isna().all(axis=None)
    assert "| - [-, -] |" in (work / "summary.md").read_text()
    row = claimed((0.1, 0.5, np.nan), gain_equal_area=np.nan)
    assert "area" not in gain_text(row, BY)
    text = gain_text(row | {"equal_area_floor": 0.56}, BY)
    assert text.endswith("over 3 seeds, and at equal area it cannot be told apart from area here")


def test_the_text_says_what_equal_area_rests_on(work: Path) -> None:
    table = compare(work, config=QUICK)
    text = comparison_text(work, table)
    assert "differ by at most 0.02; the fraction itself reaches 0.500." in text
    assert "have such a partner" not in text
    assert "In no number" not in text
    few = table.assign(equal_area_partnered=[0.4, 0.6, 0.6], left_out_0=12, left_out_1=3)
    text = comparison_text(work, few)
    assert "Only 40% of tumour patches have such a partner." in text
    assert "In no number, as blank or hardly scanned: 12 non-tumour and 3 tumour." in text
    assert "at most 0.02; there is no pair." in comparison_text(work, table.assign(equal_area_floor=np.nan))
    narrow = comparison_text(work, table.assign(equal_area_caliper=0.05, equal_area_floor=0.451))
    assert "differ by at most 0.02 and by at most 5 % of all ranks; the fraction itself reaches 0.451." in narrow


def test_an_evaluation_of_an_earlier_version_is_refused(work: Path) -> None:
    path = work / "runs" / "gerne-t0.5-s0" / "evaluation" / "metrics.json"
    numbers = read_json(path)
    numbers["version"] = 1
    write_json(path, numbers)
    with pytest.raises(StaleArtefactError, match="earlier version"):
        comparison(work, config=QUICK)


def test_the_methods_paragraph_says_what_was_run(work: Path) -> None:
    ranges = TuneConfig(trials=6, learning_rates=(0.001, 0.004)).model_dump(
        mode="json"
    )  # for WGA, whatever [train] says
    own = {"gerne": {}, "erm": {"mask": "interior", "row_name": "crops"}}
    for name, further in own.items():
        config = TrainConfig(method=name, threshold=0.5, steps=300, select="last", **further).model_dump(mode="json")
        stamp = Stamp(stage="tune", settings={"train": config, "tune": ranges})
        folder, crops = work / "runs" / f"{name}-t0.5-s0", {"crop_px": 12, "without": {"train": 1, "val": 3}}
        write_json(folder / "run.json", {"stamp": stamp.to_dict()} | ({"crops": crops} if further else {}))
        write_json(folder / "config.json", config)
    compare(work, ["erm-t0.5-s0", "gerne-t0.5-s0"], config=QUICK)
    text = (work / "summary.md").read_text().split("## Methods")[1]
    for part in (
        "train 40 of 5 patients, val 40 of 5 patients, test 40 of 5 patients",
        "tissue fraction, at 0.5.",
        "learnt for 300 steps, 32 patches of each class a step",
        "Rows: crops (erm, crops of 12 px that lie wholly in tissue, the mean of up to 8 in prediction; without one, "
        "up to 1 training patch left out and 3 validation patches counted as wrong); gerne.",
        "searched by 6 trials",
        "learning rate 0.001 to 0.004",
        "c (beta + 1) of 0.5",
        "compared by worst-group accuracy on validation, at the decision threshold that is best there",
        "at most 0.02; the fraction itself reaches 0.500. Intervals are 95 %, over patients: score intervals, with the "
        "spread of AUROCs from 30 draws. Those of differences, by Student's t and the draws, take at least 3 seeds. "
        "Better: ",
    ):
        assert part in text
    for other in ("group-balanced accuracy", "linear heads", "biased phase"):  # of which nothing was run
        assert other not in text
    mark = re.search(r"hash (\w+)", text)[1]
    groups = groups_table()
    swap = {f"val-{name}": f"test-{name}" for name in "pq"}
    groups["patient_id"] = groups["patient_id"].replace(swap | {new: old for old, new in swap.items()})
    write_table(work / "groups.parquet", groups, STAMP)
    assert mark not in methods_text(work, comparison(work, config=QUICK), config=QUICK)


def test_a_row_has_the_name_that_the_study_gave_it(work: Path) -> None:
    of_gerne(work, seed=1, mask="normalise", name="masked", row_name="the masked one")
    rows = summarise_runs(work, compare(work, config=QUICK), config=QUICK).rows
    assert rows["name"].tolist() == ["erm", "erm-balanced", "gerne, mask none", "the masked one"]
