"""The slide's page: what its heat layer shows, counts and hides, and what a click on a patch tells."""

import json
import re

import cv2
import made_slides as made
import numpy as np
import pytest
from made_model import write_model
from made_predictions import MODALITIES, SLIDES, facts_of, table_of
from made_review import dark_image, predict, write_other_model
from pages import assert_heat, filled, middle, serving, set_range
from PIL import Image
from playwright.sync_api import expect

from pathopatch.core.work_folder import WorkFolder
from pathopatch.heatmaps.colors import HEAT_COLORS, page_colors
from pathopatch.heatmaps.pyramids import read_ome_tiff


def alpha(window, place, of):
    assert window.heat_at(*place)[3] == pytest.approx(of * 255, abs=1)


@pytest.mark.parametrize("slide_id", SLIDES)
def test_counted_positive_patches_are_the_tables(predicted, address, visit, slide_id):
    window = visit(address)
    page = window.slide(slide_id)
    facts, probability = facts_of(predicted.out, slide_id), table_of(predicted.out, slide_id)["probability"]
    assert window.positives() == facts["counts"]["tumour"]
    for threshold in (0.25, 0.7, 0.85):
        set_range(page, "#threshold", threshold)
        assert window.positives() == int((probability > threshold).sum())
    page.locator("#threshold-number").fill("0.4")
    page.locator("#threshold-number").press("Enter")
    assert window.positives() == int((probability > 0.4).sum())
    page.locator("#threshold-reset").click()
    assert window.positives() == facts["counts"]["tumour"]


@pytest.mark.parametrize("slide_id", SLIDES)
def test_the_positive_share_is_of_the_tissue_area_at_any_threshold(predicted, address, visit, slide_id):
    page = visit(address).slide(slide_id)
    facts = facts_of(predicted.out, slide_id)
    place = page.locator("#positives")
    expect(place).to_contain_text(f"{100 * facts['summary']['positive_share']:.1f}\u00a0% of the tissue area")
    heatmap = read_ome_tiff(predicted.out / "heatmaps" / slide_id / "heatmap.ome.tif")
    maps = dict(zip(heatmap.channels, heatmap.levels[0], strict=True))
    probability, tissue, scanned = maps["probability"], maps["tissue_fraction"], maps.get("scanned_fraction", 1.0)
    width, height = (length / facts["cell_px"] for length in facts["size_px"])
    down, across = tissue.shape
    inside = np.clip(height - np.arange(down), 0, 1)[:, None] * np.clip(width - np.arange(across), 0, 1)
    tissue_area = np.nan_to_num(tissue.astype(np.float64)) * scanned * inside
    for threshold in (0.25, 0.7):
        set_range(page, "#threshold", threshold)
        share = tissue_area[probability > threshold].sum() / tissue_area.sum()
        expect(place).to_contain_text(f"{100 * share:.1f}\u00a0% of the tissue area")


@pytest.mark.parametrize("slide_id", SLIDES)
def test_a_cell_has_the_colour_of_its_probability_or_none(predicted, address, visit, slide_id):
    window = visit(address)
    page = window.slide(slide_id)
    filled(page)
    facts = facts_of(predicted.out, slide_id)
    cells = read_ome_tiff(predicted.out / "heatmaps" / slide_id / "heatmap.ome.tif").levels[0][0]
    for is_known in (True, False):
        rows, columns = np.nonzero(np.isfinite(cells) == is_known)
        for index in np.linspace(0, len(rows) - 1, 6).astype(int):
            row, column = int(rows[index]), int(columns[index])
            seen = window.heat_at(*middle(facts, column * facts["cell_px"], row * facts["cell_px"]))
            assert_heat(seen, facts, float(np.nan_to_num(cells[row, column])))


def test_no_value_is_made_up_between_two_cells(predicted, address, visit):
    window = visit(address)
    page = window.slide(MODALITIES)
    filled(page)
    facts, table = facts_of(predicted.out, MODALITIES), table_of(predicted.out, MODALITIES)
    step = int(facts["cell_px"])
    places = set(zip(table["x"], table["y"], strict=True))
    x, y = next((x, y) for x, y in sorted(places) if (x + step, y) in places)
    colours = {window.heat_at(x + step + offset, y + step / 2) for offset in np.arange(-4, 5)}
    assert len(colours) == 2


