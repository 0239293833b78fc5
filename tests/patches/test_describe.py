"""Descriptions and thumbnails of made slides with known answers."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import made_slides as made
import numpy as np
import pytest
from array_slides import h_and_e
from numpy.typing import NDArray
from typer.testing import CliRunner

from pathopatch.cli import app
from pathopatch.core.config import RegistrationConfig, TileConfig, TissueConfig
from pathopatch.patches.describe import Description, describe_slide, thumbnail
from pathopatch.patches.picture import ORIGIN
from pathopatch.patches.tile import tile_slide
from pathopatch.slides import open_slide
from pathopatch.slides.composite import compose

Make = Callable[..., Any]
CONFIG = TileConfig(tissue=TissueConfig(min_speck_um2=0, max_hole_um2=0))


def facts_of(description: Description) -> dict[str, str]:
    return dict(description.lines())


def test_a_slide_is_described_by_its_facts_and_its_tissue(make_slide: Make, two_discs: NDArray[np.bool_]) -> None:
    description = describe_slide(make_slide(h_and_e(two_discs), mpp=0.5), CONFIG, slide_id="s")
    assert description.tissue_share == two_discs.mean()
    facts = facts_of(description)
    assert facts["size"] == "200 x 150 px, 0.1 x 0.075 mm"
    assert facts["levels"] == "1: 200 x 150 (1/1)"
    assert (facts["mpp"], facts["background"], facts["channels"]) == ("0.5 um/px", "bright", "R, G, B")
    assert facts["tissue"].startswith(f"{two_discs.mean():.1%} of the slide, above 0.")
    assert facts["R"] == "window 0 to 255"
    assert math.isnan(description.shift_um)
    assert description.warnings == ()


def test_the_command_says_from_which_level_a_target_scale_is_read(tmp_path: Path) -> None:
    path, picture = tmp_path / "s.tif", str(tmp_path / "s.png")
    made.write_rgb_pyramid(path, made.noise(3, 300, 300, np.uint8), mpp=0.5, levels=4)
    plain = CliRunner().invoke(app, ["info", str(path), "-o", picture]).stdout
    assert "read from" not in plain
    for mpp, line_of_level in (
        ("0.5", "at 0.5 um/px read from level 0 (1/1), 1 x 1 px to one"),
        ("2", "at 2 um/px read from level 0 (1/1), 4 x 4 px to one"),
        ("4", "at 4 um/px read from level 1 (1/2), 4 x 4 px to one"),
    ):
        outcome = CliRunner().invoke(app, ["info", str(path), "-o", picture, "--mpp", mpp])
        assert line_of_level in [" ".join(line.split()) for line in outcome.stdout.splitlines()], outcome.output
        rest = [line for line in outcome.stdout.splitlines() if not line.startswith("at ")]
        assert [line.split() for line in rest] == [line.split() for line in plain.splitlines()]  # nothing else changes


def test_a_slide_without_tissue_is_a_warning(make_slide: Make) -> None:
    description = describe_slide(make_slide(np.full((3, 60, 60), 245, np.uint8)), CONFIG, slide_id="s")
    assert (description.warnings, facts_of(description)["tissue"]) == (
        ("no tissue found",),
        "none found, confidence 0.90",
    )
    assert description.tissue_share == 0


def test_a_shift_is_given_in_px_and_um_and_an_unknown_one_as_unknown(make_slide: Make) -> None:
    tissue = np.repeat(np.repeat(np.random.default_rng(0).random((40, 40)) > 0.7, 10, 0), 10, 1) * 200.0
    noise = np.random.default_rng(1).normal(20, 3, (3, 400, 400))
    moved = np.roll(tissue, (3, -6), (0, 1))
    slide = make_slide((np.stack([tissue, moved, 0 * tissue]) + noise).astype(np.uint16), mpp=2.0,
                       channels=("CARS", "TPEF", "SHG"), background="dark")  # fmt: skip
    description = describe_slide(slide, CONFIG, slide_id="s")
    assert "against CARS: shifted -6.0 px across, +3.0 px down (13.4" in facts_of(description)["TPEF"]
    assert "against CARS: no common edges, shift unknown" in facts_of(description)["SHG"]
    assert description.shift_um == pytest.approx(2 * math.hypot(6, 3), abs=0.3)
    assert len(description.warnings) == 1
    patient = TileConfig(registration=RegistrationConfig(warn_um=20))
    assert describe_slide(slide, patient, slide_id="s").warnings == ()


def test_without_mpp_a_slide_is_described_except_for_its_tissue(tmp_path: Path) -> None:
    made.write_channel(tmp_path / "a.tif", made.noise(1, 60, 50, np.uint16)[0], mpp=None)
    with open_slide(tmp_path / "a.tif") as slide:
        description = describe_slide(slide, CONFIG, slide_id="s")
    assert facts_of(description)["mpp"] == "not stated: give --slide-mpp"
    assert math.isnan(description.tissue_share)
    view = compose(description.overview, description.windows, is_rgb=False).repeat(8, 0).repeat(8, 1)  # 60 px to 480
    top, left = ORIGIN
    np.testing.assert_array_equal(thumbnail(description)[top : top + 480, left : left + 400], view)


def test_the_picture_shows_the_slide_and_outlines_the_tissue(make_slide: Make, two_discs: NDArray[np.bool_]) -> None:
    description = describe_slide(make_slide(h_and_e(two_discs)), CONFIG, slide_id="s")
    top, left = ORIGIN
    shown = thumbnail(description)[top : top + 300, left : left + 400]  # 200 x 150 px, doubled
    plain = h_and_e(two_discs).transpose(1, 2, 0).repeat(2, 0).repeat(2, 1)
    is_drawn = (shown != plain).any(axis=2)
    is_tissue = two_discs.repeat(2, 0).repeat(2, 1)
    assert not (is_drawn & ~is_tissue).any()
    assert shown[70 * 2, 20 * 2].tolist() == [0, 0, 0]  # the left edge of the disc at (60, 70), radius 40
    assert not is_drawn[120:160, 100:140].any()  # and nothing in its middle


def test_the_scale_bar_is_as_long_as_it_says(make_slide: Make, two_discs: NDArray[np.bool_]) -> None:
    description = describe_slide(make_slide(h_and_e(two_discs), mpp=2.0), CONFIG, slide_id="s")
    picture = thumbnail(description)  # 1 um per px of the picture, 400 px wide: a bar of 100 um
    bar = picture[ORIGIN[0] + 300 + 14 + 3]
    assert (bar.max(axis=1) < 60).sum() == 100


def test_what_was_assumed_in_reading_a_file_is_a_warning(tmp_path: Path) -> None:
    image = made.noise(4, 60, 80, np.uint8)
    image[3] = 255
    made.write_png(tmp_path / "a.png", image)
    with open_slide(tmp_path / "a.png", mpp=1.0) as slide:
        assert "alpha sample is taken as opacity" in describe_slide(slide, CONFIG, slide_id="s").warnings[0]
        assert "alpha sample is taken as opacity" in tile_slide(slide, CONFIG, tmp_path / "work").warnings[0]
