"""Tools beside the slide: ruler, magnification, full screen, a link to the view, two views, classes of the folder."""

import pytest
from made_predictions import MODALITIES, SLIDES, facts_of, table_of
from pages import assert_heat, filled, middle, serving
from playwright.sync_api import expect


def zoom_of(page, place="#viewer"):
    return float(page.locator(place).get_attribute("data-zoom"))


def still(page):
    """Wait until the view no longer moves."""
    before = None
    while before != (before := page.locator("#viewer").get_attribute("data-corner")):
        page.wait_for_timeout(500)


def middle_of(page):
    """The middle of the view, level-0 px."""
    box = page.locator("#viewer").bounding_box()
    x, y = (float(part) for part in page.locator("#viewer").get_attribute("data-corner").split(","))
    return (box["width"] / 2 - x) / zoom_of(page), (box["height"] / 2 - y) / zoom_of(page)


@pytest.mark.parametrize("slide_id", [SLIDES[0], MODALITIES])
def test_a_magnification_goes_to_its_um_per_px_and_is_shown(predicted, address, visit, slide_id):
    page = visit(address, reduced_motion="reduce").slide(slide_id)
    mpp = facts_of(predicted.out, slide_id)["mpp"]
    for key, objective in (("6", 10), ("8", 40)):
        page.keyboard.press(key)
        is_empty = mpp * objective / 10 > 1.01  # beyond the scan's own
        expect(page.locator("#magnification")).to_have_text(f"{objective}×{', empty' if is_empty else ''}")
        still(page)
        assert zoom_of(page) == pytest.approx(mpp * objective / 10, rel=1e-3)
        expect(page.locator(f"[data-does=magnify-{objective}]")).to_have_attribute("aria-pressed", "true")
    page.locator("[data-does=magnify-20]").click()
    expect(page.locator("#magnification")).to_contain_text("20×")
    expect(page.locator("[data-does=magnify-40]")).to_have_attribute("aria-pressed", "false")


@pytest.mark.parametrize("gesture", ["clicks", "drag"])
def test_the_ruler_reads_the_length_in_um_and_keeps_it(predicted, own, visit, gesture):
    window = visit(own, reduced_motion="reduce")
    page = window.slide(SLIDES[0])
    mpp = facts_of(predicted.out, SLIDES[0])["mpp"]
    ends = [window.place_of(600, 600), window.place_of(900, 1000)]  # 500 px
    page.locator("[data-does=ruler]").click()
    if gesture == "clicks":
        for end in ends:
            page.mouse.click(*end)
    else:
        page.mouse.move(*ends[0])
        page.mouse.down()
        page.mouse.move(*ends[1], steps=4)
        page.mouse.up()
    expect(page.locator("#said")).to_contain_text("kept below Regions")
    listed = page.locator("#regions li[data-verdict=length]")
    expect(listed).to_contain_text("µm")
    assert float(listed.get_attribute("data-um")) == pytest.approx(500 * mpp, rel=0.01)
    assert float(page.locator("#viewer").get_attribute("data-um")) == pytest.approx(500 * mpp, rel=0.01)
    assert window.heat_at(750, 800)[3] == 255
    page.keyboard.press("Escape")
    expect(page.locator("[data-does=ruler]")).to_have_attribute("aria-pressed", "false")
    expect(page.locator("#drawing-hint")).to_be_hidden()


def test_the_ruler_is_used_by_keyboard_alone(predicted, address, visit):
    page = visit(address, reduced_motion="reduce").slide(SLIDES[0])
    page.keyboard.press("7")
    page.keyboard.press("l")
    still(page)
    page.keyboard.press("Enter")
    start = middle_of(page)
    page.locator("#viewer [role=application]").focus()
    page.keyboard.press("ArrowRight")
    still(page)
    page.keyboard.press("Enter")
    expect(page.locator("#said")).to_contain_text("Length: ")
    moved = abs(middle_of(page)[0] - start[0]) * facts_of(predicted.out, SLIDES[0])["mpp"]
    assert moved > 0
    assert float(page.locator("#viewer").get_attribute("data-um")) == pytest.approx(moved, rel=0.02)


