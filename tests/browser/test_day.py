"""A reviewer's day: sort, two slides, ten patches, a region, undo, a second reviewer, the comparison, the exports."""

import csv
import os
import re
import zipfile
from pathlib import Path

import pytest
from made_predictions import MODALITIES, SLIDES, facts_of, table_of
from pages import serving
from playwright.sync_api import expect

from pathopatch.core.config import AnnotationConfig
from pathopatch.groups.decisions.agreement import agreement
from pathopatch.patches.annotations.outlines import read_annotations
from pathopatch.patches.labels import find_regions
from pathopatch.stages.export import export_regions

LABELS = {"Ada": "1111122222", "Bo": "1111222221"}  # keys by patch: two of ten differ
VERDICTS = {"1": "tumour", "2": "non-tumour"}


def download(page, press, place):
    with page.expect_download() as started:
        press()
    started.value.save_as(place)
    return place


def read_csv(path):
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def label_patches(window, rows, keys):
    page = window.page
    for row, key in zip(rows, keys, strict=True):
        page.mouse.click(*window.place_of(row.x + row.width / 2, row.y + row.height / 2))
        expect(page.locator(f"#patch[data-shown='{row.x},{row.y}']")).to_be_attached()
        page.keyboard.press(key)
        expect(page.locator(f"[data-does=label-{VERDICTS[key]}]")).to_have_attribute("aria-pressed", "true")
        said = re.compile(
            f"{VERDICTS[key]}, {window.name}|{window.name}: {VERDICTS[key]}"
        )  # alone, beside a colleague's
        expect(page.locator("#patch-facts [data-name=relabelled]")).to_contain_text(said)


def standing(window, verdict, who):
    expect(window.standing()).to_have_attribute("data-verdict", verdict)
    expect(window.standing()).to_contain_text(who)


@pytest.mark.slow
def test_a_reviewers_day_from_the_table_to_the_exports(folder, visit, tmp_path):
    pictures = Path(os.environ.get("PATHOPATCH_SCREENSHOTS") or tmp_path)
    pictures.mkdir(parents=True, exist_ok=True)
    table = table_of(folder, SLIDES[0])
    rows = [table.iloc[at] for at in range(0, len(table), len(table) // 10)][:10]
    with serving(folder, reviewer="Ada") as ours:
        window = visit(ours, width=1440, reduced_motion="reduce")
        window.name = "Ada"
        page = window.cohort()
        page.locator("th[data-column=flagged_share] button").click()
        page.locator(f"tr[data-slide='{SLIDES[0]}'] a").click()
        window.settled()
        label_patches(window, rows, LABELS["Ada"])
        page.keyboard.press("a")
        standing(window, "accept", "Ada")
        page.keyboard.press("m")
        page.keyboard.type("borders follow the tissue")
        page.keyboard.press("Enter")
        expect(window.standing()).to_contain_text("borders follow the tissue")

        page = window.slide(MODALITIES)
        width, height = facts_of(folder, MODALITIES)["size_px"]
        corners = [(0.3 * width, 0.3 * height), (0.6 * width, 0.3 * height), (0.6 * width, 0.6 * height)]
        for is_withdrawn in (True, False):
            page.keyboard.press("d")
            for corner in corners:
                page.mouse.click(*window.place_of(*corner))
            page.keyboard.press("Enter")
            expect(page.locator("#regions li")).to_have_count(1)
            page.keyboard.press("Escape")
            if is_withdrawn:
                page.keyboard.press("u")
                expect(page.locator("#regions li")).to_have_count(0)
        page.keyboard.press("r")
        page.locator("#reason").fill("tumour missed")
        page.locator("#save").click()
        standing(window, "reject", "Ada")
        page.screenshot(path=pictures / "day-slide.png")

    with serving(folder, reviewer="Bo") as theirs:
        window = visit(theirs, width=1440, reduced_motion="reduce")
        window.name = "Bo"
        page = window.slide(SLIDES[0])
        standing(window, "accept", "Ada")
        label_patches(window, rows, LABELS["Bo"])
        page.keyboard.press("a")
        standing(window, "accept", "Bo")
        page = window.slide(MODALITIES)
        page.keyboard.press("a")
        standing(window, "accept", "Bo")

        page = window.cohort()
        page.keyboard.press("c")
        page.wait_for_url("**/agreement")
        expect(page.locator("body[data-ready=yes]")).to_be_attached()
        due = agreement(list(LABELS["Ada"]), list(LABELS["Bo"]), ["s"] * 10)
        assert (due.n_agreed, round(due.kappa, 2)) == (8, 0.6)
        cells = page.locator("#kappas tr[data-kind=patch] td").all_text_contents()
        assert cells == ["patch labels", "10 on 1 slide", "8 (80\u00a0%)", "0.60", "–"]
        assert page.locator("#kappas tr[data-kind=slide] td").nth(2).text_content() == "1 (50\u00a0%)"
        differences = page.locator("#differences tbody tr")
        expect(differences).to_have_count(3)
        page.screenshot(path=pictures / "agreement.png")
        differing = rows[4]
        page.get_by_text(f"patch at {differing.x}, {differing.y} px").locator("..").get_by_role("link").click()
        window.settled()
        expect(page.locator(f"#patch[data-shown='{differing.x},{differing.y}']")).to_be_attached()
        expect(page.locator("#patch-facts [data-name=relabelled]")).to_have_text(
            "≠ disputed: Ada: tumour, Bo: non-tumour"
        )

        page = window.cohort()
        page.keyboard.press("x")
        exported = download(page, page.get_by_text("Decisions, CSV").click, tmp_path / "review.csv")
        sent = download(page, lambda: page.keyboard.press("d"), tmp_path / "decisions.zip")
        qupath = download(page, lambda: page.keyboard.press("q"), tmp_path / "qupath.zip")

    assert (
        sum(row["stands"] == "true" for row in read_csv(exported)) == 2 * (10 + 2) + 1
    )  # labels, verdicts, the region
    with zipfile.ZipFile(sent) as archive:
        assert sorted(archive.namelist()) == sorted(f"{name}.geojson" for name in (SLIDES[0], MODALITIES))
    export_regions(folder, tmp_path / "regions")
    config = AnnotationConfig(tumor=("tumour (reviewer)",), non_tumor=("non-tumour (reviewer)",))
    found = find_regions(
        read_annotations(tmp_path / "regions" / f"{MODALITIES}.geojson"), config, slide_size=(width, height)
    )
    assert found.tumor.area == pytest.approx(0.5 * 0.3 * width * 0.3 * height, rel=0.02)
    with zipfile.ZipFile(qupath) as archive:
        slides = {name.split("/")[1] for name in archive.namelist() if name.endswith("/patches.geojson.gz")}
    assert slides == set(SLIDES)


def test_one_reviewer_alone_is_told_what_agreement_needs(address, visit):
    page = visit(address).agreement()
    expect(page.locator("#alone")).to_contain_text("Nobody has decided here. Agreement needs a second reviewer")
    expect(page.locator("#kappa-section")).to_be_hidden()
    expect(page.locator("#difference-section")).to_be_hidden()
