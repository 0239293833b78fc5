"""Fetch pixels of a TIFF page: strips and tiles are decoded once and kept, as are rows of uncompressed pages.

No file is mapped into memory: one that shrinks, or whose network drive drops out, would end the process by SIGBUS.
"""

from __future__ import annotations

import os
import threading
from collections import OrderedDict
from collections.abc import Hashable, Sequence
from functools import lru_cache, partial
from itertools import product
from pathlib import Path
from typing import Any

import imagecodecs
import numpy as np
import tifffile
from numpy.typing import NDArray

from pathopatch.core.errors import InputChangedError
from pathopatch.slides.integrity import (
    DECODING_ERRORS,
    OpenedFile,
    corrupt,
    require_as_announced,
    too_large,
    unsupported,
)
from pathopatch.slides.resample import Pixels

# Why not OpenSlide or tifffile.aszarr: an OpenSlide loop takes 6.5 times as long at 256 px, aszarr 2.1 to 2.5 times on
# three channels of uint16 and 9 to 10 times where patches overlap by half.
_MIN_CACHE_BYTES = 2 * 2**20  # not more: memory that is touched for the first time costs as much as decoding into it
_MAX_SEGMENT_BYTES = 4 * 2**30  # one strip or tile is decoded as a whole
_MAX_BANDS_BYTES = 128 * 2**20  # of rows of uncompressed pages that are kept, one run of rows a plane
_WHOLE_BAND_BYTES = 16 * 2**20  # rows are read in full at once up to here: on slow drives each read of a row waits
_WIDE_PARTS = 4  # a rectangle of at least this part of the page's width is cut out of whole rows
_CACHED_TILE_ROWS = 2  # a row of patches that straddles two rows of tiles decodes each tile once
# A drive across a network takes milliseconds for each read. A block holds some 20 tiles of a JPEG slide. Several are
# kept, since a patch that is shrunk crosses several rows of tiles, which lie apart in the file.
_BLOCK_BYTES, _KEPT_BLOCKS = 256 * 2**10, 16
# libjpeg-turbo writes rows that begin at a multiple of 32 bytes past the processor's cache, which costs up to half of
# its time. From an offset of 8 on no row begins so, as long as rows are multiples of 16 bytes.
_STREAMED_ALIGNMENT, _UNSTREAMED_OFFSET = 32, 8
_PROGRESSIVE = b"\xff\xc2"  # the marker in a JPEG
_HANDED_OVER = np.empty(0, np.bool_)  # stands in the cache for a tile that was returned without keeping it


_READ_ONLY = os.O_RDONLY | getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_BINARY", 0)
_SEEKING = threading.Lock()


def _seek_and_read(descriptor: int, count: int, offset: int) -> bytes:
    with _SEEKING:
        os.lseek(descriptor, offset, os.SEEK_SET)
        return os.read(descriptor, count)


# pread keeps no position, so threads read through one descriptor without a lock; Windows has none.
_read_at = getattr(os, "pread", _seek_and_read)


def _read_fully(descriptor: int, offset: int, count: int) -> bytes:
    content: bytes = _read_at(descriptor, count, offset)
    # One call gives 2 GiB at most.
    while len(content) < count and (more := _read_at(descriptor, count - len(content), offset + len(content))):
        content += more
    return content


def _read_block(descriptor: int, offset: int) -> bytes:
    return _read_fully(descriptor, offset, _BLOCK_BYTES)


