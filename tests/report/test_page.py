"""The report says what the artefacts say, escapes what is hostile, and needs no network."""

from __future__ import annotations

import re
import shutil
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pandas as pd
import pytest
import tifffile
from made_study import make_study, write_run
from read_page import Page
from written_files import contents

from pathopatch.core.artefacts import Stamp, read_table, write_table
from pathopatch.core.config import EvaluateConfig, TileConfig, TrainConfig
from pathopatch.core.errors import InputMissingError, InputUnsupportedError, StaleArtefactError
from pathopatch.core.files import read_json, write_bytes, write_json
from pathopatch.core.status import update_status
from pathopatch.core.work_folder import WorkFolder
from pathopatch.evaluation.compare import compare, comparison_text
from pathopatch.groups import audit
from pathopatch.groups.audit import VERSION
from pathopatch.report import write_report
from pathopatch.report.collect import Study
from pathopatch.stages.tile import tile_cohort

QUICK = EvaluateConfig(bootstrap=40)


@pytest.mark.slow
def test_the_page_says_the_numbers_of_every_run(work: Path, page: Page) -> None:
    for path in work.glob("runs/*/evaluation/metrics.json"):
        numbers = read_json(path)
        tau = numbers["run"].split("-t")[1].split("-")[0]
        judged = numbers["splits"]["test"]["thresholds"][tau]
        assert numbers["run"] in page.text
        for value in (judged["wga"]["value"], judged["gba"]["value"], judged["wga"]["low"]):
            assert f"{100 * value:.1f}" in page.text
        assert f"{judged['auroc']['value']:.3f}" in page.text


def test_the_first_page_has_equal_area_beside_the_worst_group(work: Path, page: Page) -> None:
    source = (work / "report" / "index.html").read_text(encoding="utf-8")
    answered = source.split('<section id="glance"')[1].split("</section>")[0]
    for run in ("erm-t0.25-s0", "gerne-t0.25-s0"):
        content = read_json(work / "runs" / run / "evaluation" / "metrics.json")["splits"]["test"]
        row = next(part for part in answered.split("<tr>") if run in part)
        wga, at_equal_area = content["thresholds"]["0.25"]["wga"], content["equal_area"]
        shown = [f"{100 * wga['value']:.1f}", *(f"{at_equal_area[name]:.3f}" for name in ("value", "low", "high"))]
        assert [number in row for number in shown] == [True] * 4
        assert f"the fraction itself reaches {at_equal_area['floor']:.3f}" in page.text


def test_a_small_group_has_its_size_beside_wga(work: Path, page: Page) -> None:
    judged = read_json(work / "runs" / "gerne-t0.25-s0" / "evaluation" / "metrics.json")
    smallest = judged["splits"]["test"]["thresholds"]["0.25"]["smallest_group_n"]
    assert smallest < 50
    assert f"only {smallest} patches" in page.text


def test_failed_and_empty_slides_are_named(page: Page) -> None:
    assert "1 of 26 slides could not be cut into patches (stage tile): broken01 (INPUT_CORRUPT" in page.text
    assert "1 of 26 slides without tissue, and so without a patch to classify (stage tile): blank01" in page.text
    assert "1 of 26 slides with warnings: slide03 (channel SHG is shifted by 6.1 um)." in page.text


@pytest.mark.fault("escaped")
def test_a_hostile_message_stays_text(page: Page) -> None:
    assert "script" not in page.tags
    assert "<script>alert('x')</script> & $\\alpha$" in page.text


@pytest.mark.slow
@pytest.mark.fault("escaped")
def test_a_hostile_patient_and_run_stay_text(tmp_path: Path, work: Path) -> None:
    copy = shutil.copytree(work, tmp_path / "<b>study")
    table = pd.read_parquet(copy / "slides.parquet")
    table.loc[table["slide_id"] == "blank01", "patient_id"] = "<img src=x onerror=alert(1)>"
    table.to_parquet(copy / "slides.parquet")
    (copy / "runs" / "erm-t0.25-s0").rename(copy / "runs" / "erm<i>$x$")
    hostile = Page(write_report(copy, evaluate=EvaluateConfig(bootstrap=0)))
    assert "<img src=x onerror=alert(1)>" in hostile.text
    assert "erm<i>$x$" in hostile.text
    assert "<b>study" in hostile.text
    assert not {"i", "b"} & set(hostile.tags)
    assert all(image["src"] != "x" for image in hostile.images)


