"""Several reviewers: work lists, a dispute and who settles it, blinded reading, two of three compared, and paper."""

import pytest
from made_predictions import MODALITIES, SLIDES, facts_of
from pages import serving
from playwright.sync_api import expect

from pathopatch.groups.decisions.decision import Decision
from pathopatch.review.decisions import DecisionLog
from pathopatch.review.reviewed_slide import heatmap_fingerprint

SHOWN = "#slides tbody tr"


@pytest.fixture
def disputed(folder):
    """A folder in which Ada and Ben differ on one slide."""
    fingerprint = heatmap_fingerprint(facts_of(folder, MODALITIES))
    with DecisionLog(folder / "review.sqlite") as log:
        for revision, (name, verdict) in enumerate((("Ada", "accept"), ("Ben", "reject"), ("Dee", "accept"))):
            log.record(
                Decision(slide_id=MODALITIES, verdict=verdict, reviewer=name, fingerprint=fingerprint),
                revision=revision,
            )
    return folder


def row(page, slide_id=MODALITIES):
    return page.locator(f"{SHOWN}[data-slide='{slide_id}'] [data-column=decision]")


@pytest.mark.slow
def test_work_lists_filter_and_the_next_slide_to_do_follows_the_table(disputed, visit):
    with serving(disputed, reviewer="Ada") as address:
        window = visit(address)
        page = window.cohort("?sort=slide_id&down=1")
        numbers = {name: page.locator(f"[data-does={name}] b").text_content() for name in ("todo", "done", "disputed")}
        assert numbers == {"todo": "2", "done": "1", "disputed": "1"}
        page.keyboard.press("2")
        expect(page.locator(SHOWN)).to_have_count(1)
        page.keyboard.press("n")  # though the list of what is done hides it
        page.wait_for_url(f"**/slides/{SLIDES[1]}")
        window.settled()
        page.keyboard.press("n")
        page.wait_for_url(f"**/slides/{SLIDES[0]}")
        window.settled()


@pytest.mark.slow
def test_a_blinded_reviewer_sees_the_others_after_his_own_verdict(disputed, visit):
    with serving(disputed, "--blinded", reviewer="Cy"):
        pass
    with serving(disputed, reviewer="Cy") as address:  # the folder keeps it
        window = visit(address)
        expect(row(window.cohort())).to_have_text("not reviewed by you")
        page = window.slide(MODALITIES)
        expect(window.standing()).to_contain_text("Blinded reading")
        expect(page.locator("#history-count")).to_have_text("0")
        page.keyboard.press("a")
        expect(window.standing()).to_contain_text("Ada: accept, Ben: reject, Cy: accept, Dee: accept")


def test_any_two_of_three_reviewers_are_compared(disputed, visit):
    with serving(disputed, reviewer="Cy") as address:
        page = visit(address).agreement()
        expect(page.locator("#kappas tr[data-kind=slide] th")).to_have_text("Ada and Ben")
        assert page.locator("#counts td").all_text_contents() == ["0", "1", "0", "0"]
        page.locator("#second").select_option("Dee")
        expect(page.locator("#kappas tr[data-kind=slide] th")).to_have_text("Ada and Dee")
        expect(page.locator("#none")).to_be_visible()
        page.locator("#first").select_option("Dee")  # the same name twice changes places
        expect(page.locator("#second")).to_have_value("Ada")


@pytest.mark.slow
@pytest.mark.parametrize("page_of", ["agreement", "cohort", "slide"])
def test_on_paper_are_tables_and_pictures_and_no_controls(disputed, visit, page_of):
    with serving(disputed, reviewer="Cy") as address:
        window = visit(address, reduced_motion="reduce")
        page = window.slide(MODALITIES) if page_of == "slide" else getattr(window, page_of)()
        page.evaluate("dispatchEvent(new Event('beforeprint'))")
        page.emulate_media(media="print")
        for control in page.locator("[data-does], .button, select, input, textarea").all():
            expect(control).to_be_hidden()
        kept = {
            "agreement": "#kappas, #differences",
            "cohort": "#slides th, #slides img",
            "slide": ".heat, #legend canvas",
        }
        for part in page.locator(kept[page_of]).all():
            expect(part).to_be_visible()
