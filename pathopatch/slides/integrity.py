"""Refuse files that are broken or not read; check a TIFF before any pixel is read or memory is taken."""

from __future__ import annotations

import io
import logging
import struct
import xml.etree.ElementTree as ET
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
import tifffile
from PIL.Jpeg2KImagePlugin import Jpeg2KImageFile
from PIL.JpegImagePlugin import JpegImageFile

from pathopatch.core.artefacts import changed
from pathopatch.core.errors import (
    InputCorruptError,
    InputMissingError,
    InputTooLargeError,
    InputUnsupportedError,
    PathopatchError,
)
from pathopatch.core.files import file_state

DECODING_ERRORS = (
    ValueError, RuntimeError, TypeError, LookupError, OSError, struct.error, ArithmeticError, SyntaxError,
)  # fmt: skip
"""Raised by tifffile and imagecodecs on broken input: their own errors are children of these, XML's of the last."""

TIFF_SIGNATURES = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
"""First bytes of a TIFF or BigTIFF file."""
# What tifffile logs of a broken file is refused below by our own errors; without a handler it would go to the screen.
logging.getLogger("tifffile").addHandler(logging.NullHandler())

_MAX_COMPRESSION = 100_000  # empty tiles of zstd reach about 10,000 bytes of pixels per byte of file
_MAX_PLANES = 2**16
_MAX_PADDED_PX = 2**24
_NDPI_TAG = 65420  # in directories of Hamamatsu's NDPI, which keep the high halves of their offsets elsewhere
_MAX_TILE_PX = 2**26  # of one tile, where the whole image has no more; scanners write tiles of at most 2**22


@dataclass(frozen=True)
class OpenedFile:
    """A file or folder as it was when it was opened, see `pathopatch.core.files.file_state`."""

    path: Path
    state: tuple[int | str, ...]

    @classmethod
    def of(cls, path: Path) -> OpenedFile:
        """Return a file as it is now; to be called before anything of it is read."""
        try:
            return cls(path, file_state(path))
        except FileNotFoundError as error:
            raise InputMissingError(f"no file {path}", place=str(path), remedy="check the path") from error
        except OSError as error:
            raise corrupt(path, f"it cannot be read: {error.strerror}") from error

    def require_unchanged(self, descriptor: int | None = None) -> None:
        """Raise InputChangedError unless the path, or an open descriptor, leads to the same file, unchanged."""
        try:
            state = file_state(self.path if descriptor is None else descriptor)
        except OSError as error:
            raise changed(self.path) from error
        if state != self.state:
            raise changed(self.path)


def corrupt(path: Path, what: str) -> InputCorruptError:
    """Return the error that a file or folder cannot be what was written."""
    return InputCorruptError(what, place=str(path), remedy="copy it again from its source")


def unsupported(path: Path, what: str, remedy: str) -> InputUnsupportedError:
    """Return the error that a file or folder is of a kind that is not read."""
    return InputUnsupportedError(what, place=str(path), remedy=remedy)


def too_large(path: Path, what: str, remedy: str) -> InputTooLargeError:
    """Return the error that a file or folder claims more than may be decoded, or than its bytes could hold."""
    return InputTooLargeError(what, place=str(path), remedy=remedy)


@contextmanager
def checked_tiff(path: Path) -> Iterator[Any]:
    """Yield an open ``tifffile.TiffFile`` whose every page lies inside the file.

    A truncated file, one whose structure cannot be read, and one that claims more than it could hold are refused.
    """
    with ExitStack() as stack:
        try:
            _check_directories(path)
            # Never the other files that OME-XML may name: they are not checked.
            tiff: Any = stack.enter_context(tifffile.TiffFile(path, _multifile=False))
            for page in tiff.pages:
                _check_planes(page, path)
                for level in (page, *(page.pages if page.subifds else ())):
                    _check_page(level, tiff.filehandle.size, path)
        except PathopatchError:
            raise
        except DECODING_ERRORS as error:
            raise corrupt(path, f"its structure cannot be read: {error}") from error
        try:
            yield tiff
        except PathopatchError:
            raise
        except DECODING_ERRORS as error:
            raise corrupt(path, f"its structure cannot be read: {error!r}") from error


def _check_planes(page: Any, path: Path) -> None:
    """Refuse a description that is no XML, and a shape in one that counts more planes than are read.

    tifffile would read the first as a plain image, and list each plane of the second, missing ones too.
    """
    if page.is_ome:
        ET.fromstring(page.description)
    if page.is_shaped:
        shape = tifffile.tifffile.shaped_description_metadata(page.shaped_description).get("shape", ())
        count = prod(map(int, shape)) // max(1, prod(page.shape))
        if count > _MAX_PLANES:
            what = f"its description counts {count} planes"
            raise too_large(path, what, f"write at most {_MAX_PLANES} planes into one file")


