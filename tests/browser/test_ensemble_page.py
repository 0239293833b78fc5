"""The slide's page over an ensemble whose patches overlap, with labels from a work folder."""

import numpy as np
import pytest
from made_review import write_folders, write_labels
from pages import filled, serving
from playwright.sync_api import expect

from pathopatch.core.artefacts import read_table

SLIDE = "bright"


@pytest.fixture(scope="module")
def labelled(browser, tmp_path_factory):
    """Predictions, their table, and the groups table of the same patches, every third patch without a label."""
    out, work = write_folders(tmp_path_factory.mktemp("ensemble")).fine, tmp_path_factory.mktemp("work")
    table = read_table(out / "predictions" / f"{SLIDE}.parquet")
    write_labels(work, table, SLIDE, [index % 3 - 1 for index in range(len(table))])
    with serving(out, "--work", work) as address:
        yield out, table, read_table(work / "groups.parquet", slide_id=SLIDE), address


@pytest.fixture
def page(labelled, visit):
    window = visit(labelled[-1])
    window.slide(SLIDE)
    return window


@pytest.mark.slow
def test_groups_are_those_of_the_labels(labelled, page):
    _, _, groups, _ = labelled
    page.page.get_by_label("Group").check()
    lines = page.page.locator("#legend .groups li").all_text_contents()
    patch_groups = groups["group@0.25"].fillna(-1).astype(int)
    due = np.bincount(patch_groups[patch_groups >= 0], minlength=4)
    assert [int(line.split(": ")[1].split(" ")[0]) for line in lines] == due.tolist()
    assert "label" in page.page.locator("#legend").text_content()


def test_the_spread_of_the_models_is_a_map_and_a_number(labelled, page):
    out, table, _, _ = labelled
    filled(page.page)
    page.page.get_by_label("Spread of the ensemble").check()
    assert page.page.locator("#legend").get_attribute("data-field") == "spread"
    row = table.sort_values("spread").iloc[-1]
    page.page.mouse.click(*page.place_of(row.x + 8, row.y + 8))
    expect(page.page.locator(f"#patch[data-shown='{row.x},{row.y}']")).to_be_attached()
    expect(page.page.locator("#patch-facts")).to_contain_text(f"{row.spread:.4f}")


def test_a_click_takes_the_patch_whose_middle_is_nearest(labelled, page):
    """Patches of 16 px begin every 8: each point lies in four of them."""
    _, table, groups, _ = labelled
    label = groups.set_index("patch_id")["label"]
    assert {8} == set(np.diff(np.unique(table["x"])))
    rows = list(table.iloc[[len(table) // 3, len(table) // 2]].itertuples())
    for dx, dy in ((8, 8), (5, 11), (11, 5)):
        for row in rows:  # in turn: two clicks at one place would zoom in
            page.page.mouse.click(*page.place_of(row.x + dx, row.y + dy))
            expect(page.page.locator(f"#patch[data-shown='{row.x},{row.y}']")).to_be_attached()
            probability = page.page.locator("#patch-facts [data-name=probability]")
            assert float(probability.get_attribute("data-value")) == row.probability
            given = {-1: "unknown", 0: "non-tumour", 1: "tumour"}[int(label.get(row.patch_id, -1))]
            expect(page.page.locator("#patch-facts")).to_contain_text(f"Label{given}")