def test_the_page_needs_no_network_and_every_picture_is_there(work: Path, page: Page) -> None:
    source = (work / "report" / "index.html").read_text(encoding="utf-8")
    assert re.search(r"https?:|//\w|@import|url\(", source) is None
    assert len(page.images) >= 8
    for image in page.images:
        assert (work / "report" / str(image["src"])).is_file()
        assert len(str(image["alt"])) > 20


def test_the_tissue_of_a_tiled_slide_is_outlined(tmp_path: Path) -> None:
    pixels = np.full((120, 160, 3), 240, np.uint8)
    pixels[30:90, 40:120] = (170, 90, 150)
    tifffile.imwrite(tmp_path / "a.tif", pixels, photometric="rgb")
    (tmp_path / "cohort.csv").write_text("slide_id,patient_id,path,mpp\na,a,a.tif,2.0\n")
    tile_cohort(tmp_path / "cohort.csv", tmp_path / "work", TileConfig(patch_px=32, store="none"))
    tiled = Page(write_report(tmp_path / "work", evaluate=QUICK))
    assert "a: 25.0 % of the overview is tissue; bright background, otsu, signal above" in tiled.text
    drawn = cv2.imread(str(tmp_path / "work" / "report" / "tissue" / "a.jpg")).astype(int)
    is_green = drawn[..., 1] > drawn[..., 2] + 20
    assert is_green[30:90, [40, 119]].mean() > 0.9
    assert is_green.mean() < 0.1


def test_every_link_leads_somewhere(work: Path, page: Page) -> None:
    for link in page.links:
        there = link[1:] in page.ids if link.startswith("#") else (work / "report" / link).resolve().is_file()
        assert there, link


def test_the_page_says_research_use_only_and_no_time(work: Path, page: Page) -> None:
    assert "Research use only. Not for diagnosis" in page.text
    assert re.search(r"\b20\d\d-\d\d-\d\d|\d\d:\d\d", page.text) is None


@pytest.mark.slow
def test_equal_artefacts_give_equal_bytes(work: Path) -> None:
    first, again = (contents(write_report(work, evaluate=QUICK).parent) for _ in range(2))
    assert first == again
    assert not any(b"tEXtSoftware" in value or b"tIME" in value for value in first.values())


def test_a_folder_that_is_not_there_is_refused_and_not_made(tmp_path: Path) -> None:
    with pytest.raises(InputMissingError, match="no folder"):
        write_report(tmp_path / "typo")
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_is_no_work_folder_gets_no_report(tmp_path: Path) -> None:
    for name in ("slides/a.svs", "runs/today/notes.txt", "report/thesis.txt"):
        (tmp_path / name).parent.mkdir(parents=True)
        (tmp_path / name).touch()
    before = set(tmp_path.rglob("*"))
    with pytest.raises(InputMissingError, match="nothing that pathopatch made .* the folder that predict wrote"):
        write_report(tmp_path)
    assert set(tmp_path.rglob("*")) == before


def test_a_report_of_something_else_is_not_replaced(tmp_path: Path) -> None:
    update_status(tmp_path, "s1", "tile", {"state": "failed", "code": "TIMEOUT", "message": "TIMEOUT: too slow"})
    (tmp_path / "report").mkdir()
    assert write_report(tmp_path) == write_report(tmp_path)
    (tmp_path / "report" / "index.html").write_text("<title>Thesis</title>")
    with pytest.raises(InputUnsupportedError, match="something else than a report stands here"):
        write_report(tmp_path)
    assert (tmp_path / "report" / "index.html").read_text() == "<title>Thesis</title>"


def test_of_a_folder_with_nothing_finished_only_answer_and_glossary_are_left(tmp_path: Path) -> None:
    WorkFolder(tmp_path).store("unfinished").mkdir(parents=True)
    page = Page(write_report(tmp_path))
    assert "No run has been evaluated yet" in page.text
    assert [name for name in page.ids if f"{name}-title" in page.ids] == ["glance", "reading"]
    assert page.images == []


def test_slides_without_groups_or_runs_are_shown(tmp_path: Path) -> None:
    update_status(tmp_path, "s1", "tile", {"state": "failed", "code": "TIMEOUT", "message": "TIMEOUT: too slow"})
    page = Page(write_report(tmp_path))
    assert "s1 (TIMEOUT: too slow)" in page.text
    assert not {"audit", "results", "heatmaps"} & set(page.ids)


