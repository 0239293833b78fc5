"""A person answers a whole pack by keyboard, and the answers are judged as if they were written by hand."""

import cv2
import numpy as np
import pandas as pd
import pytest
from array_slides import h_and_e
from made_slides import write_rgb_pyramid
from pages import serving
from playwright.sync_api import expect

from pathopatch.core.config import TileConfig
from pathopatch.groups.decisions.readers import reader_file_part
from pathopatch.stages import pack as pack_stage
from pathopatch.stages.area_samples import find_sources
from pathopatch.stages.pack import judge_answers, make_pack


@pytest.mark.slow
def test_a_pack_is_answered_by_keyboard_alone_and_judged(visit, axe, tmp_path, monkeypatch):
    monkeypatch.setattr(pack_stage, "LEAST", 40)
    rng, pack = np.random.default_rng(0), tmp_path / "pack"
    file = pack / f"answers-{reader_file_part('A. Reader')}.csv"
    for number in range(9):
        field = cv2.GaussianBlur(rng.normal(size=(256, 256)), (0, 0), 14)
        write_rgb_pyramid(tmp_path / f"S{number}.tif", h_and_e(field > np.quantile(field, 0.6)), levels=1)
    make_pack(find_sources([str(tmp_path)], out=pack), pack, TileConfig(patch_px=32), images=40, seed=0)
    table = pd.read_csv(pack / "send" / "answers.csv")
    stained = [(cv2.imread(str(pack / "send/images" / name)).mean(axis=-1) < 200).mean() for name in table["image"]]
    table["score"] = np.where(np.array(stained) > 0.5, "yes", "no")
    with serving(f"--pack={pack}") as address:
        page = visit(address, width=1280, height=720).page
        other = visit(address, expected=("409",)).page

        def begin(page, text, image):
            page.goto(address)
            expect(page.locator("#begin:focus")).to_have_text(text)
            assert_no_barriers(page)
            page.keyboard.press("y")  # is no answer yet
            page.keyboard.press("Enter")
            expect(page.locator(f"body[data-shown='{image}']")).to_be_attached()

        def assert_no_barriers(page):
            page.evaluate(axe)
            assert page.evaluate("async () => (await axe.run(document)).violations.map(({ id }) => id)") == []

        begin(page, "Start", table["image"][0])
        begin(other, "Start", table["image"][0])
        for place, (name, score) in enumerate(table.itertuples(index=False)):
            expect(page.locator(f"body[data-shown='{name}']")).to_be_attached()
            page.keyboard.down(score[0])
            if place == 0:
                expect(page.locator(f"body[data-shown='{table['image'][1]}']")).to_be_attached()
                page.keyboard.down(score[0])  # it is still held
                other.keyboard.press("y")
                expect(other.locator("#alarm")).to_contain_text("answered in another window")
                expect(other.locator("#progress")).to_have_text(f"2 of {len(table)} · 16 µm wide")
                assert_no_barriers(page)
                box = page.locator("#image img").bounding_box()
                assert (box["width"], box["height"]) == (512, 512)
            page.keyboard.up(score[0])
            if place == 0:
                begin(page, f"Go on at image 2 of {len(table)}", table["image"][1])
        expect(page.locator("#end-title")).to_be_focused()
        expect(page.locator("#command")).to_contain_text(f"--answers {file} --pack {pack} -o asked")
        assert_no_barriers(page)
    answers = pd.read_csv(file)
    assert answers[["image", "score"]].equals(table)
    assert answers["seconds"].between(0.2, 60).all()
    table.to_csv(tmp_path / "by-hand.csv", index=False)
    judged, by_hand = (judge_answers(pack, each, tmp_path / each.stem) for each in (file, tmp_path / "by-hand.csv"))
    assert {**judged, "stamp": None} == {**by_hand, "stamp": None}
