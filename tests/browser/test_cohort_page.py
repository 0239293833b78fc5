"""The table of slides: what stands in it, in which order, and which slide comes next."""

import pytest
from made_predictions import SLIDES, facts_of
from pages import serving
from playwright.sync_api import expect

from pathopatch.core.files import write_json
from pathopatch.core.status import update_status


def shown(page):
    return [row.get_attribute("data-slide") for row in page.locator("#slides tbody tr").all()]


def cell(page, slide_id, column):
    return page.locator(f"#slides tr[data-slide='{slide_id}'] [data-column='{column}']")


def test_a_row_says_what_the_heatmap_says(predicted, address, visit):
    page = visit(address).cohort()
    assert sorted(shown(page)) == sorted(SLIDES)
    for slide_id in SLIDES:
        facts = facts_of(predicted.out, slide_id)
        share = facts["summary"]["positive_share"]
        expect(cell(page, slide_id, "tumour")).to_have_text(str(facts["counts"]["tumour"]))
        expect(cell(page, slide_id, "positive_share")).to_have_text(f"{100 * share:.1f}\u00a0%")
        expect(cell(page, slide_id, "decision")).to_have_text("not reviewed")
        image = page.locator(f"tr[data-slide='{slide_id}'] img")
        assert image.evaluate("async (image) => { await image.decode(); return image.naturalWidth; }") > 20
    expect(page.locator(".research")).to_have_text("Research use only")


def test_new_is_what_was_predicted_since_the_visit_before(folder, own, visit):
    window = visit(own)
    counted = window.cohort().locator("[data-does=fresh] b")
    expect(counted).to_have_text(str(len(SLIDES)))
    window.cohort()
    expect(counted).to_have_text(str(len(SLIDES)))  # a reload is the same visit
    update_status(folder, SLIDES[0], "predict", {"state": "failed", "code": "TIMEOUT", "message": "late"})
    window.page.evaluate("sessionStorage.clear()")  # as the next visit finds it
    expect(window.cohort().locator("[data-does=fresh] b")).to_have_text("1")
    window.page.keyboard.press("5")
    assert shown(window.page) == [SLIDES[0]]
    expect(window.page.locator(".to-do").first).to_contain_text("What to do:")


def test_patches_against_the_area_are_counted_as_they_are_confirmed(folder, own, visit):
    page = visit(own).slide(SLIDES[0])
    page.locator("#gallery-kind").select_option("against-area")
    expect(page.locator("#gallery[data-kind=against-area]")).to_be_attached()
    expect(page.locator("#confirmed")).to_contain_text("0 of 0")
    called = float(page.locator("#gallery li button").first.text_content().split("p ")[1].split(",")[0])
    threshold = facts_of(folder, SLIDES[0])["decision_probability"]
    page.locator("#gallery li button").first.click()
    expect(page.locator("[data-does=label-tumour]")).to_be_enabled()
    page.keyboard.press("1" if called > threshold else "2")
    expect(page.locator("#confirmed")).to_contain_text("1 of 1")
    page.keyboard.press("2" if called > threshold else "1")
    expect(page.locator("#confirmed")).to_contain_text("0 of 1")


def test_a_column_sorts_both_ways_and_says_so(predicted, address, visit):
    share = {}
    for slide_id in SLIDES:
        share[slide_id] = facts_of(predicted.out, slide_id)["summary"]["positive_share"]
    page = visit(address).cohort()
    head = page.locator("th[data-column=positive_share]")
    head.get_by_role("button").click()
    assert shown(page) == sorted(SLIDES, key=share.get, reverse=True)
    expect(head).to_have_attribute("aria-sort", "descending")
    head.get_by_role("button").click()
    assert shown(page) == sorted(SLIDES, key=share.get)
    expect(head).to_have_attribute("aria-sort", "ascending")
    page.reload()
    expect(head).to_have_attribute("aria-sort", "ascending")


def test_filters_show_the_slides_that_fit_and_no_others(address, visit):
    page = visit(address).cohort()
    page.locator("#search").fill("idc")
    assert shown(page) == ["idc_14306"]
    page.locator("#search").fill("p03")
    assert shown(page) == ["demo-multimodal"]
    page.locator("#search").fill("")
    page.locator("#status").select_option("accept")
    assert shown(page) == []
    expect(page.locator("#none")).to_be_visible()
    page.locator("#status").select_option("open")
    assert sorted(shown(page)) == sorted(SLIDES)


@pytest.mark.slow
def test_what_failed_or_was_left_out_says_what_to_do_and_copies_a_command(folder, visit):
    command, message = "cd /scans && pathopatch predict a.tif", "INPUT_CORRUPT: no TIFF [a.tif] Remedy: copy it again"
    failed = {"state": "failed", "code": "INPUT_CORRUPT", "message": message, "command": command}
    update_status(folder, "broken", "predict", failed)
    write_json(folder / "left-out.json", {"/scans/notes.txt": "no reader for notes.txt"})
    with serving(folder) as ours:
        page = visit(ours, permissions=["clipboard-read", "clipboard-write"]).cohort()
        state = cell(page, "broken", "state")
        expect(state).to_contain_text("INPUT_CORRUPT")
        expect(state.locator("summary")).to_have_text("no TIFF [a.tif]")
        expect(state.locator(".to-do")).to_contain_text("What to do: copy it again")
        state.get_by_role("button", name="Copy command: broken").click()
        expect(page.locator("#said")).to_have_text("Command copied.")
        assert page.evaluate("navigator.clipboard.readText()") == command
        page.locator("#left-out summary").click()
        expect(page.locator("#left-out-files")).to_contain_text("/scans/notes.txt no reader for notes.txt")
        page.locator("#left-out-files button").click()
        expect(page.locator("#said")).to_have_text("Command copied.")
        assert page.evaluate("navigator.clipboard.readText()") == "pathopatch info /scans/notes.txt"
        page.evaluate("() => { navigator.clipboard.writeText = () => Promise.reject(); }")  # as on a page without https
        state.get_by_role("button").click()
        expect(page.locator("#alarm code")).to_have_text(command)


@pytest.mark.slow
def test_slides_follow_each_other_as_the_table_had_them(address, visit):
    window = visit(address)
    page = window.cohort("?sort=slide_id&down=1")
    order = shown(page)
    page.locator(f"tr[data-slide='{order[0]}'] a").click()
    window.settled()
    expect(page.locator("[data-does=previous]")).to_be_disabled()
    for slide_id in order[1:]:
        page.locator("[data-does=next]").click()
        page.wait_for_url(f"**/slides/{slide_id}")
        window.settled()
    expect(page.locator("[data-does=next]")).to_be_disabled()
    page.keyboard.press("k")
    page.wait_for_url(f"**/slides/{order[1]}")
    window.settled()
