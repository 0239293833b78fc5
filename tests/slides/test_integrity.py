"""Files that are cut, spoiled or lie about their size."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import made_slides as made
import numpy as np
import pytest
import tifffile

from pathopatch.core.errors import InputCorruptError, InputTooLargeError, InputUnsupportedError
from pathopatch.slides import open_slide
from pathopatch.slides.tiff import TiffSlide


def ome(path: Path) -> None:
    with tifffile.TiffWriter(path, ome=True, bigtiff=True) as writer:
        for level in range(3):
            pixels = made.noise(1, 256 >> level, 256 >> level, np.uint16)[0]
            options = {"subifds": 2} if level == 0 else {"subfiletype": 1}
            writer.write(pixels, tile=(64, 64), compression="zstd", **options)


def test_an_empty_file_and_a_text_file_are_refused(tmp_path: Path) -> None:
    for content in (b"", b"patient: none", b"II*\0", b"II*\0\x08\0\0\0"):
        (tmp_path / "a.tif").write_bytes(content)
        with pytest.raises(InputCorruptError):
            open_slide(tmp_path / "a.tif")


def test_what_tifffile_logs_of_a_broken_file_stays_off_the_screen(tmp_path: Path) -> None:
    (tmp_path / "a.svs").write_bytes(b"II*\0" + bytes(100))
    program = "import sys, pathopatch; pathopatch.open_slide(sys.argv[1])"
    done = subprocess.run(
        [sys.executable, "-c", program, str(tmp_path / "a.svs")], capture_output=True, text=True, check=False
    )
    assert "no image in the file" in done.stderr
    assert "contains no pages" not in done.stderr


def test_one_strip_that_claims_all_those_pixels_is_refused_too(tmp_path: Path) -> None:
    path = made.write_giant(tmp_path / "giant.tif")
    made.patch_tag(path, 278, 10**6)  # rows per strip: the one strip would hold everything
    with pytest.raises(InputTooLargeError, match="claims 1000000 x 1000000"):
        open_slide(path)


def test_a_level_announced_past_the_end_is_refused(tmp_path: Path) -> None:
    ome(tmp_path / "a.tif")
    with tifffile.TiffFile(tmp_path / "a.tif", mode="r+b") as tiff:
        tag = tiff.pages[0].tags[330]
        tag.overwrite([tag.value[0], 10**9])
    with pytest.raises(InputCorruptError):
        open_slide(tmp_path / "a.tif")


def test_an_uncompressed_file_that_claims_more_than_it_holds_is_refused(tmp_path: Path) -> None:
    made.write_channel(tmp_path / "a.tif", np.zeros((64, 64), np.uint16))
    made.patch_tag(tmp_path / "a.tif", 257, 640)
    with pytest.raises((InputTooLargeError, InputCorruptError)):
        open_slide(tmp_path / "a.tif")


def test_a_level_that_claims_more_than_it_holds_is_refused(tmp_path: Path) -> None:
    made.write_rgb_pyramid(tmp_path / "a.tif", made.noise(3, 200, 300, np.uint8))
    for code in (256, 257):
        made.patch_tag(tmp_path / "a.tif", code, 60_000, page=2)
    with pytest.raises(InputTooLargeError, match="page 2 claims 60000 x 60000"):
        open_slide(tmp_path / "a.tif")


def test_one_strip_that_would_fill_the_memory_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made.write_channel(tmp_path / "a.tif", np.zeros((900, 900), np.uint16), compression="deflate", rows_per_strip=900)
    monkeypatch.setattr("pathopatch.slides.segments._MAX_SEGMENT_BYTES", 10**6)
    with pytest.raises(InputTooLargeError, match="1620000 bytes"):
        open_slide(tmp_path / "a.tif")


def test_tiles_that_claim_a_million_times_the_image_are_refused(tmp_path: Path) -> None:
    made.write_scn(tmp_path / "a.scn", made.noise(3, 40, 48, np.uint8), (5, 5), (60, 60))
    made.patch_tag(tmp_path / "a.scn", 323, 2**26, page=1)
    with pytest.raises(InputCorruptError, match="page 1 claims tiles of 64 x 67108864 px in an image of 48 x 40 px"):
        open_slide(tmp_path / "a.scn")


def test_a_blank_slide_that_compresses_a_thousandfold_is_accepted(tmp_path: Path) -> None:
    blank = np.full((2048, 2048), 7, np.uint16)
    made.write_channel(tmp_path / "a.tif", blank, tile_px=1024, compression="zstd")
    assert (tmp_path / "a.tif").stat().st_size < blank.nbytes / 5000
    assert (open_slide(tmp_path / "a.tif").read_region(1000, 1000, 50, 50) == 7).all()


@pytest.mark.parametrize("compression", ["deflate", "zstd", "lzw", "jpeg"])
def test_a_spoiled_tile_fails_where_it_is_and_nowhere_else(compression: str, tmp_path: Path) -> None:
    image = np.clip(made.noise(3, 128, 128, np.uint8), 0, 255)
    path = tmp_path / "a.tif"
    made.write_rgb_pyramid(path, image, levels=1, compression=compression)
    made.spoil_tile(path, 3)
    slide = TiffSlide(path)
    for _ in range(2):
        with pytest.raises(InputCorruptError, match=r"at \(64, 64\)"):
            slide.read_region(70, 70, 20, 20)
        assert slide.read_region(0, 0, 64, 64).shape == (3, 64, 64)


def test_a_tile_that_was_never_written_is_background(tmp_path: Path) -> None:
    path = tmp_path / "a.tif"
    made.write_channel(path, np.full((128, 128), 9, np.uint16), tile_px=64, compression="deflate")
    with tifffile.TiffFile(path, mode="r+b") as tiff:
        counts = tiff.pages[0].tags[325]
        counts.overwrite([*counts.value[:3], 0])
    pixels = open_slide(path, background="bright").read_region(0, 0, 128, 128)[0]
    assert (pixels[64:, 64:] == 65535).all()
    assert (pixels[:64] == 9).all()


def test_xml_entities_expand_no_further_than_the_parser_allows(tmp_path: Path) -> None:
    entities = "".join(f'<!ENTITY e{n + 1} "{f"&e{n};" * 10}">' for n in range(10))
    bomb = f'<!DOCTYPE x [<!ENTITY e0 "aaaaaaaaaa">{entities}]><OME xmlns="o"><Image ID="&e10;"/></OME>'
    tifffile.imwrite(tmp_path / "a.tif", np.zeros((20, 30), np.uint16), description=bomb, metadata=None)
    with pytest.raises(InputCorruptError, match="amplification"):
        open_slide(tmp_path / "a.tif")


@pytest.mark.parametrize(
    ("pixels", "said"),
    [
        ('<Pixels PhysicalSizeX="0.5" ', "structure cannot be read: not well-formed"),
        ('<Pixels SizeX="5"/>', "structure"),
    ],
)
def test_ome_xml_that_is_no_xml_or_makes_no_sense_is_refused(pixels: str, said: str, tmp_path: Path) -> None:
    broken = f'<?xml version="1.0"?><OME xmlns="o"><Image>{pixels}</Image></OME>'
    tifffile.imwrite(tmp_path / "a.tif", np.zeros((20, 30), np.uint16), description=broken, metadata=None)
    with pytest.raises(InputCorruptError, match=said):
        open_slide(tmp_path / "a.tif")


def test_pixels_in_other_files_are_not_followed(tmp_path: Path) -> None:
    tifffile.imwrite(tmp_path / "other.ome.tif", np.zeros((2, 32, 32), np.uint16), metadata={"axes": "CYX"})
    with tifffile.TiffFile(tmp_path / "other.ome.tif") as tiff:
        ome_xml = tiff.ome_metadata
    uuid = ome_xml.split('UUID="')[1].split('"')[0]
    elsewhere = ome_xml.replace('IFD="0" PlaneCount="2"', 'IFD="0" FirstC="1" PlaneCount="1"').replace(
        f'UUID="{uuid}"', 'UUID="urn:uuid:00000000-0000-0000-0000-000000000001"', 1
    )
    assert elsewhere != ome_xml
    tifffile.imwrite(tmp_path / "a.tif", np.zeros((32, 32), np.uint16), description=elsewhere, metadata=None)
    with pytest.raises((InputCorruptError, InputUnsupportedError)):
        open_slide(tmp_path / "a.tif")


@pytest.mark.parametrize("is_big", [False, True])
def test_directories_that_go_round_are_refused_at_once(tmp_path: Path, is_big: bool) -> None:
    """Found by the fuzzer: tifffile walks round them two to the 32 times."""
    path = tmp_path / "round.tif"
    tifffile.imwrite(path, np.zeros((3, 16, 16), np.uint8), photometric="minisblack", bigtiff=is_big)
    with tifffile.TiffFile(path) as tiff:
        first, last = tiff.pages[1].offset, tiff.pages[-1]
        end = last.offset + (8 + 20 * len(last.tags) if is_big else 2 + 12 * len(last.tags))
    with path.open("r+b") as stream:
        stream.seek(end)
        stream.write(first.to_bytes(8 if is_big else 4, "little"))
    started = time.monotonic()
    with pytest.raises(InputCorruptError, match=f"the one at byte {first} comes twice"):
        open_slide(path, mpp=0.5)
    assert time.monotonic() - started < 5


@pytest.mark.parametrize("is_big", [False, True])
def test_a_last_directory_that_is_cut_is_refused_at_once(tmp_path: Path, is_big: bool) -> None:
    """Found by the fuzzer: tifffile takes the file's last bytes, here a tag's, for the offset of the next directory."""
    path = tmp_path / "cut.tif"
    width = 8 if is_big else 4
    tifffile.imwrite(path, np.zeros((3, 16, 16), np.uint8), photometric="minisblack", bigtiff=is_big)
    with tifffile.TiffFile(path) as tiff:
        last = tiff.pages[-1].offset
    content = bytearray(path.read_bytes()[: last + 40])
    content[last : last + 2] = (200).to_bytes(2, "little")
    content[-width:] = last.to_bytes(width, "little")
    path.write_bytes(content)
    started = time.monotonic()
    with pytest.raises(InputCorruptError, match=f"a directory ends at byte .* of {len(content)}"):
        open_slide(path, mpp=0.5)
    assert time.monotonic() - started < 5


def test_a_leica_description_that_is_no_xml_is_refused(tmp_path: Path) -> None:
    """Found by the fuzzer: what parses XML raises an error of its own kind."""
    made.write_scn(
        tmp_path / "a.tif",
        made.disc_image(64, 48, (30, 20), 12, tissue=(9, 9, 9), glass=(99, 99, 99)),
        (5, 5),
        (80, 80),
    )
    content = (tmp_path / "a.tif").read_bytes()
    at = content.index(b"</")
    (tmp_path / "a.tif").write_bytes(content[: at + 2] + b"?" + content[at + 3 :])
    with pytest.raises(InputCorruptError, match="structure cannot be read"):
        open_slide(tmp_path / "a.tif", mpp=0.5)