@pytest.mark.slow
def test_an_empty_group_leaves_the_answer_unknown(tmp_path: Path, work: Path) -> None:
    copy = shutil.copytree(work, tmp_path / "study")
    for path in copy.glob("runs/*/evaluation/metrics.json"):
        numbers = read_json(path)
        judged = numbers["splits"]["test"]["thresholds"]["0.25"]
        judged["groups"][2] |= {"n": 0, "patients": 0, "accuracy": None, "low": None, "high": None}
        judged["smallest_group_n"] = 0
        for name in ("wga", "gba"):
            judged[name] = {"value": None, "low": None, "high": None}
        write_json(path, numbers)
    page = Page(write_report(copy, evaluate=EvaluateConfig(bootstrap=0)))
    assert "Not known: the test split has a group without a patch." in page.text


@pytest.mark.slow
@pytest.mark.parametrize("is_judged", [True, False])
def test_without_validation_wga_all_runs_are_shown_and_none_preferred(
    tmp_path: Path, work: Path, is_judged: bool
) -> None:
    copy = shutil.copytree(work, tmp_path / "study")
    shown = {}
    for path in copy.glob("runs/*/evaluation/metrics.json"):
        numbers = read_json(path)
        for judged in numbers["splits"]["val"]["thresholds"].values():
            judged["groups"][2] |= {"n": 0, "patients": 0, "accuracy": None, "low": None, "high": None}
            judged["wga"] = judged["gba"] = {"value": None, "low": None, "high": None}
        if not is_judged:
            del numbers["splits"]["val"]
        write_json(path, numbers)
        tau = numbers["run"].split("-t")[1].split("-")[0]
        shown[numbers["run"]] = f"{100 * numbers['splits']['test']['thresholds'][tau]['wga']['value']:.1f}"
    text = Page(write_report(copy, evaluate=EvaluateConfig(bootstrap=0))).text
    answered = text.split("Limits")[0]
    reason = "Tissue threshold 0.25, validation has no patch in tumour, little tissue, so its worst-group accuracy"
    assert (reason in text) == is_judged
    assert ("No run has validation results" in text) != is_judged
    assert "preferred by validation" not in text
    assert len(shown) == 8
    for run, wga in shown.items():
        assert re.search(rf"{run}[^%]*?{re.escape(wga)}", answered)


@pytest.mark.slow
def test_a_row_is_called_by_what_it_is_and_the_default_stands_beside(tmp_path: Path, study_writer: Any) -> None:
    work = study_writer(tmp_path / "study", has_runs=False)
    groups, rng = read_table(work / "groups.parquet"), np.random.default_rng(0)
    for lean, given in (
        (0.1, {"name": "plain"}),
        (3.0, {"name": "small", "mask": "interior"}),
        (2.0, {"frozen": True, "choose": True, "name": "chosen", "steps": 600}),
    ):
        config = TrainConfig(method="erm", **given)
        write_run(work, config, groups, rng, label_lean=lean, tissue_lean=0.0)
    page = Page(write_report(work, evaluate=QUICK))
    for words in ("plain training: erm-t0.25-s0-plain", "erm, crops within tissue: erm-t0.25-s0-small"):
        assert words in page.text
    assert "chosen head: chosen-t0.25-s0-chosen, the default" in page.text
    assert "erm, crops within tissue against plain training, without a claim: the worst group rose" in page.text
    assert "debiased:" not in page.text


@pytest.mark.slow
def test_groups_by_an_attribute_of_the_patches_own_are_named_by_its_values(tmp_path: Path, study_writer: Any) -> None:
    copy = study_writer(tmp_path / "two", own=("ink", "<b>fold"), patients=8)
    page = Page(write_report(copy, evaluate=EvaluateConfig(bootstrap=0)))
    assert "b" not in page.tags
    assert not re.search("tumour, (little|much) tissue|with much tissue|'much tissue'", page.text)
    for group, name in enumerate(("non-tumour, <b>fold", "non-tumour, ink", "tumour, <b>fold", "tumour, ink")):
        assert f"{group} {name}" in page.text
    assert page.text.count("Accuracy, test split, the patches' own attribute") == 1  # thresholds make no difference
    assert "gerne-t0.25-s0" in page.text
    assert "gerne-t0.5-s0" in page.text
    lines = comparison_text(copy, compare(copy, config=EvaluateConfig(bootstrap=0))).splitlines()
    # Each run once, whatever threshold its name holds; the gains below have the reference's name too.
    assert sum("gerne" in line and " against " not in line for line in lines) == 2
    assert lines[-1].endswith("Groups: 0 non-tumour, <b>fold; 1 non-tumour, ink; 2 tumour, <b>fold; 3 tumour, ink.")


