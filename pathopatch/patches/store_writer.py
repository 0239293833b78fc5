"""Write a slide's store ``slides/<slide_id>.zarr``: one Zarr v3 group with patches, their masks, and the overview.

=============== ================================================================================================
name            holds
=============== ================================================================================================
patches         (N, C, P, P), source units; a store that keeps no pixels has none
tissue_masks    (N, P, ceil(P / 8)) uint8: the pixels of each patch that are tissue, one bit a pixel
tumor_masks     the same of the tumour, where files or the manifest state it
origins         (N, 2) int64: (x, y) of each patch, level-0 px
overview        the whole slide as an OME-Zarr 0.5 image with its masks as labels; not of ready patches
attributes      all that a reader of the patches needs, `checksums` of the files, and `pixels_checksum`
=============== ================================================================================================

Shards are encoded here, byte for byte as zarr-python does it, which takes 0.3 ms a chunk, however small, beside the
compression: a third of the time of tiling at 48 px. Encoding a chunk takes 5 to 20 us.
"""

from __future__ import annotations

import hashlib
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import cv2
import google_crc32c
import numpy as np
import zarr
from numcodecs import Blosc, Zstd
from numpy.typing import NDArray
from zarr.codecs import BloscCodec, Crc32cCodec, ZstdCodec

from pathopatch.core.files import fault_point
from pathopatch.core.mask_bits import MaskKind
from pathopatch.slides.omezarr_metadata import OME_VERSION, image_attributes, multiscales
from pathopatch.slides.resample import resized

SHARD_PATCHES = 256
SHARD_BYTES = 100_000_000
_CHUNK_PX = 512
_SMALLEST_LEVEL_PX = 512
_CHECKSUM_DIGITS = 16
_ABSENT = 2**64 - 1  # place and size of a chunk that a shard does not hold
_LABEL_COLORS = {"tissue": [0, 160, 90, 128], "unscanned": [128, 128, 128, 200], "missed": [230, 160, 0, 128]}


def stored_dtype(dtype: np.dtype[np.generic]) -> np.dtype[np.generic]:
    """Return the dtype in which a source's pixels are stored: its own, but float32 for float64."""
    return np.dtype(np.float32) if dtype == np.float64 else np.dtype(dtype)


def compressor(dtype: np.dtype[np.generic]) -> ZstdCodec | BloscCodec:
    """Return the codec that fits a sample type."""
    if dtype.itemsize == 1:
        return ZstdCodec(level=1)
    # The high bytes of neighbouring pixels are mostly equal, so shuffled bits compress well.
    return BloscCodec(cname="lz4", clevel=5, shuffle="bitshuffle", typesize=dtype.itemsize)