def _check_directories(path: Path) -> None:
    """Refuse directories that lead to an earlier one, and those that, or whose tags' values, lie past the file's end.

    Libraries go round the first for minutes, and leave out the others.
    """
    size = path.stat().st_size
    with path.open("rb") as stream:
        signature = stream.read(4)
        order = "<" if signature[:2] == b"II" else ">"
        is_big = signature in (b"II+\0", b"MM\0+")
        # A classic file beyond 4 GiB, such as NDPI writes, keeps the high halves of its offsets elsewhere.
        if not is_big and size > 2**32:
            return
        tag_bytes, in_entry = (20, 8) if is_big else (12, 4)  # values up to so many bytes are in the entry itself
        count_format, offset_format = (order + "Q",) * 2 if is_big else (order + "H", order + "I")
        stream.seek(8 if is_big else 4)
        visited: set[int] = set()
        while True:
            try:
                (offset,) = struct.unpack(offset_format, stream.read(in_entry))
                if offset in visited:
                    raise corrupt(path, f"its directories go round: the one at byte {offset} comes twice")
                if offset == 0 and visited:
                    return
                if not 0 < offset < size:
                    what = f"truncated: a directory should stand at byte {offset} of {size}"
                    raise corrupt(path, what if offset else "no image in the file")
                visited.add(offset)
                stream.seek(offset)
                (count,) = struct.unpack(count_format, stream.read(struct.calcsize(count_format)))
            except struct.error as error:
                raise corrupt(path, f"truncated: its directories end past byte {size}") from error
            # tifffile would take the last bytes of the file for the next offset, and could go round for ever.
            end = stream.tell() + count * tag_bytes + in_entry
            if end > size:
                raise corrupt(path, f"truncated: a directory ends at byte {end} of {size}")
            form = f"{order}HH{offset_format[1]}{in_entry}s"
            tags = list(struct.iter_unpack(form, stream.read(count * tag_bytes)))
            for code, kind, values, place in () if any(tag[0] == _NDPI_TAG for tag in tags) else tags:
                value_bytes = values * struct.calcsize(tifffile.TIFF.DATA_FORMATS.get(kind, ""))
                if value_bytes > in_entry and struct.unpack(offset_format, place)[0] + value_bytes > size:
                    raise corrupt(path, f"truncated: the value of tag {code} lies past byte {size}")


def _check_page(page: Any, size: int, path: Path) -> None:
    """Check one page: first that its claimed size is possible, then that its bytes are there."""
    offsets = np.asarray(page.dataoffsets, np.int64)
    counts = np.asarray(page.databytecounts, np.int64)
    claimed = int(page.nbytes)
    needed = int(np.prod([int(n) for n in page.chunked], dtype=object)) if page.chunked else 0
    listed = min(len(offsets), len(counts))
    chunk_bytes = claimed // max(needed, 1)
    item_bits = 8 * page.dtype.itemsize if page.dtype is not None else page.bitspersample
    # 12-bit samples are packed in the file.
    stored = claimed * min(page.bitspersample, item_bits) // item_bits
    tile_px = int(page.tilewidth) * int(page.tilelength) * int(page.tiledepth) if page.is_tiled else 0
    # OpenSlide takes memory for a whole tile, and ends the process where there is not so much.
    if tile_px > max(_MAX_TILE_PX, int(page.imagewidth) * int(page.imagelength)):
        raise corrupt(
            path,
            f"page {page.index} claims tiles of {page.tilewidth} x {page.tilelength} px "
            f"in an image of {page.imagewidth} x {page.imagelength} px",
        )
    is_plain = page.compression == 1 and listed > 0 and bool((counts > 0).all())
    if (
        claimed > _MAX_COMPRESSION * size
        or (listed < needed and claimed > 8 * max(listed, 1) * max(chunk_bytes, 1) and claimed > size)
        or (is_plain and stored > max(int(counts.sum()), size))
    ):
        what = f"page {page.index} claims {page.imagewidth} x {page.imagelength} px ({claimed} bytes)"
        raise too_large(
            path, f"{what} in a file of {size} bytes", "copy the file again from its source, or leave it out"
        )
    if listed < needed or len(offsets) != len(counts):
        raise corrupt(path, f"page {page.index} lists {listed} of {needed} strips or tiles")
    ends = offsets[:listed] + counts[:listed]
    if listed and (int(ends.max()) > size or int(offsets.min()) < 0 or int(counts.min()) < 0):
        missing = int((ends > size).sum())
        what = f"{missing} of {listed} strips or tiles of page {page.index} lie past byte {size}"
        raise corrupt(path, f"truncated: {what}")


def require_as_announced(data: bytes, due_px: int) -> None:
    """Raise ValueError if an encoded image's own header announces far more pixels than are due.

    Decoders take memory for as many as it announces, and one flipped bit of a JPEG may announce four GB.
    """
    size = (0, 0)
    if data.startswith(b"\xff\xd8"):
        size = JpegImageFile(io.BytesIO(data)).size  # of a file its header alone is read, here and below
    elif data.startswith((b"\xff\x4f\xff\x51", b"\0\0\0\x0cjP  ")):
        size = Jpeg2KImageFile(io.BytesIO(data)).size
    # Writers may pad a tile.
    if size[0] * size[1] > max(due_px, _MAX_PADDED_PX):
        raise ValueError(f"it announces {size[0]} x {size[1]} px")
