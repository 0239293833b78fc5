"""CZI files: gaps of a mosaic, positions on Z and T, levels, and what is refused."""

from __future__ import annotations

import sys
from pathlib import Path

import made_slides as made
import numpy as np
import pytest
from pylibCZIrw import czi as library

from pathopatch.core.errors import InputCorruptError, InputUnsupportedError
from pathopatch.slides import czi, open_slide

NAMES = ("DAPI", "FITC")


def test_what_no_tile_covers_is_background_and_not_scanned(tmp_path: Path) -> None:
    tiles = {(100, 50): made.noise(3, 40, 60, np.uint8), (170, 70): made.noise(3, 30, 20, np.uint8, seed=1)}
    made.write_czi(tmp_path / "a.czi", tiles)
    slide = open_slide(tmp_path / "a.czi", background="bright")
    expected = np.full((3, 50, 90), 255, np.uint8)  # from (100, 50) to (190, 100)
    expected[:, :40, :60], expected[:, 20:50, 70:90] = tiles.values()
    assert slide.size == (90, 50)
    np.testing.assert_array_equal(slide.read_region(0, 0, 90, 50), expected)
    _, opacity = slide._read_level(0, 0, 90, 50, 0)
    scanned = np.zeros((50, 90), bool)
    scanned[:40, :60] = scanned[20:50, 70:90] = True
    np.testing.assert_array_equal(opacity, np.where(scanned, 255, 0))
    assert slide._read_level(5, 5, 50, 30, 0)[1] is None


def test_a_tile_that_one_channel_lacks_is_missing_in_that_channel_alone(tmp_path: Path) -> None:
    with library.create_czi(str(tmp_path / "a.czi")) as writer:
        for number, x in ((0, 0), (0, 30), (1, 0)):
            tile = np.full((20, 30, 1), 7, np.uint16)
            writer.write(tile, location=(x, 0), plane={"C": number, "Z": 0, "T": 0})
        writer.write_metadata("a", channel_names=dict(enumerate(NAMES)), scale_x=5e-7, scale_y=5e-7)
    _, opacity = open_slide(tmp_path / "a.czi")._read_level(0, 0, 60, 20, 0)
    assert opacity is not None
    assert [np.unique(plane).tolist() for plane in (opacity[0], opacity[1, :, :30], opacity[1, :, 30:])] == [
        [255], [255], [0],
    ]  # fmt: skip


def test_one_position_of_z_and_t_is_chosen_in_words(tmp_path: Path) -> None:
    image = made.noise(2, 30, 40, np.uint16)
    made.write_czi(tmp_path / "a.czi", {(0, 0): image}, names=NAMES, z=3, t=2)
    for fragment, missing in (("", "#[tz]=0 to #[tz]="), ("#z=1", "#t=0 to #t=1"), ("#t=1", "#z=0 to #z=2")):
        with pytest.raises(InputUnsupportedError, match=f"positions on the axis.*choose one with {missing}"):
            open_slide(f"{tmp_path / 'a.czi'}{fragment}")
    with open_slide(f"{tmp_path / 'a.czi'}#z=2&t=1") as slide:
        assert slide.channels == NAMES
        np.testing.assert_array_equal(slide.read_region(0, 0, 40, 30), image + 12)
    with open_slide(f"{tmp_path / 'a.czi'}#z=1&t=0&plane=1") as slide:
        assert slide.channels == ("FITC",)
        np.testing.assert_array_equal(slide.read_region(0, 0, 40, 30), image[1:] + 1)
    for fragment, message in (("#z=3&t=0", "no z 3.*0 to 2"), ("#page=0", "no pages"), ("#z=0&t=0&plane=2", "0 to 1")):
        with pytest.raises(InputUnsupportedError, match=message):
            open_slide(f"{tmp_path / 'a.czi'}{fragment}")


@pytest.mark.parametrize("names", [("DAPI", "DAPI"), ("DAPI", "")])
def test_names_that_are_missing_or_the_same_are_none(names: tuple[str, ...], tmp_path: Path) -> None:
    made.write_czi(tmp_path / "a.czi", {(0, 0): made.noise(2, 30, 40, np.uint16)}, names=names, mpp=0)
    slide = open_slide(tmp_path / "a.czi")
    assert (slide.channels, slide.has_mpp) == (("C0", "C1"), False)


def test_colour_of_16_bits_is_red_green_and_blue(tmp_path: Path) -> None:
    image = made.noise(3, 30, 40, np.uint16)
    made.write_czi(tmp_path / "a.czi", {(0, 0): image})
    slide = open_slide(tmp_path / "a.czi")
    assert (slide.channels, slide.dtype, slide.is_rgb) == (("R", "G", "B"), np.uint16, False)
    np.testing.assert_array_equal(slide.read_region(0, 0, 40, 30), image)
    np.testing.assert_array_equal(open_slide(f"{tmp_path / 'a.czi'}#plane=2").read_region(0, 0, 40, 30), image[2:])