def test_the_fill_is_over_tissue_alone_unless_whole_patches_are_chosen(predicted, address, visit):
    window = visit(address)
    page = window.slide(SLIDES[1])
    filled(page)
    facts, table = facts_of(predicted.out, SLIDES[1]), table_of(predicted.out, SLIDES[1])
    with Image.open(WorkFolder(predicted.out).heatmap(SLIDES[1]) / "tissue.png") as image:
        tissue = np.asarray(image.convert("L")) > 0
    width, step = tissue.shape[1], facts["cell_px"]
    scale = facts["size_px"][0] / width
    for row in table[table["probability"] > 0.2].itertuples():
        left, top, side = (round(length / scale) for length in (row.x, row.y, step))
        part = tissue[top : top + side, left : left + side]
        glass = cv2.distanceTransform((part == 0).astype(np.uint8), cv2.DIST_L2, 3)
        if part.any() and glass.max() > 8:  # px of the mask, away from tissue
            break
    below, across = np.unravel_index(glass.argmax(), glass.shape)
    place = scale * (left + across + 0.5), scale * (top + below + 0.5)
    assert window.heat_at(*place)[3] > 0
    page.locator("#whole-patches").uncheck()
    assert window.heat_at(*place)[3] == 0
    below, across = np.argwhere(cv2.erode(part.astype(np.uint8), np.ones((3, 3))))[0]
    assert window.heat_at(scale * (left + across + 0.5), scale * (top + below + 0.5))[3] > 0


def test_space_hides_the_heat_layer_and_brackets_change_its_opacity(predicted, address, visit):
    window = visit(address)
    page = window.slide(SLIDES[1])
    page.get_by_label("Fill", exact=True).check()
    page.locator("#only-positive").uncheck()
    page.locator("#whole-patches").check()
    facts, table = facts_of(predicted.out, SLIDES[1]), table_of(predicted.out, SLIDES[1])
    row = table.iloc[100]
    place = middle(facts, row.x, row.y)
    alpha(window, place, 0.38 * row.probability)
    page.keyboard.press("]")
    alpha(window, place, 0.48 * row.probability)
    page.keyboard.press("[")
    page.keyboard.press("[")
    alpha(window, place, 0.28 * row.probability)
    page.keyboard.press(" ")
    expect(page.locator("[data-does=overlay]")).to_have_attribute("aria-pressed", "false")
    assert window.heat_at(*place)[3] == 0
    page.locator("[data-does=overlay]").click()
    alpha(window, place, 0.28 * row.probability)


@pytest.mark.slow
def test_outlines_leave_the_tissue_clear_and_run_along_positive_cells(predicted, address, visit):
    window = visit(address)
    page = window.slide(MODALITIES)
    page.get_by_label("Outline", exact=True).check()
    facts, table = facts_of(predicted.out, MODALITIES), table_of(predicted.out, MODALITIES)
    is_positive = {(row.x, row.y): row.logit > facts["decision_threshold"] for row in table.itertuples()}
    step = int(facts["cell_px"])
    assert all(window.heat_at(*middle(facts, x, y))[3] == 0 for x, y in is_positive)
    for (x, y), here in sorted(is_positive.items()):
        beside = is_positive.get((x + step, y))
        if beside is not None:
            drawn = max(window.heat_at(x + step + offset, y + step / 2)[3] for offset in (-1, 0, 1))
            assert (drawn > 128) == (here != beside)


def test_groups_have_their_colours_and_counts(predicted, address, visit):
    window = visit(address)
    page = window.slide(SLIDES[0])
    filled(page)
    page.get_by_label("Group").check()
    facts, table = facts_of(predicted.out, SLIDES[0]), table_of(predicted.out, SLIDES[0])
    group = 2 * (table["logit"] > facts["decision_threshold"]) + (table["tissue_fraction"] >= 0.25)
    colours = {0: (86, 180, 233), 1: (0, 114, 178), 2: (230, 159, 0), 3: (213, 94, 0)}
    for at in range(0, len(table), 75):
        x, y = table[["x", "y"]].iloc[at]
        assert window.heat_at(*middle(facts, x, y))[:3] == colours[group.iloc[at]]
    lines = page.locator("#legend .groups li").all_text_contents()
    assert [int(line.split(": ")[1].split(" ")[0]) for line in lines] == [
        int((group == code).sum()) for code in range(4)
    ]


def test_the_other_run_is_one_key_away(predicted, address, visit):
    window = visit(address)
    page = window.slide(SLIDES[0])
    assert "run A" in page.locator("#legend .legend-title").text_content()
    page.keyboard.press("b")
    assert window.positives() == facts_of(predicted.beside, SLIDES[0])["counts"]["tumour"]
    assert "run B" in page.locator("#legend .legend-title").text_content()
    page.locator("[data-does=beside]").click()
    assert window.positives() == facts_of(predicted.out, SLIDES[0])["counts"]["tumour"]


def test_the_difference_is_run_a_minus_run_b(predicted, address, visit):
    window = visit(address)
    page = window.slide(MODALITIES)
    filled(page)
    page.get_by_label("Difference A − B").check()
    facts, ours, theirs = (
        facts_of(predicted.out, MODALITIES),
        *(table_of(out, MODALITIES).set_index(["x", "y"])["probability"] for out in (predicted.out, predicted.beside)),
    )
    difference = (ours - theirs).sort_values()
    for (x, y), value in difference.iloc[[0, -1]].items():
        red, _, blue, _ = window.heat_at(*middle(facts, x, y))
        assert (red > blue) == (value > 0)


