from __future__ import annotations

import struct
import tracemalloc
import zlib
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import tifffile
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image

from pathopatch.core.errors import (
    InputCorruptError,
    InputMissingError,
    InputTooLargeError,
    InputUnsupportedError,
    ModalityMismatchError,
)
from pathopatch.patches.annotations import masks
from pathopatch.patches.annotations.masks import MaskRegion, read_mask
from pathopatch.patches.grid import Grid
from pathopatch.slides import image_file, open_slide


def at(*origins: int) -> NDArray[np.int64]:
    return np.array(origins, np.int64)


def test_a_fraction_is_exact_where_the_patch_cuts_mask_pixels() -> None:
    mask = np.zeros((4, 4), bool)
    mask[1, 1] = True  # level-0 px 10 to 20, both ways
    fractions = MaskRegion(mask, (40, 40)).fractions
    # patches of 10 px: all of it, a quarter of each axis, half of one axis, none
    assert fractions(at(10, 2, 10, 20), at(10, 3, 5, 10), 10.0).tolist() == [1.0, 0.2 * 0.3, 0.5, 0.0]
    assert np.isclose(fractions(at(0), at(0), 40.0)[0], 1 / 16)
    assert np.isclose(fractions(at(5), at(5), 12.5)[0], 7.5**2 / 12.5**2)


def test_a_mask_finer_than_the_slide_is_averaged() -> None:
    mask = np.zeros((8, 8), bool)
    mask[:, :3] = True  # level-0 px 0 to 1.5
    assert MaskRegion(mask, (4, 4)).fractions(at(0, 1, 2), at(0, 0, 0), 2.0).tolist() == [0.75, 0.25, 0.0]


def test_an_overhanging_patch_counts_only_what_is_on_the_slide() -> None:
    mask = np.zeros((10, 10), bool)
    mask[:, 8:] = True
    fractions = MaskRegion(mask, (10, 10)).fractions
    assert fractions(at(6), at(6), 8.0).tolist() == [0.5]
    assert fractions(at(10), at(0), 8.0).tolist() == [0.0]


@settings(deadline=None)
@given(st.integers(1, 9), st.integers(1, 9), st.integers(0, 2**32 - 1), st.floats(1.0, 30.0))
def test_side_by_side_patches_hold_the_mask_together(w: int, h: int, seed: int, extent: float) -> None:
    mask = np.random.default_rng(seed).random((h, w)) < 0.4
    size = (w * 7, h * 7)
    x, y = (grid.ravel().astype(np.int64) for grid in np.meshgrid(range(size[0]), range(size[1])))
    one = MaskRegion(mask, size).fractions(x, y, 1.0)
    assert np.isclose(one.sum(), mask.sum() * 49)
    whole = MaskRegion(mask, size).fractions(at(0), at(0), extent)[0]
    inside = np.clip(extent - np.arange(size[0]), 0, 1), np.clip(extent - np.arange(size[1]), 0, 1)
    weight = np.outer(inside[1], inside[0]).ravel()
    assert np.isclose(whole, (one * weight).sum() / weight.sum())


@pytest.mark.parametrize(
    ("mask_px", "size"), [((60, 45), (240, 180)), ((97, 73), (240, 180)), ((800, 600), (240, 180))]
)
@pytest.mark.parametrize(
    ("x", "y", "downsample"), [(0, 0, 1.0), (31, 17, 1.0), (31, 17, 3.4), (200, 150, 2.5), (5, 9, 0.7)]
)
def test_a_pixel_is_set_where_half_of_it_is_a_pixel_being_a_small_patch(
    mask_px: tuple[int, int], size: tuple[int, int], x: int, y: int, downsample: float
) -> None:
    rng = np.random.default_rng(0)
    mask = cv2.GaussianBlur(rng.normal(size=mask_px[::-1]), (0, 0), mask_px[0] / 60) > 0
    region = MaskRegion(mask, size)
    inside = tuple(min(24, round((side - at_) / downsample)) for side, at_ in zip(size, (x, y), strict=True))
    columns, rows = np.meshgrid(x + np.arange(inside[0]) * downsample, y + np.arange(inside[1]) * downsample)
    shares = region.fractions(columns.ravel(), rows.ravel(), downsample).reshape(inside[::-1])  # type: ignore[arg-type]
    pixels = region.patch_mask(x, y, downsample=downsample, inside=inside)  # type: ignore[arg-type]
    is_clear = np.abs(shares - 0.5) > 1e-6
    np.testing.assert_array_equal(pixels[is_clear], shares[is_clear] > 0.5)
    assert pixels[~is_clear].all()  # half is enough
    assert 0 < pixels.mean() < 1


