"""Decoded segments: how often each is decoded, which are cached, and that a caller owns its array."""

from __future__ import annotations

import os
import struct
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import made_slides as made
import numpy as np
import pytest
import tifffile

from pathopatch.core.errors import InputCorruptError
from pathopatch.slides import open_slide, segments
from pathopatch.slides.resample import planes
from pathopatch.slides.segments import TileCache
from pathopatch.slides.tiff import TiffSlide

SIDE, TILE = 512, 64


@pytest.fixture(params=["jpeg", "zstd"])
def slide(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> TiffSlide:
    """8 x 8 tiles, of which the cache holds two rows."""
    monkeypatch.setattr("pathopatch.slides.segments._MIN_CACHE_BYTES", 0)
    made.write_rgb_pyramid(tmp_path / "a.tif", made.noise(3, SIDE, SIDE, np.uint8), levels=1, compression=request.param)
    return TiffSlide(tmp_path / "a.tif")


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Offsets of the tiles that were fetched from the file."""
    offsets: list[int] = []
    read = TileCache.read

    def counted(self: TileCache, offset: int, count: int, **how: bool) -> bytes:
        offsets.append(offset)
        return read(self, offset, count, **how)

    monkeypatch.setattr(TileCache, "read", counted)
    return offsets


def rows_of_patches(slide: TiffSlide, stride: int) -> list[np.ndarray]:
    places = range(0, SIDE - TILE + 1, stride)
    return [slide.read_region(x, y, TILE, TILE) for y in places for x in places]


def test_patches_on_the_tiles_are_decoded_once_each_and_none_is_kept(slide: TiffSlide, reads: list[int]) -> None:
    for _ in range(2):
        rows_of_patches(slide, TILE)
    assert len(reads) == 2 * (SIDE // TILE) ** 2
    assert sum(0 if segment is None else segment.nbytes for segment, _ in slide._cache._segments.values()) == 0


@pytest.mark.fault("slow-drive")
def test_tiles_that_lie_together_take_one_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    image = made.noise(3, SIDE, SIDE, np.uint8)
    made.write_rgb_pyramid(tmp_path / "a.tif", image, levels=1, compression="zstd", tile_px=TILE)
    calls: list[tuple[int, int]] = []

    def counted(descriptor: int, count: int, offset: int) -> bytes:
        calls.append((offset, count))
        return os.pread(descriptor, count, offset)

    monkeypatch.setattr(segments, "_read_at", counted)
    with TiffSlide(tmp_path / "a.tif") as slide:
        patches = rows_of_patches(slide, TILE)
        np.testing.assert_array_equal(patches[9], image[:, TILE : 2 * TILE, TILE : 2 * TILE])
        np.testing.assert_array_equal(slide.read_region(0, 0, SIDE, SIDE), image)  # tiles cut by the ends of blocks too
        # 64 tiles lie in four blocks; the last one is asked for once more, beyond the end of the file.
        blocks = -(-(tmp_path / "a.tif").stat().st_size // segments._BLOCK_BYTES)
        assert len(calls) <= blocks + 1 < 8
        calls.clear()
        monkeypatch.setattr(segments, "_BLOCK_BYTES", 1000)  # a tile is larger: it is read alone
        slide.close()
        np.testing.assert_array_equal(slide.read_region(0, 0, TILE, TILE), image[:, :TILE, :TILE])
        assert len(calls) == 1


def test_a_small_region_before_them_changes_nothing(slide: TiffSlide, reads: list[int]) -> None:
    slide.read_region(0, 0, 1, 1)  # as a look at the slide does; its tile is kept
    rows_of_patches(slide, TILE)
    assert len(reads) == (SIDE // TILE) ** 2
    assert not any(segment is not None and segment.nbytes for segment, _ in slide._cache._segments.values())


@pytest.mark.parametrize("stride", [TILE // 2, TILE - 1])
def test_patches_that_overlap_decode_each_tile_once(stride: int, slide: TiffSlide, reads: list[int]) -> None:
    rows_of_patches(slide, stride)
    assert len(set(reads)) == (SIDE // TILE) ** 2
    assert len(reads) <= len(set(reads)) + 1  # the first shows that tiles are worth keeping


@pytest.mark.parametrize("stride", [TILE, TILE // 2])
def test_patches_are_equal_however_they_come_about(stride: int, slide: TiffSlide) -> None:
    whole = slide.read_region(0, 0, SIDE, SIDE)
    for _ in range(2):
        places = range(0, SIDE - TILE + 1, stride)
        patches = rows_of_patches(slide, stride)
        for patch, (y, x) in zip(patches, [(y, x) for y in places for x in places], strict=True):
            np.testing.assert_array_equal(patch, whole[:, y : y + TILE, x : x + TILE])


def test_a_caller_may_write_into_what_it_got(slide: TiffSlide) -> None:
    first = slide.read_region(0, 0, TILE, TILE)
    pixels = first.copy()
    for _ in range(3):
        again = slide.read_region(0, 0, TILE, TILE)
        np.testing.assert_array_equal(again, pixels)
        again[:] = 0
    first[:] = 0
    np.testing.assert_array_equal(slide.read_region(0, 0, TILE, TILE), pixels)


def test_a_single_channel_tile_may_be_written_into(tmp_path: Path) -> None:
    plane = made.noise(1, TILE, TILE, np.uint16)[0]
    made.write_channel(tmp_path / "a.tif", plane, tile_px=TILE, compression="deflate")
    pixels = TiffSlide(tmp_path / "a.tif").read_region(0, 0, TILE, TILE)
    pixels += 1
    np.testing.assert_array_equal(pixels[0], plane + 1)


def test_tiles_are_decoded_to_memory_without_streaming_stores(tmp_path: Path) -> None:
    made.write_rgb_pyramid(tmp_path / "a.tif", made.noise(3, SIDE, SIDE, np.uint8), levels=1, compression="jpeg")
    tile = TiffSlide(tmp_path / "a.tif").read_region(0, 0, TILE, TILE)
    rows = tile.ctypes.data + tile.strides[1] * np.arange(TILE)
    assert (rows % 32 != 0).all()  # from an even 32 on libjpeg-turbo takes a third longer


def test_decoded_samples_stay_interleaved_until_planes_separates_them(slide: TiffSlide) -> None:
    for corner in (0, 5):
        pixels = slide.read_region(corner, corner, TILE, TILE)
        assert pixels.transpose(1, 2, 0).flags.c_contiguous
        apart = planes(pixels)
        assert apart.flags.c_contiguous
        np.testing.assert_array_equal(apart, pixels)
        assert planes(apart) is apart


@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.uint16, np.float32, np.float64])
@pytest.mark.parametrize("channels", [1, 2, 5])
def test_planes_of_any_type_hold_the_same_pixels(dtype: type[np.generic], channels: int) -> None:
    mixed = np.empty((4, 3, channels), dtype).transpose(2, 0, 1)
    mixed[:] = np.arange(mixed.size).reshape(mixed.shape) - 7.0 if dtype != np.uint8 else 200
    mixed[0, 0, 0] = 1
    out = np.zeros_like(mixed, order="C")
    assert planes(mixed, out) is out
    np.testing.assert_array_equal(out, mixed)


def test_plain_pixels_that_reach_past_the_end_of_the_file_are_refused(tmp_path: Path) -> None:
    tifffile.imwrite(tmp_path / "a.tif", np.zeros((60, 50), np.uint16), photometric="minisblack", metadata=None)
    content = bytearray((tmp_path / "a.tif").read_bytes())
    for tag, value in ((273, len(content) - 100), (279, 50)):  # StripOffsets, StripByteCounts
        at = content.index(struct.pack("<HHI", tag, 4, 1))
        struct.pack_into("<I", content, at + 8, value)
    (tmp_path / "a.tif").write_bytes(content)
    with (
        pytest.raises(InputCorruptError, match="ends before its pixels"),
        open_slide(tmp_path / "a.tif", mpp=1.0) as slide,
    ):
        slide.read_region(0, 0, 16, 16)


@pytest.fixture
def plain(tmp_path: Path) -> tuple[Path, np.ndarray]:
    """An uncompressed plane in one strip, and its pixels."""
    pixels = made.noise(1, 256, 512, np.uint16)[0]
    made.write_channel(tmp_path / "plain.tif", pixels)
    return tmp_path / "plain.tif", pixels


@pytest.mark.parametrize(
    ("whole_bytes", "due"), [(0, 64 + 1), (2**20, 1)], ids=["the first patch row by row", "short rows"]
)
def test_a_row_of_patches_of_an_uncompressed_page_is_read_at_once(
    whole_bytes: int,
    due: int,
    plain: tuple[Path, np.ndarray],
    reads: list[int],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(segments, "_WHOLE_BAND_BYTES", whole_bytes)
    path, pixels = plain
    with TiffSlide(path) as slide:
        for x in range(0, 512, 64):
            np.testing.assert_array_equal(slide.read_region(x, 64, 64, 64)[0], pixels[64:128, x : x + 64])
    assert len(reads) == due


@pytest.mark.fault("shrinking")
def test_an_uncompressed_slide_that_shrinks_is_an_error_and_ends_no_process(plain: tuple[Path, np.ndarray]) -> None:
    path, _ = plain
    with TiffSlide(path, background="dark") as slide:
        slide.read_region(0, 0, 64, 64)
        os.truncate(path, path.stat().st_size // 2)
        for width in (64, 512):
            with pytest.raises(InputCorruptError, match="the file ends before its pixels do"):
                slide.read_region(0, 192, width, 64)


@pytest.mark.fault("shrinking")
@pytest.mark.parametrize("compression", [None, "zstd"])
def test_a_system_that_gives_less_than_asked_for_is_asked_again(
    compression: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    image = made.noise(3, SIDE, SIDE, np.uint8)
    made.write_rgb_pyramid(tmp_path / "a.tif", image, levels=1, compression=compression)
    monkeypatch.setattr(segments, "_read_at", lambda file, count, offset: os.pread(file, min(count, 1000), offset))
    with open_slide(tmp_path / "a.tif") as slide:
        np.testing.assert_array_equal(slide.read_region(32, 32, 64, 64), image[:, 32:96, 32:96])


@pytest.mark.parametrize("compression", [None, "zstd"])
def test_threads_read_the_same_where_the_system_has_no_positioned_reads(
    compression: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    image = made.noise(3, SIDE, SIDE, np.uint8)
    made.write_rgb_pyramid(tmp_path / "a.tif", image, levels=1, compression=compression)
    monkeypatch.setattr(segments, "_read_at", segments._seek_and_read)
    places = [(x, y) for y in range(0, SIDE - TILE, 24) for x in range(0, SIDE - TILE, 24)]
    with open_slide(tmp_path / "a.tif") as slide, ThreadPoolExecutor(4) as threads:
        for (x, y), patch in zip(
            places, threads.map(lambda at: slide.read_region(*at, TILE, TILE), places), strict=True
        ):
            np.testing.assert_array_equal(patch, image[:, y : y + TILE, x : x + TILE])


def test_a_tile_of_other_samples_than_due_is_refused(tmp_path: Path) -> None:
    """Found by the fuzzer: a planar configuration that nobody defined gave regions of one channel."""
    path = tmp_path / "a.tif"
    made.write_rgb_pyramid(path, made.noise(3, SIDE, SIDE, np.uint8), levels=1, compression=None)
    with tifffile.TiffFile(path, mode="r+b") as tiff:
        tiff.pages.first.tags["PlanarConfiguration"].overwrite(65535)
    with TiffSlide(path) as slide, pytest.raises(InputCorruptError, match="other samples"):
        slide.read_region(0, 0, TILE, TILE)
