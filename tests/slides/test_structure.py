"""Two slides that show one picture are alike whatever their files, and no others are."""

from __future__ import annotations

import base64
import time
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
import pytest
import tifffile
from numpy.typing import NDArray
from PIL import Image

from pathopatch.slides import open_slide
from pathopatch.slides.structure import alike_pairs, marks_alike, structure_mark, structure_of


def pairs(structures: list[str]) -> list[tuple[int, int]]:
    return list(alike_pairs(structures, [1.0] * len(structures)))


def tissue(seed: int, side: int = 512) -> NDArray[np.uint8]:
    """Glass with soft blobs, (3, side, side)."""
    rng = np.random.default_rng(seed)
    blobs = cv2.GaussianBlur(rng.normal(size=(side, side)).astype(np.float32), (0, 0), side / 25)
    grey = np.where(blobs > 0.5 * blobs.std(), 140, 240) + rng.normal(0, 4, (side, side))
    return np.repeat(grey.clip(0, 255).astype(np.uint8)[None], 3, 0)


def as_jpeg(pixels: NDArray[np.uint8], quality: int) -> NDArray[np.uint8]:
    coded = cv2.imencode(".jpg", pixels.transpose(1, 2, 0), [cv2.IMWRITE_JPEG_QUALITY, quality])[1]
    return np.asarray(cv2.imdecode(coded, cv2.IMREAD_COLOR).transpose(2, 0, 1), np.uint8)


@pytest.mark.parametrize(
    "saved",
    [
        lambda pixels: as_jpeg(pixels, 50),
        lambda pixels: pixels.astype(np.uint16) * 257,
        lambda pixels: pixels[:, ::2, ::2],
        lambda pixels: pixels.astype(np.float32) / 255,
    ],
    ids=["JPEG", "16 bits", "half the pixels", "floats"],
)
def test_a_picture_saved_otherwise_is_alike(saved: Callable[[NDArray[np.uint8]], NDArray[np.generic]]) -> None:
    first, second, other = structure_of(tissue(0)), structure_of(saved(tissue(0))), structure_of(tissue(1))
    assert pairs([first, other, second]) == [(0, 2)]
    assert marks_alike(structure_mark(first), structure_mark(second))
    assert not marks_alike(structure_mark(first), structure_mark(other))


def test_one_picture_in_another_shape_is_another() -> None:
    structure = structure_of(tissue(0))
    assert list(alike_pairs([structure] * 3, [1.0, 1.05, 1.005])) == [(0, 2)]


def test_pictures_of_a_few_plain_shapes_are_like_none() -> None:
    image = np.full((3, 512, 512), 240, np.uint8)
    image[:, 70:110, 70:110] = 90
    assert structure_of(image) == ""
    cv2.circle(image[0], (300, 250), 90, (120,), -1)
    assert structure_of(image[:1]) == ""
    assert structure_of(tissue(0)) != ""


def test_pixels_that_were_not_scanned_do_not_count() -> None:
    valid = np.ones((512, 512), np.bool_)
    valid[:100] = False
    white, black = tissue(0), tissue(0)
    white[:, :100], black[:, :100] = 255, 0
    assert structure_of(white, valid) == structure_of(black, valid)
    assert structure_of(np.full((1, 64, 64), np.nan), np.zeros((64, 64), np.bool_)) == ""


def test_blank_and_dark_slides_are_like_none() -> None:
    rng = np.random.default_rng(0)
    y, x = np.mgrid[-1:1:256j, -1:1:256j]
    structures = []
    for number in range(200):
        lamp = (lambda: 1 / (1 + rng.uniform(0, 0.3) * (x**2 + y**2)) ** 2, lambda: 1 - 0.1 * x, lambda: 1 + 0 * x)
        light = (245, 250, 275, 4)[number % 4] * lamp[number % 3]()
        pixels = light + rng.normal(0, number % 5, (256, 256))
        structures.append(structure_of(np.repeat(pixels.clip(0, 255).astype(np.uint8)[None], 3, 0)))
    assert pairs(structures) == []
    assert structure_mark("") == ""
    assert not marks_alike("", "")


def test_ten_thousand_structures_are_compared_in_ten_seconds() -> None:
    rng = np.random.default_rng(0)
    noise = base64.b64decode(structure_of(rng.integers(0, 256, (1, 32, 32)).astype(np.uint8)))
    structures = [base64.b64encode(rng.bytes(len(noise))).decode() for _ in range(9_999)]
    structures.append(structures[17])
    began = time.perf_counter()
    assert pairs(structures) == [(17, 9_999)]
    assert time.perf_counter() - began < 10


@pytest.mark.slow
@pytest.mark.real
def test_no_two_real_slides_are_alike_and_each_is_alike_its_jpeg(real_data: Path, tmp_path: Path) -> None:
    files = sorted((real_data / "tumor_masks").glob("*/images/*"))
    files += [*(real_data / "wsi").glob("*.tif"), *(real_data / "wsi").glob("*.svs")]
    structures, shapes = [], []
    for file in files:
        with open_slide(file, mpp=1.0) as slide:
            structures.append(slide.structure)
            shapes.append(slide.size[0] / slide.size[1])
    assert len(structures) >= 45
    assert "" not in structures
    assert list(alike_pairs(structures, shapes)) == []
    for file, structure in zip(files[::4], structures[::4], strict=True):
        with open_slide(file, mpp=1.0) as slide:
            pixels = slide.read_region(0, 0, *slide.size)
        path = tmp_path / "again.tif"
        tifffile.imwrite(path, pixels.transpose(1, 2, 0), photometric="rgb", tile=(256, 256), compression="jpeg",
                         compressionargs={"level": 60})  # fmt: skip
        with open_slide(path, mpp=1.0) as slide:
            assert pairs([structure, slide.structure]) == [(0, 1)]


@pytest.mark.slow
@pytest.mark.real
@pytest.mark.parametrize("organ", ["lung", "colon"])
def test_real_tiles_of_different_sources_are_never_alike(organ: str, real_data: Path) -> None:
    listed = pd.read_csv(real_data / organ / "patches.csv")
    images = (np.asarray(Image.open(real_data / organ / path)).transpose(2, 0, 1) for path in listed["path"])
    found = pairs([structure_of(image) for image in images])
    assert [(i, j) for i, j in found if listed["patient_id"][i] != listed["patient_id"][j]] == []