def test_pixels_beyond_the_slide_are_not_set() -> None:
    region = MaskRegion(np.ones((10, 10), bool), (100, 100))
    pixels = region.patch_mask(90, 95, downsample=2.0, inside=(8, 8))
    # 5 columns and 2.5 rows lie on the slide: a pixel that does so in part is set over all of that part.
    assert pixels.tolist() == [[True] * 5 + [False] * 3] * 3 + [[False] * 8] * 5


def test_a_mask_of_other_proportions_is_refused_with_both_sizes() -> None:
    with pytest.raises(ModalityMismatchError, match=r"100 x 100 px and the slide 1000 x 1030 px"):
        MaskRegion(np.zeros((100, 100), bool), (1000, 1030))
    MaskRegion(np.zeros((100, 100), bool), (1000, 1019))
    MaskRegion(np.zeros((10, 11), bool), (1060, 1000))  # a tiny mask is rounded to whole pixels
    with pytest.raises(ModalityMismatchError, match="turned by 90° it would fit"):
        MaskRegion(np.ones((200, 100), bool), (2000, 1000))
    with pytest.raises(ModalityMismatchError) as caught:
        MaskRegion(np.ones((170, 100), bool), (2000, 1000))
    assert "turned" not in str(caught.value)


def write(path: Path, pixels: NDArray[Any]) -> Path:
    if path.suffix == ".tif":
        tifffile.imwrite(path, pixels, photometric="rgb" if pixels.ndim == 3 else "minisblack")
    else:
        assert cv2.imwrite(str(path), pixels)
    return path


@pytest.mark.parametrize(
    ("name", "values", "expected"),
    [
        ("a.png", np.array([[0, 127, 128, 255]], np.uint8), [0, 0, 1, 1]),
        ("a.png", np.array([[0, 1]], np.uint8), [0, 1]),
        ("a.png", np.array([[0, 1, 300]], np.uint16), [0, 1, 1]),
        ("a.png", np.array([[[0, 0, 0], [0, 0, 255]]], np.uint8), [0, 1]),
        ("a.png", np.array([[[0, 0, 0, 255], [0, 0, 255, 255]]], np.uint8), [0, 1]),
        ("a.tif", np.array([[0, 127, 128, 255]], np.uint8), [0, 0, 1, 1]),
        ("a.tif", np.array([[0, 0.5]], np.float32), [0, 1]),
        ("a.tif", np.zeros((1, 3), np.uint8), [0, 0, 0]),
    ],
)
def test_what_sets_a_mask_pixel(tmp_path: Path, name: str, values: NDArray[Any], expected: list[int]) -> None:
    assert read_mask(write(tmp_path / name, values)).astype(int).tolist() == [expected]


def test_a_jpeg_mask_is_cut_at_128_however_dim_it_is(tmp_path: Path) -> None:
    pixels = np.zeros((16, 32), np.uint8)
    pixels[:, :16] = 90
    assert not read_mask(write(tmp_path / "dim.jpg", pixels)).any()
    pixels[:, :16] = 255
    mask = read_mask(write(tmp_path / "bright.jpg", pixels))
    assert mask[:, :16].all()
    assert not mask[:, 16:].any()


def test_class_numbers_are_not_taken_for_a_mask(tmp_path: Path) -> None:
    path = write(tmp_path / "classes.png", np.array([[0, 1, 2]], np.uint8))
    with pytest.raises(InputUnsupportedError, match="up to 2"):
        read_mask(path)


