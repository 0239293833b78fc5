"""Speed of the review page with a thousand slides and two hundred thousand patches.

What is held is the work, time of the processor in the page's main thread and in its server: how long that takes by the
clock depends on what else the machine does. The best of some tries counts; one that is fast enough is the last.
"""

from contextlib import closing

import pytest
from made_predictions import facts_of, many_patches, many_slides
from pages import serving
from playwright.sync_api import expect

ROWS, ACROSS, DOWN = 1000, 500, 400
FRAME_MS, SECOND_MS = 1000 / 60, 1000
TRIES = 6
TABLE_MS, HEAT_MS = 2 * SECOND_MS, SECOND_MS
"""The page of a thousand slides goes on working after its table is there. Measured where nothing else ran: 1300 and
500 ms of work, 720 and 780 ms by the clock."""


def best_of(measure, limit):
    """The least of what some tries take, ms."""
    took = []
    while len(took) < TRIES and not (took and min(took) < limit):
        took.append(measure())
    return min(took)


def work_ms(window, show):
    """Return the work until a window shows something, ms."""
    before = window.worked_ms()
    show()
    return window.worked_ms() - before


@pytest.mark.slow
def test_a_thousand_slides_are_there_within_a_second(predicted, visit, tmp_path):
    with serving(many_slides(tmp_path, predicted.out, ROWS)) as address:

        def once():
            with closing(visit(address, expected=("404",))) as window:  # their thumbnails are not there
                took = work_ms(window, window.cohort)
                page = window.page
                expect(page.locator("#slides tbody tr")).to_have_count(ROWS)
                failed = page.locator(f"tr[data-slide='slide-{ROWS - 1:04d}'] [data-column=state]")
                expect(failed).to_contain_text("INPUT_CORRUPT")
                return took

        assert best_of(once, TABLE_MS) < TABLE_MS


@pytest.fixture
def large(predicted, tmp_path):
    slide_id = many_patches(tmp_path, predicted.out, ACROSS, DOWN)
    with serving(tmp_path) as address:
        yield tmp_path, slide_id, address


@pytest.mark.slow
def test_200000_patches_appear_in_a_second_and_recolour_in_two_frames(large, visit):
    folder, slide_id, address = large

    def once():
        with closing(visit(address)) as window:  # one that loads its tiles would be in the way of the next
            return work_ms(window, lambda: window.slide(slide_id))

    assert best_of(once, HEAT_MS) < HEAT_MS
    window = visit(address)
    page = window.slide(slide_id)
    assert window.positives() == facts_of(folder, slide_id)["counts"]["tumour"]
    expect(page.locator("#no-slide")).to_be_visible()
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
