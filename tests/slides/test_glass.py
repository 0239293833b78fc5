"""Glass is the brightest compact peak, whatever its level, tint and light; tissue alone shows none."""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from pathopatch.slides.glass import _absorption, find_glass

SIDE = 320
GLASS = np.array([245.0, 240.0, 242.0])


def field(share: float = 0.5, seed: int = 0) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """Return H&E-like pixels (3, SIDE, SIDE) on even glass, and which of them are tissue."""
    rng = np.random.default_rng(seed)
    smooth = cv2.GaussianBlur(rng.normal(size=(SIDE, SIDE)), (0, 0), 12)
    tissue = smooth > np.quantile(smooth, 1 - share)
    amount = 0.3 + cv2.GaussianBlur(rng.random((SIDE, SIDE)), (0, 0), 2) * tissue
    density = np.multiply.outer(np.array([0.4, 1.0, 0.5]), np.where(tissue, amount, 0))
    return GLASS[:, None, None] * np.exp(-density) + rng.normal(0, 1, (3, SIDE, SIDE)), tissue


def as_uint8(pixels: NDArray[Any]) -> NDArray[np.uint8]:
    return np.asarray(np.clip(np.rint(pixels), 0, 255), np.uint8)


EVERY = np.ones((SIDE, SIDE), np.bool_)


@pytest.mark.parametrize("factor", [1.0, 0.6, 0.55, 0.35])
@pytest.mark.parametrize("tint", [(1, 1, 1), (1, 0.75, 0.9), (0.75, 0.8, 1)])
def test_the_level_follows_exposure_and_tint_and_absorption_does_not(
    factor: float, tint: tuple[float, float, float]
) -> None:
    pixels, tissue = field()
    light = factor * np.array(tint)[:, None, None]
    glass = find_glass(as_uint8(pixels * light), EVERY)
    assert glass is not None
    assert glass.illumination is None
    assert glass.level == pytest.approx(GLASS * factor * np.array(tint), rel=0.01)
    absorbed = _absorption(as_uint8(pixels * light), glass.level, None)
    assert absorbed[~tissue].mean() < 0.02
    assert absorbed[tissue].min() > 0.1


@pytest.mark.parametrize("dtype", [np.uint16, np.float32])
def test_other_types_have_the_same_glass(dtype: type[np.generic]) -> None:
    pixels, _ = field()
    glass = find_glass((pixels * 40).astype(dtype), EVERY)
    assert glass is not None
    assert glass.level == pytest.approx(GLASS * 40, rel=0.01)


@pytest.mark.parametrize("share", [0.02, 0.5, 0.97])
def test_glass_is_found_whether_there_is_much_or_little_of_it(share: float) -> None:
    glass = find_glass(as_uint8(field(share)[0]), EVERY)
    assert glass is not None
    assert glass.level == pytest.approx(GLASS, rel=0.01)


def test_tissue_alone_shows_no_glass() -> None:
    assert find_glass(as_uint8(field()[0]), ~EVERY) is None
    rng = np.random.default_rng(1)
    texture = cv2.GaussianBlur(rng.normal(size=(SIDE, SIDE)), (0, 0), 3)
    assert find_glass(as_uint8(np.tile(130 + 300 * texture, (3, 1, 1))), EVERY) is None


def ramp(kind: str) -> NDArray[np.float64]:
    """Return light that falls off by 25 % to either side of its mean."""
    y, x = np.meshgrid(np.linspace(-1, 1, SIDE), np.linspace(-1, 1, SIDE), indexing="ij")
    shape = {"across": x, "radial": 1 - (x * x + y * y)}[kind]
    return np.asarray((1 + 0.25 * shape) / 1.25)


@pytest.mark.parametrize("kind", ["across", "radial"])
def test_uneven_light_is_divided_out(kind: str) -> None:
    pixels, tissue = field()
    glass = find_glass(as_uint8(pixels * ramp(kind)), EVERY)
    assert glass is not None
    assert glass.illumination is not None
    seen = glass.illumination.over(SIDE, SIDE)
    np.testing.assert_allclose(seen / seen.max(), ramp(kind) / ramp(kind).max(), atol=0.05)
    np.testing.assert_array_equal(glass.illumination.over(SIDE, SIDE, rows=slice(5, 9)), seen[5:9])
    absorbed = _absorption(as_uint8(pixels * ramp(kind)), glass.level, seen)
    assert (absorbed[~tissue] < 0.05).mean() > 0.99
    assert (absorbed[tissue] > 0.05).mean() > 0.99


def test_pale_tissue_that_fills_two_thirds_is_not_taken_for_uneven_light() -> None:
    pixels = np.tile(np.where(np.arange(SIDE) < SIDE // 3, 240.0, 216.0), (3, SIDE, 1))
    glass = find_glass(as_uint8(pixels + np.random.default_rng(0).normal(0, 1, pixels.shape)), EVERY)
    assert glass is not None
    assert glass.illumination is None
    assert glass.level == pytest.approx([240] * 3, abs=1)


@pytest.mark.parametrize("seed", range(4))
def test_an_image_of_two_values_is_no_glass_and_no_error(seed: int) -> None:
    pixels = np.random.default_rng(seed).integers(0, 2, (1, 64, 64)).astype(np.uint8)
    glass = find_glass(pixels, np.ones((64, 64), np.bool_))
    assert glass is None or (glass.level > 0).all()
