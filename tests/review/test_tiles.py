"""A tile's pixels are the slide's own; levels halve, edges are cropped, colours never depend on the tile."""

from __future__ import annotations

import io
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import made_slides as made
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from made_review import MODALITIES, SHIFT, Folders, bright_image, dark_image, write_facts
from PIL import Image

from pathopatch.core.errors import InputMissingError
from pathopatch.review import reviewed_cohort as cohorts
from pathopatch.review import tiles
from pathopatch.review.reviewed_cohort import ReviewedSlide, open_cohort
from pathopatch.review.tiles import level_size, max_level, patch_image, slide_thumbnail, tile_image, tile_pixels
from pathopatch.slides import open_slide


@pytest.fixture
def bright(folders: Folders) -> ReviewedSlide:
    return open_cohort(folders.out).open("bright")


@pytest.fixture
def dark(folders: Folders) -> ReviewedSlide:
    return open_cohort(folders.out).open("dark")


def rgb(image: np.ndarray) -> np.ndarray:
    return image.transpose(1, 2, 0)


def whole(slide: ReviewedSlide, level: int, size: int, channels: tuple[str, ...] | None = None) -> np.ndarray:
    """All tiles of a level side by side; each is asked for and has its due size."""
    width, height = level_size(slide.size, level, size)
    image = np.zeros((height, width, 3), np.uint8)
    for row in range(-(-height // size)):
        for column in range(-(-width // size)):
            part = image[row * size : (row + 1) * size, column * size : (column + 1) * size]
            pixels = tile_pixels(slide, level, column, row, channels=channels, size=size)
            assert pixels.shape == part.shape
            part[:] = pixels
    return image


def aligned_dark() -> np.ndarray:
    """The modalities as the model saw them: TPEF moved onto CARS, dark where it ends."""
    image, (x, y) = dark_image(), SHIFT
    moved = np.zeros_like(image[1])
    moved[-y:, :-x] = image[1, :y, x:]
    return np.stack([image[0], moved, image[2]])


def colored(image: np.ndarray, windows: np.ndarray) -> np.ndarray:
    """Red, green and blue for the three channels, each from its window's low to its high, rounded."""
    low, high = windows.T[..., None, None]
    return rgb(np.rint(np.clip((image - low) / (high - low), 0, 1) * 255))


@pytest.mark.parametrize("size", [256, 64, 100])
def test_at_full_resolution_tiles_are_the_slides_pixels(size: int, bright: ReviewedSlide) -> None:
    np.testing.assert_array_equal(whole(bright, max_level(bright.size, size), size), rgb(bright_image()))


def test_a_level_of_the_file_is_shown_as_it_is(bright: ReviewedSlide) -> None:
    np.testing.assert_array_equal(tile_pixels(bright, 0, 0, 0), rgb(made.halved(bright_image())))


@given(width=st.integers(1, 10**6), height=st.integers(1, 10**6), size=st.sampled_from([64, 254, 256]))
def test_levels_halve_down_to_one_tile(width: int, height: int, size: int) -> None:
    top = max_level((width, height), size)
    assert level_size((width, height), top, size) == (width, height)
    assert max(level_size((width, height), 0, size)) <= size
    assert top == 0 or max(level_size((width, height), 1, size)) > size
    for level in range(top):
        finer = level_size((width, height), level + 1, size)
        assert level_size((width, height), level, size) == tuple(-(-side // 2) for side in finer)


def block_means(image: np.ndarray, side: int) -> np.ndarray:
    """Means of whole blocks, what overhangs left out."""
    channels, height, width = image.shape
    inside = image[:, : height // side * side, : width // side * side].astype(float)
    return inside.reshape(channels, height // side, side, width // side, side).mean(axis=(2, 4))


@pytest.mark.parametrize("far", [False, True], ids=["from the file", "from an overview"])
def test_coarser_levels_are_means_of_what_they_cover(
    far: bool, folders: Folders, monkeypatch: pytest.MonkeyPatch
) -> None:
    if far:
        monkeypatch.setattr(tiles, "_MAX_READ_PX", 0)
    slide = open_cohort(folders.out).open("bright")
    for level, side in ((2, 2), (1, 4), (0, 8)):
        means = rgb(block_means(bright_image(), side))
        level_rgb = whole(slide, level, 64)[: means.shape[0], : means.shape[1]]
        near = np.abs(level_rgb.astype(float) - means)
        # An overview's last pixels are stretched to the level's size, by less than a pixel over the whole.
        assert np.mean(near) < (3 if far else 0.6)
        assert far or near.max() <= 1.01  # the file's level is rounded, and so is the tile
    assert bool(slide._overviews) == far


def test_an_overview_is_no_larger_than_tiles_need_and_is_read_once(
    folders: Folders, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tiles, "_MAX_READ_PX", 256)  # at 64 px a tile: the file's second level serves to a quarter
    slide = open_cohort(folders.out).open("bright")
    for level in range(max_level(slide.size, 8) + 1):
        tile_pixels(slide, level, 0, 0, size=8)
    assert {key: value.shape for key, value in slide._overviews.items()} == {}
    monkeypatch.setattr(tiles, "_MAX_READ_PX", 16)
    for level in range(max_level(slide.size, 8) + 1):
        tile_pixels(slide, level, 0, 0, size=8)
    # Level 6 is full size; halved, 16 px are read of the file's second level at a quarter: an eighth is the first far.
    assert {key: value.shape for key, value in slide._overviews.items()} == {38: (3, 35, 38)}


def test_a_pixel_has_one_colour_in_any_tile(dark: ReviewedSlide) -> None:
    due = colored(aligned_dark(), np.array(dark.facts["intensity_windows"]))
    for size in (256, 64, 50):
        level_rgb = whole(dark, max_level(dark.size, size), size).astype(float)
        assert np.abs(level_rgb - due).max() <= 1  # float32 against float64, before rounding
        assert np.mean(level_rgb != due) < 1e-4


def test_channels_are_where_the_model_saw_them(dark: ReviewedSlide) -> None:
    assert dark.facts["offsets_px"] == [[0, 0], list(SHIFT), [0, 0]]
    green = whole(dark, 1, 256, ("TPEF",))
    unmoved = colored(dark_image(), np.array(dark.facts["intensity_windows"]))[..., 1]
    x, y = SHIFT
    np.testing.assert_array_equal(green[-y:, :-x, 1], unmoved[:y, x:])
    assert not green[: -y - 1].any()  # comes from outside
    assert not green[..., [0, 2]].any()


def test_each_channel_keeps_its_colour_whatever_else_is_shown(dark: ReviewedSlide) -> None:
    every = tile_pixels(dark, 1, 0, 0)
    for number, name in enumerate(MODALITIES):
        alone = tile_pixels(dark, 1, 0, 0, channels=(name,))
        np.testing.assert_array_equal(alone[..., number], every[..., number])
        assert not np.delete(alone, number, axis=2).any()
    np.testing.assert_array_equal(tile_pixels(dark, 1, 0, 0, channels=MODALITIES[::-1]), every)
    assert not tile_pixels(dark, 1, 0, 0, channels=()).any()


def test_a_channel_that_the_slide_has_not_is_refused_by_name(dark: ReviewedSlide) -> None:
    for ask in (
        lambda: tile_image(dark, 1, 0, 0, channels=("CARS", "DAPI")),
        lambda: patch_image(dark, 0, 0, channels=["R"]),
    ):
        with pytest.raises(InputMissingError, match="no channel (DAPI|R)"):
            ask()


@pytest.mark.parametrize(
    "place",
    [(2, 0, 0), (99, 0, 0), (-1, 0, 0), (1, 2, 0), (1, 0, 2), (1, -1, 0), (1, 0, -1), (0, 1, 0), (1, 10**12, 0)],
)
def test_outside_the_pyramid_there_is_no_tile(place: tuple[int, int, int], bright: ReviewedSlide) -> None:
    with pytest.raises(InputMissingError, match="no tile"):
        tile_image(bright, *place)


def test_offsets_in_the_scan_are_kept_and_unscanned_parts_are_glass(tmp_path: Path) -> None:
    image = made.noise(3, 96, 128, np.uint8)
    made.write_scn(tmp_path / "a.scn", image, (100, 60), (400, 300))
    with open_slide(tmp_path / "a.scn", background="bright") as slide:
        write_facts(tmp_path, "a", slide, [[0, 255]] * 3)
    due = np.full((300, 400, 3), 255, np.uint8)
    due[60:156, 100:228] = rgb(image)
    reviewed = ReviewedSlide(tmp_path, "a", source=str(tmp_path / "a.scn"))
    np.testing.assert_array_equal(whole(reviewed, 1, 256), due)


def test_what_is_sent_is_a_baseline_jpeg_close_to_the_pixels(bright: ReviewedSlide, dark: ReviewedSlide) -> None:
    for slide, colour in ((bright, (2, 2)), (dark, (1, 1))):
        sent = Image.open(io.BytesIO(tile_image(slide, 1, 1, 1)))
        pixels = tile_pixels(slide, 1, 1, 1)
        assert (sent.format, sent.size, sent.mode) == ("JPEG", pixels.shape[1::-1], "RGB")
        assert "progressive" not in sent.info
        assert sent.layer[0][1:3] == colour  # how much finer brightness is than colour
        assert np.abs(np.asarray(sent).astype(float) - pixels).mean() < 10


def test_a_tile_is_made_once_for_each_way_of_looking(dark: ReviewedSlide, monkeypatch: pytest.MonkeyPatch) -> None:
    made_of: list[object] = []
    pixels = tiles.tile_pixels
    monkeypatch.setattr(tiles, "tile_pixels", lambda *a, **k: made_of.append((a[1:], k["channels"])) or pixels(*a, **k))
    for channels in (None, ("CARS",), None, ("CARS",), ("SHG",)):
        for column in (0, 1, 0):
            tile_image(dark, 1, column, 0, channels=channels)
    assert len(made_of) == 3 * 2


def test_a_patch_is_shown_at_full_resolution_with_what_overhangs(folders: Folders, tmp_path: Path) -> None:
    slide = open_cohort(folders.out).open("dark")
    table = slide.table
    due = colored(np.pad(aligned_dark(), ((0, 0), (0, 16), (0, 16))), np.array(slide.facts["intensity_windows"]))
    for x, y in table.loc[[0, 100, len(table) - 1], ["x", "y"]].to_numpy().tolist():
        shown = Image.open(io.BytesIO(patch_image(slide, x, y)))
        assert (shown.format, shown.size) == ("PNG", (16, 16))
        assert np.abs(np.asarray(shown).astype(float) - due[y : y + 16, x : x + 16]).max() <= 1
    with pytest.raises(InputMissingError, match="no predicted patch"):
        patch_image(slide, 3, 3)


def test_a_patch_wider_than_a_screen_is_shown_by_means(bright: ReviewedSlide, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tiles, "_MAX_PATCH_PX", 8)
    x, y = bright.table.loc[60, ["x", "y"]]
    shown = np.asarray(Image.open(io.BytesIO(patch_image(bright, int(x), int(y)))))
    due = rgb(block_means(bright_image(), 2))[y // 2 : y // 2 + 8, x // 2 : x // 2 + 8]
    assert np.abs(shown - due).max() <= 1


def test_a_thumbnail_is_the_slide_without_its_frame_and_needs_no_slide(folders: Folders) -> None:
    for slide_id, size in (("bright", (160, 149)), ("dark", (160, 160))):
        slide = ReviewedSlide(folders.out, slide_id)
        shown = Image.open(io.BytesIO(slide_thumbnail(slide)))
        assert (shown.format, shown.size) == ("JPEG", size)
        assert np.asarray(shown)[[0, -1]][:, [0, -1]].max() < 252  # the sheet is white, 255
    (other := ReviewedSlide(folders.out, "dark")).folder = folders.root / "nowhere"
    with pytest.raises(InputMissingError, match="a picture of the heatmap cannot be read"):
        slide_thumbnail(other)


def test_threads_on_two_slides_get_the_tiles_that_one_gets(folders: Folders, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cohorts, "_OPEN_SLIDES", 1)  # slides are opened and closed under each other's hands
    places = [(name, level, column, row) for name in ("bright", "dark") for level, n in ((0, 1), (1, 2), (2, 3), (3, 5))
              for column in range(n) for row in range(n)]  # fmt: skip
    single = open_cohort(folders.out)
    due = {place: tile_pixels(single.open(place[0]), *place[1:], size=64) for place in places}
    shared = open_cohort(folders.out)

    def look(seed: int) -> None:
        for index in np.random.default_rng(seed).permutation(len(places)):
            place = places[index]
            np.testing.assert_array_equal(tile_pixels(shared.open(place[0]), *place[1:], size=64), due[place])

    with ThreadPoolExecutor(6) as threads:
        for done in [threads.submit(look, seed) for seed in range(6)]:
            done.result()
