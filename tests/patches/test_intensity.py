from __future__ import annotations

import cv2
import numpy as np
import pytest

from pathopatch.core.config import IntensityConfig
from pathopatch.patches import intensity


def test_a_window_is_the_percentiles_of_the_tissue_alone() -> None:
    pixels = np.stack([np.arange(101), np.arange(101) * 10]).reshape(2, 1, 101).astype(np.uint16)
    pixels = np.concatenate([pixels, np.full((2, 1, 400), 60000, np.uint16)], axis=2)
    tissue = np.arange(501)[None] < 101
    rule = IntensityConfig(low_percentile=10, high_percentile=90)
    result = intensity.windows(pixels, tissue, rule=rule, is_rgb_uint8=False)
    assert result.tolist() == [[10, 90], [100, 900]]


def test_without_tissue_all_pixels_stand_in() -> None:
    pixels = np.arange(101, dtype=np.float32).reshape(1, 1, 101)
    rule = IntensityConfig(low_percentile=0, high_percentile=100)
    result = intensity.windows(pixels, np.zeros((1, 101), bool), rule=rule, is_rgb_uint8=False)
    assert result.tolist() == [[0, 100]]


def test_the_window_of_rgb_is_fixed() -> None:
    pixels = np.full((3, 2, 2), 200, np.uint8)
    result = intensity.windows(pixels, np.ones((2, 2), bool), rule=IntensityConfig(), is_rgb_uint8=True)
    assert result.tolist() == [[0, 255]] * 3


def test_scaling_is_clipped_and_uses_the_low_end() -> None:
    pixels = np.array([[[-3, 2, 4, 6, 9]]], np.int16)
    result = intensity.scale(pixels, np.array([[2.0, 6.0]]))
    assert result.dtype == np.float32
    assert result.tolist() == [[[0, 0, 0.5, 1, 1]]]


def test_a_constant_channel_is_zero_and_never_saturated() -> None:
    pixels = np.full((1, 2, 2), 7, np.uint16)
    assert intensity.scale(pixels, np.array([[7.0, 7.0]])).max() == 0
    for polarity in ("dark", "bright"):
        assert intensity.saturated_fraction(pixels, np.array([[7.0, 7.0]]), polarities=(polarity,)) == 0


def test_a_pixel_is_saturated_if_any_channel_is() -> None:
    pixels = np.zeros((2, 2, 2), np.uint8)
    pixels[0, 0, 0] = pixels[1, 0, 0] = pixels[1, 1, 1] = 255
    windows = np.array([[0.0, 255.0]] * 2)
    assert intensity.saturated_fraction(pixels, windows, polarities=("dark",) * len(pixels)) == 0.5
    assert intensity.saturated_fraction(pixels[:, :0], windows, polarities=("dark",) * len(pixels)) == 0


def test_on_a_bright_background_black_is_saturated_and_white_glass_is_not() -> None:
    white, black, red = np.full(3, 255, np.uint8), np.zeros(3, np.uint8), np.array([200, 0, 40], np.uint8)
    pixels = np.stack([white, white, black, red]).T.reshape(3, 2, 2)
    windows = np.array([[0.0, 255.0]] * 3)
    assert intensity.saturated_fraction(pixels, windows, polarities=("bright",) * len(pixels)) == 0.5
    transmitted = np.array([[[99, 100], [101, 4000]]], np.uint16)
    window = np.array([[100.5, 3000.0]])
    assert intensity.saturated_fraction(transmitted, window, polarities=("bright",) * len(transmitted)) == 0.5


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.int16, np.float32])
@pytest.mark.parametrize("windows", [[[3, 200]] * 3, [[3, 200], [3, 180], [9, 200]], [[0, 0], [3, 200], [3, 200]]])
def test_saturation_is_that_of_each_channel_alone(dtype: type, windows: list[list[float]]) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (3, 20, 30)).astype(dtype)
    limits = np.array(windows, np.float64)
    shown = [(plane, low, high) for plane, (low, high) in zip(pixels, windows, strict=True) if high > low]
    dark = np.any([plane >= high for plane, _, high in shown], axis=0).mean()
    bright = np.any([plane <= low for plane, low, _ in shown], axis=0).mean()
    assert intensity.saturated_fraction(pixels, limits, polarities=("dark",) * len(pixels)) == dark > 0
    assert intensity.saturated_fraction(pixels, limits, polarities=("bright",) * len(pixels)) == bright > 0


