"""How fast a reviewer sees something: a thousand slides, two hundred thousand patches.

The best of some tries counts, and one that is fast enough is the last: what else the machine does is no fault of ours.
A machine that is itself too slow is told by a page of few: there, many must not take much longer than few.
"""

from contextlib import closing
from statistics import median

import pytest
from made_predictions import SLIDES, facts_of, many_patches, many_slides
from pages import serving
from playwright.sync_api import expect

ROWS, ACROSS, DOWN = 1000, 500, 400
FRAME_MS, SECOND_MS = 1000 / 60, 1000
TRIES = 6
MUCH_LONGER = 2
"""Seen where nothing else ran: 1.4 (slides), 1.5 (patches)."""


def is_fast(many, few):
    """Whether many are there within a second, or all but as soon as few were in the same moment."""
    return min(many) < SECOND_MS or median(m / f for m, f in zip(many, few, strict=True)) < MUCH_LONGER


def shown_after(window):
    """From the page's start to the table of slides, ms."""
    return float(window.cohort().locator("body").get_attribute("data-shown-after"))


def test_a_thousand_slides_are_there_within_a_second(predicted, visit, tmp_path):
    with serving(many_slides(tmp_path, predicted.out, ROWS)) as address, serving(predicted.out) as of_few:
        many, few = [], []
        while len(many) < TRIES and not (many and is_fast(many, few)):
            with closing(visit(of_few)) as window:
                few.append(shown_after(window))
            window = visit(address, expected=("404",))  # their thumbnails are not there
            many.append(shown_after(window))
            page = window.page
            expect(page.locator("#slides tbody tr")).to_have_count(ROWS)
        failed = page.locator(f"tr[data-slide='slide-{ROWS - 1:04d}'] [data-column=state]")
        expect(failed).to_contain_text("INPUT_CORRUPT")
        assert is_fast(many, few), (many, few)


@pytest.fixture
def large(predicted, tmp_path):
    slide_id = many_patches(tmp_path, predicted.out, ACROSS, DOWN)
    with serving(tmp_path) as address:
        yield tmp_path, slide_id, address


def heat_after(window, slide_id):
    """From the page's start to the first heat layer, ms."""
    return float(window.slide(slide_id).locator("#viewer").get_attribute("data-heat"))


def test_two_hundred_thousand_patches_are_there_within_a_second_and_recoloured_within_two_frames(large, visit, address):
    folder, slide_id, of_many = large
    many, few = [], []
    while len(many) < TRIES and not (many and is_fast(many, few)):
        with closing(visit(address)) as window:  # one that loads its tiles would be in the way of the next
            few.append(heat_after(window, SLIDES[0]))
        window = visit(of_many)
        many.append(heat_after(window, slide_id))
    page = window.page
    assert window.positives() == facts_of(folder, slide_id)["counts"]["tumour"]
    expect(page.locator("#no-slide")).to_be_visible()
    assert is_fast(many, few), (many, few)
    assert min(median_recolouring(page) for _ in range(TRIES)) < 2 * FRAME_MS


def median_recolouring(page):
    """From the moved slider to the drawn layer, ms."""
    took = page.locator("#threshold").evaluate(
        """async (input) => {
            const took = [];
            for (let step = 0; step < 40; step += 1) {
                await new Promise((done) => requestAnimationFrame(done));
                const began = performance.now();
                input.value = 0.2 + step / 100;
                input.dispatchEvent(new Event("input", { bubbles: true }));  // counts, recolours and draws
                took.push(performance.now() - began);
            }
            return took;
        }"""
    )
    return sorted(took)[len(took) // 2]
