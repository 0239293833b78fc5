"""Files that claim more than they hold, or than anyone reads, are refused by a code before work or memory is spent."""

from __future__ import annotations

import io
import json
import resource
import time
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import imagecodecs
import made_slides as made
import numpy as np
import pytest
import tifffile
from made_omezarr import chunk_files, write_omezarr
from PIL import Image

from pathopatch.core.errors import InputCorruptError, InputTooLargeError
from pathopatch.slides import open_slide

pytestmark = pytest.mark.fault("claims")

_OME = (
    '<?xml version="1.0"?><OME xmlns="http://www.openmicroscopy.org/Schemas/OME/2016-06"><Image ID="Image:0">'
    '<Pixels ID="Pixels:0" DimensionOrder="XYZCT" Type="uint16" SizeX="{x}" SizeY="{x}" SizeZ="{z}" SizeC="{c}" '
    'SizeT="1"><TiffData IFD="0" PlaneCount="{planes}"/></Pixels></Image></OME>'
)
DESCRIPTIONS = {
    "OME-XML of 10^12 planes": _OME.format(x=8, z=10**6, c=10**6, planes=1),
    "OME-XML of 10^6 x 10^6 x 10^6": _OME.format(x=10**6, z=10**6, c=1, planes=1),
    "OME-XML of 10^6 channels": _OME.format(x=8, z=1, c=10**6, planes=1),
    "a plane count of 10^12": _OME.format(x=8, z=1, c=1, planes=10**12),
    "a shape of 10^12 pages": json.dumps({"shape": [10**12, 8, 8]}),
    "a shape of 10^6 x 10^6 pages": json.dumps({"shape": [10**6, 10**6, 8, 8]}),
}


@contextmanager
def bounded() -> Iterator[None]:
    """At most 2 s of the processor, and 1 GiB of memory more than at any time before."""
    seconds, most = time.process_time(), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    yield
    assert time.process_time() - seconds < 2
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - most < 2**20


@pytest.mark.parametrize("claim", DESCRIPTIONS)
def test_a_description_that_counts_too_many_planes_is_refused(claim: str, tmp_path: Path) -> None:
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, np.zeros((8, 8), np.uint16), description=DESCRIPTIONS[claim], metadata=None)
    with bounded(), pytest.raises(InputTooLargeError, match="its description counts"):
        open_slide(path)


def test_a_description_that_counts_the_planes_that_are_there_is_read(tmp_path: Path) -> None:
    path = tmp_path / "a.ome.tif"
    tifffile.imwrite(path, np.zeros((3, 64, 64), np.uint16), metadata={"axes": "CYX"}, photometric="minisblack")
    with open_slide(path) as slide:
        assert len(slide.channels) == 3


def jpeg(side: int, *, is_progressive: bool = False) -> bytes:
    """A JPEG of 64 x 64 px whose header announces another size."""
    stream = io.BytesIO()
    Image.new("L", (64, 64)).save(stream, "JPEG", progressive=is_progressive)
    content = bytearray(stream.getvalue())
    start = content.index(b"\xff\xc2" if is_progressive else b"\xff\xc0")
    content[start + 5 : start + 9] = 2 * side.to_bytes(2, "big")
    return bytes(content)


def tiles(compression: str) -> tuple[bytes, int]:
    """What stands in a tile of 64 x 64 px, and the TIFF's number of the compression."""
    large = np.zeros((5000, 5000), np.uint8)
    return {
        "JPEG": lambda: (jpeg(65500), 7),
        "progressive JPEG": lambda: (jpeg(40000, is_progressive=True), 7),
        "JPEG 2000": lambda: (imagecodecs.jpeg2k_encode(large), 34712),
        "PNG": lambda: (imagecodecs.png_encode(large), 34933),
        "WebP": lambda: (imagecodecs.webp_encode(np.zeros((5000, 5000, 3), np.uint8), lossless=True), 50001),
        "deflate": lambda: (zlib.compress(bytes(10**8)), 8),
    }[compression]()


@pytest.mark.parametrize("compression", ["JPEG", "progressive JPEG", "JPEG 2000", "PNG", "WebP", "deflate"])
def test_a_tile_larger_than_announced_is_refused_before_it_is_decoded(compression: str, tmp_path: Path) -> None:
    data, number = tiles(compression)
    path = tmp_path / "a.tif"
    samples = 3 if compression == "WebP" else 1
    pixels = np.zeros((64, 64, 3) if samples == 3 else (64, 64), np.uint8)
    tifffile.imwrite(path, pixels, tile=(64, 64), photometric="rgb" if samples == 3 else "minisblack")
    made.patch_tag(path, 259, number)
    made.patch_tag(path, 325, len(data))
    made.patch_tag(path, 324, path.stat().st_size)
    with path.open("ab") as stream:
        stream.write(data)
    said = "cannot be decoded" if compression == "deflate" else "it announces"
    with open_slide(path, background="dark") as slide, bounded(), pytest.raises(InputCorruptError, match=said):
        slide.read_region(0, 0, 64, 64)


@pytest.mark.parametrize(
    ("shape", "chunks", "said"),
    [
        ((10**6, 8, 8), (1000, 8, 8), "1000000 channels"),
        ((3, 8192, 8192), (1, 1, 1), "201326592 chunks of 1 x 1 x 1 px"),
        ((3, 512, 512), (1, 1, 1), "786432 chunks of 1 x 1 x 1 px"),
    ],
)
def test_an_omezarr_of_too_many_channels_or_tiny_chunks_is_refused(
    shape: tuple[int, ...], chunks: tuple[int, ...], said: str, tmp_path: Path
) -> None:
    path = write_omezarr(tmp_path / "a.zarr", [made.noise(3, 64, 64, np.uint8)])
    place = path / "0" / "zarr.json"
    metadata = json.loads(place.read_text())
    metadata["shape"], metadata["chunk_grid"]["configuration"]["chunk_shape"] = list(shape), list(chunks)
    place.write_text(json.dumps(metadata))
    with bounded(), pytest.raises(InputTooLargeError, match=said):
        open_slide(path)


@pytest.mark.parametrize("version", ["0.4", "0.5"])
def test_a_chunk_that_would_inflate_is_refused_before_it_is_decoded(version: str, tmp_path: Path) -> None:
    path = tmp_path / "a.zarr"
    write_omezarr(path, [made.noise(1, 64, 64, np.uint8)], version=version)
    is_v2 = version == "0.4"
    place = path / "0" / (".zarray" if is_v2 else "zarr.json")
    metadata = json.loads(place.read_text())
    if is_v2:
        metadata["compressor"] = {"id": "blosc", "cname": "zstd", "clevel": 5, "shuffle": 0, "blocksize": 0}
    else:
        options = {"cname": "zstd", "clevel": 5, "shuffle": "noshuffle", "typesize": 1, "blocksize": 0}
        metadata["codecs"] = [{"name": "bytes"}, {"name": "blosc", "configuration": options}]
    place.write_text(json.dumps(metadata))
    (chunk,) = chunk_files(path)
    chunk.write_bytes(imagecodecs.blosc_encode(bytes(2 * 10**8), compressor="zstd"))
    said = "announces 200000000 bytes, 4096 are due"
    with open_slide(path, background="dark") as slide, bounded(), pytest.raises(InputCorruptError, match=said):
        slide.read_region(0, 0, 8, 8)
    chunk.write_bytes(imagecodecs.blosc_encode(bytes([7]) * 4096, compressor="zstd"))
    with open_slide(path, background="dark") as slide:
        assert (slide.read_region(0, 0, 8, 8) == 7).all()