def test_the_level_of_saturation_is_not_rounded_to_the_type_of_the_pixels() -> None:
    pixels = np.full((1, 2, 2), 0.1, np.float32)
    limits = np.array([[0.0, float(pixels[0, 0, 0]) + 1e-9]])
    assert intensity.saturated_fraction(pixels, limits, polarities=("dark",)) == 0


def test_sharpness_is_the_variance_of_the_laplacian() -> None:
    spot = np.zeros((1, 5, 5), np.float32)
    spot[0, 2, 2] = 1
    # within the 3 x 3 inner pixels: -4 once, 1 four times, 0 four times; mean 0, mean square 20 / 9
    assert np.isclose(intensity.sharpness(spot), 20 / 9)
    assert intensity.sharpness(np.ones((2, 5, 5), np.float32)) == 0
    assert intensity.sharpness(spot[:, :2]) == 0


@pytest.mark.parametrize(("level", "expected"), [(254.0, 0.5), (254.3, 0.25), (255.0, 0.25), (255.4, 0), (-1.0, 1.0)])
def test_saturation_levels_between_integers_or_outside_their_range(level: float, expected: float) -> None:
    pixels = np.array([[[0, 100], [254, 255]]], np.uint8)
    assert (
        intensity.saturated_fraction(pixels, np.array([[-5.0, level]]), polarities=("dark",) * len(pixels)) == expected
    )
    inverted, window = 255 - pixels, np.array([[255 - level, 260.0]])
    assert intensity.saturated_fraction(inverted, window, polarities=("bright",) * len(inverted)) == expected


@pytest.mark.parametrize("channels", [1, 2, 3, 5])
def test_sharpness_equals_that_of_numpys_mean_channel_to_the_bit(channels: int) -> None:
    scaled = np.random.default_rng(channels).random((channels, 61, 47), np.float32)
    laplacian = cv2.Laplacian(np.ascontiguousarray(scaled.mean(axis=0)), cv2.CV_32F)
    assert intensity.sharpness(scaled) == laplacian[1:-1, 1:-1].var(dtype=np.float64)


def test_sharpness_at_a_fixed_scale_does_not_depend_on_the_pixel_size() -> None:
    pattern = np.random.default_rng(0).random((1, 16, 12)).astype(np.float32)
    fine = np.repeat(np.repeat(pattern, 4, axis=1), 4, axis=2)
    assert np.isclose(intensity.sharpness(fine, factor=4.0), intensity.sharpness(pattern), rtol=1e-5)
    assert intensity.sharpness(pattern, factor=0.25) == intensity.sharpness(pattern)
    assert intensity.sharpness(pattern, factor=100.0) == 0


def test_a_given_window_goes_before_percentiles_and_before_0_to_255() -> None:
    pixels = np.arange(202, dtype=np.uint8).reshape(2, 1, 101)
    rule = IntensityConfig(low_percentile=0, high_percentile=100, windows={"SHG": (7, 9)})
    tissue = np.ones((1, 101), bool)
    result = intensity.windows(pixels, tissue, rule=rule, is_rgb_uint8=False, channels=("CARS", "SHG"))
    assert result.tolist() == [[0, 100], [7, 9]]
    result = intensity.windows(pixels, tissue, rule=rule, is_rgb_uint8=True, channels=("R", "SHG"))
    assert result.tolist() == [[0, 255], [7, 9]]
