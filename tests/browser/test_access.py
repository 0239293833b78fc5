"""Access to the page: its token, keyboard only, screen readers, and colour vision deficiency."""

import json
import os
from contextlib import closing
from pathlib import Path

import pytest
from made_predictions import MODALITIES, SLIDES, table_of
from pages import link_of, serving
from playwright.sync_api import expect

from pathopatch.groups.decisions.decision import Decision
from pathopatch.review.decisions import DecisionLog


def barriers(page, axe):
    """Return the violations that axe-core finds, as rule and place."""
    page.evaluate(axe)
    violations = page.evaluate("async () => JSON.stringify((await axe.run(document)).violations)")
    return [
        (violation["id"], node["html"][:120]) for violation in json.loads(violations) for node in violation["nodes"]
    ]


@pytest.mark.slow
def test_axe_finds_no_barrier_in_the_cohort(address, visit, axe):
    page = visit(address).cohort()
    assert barriers(page, axe) == []
    page.keyboard.press("?")
    expect(page.locator("#help")).to_be_visible()
    assert barriers(page, axe) == []


def test_axe_finds_no_barrier_in_the_agreement_of_two(folder, visit, axe):
    with DecisionLog(folder / "review.sqlite") as log:
        for revision, (verdict, reviewer) in enumerate((("accept", "Ada"), ("reject", "Bo"))):
            log.record(Decision(slide_id=MODALITIES, verdict=verdict, reviewer=reviewer), revision=revision)
    with serving(folder) as own:
        page = visit(own).agreement()
        expect(page.locator("#differences tbody tr")).to_have_count(1)
        assert barriers(page, axe) == []
        page.keyboard.press("j")
        page.keyboard.press("Enter")
        page.wait_for_url(f"**/slides/{MODALITIES}")


@pytest.mark.slow
def test_axe_finds_no_barrier_on_a_slide(own, visit, axe):
    window = visit(own)
    page = window.slide(MODALITIES)
    assert barriers(page, axe) == []
    page.locator("#gallery button").first.click()
    expect(page.locator("#patch.has-patch")).to_be_attached()
    page.keyboard.press("f")
    page.locator("#save").click()  # the form with its error
    page.get_by_label("Group").check()
    page.locator("#review-side summary").click()
    page.locator("[data-does=polygon]").click()  # the hint on drawing
    page.locator("#threshold-number").fill("1.7")
    page.locator("#threshold-number").press("Tab")
    page.locator("[data-does=pair]").click()
    expect(page.locator("#viewer-beside[data-loaded=yes]")).to_be_attached()
    assert barriers(page, axe) == []
    page.locator("#reason").fill("out of focus")
    page.locator("#save").click()
    expect(window.standing()).to_have_attribute("data-verdict", "flag")
    page.keyboard.press("?")
    assert barriers(page, axe) == []
    page = window.cohort()
    assert barriers(page, axe) == []


@pytest.mark.slow
def test_a_slide_is_reviewed_by_keyboard_alone(own, visit):
    window = visit(own, reduced_motion="reduce")
    page = window.cohort("?sort=slide_id")
    for key in ("j", "j", "Enter"):
        page.keyboard.press(key)
    page.wait_for_url(f"**/slides/{MODALITIES}")
    window.settled()
    page.keyboard.press(" ")
    expect(page.locator("[data-does=overlay]")).to_have_attribute("aria-pressed", "false")
    page.keyboard.press("Enter")
    expect(page.locator("#patch.has-patch")).to_be_attached()
    before = page.locator("#patch").get_attribute("data-shown")
    page.keyboard.press("Shift+ArrowDown")
    expect(page.locator("#patch")).not_to_have_attribute("data-shown", before)
    page.keyboard.press("1")
    expect(page.locator("#patch-facts [data-name=relabelled]")).to_have_text("tumour, A. Reader")
    page.keyboard.press("r")
    page.keyboard.press("ArrowDown")  # in the list of reasons
    page.keyboard.press("Tab")
    page.keyboard.type("a r f u b j 1 ?")  # keys are off in a text field
    page.keyboard.press("Tab")
    page.keyboard.press("Enter")
    expect(window.standing()).to_have_attribute("data-verdict", "reject")
    expect(window.standing()).to_have_attribute("data-revision", "2")
    expect(window.standing()).to_contain_text("a r f u b j 1 ?")
    page.keyboard.press("u")
    expect(window.standing()).to_have_attribute("data-verdict", "none")


