"""A row a slide, as its files say; and from an id to a slide by look-up alone."""

from __future__ import annotations

import json
import shutil
import time
from pathlib import Path
from typing import Any
from unittest.mock import ANY

import made_slides as made
import numpy as np
import pytest
from made_review import CONFIG, Folders, bright_image

from pathopatch.core.artefacts import Stamp, fingerprint
from pathopatch.core.errors import InputMissingError
from pathopatch.core.files import read_json, write_json
from pathopatch.core.status import read_status, update_status
from pathopatch.heatmaps import FACTS
from pathopatch.review import reviewed_cohort as cohorts
from pathopatch.review.reviewed_cohort import open_cohort
from pathopatch.review.values import browser_facts, slide_values
from pathopatch.slides.manifest import pseudonymize
from pathopatch.stages.find_slides import find_cohort
from pathopatch.stages.predict import predict_cohort


@pytest.fixture
def out(folders: Folders, tmp_path: Path) -> Path:
    """A copy of the work folder that may be changed."""
    return shutil.copytree(folders.out, tmp_path / "out")


def heatmap_of(out: Path, slide_id: str) -> Path:
    return out / "heatmaps" / slide_id / FACTS


def edit(path: Path, **changed: Any) -> None:
    write_json(path, {**read_json(path), **changed})


def test_a_row_says_what_status_and_heatmap_say(folders: Folders) -> None:
    bright, dark, spoilt = open_cohort(folders.out).rows()
    status = read_status(folders.out, "bright")["predict"]
    summary, counts = status["summary"], status["counts"]
    stamp = Stamp.from_dict(read_json(heatmap_of(folders.out, "bright"))["stamp"])
    assert bright == {
        "slide_id": "bright", "patient_id": "bright", "written": bright["written"],
        "state": "done", "code": "", "message": "", "command": "",
        **counts,
        "positive_share": summary["positive_share"], "tissue_area_mm2": summary["tissue_mm2"],
        "tissue_share": pytest.approx(summary["tissue_mm2"] / (300 * 280 * 0.5e-3**2)),
        "positive_area_mm2": summary["positive_mm2"], "flagged_share": summary["flagged_share"],
        "lowest_margin": summary["lowest_margin"], "leakage": status["leakage"], "warnings": [],
        "fingerprint": fingerprint(stamp.to_dict())[:16], "model": stamp.inputs["model"][:16],
    }  # fmt: skip
    assert 0 < bright["positive_share"] < 1
    assert 0 <= 1000 * time.time() - bright["written"] < 3_600_000
    assert "TPEF" in dark["warnings"][0]
    assert (spoilt["state"], spoilt["code"]) == ("failed", "INPUT_CORRUPT")
    assert (spoilt["predicted"], spoilt["positive_share"], spoilt["fingerprint"]) == (None, None, None)


def test_the_numbers_of_an_earlier_run_do_not_stand_beside_a_failure(out: Path) -> None:
    update_status(out, "bright", "predict", {"state": "failed", "code": "TIMEOUT", "message": "late"})
    row = open_cohort(out).rows()[0]
    assert (row["state"], row["code"], row["tumour"], row["tissue_area_mm2"]) == ("failed", "TIMEOUT", None, None)


def test_files_left_out_are_told_of_with_a_command_that_is_safe_to_paste(out: Path) -> None:
    assert open_cohort(out).left_out() == {"count": 0, "files": []}
    write_json(out / "left-out.json", {"/scans/a b.txt": "no reader", "/scans/\x15rm.tif": "no reader"})
    assert open_cohort(out).left_out() == {
        "count": 2,
        "files": [
            {"file": "/scans/a b.txt", "reason": "no reader", "command": "pathopatch info '/scans/a b.txt'"},
            {"file": "/scans/\x15rm.tif", "reason": "no reader", "command": ""},
        ],
    }
    (out / "left-out.json").write_text("[")
    assert open_cohort(out).left_out()["count"] == 0


def test_a_slide_whose_status_is_lost_has_the_numbers_of_its_heatmap(out: Path) -> None:
    before = open_cohort(out).rows()[1]
    (out / "status" / "dark.json").unlink()
    assert open_cohort(out).rows()[1] == before | {"patient_id": "", "written": ANY}


def test_a_damaged_heatmap_is_a_row_that_says_so(out: Path) -> None:
    heatmap_of(out, "bright").write_text("{")
    row = open_cohort(out).rows()[0]
    assert (row["state"], row["code"], row["fingerprint"]) == ("failed", "INPUT_CORRUPT", None)


