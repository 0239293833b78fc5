"""Decisions: made, withdrawn, found again after a reload, carried elsewhere, and two reviewers at one slide."""

import time

import pytest
from made_predictions import MODALITIES, SLIDES
from pages import serving
from playwright.sync_api import expect

from pathopatch.groups.decisions.log import read_log

LIVE_MS = 3000  # of a colleague’s verdict, without a reload


def press(window, does):
    window.page.locator(f"[data-does={does}]").click()


def select(window, row):
    window.page.mouse.click(*window.place_of(row.x + row.width / 2, row.y + row.height / 2))
    expect(window.page.locator(f"#patch[data-shown='{row.x},{row.y}']")).to_be_attached()


def reject(page, reason, comment):
    page.locator("[data-does=reject]").click()
    page.locator("#reason").fill(reason)
    page.locator("#comment").fill(comment)
    page.locator("#save").click()


@pytest.mark.slow
def test_a_colleagues_verdict_appears_by_itself_and_refuses_none(folder, visit):
    with serving(folder, "--reader", "B. Reader") as address:
        first, second, cohort = (visit(address, reader=name) for name in ("A. Reader", "B. Reader", "A. Reader"))
        cohort.cohort()
        first.slide(SLIDES[1])
        page = second.slide(SLIDES[1])
        page.locator("[data-does=reject]").click()
        page.locator("#comment").fill("upper right")
        press(first, "accept")
        expect(second.standing()).to_have_attribute("data-verdict", "accept", timeout=LIVE_MS)
        expect(page.locator("#comment")).to_have_value("upper right")
        page.locator("#reason").fill("tumour missed")
        page.locator("#save").click()
        expect(second.standing()).to_contain_text("B. Reader")
        expect(first.page.locator("#dispute")).to_be_visible(timeout=LIVE_MS)
        expect(cohort.page.locator(f"tr[data-slide='{SLIDES[1]}'] .disputed")).to_be_visible(timeout=LIVE_MS)


@pytest.mark.slow
def test_what_one_decides_in_a_second_window_is_shown_before_the_first_is_saved(own, visit):
    first, second = visit(own, expected=("409", "ERR_FAILED")), visit(own)
    first.page.route("**/api/newest", lambda route: route.abort())  # a window that has lost its way
    page = first.slide(SLIDES[1])
    second.slide(SLIDES[1])
    press(second, "accept")
    expect(second.standing()).to_have_attribute("data-verdict", "accept")
    reject(page, "tumour missed", "upper right")
    expect(page.locator("#alarm")).to_contain_text("in another window")
    expect(first.standing()).to_have_attribute("data-verdict", "none")
    page.locator("#reload-decisions").click()
    expect(first.standing()).to_have_attribute("data-verdict", "accept")
    expect(page.locator("#comment")).to_have_value("upper right")
    page.locator("#save").click()
    expect(first.standing()).to_have_attribute("data-verdict", "reject")


@pytest.mark.slow
@pytest.mark.fault("foreign-undo")
def test_undo_leaves_a_colleagues_decision_and_says_so(folder, own, visit):
    first = visit(own)
    first.slide(MODALITIES)
    press(first, "accept")
    expect(first.standing()).to_have_attribute("data-verdict", "accept")
    with serving(folder, reviewer="B. Reader") as theirs:
        second = visit(theirs)
        page = second.slide(MODALITIES)
        page.keyboard.press("u")
        said = "Nothing of yours to undo: A. Reader decided here. A new decision of yours stands beside it."
        expect(page.locator("#said")).to_have_text(said)
        expect(second.standing()).to_have_attribute("data-verdict", "accept")


@pytest.mark.slow
def test_what_is_decided_while_another_is_saved_is_saved_before_the_page_is_left(folder, own, visit):
    page = visit(own).slide(SLIDES[1])
    page.keyboard.press("Enter")
    expect(page.locator("#patch.has-patch")).to_be_attached()

    def slowly(route):
        time.sleep(0.5)
        route.continue_()

    page.route("**/decisions", slowly)
    for key in "1aak":  # a key that is held decides once
        page.keyboard.press(key)
    page.wait_for_url(f"**/slides/{SLIDES[2]}")
    assert [row.verdict for row in read_log(folder / "review.sqlite")] == ["tumour", "accept"]


def test_a_reason_that_is_typed_is_the_reason_that_is_saved(own, visit):
    window = visit(own)
    page = window.slide(MODALITIES)
    page.keyboard.press("r")
    page.keyboard.type("skin, no tumour")  # once the list took it for "staining or scan"
    page.keyboard.press("Enter")
    expect(window.standing()).to_have_attribute("data-verdict", "reject")
    expect(page.locator("#standing .why")).to_have_text("skin, no tumour")


@pytest.mark.slow
def test_a_rejection_says_why(own, visit):
    page = visit(own).slide(MODALITIES)
    page.locator("[data-does=reject]").click()
    page.locator("#save").click()
    expect(page.locator("#form-error")).to_have_text("Choose a reason or write a note.")
    expect(page.locator("#standing")).to_have_attribute("data-verdict", "none")


@pytest.mark.slow
def test_a_script_in_a_comment_is_a_text(own, visit):
    window = visit(own)
    page = window.slide(MODALITIES)
    comment = "<img src=x onerror=\"document.body.dataset.ready='run'\"><script>document.title='run'</script>"
    reject(page, "", comment)
    expect(window.standing()).to_contain_text(comment)
    page = window.cohort()
    expect(page.locator(f"tr[data-slide='{MODALITIES}'] [data-column=decision]")).to_contain_text(comment)
    assert page.locator("td img[src=x], td script").count() == 0