@pytest.mark.parametrize("name", ["a.png", "a.jpg", "a.tif"])
def test_a_truncated_mask_is_corrupt(tmp_path: Path, name: str) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (64, 64)).astype(np.uint8)
    path = write(tmp_path / name, noise)
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])
    with pytest.raises(InputCorruptError):
        read_mask(path)


def test_the_bits_of_a_mask_are_read_as_they_are_shown(tmp_path: Path) -> None:
    bits = np.array([[0, 1, 1, 0]], bool)
    Image.fromarray(bits).save(tmp_path / "a.png")
    for name, photometric in (("black", "minisblack"), ("white", "miniswhite")):
        tifffile.imwrite(tmp_path / f"{name}.tif", bits, photometric=photometric)
    assert read_mask(tmp_path / "a.png").tolist() == bits.tolist()
    assert read_mask(tmp_path / "black.tif").tolist() == bits.tolist()
    assert read_mask(tmp_path / "white.tif").tolist() == (~bits).tolist()
    tifffile.imwrite(tmp_path / "grey.tif", np.array([[0, 200, 255]], np.uint8), photometric="miniswhite")
    assert read_mask(tmp_path / "grey.tif").tolist() == [[True, False, False]]


@pytest.mark.parametrize("name", ["a.png", "a.tif"])
def test_a_table_of_colours_is_no_mask(tmp_path: Path, name: str) -> None:
    image = Image.fromarray(np.array([[0, 1]], np.uint8))
    image.putpalette([255, 255, 255, 255, 0, 0])
    image.save(tmp_path / name)
    with pytest.raises(InputUnsupportedError, match="table of colours"):
        read_mask(tmp_path / name)


@pytest.mark.parametrize("values", [(0, 255), (0, 1), (0, 90, 200), (0, 300)])
@pytest.mark.parametrize("layout", ["tiles", "strips"])
def test_a_mask_too_large_for_memory_is_read_in_bands_to_the_same_shares(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, values: tuple[int, ...], layout: str
) -> None:
    pixels = np.random.default_rng(0).choice(values, (210, 330)).astype(np.uint16 if 300 in values else np.uint8)
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, pixels, tile=(64, 64) if layout == "tiles" else None, rowsperstrip=16, compression="zlib")
    x, y = (grid.ravel() for grid in np.meshgrid(np.arange(0, 990, 97), np.arange(0, 630, 64)))
    in_memory = MaskRegion(path, (990, 630))
    whole = in_memory.fractions(x, y, 97.5)
    monkeypatch.setattr(masks, "MAX_PIXELS", 1000)
    monkeypatch.setattr(masks, "read_mask", lambda _: pytest.fail("read at once"))
    monkeypatch.setattr(masks, "_BAND_BYTES", 5000)
    large = MaskRegion(path, (990, 630))
    assert large.fractions(x, y, 97.5) == pytest.approx(whole, abs=1e-14)
    for region in (large, MaskRegion(path, (990, 630))):  # also before its fractions were asked for
        for number in (0, 1, len(x) - 1, 40):
            at_ = x[number], y[number]
            pixels = region.patch_mask(*at_, downsample=1.5, inside=(13, 11))
            np.testing.assert_array_equal(pixels, in_memory.patch_mask(*at_, downsample=1.5, inside=(13, 11)))
    with pytest.raises(ModalityMismatchError):
        MaskRegion(path, (630, 990))


def test_class_numbers_in_a_large_mask_and_a_large_piece_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, np.full((100, 100), 2, np.uint8), tile=(64, 64))
    monkeypatch.setattr(masks, "MAX_PIXELS", 1000)
    with pytest.raises(InputUnsupportedError, match="up to 2"):
        MaskRegion(path, (100, 100)).fractions(at(0), at(0), 50.0)
    monkeypatch.setattr(image_file, "MAX_PIXELS", 1000)
    with pytest.raises(InputTooLargeError):
        MaskRegion(path, (100, 100))


