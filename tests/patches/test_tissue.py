from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pandas as pd
import pytest
from numpy.typing import NDArray

from pathopatch.core.config import UNCERTAIN_BELOW, TileConfig, TissueConfig
from pathopatch.core.errors import InputUnsupportedError
from pathopatch.demo.slides import CohortSpec, make_cohort
from pathopatch.patches import intensity
from pathopatch.patches.analysis import analyse_slide, iterate_patches
from pathopatch.patches.tissue_fit import fit_tissue
from pathopatch.patches.tissue_model import TissueModel, clean_mask, supplied_tissue, tissue_signal
from pathopatch.slides import open_slide
from pathopatch.slides.background import Polarity
from pathopatch.slides.glass import Illumination
from pathopatch.slides.manifest import read_manifest
from pathopatch.slides.unscanned import Unscanned

SIZE = 300


RGB = ("R", "G", "B")


def fit(
    overview: NDArray[Any],
    background: Polarity,
    *,
    names: tuple[str, ...] = (),
    unscanned: Unscanned | None = None,
    **settings: Any,
) -> TissueModel:
    return fit_tissue(
        overview,
        polarities=(background,) * len(overview),
        is_colour=overview.dtype == np.uint8 and len(overview) == 3,
        config=TissueConfig(**settings),
        scale_x=1.0,
        scale_y=1.0,
        mpp=4.0,
        channels=names,
        unscanned=unscanned,
    )


