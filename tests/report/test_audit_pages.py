"""The report's pages of the audit say the artefacts' numbers, and leave out in words what is not there."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from read_page import Page

from pathopatch.core.artefacts import Stamp, fingerprint_file, read_table, write_table
from pathopatch.core.config import EvaluateConfig
from pathopatch.core.files import read_json, write_json
from pathopatch.report import audit_plots, write_report

QUICK = EvaluateConfig(bootstrap=40)
NONE = EvaluateConfig(bootstrap=0)


@pytest.fixture(scope="module")
def page(work: Path) -> Page:
    return Page(write_report(work, evaluate=QUICK))


def test_the_verdict_stands_first_in_the_audit_and_with_its_rule(work: Path, page: Page) -> None:
    whole = read_json(work / "groups" / "audit.json")["fraction_only"]["train"]
    said = (
        f"AUROC {whole['auroc']:.3f} [{whole['auroc_low']:.3f}, {whole['auroc_high']:.3f}] (12 patients), wholly above"
    )
    assert f"SHORTCUT. In the training patches the tissue fraction alone tells the label with {said}" in page.text
    assert "lies wholly above 0.55 or below 0.45" in page.text


def test_cells_that_are_too_small_are_named_with_their_reasons(work: Path, page: Page) -> None:
    cell = read_json(work / "groups" / "audit.json")["thresholds"]["0.25"]["test"]["expected"]["cells"][2]
    assert cell["n"] < 50
    assert f"{cell['n']} patches, fewer than 50" in page.text
    assert f"± {100 * cell['half_width']:.0f}" in page.text


def test_calibration_is_told_before_and_after_the_temperature(work: Path, page: Page) -> None:
    told = read_json(work / "runs" / "gerne-t0.25-s0" / "evaluation" / "metrics.json")["splits"]["test"]["calibration"]
    assert set(told) == {"before", "after"}
    for kind, each in told.items():
        assert f"gerne-t0.25-s0, {kind} its temperature" in page.text
        assert f"{100 * each['all']['ece']:.1f}" in page.text


def test_what_a_channel_is_worth_is_told_with_its_interval(work: Path, page: Page) -> None:
    rows = read_json(work / "runs" / "gerne-t0.25-s0" / "evaluation" / "metrics.json")["splits"]["test"]["ablation"]
    row = next(row for row in rows if row["channel"] == "TPEF" and row["threshold"] == "0.25")
    assert row["auroc_lost"] > 0.03
    assert f"[+{100 * row['auroc_lost_low']:.1f}, +{100 * row['auroc_lost_high']:.1f}]" in page.text


def test_the_change_of_the_dependence_on_tissue_is_told(page: Page) -> None:
    assert "Change of the dependence on tissue against ERM" in page.text


def with_outside(work: Path, folder: Path, name: str) -> Path:
    """A copy of the study in which a model from elsewhere was judged; as `evaluate_bundle` leaves it."""
    copy: Path = shutil.copytree(work, folder)
    numbers = read_json(copy / "runs" / "gerne-t0.25-s0" / "evaluation" / "metrics.json")
    content = {**numbers["splits"]["test"], "fraction_only": read_json(copy / "groups" / "audit.json")["whole"]}
    about: dict[str, Any] = {
        "name": name,
        "method": "gerne",
        "architecture": "small",
        "channels": ["A"],
        "patch_px": 64,
    }
    about |= {"decision_threshold": 0.1, "decision_chosen_for": "wga", "temperature": 1.5}
    told = {"bundle": about, "warnings": ["The model was trained on <b>slide07</b>."], "splits": {"all": content}}
    inputs = {"groups": fingerprint_file(copy / "groups.parquet")}
    stamp = Stamp(stage="evaluate", settings={"is": "c"}, inputs=inputs).to_dict()
    write_json(copy / "evaluations" / name / "metrics.json", {**told, "stamp": stamp})
    return copy


def test_a_model_from_elsewhere_is_shown_with_its_warnings_and_hostile_names_stay_text(
    work: Path, tmp_path: Path
) -> None:
    copy = with_outside(work, tmp_path / "copy", "their<i>$model$")
    told = Page(write_report(copy, evaluate=NONE))
    assert "their<i>$model$" in told.text
    assert "The model was trained on <b>slide07</b>." in told.text
    assert not {"i", "b"} & set(told.tags)
    content = read_json(copy / "evaluations" / "their<i>$model$" / "metrics.json")["splits"]["all"]
    assert f"{content['fraction_only']['auroc']:.3f}" in told.text
    assert f"{100 * content['thresholds']['0.5']['wga']['value']:.1f}" in told.text
    for image in told.images:
        assert (copy / "report" / str(image["src"])).is_file()


def test_a_model_that_was_judged_by_groups_that_are_gone_is_marked(work: Path, tmp_path: Path) -> None:
    copy, mark = with_outside(work, tmp_path / "copy", "theirs"), "judged by groups that were formed anew since"
    assert mark not in Page(write_report(copy, evaluate=NONE)).text
    table = read_table(copy / "groups.parquet")
    write_table(copy / "groups.parquet", table.iloc[::-1], Stamp(stage="groups", settings={"is": "other"}))
    assert mark in Page(write_report(copy, evaluate=NONE)).text


def test_an_audit_of_an_earlier_version_is_shown_without_a_verdict(work: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(work, tmp_path / "old")
    found = read_json(copy / "groups" / "audit.json")
    for name in ("verdict", "whole", "version"):
        del found[name]
    write_json(copy / "groups" / "audit.json", found)
    assert "run pathopatch audit WORK for its verdict" in Page(write_report(copy, evaluate=NONE)).text


def drawn(content: bytes) -> np.ndarray:
    return cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_COLOR)


def test_a_split_of_one_label_and_an_empty_cell_are_drawn_as_such() -> None:
    unknown = {"auroc": None, "auroc_low": None, "auroc_high": None, "n": 4, "patients": 1}
    step = {"threshold": 0.5, "gap": None, "gap_low": None, "gap_high": None, "counts": [[0, 0], [1, 3]]}
    assert drawn(audit_plots.shortcut_strength({"test": unknown}, {"test": [step]}, least_effect=0.05)).size
    assert drawn(audit_plots.sweep_counts({"test": [step]})).size


def test_reliability_without_patches_of_one_kind_is_drawn_without_its_line() -> None:
    from pathopatch.evaluation.calibration import reliability

    some = reliability(np.array([0.2, 0.8]), np.array([0, 1]), np.array(["a", "b"]), resamples=20)
    other = reliability(np.array([0.2, 0.8]), np.array([1, 0]), np.array(["a", "b"]), resamples=20)
    none = reliability(np.empty(0), np.empty(0, dtype=int), np.empty(0), resamples=20)
    pink = np.array([0xA7, 0x79, 0xCC])  # BGR of the colour of little tissue

    def pinks(content: bytes) -> int:
        return int((np.abs(drawn(content).astype(int) - pink).sum(axis=2) < 12).sum())

    both = pinks(audit_plots.reliability({"run": [some, other]}, names=("little", "much")))
    without = pinks(audit_plots.reliability({"run": [none, other]}, names=("little", "much")))
    assert without < both
