"""Pen strokes and borders painted over made H&E."""

from __future__ import annotations

import re
from typing import Any

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from pathopatch.core.config import TissueConfig
from pathopatch.patches import tissue_evidence, tissue_model
from pathopatch.patches.tissue_fit import find_black, find_ink, fit_tissue
from pathopatch.patches.tissue_model import TissueModel

SIDE, UM = 500, 8.0  # a slide of 4 mm
HAEMATOXYLIN, EOSIN = np.array([0.65, 0.70, 0.29]), np.array([0.07, 0.99, 0.11])  # optical densities of R, G, B
INKS = {
    "blue": (35, 60, 170),
    "green": (20, 120, 70),
    "teal": (0, 110, 130),
    "red": (200, 25, 35),
    "black": (25, 25, 30),
}
Picture = NDArray[np.uint8]


def stained(haematoxylin: Any, eosin: Any) -> Picture:
    """Return R, G, B (3, ...) of stain amounts on glass of 242."""
    density = np.multiply.outer(HAEMATOXYLIN, haematoxylin) + np.multiply.outer(EOSIN, eosin)
    return (242 * np.exp(-density)).astype(np.uint8)


@pytest.fixture(scope="module")
def truth() -> NDArray[np.bool_]:
    mask = np.zeros((SIDE, SIDE), np.uint8)
    cv2.ellipse(mask, (250, 300), (200, 130), 0, 0, 360, 1, -1)
    return mask > 0


@pytest.fixture(scope="module")
def h_and_e(truth: NDArray[np.bool_]) -> Picture:
    """Stroma with nuclei, and a clot of blood, on glass."""
    rng = np.random.default_rng(0)
    amount = cv2.GaussianBlur(rng.random((SIDE, SIDE)), (0, 0), 2)
    amount = (amount - amount.min()) / np.ptp(amount)
    picture = stained(np.where(truth, 0.1 + 1.6 * amount**2, 0), np.where(truth, 0.2 + 0.5 * amount, 0))
    clot = np.zeros((SIDE, SIDE), np.uint8)
    cv2.circle(clot, (330, 330), 30, 1, -1)
    picture[:, clot > 0] = np.array([210, 60, 85])[:, None]
    noisy = picture + rng.normal(0, 2, picture.shape)
    return noisy.clip(0, 255).astype(np.uint8)


def drawn(picture: Picture, color: tuple[int, int, int], mask: NDArray[Any]) -> Picture:
    """Return a picture under ink, which absorbs and has a soft rim."""
    share = cv2.GaussianBlur(mask.astype(np.float32), (0, 0), 1.5)
    ink = np.array(color, np.float32)[:, None, None] / 255
    return np.asarray(picture * (1 - share + share * ink), np.uint8)


def stroke() -> NDArray[np.uint8]:
    """Return a stroke of 0.4 mm that runs over glass and into the tissue."""
    mask = np.zeros((SIDE, SIDE), np.uint8)
    cv2.line(mask, (40, 60), (300, 230), 1, 50)
    return mask


def fit(picture: Picture, **settings: Any) -> TissueModel:
    return fit_tissue(
        picture,
        polarities=("bright",) * 3,
        is_colour=True,
        config=TissueConfig(**settings),
        scale_x=1.0,
        scale_y=1.0,
        mpp=UM,
    )


@pytest.mark.parametrize("ink", INKS)
def test_a_pen_stroke_is_no_tissue_and_takes_none_with_it(ink: str, h_and_e: Picture, truth: NDArray[np.bool_]) -> None:
    mask = stroke()
    picture = drawn(h_and_e, INKS[ink], mask)
    near = cv2.dilate(mask, np.ones((21, 21), np.uint8)) > 0
    model = fit(picture)
    assert model.mask[mask > 0].mean() < 0.01
    assert (model.mask[~near] == fit(h_and_e).mask[~near]).mean() > 0.999
    assert model.ink_share == pytest.approx(mask.mean(), rel=0.35)
    assert fit(picture, ignore_pens=False).mask[mask > 0].mean() > 0.9


def test_translucent_ink_beside_tissue_is_a_doubt_with_its_place(h_and_e: Picture) -> None:
    translucent = fit(drawn(h_and_e, (120, 160, 225), stroke()))
    assert translucent.confidence < 0.5
    assert "translucent ink borders on tissue" in translucent.doubts[0]
    x0, x1, y0, y1 = map(int, re.findall(r"\d+", translucent.doubts[0])[:4])
    assert 0 <= x0 < 60 < 200 < x1 <= 330
    assert 20 <= y0 < 80 < 160 < y1 <= 260
    assert fit(drawn(h_and_e, INKS["blue"], stroke())).doubts == ()


