"""Micrometres per pixel: read, never guessed."""

from __future__ import annotations

from pathlib import Path

import made_slides as made
import numpy as np
import pytest
import tifffile

from pathopatch.core.errors import MppMissingError
from pathopatch.slides import open_slide
from pathopatch.slides.resolution import resolution

PLANE = np.zeros((20, 30), np.uint16)


@pytest.mark.parametrize("value", ["0", "nan", "inf", "-0.5", "999", "0.049", "20.1", "fine", 0.0, float("nan")])
def test_a_value_without_sense_counts_as_missing_and_is_named(value: float | str) -> None:
    result = resolution(value, value, source="the tag")
    assert result.mpp is None
    assert result.reason.startswith("the tag")
    assert str(value)[:4].rstrip(".0") in result.reason


def test_pixels_must_be_square_within_two_percent() -> None:
    assert resolution(0.5, 0.505, source="").mpp == pytest.approx(0.5025, abs=1e-4)
    assert resolution(0.5, 0.52, source="").mpp is None


@pytest.mark.parametrize("mpp", [0.05, 0.2282, 20.0])
def test_resolution_tags_in_cm_are_read(mpp: float, tmp_path: Path) -> None:
    made.write_channel(tmp_path / "a.tif", PLANE, mpp=mpp)
    assert open_slide(tmp_path / "a.tif").mpp == pytest.approx(mpp)


def test_resolution_tags_in_inch_are_read(tmp_path: Path) -> None:
    tifffile.imwrite(tmp_path / "a.tif", PLANE, resolution=(50800, 50800), resolutionunit="INCH", metadata=None)
    assert open_slide(tmp_path / "a.tif").mpp == pytest.approx(0.5)


def refused(path: Path) -> str:
    """The message of the error that a missing mpp gives."""
    slide = open_slide(path)
    assert not slide.has_mpp
    with pytest.raises(MppMissingError) as caught:
        _ = slide.mpp
    assert path.name in str(caught.value)
    return str(caught.value)


def test_dots_per_inch_of_a_screen_are_no_mpp(tmp_path: Path) -> None:
    tifffile.imwrite(tmp_path / "a.tif", PLANE, resolution=(72, 72), resolutionunit="INCH", metadata=None)
    assert "352.778" in refused(tmp_path / "a.tif")


@pytest.mark.parametrize("stated", ["0", "nan", "1000"])
def test_a_scanners_mpp_without_sense_is_named(stated: str, tmp_path: Path) -> None:
    made.write_aperio(tmp_path / "a.svs", np.full((3, 64, 64), 200, np.uint8), levels=1, mpp=stated)  # type: ignore[arg-type]
    assert "um" in refused(tmp_path / "a.svs")


def test_a_given_mpp_stands_in_place_of_the_files(tmp_path: Path) -> None:
    made.write_channel(tmp_path / "a.tif", PLANE, mpp=None)
    assert open_slide(tmp_path / "a.tif", mpp=0.4).mpp == 0.4
    for absurd in (0.0, float("nan"), 500.0):
        with pytest.raises(MppMissingError, match="the value given"):
            open_slide(tmp_path / "a.tif", mpp=absurd)


def test_an_imagej_file_states_its_unit_in_words(tmp_path: Path) -> None:
    for unit in ("micron", "um", "\\u00B5m"):
        tifffile.imwrite(tmp_path / "a.tif", PLANE, imagej=True, metadata={"unit": unit}, resolution=(4, 4))
        assert open_slide(tmp_path / "a.tif").mpp == pytest.approx(0.25)
    tifffile.imwrite(tmp_path / "a.tif", PLANE, imagej=True, metadata={"unit": "pixel"}, resolution=(4, 4))
    assert "'pixel'" in refused(tmp_path / "a.tif")