def draw(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def vignette() -> NDArray[np.float64]:
    y, x = np.mgrid[:SIZE, :SIZE] - SIZE / 2
    return np.asarray(np.cos(np.hypot(x, y) / SIZE) ** 4)


EMPTY: dict[str, tuple[Callable[[], NDArray[Any]], Polarity]] = {
    "white": (lambda: np.full((3, SIZE, SIZE), 255, np.uint8), "bright"),
    "grey glass": (lambda: np.full((3, SIZE, SIZE), 225, np.uint8), "bright"),
    "noisy white": (lambda: draw().normal(235, 8, (3, SIZE, SIZE)).clip(0, 255).astype(np.uint8), "bright"),
    "unevenly lit glass": (lambda: (np.tile(vignette(), (3, 1, 1)) * 30 + 220).astype(np.uint8), "bright"),
    "black": (lambda: np.zeros((2, SIZE, SIZE), np.uint16), "dark"),
    "dark noise": (lambda: draw().normal(100, 5, (2, SIZE, SIZE)).astype(np.uint16), "dark"),
    "single photons": (lambda: draw().poisson(0.02, (1, SIZE, SIZE)).astype(np.uint16), "dark"),
    "few photons": (lambda: draw().poisson(1, (2, SIZE, SIZE)).astype(np.uint16), "dark"),
    "float noise": (lambda: draw().normal(0, 1, (1, SIZE, SIZE)).astype(np.float32), "dark"),
    "exponential noise": (lambda: draw().exponential(1, (1, SIZE, SIZE)), "dark"),
    "uneven dark": (lambda: (vignette() * 20 + draw().normal(100, 3, (SIZE, SIZE)))[None], "dark"),
    "hot pixels": (lambda: np.where(draw().random((1, SIZE, SIZE)) < 1e-4, 4000, 3).astype(np.uint16), "dark"),
}


@pytest.mark.parametrize("case", EMPTY)
def test_a_slide_of_background_only_has_no_tissue(case: str) -> None:
    make, background = EMPTY[case]
    assert fit(make(), background).mask.sum() == 0


def textured(truth: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Return uneven tissue, 0.15 to 1 within the truth and 0 outside."""
    texture = np.abs(cv2.GaussianBlur(draw(1).normal(0, 1, truth.shape), (0, 0), 4))
    return np.where(truth, 0.15 + 0.85 * texture / texture.max(), 0.0)


def overlap(result: NDArray[Any], truth: NDArray[np.bool_]) -> float:
    """Return the intersection over the union."""
    return float((result.astype(bool) & truth).sum() / (result.astype(bool) | truth).sum())


@pytest.mark.parametrize("share", [0.02, 0.3, 0.9, 0.98])
@pytest.mark.parametrize("kind", ["bright RGB", "dark uint16 up to 157", "dark float", "dark with a noise channel"])
def test_tissue_is_found_whether_it_covers_little_or_nearly_all(kind: str, share: float) -> None:
    truth = np.zeros((SIZE, SIZE), bool)
    side = round(SIZE * share**0.5)
    truth[:side, :side] = True
    tissue = textured(truth)
    generator = draw(2)
    if kind == "bright RGB":
        bright = 240 - 200 * tissue + generator.normal(0, 3, (3, SIZE, SIZE))
        model = fit(bright.clip(0, 255).astype(np.uint8), "bright")
    elif kind == "dark uint16 up to 157":
        counts = generator.poisson(2 + 150 * tissue)[None].clip(0, 157).astype(np.uint16)
        model = fit(counts, "dark")
    elif kind == "dark float":
        model = fit((0.01 * generator.normal(size=(1, SIZE, SIZE)) + tissue).astype(np.float32), "dark")
    else:
        noise = generator.normal(1000, 100, (SIZE, SIZE))
        model = fit(np.stack([generator.poisson(2 + 150 * tissue), noise]).astype(np.uint16), "dark")
    assert overlap(model.mask, truth) > 0.9


def test_a_field_of_tissue_without_any_glass_is_tissue_throughout() -> None:
    texture = 130 + 400 * cv2.GaussianBlur(draw().normal(0, 1, (SIZE, SIZE)), (0, 0), 3)
    pixels = np.tile(texture, (3, 1, 1)).clip(0, 255).astype(np.uint8)
    assert fit(pixels, "bright").mask.all()


def test_a_channel_of_noise_gets_an_empty_window() -> None:
    signal = np.zeros((SIZE, SIZE))
    signal[:100] = 200
    pixels = np.stack([signal, draw().normal(1000, 100, (SIZE, SIZE))]).astype(np.uint16)
    result = fit(pixels, "dark").windows
    assert result[0, 0] == 0 < result[0, 1]
    assert result[1, 0] == result[1, 1]


def test_the_signal_is_high_on_tissue_for_either_polarity() -> None:
    pixels = np.array([[[255, 51]], [[255, 204]], [[255, 153]]], np.uint8)
    windows = np.array([[0.0, 255.0]] * 3)
    assert np.allclose(tissue_signal(pixels, polarities=("bright",) * 3, windows=windows), [[0, 0.8]])
    assert np.allclose(tissue_signal(pixels, polarities=("dark",) * 3, windows=windows), [[1, 0.8]])
    windows[1] = 0
    assert np.allclose(tissue_signal(pixels, polarities=("dark",) * 3, windows=windows), [[1, 0.6]])


@pytest.mark.parametrize("windows", [[[5, 99]] * 3, [[5, 99], [4, 99], [5, 80]], [[0, 0], [5, 99], [5, 99]]])
def test_the_signal_is_that_of_the_channel_with_most_of_it(windows: list[list[float]]) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (3, 20, 30)).astype(np.uint8)
    limits = np.array(windows, np.float64)
    of_each = np.stack([intensity.scale(pixels[[c]], limits[[c]])[0] for c in range(3) if limits[c, 1] > limits[c, 0]])
    dark, bright = of_each.max(axis=0), (1 - of_each).max(axis=0)
    np.testing.assert_array_equal(tissue_signal(pixels, polarities=("dark",) * 3, windows=limits), dark)
    np.testing.assert_array_equal(tissue_signal(pixels, polarities=("bright",) * 3, windows=limits), bright)


@pytest.mark.parametrize("background", ["dark", "bright"])
def test_a_fixed_threshold_is_not_changed(background: Polarity) -> None:
    ramp = np.tile(np.linspace(0, 250, SIZE).astype(np.uint8), (3, SIZE, 1))
    assert fit(ramp, background, method="fixed", fixed_threshold=0.3).threshold == 0.3


def test_specks_go_small_holes_close_and_the_rest_stays() -> None:
    mask = np.zeros((40, 40), bool)
    mask[:20, :20] = True
    mask[5:7, 5:7] = False  # a hole of 4 px
    mask[10:13, 10:13] = False  # a hole of 9 px
    mask[0, 15] = False  # a notch at the border is no hole
    expected = mask.copy()
    expected[5:7, 5:7] = True
    mask[30:32, 30:32] = True  # a speck of 4 px
    result = clean_mask(mask, um2_per_px=2.0, min_speck_um2=10.0, max_hole_um2=8.0)
    assert (result == expected).all()


def test_pieces_are_counted_whole_however_tall_they_are() -> None:
    mask = np.zeros((300, 80), bool)
    mask[5:295, 4:25] = True  # one piece
    mask[40:240, 10:12] = False  # a hole of 400 px
    mask[10:290, 60] = True  # a speck of 280 px
    for least, is_kept in ((280.0, True), (281.0, False)):
        for most, is_filled in ((400.0, True), (399.0, False)):
            result = clean_mask(mask, um2_per_px=1.0, min_speck_um2=least, max_hole_um2=most)
            assert result[10:290, 60].all() == result[10:290, 60].any() == is_kept
            assert result[40:240, 10:12].all() == result[40:240, 10:12].any() == is_filled


def test_fibres_close_to_each_other_are_no_specks() -> None:
    mask = np.zeros((40, 40), bool)
    mask[10:30:4, 10:30:4] = True  # 25 single pixels, 4 px apart
    assert clean_mask(mask, um2_per_px=1.0, min_speck_um2=25.0, max_hole_um2=0.0).sum() == 25
    assert clean_mask(mask, um2_per_px=1.0, min_speck_um2=26.0, max_hole_um2=0.0).sum() == 0
    assert clean_mask(mask, um2_per_px=1.0, min_speck_um2=4.0, max_hole_um2=0.0).sum() == 0


def test_a_patch_takes_the_overview_mask_at_its_pixels_centres() -> None:
    mask = np.zeros((2, 2), np.uint8)
    mask[0, 1] = 1
    model = TissueModel(
        polarities=("dark",), windows=np.array([[0.0, 10.0]]), threshold=0.5, mask=mask, scale_x=4.0, scale_y=4.0
    )
    patch = np.full((1, 4, 4), 9, np.uint8)
    patch[0, 1, 3] = 2  # in the mask, below the threshold
    result = model.patch_mask(patch, 1, 1, 2.0, (4, 3))
    # centres at level-0 2, 4, 6, 8: the first lies left of 4, those in row 2 and below lie at 4 or more
    assert result.astype(int).tolist() == [[0, 1, 1, 1], [0, 0, 0, 0], [0, 0, 0, 0], [0, 0, 0, 0]]


@pytest.mark.parametrize("background", ["dark", "bright"])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.int16, np.float32])
def test_a_patch_mask_is_the_signal_above_threshold_in_the_overview_mask(
    dtype: type[np.generic], background: Polarity
) -> None:
    rng = np.random.default_rng(3)
    for threshold in (0.0, 0.31, 1.0):
        for scale, downsample, inside in ((1.0, 1.0, (40, 33)), (2.7, 1.3, (40, 40)), (9.0, 1.0, (1, 7))):
            windows = np.array([[11.3, 201.7], [50.0, 50.0], [-7.0, 300.0]])
            mask = (rng.random((60, 70)) < 0.7).astype(np.uint8)
            model = TissueModel(polarities=(background,) * 3, windows=windows, threshold=threshold, mask=mask,
                                scale_x=scale, scale_y=scale)  # fmt: skip
            for x, y in rng.integers(0, 50, (5, 2)).tolist():
                patch = rng.integers(0, 256, (3, 40, 40)).astype(dtype)
                columns, rows = (
                    np.minimum((at + (np.arange(n) + 0.5) * downsample) // scale, side - 1).astype(int)
                    for at, n, side in zip((x, y), inside, (70, 60), strict=True)
                )
                part = patch[:, : inside[1], : inside[0]]
                signal = tissue_signal(part, polarities=(background,) * 3, windows=windows)
                expected = np.zeros((40, 40), bool)
                expected[: inside[1], : inside[0]] = (mask[np.ix_(rows, columns)] != 0) & (
                    signal > np.float32(threshold)
                )
                np.testing.assert_array_equal(model.patch_mask(patch, x, y, downsample, inside), expected)


def glass_and_two_tissues() -> tuple[NDArray[np.uint8], NDArray[np.bool_]]:
    """Return H&E-like pixels of which half the tissue is pale and half is dark, and where tissue is."""
    truth = np.zeros((SIZE, SIZE), bool)
    truth[:, 100:] = True
    level = np.full((SIZE, SIZE), 243.0)
    level[:, 100:200], level[:, 200:] = 205, 80
    level += draw().normal(0, 3, level.shape) + np.where(truth, draw(1).normal(0, 8, level.shape), 0)
    return np.tile(level, (3, 1, 1)).clip(0, 255).astype(np.uint8), truth


def test_pale_tissue_beside_dark_tissue_does_not_go_with_the_glass() -> None:
    pixels, truth = glass_and_two_tissues()
    assert overlap(fit(pixels, "bright").mask, truth) > 0.97
    dark = (255 - pixels[:1]).astype(np.uint16)
    assert overlap(fit(dark, "dark").mask, truth) > 0.97


def test_padding_and_glass_are_two_levels_but_neither_is_tissue() -> None:
    pixels = draw().normal(243, 1, (3, SIZE, SIZE)).clip(0, 254).astype(np.uint8)
    pixels[:, :, 200:] = 90
    pixels[:, 150:] = 255
    truth = np.zeros((SIZE, SIZE), bool)
    truth[:150, 200:] = True
    assert overlap(fit(pixels, "bright").mask, truth) > 0.97
    counts = draw().poisson(100, (1, SIZE, SIZE)).astype(np.uint16)
    counts[:, :, 200:] = 2000
    counts[:, 150:] = 0
    assert overlap(fit(counts, "dark").mask, truth) > 0.97


def test_textured_stroma_around_nuclei_is_no_glass_and_tinted_glass_is() -> None:
    stroma = 110 + 40 * cv2.GaussianBlur(draw().normal(0, 3, (SIZE, SIZE)), (0, 0), 3)
    stroma[::20, ::20] = 40
    nuclei = 255 - cv2.dilate(255 - stroma, np.ones((7, 7)))
    model = fit(np.tile(nuclei, (3, 1, 1)).clip(0, 255).astype(np.uint8), "bright")
    assert model.mask.all()
    assert model.confidence < UNCERTAIN_BELOW
    tinted = np.stack([draw().normal(level, 3, (SIZE, SIZE)) for level in (250, 220, 175)])
    tinted[:, :, 200:] -= 110
    assert fit(tinted.clip(0, 255).astype(np.uint8), "bright").mask.mean() == pytest.approx(1 / 3, abs=0.01)


def test_only_the_chosen_channels_make_the_signal() -> None:
    pixels = np.zeros((2, SIZE, SIZE), np.uint16)
    pixels[0, :100] = pixels[1, :, :100] = 500
    both = fit(pixels, "dark", names=("CARS", "SHG"))
    second = fit(pixels, "dark", names=("CARS", "SHG"), channels=("SHG",))
    assert both.mask.mean() == pytest.approx(5 / 9, abs=0.02)
    assert (second.mask == (pixels[1] > 0)).mean() > 0.99
    assert not second.patch_mask(pixels[:, :50, 150:200], 150, 0, 1.0, (50, 50)).any()


@pytest.mark.parametrize("background", ["dark", "bright"])
def test_a_threshold_per_channel_keeps_a_dim_channel_beside_a_bright_one(background: Polarity) -> None:
    stroma, nuclei = np.zeros((2, SIZE, SIZE), bool)
    stroma[:, 100:] = True
    for y, x in ((0, 0), (0, 1), (1, 0), (1, 1)):
        nuclei[y::8, 100 + x :: 8] = True
    scale = 1 if background == "dark" else 12  # what a bright channel lacks is measured against its glass
    counts = np.where(stroma, 32, 1) * scale
    counts[100:160, 150:220] = 160 * scale  # bright cells
    counts[100:120, 150:170] = 300 * scale
    pixels = np.stack([draw().poisson(1 + 3000 * nuclei), draw(1).poisson(counts)])
    seen = (pixels if background == "dark" else 4000 - pixels).astype(np.uint16)
    model = fit(seen, background)
    middles = model.windows.mean(axis=1)
    assert overlap(model.mask, stroma) > 0.97
    assert 4 < (middles[1] if background == "dark" else 4000 - middles[1]) / scale < 30
    assert model.threshold == 0.5
    assert fit(draw().poisson(3, (2, SIZE, SIZE)).astype(np.uint16), background).mask.sum() == 0


def test_on_slides_of_known_truth_the_fractions_are_close_to_it(tmp_path: Path) -> None:
    spec = CohortSpec(slides=(1, 1, 1), patients=(1, 1, 1), fields=4)
    manifest = read_manifest(make_cohort(tmp_path, seed=0, spec=spec))
    truth = pd.read_csv(tmp_path / "truth.csv").set_index(["slide_id", "x", "y"])["tissue_share"]
    for row in manifest:
        with open_slide(row.source, mpp=row.mpp) as slide:
            analysis = analyse_slide(slide, TileConfig(patch_px=spec.field_px))
            result = np.concatenate([batch.tissue_fraction for batch in iterate_patches(slide, analysis)])
        expected = [truth[row.slide_id, x, y] for x, y in analysis.grid.origins().tolist()]
        assert np.abs(result - expected).max() < 0.05


def test_a_supplied_mask_decides_alone_at_any_scale() -> None:
    found = TissueModel(
        polarities=("bright",) * 3, windows=np.zeros((3, 2)), threshold=None, mask=np.zeros((4, 8), np.uint8),
        scale_x=2.0, scale_y=2.0,
    )  # fmt: skip
    scanned = np.zeros((4, 8), bool)
    coarse = supplied_tissue(np.array([[True, False], [False, False]]), found, scanned)
    assert coarse.mask.tolist() == [[1] * 4 + [0] * 4] * 2 + [[0] * 8] * 2
    fine = np.zeros((8, 16), bool)
    fine[0, :3] = fine[1, 0] = True  # three quarters of the first overview pixel, a quarter of the second
    assert np.argwhere(supplied_tissue(fine, found, scanned).mask).tolist() == [[0, 0]]
    black = coarse.patch_mask(np.zeros((3, 8, 8), np.uint8), 0, 0, 1.0, (8, 8))
    assert black.mean() == 0.5


def structured_field(seed: int = 0, level: float = 1000.0) -> NDArray[np.uint16]:
    """Return a camera's view of tissue throughout, (1, SIZE, SIZE): black level 100, noise, no background."""
    texture = cv2.GaussianBlur(draw(seed).normal(size=(SIZE, SIZE)), (0, 0), 6)
    signal = level * np.exp(0.4 * texture / texture.std())
    return draw(seed + 1).poisson(100 + signal)[None].astype(np.uint16)


@pytest.mark.parametrize(("choice", "share"), [("all", 1.0), ("none", 0.0), ("fail", 0.0)])
def test_without_background_in_view_when_unsure_decides_with_a_doubt(choice: str, share: float) -> None:
    model = fit(structured_field(), "dark", when_unsure=choice)
    assert (model.is_unsure, model.mask.mean()) == (True, share)
    assert model.confidence < UNCERTAIN_BELOW
    assert "no background is in view" in model.doubts[0]


def test_a_stated_black_level_tells_a_full_field_from_an_empty_one() -> None:
    stated: dict[str, Any] = {"names": ("SHG",), "background_level": {"SHG": 100.0}}
    full = fit(structured_field(), "dark", **stated)
    assert (full.is_unsure, full.mask.mean()) == (False, 1.0)
    assert full.confidence >= UNCERTAIN_BELOW
    empty = fit(draw().poisson(100, (1, SIZE, SIZE)).astype(np.uint16), "dark", **stated)
    assert (empty.threshold, empty.mask.any(), empty.is_unsure) == (None, False, False)
    half = structured_field()
    half[:, :, : SIZE // 2] = draw().poisson(100, (1, SIZE, SIZE // 2))
    assert fit(half, "dark", **stated).mask.mean() == pytest.approx(0.5, abs=0.01)


def test_a_stated_glass_level_tells_a_full_field_from_an_empty_one() -> None:
    texture = cv2.GaussianBlur(draw().normal(size=(SIZE, SIZE)), (0, 0), 3)
    tissue = np.tile(90 + 100 * texture, (3, 1, 1)).clip(0, 115).astype(np.uint8)
    glass = draw().normal(130, 1, (3, SIZE, SIZE)).astype(np.uint8)
    stated: dict[str, Any] = {"names": RGB, "background_level": dict.fromkeys(RGB, 130)}
    assert fit(tissue, "bright", **stated).mask.all()
    empty = fit(glass, "bright", **stated)
    assert (empty.mask.any(), empty.confidence >= UNCERTAIN_BELOW) == (False, True)


def test_unscanned_pixels_are_no_tissue_and_count_in_no_share() -> None:
    pixels, truth = glass_and_two_tissues()
    missing = np.zeros((SIZE, SIZE), bool)
    missing[:60] = True
    pixels[:, missing] = 0
    model = fit(pixels, "bright", unscanned=Unscanned(mask=missing))
    assert not model.mask[missing].any()
    assert model.share == pytest.approx(truth[~missing].mean(), abs=0.01)
    assert model.unscanned_share == missing.mean()
    scanned = model.scanned_mask(0, 50, 1.0, (20, 20))
    assert scanned is not None
    assert scanned.sum() == 10 * 20
    assert model.scanned_mask(0, 100, 1.0, (20, 20)) is None


def test_a_patch_under_uneven_light_is_judged_by_the_light_at_its_place() -> None:
    model = TissueModel(
        polarities=("bright",), windows=np.array([[0.0, 200.0]]), threshold=0.1, mask=np.ones((SIZE, SIZE), np.uint8),
        scale_x=1.0, scale_y=1.0,
        illumination=Illumination(coefficients=(float(np.log(0.6**0.5)), float(np.log(0.6**0.5)), 0, 0, 0, 0)),
    )  # fmt: skip
    glass = np.tile(200 * np.exp(np.linspace(0, np.log(0.6), SIZE)), (1, SIZE, 1))
    for dtype in (np.float32, np.uint8):
        for x in (0, 200):
            patch = glass[:, :100, x : x + 100]
            assert not model.patch_mask(patch.astype(dtype), x, 0, 1.0, (100, 100)).any()
            assert model.patch_mask((patch * 0.85).astype(dtype), x, 0, 1.0, (100, 100)).all()


def test_channels_with_tissue_at_different_places_lower_the_confidence() -> None:
    apart = np.full((2, SIZE, SIZE), 0.0)
    apart[0, :100], apart[1, 180:] = 500, 500
    apart += draw().normal(20, 3, apart.shape)
    assert fit(apart.astype(np.uint16), "dark").confidence < UNCERTAIN_BELOW
    apart[1] = apart[0]
    assert fit(apart.astype(np.uint16), "dark").confidence >= UNCERTAIN_BELOW


@pytest.mark.parametrize("radius", [0, 13, 30])
def test_a_channel_that_shows_next_to_nothing_contradicts_no_other(radius: int) -> None:
    y, x = np.ogrid[:600, :600]
    pixels = draw().normal(1000, 20, (2, 600, 600))
    pixels[0, (y - 300) ** 2 + (x - 300) ** 2 < 150**2] += 8000
    pixels[1, (y - 300) ** 2 + (x - 300) ** 2 < radius**2] += 8000
    assert fit(pixels.astype(np.uint16), "dark").confidence >= UNCERTAIN_BELOW


@pytest.mark.parametrize("shown", ["bright", "dark"])
def test_a_polarity_that_contradicts_a_colour_image_is_doubted(shown: Polarity) -> None:
    pixels = glass_and_two_tissues()[0] if shown == "bright" else draw().normal(12, 2, (3, SIZE, SIZE))
    if shown == "dark":
        pixels[:, :60, :60] += 150
    pixels = pixels.clip(0, 255).astype(np.uint8)
    doubted = fit(pixels, "dark" if shown == "bright" else "bright")
    assert doubted.confidence < UNCERTAIN_BELOW
    assert "but the image looks different" in "".join(doubted.doubts)
    assert fit(pixels, shown).confidence >= UNCERTAIN_BELOW


def test_one_channel_of_a_colour_image_shows_its_tissue_alone() -> None:
    truth = np.zeros((SIZE, SIZE), np.bool_)
    truth[80:200, 90:220] = True
    overview = np.where(truth, np.array([240, 120, 240])[:, None, None], 240) + draw().normal(0, 2, (3, SIZE, SIZE))
    overview = overview.clip(0, 255).astype(np.uint8)
    shares = [fit(overview, "bright", names=RGB, channels=(name,)).share for name in ("R", "G")]
    assert shares == [0.0, pytest.approx(truth.mean(), abs=0.005)]


def test_glass_of_level_zero_is_refused() -> None:
    with pytest.raises(InputUnsupportedError, match="a background level of 0"):
        fit(np.full((1, 64, 64), 200, np.uint16), "bright", names=("HE",), background_level={"HE": 0.0})


@pytest.mark.parametrize("stated", [{}, {"R": 240.0, "G": 240.0, "B": 240.0}])
def test_darker_glass_beside_a_seam_is_doubted(stated: dict[str, float]) -> None:
    model = fit(glass_and_tissue_beside_a_seam(), "bright", names=RGB, background_level=stated)
    assert model.confidence < UNCERTAIN_BELOW
    assert any("as smooth as glass" in doubt for doubt in model.doubts)


def glass_and_tissue_beside_a_seam() -> NDArray[np.uint8]:
    """Glass of 240, a fifth of the slide 10 % darker, and tissue of texture on a fifth of it."""
    truth = np.zeros((SIZE, SIZE), np.bool_)
    truth[80:200, 150:270] = True
    absorbed = np.where(truth, 0.4 + 0.1 * textured(truth), 0)
    light = np.where(np.arange(SIZE) < SIZE // 5, 0.9, 1.0)
    pixels = 240 * light * (1 - absorbed) + draw().normal(0, 1.5, (3, SIZE, SIZE))
    return pixels.clip(0, 255).astype(np.uint8)


def test_light_that_was_fitted_to_tissue_is_doubted() -> None:
    side = 2 * SIZE
    outline, texture = (cv2.GaussianBlur(draw(10 * size).normal(size=(side, side)), (0, 0), size) for size in (40, 2))
    truth = outline > np.quantile(outline, 0.2)
    absorbed = np.where(truth, np.clip(0.3 + 0.1 * texture / texture.std(), 0.1, 0.8), 0)
    y, x = np.mgrid[:side, :side] / SIZE - 1
    pixels = 243 * (1 - 0.15 * (x * x + y * y)) * (1 - absorbed) + draw().normal(0, 2, (3, side, side))
    model = fit(pixels.clip(0, 255).astype(np.uint8), "bright")
    assert model.confidence < UNCERTAIN_BELOW or model.share == pytest.approx(truth.mean(), abs=0.05)
