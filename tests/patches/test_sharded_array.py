"""Shards that are encoded here, against those of zarr-python."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorstore
import zarr
from zarr.codecs import Crc32cCodec

from pathopatch.core.mask_bits import pack_masks
from pathopatch.patches.store_writer import ShardedArray, compressor, file_checksum, mask_array


@pytest.mark.parametrize(("count", "side", "shard"), [(11, 21, 4), (8, 16, 4), (1, 8, 1), (3, 9, 5)])
@pytest.mark.parametrize("dtype", ["uint8", "uint16", "float32"])
def test_a_shard_has_the_bytes_that_zarr_python_writes(
    tmp_path: Path, dtype: str, count: int, side: int, shard: int
) -> None:
    values = np.random.default_rng(0).integers(0, 200, (count, 2, side, side)).astype(dtype)
    values[0] = 0  # zeros are written too: a missing chunk is an error
    values[count // 2 :] = values[count // 2]  # chunks that repeat themselves
    ours, theirs = (zarr.create_group(tmp_path / name, zarr_format=3) for name in ("ours", "theirs"))
    array = ShardedArray(
        ours, tmp_path / "ours", "a", shape=values.shape, dtype=values.dtype, shard=shard, dimension_names="ncyx"
    )
    for start in range(0, count, 3):
        array.append(values[start : start + 3])
    plain: Any = theirs.create_array(
        "a", shape=values.shape, chunks=(1, *values.shape[1:]), shards=(shard, *values.shape[1:]), dtype=values.dtype,
        compressors=[compressor(values.dtype), Crc32cCodec()], fill_value=0, config={"write_empty_chunks": True},
    )  # fmt: skip
    plain[...] = values
    shards = sorted(path for path in (tmp_path / "theirs/a/c").rglob("*") if path.is_file())
    assert list(array.checksums) == [path.relative_to(tmp_path / "theirs").as_posix() for path in shards]
    assert [(tmp_path / "ours" / name).read_bytes() for name in array.checksums] == [
        path.read_bytes() for path in shards
    ]
    assert list(array.checksums.values()) == [file_checksum(path) for path in shards]
    assert array.missing == 0


def test_other_libraries_read_the_masks_and_how_they_are_packed(tmp_path: Path) -> None:
    masks = np.random.default_rng(0).random((5, 12, 12)) < 0.5
    group = zarr.create_group(tmp_path, zarr_format=3)
    mask_array(group, tmp_path, "tumor", count=5, patch_px=12, shard=2).append(pack_masks(masks))
    spec = {"driver": "zarr3", "kvstore": {"driver": "file", "path": f"{tmp_path}/tumor_masks/"}}
    array: Any = group["tumor_masks"]
    assert (array.chunks, array.shards) == ((1, 12, 2), (2, 12, 2))
    assert array.attrs["width_px"] == 12
    for bits in (array[...], tensorstore.open(spec).result().read().result()):
        assert (np.unpackbits(bits, axis=2, count=12) == masks).all()
