"""Aperio slides are decoded directly where that gives OpenSlide's pixels, and only there."""

from __future__ import annotations

from pathlib import Path

import cv2
import made_slides as made
import numpy as np
import openslide
import pytest
import tifffile

from pathopatch.slides import Slide, open_slide
from pathopatch.slides import open as slides_open
from pathopatch.slides.openslide import OpenSlideSlide
from pathopatch.slides.tiff import TiffSlide

WIDTH, HEIGHT = 403, 301  # odd at the level below, too


def texture() -> np.ndarray:
    """(3, HEIGHT, WIDTH) of smooth colour, which chroma subsampling changes without destroying it."""
    blurred = [cv2.GaussianBlur(plane, (0, 0), 3) for plane in made.noise(3, HEIGHT, WIDTH, np.uint8)]
    return np.stack([cv2.normalize(plane, None, 0, 255, cv2.NORM_MINMAX) for plane in blurred])


def assert_equal_to_openslide(slide: Slide, path: Path) -> None:
    with openslide.OpenSlide(path) as direct:
        assert direct.level_dimensions == tuple((level.width, level.height) for level in slide.levels)
        for index, (width, height) in enumerate(direct.level_dimensions):
            expected = np.asarray(direct.read_region((0, 0), index, (width, height)))[..., :3]
            pixels = slide.read_region(0, 0, width, height, level=index)
            np.testing.assert_array_equal(pixels, expected.transpose(2, 0, 1))
        expected = np.asarray(direct.read_region((37, 61), 0, (150, 99)))[..., :3]
        np.testing.assert_array_equal(slide.read_region(37, 61, 150, 99), expected.transpose(2, 0, 1))


@pytest.mark.parametrize(
    "options",
    [
        {"compression": "jpeg", "subsampling": (1, 1)},
        {"compression": "jpeg", "subsampling": (2, 2), "compressionargs": {"level": 70}},
        {"compression": "jpeg", "subsampling": (2, 1)},
        {"compression": "jpeg", "compressionargs": {"level": 30, "outcolorspace": "rgb"}},
        {"compression": "APERIO_JP2000_RGB", "compressionargs": {"reversible": True}},
        {"compression": "APERIO_JP2000_RGB", "compressionargs": {"level": 60}},
    ],
    ids=["4:4:4", "4:2:0", "4:2:2", "RGB", "JPEG 2000", "JPEG 2000, lossy"],
)
def test_a_slide_that_both_decode_alike_is_decoded_directly(options: dict[str, object], tmp_path: Path) -> None:
    made.write_aperio(tmp_path / "a.svs", texture(), **options)  # type: ignore[arg-type]
    with open_slide(tmp_path / "a.svs") as slide:
        assert isinstance(slide, TiffSlide)
        assert (slide.channels, slide.mpp, slide.is_rgb) == (("R", "G", "B"), 0.5, True)
        assert_equal_to_openslide(slide, tmp_path / "a.svs")


def test_jpeg_2000_in_ycbcr_stays_with_openslide(tmp_path: Path) -> None:
    path = tmp_path / "a.svs"
    made.write_aperio(path, texture(), compression="APERIO_JP2000_YCBC", compressionargs={"reversible": True})
    with open_slide(path) as slide:
        assert isinstance(slide, OpenSlideSlide)
        assert_equal_to_openslide(slide, path)


def test_a_slide_with_tiles_that_were_never_written_stays_with_openslide(tmp_path: Path) -> None:
    made.write_aperio(tmp_path / "a.svs", texture(), compression="jpeg")
    with tifffile.TiffFile(tmp_path / "a.svs", mode="r+b") as tiff:
        counts = tiff.pages[0].tags[325]
        counts.overwrite([*counts.value[:-1], 0])
    assert isinstance(open_slide(tmp_path / "a.svs"), OpenSlideSlide)


@pytest.mark.parametrize("level", [0, 1])
def test_a_slide_of_which_a_tile_differs_stays_with_openslide(
    level: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made.write_aperio(tmp_path / "a.svs", texture(), compression="jpeg")
    asked = []
    is_equal = slides_open._is_equal_tile

    def spoiled(slide: TiffSlide, handle: object, corner: tuple[int, int], at: int, tile: tuple[int, int]) -> bool:
        asked.append(at)
        return is_equal(slide, handle, corner, at, tile) and at != level

    monkeypatch.setattr(slides_open, "_is_equal_tile", spoiled)
    assert isinstance(open_slide(tmp_path / "a.svs"), OpenSlideSlide)
    assert asked == list(range(level + 1))


def test_a_slide_whose_description_has_no_mpp_does_not_take_it_from_the_resolution_tags(tmp_path: Path) -> None:
    path = tmp_path / "a.svs"
    made.write_aperio(path, texture(), compression="jpeg", resolution=(20000, 20000), resolutionunit="CENTIMETER")
    content = path.read_bytes()
    path.write_bytes(content.replace(b"|MPP = 0.5", b"|XXX = 0.5"))
    with open_slide(path) as slide:
        assert not slide.has_mpp


@pytest.mark.real
def test_a_real_slide_is_decoded_directly_and_equal_throughout(real_data: Path) -> None:
    path = real_data / "wsi" / "CMU-1-Small-Region.svs"
    with open_slide(path) as slide:
        assert isinstance(slide, TiffSlide)
        assert_equal_to_openslide(slide, path)