@pytest.mark.slow
@pytest.mark.parametrize("slide_id", SLIDES)
def test_a_clicked_patch_tells_what_its_row_of_the_table_says(predicted, address, visit, slide_id):
    window = visit(address)
    page = window.slide(slide_id)
    facts, table = facts_of(predicted.out, slide_id), table_of(predicted.out, slide_id)
    for at in (len(table) // 3, len(table) // 2):
        row = table.iloc[at]
        page.mouse.click(*window.place_of(*middle(facts, row.x, row.y)))
        expect(page.locator(f"#patch[data-shown='{row.x},{row.y}']")).to_be_attached()
        probability = page.locator("#patch-facts [data-name=probability]")
        assert float(probability.get_attribute("data-value")) == row.probability
        assert f"{row.probability:.4f}" in probability.text_content()
        assert float(page.locator("#patch-facts [data-name=tissue]").get_attribute("data-value")) == row.tissue_fraction
        size = page.locator("#patch-image").evaluate("async (i) => { await i.decode(); return i.naturalWidth; }")
        assert size == facts["patch_px"]


def test_zooming_in_shows_more_and_the_bar_keeps_its_length_in_um(predicted, address, visit):
    window = visit(address, reduced_motion="reduce")
    page = window.slide(SLIDES[0])
    facts = facts_of(predicted.out, SLIDES[0])
    for press in ("+", "+", "0", "-"):
        before = float(page.locator("#viewer").get_attribute("data-zoom"))
        page.keyboard.press(press)
        expect(page.locator("#viewer")).not_to_have_attribute("data-zoom", f"{before:.6g}")
        zoom = float(page.locator("#viewer").get_attribute("data-zoom"))
        assert (zoom > before) == (press == "+")
        text = page.locator("#scale-length").text_content()
        um = float(text.split()[0]) * (1000 if text.endswith("mm") else 1)
        width = page.locator("#scale-bar").evaluate("(bar) => bar.getBoundingClientRect().width")
        assert width == pytest.approx(um / facts["mpp"] * zoom, rel=0.01)
    window.has_tiles()


@pytest.mark.slow
def test_a_gallery_picture_jumps_to_its_patch_under_reduced_motion(address, visit):
    window = visit(address, reduced_motion="reduce")
    page = window.slide(SLIDES[0])
    page.locator("#gallery-kind").select_option("disagreement")
    expect(page.locator("#gallery[data-kind=disagreement]")).to_be_attached()
    page.locator("#gallery button").nth(2).click()
    place = page.locator("#viewer").evaluate(
        """async (viewer) => {
            for (const _ of [1, 2]) await new Promise((done) => requestAnimationFrame(done));
            return viewer.dataset.zoom;
        }"""
    )
    page.wait_for_timeout(700)
    assert page.locator("#viewer").get_attribute("data-zoom") == place
    x, y = (int(part) for part in page.locator("#patch").get_attribute("data-shown").split(","))
    across, down = window.place_of(x + 32, y + 32)
    box = page.locator("#viewer").bounding_box()
    assert across == pytest.approx(box["x"] + box["width"] / 2, abs=2)
    assert down == pytest.approx(box["y"] + box["height"] / 2, abs=2)


def test_a_key_goes_to_the_doubtful_patches_one_after_another(address, visit):
    page = visit(address).slide(SLIDES[0])
    page.locator("#gallery button").nth(1).wait_for()
    nearest = [item.get_attribute("title") for item in page.locator("#gallery button").all()[:2]]
    for place in nearest:
        x, y = re.findall(r"\d+", place)
        page.keyboard.press("z")
        expect(page.locator("#patch")).to_have_attribute("data-shown", f"{x},{y}")


def test_a_channel_that_is_off_is_not_in_the_picture(predicted, address, visit):
    window = visit(address)
    page = window.slide(MODALITIES)
    page.keyboard.press(" ")
    window.has_tiles()
    table = table_of(predicted.out, MODALITIES)
    row = table.sort_values("tissue_fraction").iloc[-1]
    places = [(row.x + dx, row.y + dy) for dx in (30, 48, 66) for dy in (30, 48, 66)]
    assert max(window.tissue_at(*place)[0] for place in places) > 60
    page.get_by_label("CARS").uncheck()
    window.has_tiles()
    pixels = np.array([window.tissue_at(*place)[:3] for place in places])
    assert pixels[:, 0].max() <= 12  # JPEG
    assert pixels[:, 1].max() > 60
    assert any("channels=TPEF,SHG" in url for url in window.requested)


def test_what_was_set_stays_from_slide_to_slide_but_not_the_threshold(predicted, address, visit):
    window = visit(address)
    page = window.slide(SLIDES[0])
    page.get_by_label("Tissue fraction").check()
    page.locator("#only-positive").check()
    set_range(page, "#threshold", 0.9)
    page = window.slide(SLIDES[1])
    expect(page.get_by_label("Tissue fraction")).to_be_checked()
    expect(page.locator("#only-positive")).to_be_checked()
    assert window.positives() == facts_of(predicted.out, SLIDES[1])["counts"]["tumour"]


@pytest.mark.slow
@pytest.mark.fault("changed-review")
def test_a_slide_that_changes_under_its_open_page_leaves_the_map_alone(visit, tmp_path):
    files, plain = made.write_modalities(tmp_path, dark_image()), write_model(tmp_path / "plain")
    like_slide = {"channels": tuple(files), "dtype": "uint16", "background": "dark"}
    predict(files, [write_other_model(tmp_path / "model", seed=2, like=plain, **like_slide)], tmp_path / "out", "a")
    with serving(tmp_path / "out") as address:
        window = visit(address, expected=("Failed to load resource", "Tile"))
        page = window.slide("a")
        window.has_tiles()
        assert window.tissue_at(200, 200)[3] == 255
        expect(page.locator("#no-slide")).to_be_hidden()
        with files["SHG"].open("ab") as stream:
            stream.write(b"more")
        page.locator("#channels input").first.click()  # so that other tiles are asked for
        expect(page.locator("#no-slide")).to_contain_text("the content of its files differs")
        expect(page.locator("#viewer[data-loaded=yes]")).to_be_attached()
        assert window.tissue_at(200, 200)[3] == 0
        assert window.positives() == facts_of(tmp_path / "out", "a")["counts"]["tumour"]


def test_a_threshold_beyond_0_to_1_is_refused_with_the_range(predicted, address, visit):
    window = visit(address)
    page = window.slide(SLIDES[0])
    field, message = page.locator("#threshold-number"), page.locator("#threshold-error")
    field.fill("1.7")
    field.press("Tab")
    expect(message).to_have_text("1.7 is not allowed: write a number from 0 to 1, such as 0.5.")
    expect(field).to_have_attribute("aria-invalid", "true")
    assert window.positives() == facts_of(predicted.out, SLIDES[0])["counts"]["tumour"]
    field.fill("0.5")
    field.press("Tab")
    expect(message).to_be_empty()
    expect(page.locator("#positives")).to_have_attribute("data-threshold", "0.5")


def test_the_threshold_moves_fill_and_outline_together(predicted, address, visit):
    window = visit(address)
    page = window.slide(MODALITIES)
    page.locator("#whole-patches").check()
    facts, table = facts_of(predicted.out, MODALITIES), table_of(predicted.out, MODALITIES)
    for threshold in (0.3, 0.6):
        set_range(page, "#threshold", threshold)
        for row in table.iloc[::7].itertuples():
            if abs(row.probability - threshold) > 1e-6:
                is_filled = window.heat_at(*middle(facts, row.x, row.y))[3] > 0
                assert is_filled == (row.probability > threshold)


def test_the_colours_are_those_of_the_table(predicted, address, visit):
    window = visit(address)
    page = window.slide(SLIDES[0])
    filled(page)
    facts, table = facts_of(predicted.out, SLIDES[0]), table_of(predicted.out, SLIDES[0])
    row = table.iloc[table["probability"].argmax()]
    for ground, slide_id in (("bright", SLIDES[0]), ("dark", MODALITIES)):
        served = json.loads(page.request.get(f"{address}/api/slides/{slide_id}").body())["colors"]
        assert served == json.loads(json.dumps(page_colors(ground)))
    low, high = (np.array(color) for color in HEAT_COLORS["bright"])
    seen = window.heat_at(*middle(facts, row.x, row.y))
    np.testing.assert_allclose(seen[:3], low + row.probability * (high - low), atol=3)


def test_a_hole_in_tumour_has_a_dashed_line_and_an_island_in_it_a_solid_one(address, visit):
    page = visit(address).slide(MODALITIES)
    grid = ["#######", "#.....#", "#.###.#", "#.#.#.#", "#.###.#", "#.....#", "#######"]
    cells = [int(cell == "#") for row in grid for cell in row]
    depth = page.evaluate(
        "async (cells) => [...(await import('/static/heat.js')).nesting(Uint8Array.from(cells), 7, 7)]", cells
    )
    inner = np.array(depth).reshape(9, 9)[1:-1, 1:-1]
    assert [inner[0, 0], inner[1, 1], inner[2, 2], inner[3, 3]] == [1, 2, 3, 4]
    assert page.locator("#legend").text_content().count("dashed around a hole") == 1
