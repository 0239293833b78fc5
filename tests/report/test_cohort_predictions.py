"""The report of predictions alone is a folder to mail: overlays, numbers, flags and decisions."""

from __future__ import annotations

import csv
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import made_slides as made
import pytest
from made_model import write_model
from read_page import Page
from spoilt_status import SPOILT

from pathopatch.core.artefacts import Stamp, fingerprint
from pathopatch.core.config import EvaluateConfig, PredictConfig
from pathopatch.core.files import read_json, write_json
from pathopatch.core.status import read_status, update_status
from pathopatch.groups.decisions.decision import Decision
from pathopatch.groups.decisions.table import read_decisions
from pathopatch.report import write_report
from pathopatch.review.decisions import DecisionLog
from pathopatch.stages.batch.summaries import cohort_table, status_summary
from pathopatch.stages.find_slides import find_cohort
from pathopatch.stages.predict import predict_cohort

HOSTILE = "=cmd() <script>alert(1)</script>"


def heatmap_fingerprint(out: Path, slide_id: str) -> str:
    stamp = Stamp.from_dict(read_json(out / "heatmaps" / slide_id / "heatmap.json")["stamp"])
    return fingerprint(stamp.to_dict())[:16]


def decide(out: Path, *decisions: Decision) -> None:
    with DecisionLog(out / "review.sqlite") as log:
        for decision in decisions:
            log.record(decision, revision=log.state(decision.slide_id)["revision"])


