"""Write arrays of one chunk per patch as shards of Zarr v3.

The shards are encoded here, byte for byte as zarr-python does it, which takes 0.3 ms a chunk, however small, beside the
compression: a third of the time of tiling at 48 px. Encoding a chunk takes 5 to 20 us.
"""

from __future__ import annotations

import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import google_crc32c
import numpy as np
import zarr
from numcodecs import Blosc, Zstd
from numpy.typing import NDArray
from zarr.codecs import Crc32cCodec, ZstdCodec

from pathopatch.patches.mask_bits import MaskKind
from pathopatch.slides.omezarr_export import compressor

_ABSENT = 2**64 - 1  # place and size of a chunk that a shard does not hold


class ShardedArray:
    """An array while it is written, chunk by chunk in the order of the patches.

    Every chunk is written, also one of zeros, and carries a CRC-32C: a missing or changed chunk is an error to readers.

    Parameters
    ----------
    root : zarr.Group
        The store's group, which lies at `path`.
    path : Path
    name : str
    shape : tuple of int
        Of the whole array, (N, ...); a chunk is (1, ...).
    dtype : dtype
    shard : int
        Chunks per shard; the last one may hold fewer.
    dimension_names : sequence of str
    attributes : mapping, optional
    """

    def __init__(
        self,
        root: zarr.Group,
        path: Path,
        name: str,
        *,
        shape: tuple[int, ...],
        dtype: np.dtype[np.generic],
        shard: int,
        dimension_names: Sequence[str],
        attributes: Mapping[str, Any] | None = None,
    ) -> None:
        self.name, self._path, self._shape, self._dtype, self._shard = name, path, shape, np.dtype(dtype), shard
        codec = compressor(self._dtype)
        root.create_array(
            name,
            shape=shape,
            chunks=(1, *shape[1:]),
            shards=(shard, *shape[1:]),
            dtype=self._dtype,
            compressors=[codec, Crc32cCodec()],
            fill_value=0,
            dimension_names=dimension_names,
            attributes=dict(attributes or {}),
        )
        if isinstance(codec, ZstdCodec):
            self._encoder = Zstd(level=codec.level)
        else:
            self._encoder = Blosc(codec.cname.value, codec.clevel, Blosc.BITSHUFFLE)
        self.missing = shape[0]  # chunks that are still to come
        self._shards = 0  # written
        self._chunks: list[bytes] = []
        self._last = b"", b""  # the last chunk's values, and the chunk

    def append(self, values: NDArray[np.generic]) -> list[tuple[Path, str]]:
        """Add the next chunks, (n, ...); return the shards that are written, each with its `bytes_checksum`."""
        written = []
        for value in values.astype(self._dtype, copy=False):
            content = value.tobytes()
            # Most masks are those of the patch before: all glass, all tissue, no tumour.
            if content != self._last[0]:
                encoded = self._encoder.encode(np.frombuffer(content, self._dtype))
                self._last = content, _with_checksum(encoded)
            self._chunks.append(self._last[1])
            self.missing -= 1
            if len(self._chunks) == self._shard or not self.missing:
                written.append(self._write_shard())
        return written

    def _write_shard(self) -> tuple[Path, str]:
        path = self._path.joinpath(self.name, "c", str(self._shards), *["0"] * (len(self._shape) - 1))
        path.parent.mkdir(parents=True)
        content = _encode_shard(self._chunks, self._shard)
        path.write_bytes(content)
        self._shards, self._chunks = self._shards + 1, []
        return path, bytes_checksum(content)


def mask_array(root: zarr.Group, path: Path, kind: MaskKind, *, count: int, patch_px: int, shard: int) -> ShardedArray:
    """Return the array of the masks of one kind, (N, P, ceil(P / 8)) as `pack_masks` returns them, one bit a pixel.

    A mask takes 40 to 110 bytes at 48 px and 70 to 1,600 at 256 px on real slides.
    """
    return ShardedArray(
        root,
        path,
        mask_array_name(kind),
        shape=(count, patch_px, -(-patch_px // 8)),
        dtype=np.dtype(np.uint8),
        shard=shard,
        dimension_names=("patch", "y", "x_byte"),
        attributes={"bits": "8 pixels a byte along x, the first one in the highest bit", "width_px": patch_px},
    )


def mask_array_name(kind: MaskKind) -> str:
    """Return the name of the array of masks in a store."""
    return f"{kind}_masks"


def bytes_checksum(content: bytes) -> str:
    """Return size and CRC-32 of a file's content, such as ``1024:0a1b2c3d``."""
    # Not CRC-32C: bytes that are followed by their own checksum have the same one whatever they are.
    return f"{len(content)}:{zlib.crc32(content):08x}"


def _encode_shard(chunks: Sequence[bytes], capacity: int) -> bytes:
    """Return a shard of Zarr v3 (codec `sharding_indexed`) of encoded chunks along one axis; it may hold `capacity`.

    References
    ----------
    https://zarr-specs.readthedocs.io/en/latest/v3/codecs/sharding-indexed/index.html
    """
    index = np.full((capacity, 2), _ABSENT, "<u8")  # (place, size) of each chunk, bytes
    size = np.array([len(chunk) for chunk in chunks], np.int64)
    index[: len(chunks), 0] = np.cumsum(size) - size
    index[: len(chunks), 1] = size
    return b"".join([*chunks, _with_checksum(index.tobytes())])


def _with_checksum(content: bytes) -> bytes:
    """Return bytes followed by their CRC-32C, as the codec `crc32c` does."""
    return content + int(google_crc32c.value(content)).to_bytes(4, "little")
