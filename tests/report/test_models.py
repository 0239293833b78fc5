"""The models in the report: calibration, models of other studies, and slides of unequal settings."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from read_page import Page

from pathopatch.core.artefacts import Stamp, fingerprint_file, read_table, write_table
from pathopatch.core.config import EvaluateConfig
from pathopatch.core.files import read_json, write_json
from pathopatch.report import write_report

NONE = EvaluateConfig(bootstrap=0)
QUICK = EvaluateConfig(bootstrap=40)


def test_calibration_is_one_plot_of_the_probabilities_in_use(page: Page) -> None:
    (shown,) = [image for image in page.images if image["src"] == "reliability.png"]
    assert "gerne-t0.25-s0" in str(shown["alt"])
    assert "Probabilities are those after the temperature." in page.text


def with_external_validation(work: Path, folder: Path, name: str) -> Path:
    """A copy of the study in which a model from elsewhere was judged; as `evaluate_bundle` leaves it."""
    copy: Path = shutil.copytree(work, folder)
    numbers = read_json(copy / "runs" / "gerne-t0.25-s0" / "evaluation" / "metrics.json")
    about: dict[str, Any] = {
        "name": name,
        "method": "gerne",
        "architecture": "small",
        "channels": ["A"],
        "patch_px": 64,
    }
    about |= {"decision_threshold": 0.1, "decision_chosen_for": "wga", "temperature": 1.5}
    about["positive_class"] = "tumour"
    metrics = {
        "bundle": about,
        "warnings": ["The model was trained on <b>slide07</b>."],
        "version": numbers["version"],
        "unit": numbers["unit"],
        "splits": {"all": numbers["splits"]["test"]},
    }
    inputs = {"groups": fingerprint_file(copy / "groups.parquet")}
    stamp = Stamp(stage="evaluate", settings={"is": "c"}, inputs=inputs).to_dict()
    write_json(copy / "evaluations" / name / "metrics.json", {**metrics, "stamp": stamp})
    return copy


@pytest.mark.slow
def test_an_external_model_is_shown_with_warnings_and_escaped_names(work: Path, tmp_path: Path) -> None:
    copy = with_external_validation(work, tmp_path / "copy", "their<i>$model$")
    external_page = Page(write_report(copy, evaluate=NONE))
    assert "their<i>$model$" in external_page.text
    assert "The model was trained on <b>slide07</b>." in external_page.text
    assert not {"i", "b"} & set(external_page.tags)
    content = read_json(copy / "evaluations" / "their<i>$model$" / "metrics.json")["splits"]["all"]
    assert f"{content['equal_area']['value']:.3f}" in external_page.text
    assert f"{content['equal_area']['floor']:.3f}" in external_page.text
    assert f"{100 * content['thresholds']['0.5']['wga']['value']:.1f}" in external_page.text
    for image in external_page.images:
        assert (copy / "report" / str(image["src"])).is_file()


@pytest.mark.slow
def test_an_external_evaluation_by_outdated_groups_is_marked(work: Path, tmp_path: Path) -> None:
    copy, mark = (
        with_external_validation(work, tmp_path / "copy", "theirs"),
        "The groups were formed anew after this evaluation",
    )
    assert mark not in Page(write_report(copy, evaluate=NONE)).text
    table = read_table(copy / "groups.parquet")
    write_table(copy / "groups.parquet", table.iloc[::-1], Stamp(stage="groups", settings={"is": "other"}))
    assert mark in Page(write_report(copy, evaluate=NONE)).text


def test_predictions_of_several_settings_are_warned_of(tmp_path: Path) -> None:
    warning = "Slides were predicted with different settings."
    for name, min_tissue, are_mixed in (("a", 0.1, False), ("b", 0.1, False), ("c", 0.2, True)):
        table = pd.DataFrame([{"patch_id": f"{name}@0,0", "probability": 0.5}])
        stamp = Stamp(stage="predict", settings={"min_tissue": min_tissue})
        write_table(tmp_path / "predictions" / f"{name}.parquet", table, stamp)
        assert (warning in Page(write_report(tmp_path)).text) is are_mixed