@pytest.mark.slow
def test_labels_and_three_values_of_the_patches_own_are_named(tmp_path: Path, study_writer: Any) -> None:
    folder = study_writer(tmp_path / "birds", own=("land", "water", "air"), patients=8)
    groups = pd.read_parquet(folder / "groups.parquet")
    named = groups.assign(label_name=np.array(["landbird", "waterbird"])[groups["label"]])
    write_table(folder / "groups.parquet", named, Stamp(stage="groups", settings={"is": "1"}))
    write_json(folder / "groups" / "audit.json", audit(named, (0.25, 0.5), resamples=40))
    page = Page(write_report(folder, evaluate=EvaluateConfig(bootstrap=0)))
    for part in (
        "alpha landbird, %",
        "a value that speaks more for waterbird",
        "are waterbird",
        "5 waterbird, water",
        "Alpha is the share of air / land / water within the label",
    ):
        assert part in page.text
    assert "reliability.png" in {image["src"] for image in page.images}
    assert "Patches classified as landbird or waterbird" in page.text
    assert not re.search("(with|within|share of) (non-)?tumour", page.text)


@pytest.mark.slow
def test_the_gains_have_the_intervals_that_the_study_asks_for(tmp_path: Path, work: Path) -> None:
    copy = shutil.copytree(work, tmp_path / "study")
    write_json(copy / "study.json", {"evaluate": {"bootstrap": 0}})
    write_report(copy)
    table = pd.read_csv(copy / "report" / "comparison.csv")
    assert table["gain_wga"].notna().any()
    assert table["gain_wga_low"].isna().all()


def test_an_unreadable_overlay_has_a_warning(tmp_path: Path) -> None:
    write_bytes(tmp_path / "heatmaps" / "s1" / "overlay.png", b"not a picture")
    page = Page(write_report(tmp_path))
    assert "These overlays cannot be read: s1." in page.text


def test_the_csv_beside_the_page_is_the_comparison(work: Path, page: Page) -> None:
    assert "comparison.csv" in page.links
    beside = pd.read_csv(work / "report" / "comparison.csv")
    again = compare(work, config=QUICK)
    assert beside["run"].tolist() == again["run"].tolist()
    assert np.allclose(beside["gain_wga"].to_numpy(float), again["gain_wga"].to_numpy(float), equal_nan=True)


@pytest.mark.slow
def test_the_verdict_stands_first_in_the_audit_and_with_its_rule(work: Path, page: Page) -> None:
    whole = read_json(work / "groups" / "audit.json")["fraction_only"]["train"]
    auroc_text = (
        f"AUROC {whole['auroc']:.3f} [{whole['auroc_low']:.3f}, {whole['auroc_high']:.3f}] (12 patients), wholly above"
    )
    assert f"SHORTCUT. In the training patches the tissue fraction alone tells the label with {auroc_text}" in page.text
    assert "lies wholly above 0.55 or below 0.45" in page.text


def test_cells_that_are_too_small_are_named_with_their_reasons(work: Path, page: Page) -> None:
    cell = read_json(work / "groups" / "audit.json")["thresholds"]["0.25"]["test"]["expected"]["cells"][2]
    assert cell["n"] < 50
    assert f"{cell['n']} patches, fewer than 50" in page.text
    assert f"± {100 * cell['half_width']:.0f}" in page.text


def test_numbers_of_an_earlier_version_are_refused_with_the_command(tmp_path: Path) -> None:
    work = make_study(tmp_path, has_runs=False)
    write_json(work / "evaluations" / "m" / "metrics.json", {"splits": {}})
    with pytest.raises(StaleArtefactError, match="pathopatch evaluate --force"):
        Study(work)
    write_json(work / "groups" / "audit.json", read_json(work / "groups" / "audit.json") | {"version": VERSION - 1})
    with pytest.raises(StaleArtefactError, match="pathopatch audit"):
        Study(work)
