"""What a slide shows of itself: a small picture, a line, and a card in notebooks."""

from __future__ import annotations

from pathlib import Path

import made_slides as made
import numpy as np
import pytest

from pathopatch.core.errors import InputUnsupportedError
from pathopatch.slides import open_slide


def test_a_thumbnail_of_brightfield_has_the_slides_own_colours(tmp_path: Path) -> None:
    image = np.full((3, 200, 300), 250, np.uint8)
    image[:, :, :150] = np.array([200, 60, 120], np.uint8)[:, None, None]
    made.write_rgb_pyramid(tmp_path / "a.tif", image)
    with open_slide(tmp_path / "a.tif") as slide:
        thumbnail = np.asarray(slide.thumbnail(60))
    assert thumbnail.shape == (40, 60, 3)
    assert thumbnail[20, 10].tolist() == [200, 60, 120]
    assert thumbnail[20, 50].tolist() == [250, 250, 250]


def test_a_thumbnail_of_dark_channels_is_red_green_blue(tmp_path: Path) -> None:
    image = np.zeros((3, 64, 96), np.uint16)
    for channel in range(3):
        image[channel, :, 32 * channel : 32 * (channel + 1)] = 100 * (channel + 1)  # of unlike brightness
    with open_slide(made.write_modalities(tmp_path, image), background="dark") as slide:
        thumbnail = np.asarray(slide.thumbnail())
    assert thumbnail.shape == (64, 96, 3)  # a smaller slide keeps its size
    np.testing.assert_array_equal(thumbnail[10, [16, 48, 80]], 255 * np.eye(3))


def test_pixels_that_are_no_numbers_are_black_in_a_thumbnail(tmp_path: Path) -> None:
    image = np.tile(np.linspace(1, 2, 64, dtype=np.float32), (64, 1))
    image[0, 60], image[1, 60] = np.nan, np.inf
    made.write_channel(tmp_path / "a.tif", image)
    with open_slide(tmp_path / "a.tif", background="dark") as slide:
        thumbnail = np.asarray(slide.thumbnail())
    assert thumbnail[:3, 60, 0].tolist() == [0, 0, 243]  # 60 of 63 steps from black to full


def test_a_thumbnail_of_no_pixels_is_refused(tmp_path: Path) -> None:
    made.write_rgb_pyramid(tmp_path / "a.tif", made.noise(3, 64, 64, np.uint8))
    with open_slide(tmp_path / "a.tif") as slide, pytest.raises(InputUnsupportedError, match="0 px"):
        slide.thumbnail(0)


def test_the_line_of_a_slide_names_file_size_scale_and_channels(tmp_path: Path) -> None:
    made.write_rgb_pyramid(tmp_path / "a.tif", made.noise(3, 203, 299, np.uint8), mpp=0.5)
    with open_slide(tmp_path / "a.tif") as slide:
        assert repr(slide) == "<TiffSlide 'a.tif': 299 x 203 px, 0.5 um/px, R, G, B>"
    made.write_channel(tmp_path / "b.tif", made.noise(1, 64, 64, np.uint8)[0], mpp=None)
    with open_slide(tmp_path / "b.tif") as slide:
        assert "um/px unknown" in repr(slide)
