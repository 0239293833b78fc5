"""A slide in memory, for any test: one level, its pixels in a .npy file. Its fixtures are registered in conftest.py.

Beside them: what a slide of known tissue may look like, and its truth as a mask file.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from made_slides import write_rgb_pyramid
from numpy.typing import NDArray

from pathopatch.slides.resolution import Level, SlideFacts, resolution
from pathopatch.slides.slide import Slide


class ArraySlide(Slide):
    """A slide whose pixels are an array (C, H, W)."""

    def __init__(self, *, path: Path, mpp: float | None, channels: tuple[str, ...], background: Any) -> None:
        self._pixels = np.load(path)
        _, height, width = self._pixels.shape
        facts = SlideFacts(
            channels=channels,
            dtype=self._pixels.dtype,
            levels=(Level(width, height, 1.0),),
            resolution=resolution(mpp or 1.0, mpp or 1.0, source="the test"),
            paths=(path,),
        )
        super().__init__(facts, {"path": path}, mpp=mpp, channels=channels, background=background)

    def _read_level(self, left: int, top: int, width: int, height: int, level: int) -> tuple[Any, None]:
        return self._pixels[:, top : top + height, left : left + width], None

    def close(self) -> None:
        pass


@pytest.fixture
def make_slide(tmp_path: Path) -> Callable[..., ArraySlide]:
    """Return a function that makes a slide of an array."""

    def make(
        pixels: NDArray[Any],
        *,
        mpp: float = 1.0,
        channels: tuple[str, ...] = (),
        background: str | None = None,
        name: str = "slide",
    ) -> ArraySlide:
        path = tmp_path / f"{name}.npy"
        np.save(path, pixels)
        names = channels or (("R", "G", "B") if len(pixels) == 3 else ("CARS", "SHG")[: len(pixels)])
        return ArraySlide(path=path, mpp=mpp, channels=names, background=background)

    return make


@pytest.fixture
def two_discs() -> NDArray[np.bool_]:
    """Return the truth of a slide of 200 x 150 px: discs of radius 40 and 25 px."""
    y, x = np.mgrid[:150, :200] + 0.5
    return ((x - 60) ** 2 + (y - 70) ** 2 < 40**2) | ((x - 150) ** 2 + (y - 100) ** 2 < 25**2)


def low_counts(truth: NDArray[np.bool_]) -> NDArray[np.uint16]:
    """Return one SHG-like channel of 0 to 157 counts and one of noise."""
    generator = np.random.default_rng(0)
    shg = np.where(truth, 157, 0)
    return np.stack([shg, generator.normal(1000, 20, truth.shape)]).astype(np.uint16)


def h_and_e(truth: NDArray[np.bool_]) -> NDArray[np.uint8]:
    """Return a slide stained purple on white glass."""
    return np.where(truth, np.array([180, 90, 150])[:, None, None], 245).astype(np.uint8)


def write_he_cohort(folder: Path) -> Path:
    """Write nine slides of nine patients with smooth tissue, and return their manifest."""
    rng, lines = np.random.default_rng(0), ["slide_id,patient_id,path"]
    for number in range(9):
        field = cv2.GaussianBlur(rng.normal(size=(256, 256)), (0, 0), 14)
        image = h_and_e(field > np.quantile(field, 0.6)) + rng.integers(0, 8, (3, 256, 256)).astype(np.uint8)
        write_rgb_pyramid(folder / f"S{number}.tif", image, levels=1)
        lines.append(f"S{number},P{number},S{number}.tif")
    (folder / "cohort.csv").write_text("\n".join(lines))
    return folder / "cohort.csv"


def write_mask(path: Path, truth: NDArray[Any]) -> Path:
    """Write a mask of 0 and 255 as an image file."""
    assert cv2.imwrite(str(path), truth.astype(np.uint8) * 255)
    return path
