"""Notes: before a decision or after it, on a slide or a patch, and never on somebody else's decision."""

import pytest
from made_predictions import MODALITIES, table_of
from pages import serving
from playwright.sync_api import expect


def write(page, key, text, end):
    page.keyboard.press(key)
    page.keyboard.type(text)
    page.keyboard.press(end)


def revision(window, number):
    expect(window.standing()).to_have_attribute("data-revision", str(number))


@pytest.mark.slow
def test_a_note_is_added_to_an_accepted_slide_and_undone_alone(own, visit):
    window = visit(own)
    page = window.slide(MODALITIES)
    page.keyboard.press("a")
    revision(window, 1)
    write(page, "m", "clear margins, a r f u", "Enter")
    revision(window, 2)
    expect(window.standing()).to_have_attribute("data-verdict", "accept")
    expect(window.standing()).to_contain_text("clear margins, a r f u")
    page.keyboard.press("u")
    revision(window, 3)
    expect(window.standing()).to_have_attribute("data-verdict", "accept")
    expect(window.standing()).not_to_contain_text("clear margins")
    expect(page.locator("#comment")).to_have_value("")


@pytest.mark.slow
def test_a_note_that_was_written_first_goes_with_the_decision(own, visit):
    window = visit(own)
    page = window.slide(MODALITIES)
    write(page, "m", "thin section", "Enter")
    expect(page.locator("#said")).to_have_text("Kept: the note goes with your decision.")
    revision(window, 0)
    page.keyboard.press("a")
    revision(window, 1)
    expect(window.standing()).to_contain_text("thin section")
    page.locator("[data-does=flag]").click()  # another verdict begins without the note of this one
    expect(page.locator("#comment")).to_have_value("")
    page.locator("#cancel").click()
    expect(page.locator("#comment")).to_have_value("thin section")


@pytest.mark.slow
def test_enter_in_the_note_of_a_rejection_saves_the_rejection(own, visit):
    window = visit(own)
    page = window.slide(MODALITIES)
    page.keyboard.press("r")
    page.locator("#comment").fill("torn")
    page.locator("#comment").press("Enter")
    revision(window, 1)
    expect(window.standing()).to_have_attribute("data-verdict", "reject")
    expect(window.standing()).to_contain_text("torn")


@pytest.mark.slow
def test_a_patch_label_has_a_note_and_another_patch_begins_without(folder, own, visit):
    window = visit(own)
    page = window.slide(MODALITIES)
    page.keyboard.press("Enter")
    expect(page.locator("#patch.has-patch")).to_be_attached()
    page.keyboard.press("1")
    revision(window, 1)
    write(page, "p", "single cells", "Enter")
    revision(window, 2)
    expect(page.locator("#patch-facts [data-name=relabelled]")).to_have_text("tumour, A. Reader: single cells")
    page.keyboard.press("Shift+ArrowDown")
    expect(page.locator("#patch-facts [data-name=relabelled]")).to_have_text("no")
    expect(page.locator("#patch-note")).to_have_value("")
    write(page, "p", "fold", "Escape")
    page.keyboard.press("3")
    revision(window, 3)
    expect(page.locator("#patch-facts [data-name=relabelled]")).to_have_text("unsure, A. Reader: fold")
    assert len(table_of(folder, MODALITIES)) > 1


@pytest.mark.slow
def test_a_note_is_never_added_to_a_decision_of_somebody_else(folder, visit):
    with serving(folder) as ours, serving(folder, reviewer="B. Reader") as theirs:
        first, second = visit(ours), visit(theirs)
        first.slide(MODALITIES)
        first.page.keyboard.press("a")
        revision(first, 1)
        page = second.slide(MODALITIES)
        write(page, "m", "mine", "Enter")
        revision(second, 1)
        page.keyboard.press("a")
        revision(second, 2)
        expect(second.standing()).to_contain_text("B. Reader")
        expect(second.standing()).to_contain_text("mine")