def test_arrow_keys_move_the_slide_once_it_has_the_focus(address, visit):
    window = visit(address, reduced_motion="reduce")
    page = window.slide(MODALITIES)
    page.keyboard.press("+")
    page.locator("#viewer [role=application]").focus()
    before = page.locator("#viewer").get_attribute("data-corner")
    page.keyboard.press("ArrowRight")
    expect(page.locator("#viewer")).not_to_have_attribute("data-corner", before)


@pytest.mark.parametrize("page_of", ["agreement", "cohort", "slide"])
def test_every_key_has_a_button_and_stands_in_the_help(address, visit, page_of):
    window = visit(address)
    opened = {"agreement": window.agreement, "cohort": window.cohort, "slide": lambda: window.slide(MODALITIES)}
    page = opened[page_of]()
    page.keyboard.press("x")  # the menu of the cohort
    page.keyboard.press("?")
    rows = page.locator("#help tr")
    expect(rows.last).to_be_visible()
    for does in [row.get_attribute("data-for") for row in rows.all()]:
        button = page.locator(f"button[data-does={does}]")
        assert button.count() == 1
        assert button.is_visible() or does in (
            "beside",
            "settle",
            "settle-label",
        )  # there where there are two runs, or a dispute
    page.get_by_role("button", name="Close").click()
    page.locator("[data-does=help]").click()
    expect(page.locator("#help")).to_be_visible()


@pytest.mark.parametrize("page_of", ["agreement", "cohort", "slide"])
def test_a_key_pressed_in_the_help_does_not_turn_keys_off(address, visit, page_of):
    window = visit(address)
    opened = {"agreement": window.agreement, "cohort": window.cohort, "slide": lambda: window.slide(MODALITIES)}
    page = opened[page_of]()
    for _ in range(2):  # at its second opening, too
        page.keyboard.press("?")
        expect(page.locator("#help-title")).to_be_focused()
        page.keyboard.press(" ")
        expect(page.locator("#keys-on")).to_be_checked()
        page.keyboard.press("Escape")
        expect(page.locator("#help")).to_be_hidden()


def test_keys_can_be_turned_off(address, visit):
    page = visit(address).slide(MODALITIES)
    page.keyboard.press("?")
    page.locator("#keys-on").uncheck()
    page.keyboard.press("?")
    page.keyboard.press(" ")
    expect(page.locator("[data-does=overlay]")).to_have_attribute("aria-pressed", "true")


@pytest.mark.slow
@pytest.mark.parametrize("width", [1400, 1100])
def test_pages_fit_their_window_and_say_research_use_only(predicted, address, visit, tmp_path, width):
    pictures = Path(os.environ.get("PATHOPATCH_SCREENSHOTS") or tmp_path)
    pictures.mkdir(parents=True, exist_ok=True)
    window = visit(address, width=width)

    def check_page(name):
        page = window.page
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        assert page.evaluate(
            "[...document.querySelectorAll('.side')].every((side) => side.scrollWidth <= side.clientWidth)"
        )
        page.screenshot(path=pictures / f"{name}-{width}.png")

    window.cohort()
    expect(window.page.get_by_text("Research use only")).to_be_visible()
    check_page("cohort")
    for slide_id in SLIDES:
        page = window.slide(slide_id)
        expect(page.get_by_text("Research use only")).to_be_visible()
        table = table_of(predicted.out, slide_id)
        row = table.iloc[len(table) // 2]
        window.has_tiles()
        page.mouse.click(*window.place_of(row.x + row.width / 2, row.y + row.width / 2))
        expect(page.locator(f"#patch[data-shown='{row.x},{row.y}']")).to_be_attached()
        check_page(f"slide-{slide_id}")
    window.page.keyboard.press("?")
    check_page("help")


def test_the_printed_link_opens_the_page_and_nothing_else_does(address, browser):
    with closing(browser.new_context()) as window:
        page = window.new_page()
        assert page.goto(address).status == 403
        page.goto(link_of(address))
        expect(page.locator("body[data-ready=yes]")).to_be_attached()
        assert "token" not in page.url
        assert page.goto(address).status == 200
