"""Write the masks of patches as a sharded Zarr array, one bit a pixel and one chunk a patch.

A mask takes 40 to 110 bytes at 48 px and 70 to 1,600 at 256 px on real slides. The shards are encoded here: zarr-python
takes 0.3 ms a chunk, however small, a third of the time of tiling at 48 px; encoding takes 5 to 20 us.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import google_crc32c
import numpy as np
import zarr
from numcodecs import Zstd
from numpy.typing import NDArray
from zarr.codecs import Crc32cCodec, ZstdCodec

from pathopatch.patches.mask_bits import MaskKind

_LEVEL = 1  # of zstd
_ABSENT = 2**64 - 1  # place and size of a chunk that a shard does not hold


def mask_array_name(kind: MaskKind) -> str:
    """Return the name of the array of masks in a store."""
    return f"{kind}_masks"


class MaskArray:
    """The masks of one kind while they are written, in the order of the patches.

    `root` is the store's group, which lies at `path`; it holds N = `count` patches of `patch_px`, `shard` of them in a
    shard.
    """

    def __init__(self, root: zarr.Group, path: Path, kind: MaskKind, *, count: int, patch_px: int, shard: int) -> None:
        self.name, self._path, self._shard = mask_array_name(kind), path, shard
        one = (patch_px, -(-patch_px // 8))
        root.create_array(
            self.name,
            shape=(count, *one),
            chunks=(1, *one),
            shards=(shard, *one),
            dtype=np.uint8,
            compressors=[ZstdCodec(level=_LEVEL), Crc32cCodec()],
            fill_value=0,
            dimension_names=("patch", "y", "x_byte"),
            attributes={"bits": "8 pixels a byte along x, the first one in the highest bit", "width_px": patch_px},
        )
        self.missing = count  # masks that are still to come
        self._shards = 0  # written
        self._chunks: list[bytes] = []
        self._last = b"", b""  # the last mask, and its chunk
        self._zstd = Zstd(level=_LEVEL)

    def append(self, bits: NDArray[np.uint8]) -> list[Path]:
        """Add the next masks as `pack_masks` returns them, (n, P, ceil(P / 8)); return the shards that are written."""
        written = []
        for mask in bits:
            content = mask.tobytes()
            # Most masks are those of the patch before: all glass, all tissue, no tumour.
            if content != self._last[0]:
                self._last = content, _with_checksum(self._zstd.encode(content))
            self._chunks.append(self._last[1])
            self.missing -= 1
            if len(self._chunks) == self._shard or not self.missing:
                written.append(self._write_shard())
        return written

    def _write_shard(self) -> Path:
        path = self._path / self.name / "c" / str(self._shards) / "0" / "0"
        path.parent.mkdir(parents=True)
        path.write_bytes(encode_shard(self._chunks, self._shard))
        self._shards, self._chunks = self._shards + 1, []
        return path


def encode_shard(chunks: Sequence[bytes], capacity: int) -> bytes:
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
