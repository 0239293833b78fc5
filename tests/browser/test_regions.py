"""Regions: drawn by corners or freehand, listed with their area, removed, undone, and seen on any ground."""

import json
import os
from pathlib import Path

import numpy as np
import pytest
from made_predictions import MODALITIES, SLIDES, facts_of
from playwright.sync_api import expect

TUMOUR, NON_TUMOUR = (213, 94, 0), (0, 114, 178)


def corners(facts, left=0.35, top=0.35, right=0.6, bottom=0.55):
    """A rectangle at shares of the slide's sides, level-0 px."""
    width, height = facts["size_px"]
    places = ((left, top), (right, top), (right, bottom), (left, bottom))
    return [(round(x * width), round(y * height)) for x, y in places]


def click(window, points):
    for x, y in points:
        window.page.mouse.click(*window.place_of(x, y))


def polygon(window, points):
    """Click the corners, the last one twice."""
    window.page.keyboard.press("d")
    click(window, points[:-1])
    window.page.mouse.dblclick(*window.place_of(*points[-1]))


def items(page):
    return page.locator("#regions li")


def kept(window, slide_id):
    """The outlines that the server has, as points."""
    answer = window.page.request.get(f"{window.address}/api/slides/{slide_id}/decisions")
    texts = [row["region"] for row in json.loads(answer.body())["regions"]]
    points = [text.removeprefix("POLYGON ((").removesuffix("))").split(", ")[:-1] for text in texts]
    return [np.array([one.split() for one in of_one], float) for of_one in points]


@pytest.mark.slow
def test_a_region_of_ones_own_gets_another_class_and_a_corner_elsewhere(folder, own, visit):
    window = visit(own, reduced_motion="reduce")
    page = window.slide(SLIDES[0])
    points = corners(facts_of(folder, SLIDES[0]))
    polygon(window, points)
    page.get_by_label("Class of region 1").select_option("not tissue")
    expect(items(page)).to_have_attribute("data-verdict", "not tissue")
    (before,) = kept(window, SLIDES[0])
    page.get_by_label("Move corners of region 1").click()
    page.mouse.move(*window.place_of(*before[2]))
    page.mouse.down()
    moved = before[2] + 40
    page.mouse.move(*window.place_of(*moved), steps=4)
    page.mouse.up()
    expect(page.locator("#history li").first).to_contain_text("removed")  # of the outline that it replaces
    expect(items(page)).to_have_count(1)
    (after,) = kept(window, SLIDES[0])
    np.testing.assert_array_equal(np.delete(after, 2, axis=0), np.delete(before, 2, axis=0))
    np.testing.assert_allclose(after[2], moved, atol=2 / float(page.locator("#viewer").get_attribute("data-zoom")))
    expect(items(page)).to_have_attribute("data-verdict", "not tissue")


@pytest.mark.slow
@pytest.mark.parametrize("slide_id", SLIDES)
def test_a_polygon_has_the_corners_that_were_clicked_and_their_area(folder, own, visit, slide_id):
    window = visit(own, reduced_motion="reduce")
    page = window.slide(slide_id)
    facts = facts_of(folder, slide_id)
    points = corners(facts)
    polygon(window, points)
    expect(items(page)).to_have_count(1)
    (outline,) = kept(window, slide_id)
    per_px = 1 / float(page.locator("#viewer").get_attribute("data-zoom"))
    np.testing.assert_allclose(outline, points, atol=1.5 * per_px)
    x, y = outline.T
    area = 0.5 * abs(np.dot(x, np.roll(y, -1)) - np.dot(y, np.roll(x, -1))) * facts["mpp"] ** 2 / 1e6
    assert float(items(page).get_attribute("data-area")) == pytest.approx(area)
    expect(items(page)).to_contain_text(f"Tumour, {float(f'{area:.3g}'):g} mm²")
    expect(items(page)).to_contain_text("A. Reader")
    expect(page.locator("[data-does=polygon]")).to_have_attribute("aria-pressed", "true")  # for the next one
    page.keyboard.press("Escape")
    expect(page.locator("#drawing-hint")).to_be_hidden()


@pytest.mark.slow
def test_a_freehand_region_follows_the_hand_and_u_withdraws_it(folder, own, visit):
    window = visit(own, reduced_motion="reduce")
    page = window.slide(SLIDES[1])
    width, height = facts_of(folder, SLIDES[1])["size_px"]
    radius = 0.2 * min(width, height)
    turn = np.linspace(0, 2 * np.pi, 60)
    circle = np.stack([width / 2 + radius * np.cos(turn), height / 2 + radius * np.sin(turn)], axis=1)
    before = page.locator("#viewer").get_attribute("data-corner")
    page.keyboard.press("t")  # non-tumour
    page.keyboard.press("h")
    page.mouse.move(*window.place_of(*circle[0]))
    page.mouse.down()
    for place in circle[1:-1]:
        page.mouse.move(*window.place_of(*place))
    page.mouse.up()
    expect(items(page)).to_have_attribute("data-verdict", "non-tumour")
    assert page.locator("#viewer").get_attribute("data-corner") == before  # the slide stayed
    (outline,) = kept(window, SLIDES[1])
    away = np.abs(np.hypot(*(outline - [width / 2, height / 2]).T) - radius)
    assert away.max() < 0.03 * radius
    assert 12 < len(outline) < 60
    page.keyboard.press("u")
    expect(items(page)).to_have_count(0)
    assert kept(window, SLIDES[1]) == []


