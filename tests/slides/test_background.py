"""Dark or bright: guessed from border and mode, overridable."""

from __future__ import annotations

from pathlib import Path

import made_slides as made
import numpy as np
import pytest

from pathopatch.core.errors import InputUnsupportedError
from pathopatch.slides import open_slide
from pathopatch.slides.background import Polarity, background_text, guess_polarities, otsu, parse_background


def guess(image: np.ndarray, *, valid: np.ndarray | None = None) -> Polarity:
    """Return the polarity of all channels; three of uint8 are colour."""
    is_colour = len(image) == 3 and image.dtype == np.uint8
    polarities = set(guess_polarities(image, is_colour=is_colour, valid=valid))
    assert len(polarities) == 1
    return polarities.pop()


def disc(tissue: float, glass: float, channels: int, dtype: type[np.generic]) -> np.ndarray:
    return made.disc_image(200, 160, (100, 80), 60, tissue=[tissue] * channels, glass=[glass] * channels, dtype=dtype)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.int16, np.float32, np.float64])
@pytest.mark.parametrize("channels", [1, 3, 4])
def test_the_polarity_of_a_disc_is_seen(channels: int, dtype: type[np.generic]) -> None:
    assert guess(disc(40, 240, channels, dtype)) == "bright"
    assert guess(disc(240, 10, channels, dtype)) == "dark"


def test_a_field_full_of_stained_tissue_is_bright() -> None:
    colours = np.array([170, 120, 160])[:, None, None]
    image = colours + np.random.default_rng(0).normal(0, 12, (3, 100, 100))
    assert guess(np.clip(image, 0, 255).astype(np.uint8)) == "bright"


@pytest.mark.parametrize("dtype", [np.uint16, np.int16, np.float32])
def test_tissue_on_a_thousandth_of_a_noisy_slide_tells_the_polarity(dtype: type[np.generic]) -> None:
    for seed in range(8):  # the noise itself is as often on one side as on the other
        plane = np.random.default_rng(seed).normal(1000, 20, (200, 250))
        assert guess(plane[None].astype(dtype)) == "dark"
        for tissue, expected in ((1800, "dark"), (200, "bright")):
            sparse = plane.copy()
            sparse[90:95, 60:70] = tissue
            assert guess(sparse[None].astype(dtype)) == expected


def test_a_constant_slide_has_a_polarity() -> None:
    for value, expected in ((255, "bright"), (0, "dark")):
        assert guess(np.full((3, 9, 9), value, np.uint8)) == expected
        assert guess(np.full((1, 9, 9), value, np.uint8)) == expected
    assert guess(np.full((2, 9, 9), 7, np.uint16)) == "dark"


def test_values_that_are_no_numbers_and_unscanned_pixels_are_left_out() -> None:
    image = disc(240, 10, 1, np.float32)
    image[:, :5] = np.nan
    assert guess(image) == "dark"
    image[:, :, :40] = 1e6
    valid = np.ones((160, 200), bool)
    valid[:, :40] = False
    assert guess(image, valid=valid) == "dark"
    assert guess(image, valid=np.zeros((160, 200), bool)) == "dark"
    assert guess(np.zeros((3, 9, 9), np.uint8), valid=np.zeros((9, 9), bool)) == "bright"


def test_an_unscanned_surround_does_not_decide(tmp_path: Path) -> None:
    dark = np.clip(made.noise(3, 100, 120, np.float32), 0, 30).astype(np.uint8)
    made.write_scn(tmp_path / "a.scn", dark, (200, 200), (600, 600))
    with open_slide(tmp_path / "a.scn") as slide:
        assert slide.background == "dark"
        assert (slide.read_region(0, 0, 50, 50) == 0).all()
    made.write_scn(tmp_path / "b.scn", 255 - dark, (200, 200), (600, 600))
    with open_slide(tmp_path / "b.scn") as slide:
        assert slide.background == "bright"
        assert (slide.read_region(0, 0, 50, 50) == 255).all()