class TileCache:
    """Decoded strips and tiles of one file, the least recently used dropped first; one file handle a process."""

    def __init__(self, file: OpenedFile) -> None:
        self._file = file
        self.capacity = _MIN_CACHE_BYTES
        self._forget()

    def _forget(self) -> None:
        """Start empty: at first, after closing, and in a forked process."""
        # A fork copies the lock as it was; a thread that does not exist there may hold it for ever. It drops the
        # parent's descriptor without closing it.
        self._pid = os.getpid()
        self._lock = threading.Lock()
        self._segments: OrderedDict[Hashable, tuple[Any, int]] = OrderedDict()
        self.kept_bytes = 0
        self._descriptor = -1
        self._block = lru_cache(_KEPT_BLOCKS)(_read_block)

    def read(self, offset: int, count: int, *, is_ahead: bool = False) -> bytes:
        """Return bytes of the file, opened in this process when first needed.

        With `is_ahead` whole blocks are read and kept, since the strip or tile that is asked for next lies next to it.
        """
        descriptor = self._descriptor
        if descriptor < 0:
            with self._lock:
                if self._descriptor < 0:
                    opened = os.open(self._file.path, _READ_ONLY)
                    try:
                        self._file.require_unchanged(opened)
                    except InputChangedError:
                        os.close(opened)
                        raise
                    self._descriptor = opened
                descriptor = self._descriptor
        if not is_ahead or count >= _BLOCK_BYTES:
            return _read_fully(descriptor, offset, count)
        end, parts = offset + count, []
        for start in range(offset - offset % _BLOCK_BYTES, end, _BLOCK_BYTES):
            parts.append(self._block(descriptor, start)[max(offset - start, 0) : end - start])
        return b"".join(parts)

    def get(self, key: Hashable) -> tuple[bool, Any]:
        """Return whether a segment is kept, and the segment (None: nothing is stored there)."""
        if self._pid != os.getpid():
            self._forget()
        with self._lock:
            if key not in self._segments:
                return False, None
            self._segments.move_to_end(key)
            return True, self._segments[key][0]

    def put(self, key: Hashable, segment: Any, n_bytes: int) -> None:
        """Keep a segment, counted as so many bytes."""
        with self._lock:
            if key in self._segments:
                self.kept_bytes -= self._segments.pop(key)[1]
            self._segments[key] = segment, n_bytes
            self.kept_bytes += n_bytes
            while self.kept_bytes > self.capacity and len(self._segments) > 1:
                self.kept_bytes -= self._segments.popitem(last=False)[1][1]

    def close(self) -> None:
        """Drop all segments and close the file."""
        self.__del__()
        self._forget()

    def __del__(self) -> None:
        if getattr(self, "_descriptor", -1) >= 0 and self._pid == os.getpid():
            os.close(self._descriptor)


