"""Shards that are encoded here, against those of zarr-python."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorstore
import zarr
from zarr.codecs import Crc32cCodec, ZstdCodec

from pathopatch.patches.mask_array import MaskArray
from pathopatch.patches.mask_bits import pack_masks


@pytest.mark.parametrize(("count", "side", "shard"), [(11, 21, 4), (8, 16, 4), (1, 8, 1), (3, 9, 5)])
def test_a_shard_has_the_bytes_that_zarr_python_writes(tmp_path: Path, count: int, side: int, shard: int) -> None:
    bits = pack_masks(np.random.default_rng(0).random((count, side, side)) < 0.5)
    bits[0] = 0  # zeros are written too: a missing chunk is an error
    bits[count // 2 :] = bits[count // 2]  # masks that repeat themselves
    ours, theirs = (zarr.create_group(tmp_path / name, zarr_format=3) for name in ("ours", "theirs"))
    array = MaskArray(ours, tmp_path / "ours", "tissue", count=count, patch_px=side, shard=shard)
    written = [path for start in range(0, count, 3) for path in array.append(bits[start : start + 3])]
    plain: Any = theirs.create_array(
        "tissue_masks", shape=bits.shape, chunks=(1, *bits.shape[1:]), shards=(shard, *bits.shape[1:]), dtype=np.uint8,
        compressors=[ZstdCodec(level=1), Crc32cCodec()], fill_value=0, config={"write_empty_chunks": True},
    )  # fmt: skip
    plain[...] = bits
    shards = sorted(path for path in (tmp_path / "theirs/tissue_masks/c").rglob("*") if path.is_file())
    assert [path.relative_to(tmp_path / "ours") for path in written] == [
        path.relative_to(tmp_path / "theirs") for path in shards
    ]
    assert [path.read_bytes() for path in written] == [path.read_bytes() for path in shards]
    assert array.missing == 0


def test_other_libraries_read_the_masks_and_how_they_are_packed(tmp_path: Path) -> None:
    masks = np.random.default_rng(0).random((5, 12, 12)) < 0.5
    group = zarr.create_group(tmp_path, zarr_format=3)
    MaskArray(group, tmp_path, "tumor", count=5, patch_px=12, shard=2).append(pack_masks(masks))
    spec = {"driver": "zarr3", "kvstore": {"driver": "file", "path": f"{tmp_path}/tumor_masks/"}}
    array: Any = group["tumor_masks"]
    assert (array.chunks, array.shards) == ((1, 12, 2), (2, 12, 2))
    assert array.attrs["width_px"] == 12
    for bits in (array[...], tensorstore.open(spec).result().read().result()):
        assert (np.unpackbits(bits, axis=2, count=12) == masks).all()
