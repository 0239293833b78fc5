"""Slides and patients are told apart by the mean logit of their patches and by the share of tissue called tumour."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from made_study import QUICK, make_study
from read_page import Page

from pathopatch.core.config import EvaluateConfig
from pathopatch.core.files import read_json
from pathopatch.evaluation.compare import comparison, comparison_text
from pathopatch.evaluation.evaluate import evaluate_predictions, patient_scores
from pathopatch.evaluation.group_scores import evaluate_logits
from pathopatch.evaluation.reference import gain_text
from pathopatch.evaluation.slide_scores import score_slides, scores_by, scores_text, slide_rows
from pathopatch.groups import TissueThreshold
from pathopatch.metrics.intervals import mann_whitney_interval
from pathopatch.report import write_report


def cohort(
    slides: dict[str, list[tuple[int, float, float]]], **columns: list[Any]
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Return predictions and groups of slides given as (label, logit, tissue fraction); a patient a slide."""
    rows = [(f"{s}@{k},0", s, *patch) for s, patches in slides.items() for k, patch in enumerate(patches)]
    table = pd.DataFrame(rows, columns=["patch_id", "slide_id", "label", "logit", "tissue_fraction"])
    table = table.assign(patient_id="p" + table["slide_id"], split="test", probability=0.5, **columns)
    table["group@0.25"] = 2 * table["label"] + (table["tissue_fraction"] >= 0.25)
    # The fold of a prediction is that of its model; groups have one of their own.
    predicted = ["patch_id", "split", "label", "tissue_fraction", "group@0.25", "logit", "probability"]
    return table[predicted + ["fold"] * ("fold" in columns)], table.drop(columns="fold", errors="ignore")


THREE: dict[str, list[tuple[int, float, float]]] = {
    "a": [(1, 3.0, 0.5), (1, -1.0, 0.1)],  # mean 1; 0.5 of 0.6 of the tissue is above 0.5
    "b": [(0, 0.0, 0.4), (0, 1.0, 0.4)],  # mean 0.5; a half
    "c": [(0, 2.0, 0.9), (0, 1.0, 0.3)],  # mean 1.5; all of it
}


def test_three_slides_are_scored_as_by_hand() -> None:
    predictions, groups = cohort(THREE)
    rows = slide_rows(predictions, groups, of="slide", decision_threshold=0.5)
    assert rows["slide_id"].tolist() == ["a", "b", "c"]
    assert rows["mean_logit"].tolist() == [1.0, 0.5, 1.5]
    assert rows["positive_share"].tolist() == pytest.approx([0.5 / 0.6, 0.5, 1.0])
    assert rows["tissue"].tolist() == pytest.approx([0.6, 0.8, 1.2])
    scores = score_slides(predictions, groups, of="slide", decision_threshold=0.5)
    assert (scores["n"], scores["n_tumor"], scores["left_out"], scores["reason"]) == (3, 1, 0, "")
    assert scores["auroc"]["value"] == scores["auroc_of_share"]["value"] == 0.5  # a wins over b and not over c
    assert scores["accuracy"] == pytest.approx(2 / 3)  # the mean of b is no more than the threshold
    ((title, by_run),) = scores_by({"erm": {"by_slide": scores, "by_patient": scores}})
    assert (title, by_run) == ("By patient (3 patients with one label, 1 tumour)", {"erm": scores})
    (title, _), _ = scores_by({"erm": {"by_slide": scores, "by_patient": scores | {"n": 2}}})
    assert title == "By slide (3 slides with one label, 1 tumour)"
    assert scores_text(scores).startswith("AUROC of the mean logit 0.500, of the positive share")


def test_a_slide_of_two_labels_is_left_out_and_counted() -> None:
    predictions, groups = cohort(THREE | {"d": [(1, 9.0, 0.5), (0, 9.0, 0.5)]})
    scores = score_slides(predictions, groups, of="slide", decision_threshold=0.5)
    assert (scores["n"], scores["left_out"], scores["auroc"]["value"]) == (3, 1, 0.5)
    table = patient_scores(predictions, groups, decision_threshold=0.5).set_index("patient_id")
    assert table["label"].isna().to_dict() == {"pa": False, "pb": False, "pc": False, "pd": True}


@pytest.mark.parametrize(
    ("slides", "reason"),
    [
        ({"b": THREE["b"], "c": THREE["c"]}, "2 slides with one label, and all are non-tumour"),
        ({"d": [(1, 9.0, 0.5), (0, 9.0, 0.5)]}, "no slide has patches of one label"),
    ],
)
def test_slides_of_one_label_have_no_auroc_and_the_reason(slides: dict[str, Any], reason: str) -> None:
    scores = score_slides(*cohort(slides), of="slide", decision_threshold=0.5)
    assert scores["auroc"] == dict.fromkeys(("value", "low", "high", "pooled"))
    assert scores["reason"] == reason