@pytest.fixture(scope="module")
def predicted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two predicted slides with decisions on one, and a slide that cannot be read."""
    folder = tmp_path_factory.mktemp("predicted")
    for n in (0, 1):
        image = made.disc_image(160, 128, (60, 60), 24 + 12 * n, tissue=(180, 90, 150), glass=(245, 245, 245))
        image[:, :, ::7] -= 5
        made.write_rgb_pyramid(folder / f"s{n}.tif", image, levels=1)
    (folder / "bad.tif").write_bytes(b"no slide")
    (folder / "cohort.csv").write_text("slide_id,patient_id,path\ns0,p0,s0.tif\ns1,p1,s1.tif\nbad,p2,bad.tif\n")
    rows = find_cohort([str(folder / "cohort.csv")]).rows
    config = PredictConfig(device="cpu", precision="float32", threads=1)
    predict_cohort(rows, write_model(folder / "model"), folder / "out", config)
    return folder / "out"


@pytest.fixture
def out(predicted: Path, tmp_path: Path) -> Path:
    return shutil.copytree(predicted, tmp_path / "out")


def test_the_page_is_about_predictions_and_says_each_slide_s_numbers(out: Path) -> None:
    page = Page(write_report(out))
    assert page.text.count("No run") == 0
    assert page.text.startswith("Predictions by a model trained by erm")
    assert "Predictions: out" not in page.text
    assert "3: 2 predicted, 0 without tissue, 1 failed" in page.text
    assert "3 slides of 3 patients" in page.text
    assert "1 of 3 slides could not be predicted" in page.text
    for slide in ("s0", "s1"):
        status = read_json(out / "status" / f"{slide}.json")["predict"]
        for name in ("tissue_mm2", "positive_mm2", "largest_region_mm2"):
            assert f"{status['summary'][name]:.4f}" in page.text
        assert f"{100 * status['summary']['flag_low_tissue']:.1f}" in page.text
        assert (
            f"{status['counts']['tumour']} of {status['counts']['predicted']} predicted patches called tumour"
            in page.text
        )
    assert "0 accepted, 0 rejected, 0 flagged, 3 undecided" in page.text
    assert "review" not in page.ids  # nobody has decided yet


def test_the_page_names_the_model_its_decision_its_training_and_the_audit(out: Path) -> None:
    (record,) = (out / "models").glob("*.json")
    facts = read_json(record)
    stamps = {read_json(path)["stamp"]["inputs"]["model"] for path in out.glob("heatmaps/*/heatmap.json")}
    assert {facts["fingerprint"]} == stamps
    text = Page(write_report(out)).text
    assert "trained by erm" in text
    assert text.count("not stated by the model") == 2  # neither its cohort nor the audit
    (member,) = facts["members"]
    verdict = "SHORTCUT. In the training patches <b>tissue</b> tells the label."
    trained = {
        "splits": ["train"], "slides": 4, "patients": 3, "patches": 900,
        "by": "tissue at 0.25", "attributes": ["below", "above"], "counts": [[800, 10], [10, 80]],
    }  # fmt: skip
    changed = {"data": {"audit": verdict, "trained": trained}, "parameters": {"seed": 7}}
    write_json(
        record,
        facts | {"members": [{"name": "erm-t0.25-s7", "spec": member["spec"] | changed}]},
    )
    page = Page(write_report(out))
    assert page.text.startswith("Predictions by erm-t0.25-s7")
    assert "erm-t0.25-s7, trained by erm, seed 7" in page.text
    assert "4 slides of 3 patients, 900 patches (split train)" in page.text
    assert verdict in page.text
    decision = read_json(out / "heatmaps" / "s0" / "heatmap.json")["decision_probability"]
    assert f"a probability above {decision:.3f} is called tumour" in page.text
    assert "Patch classifier: erm" in Page(out / "report" / "model-card-1.html").text
    record.unlink()
    assert "its name was not recorded" in Page(write_report(out)).text


def test_a_failed_slide_has_one_line_with_the_whole_on_demand(out: Path) -> None:
    entry = read_status(out, "bad")["predict"]
    update_status(out, "bad", "predict", entry | {"message": "the file ends early\n" + "and so on " * 40})
    source = write_report(out).read_text()
    summary = source.split('<details class="message"><summary>')[1].split("</summary>")[0]
    assert summary.count("the file ends early") == 1
    assert "and so on" not in summary
    assert "and so on" in source.split("</summary>")[1].split("</details>")[0]


def test_the_headline_is_the_share_of_all_tissue(out: Path) -> None:
    areas = [read_json(path)["summary"] for path in out.glob("heatmaps/*/heatmap.json")]
    share = sum(area["positive_tissue_mm2"] for area in areas) / sum(area["tissue_mm2"] for area in areas)
    n = sum(read_json(path)["counts"]["predicted"] for path in out.glob("heatmaps/*/heatmap.json"))
    headline = write_report(out).read_text().split('<p class="headline">')[1].split("</p>")[0]
    assert (f"{100 * share:.1f} % of the tissue area" in headline) == (n >= 50)
    assert (f"only {n} patches" in headline) == (n < 50)


def test_the_folder_opens_elsewhere_without_a_network(out: Path, tmp_path: Path) -> None:
    decide(out, Decision(slide_id="s0", verdict="accept", reviewer="Ada"))
    write_report(out)
    mailed = shutil.copytree(out / "report", tmp_path / "mailed")
    page = Page(mailed / "index.html")
    source = (mailed / "index.html").read_text(encoding="utf-8")
    assert re.search(r"https?:|src=\"/|href=\"/|\.\./|@import|url\(|<script", source) is None
    assert {str(image["src"]) for image in page.images} == {"overlays/s0.png", "overlays/s1.png"}
    for place in [*(str(image["src"]) for image in page.images), *page.links]:
        assert place[1:] in page.ids if place.startswith("#") else (mailed / place).is_file(), place
    assert "decisions.csv" in page.links
    assert {path.suffix for path in mailed.rglob("*") if path.is_file()} == {".html", ".png", ".csv"}


@pytest.mark.fault("escaped")
def test_decisions_are_counted_and_shown_as_text(out: Path) -> None:
    bound = {slide: heatmap_fingerprint(out, slide) for slide in ("s0", "s1")}
    decide(
        out,
        Decision(slide_id="s0", verdict="accept", reviewer="Bo", fingerprint=bound["s0"]),
        Decision(slide_id="s0", verdict="reject", reviewer="Bo", fingerprint=bound["s0"], comment=HOSTILE),
        Decision(slide_id="s1", verdict="flag", reviewer="Ada", fingerprint=bound["s1"], reason="fold"),
        Decision(slide_id="s1", x=0, y=0, verdict="tumour", reviewer="Ada"),
        Decision(slide_id="s1", x=16, y=0, verdict="unsure", reviewer="Ada"),
    )
    page = Page(write_report(out))
    assert "0 accepted, 1 rejected, 1 flagged, 1 undecided; 2 patches relabelled; 2 reviewers." in page.text
    assert HOSTILE in page.text
    assert "script" not in page.tags
    assert "rejected by Bo" in page.text
    assert "another heatmap" not in page.text
    assert len(read_decisions(out / "report" / "decisions.csv")) == 5
    with (out / "report" / "decisions.csv").open(newline="") as stream:
        assert [row["comment"] for row in csv.DictReader(stream)][1] == f"'{HOSTILE}"


def test_a_dispute_is_counted_with_every_readers_verdict(out: Path) -> None:
    bound = {"fingerprint": heatmap_fingerprint(out, "s0")}
    decide(
        out,
        Decision(slide_id="s0", verdict="accept", reviewer="Ada", **bound, comment="clear"),
        Decision(slide_id="s0", verdict="reject", reviewer="Bo", **bound, comment="torn"),
        Decision(slide_id="s1", x=0, y=0, verdict="tumour", reviewer="Ada"),
        Decision(slide_id="s1", x=0, y=0, verdict="unsure", reviewer="Bo"),
    )
    text = Page(write_report(out)).text
    assert "0 accepted, 0 rejected, 0 flagged, 1 disputed, 2 undecided; 0 patches relabelled; 2 reviewers." in text
    assert (
        "2 disputed, settled by nobody: slide s0 (Ada: accept, Bo: reject); patch s1@0,0 (Ada: tumour, Bo: unsure)"
        in text
    )
    assert "Ada: accepted, Bo: rejected" in text
    assert "clear; torn" in text


def test_a_decision_on_another_heatmap_has_a_warning(out: Path) -> None:
    decide(out, Decision(slide_id="s1", verdict="accept", reviewer="Ada", fingerprint=heatmap_fingerprint(out, "s1")))
    assert "another heatmap" not in Page(write_report(out)).text
    facts = read_json(out / "heatmaps" / "s1" / "heatmap.json")
    stamp = facts["stamp"] | {"settings": {"is": "new"}}
    write_json(out / "heatmaps" / "s1" / "heatmap.json", facts | {"stamp": stamp})
    assert "Decided of another heatmap than the present one: s1." in Page(write_report(out)).text


@pytest.mark.slow
def test_a_study_with_decisions_warns_of_changed_test_labels(tmp_path: Path, work: Path) -> None:
    copy = shutil.copytree(work, tmp_path / "study")
    audit = read_json(copy / "groups" / "audit.json")
    decided = {
        "reviewers": ["Ada"], "rejected": ["slide09"], "accepted": [], "flagged": [], "patches_rejected": 7,
        "relabelled": {"tumour": 3, "non-tumour": 0, "unsure": 1}, "elsewhere": [], "labels_changed": {"test": 4},
    }  # fmt: skip
    write_json(copy / "groups" / "audit.json", audit | {"decided": decided})
    page = Page(write_report(copy, evaluate=EvaluateConfig(bootstrap=0)))
    assert (
        "Decisions of reviewers (Ada): slides rejected: slide09 (7 patches); patches relabelled: 3 tumour" in page.text
    )
    assert "4 test patches have labels that reviewers changed" in page.text


@pytest.mark.fault("spoilt-status")
@pytest.mark.parametrize("spoil", SPOILT, ids=lambda spoil: spoil.__name__)
def test_a_spoilt_status_file_costs_its_slide_and_not_the_report(out: Path, spoil: Callable[[Path], object]) -> None:
    path = out / "status" / "bad.json"
    path.unlink()
    spoil(path)
    text = write_report(out).read_text()
    assert "status unreadable" in text
    assert "s0" in text
    rows = status_summary(out).table.set_index("slide_id")
    assert (rows.loc["bad", "stage"], rows.loc["bad", "state"]) == ("predict", "failed")
    assert list(cohort_table(out)["slide_id"]) == ["bad", "s0", "s1"]