def test_rows_are_read_again_only_where_files_have_changed(out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cohort = open_cohort(out)
    read: list[str] = []
    listed = cohorts.listed_status
    monkeypatch.setattr(cohorts, "listed_status", lambda out, name: read.append(name) or listed(out, name))
    cohort.rows()[0]["state"] = "edited by a caller"
    assert cohort.rows()[0]["state"] == "done"
    assert read == []
    update_status(out, "dark", "predict", {"state": "running"})
    assert [row["state"] for row in cohort.rows()] == ["done", "running", "failed"]
    assert read == ["dark"]
    (out / "status" / "spoilt.json").unlink()
    assert cohort.ids() == ["bright", "dark"]


def test_a_slide_that_is_predicted_while_others_are_looked_at_comes_in(out: Path) -> None:
    cohort = open_cohort(out)
    assert not cohort.has_slide("new")
    shutil.copytree(out / "heatmaps" / "bright", out / "heatmaps" / "new")
    assert cohort.has_slide("new")
    assert cohort.ids() == ["bright", "dark", "new", "spoilt"]


def test_a_slide_that_failed_is_known_and_has_no_heatmap_to_open(folders: Folders) -> None:
    cohort = open_cohort(folders.out)
    assert cohort.has_slide("spoilt")
    assert cohort.fingerprint("spoilt") is None
    with pytest.raises(InputMissingError, match="no heatmap"):
        cohort.open("spoilt")


def test_a_heatmap_behind_a_link_that_leads_outside_is_not_read(out: Path, tmp_path: Path) -> None:
    shutil.move(out / "heatmaps" / "bright", tmp_path / "elsewhere")
    (out / "heatmaps" / "bright").symlink_to(tmp_path / "elsewhere")
    row = open_cohort(out).rows()[0]
    assert (row["state"], row["code"]) == ("failed", "INPUT_UNSUPPORTED")


def test_an_open_slide_is_the_same_one_until_it_is_predicted_again(out: Path) -> None:
    cohort = open_cohort(out)
    first, mark = cohort.open("bright"), cohort.fingerprint("bright")
    assert cohort.open("bright") is first
    stamp = read_json(heatmap_of(out, "bright"))["stamp"]
    edit(heatmap_of(out, "bright"), stamp={**stamp, "settings": {"all_patches": True}})
    assert cohort.open("bright") is not first
    assert cohort.open("bright").fingerprint == cohort.fingerprint("bright") != mark


def test_of_more_slides_than_are_kept_the_oldest_lets_go_of_its_files(
    folders: Folders, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cohorts, "_OPEN_SLIDES", 1)
    cohort = open_cohort(folders.out)
    first = cohort.open("bright")
    with first.reading() as slide:
        pass
    cohort.open("dark")
    assert first._slide is None
    assert cohort.open("bright") is not first
    with first.reading() as again:  # whoever still has it reads on
        assert again is not slide


def test_without_predictions_or_groups_the_folder_is_named(folders: Folders, tmp_path: Path) -> None:
    with pytest.raises(InputMissingError, match="no prediction here"):
        open_cohort(tmp_path)
    with pytest.raises(InputMissingError, match="no prediction here") as error:
        open_cohort(folders.out, beside=tmp_path / "nothing")
    assert error.value.place == str(tmp_path / "nothing")
    with pytest.raises(InputMissingError, match=r"no groups\.parquet"):
        open_cohort(folders.out, work=tmp_path)


def record(out: Path, slide_id: str, *members: dict[str, str]) -> str:
    """Write what is known of a slide's model, and return the model's fingerprint."""
    fingerprint: str = read_json(heatmap_of(out, slide_id))["stamp"]["inputs"]["model"][:16]
    write_json(out / "models" / f"{fingerprint}.json", {"members": list(members)})
    return fingerprint


def test_models_are_called_by_run_and_method(out: Path, folders: Folders, tmp_path: Path) -> None:
    mark = record(out, "bright", {"name": "gerne-t0.25-s0", "method": "gerne", "card": "# Card"})
    beside = shutil.copytree(folders.beside, tmp_path / "beside")
    shutil.rmtree(beside / "models")  # as an earlier version wrote it
    cohort = open_cohort(out, beside=beside)
    other = read_json(heatmap_of(beside, "bright"))["stamp"]["inputs"]["model"][:16]
    assert cohort.models() == (
        {"name": "gerne-t0.25-s0 (gerne)", "method": "gerne", "fingerprint": mark, "has_card": True, "beware": []},
        {"name": f"model {other[:8]} (erm)", "method": "erm", "fingerprint": other, "has_card": False, "beware": []},
    )
    assert (
        cohort.model_name("bright") == browser_facts(cohort.open("bright"))["model"]["name"] == "gerne-t0.25-s0 (gerne)"
    )
    assert cohort.model_name("spoilt") == ""
    assert cohort.card(mark) == "# Card"
    with pytest.raises(InputMissingError, match="no card"):
        cohort.card(other)
    assert open_cohort(out, beside=folders.beside).models()[1] == {
        "name": "other (erm)", "method": "erm", "fingerprint": other, "has_card": True, "beware": [],
    }  # fmt: skip


def test_a_model_without_a_name_has_its_fingerprint(folders: Folders, out: Path) -> None:
    """As one in a folder "model" of no run, and one of predictions by an earlier version."""
    mark = record(out, "bright", {"name": "", "method": "gerne", "card": "# Card"})
    assert open_cohort(out).model_name("bright") == f"model {mark[:8]} (gerne)"
    shutil.rmtree(out / "models")
    assert open_cohort(out).models()[0] == {
        "name": f"model {mark[:8]} (gerne)", "method": "gerne", "fingerprint": mark, "has_card": False, "beware": [],
    }  # fmt: skip


def test_an_ensemble_names_two_members_and_counts_more(folders: Folders, tmp_path: Path) -> None:
    fine = shutil.copytree(folders.fine, tmp_path / "fine")
    members = [{"name": f"run{n}", "method": "erm", "card": ""} for n in range(3)]
    for count, name in ((2, "run0 + run1 (erm, gerne)"), (3, "ensemble of 3 (erm, gerne)")):
        record(fine, "bright", *members[:count])
        assert open_cohort(fine).model_name("bright") == name


def test_two_models_of_one_name_are_told_apart(out: Path, folders: Folders, tmp_path: Path) -> None:
    other = shutil.copytree(folders.beside, tmp_path / "other")
    edit(heatmap_of(other, "bright"), method="gerne")
    marks = [record(run, "bright", {"name": "run", "method": "gerne", "card": ""}) for run in (out, other)]
    cohort = open_cohort(out, beside=other)
    names = [f"run (gerne), {mark[:8]}" for mark in marks]
    assert [model["name"] for model in cohort.models() if model] == names
    facts = browser_facts(cohort.open("bright"))
    assert [facts["model"]["name"], facts["beside"]["model"]["name"]] == names


@pytest.mark.parametrize("what", ["gone", "another", "of another size"])
def test_a_slide_that_is_not_there_as_it_was_has_a_reason_and_its_values(
    what: str, out: Path, tmp_path: Path, folders: Folders
) -> None:
    path = tmp_path / "bright.svs"
    if what == "another":
        made.write_aperio(path, np.ascontiguousarray(bright_image()[:, ::-1]), levels=2)
    elif what == "of another size":
        made.write_aperio(path, np.ascontiguousarray(bright_image()[:, :-1]), levels=2)
    status = read_status(out, "bright")["predict"]
    update_status(out, "bright", "predict", status | {"source": str(path)})
    slide = open_cohort(out).open("bright")
    facts = browser_facts(slide)
    reasons = {"gone": "no file", "another": "content of its files differs", "of another size": "300x279 px of R, G, B"}
    assert facts["has_slide"] is False
    assert reasons[what] in facts["why_no_slide"]
    assert slide_values(slide) == slide_values(open_cohort(folders.out).open("bright"))


def test_a_manifest_says_where_a_slide_has_moved_to(out: Path, tmp_path: Path) -> None:
    made.write_aperio(tmp_path / "moved.svs", bright_image(), levels=2)
    (tmp_path / "m.csv").write_text("slide_id,patient_id,path\nbright,p,moved.svs\n")
    update_status(out, "bright", "predict", read_status(out, "bright")["predict"] | {"source": "/nowhere/b.svs"})
    assert open_cohort(out).open("bright").why_no_pixels() is not None
    slide = open_cohort(out, manifest=tmp_path / "m.csv").open("bright")
    with slide.reading() as pixels:
        assert pixels.paths == (tmp_path / "moved.svs",)


def test_a_slide_without_its_name_is_found_in_the_manifest_by_its_content(folders: Folders, tmp_path: Path) -> None:
    (tmp_path / "m.csv").write_text(f"slide_id,patient_id,path\nsmith,p,{folders.root / 'bright.svs'}\n")
    rows = find_cohort([str(tmp_path / "m.csv")]).rows
    config = CONFIG.model_copy(update={"deidentify": True})
    predict_cohort(rows, [folders.root / "model"], tmp_path / "out", config)
    (name,) = open_cohort(tmp_path / "out").ids()
    assert name == pseudonymize(rows)[0].slide_id
    unnamed = browser_facts(open_cohort(tmp_path / "out").open(name))
    assert "--manifest" in unnamed["why_no_slide"]
    facts = browser_facts(open_cohort(tmp_path / "out", manifest=tmp_path / "m.csv").open(name))
    assert facts["has_slide"] is True
    assert "smith" not in json.dumps(facts)