def test_pairs_are_within_one_fold_and_pooled_beside_it() -> None:
    slides = {"a": [(1, 1.0, 0.5)], "b": [(0, 0.0, 0.5)], "c": [(1, 3.0, 0.5)], "d": [(0, 2.0, 0.5)]}
    scores = score_slides(*cohort(slides, fold=[1, 1, 2, 2]), of="slide", decision_threshold=0)
    assert (scores["auroc"]["value"], scores["auroc"]["pooled"]) == (1.0, 0.75)  # a loses to d alone
    apart = score_slides(*cohort(slides, fold=[1, 2, 1, 2]), of="slide", decision_threshold=0)
    assert (apart["auroc"]["value"], apart["reason"]) == (None, "no fold has slides of both labels")


def test_slides_wholly_apart_are_told_by_what_is_excluded() -> None:
    slides = {f"s{i}": [(i % 2, float(i % 2), 0.5)] for i in range(10)}
    scores = score_slides(*cohort(slides), of="slide", decision_threshold=0.5)
    low, high = mann_whitney_interval(1.0, 5, 5, units=10)
    assert (scores["auroc"]["low"], scores["auroc"]["high"]) == (low, high)
    assert f"AUROC of the mean logit 1.000 (all pairs right, at least {low:.3f} by 95 %)" in scores_text(scores)


def test_patches_without_an_answer_and_unknown_tissue_are_no_numbers() -> None:
    predictions, groups = cohort(THREE)
    silent = predictions.assign(has_answer=predictions["patch_id"] != "c@0,0")
    rows = slide_rows(silent, groups, of="slide", decision_threshold=0.5)
    assert rows["mean_logit"].tolist() == [1.0, 0.5, 1.0]
    unknown = predictions.assign(tissue_fraction=np.nan)
    scores = score_slides(unknown, groups, of="slide", decision_threshold=0.5)
    assert (scores["auroc"]["value"], scores["auroc_of_share"]["value"]) == (0.5, None)


def test_intervals_resample_blocks_where_there_are_any() -> None:
    rng = np.random.default_rng(0)
    slides = {f"s{i:02}": [(i % 2, rng.normal(i % 2), 0.1 + 0.5 * (k % 2)) for k in range(4)] for i in range(12)}
    block = [("day 1", "day 2")[i // 6] for i in range(12) for _ in range(4)]
    predictions, groups = cohort(slides, block=block)
    config = EvaluateConfig(bootstrap=60, ablation=False)
    numbers = evaluate_predictions(predictions, groups, decision_threshold=0.0, config=config)
    scores = numbers["splits"]["test"]["thresholds"]["0.25"]
    arrays = (predictions[name].to_numpy() for name in ("logit", "label"))
    attribute = predictions["group@0.25"].to_numpy() % 2
    by_hand = evaluate_logits(*arrays, attribute, np.array(block), resamples=60)
    assert (numbers["unit"], scores["patients"]) == ("block", 2)
    np.testing.assert_equal(scores["groups"], by_hand["groups"])
    # Two blocks, however many slides, give no interval.
    measures = (scores["auroc"], scores["wga"], numbers["splits"]["test"]["equal_area"])
    assert np.isnan([each[end] for each in measures for end in ("low", "high")]).all()
    assert numbers["splits"]["test"]["by_slide"]["auroc"]["low"] is None
    table = patient_scores(predictions, groups, decision_threshold=0.0)
    assert table.columns.tolist() == [
        "split", "patient_id", "block", "slides", "label", "patches", "tissue", "mean_logit", "mean_probability",
        "positive_share",
    ]  # fmt: skip
    assert table["block"].tolist() == ["day 1"] * 6 + ["day 2"] * 6


@pytest.mark.slow
def test_ten_blocks_are_too_few_for_a_claim(tmp_path: Path) -> None:
    work = make_study(tmp_path / "study", patients=80, per_slide=100, blocks=10)
    table = comparison(work, config=QUICK)
    assert table["patients"].unique().tolist() == [10]
    assert "too few, only 10 blocks in all" in gain_text(
        table[table["method"] == "gerne"].iloc[-1].to_dict(), TissueThreshold(0.5)
    )
    text = comparison_text(work, table)
    assert "95 % interval over blocks and seeds" in text
    assert "20 left out, with two labels): no patient has patches of one label" in text
    path = write_report(work, evaluate=QUICK)
    page, reasons = Page(path).text, " ".join(re.findall(r'class="reason">([^<]*)<', path.read_text()))
    assert "blocks" in reasons
    assert "patients" not in reasons
    assert "Too few blocks for a claim." in page
    assert "against plain training, without a claim: the worst group rose by " in page
    assert "An answer needs 50 patches of 5 blocks in each group, and 12 blocks in all" in page
    assert "were split by block" in (work / "report" / "summary.md").read_text()
    assert read_json(work / "groups" / "audit.json")["unit"] == "block"