@pytest.mark.slow
def test_keys_close_take_back_and_stop_an_outline(folder, own, visit):
    window = visit(own, reduced_motion="reduce")
    page = window.slide(MODALITIES)
    points = corners(facts_of(folder, MODALITIES))
    page.keyboard.press("d")
    click(window, points[:2])
    page.keyboard.press("Enter")
    expect(page.locator("#said")).to_have_text("A region needs three corners at least.")
    click(window, [points[2], (points[0][0], points[2][1] + 40)])
    page.keyboard.press("u")
    page.keyboard.press("Enter")
    expect(items(page)).to_have_count(1)
    assert len(kept(window, MODALITIES)[0]) == 3
    page.keyboard.press("u")
    click(window, [*points, points[0]])  # the first corner closes it too
    expect(items(page)).to_have_count(1)
    assert len(kept(window, MODALITIES)[0]) == 4
    click(window, points)
    page.keyboard.press("Escape")
    page.keyboard.press("Enter")
    expect(page.locator("#patch.has-patch")).to_be_attached()  # enter selects the patch in the middle again
    expect(items(page)).to_have_count(1)


@pytest.mark.slow
def test_an_outline_that_crosses_itself_is_refused_and_can_be_mended(folder, own, visit):
    window = visit(own, reduced_motion="reduce", expected=("400",))
    page = window.slide(MODALITIES)
    one, two, three, four = corners(facts_of(folder, MODALITIES))
    page.keyboard.press("d")
    click(window, (one, three, two, four))
    page.keyboard.press("Enter")
    expect(page.locator("#alarm")).to_contain_text("Not saved: the outline crosses or touches itself near")
    expect(items(page)).to_have_count(0)
    page.get_by_role("button", name="Close").click()
    page.keyboard.press("u")
    page.keyboard.press("Enter")
    expect(items(page)).to_have_count(1)


@pytest.mark.slow
def test_a_region_is_removed_by_keyboard_and_shown_by_its_button(folder, own, visit):
    window = visit(own, reduced_motion="reduce")
    page = window.slide(MODALITIES)
    polygon(window, corners(facts_of(folder, MODALITIES), 0.1, 0.1, 0.2, 0.2))
    expect(items(page)).to_have_count(1)
    note = page.get_by_label("Note on region 1")
    note.fill("necrosis at its edge")
    note.press("Enter")
    expect(page.locator("#history-count")).to_have_text("2")
    expect(note).to_have_value("necrosis at its edge")
    page.keyboard.press("Escape")
    before = float(page.locator("#viewer").get_attribute("data-zoom"))
    items(page).locator(".fly").focus()
    page.keyboard.press("Enter")
    expect(page.locator("#viewer")).not_to_have_attribute("data-zoom", f"{before:.6g}")
    page.keyboard.press("Tab")
    page.keyboard.press("Enter")
    expect(items(page)).to_have_count(0)
    page.locator("[data-does=undo]").click()
    expect(items(page)).to_have_count(1)
    page.reload()
    window.settled()
    expect(items(page)).to_have_count(1)
    expect(page.locator("#region-count")).to_have_text("1")


@pytest.mark.slow
@pytest.mark.parametrize("slide_id", [SLIDES[0], MODALITIES])
def test_lines_are_seen_on_any_ground_and_dashed_for_non_tumour(folder, own, visit, tmp_path, slide_id):
    window = visit(own, reduced_motion="reduce", width=1440)
    page = window.slide(slide_id)
    window.has_tiles()
    facts = facts_of(folder, slide_id)
    polygon(window, corners(facts, 0.3, 0.3, 0.5, 0.5))
    expect(items(page)).to_have_count(1)
    page.keyboard.press("t")
    page.keyboard.press("Escape")
    polygon(window, corners(facts, 0.55, 0.3, 0.75, 0.5))
    expect(items(page)).to_have_count(2)
    page.keyboard.press("Escape")
    page.mouse.move(5, 5)
    pictures = Path(os.environ.get("PATHOPATCH_SCREENSHOTS") or tmp_path)
    pictures.mkdir(parents=True, exist_ok=True)
    page.screenshot(path=pictures / f"regions-{slide_id}.png")
    for (left, right), colour, is_dashed in (((0.33, 0.47), TUMOUR, False), ((0.58, 0.72), NON_TUMOUR, True)):
        along = [(x * facts["size_px"][0], round(0.5 * facts["size_px"][1])) for x in np.linspace(left, right, 150)]
        seen = [window.heat_at(*place) for place in along]
        is_coloured = np.array([np.abs(np.subtract(pixel[:3], colour)).max() < 40 for pixel in seen])
        is_white = np.array([min(pixel[:3]) > 200 for pixel in seen])
        assert (is_coloured | is_white).mean() > 0.8  # the rim is between the dashes
        assert (is_coloured.mean() > 0.9) != is_dashed
        assert is_coloured.mean() > 0.3
