"""Fill around a slide, by registration, rotation or mosaics, is neither glass nor tissue."""

from __future__ import annotations

from pathlib import Path

import cv2
import made_slides as made
import numpy as np
import pytest
from numpy.typing import NDArray

from pathopatch.slides import aligned, open_slide
from pathopatch.slides.background import guess_polarities
from pathopatch.slides.unscanned import find_unscanned

SIDE = 300


def brightfield(glass: float = 240.0, seed: int = 0) -> NDArray[np.uint8]:
    """Return noisy glass with a dark disc, (3, SIDE, SIDE)."""
    rng = np.random.default_rng(seed)
    pixels = glass + rng.normal(0, 1.5, (3, SIDE, SIDE))
    disc = np.zeros((SIDE, SIDE), np.uint8)
    cv2.circle(disc, (150, 150), 70, 1, -1)
    texture = cv2.GaussianBlur(rng.normal(size=(SIDE, SIDE)), (0, 0), 3)
    pixels[:, disc > 0] = (glass * (0.55 + 0.8 * texture))[None, disc > 0]
    return pixels.clip(1, 252).astype(np.uint8)


def fluorescence(offset: float = 100.0) -> NDArray[np.uint16]:
    """Return a camera's offset and noise with a bright disc, (1, SIDE, SIDE)."""
    rng = np.random.default_rng(0)
    pixels = offset + rng.normal(0, 5, (1, SIDE, SIDE))
    disc = np.zeros((SIDE, SIDE), np.uint8)
    cv2.circle(disc, (150, 150), 70, 1, -1)
    pixels[:, disc > 0] += 900 * rng.random(int(disc.sum()))
    return pixels.clip(0, None).astype(np.uint16)


def rotated(
    pixels: NDArray[np.generic], fill: float, degrees: float = 5.0
) -> tuple[NDArray[np.generic], NDArray[np.bool_]]:
    """Return pixels turned within their frame, and where the fill shows."""
    turn = cv2.getRotationMatrix2D((SIDE / 2, SIDE / 2), degrees, 1)
    size = (SIDE, SIDE)
    turned = np.stack([cv2.warpAffine(plane, turn, size, borderValue=fill) for plane in pixels])
    return turned, cv2.warpAffine(np.ones(size, np.uint8), turn, size, flags=cv2.INTER_NEAREST) == 0


@pytest.mark.parametrize("fill", [0, 255])
@pytest.mark.parametrize("glass", [240.0, 130.0])
def test_corners_of_a_turned_brightfield_image_were_not_scanned(fill: int, glass: float) -> None:
    turned, corners = rotated(brightfield(glass), fill)
    unscanned = find_unscanned(turned, is_colour=True)
    assert unscanned.mask[corners].mean() > 0.99
    assert not unscanned.mask[cv2.erode((~corners).astype(np.uint8), np.ones((7, 7))) != 0].any()
    assert unscanned.doubtful_share == 0
    assert guess_polarities(turned, is_colour=True, valid=~unscanned.mask) == ("bright",) * 3


def test_black_beside_a_field_of_stained_tissue_alone_was_not_scanned() -> None:
    texture = cv2.GaussianBlur(np.random.default_rng(0).normal(size=(SIDE, SIDE)), (0, 0), 3)
    tissue = np.array([190, 120, 170])[:, None, None] * (1 + 0.5 * texture)
    turned, corners = rotated(tissue.clip(40, 250).astype(np.uint8), 0)
    assert find_unscanned(turned, is_colour=True).mask[corners].mean() > 0.99


def test_corners_of_a_turned_dark_image_were_not_scanned() -> None:
    turned, corners = rotated(fluorescence(), 0)
    unscanned = find_unscanned(turned, is_colour=False)
    assert unscanned.mask[corners].mean() > 0.99
    assert unscanned.mask.mean() < corners.mean() + 0.03
    assert guess_polarities(turned, is_colour=False, valid=~unscanned.mask) == ("dark",)


def test_gaps_of_a_mosaic_were_not_scanned_inside_and_at_the_border() -> None:
    pixels = brightfield()
    gaps = np.zeros((SIDE, SIDE), np.bool_)
    gaps[:60, 200:] = gaps[220:260, 40:100] = True
    pixels[:, gaps] = 255
    mask = find_unscanned(pixels, is_colour=True).mask
    assert mask[gaps].all()
    assert mask.mean() == pytest.approx(gaps.mean(), abs=0.01)


