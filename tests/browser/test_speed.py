"""How fast a reviewer sees something: a thousand slides, two hundred thousand patches.

The best of some tries counts, and one that is fast enough is the last: what else the machine does is no fault of ours.
"""

import pytest
from made_predictions import facts_of, many_patches, many_slides
from pages import serving
from playwright.sync_api import expect

ROWS, ACROSS, DOWN = 1000, 500, 400
FRAME_MS, SECOND_MS = 1000 / 60, 1000
TRIES = 6


def test_a_thousand_slides_are_there_within_a_second(predicted, visit, tmp_path):
    with serving(many_slides(tmp_path, predicted.out, ROWS)) as address:
        took = [SECOND_MS]
        while min(took) >= SECOND_MS and len(took) <= TRIES:
            page = visit(address, expected=("404",)).cohort()  # their thumbnails are not there
            expect(page.locator("#slides tbody tr")).to_have_count(ROWS)
            took.append(float(page.locator("body").get_attribute("data-shown-after")))
        failed = page.locator(f"tr[data-slide='slide-{ROWS - 1:04d}'] [data-column=state]")
        expect(failed).to_contain_text("INPUT_CORRUPT")
        assert min(took) < SECOND_MS


@pytest.fixture
def large(predicted, tmp_path):
    slide_id = many_patches(tmp_path, predicted.out, ACROSS, DOWN)
    with serving(tmp_path) as address:
        yield tmp_path, slide_id, address


def test_two_hundred_thousand_patches_are_there_within_a_second_and_recoloured_within_two_frames(large, visit):
    folder, slide_id, address = large
    took = [SECOND_MS]
    while min(took) >= SECOND_MS and len(took) <= TRIES:
        window = visit(address)
        page = window.slide(slide_id)
        took.append(float(page.locator("#viewer").get_attribute("data-heat")))
    assert window.positives() == facts_of(folder, slide_id)["counts"]["tumour"]
    expect(page.locator("#no-slide")).to_be_visible()
    assert min(took) < SECOND_MS
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