@pytest.mark.parametrize(
    ("dtype", "values", "background", "value"),
    [(np.float32, (0.25, 1.5), "bright", 1.5), (np.float64, (-3.5, 2.0), "dark", -3.5), (np.float32, (1, 2), "dark", 0),
     (np.int16, (-700, 900), "dark", -700), (np.int16, (100, 900), "dark", 0), (np.uint8, (0, 0), "bright", 255),
     (np.uint16, (0, 9), "bright", 65535), (np.uint16, (7, 9), "dark", 0), (np.int16, (0, 0), "bright", 32767),
     (np.float32, (0, 0), "bright", 0)],
)  # fmt: skip
def test_the_background_value_is_of_the_type_or_looked_up_where_it_does_not_tell(
    dtype: type[np.generic], values: tuple[float, float], background: str, value: float, tmp_path: Path
) -> None:
    plane = np.full((30, 30), values[0], dtype)
    plane[10:20] = values[1]
    made.write_channel(tmp_path / "a.tif", plane)
    slide = open_slide(tmp_path / "a.tif", background=background)  # type: ignore[arg-type]
    assert slide.background_values.tolist() == [value]
    assert (slide.read_region(-5, 0, 5, 30) == value).all()


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("dark", ("dark", "dark", "dark")),
        ("Bright", ("bright", "bright", "bright")),
        ("CARS=dark, HE=bright", ("dark", "bright", None)),
        ("dark,HE=bright", ("dark", "bright", "dark")),
    ],
)
def test_a_text_states_the_polarity_of_all_channels_or_of_some(text: str, expected: tuple[str | None, ...]) -> None:
    assert parse_background(text, ("CARS", "HE", "SHG")) == expected


@pytest.mark.parametrize("text", ["grey", "CARS=grey", "TPEF=dark", "CARS:dark", ""])
def test_a_text_that_is_no_polarity_or_names_no_channel_is_refused(text: str) -> None:
    with pytest.raises(InputUnsupportedError, match="background"):
        parse_background(text, ("CARS", "HE"))


def test_the_polarity_belongs_to_the_channel() -> None:
    shg, he = disc(240, 10, 1, np.uint8), disc(40, 240, 1, np.uint8)
    both = np.concatenate([shg, he])
    assert guess_polarities(both, is_colour=False) == ("dark", "bright")
    assert guess_polarities(both[::-1], is_colour=False) == ("bright", "dark")


@pytest.mark.parametrize("factor", [1.0, 0.6, 0.35])
def test_no_polarity_depends_on_exposure(factor: float) -> None:
    for image, expected in ((disc(80, 240, 3, np.uint8), "bright"), (disc(240, 20, 3, np.uint8), "dark")):
        assert guess((image * factor).astype(np.uint8)) == expected


def test_channels_that_show_the_same_have_one_polarity() -> None:
    rng = np.random.default_rng(0)
    shared = rng.normal(size=(100, 100))
    level = 1000 + 100 * shared
    level[:, :60] += 600  # most of the border and of the pixels are bright
    other = 1000 + 100 * shared
    other[:, :60] += 150  # alone it would say nothing
    polarities = guess_polarities(np.stack([level, other]).astype(np.uint16), is_colour=False)
    assert polarities == ("bright", "bright")


@pytest.mark.parametrize(
    "channels", [("DAPI, 405", "HE=1"), (" CARS", "HE "), ("dark", "bright"), ("a=dark", "b,c=bright")]
)
def test_a_text_of_any_names_is_read_as_it_was_written(channels: tuple[str, str]) -> None:
    assert parse_background(background_text(channels, ("dark", "bright")), channels) == ("dark", "bright")


def test_values_that_differ_by_rounding_are_one_value() -> None:
    one = np.float32(0.7)
    assert otsu(np.array([one, np.nextafter(one, np.float32(1))], np.float32)) is None


def test_two_values_are_split_in_the_middle() -> None:
    threshold = otsu(np.array([0.2] * 10 + [0.8] * 10, np.float32))
    assert threshold is not None
    assert abs(threshold - 0.5) < 0.002