def shard_patches(patch_bytes: int, n: int) -> int:
    """Return the patches per shard: 256, fewer where they exceed 100 MB raw or where there are fewer."""
    return max(1, min(SHARD_PATCHES, SHARD_BYTES // patch_bytes, n))


def file_checksum(path: Path) -> str:
    """Return the `bytes_checksum` of a file."""
    return bytes_checksum(path.read_bytes())


class StoreWriter:
    """One slide's store while it is written, from the first patch to the last.

    Every chunk is written, also one of zeros, and carries a CRC-32C: a missing or changed chunk is an error to readers.
    The attribute `checksums` holds the `file_checksum` of each file, `pixels_checksum` a hash of all pixels and masks,
    which does not depend on the compression.

    `path` is a temporary folder, which the caller renames when it is finished. `origins`, (N, 2), are (x, y) of each
    patch, level-0 px, in the order of `append`, which gets the `masks` of these kinds. Without `with_patches` the
    pixels of the patches are not stored.
    """

    def __init__(
        self,
        path: Path,
        *,
        origins: NDArray[np.int64],
        channels: int,
        patch_px: int,
        dtype: np.dtype[np.generic],
        masks: Sequence[MaskKind] = (),
        with_patches: bool = True,
    ) -> None:
        self._path, self._root = path, zarr.create_group(path, zarr_format=3)
        self._pixels = hashlib.sha256()
        self._dtype = stored_dtype(dtype)
        write_array(self._root, "origins", origins, chunks=origins.shape, names=("patch", "xy"))
        self._hash_pixels(origins)
        one = (channels, patch_px, patch_px)
        shard = shard_patches(int(np.prod(one)) * self._dtype.itemsize, len(origins))
        self._masks = {
            kind: mask_array(self._root, path, kind, count=len(origins), patch_px=patch_px, shard=shard)
            for kind in masks
        }
        self._patches: ShardedArray | None = None
        if with_patches:
            self._patches = ShardedArray(
                self._root,
                path,
                "patches",
                shape=(len(origins), *one),
                dtype=self._dtype,
                shard=shard,
                dimension_names=("patch", "c", "y", "x"),
            )

    def append(self, patches: NDArray[np.generic], masks: Mapping[MaskKind, NDArray[np.uint8]] | None = None) -> None:
        """Add the next patches, shape (n, C, P, P), and their masks, (n, P, ceil(P / 8)) each, as of `pack_masks`.

        Each full shard is written at once.
        """
        patches = patches.astype(self._dtype, copy=False)
        for patch in patches:
            self._hash_pixels(patch)
        for kind, bits in (masks or {}).items():
            for mask in bits:
                self._hash_pixels(mask)
            self._masks[kind].append(bits)
        if self._patches is not None:
            for _ in range(self._patches.append(patches)):
                fault_point("chunk")

    def _hash_pixels(self, values: NDArray[np.generic]) -> None:
        # A checksum of each part, since SHA-256 of all pixels would take a tenth of the time of storing them.
        self._pixels.update(google_crc32c.value(np.ascontiguousarray(values)).to_bytes(4, "little"))

    def write_overview(
        self,
        overview: NDArray[np.generic],
        masks: Mapping[str, NDArray[np.uint8]],
        *,
        channels: Sequence[str],
        um_per_px: tuple[float, float],
        windows: NDArray[np.float64],
    ) -> None:
        """Write the image ``overview`` with masks as label images: ``tissue``, and ``unscanned`` or ``missed``.

        The overview has the shape (C, h, w), the masks of 0 and 1 have (h, w). `um_per_px` is (x, y) per overview px;
        viewers show the `windows`, shape (C, 2), as black and full.
        """
        image = self._root.create_group("overview")
        levels = _write_pyramid(image, overview.astype(stored_dtype(overview.dtype), copy=False), cv2.INTER_AREA)
        pyramid = multiscales("overview", ("c", "y", "x"), levels, um_per_px)
        image.attrs.update(image_attributes(pyramid, channels, windows))
        for values in (overview, *masks.values()):
            self._hash_pixels(values)
        _write_labels(image, masks, um_per_px)

    def finish(self, attributes: Mapping[str, Any]) -> None:
        """Write the attributes; everything else is written."""
        known: dict[str, str] = {}
        for array in (*self._masks.values(), *([] if self._patches is None else [self._patches])):
            if array.missing:
                raise AssertionError(f"{array.name}: {array.missing} are missing")
            known |= array.checksums
        files = [file for file in sorted(self._path.rglob("*")) if file.is_file()]
        names = [file.relative_to(self._path).as_posix() for file in files]
        checksums = {name: known.get(name) or file_checksum(self._path / name) for name in names if name != "zarr.json"}
        digest = self._pixels.hexdigest()[:_CHECKSUM_DIGITS]
        self._root.attrs.put({**attributes, "pixels_checksum": digest, "checksums": checksums})
        # `complete` comes last: readers refuse a store without it.
        self._root.attrs["complete"] = True


class ShardedArray:
    """An array while it is written, chunk by chunk in the order of the patches.

    Every chunk is written, also one of zeros, and carries a CRC-32C: a missing or changed chunk is an error to readers.
    Of `shape`, (N, ...), a chunk is (1, ...), and a shard holds `shard` chunks. The group `root` lies at `path`.

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
        self.checksums: dict[str, str] = {}  # `bytes_checksum` of each shard written, by its path in the root
        self._chunks: list[bytes] = []
        self._last = b"", b""  # the last chunk's values, and the chunk

    def append(self, values: NDArray[np.generic]) -> int:
        """Add the next chunks, (n, ...); return how many shards are written."""
        before = len(self.checksums)
        for value in values.astype(self._dtype, copy=False):
            content = value.tobytes()
            # Most masks are those of the patch before: all glass, all tissue, no tumour.
            if content != self._last[0]:
                encoded = self._encoder.encode(np.frombuffer(content, self._dtype))
                self._last = content, _with_checksum(encoded)
            self._chunks.append(self._last[1])
            self.missing -= 1
            if len(self._chunks) == self._shard or not self.missing:
                self._write_shard()
        return len(self.checksums) - before

    def _write_shard(self) -> None:
        name = "/".join([self.name, "c", str(len(self.checksums)), *["0"] * (len(self._shape) - 1)])
        (self._path / name).parent.mkdir(parents=True)
        # Codec `sharding_indexed`: https://zarr-specs.readthedocs.io/en/latest/v3/codecs/sharding-indexed/index.html
        index = np.full((self._shard, 2), _ABSENT, "<u8")  # (place, size) of each chunk, bytes
        size = np.array([len(chunk) for chunk in self._chunks], np.int64)
        index[: len(size), 0] = np.cumsum(size) - size
        index[: len(size), 1] = size
        content = b"".join([*self._chunks, _with_checksum(index.tobytes())])
        (self._path / name).write_bytes(content)
        self.checksums[name], self._chunks = bytes_checksum(content), []


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


def _with_checksum(content: bytes) -> bytes:
    """Return bytes followed by their CRC-32C, as the codec `crc32c` does."""
    return content + int(google_crc32c.value(content)).to_bytes(4, "little")


def write_array(
    group: zarr.Group, name: str, values: NDArray[np.generic], *, chunks: tuple[int, ...], names: Sequence[str]
) -> None:
    """Write a small array whole, with checksums; `names` are those of its dimensions."""
    array = group.create_array(
        name,
        shape=values.shape,
        chunks=tuple(max(1, side) for side in chunks),
        dtype=values.dtype,
        compressors=[compressor(values.dtype), Crc32cCodec()],
        fill_value=0,
        dimension_names=names,
        config={"write_empty_chunks": True},
    )
    array[...] = values


def _write_labels(image: zarr.Group, masks: Mapping[str, NDArray[np.uint8]], um_per_px: tuple[float, float]) -> None:
    """Write masks (h, w) of 0 and 1 as the label images of an overview."""
    labels = image.create_group("labels")
    labels.attrs["ome"] = {"version": OME_VERSION, "labels": list(masks)}
    for name, mask in masks.items():
        label = labels.create_group(name)
        levels = _write_pyramid(label, mask[None], cv2.INTER_NEAREST, drop_channel=True)
        label.attrs["ome"] = {
            "version": OME_VERSION,
            "multiscales": multiscales(name, ("y", "x"), levels, um_per_px),
            "image-label": {
                "colors": [{"label-value": 1, "rgba": _LABEL_COLORS[name]}],
                "source": {"image": "../../"},
            },
        }


def _write_pyramid(
    group: zarr.Group, pixels: NDArray[np.generic], interpolation: int, *, drop_channel: bool = False
) -> list[tuple[float, float]]:
    """Write (C, h, w) at full size and halved until small; return each level's downsample (x, y)."""
    height, width = pixels.shape[1:]
    downsamples: list[tuple[float, float]] = []
    while True:
        h, w = pixels.shape[1:]
        values = pixels[0] if drop_channel else pixels
        chunks = (min(h, _CHUNK_PX), min(w, _CHUNK_PX))
        names = ("y", "x") if drop_channel else ("c", "y", "x")
        write_array(group, str(len(downsamples)), values, chunks=chunks if drop_channel else (1, *chunks), names=names)
        # Odd sides are floored, so a level's downsample is a quotient of sizes and not a power of two.
        downsamples.append((width / w, height / h))
        if max(h, w) <= _SMALLEST_LEVEL_PX:
            return downsamples
        size = (max(1, w // 2), max(1, h // 2))
        pixels = resized(pixels, size, interpolation=interpolation)