def test_no_stain_clot_or_dot_is_ink(h_and_e: Picture) -> None:
    assert not find_ink(h_and_e, um_per_px=UM).any()
    haematoxylin, eosin = np.meshgrid(np.linspace(0, 1.8, 60), np.linspace(0, 1.8, 60))
    # At this scale a single pixel is as large as a stroke.
    assert not find_ink(stained(haematoxylin, eosin), um_per_px=250.0).any()
    dot = np.zeros((SIDE, SIDE), np.uint8)
    cv2.circle(dot, (200, 300), 12, 1, -1)  # 0.2 mm, within the tissue
    assert not find_ink(drawn(h_and_e, INKS["blue"], dot), um_per_px=UM).any()


def test_brown_stain_and_its_blue_counterstain_are_not_ink() -> None:
    brown, pale_blue = ((np.full((SIDE, SIDE, 3), color, np.uint8)).transpose(2, 0, 1) for color in
                        ((110, 70, 45), (150, 165, 200)))  # fmt: skip
    assert not find_ink(np.ascontiguousarray(brown), um_per_px=UM).any()
    assert not find_ink(np.ascontiguousarray(pale_blue), um_per_px=UM).any()


def test_black_borders_and_unscanned_areas_are_no_tissue(h_and_e: Picture) -> None:
    black = np.zeros((SIDE, SIDE), bool)
    black[:, :30] = black[-10:] = True
    black[20:80, 400:470] = True  # never scanned, away from the border
    share = cv2.GaussianBlur((~black).astype(np.float32), (0, 0), 1.0)
    picture = np.where(black, 0, h_and_e * share).astype(np.uint8)
    model = fit(picture)
    near = cv2.dilate(black.astype(np.uint8), np.ones((15, 15), np.uint8)) > 0
    assert not model.mask[near & (np.mgrid[:SIDE, :SIDE][0] < 150)].any()
    assert (model.mask[~near] == fit(h_and_e).mask[~near]).mean() > 0.999
    assert model.unscanned_share == pytest.approx(black.mean(), rel=0.25)
    assert fit(picture, ignore_borders=False, ignore_pens=False).mask[black].mean() > 0.9


def test_a_thin_frame_is_a_border_and_a_dark_nucleus_at_the_edge_is_not() -> None:
    field = np.ascontiguousarray(np.broadcast_to(np.array([190, 120, 170], np.uint8)[:, None, None], (3, 200, 200)))
    nucleus = field.copy()
    nucleus[:, 90:110, :20] = 30
    assert not find_black(nucleus, um_per_px=0.25).any()
    frame = field.copy()
    frame[:, :2] = 10
    assert find_black(frame, um_per_px=0.25)[:2].all()


def test_ink_and_borders_are_sought_only_if_configured(h_and_e: Picture) -> None:
    picture = drawn(h_and_e, INKS["green"], stroke())
    picture[:, :, :30] = 0
    result = fit(picture, ignore_pens=False)
    assert (result.ink_share > 0, result.unscanned_share > 0) == (False, True)
    result = fit(picture, ignore_borders=False)
    assert (result.ink_share > 0, result.unscanned_share > 0) == (True, False)


@pytest.mark.parametrize("rows", [1, 3, 64])
def test_bands_of_rows_leave_no_trace(
    h_and_e: Picture, truth: NDArray[np.bool_], monkeypatch: pytest.MonkeyPatch, rows: int
) -> None:
    noisy = np.random.default_rng(0).normal(h_and_e, 12).clip(0, 255).astype(np.uint8)  # near the limits everywhere
    found = []
    for band_px in (truth.size, rows * truth.shape[1]):
        monkeypatch.setattr(tissue_model, "_BAND_PX", band_px)
        monkeypatch.setattr(tissue_evidence, "_SAMPLE_PX", truth.size // 16)  # of which every fourth row is a sample
        found.append(fit(noisy))
    assert found[0].mask.any()
    assert found[0].threshold == found[1].threshold
    np.testing.assert_array_equal(found[0].mask, found[1].mask)
    signal = noisy[0].astype(np.float32) / 256  # sums of these are exact
    sample = tissue_evidence._smoothed_sample(signal, np.ones_like(truth))
    np.testing.assert_array_equal(sample, cv2.blur(signal, (3, 3))[::4, ::4].ravel())