def claim(path: Path, side: int) -> Path:
    """Write a small image whose header claims to be of side x side px."""
    pixels = np.zeros((64, 64), np.uint8)
    if path.suffix == ".tif":
        with tifffile.TiffWriter(path) as writer:
            writer.write(pixels, compression="zlib")
        with tifffile.TiffFile(path, mode="r+b") as file:
            for tag in ("ImageWidth", "ImageLength", "RowsPerStrip"):
                file.pages[0].tags[tag].overwrite(side, dtype="I")
        return path
    content = write(path, pixels).read_bytes()
    if path.suffix == ".png":
        header = b"IHDR" + struct.pack(">II", side, side) + content[24:29]
        path.write_bytes(content[:12] + header + struct.pack(">I", zlib.crc32(header)) + content[33:])
    else:
        start = content.index(b"\xff\xc0") + 5
        path.write_bytes(content[:start] + struct.pack(">HH", side, side) + content[start + 4 :])
    return path


@pytest.mark.parametrize(("name", "side"), [("a.png", 1_000_000), ("a.jpg", 65_000), ("a.tif", 1_000_000)])
def test_a_mask_that_claims_too_much_is_refused_before_memory_is_taken(tmp_path: Path, name: str, side: int) -> None:
    path = claim(tmp_path / name, side)
    tracemalloc.start()
    with pytest.raises(InputTooLargeError, match=str(side)):
        read_mask(path)
    assert tracemalloc.get_traced_memory()[1] < 2**22
    tracemalloc.stop()


def test_a_missing_mask_and_a_foreign_format_are_different_errors(tmp_path: Path) -> None:
    with pytest.raises(InputMissingError):
        read_mask(tmp_path / "none.png")
    with pytest.raises(InputUnsupportedError, match="bmp"):
        read_mask(tmp_path / "none.bmp")


@pytest.mark.parametrize(("size", "mask_px"), [(20000, 1001), (114, 100), (4930, 331)])
def test_masks_of_awkward_sizes_reach_the_last_patch(size: int, mask_px: int) -> None:
    whole = MaskRegion(np.ones((mask_px, mask_px), np.bool_), (size, size))
    origin = np.array([size - 50], np.int64)
    assert whole.fractions(origin, origin, 64.0) == pytest.approx([1.0])


def test_a_mask_whose_planes_stand_one_by_one_is_read_as_an_image(tmp_path: Path) -> None:
    plane = np.zeros((9, 40), np.uint8)
    plane[2:5, 10:20] = 255
    tifffile.imwrite(tmp_path / "a.tif", np.stack([plane] * 3), photometric="rgb", planarconfig="separate")
    assert read_mask(tmp_path / "a.tif").tolist() == (plane > 0).tolist()