def test_channels_of_several_types_are_refused(tmp_path: Path) -> None:
    with library.create_czi(str(tmp_path / "a.czi")) as writer:
        writer.write(np.zeros((20, 30, 1), np.uint16), plane={"C": 0, "Z": 0, "T": 0})
        writer.write(np.zeros((20, 30, 3), np.uint8), plane={"C": 1, "Z": 0, "T": 0})
    with pytest.raises(InputUnsupportedError, match="Gray16, Bgr24.*split the channels in ZEN"):
        open_slide(tmp_path / "a.czi")


@pytest.mark.parametrize(
    ("zooms", "steps"),
    [({1.0}, (1,)), ({1.0, 0.5, 0.25}, (1, 2, 4)), ({1.0, 0.4983, 0.2512}, (1, 2, 4)), ({1.0, 0.25}, (1,)),
     ({1.0, 0.3333}, (1,)), ({1.0, 0.5, 0.25, 0.125, 0.0625, 0.0312}, (1, 2, 4, 8, 16))],
)  # fmt: skip
def test_levels_are_the_halvings_that_the_file_holds(zooms: set[float], steps: tuple[int, ...]) -> None:
    assert czi._downsamples(zooms, (41, 31)) == steps


def test_a_pixel_of_a_level_stands_at_its_downsample(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    image = made.noise(1, 51, 83, np.uint16)
    made.write_czi(tmp_path / "a.czi", {(7, 9): image[:, :, :32], (39, 9): image[:, :28, 32:]}, names=("SHG",))
    monkeypatch.setattr(
        czi, "_downsamples", lambda *_: (1, 2, 4)
    )  # without stored blocks the library takes every 2nd, 4th
    slide = open_slide(tmp_path / "a.czi", background="dark")
    image[:, 28:, 32:] = 0
    for level, step in enumerate((1, 2, 4)):
        box = slide.levels[level]
        assert (box.width, box.height, box.downsample) == (83 // step, 51 // step, step)
        expected = image[:, ::step, ::step][:, : box.height, : box.width]
        shown = slide._blended(
            0, 0, box.width, box.height, level
        )  # the library draws a row beyond a tile, which we mask
        np.testing.assert_array_equal(shown, expected)
        is_scanned = np.ones((1, box.height, box.width), bool)
        is_scanned[:, 28 // step :, 32 // step :] = False
        _, opacity = slide._read_level(0, 0, box.width, box.height, level)
        np.testing.assert_array_equal(opacity == 255, is_scanned)
        np.testing.assert_array_equal(slide._blended(3, 2, 9, 7, level), expected[:, 2:9, 3:12])


def test_without_the_library_the_remedy_names_the_extra_and_the_export(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made.write_czi(tmp_path / "a.czi", {(0, 0): made.noise(3, 30, 40, np.uint8)})
    monkeypatch.setitem(sys.modules, "pylibCZIrw", None)
    with pytest.raises(InputUnsupportedError, match=r"pip install pylibCZIrw, or export an OME-TIFF in ZEN"):
        open_slide(tmp_path / "a.czi")


def test_another_process_does_not_use_this_ones_handle(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    image = made.noise(3, 30, 40, np.uint8)
    made.write_czi(tmp_path / "a.czi", {(0, 0): image})
    slide = open_slide(tmp_path / "a.czi")
    assert isinstance(slide, czi.CziSlide)
    slide.read_region(0, 0, 9, 9)
    first = slide._handle
    monkeypatch.setattr("os.getpid", lambda: -7)  # as after a fork
    np.testing.assert_array_equal(slide.read_region(0, 0, 9, 9), image[:, :9, :9])
    assert slide._handle is not first


@pytest.mark.parametrize("percent", [2, 30, 70, 99])
def test_a_file_that_ends_early_is_corrupt(percent: int, tmp_path: Path) -> None:
    made.write_czi(tmp_path / "a.czi", {(0, 0): made.noise(3, 300, 400, np.uint8)})
    with pytest.raises(InputCorruptError):
        open_slide(made.write_truncated(tmp_path / "a.czi", percent, tmp_path / "cut.czi")).read_region(0, 0, 400, 300)


def test_a_file_that_is_only_named_so_is_corrupt(tmp_path: Path) -> None:
    (tmp_path / "a.czi").write_bytes(b"no such thing")
    with pytest.raises(InputCorruptError, match="does not begin as a CZI file"):
        open_slide(tmp_path / "a.czi")