class PageReader:
    """Pixels of one page; a compression without decoder, and a strip or tile too large to decode, are refused.

    `page` is a tifffile page or frame, whose file may be closed afterwards. `key` tells its segments from those of
    other pages in the cache.
    """

    def __init__(self, page: Any, path: Path, cache: TileCache, key: Hashable) -> None:
        frame = page.keyframe
        self._path, self._cache, self._key = path, cache, key
        self._width, self._height = int(frame.imagewidth), int(frame.imagelength)
        self.samples = int(frame.samplesperpixel)
        self._is_planar = self.samples > 1 and int(frame.planarconfig) == 2
        self.is_interleaved = self.samples > 1 and not self._is_planar
        self._is_reread = False
        self._plain = _plain(page, frame)
        if self._plain is not None:
            return
        try:
            if frame.compression != 1:
                tifffile.TIFF.DECOMPRESSORS[int(frame.compression)]
        except (LookupError, ImportError, ValueError) as error:
            what = f"TIFF compression {int(frame.compression)} is not read"
            raise unsupported(path, what, "write it again with deflate, zstd or JPEG compression") from error
        self._decode, self._jpegtables = frame.decode, page.jpegtables
        # A decoder of plain JPEG strips or tiles; None where tifffile's own is needed. Aperio stores RGB without
        # converting it to YCbCr, and without a marker that says so: the TIFF's own tag tells.
        self._jpeg: partial[Pixels] | None = None
        self._is_converted = False
        photometric = int(frame.photometric)
        is_jpeg = int(frame.compression) == 7 and int(frame.planarconfig) == 1 and frame.bitspersample == 8
        if is_jpeg and not frame.extrasamples and photometric in (1, 2, 6):
            colorspace = 2 if photometric == 2 and not frame.is_jfif else None
            self._jpeg = partial(
                imagecodecs.jpeg8_decode,
                tables=page.jpegtables,
                colorspace=colorspace,
                outcolorspace=None if photometric == 1 else 2,
            )
            self._is_converted = self.samples > 1 and colorspace is None
        self._offsets, self._counts = (np.asarray(n, np.int64) for n in (page.dataoffsets, page.databytecounts))
        strip = min(int(frame.rowsperstrip), self._height), self._width
        self._box = (int(frame.tilelength), int(frame.tilewidth)) if frame.is_tiled else strip
        self._box_shape = self._box if self.samples == 1 else (*self._box, self.samples)
        self._down, self._across = -(-self._height // self._box[0]), -(-self._width // self._box[1])
        samples = 1 if self._is_planar else self.samples
        self._segment_bytes = self._box[0] * self._box[1] * samples * frame.dtype.itemsize
        if self._segment_bytes > _MAX_SEGMENT_BYTES:
            what = f"one strip or tile of {self._box[1]} x {self._box[0]} px needs {self._segment_bytes} bytes"
            raise too_large(path, what, "write it again in tiles of 256 or 512 px")
        row_bytes = self._segment_bytes * self._across * (self.samples if self._is_planar else 1)
        cache.capacity = max(cache.capacity, _CACHED_TILE_ROWS * row_bytes)

    def whole_tile(self, left: int, top: int, width: int, height: int) -> Pixels | None:
        """Return a rectangle that is exactly one tile, (samples, H, W), neither copied nor kept; None if it is none."""
        # As soon as such a tile is read again while the cache could still have held it, tiles are kept instead.
        if self._is_reread or self._plain is not None or (height, width) != self._box or self._is_planar:
            return None
        if left % width or top % height or left + width > self._width or top + height > self._height:
            return None
        index = (top // height) * self._across + left // width
        key = self._key, index
        is_kept, segment = self._cache.get(key)
        if is_kept or not self._counts[index]:
            self._is_reread = segment is _HANDED_OVER
            return None
        segment = self._decoded(index)
        self._cache.put(key, _HANDED_OVER, self._segment_bytes)
        return segment if segment.flags.writeable else segment.copy(order="K")

    def read_into(
        self, out: Pixels, pairs: Sequence[tuple[Any, Any]] | None, left: int, top: int
    ) -> list[tuple[slice, slice]]:
        """Fill channels of `out`, (C, H, W), from a rectangle of the page; return the parts that nothing is stored for.

        `pairs` are pairs of channel in `out` and sample of the page, all in order if not given. The corner is in px of
        the page.
        """
        height, width = out.shape[1:]
        if pairs is None and self._is_planar:
            pairs = [(i, i) for i in range(self.samples)]
        elif pairs is None:
            pairs = [(slice(None), slice(None))]
        if self._plain is not None:
            self._read_plain(out, pairs, left, top)
            return []
        down, across = self._box
        rows = range(top // down, -(-(top + height) // down))
        columns = range(left // across, -(-(left + width) // across))
        holes = []
        for row, column in product(rows, columns):
            at = row * self._across + column
            # Corner of the strip or tile in `out`, and what of both lies on each other.
            y, x = row * down - top, column * across - left
            ys, xs = slice(max(y, 0), min(y + down, height)), slice(max(x, 0), min(x + across, width))
            inner = slice(ys.start - y, ys.stop - y), slice(xs.start - x, xs.stop - x)
            segment = None if self._is_planar else self._segment(at)
            is_stored = True
            for channel, sample in pairs:
                if self._is_planar:
                    segment, sample = self._segment(sample * self._down * self._across + at), 0
                out[channel, ys, xs] = 0 if segment is None else segment[(sample, *inner)]
                is_stored &= segment is not None
            if not is_stored:
                holes.append((ys, xs))
        return holes

    def _read_plain(self, out: Pixels, pairs: Sequence[tuple[Any, Any]], left: int, top: int) -> None:
        """Fill channels of `out` from an uncompressed page; arguments as of `read_into`."""
        assert self._plain is not None
        offset, dtype = self._plain
        for channel, sample in pairs:
            if self._is_planar:
                start = offset + sample * self._height * self._width * dtype.itemsize
                out[channel] = self._rectangle(start, dtype, left, top, out.shape[1:])[0]
            else:
                out[channel] = self._rectangle(offset, dtype, left, top, out.shape[1:])[sample]

    def _rectangle(
        self, offset: int, dtype: np.dtype[np.generic], left: int, top: int, shape: tuple[int, ...]
    ) -> Pixels:
        """Return a rectangle of the uncompressed plane that begins at `offset`, (samples, H, W).

        Rows are read in full and kept, so that a row of patches takes one call of the system. Long rows are at first
        read in part, one by one, and in full as soon as they are asked for again: a single patch takes what it needs.
        """
        height, width = shape
        samples = 1 if self._is_planar else self.samples
        pixel_bytes = samples * dtype.itemsize
        row_bytes = self._width * pixel_bytes
        key = self._key, offset
        # One run of rows a plane: it takes the memory of the one before, which the processor's cache still holds.
        is_kept, kept = self._cache.get(key)
        rows, band = kept if is_kept else (None, None)
        is_again = rows == (top, height)
        if not is_again or band is None:
            start, count, columns = offset + top * row_bytes, height * row_bytes, self._width
            is_wide = width * _WIDE_PARTS >= self._width
            is_full = is_again or count <= _WHOLE_BAND_BYTES
            if is_full or is_wide:
                content = self._cache.read(start, count)
            else:
                starts = range(start + left * pixel_bytes, start + count, row_bytes)
                content = b"".join([self._cache.read(place, width * pixel_bytes) for place in starts])
                columns, left = width, 0
            if len(content) != height * columns * pixel_bytes:
                raise corrupt(self._path, "the file ends before its pixels do")
            band = np.frombuffer(content, dtype).reshape(height, columns, samples)
            if not is_wide and count <= _MAX_BANDS_BYTES // 4:
                self._cache.capacity = max(self._cache.capacity, min(self._cache.kept_bytes + count, _MAX_BANDS_BYTES))
                self._cache.put(key, ((top, height), band if is_full else None), count)
        pixels: Pixels = band[:, left : left + width].transpose(2, 0, 1)
        return pixels

    def _segment(self, index: int) -> Pixels | None:
        """Return a decoded strip or tile (samples, rows, columns); None where nothing is stored."""
        key = self._key, index
        segment: Pixels | None
        is_kept, segment = self._cache.get(key)
        if is_kept and segment is not _HANDED_OVER:
            return segment
        self._is_reread |= is_kept
        segment = self._decoded(index) if self._counts[index] else None
        self._cache.put(key, segment, 0 if segment is None else segment.nbytes)
        return segment

    def _memory(self) -> NDArray[np.uint8]:
        """Return memory for a JPEG tile; its rows begin where the decoder does not stream."""
        # Only decoding with a conversion of colours streams.
        if not self._is_converted:
            return np.empty(self._box_shape, np.uint8)
        spare = np.empty(self._segment_bytes + _STREAMED_ALIGNMENT, np.uint8)
        start = (_UNSTREAMED_OFFSET - spare.ctypes.data) % _STREAMED_ALIGNMENT
        return np.ndarray(self._box_shape, np.uint8, spare, start)

    def _decoded(self, index: int) -> Pixels:
        """Return a strip or tile decoded, (samples, rows, columns), large enough for the pixels that it should hold."""
        count = int(self._counts[index])
        data = self._cache.read(int(self._offsets[index]), count, is_ahead=True)
        row, column = divmod(index % (self._down * self._across), self._across)
        # The last strip may be stored without its padding, so only the pixels inside the page are due.
        due_h = min(self._box[0], self._height - row * self._box[0])
        due_w = min(self._box[1], self._width - column * self._box[1])
        samples = 1 if self._is_planar else self.samples
        pixels: Pixels | None = None
        what = "it is shorter than announced"
        if self._jpeg is not None and len(data) == count:
            try:
                # A progressive JPEG is held as a whole before the size of its memory is compared.
                if _PROGRESSIVE in data:
                    require_as_announced(data, self._box[0] * self._box[1])
                pixels = self._jpeg(data, out=self._memory())
            except DECODING_ERRORS:
                pixels = None  # the general decoder below finds out whether it is broken or only unusual
        if (pixels is None or pixels.shape != self._box_shape) and len(data) == count:
            pixels = None
            try:
                require_as_announced(data, self._box[0] * self._box[1])
                decoded, _, shape = self._decode(data, index, jpegtables=self._jpegtables)
                if decoded is not None and shape[1] >= due_h and shape[2] >= due_w and shape[3] == samples:
                    pixels = decoded[0, : self._box[0], : self._box[1]]
                what = "it decodes to fewer pixels than due, or to other samples"
            except DECODING_ERRORS as error:
                what = str(error)
        if pixels is None:
            raise corrupt(
                self._path,
                f"the strip or tile at ({column * self._box[1]}, {row * self._box[0]}) of a level of "
                f"{self._width} x {self._height} px cannot be decoded: {what}",
            )
        plain = np.ascontiguousarray(pixels)
        return plain[None] if plain.ndim == 2 else plain.transpose(2, 0, 1)


def _plain(page: Any, frame: Any) -> tuple[int, np.dtype[np.generic]] | None:
    """Return offset and type of a page's pixels in the file; None if they are not one plain run of bytes."""
    is_plain = frame.compression == 1 and frame.predictor == 1 and frame.fillorder == 1
    if not (is_plain and page.is_contiguous) or frame.is_tiled or frame.imagedepth > 1 or min(page.databytecounts) <= 0:
        return None
    return int(page.dataoffsets[0]), frame.dtype.newbyteorder(frame.parent.byteorder)
