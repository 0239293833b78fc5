"""Plain pictures as slides: every pixel of a JPEG or PNG, alpha as opacity, and no scale made of dots per inch."""

from __future__ import annotations

import struct
import zlib
from pathlib import Path

import made_slides as made
import numpy as np
import pytest
from PIL import Image

from pathopatch.core.errors import InputCorruptError, InputTooLargeError, InputUnsupportedError, MppMissingError
from pathopatch.slides import open_slide


def test_dots_per_inch_are_no_scale(tmp_path: Path) -> None:
    for name in ("a.jpg", "a.png"):
        Image.new("RGB", (40, 30)).save(tmp_path / name, dpi=(50800, 50800))  # would be 0.5 um
        with pytest.raises(MppMissingError, match=rf"a {'JPEG' if name == 'a.jpg' else 'PNG'} file does not state it"):
            _ = open_slide(tmp_path / name).mpp
        assert open_slide(tmp_path / name, mpp=0.25).mpp == 0.25


@pytest.mark.parametrize(("samples", "dtype"), [(2, np.uint8), (4, np.uint8), (2, np.uint16), (4, np.uint16)])
def test_alpha_of_a_png_is_opacity(samples: int, dtype: type[np.generic], tmp_path: Path) -> None:
    full = np.iinfo(dtype).max
    image = made.noise(samples, 30, 40, dtype)
    image[-1] = full
    image[-1, :, 10:] = 0
    image[-1, 0, 0] = full // 5  # 51 of 255, in both types
    made.write_png(tmp_path / "a.png", image)
    slide = open_slide(tmp_path / "a.png", background="bright")
    assert slide.channels == (("C0",) if samples == 2 else ("R", "G", "B"))
    assert slide.dtype == dtype
    assert ["alpha" in note for note in slide.notes] == [True]
    shown = slide.read_region(0, 0, 40, 30)
    np.testing.assert_array_equal(shown[:, 1:, :10], image[:-1, 1:, :10])
    assert (shown[:, :, 10:] == full).all()
    np.testing.assert_array_equal(shown[:, 0, 0], np.rint(image[:-1, 0, 0] * 0.2 + full * 0.8))


def test_an_opaque_alpha_leaves_every_pixel_as_it_is(tmp_path: Path) -> None:
    image = made.noise(4, 30, 40, np.uint8)
    image[3] = 255
    made.write_png(tmp_path / "a.png", image)
    with open_slide(tmp_path / "a.png") as slide:
        assert slide.is_rgb
        np.testing.assert_array_equal(slide.read_region(0, 0, 40, 30), image[:3])
    with open_slide(f"{tmp_path / 'a.png'}#plane=2") as blue:
        np.testing.assert_array_equal(blue.read_region(0, 0, 40, 30), image[2:3])


def chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def test_the_exif_data_of_a_png_count_before_and_after_its_pixels_and_broken_ones_do_not(tmp_path: Path) -> None:
    Image.fromarray(np.arange(12, dtype=np.uint8).reshape(3, 4)).save(tmp_path / "a.png")
    plain = (tmp_path / "a.png").read_bytes()
    exif = Image.Exif()
    exif[274] = 6
    turned = chunk(b"eXIf", exif.tobytes().removeprefix(b"Exif\0\0"))
    xmp = chunk(b"iTXt", b"XML:com.adobe.xmp\0\0\0\0\0" + b'<x:xmpmeta tiff:Orientation="6"/>')
    early, late = plain.index(b"IDAT") - 4, len(plain) - 12
    for place, extra, size in (
        (early, turned, (3, 4)), (late, turned, (3, 4)), (early, xmp, (3, 4)), (late, chunk(b"eXIf", b"II"), (4, 3)),
    ):  # fmt: skip
        (tmp_path / "a.png").write_bytes(plain[:place] + extra + plain[place:])
        with open_slide(tmp_path / "a.png", mpp=1.0) as slide:
            assert slide.size == size
            assert slide.read_region(0, 0, 1, 1).item() == (8 if size == (3, 4) else 0)


@pytest.mark.parametrize(("mode", "name", "message"), [
    ("P", "a.png", "table of colours"), ("1", "a.png", "samples of 1 bits"), ("CMYK", "a.jpg", "CMYK"),
])  # fmt: skip
def test_a_palette_single_bits_and_cmyk_are_refused(mode: str, name: str, message: str, tmp_path: Path) -> None:
    Image.new(mode, (8, 8)).save(tmp_path / name)
    with pytest.raises(InputUnsupportedError, match=rf"{message}.*Image > Type > RGB Color"):
        open_slide(tmp_path / name)


def test_a_picture_beyond_what_is_decoded_at_once_is_refused(tmp_path: Path) -> None:
    made.write_png(tmp_path / "a.png", made.noise(3, 8, 8, np.uint8))
    content = bytearray((tmp_path / "a.png").read_bytes())
    content[16:24] = struct.pack(">II", 40_000, 30_000)
    (tmp_path / "a.png").write_bytes(content)
    with pytest.raises(InputTooLargeError, match="40000 x 30000 px.*write it as a tiled TIFF"):
        open_slide(tmp_path / "a.png")


def test_what_a_picture_lacks_is_refused(tmp_path: Path) -> None:
    made.write_png(tmp_path / "a.png", made.noise(3, 8, 8, np.uint8))
    with pytest.raises(InputUnsupportedError, match="no plane 3.*0 to 2"):
        open_slide(f"{tmp_path / 'a.png'}#plane=3")
    with pytest.raises(InputUnsupportedError, match="no pages"):
        open_slide(f"{tmp_path / 'a.png'}#page=0")
    (tmp_path / "b.jpg").write_bytes((tmp_path / "a.png").read_bytes())
    with pytest.raises(InputCorruptError):
        open_slide(tmp_path / "b.jpg")