def test_a_background_that_the_camera_clips_is_background() -> None:
    rng = np.random.default_rng(0)
    white = (rng.normal(257, 3, (3, SIDE, SIDE))).clip(0, 255)
    white[:, 100:200, 100:200] = 120
    assert not find_unscanned(white.astype(np.uint8), is_colour=True).mask.any()
    black = rng.normal(-4, 3, (1, SIDE, SIDE)).clip(0, None)
    black[:, 100:200, 100:200] += 400 * rng.random((100, 100))
    assert not find_unscanned(black.astype(np.uint16), is_colour=False).mask.any()


def test_the_only_background_is_no_fill_and_straight_edges_leave_a_doubt() -> None:
    rng = np.random.default_rng(0)
    tissue = np.zeros((SIDE, SIDE), np.uint8)
    cv2.circle(tissue, (150, 150), 90, 1, -1)
    disc = (tissue * rng.integers(100, 900, (1, SIDE, SIDE))).astype(np.uint16)
    unscanned = find_unscanned(disc, is_colour=False)
    assert (unscanned.mask.any(), unscanned.doubtful_share) == (False, 0)
    square = np.zeros((1, SIDE, SIDE), np.uint16)
    square[:, 50:250, 50:250] = rng.integers(100, 900, (200, 200))
    unscanned = find_unscanned(square, is_colour=False)
    assert not unscanned.mask.any()
    assert unscanned.doubtful_share == pytest.approx(1 - 200**2 / SIDE**2, abs=0.01)


def test_a_constant_image_was_scanned() -> None:
    for value in (0, 255):
        assert not find_unscanned(np.full((3, 50, 50), value, np.uint8), is_colour=True).mask.any()


@pytest.mark.parametrize("dtype", [np.float32, np.int16])
def test_zero_around_an_image_with_values_below_zero_was_not_scanned(dtype: type[np.generic]) -> None:
    signed = fluorescence().astype(np.float64) - 200
    inside = np.zeros(signed.shape[1:], np.bool_)
    inside[40:-40, 50:-50] = True
    mask = find_unscanned(np.where(inside, signed, 0).astype(dtype), is_colour=False).mask
    assert (mask == (cv2.erode(inside.astype(np.uint8), np.ones((3, 3), np.uint8)) == 0)).all()


def test_a_corner_moved_into_the_slide_by_alignment_stays_unscanned(tmp_path: Path) -> None:
    stained = brightfield()
    stained[:, :60, :80] = 0
    made.write_channel(tmp_path / "shg.tif", (fluorescence()[0] // 8).astype(np.uint8))
    made.write_rgb_pyramid(tmp_path / "he.tif", stained, levels=1, compression=None)
    source = {"SHG": str(tmp_path / "shg.tif")} | {n: f"{tmp_path / 'he.tif'}#plane={i}" for i, n in enumerate("RGB")}
    with open_slide(source, mpp=0.5, background="SHG=dark,R=bright,G=bright,B=bright") as slide:
        unscanned = aligned(slide, ((0, 0), *((-15, -20),) * 3)).read_scanned_overview()[1]
    filled = np.zeros((SIDE, SIDE), np.bool_)
    filled[:20] = filled[:, :15] = filled[20:80, 15:95] = True
    assert unscanned.mask[filled].all()
    assert not unscanned.mask[cv2.erode((~filled).astype(np.uint8), np.ones((5, 5))) != 0].any()


@pytest.mark.parametrize("is_stained", [True, False])
def test_a_round_black_mask_is_unscanned_where_a_stain_lies_on_glass(is_stained: bool) -> None:
    core = brightfield(glass=200.0)
    y, x = np.mgrid[:SIDE, :SIDE] - SIDE / 2
    outside = np.hypot(x, y) > 130
    if is_stained:
        core[1, np.hypot(x, y) < 70] //= 2
    core[:, outside] = 0
    unscanned = find_unscanned(core, is_colour=True)
    if is_stained:
        assert unscanned.mask[outside].all()
        assert unscanned.mask[np.hypot(x, y) < 127].mean() < 0.01
    else:
        assert not unscanned.mask.any()