def test_a_large_mask_has_neither_alpha_nor_tiles_that_are_not_stored(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plane = np.zeros((64, 64), np.uint8)
    plane[:32, :32] = 255  # all that is stored is set: a bright image, by its looks
    rgb = np.dstack([plane, plane, plane])
    pixels = np.dstack([rgb, np.full_like(plane, 255)])
    tiles = (rgb[y : y + 32, x : x + 32] if not y and not x else None for y in (0, 32) for x in (0, 32))
    tifffile.imwrite(tmp_path / "sparse.tif", tiles, shape=rgb.shape, dtype=np.uint8, tile=(32, 32), photometric="rgb")
    tifffile.imwrite(tmp_path / "whole.tif", pixels, tile=(32, 32), photometric="rgb", extrasamples=["unassalpha"])
    monkeypatch.setattr(masks, "MAX_PIXELS", 1000)
    for name in ("sparse.tif", "whole.tif"):
        assert MaskRegion(tmp_path / name, (64, 64)).fractions(at(0, 32, 16), at(0, 0, 16), 32.0).tolist() == [
            1.0, 0.0, 0.25,
        ]  # fmt: skip


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("name", ["a.png", "a.jpg", "a.tif"])
def test_a_mask_is_turned_as_the_slide_of_the_same_file_is(name: str, orientation: int, tmp_path: Path) -> None:
    stored = np.zeros((24, 40), np.uint8)
    stored[:8, :16] = 255
    if name == "a.tif":
        tags = [(274, "H", 1, orientation, True)]
        tifffile.imwrite(tmp_path / name, stored, photometric="minisblack", extratags=tags)
    else:
        exif = Image.Exif()
        exif[274] = orientation
        Image.fromarray(stored).save(tmp_path / name, exif=exif)
    steps = {  # the image as viewers show it, by the meaning of each number
        1: stored, 2: stored[:, ::-1], 3: stored[::-1, ::-1], 4: stored[::-1],
        5: stored.T, 6: np.rot90(stored, -1), 7: stored[::-1, ::-1].T, 8: np.rot90(stored),
    }  # fmt: skip
    np.testing.assert_array_equal(read_mask(tmp_path / name), steps[orientation] > 127)
    with open_slide(tmp_path / name, mpp=1.0) as slide:
        np.testing.assert_array_equal(slide.read_region(0, 0, *slide.size)[0] > 127, steps[orientation] > 127)


def shape_in_alpha(folder: Path, name: str) -> Path:
    """Write a mask whose shape only its alpha holds, over colours that are all 0 or all 255."""
    shape = np.zeros((8, 8), np.uint8)
    shape[2:4, 2:6] = 255
    colour = np.full_like(shape, 255 if "white" in name else 0)
    samples = [colour, shape] if "grey" in name else [colour, colour, colour, shape]
    pixels = np.dstack(samples)
    if name.endswith(".tif"):
        tifffile.imwrite(folder / name, pixels, photometric="minisblack" if "grey" in name else "rgb",
                         extrasamples=["unassalpha"])  # fmt: skip
    elif "16" in name:
        assert cv2.imwrite(str(folder / name), pixels.astype(np.uint16) * 257)
    else:
        Image.fromarray(pixels).save(folder / name)
    return folder / name


@pytest.mark.fault("misplaced-mask")
@pytest.mark.parametrize(
    "name",
    ["black.png", "white.png", "black-grey.png", "white-grey.png", "white-16.png", "white.tif", "black-grey.tif"],
)
def test_a_mask_whose_shape_stands_in_alpha_is_refused_with_a_remedy(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = shape_in_alpha(tmp_path, name)
    with pytest.raises(InputUnsupportedError, match="transparent pixels.*one grey channel"):
        read_mask(path)
    if name.endswith(".tif"):
        monkeypatch.setattr(masks, "MAX_PIXELS", 1)
        with pytest.raises(InputUnsupportedError, match="transparent pixels"):
            MaskRegion(path, (8, 8)).fractions(at(0), at(0), 8.0)


@pytest.mark.fault("misplaced-mask")
def test_a_mask_whose_pixels_are_far_larger_than_patches_is_refused() -> None:
    size = (2048, 1024)
    grid = Grid(width=2048, height=1024, downsample=1.0, patch_px=128, stride_px=128)
    for mask_px in ((7, 3), (3, 3)):
        with pytest.raises((InputUnsupportedError, ModalityMismatchError), match=f"{mask_px[0]} x {mask_px[1]} px"):
            MaskRegion(np.ones(mask_px[::-1], bool), size, grid=grid)
    MaskRegion(np.ones((4, 8), bool), size, grid=grid)  # two patches a side
    MaskRegion(np.ones((3, 7), bool), size)  # without patches nothing is known
    small = Grid(width=2048, height=1024, downsample=1.0, patch_px=16, stride_px=16)
    MaskRegion(np.ones((11, 21), bool), size, grid=small)  # 100 px a side at most
    with pytest.raises(InputUnsupportedError, match=r"at least 21 x 11 px"):
        MaskRegion(np.ones((10, 20), bool), size, grid=small)
    coarse = Grid(width=2048, height=1024, downsample=4.0, patch_px=32, stride_px=32)
    MaskRegion(np.ones((3, 6), bool), size, grid=coarse)  # the grid has 512 x 256 px