def test_a_copied_link_opens_the_same_view(address, visit):
    first = visit(address, reduced_motion="reduce", permissions=["clipboard-read", "clipboard-write"])
    page = first.slide(SLIDES[0])
    page.get_by_label("Tissue fraction").check()
    page.locator("#threshold-number").fill("0.7")
    page.locator("#threshold-number").press("Tab")
    page.locator("[data-does=magnify-20]").click()
    expect(page.locator("#magnification")).to_contain_text("20×")
    page.keyboard.press("v")
    expect(page.locator("#said")).to_contain_text("Link copied")
    link = page.evaluate("navigator.clipboard.readText()")
    assert link == page.url
    assert "token" not in link
    colleague = visit(address, reduced_motion="reduce")
    colleague.page.goto(link)
    colleague.settled()
    expect(colleague.page.locator("#magnification")).to_have_text("20×")
    assert middle_of(colleague.page) == pytest.approx(middle_of(page), abs=2)
    expect(colleague.page.get_by_label("Tissue fraction")).to_be_checked()
    expect(colleague.page.locator("#positives")).to_have_attribute("data-threshold", "0.7")


def test_full_screen_begins_and_ends_by_key(address, visit):
    page = visit(address).slide(MODALITIES)
    button = page.locator("[data-does=full-screen]")
    for is_on in ("true", "false"):
        page.keyboard.press("w")
        expect(button).to_have_attribute("aria-pressed", is_on)


def turned(window, x, y):
    """The place in the window, px, of a point of the slide (level-0 px) after a quarter turn, clockwise."""
    box = window.page.locator("#viewer").bounding_box()
    middle = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
    across, down = window.place_of(x, y)
    return middle[0] - (down - middle[1]), middle[1] + (across - middle[0])


def test_map_clicks_and_slide_turn_together(predicted, address, visit):
    window = visit(address, reduced_motion="reduce")
    page = window.slide(SLIDES[0])
    filled(page)
    facts, table = facts_of(predicted.out, SLIDES[0]), table_of(predicted.out, SLIDES[0])
    page.keyboard.press("q")
    expect(page.locator("#viewer")).to_have_attribute("data-turn", "90")
    window.has_tiles()
    for row in (table.iloc[table["probability"].argmax()], table.iloc[0]):
        x, y = middle(facts, row.x, row.y)
        place = turned(window, x, y)
        page.mouse.click(*place)
        expect(page.locator(f"#patch[data-shown='{row.x:.0f},{row.y:.0f}']")).to_be_attached()
        box = page.locator("#viewer").bounding_box()
        seen = page.locator("#viewer canvas.heat").evaluate(
            "(canvas, [x, y]) => [...canvas.getContext('2d').getImageData(x, y, 1, 1).data]",
            [int(place[0] - box["x"]), int(place[1] - box["y"])],
        )
        assert_heat(seen, facts, row.probability)
    for _ in range(3):
        page.keyboard.press("q")
    expect(page.locator("#viewer")).to_have_attribute("data-turn", "0")


def test_panels_fold_are_remembered_and_open_for_what_is_written_there(address, visit):
    window = visit(address)
    page = window.slide(SLIDES[0])
    wide = page.locator("#viewer").bounding_box()["width"]
    page.keyboard.press("o")
    expect(page.locator("#review-side")).to_be_hidden()
    assert page.locator("#viewer").bounding_box()["width"] > wide + 500
    page.reload()
    window.settled()
    expect(page.locator("#layer-side")).to_be_hidden()
    expect(page.locator("[data-does=panels]")).to_have_attribute("aria-expanded", "false")
    page.keyboard.press("r")
    expect(page.locator("#reason")).to_be_focused()
    page.keyboard.press("Escape")
    page.reload()
    window.settled()
    page.keyboard.press("o")
    expect(page.locator("#layer-side")).to_be_visible()


