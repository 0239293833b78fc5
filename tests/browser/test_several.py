"""Several reviewers: work lists, a dispute and who settles it, blinded reading, two of three compared, and paper."""

import pytest
from made_predictions import MODALITIES, SLIDES, facts_of, table_of
from pages import serving
from playwright.sync_api import expect
from test_access import barriers

from pathopatch.groups.decisions.decision import Decision
from pathopatch.groups.decisions.log import read_log
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
def test_a_third_reviewer_settles_a_dispute_by_keyboard(disputed, visit, axe):
    with serving(disputed, reviewer="Cy") as address:
        window = visit(address)
        page = window.cohort()
        expect(row(page)).to_contain_text("≠ disputed")
        expect(row(page)).to_contain_text("Ada: accept, Ben: reject, Dee: accept")
        page.keyboard.press("x")
        assert barriers(page, axe) == []
        page = window.slide(MODALITIES)
        page.keyboard.press("e")
        expect(page.locator("#dispute-text")).to_have_text("Your next verdict settles Ada: accept, Ben: reject.")
        assert barriers(page, axe) == []
        page.keyboard.press("a")
        expect(window.standing()).to_contain_text("settled by Cy")
        expect(page.locator("#dispute")).to_be_hidden()
        page = window.cohort()
        expect(row(page)).to_contain_text("settled by Cy")
        expect(page.locator("[data-does=disputed] b")).to_have_text("0")


@pytest.mark.slow
def test_two_readers_who_differ_see_a_dispute_and_each_verdict(folder, visit, axe):
    """On the slide and on a patch: nothing of a colleague's is replaced, struck out or shown as one's own."""
    with serving(folder, reviewer="Ada") as ours, serving(folder, reviewer="Ben") as theirs:
        first, second = visit(ours, height=1500), visit(theirs, height=1500)
        page = first.slide(MODALITIES)
        page.keyboard.press("a")
        expect(first.standing()).to_have_attribute("data-revision", "1")
        page.keyboard.press("Enter")
        expect(page.locator("#patch.has-patch")).to_be_attached()
        page.keyboard.press("1")
        expect(first.standing()).to_have_attribute("data-revision", "2")
        page = second.slide(MODALITIES)
        expect(page.locator("[data-does=accept]")).to_have_attribute("aria-pressed", "false")
        page.keyboard.press("Enter")
        expect(page.locator("#patch-facts [data-name=relabelled]")).to_have_text("tumour, Ada")
        expect(page.locator("[data-does=label-tumour]")).to_have_attribute("aria-pressed", "false")
        page.keyboard.press("2")
        expect(page.locator("#said")).to_contain_text("≠ Disputed: Ada: tumour, Ben: non-tumour.")
        expect(page.locator("#patch-facts [data-name=relabelled]")).to_have_text(
            "≠ disputed: Ada: tumour, Ben: non-tumour"
        )
        expect(page.locator("[data-does=label-non-tumour]")).to_have_attribute("aria-pressed", "true")
        expect(page.locator("#disputed-patches a")).to_have_count(1)
        page.keyboard.press("r")
        page.keyboard.type("torn")
        page.keyboard.press("Enter")
        expect(page.locator("#dispute-text")).to_have_text("≠ Disputed: Ada: accept, Ben: reject.")
        expect(page.locator("#standing .chip")).to_have_text("≠ disputed")
        page.locator("#review-side summary").click()
        expect(page.locator("#history li")).to_have_count(4)
        expect(page.locator("#history .past")).to_have_count(0)
        assert barriers(page, axe) == []
        expect(row(second.cohort())).to_contain_text("≠ disputed≠ 1 patch disputed")
        page = first.slide(MODALITIES)
        expect(page.locator("[data-does=accept]")).to_have_attribute("aria-pressed", "true")


@pytest.mark.slow
def test_a_third_label_settles_the_dispute_of_a_patch(folder, visit):
    facts = facts_of(folder, MODALITIES)
    place = table_of(folder, MODALITIES).iloc[20]
    with DecisionLog(folder / "review.sqlite") as log:
        for revision, (name, verdict) in enumerate((("Ada", "tumour"), ("Ben", "non-tumour"))):
            label = {"x": int(place.x), "y": int(place.y), "fingerprint": heatmap_fingerprint(facts)}
            log.record(Decision(slide_id=MODALITIES, verdict=verdict, reviewer=name, **label), revision=revision)
    with serving(folder, reviewer="Cy") as address:
        window = visit(address)
        page = window.slide(MODALITIES)
        page.locator("#disputed-patches a").click()
        expect(page.locator("#patch-dispute-text")).to_have_text("≠ Disputed: Ada: tumour, Ben: non-tumour.")
        page.keyboard.press("4")
        expect(page.locator("#patch-dispute-text")).to_have_text(
            "Your next label settles Ada: tumour, Ben: non-tumour."
        )
        page.keyboard.press("2")
        relabelled = page.locator("#patch-facts [data-name=relabelled]")
        expect(relabelled).to_have_text("non-tumour, settled by Cy; Ada: tumour, Ben: non-tumour")
        for gone in ("#patch-dispute", "#disputed-patches"):
            expect(page.locator(gone)).to_be_hidden()
        assert read_log(folder / "review.sqlite")[-1].settles == "1 2"


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