def test_the_navigator_covers_no_tissue(address, visit):
    page = visit(address).slide(SLIDES[0])
    place, views = (page.locator(name).bounding_box() for name in ("#navigator", ".views"))
    assert place["x"] + place["width"] <= views["x"]
    assert min(place["width"], place["height"]) > 100


def in_step(page):
    for name in ("data-zoom", "data-corner"):
        expect(page.locator("#viewer-beside")).to_have_attribute(name, page.locator("#viewer").get_attribute(name))


@pytest.mark.slow
def test_two_views_move_in_step_whichever_is_moved(address, visit):
    page = visit(address, reduced_motion="reduce").slide(SLIDES[0])
    page.keyboard.press("s")
    expect(page.locator("#viewer-beside[data-ready=yes]")).to_be_attached()
    before = zoom_of(page)
    page.keyboard.press("7")
    expect(page.locator("#magnification")).to_contain_text("20×")
    in_step(page)
    box = page.locator("#viewer-beside").bounding_box()
    page.mouse.move(box["x"] + 100, box["y"] + 200)
    page.mouse.wheel(0, -300)
    still(page)
    assert zoom_of(page) > 1.1 * before
    in_step(page)
    page.keyboard.press("0")
    still(page)
    in_step(page)
    page.locator("[data-does=pair]").click()
    expect(page.locator("#viewer-beside")).to_be_hidden()


@pytest.mark.slow
def test_two_views_show_run_a_beside_run_b(predicted, address, visit):
    page = visit(address, reduced_motion="reduce").slide(SLIDES[0])
    page.keyboard.press("s")
    captions = page.locator("#caption"), page.locator("#caption-beside")
    for place, run in zip(captions, "AB", strict=True):
        expect(place).to_contain_text(f"Run {run}: ")
    page.keyboard.press("b")
    for place, run in zip(captions, "BA", strict=True):
        expect(place).to_contain_text(f"Run {run}: ")


@pytest.mark.slow
def test_two_views_of_one_run_are_map_and_bare_slide(own, visit):
    page = visit(own, reduced_motion="reduce", width=1024).slide(SLIDES[0])
    page.get_by_label("Fill", exact=True).check()
    whole = page.locator("#viewer").get_attribute("data-zoom")
    page.keyboard.press("s")
    expect(page.locator("#viewer")).not_to_have_attribute("data-zoom", whole)  # still the whole slide
    expect(page.locator("#viewer-beside[data-loaded=yes]")).to_be_attached()
    assert float(page.locator("#viewer").get_attribute("data-corner").split(",")[0]) >= 0
    in_step(page)
    expect(page.locator("#caption")).to_have_text("Map")
    drawn = [
        page.locator(f"{place} canvas.heat").evaluate(
            "(heat) => heat.getContext('2d').getImageData(0, 0, heat.width, heat.height).data.some(Boolean)"
        )
        for place in ("#viewer", "#viewer-beside")
    ]
    assert drawn == [True, False]


@pytest.mark.slow
def test_a_class_of_the_folder_is_drawn_listed_and_kept(folder, visit):
    (folder / "review.toml").write_text('region_classes = ["necrosis"]\n', encoding="utf-8")
    with serving(folder) as address:
        window = visit(address, reduced_motion="reduce")
        page = window.slide(MODALITIES)
        while page.locator("#region-class").text_content() != "necrosis":
            page.keyboard.press("t")
        page.keyboard.press("d")
        width, height = facts_of(folder, MODALITIES)["size_px"]
        for x, y in ((0.4, 0.4), (0.6, 0.4), (0.6, 0.6)):
            page.mouse.click(*window.place_of(x * width, y * height))
        page.keyboard.press("Enter")
        item = page.locator("#regions li")
        expect(item).to_have_attribute("data-verdict", "necrosis")
        expect(item).to_contain_text("Necrosis, ")
        expect(page.locator("#said")).to_have_text("Region: necrosis. Undo with u.")
