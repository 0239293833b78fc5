"""Measure writing the patch store, and reading it in a shuffled order for training."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from itertools import count
from pathlib import Path

import numpy as np
import tensorstore
import zarr
from inputs import TILE_PX, Inputs
from measure import Row, Work, require_equal, speedup

from pathopatch.patches.intensity import scale
from pathopatch.patches.store import PatchStore
from pathopatch.patches.store_writer import StoreWriter, compressor, shard_patches
from pathopatch.training.dataset import StoredPatches

_BATCH = 64
_BATCHES = 8
_WINDOWS = np.array([[0.0, 255.0]] * 3)


def rows(inputs: Inputs) -> Iterator[Row]:
    """All rows about the store."""
    patches = _patches(inputs)
    path = inputs.folder / "store.zarr"
    _write(path, patches)
    yield _writing(inputs.folder, patches, path)
    yield from _training(patches, path)


def _patches(inputs: Inputs) -> np.ndarray:
    """(N, 3, P, P): the made slide cut up, without a remainder."""
    n = inputs.side // TILE_PX
    image = inputs.texture()[:, : n * TILE_PX, : n * TILE_PX]
    cut = image.reshape(3, n, TILE_PX, n, TILE_PX).transpose(1, 3, 0, 2, 4)
    return np.ascontiguousarray(cut.reshape(n * n, 3, TILE_PX, TILE_PX))


def _write(path: Path, patches: np.ndarray) -> None:
    """The store's writer, given batches that are no shards, as in tiling."""
    origins = np.stack([np.arange(len(patches)), np.zeros(len(patches), int)], axis=1)
    writer = StoreWriter(path, origins=origins, channels=3, patch_px=TILE_PX, dtype=patches.dtype)
    for start in range(0, len(patches), 170):
        writer.append(patches[start : start + 170])
    writer.finish({"slide_id": "made", "windows": _WINDOWS.tolist()})


def _write_plainly(path: Path, patches: np.ndarray) -> None:
    """The same array by zarr-python, shard by shard."""
    one = patches.shape[1:]
    shard = shard_patches(patches[0].nbytes, len(patches))
    array = zarr.create_group(path, zarr_format=3).create_array(
        "patches", shape=patches.shape, chunks=(1, *one), shards=(shard, *one), dtype=patches.dtype,
        compressors=[compressor(patches.dtype)], fill_value=0,
    )  # fmt: skip
    for start in range(0, len(patches), shard):
        array[start : start + shard] = patches[start : start + shard]


def _writing(folder: Path, patches: np.ndarray, path: Path) -> Row:
    """Writing all patches, against zarr-python."""
    numbers = count()

    def into_new(write: Callable[[Path, np.ndarray], None]) -> Sequence[Work]:
        target = folder / f"written-{next(numbers)}.zarr"
        for old in folder.glob("written-*.zarr"):
            if old != target and int(old.stem.partition("-")[2]) < int(target.stem.partition("-")[2]) - 1:
                shutil.rmtree(old)
        return [partial(write, target, patches)]

    _write_plainly(folder / "plain.zarr", patches)
    require_equal(*(zarr.open_array(folder_ / "patches", mode="r")[:] for folder_ in (path, folder / "plain.zarr")))
    ratio = speedup(lambda: into_new(_write), lambda: into_new(_write_plainly))
    return Row(f"writing a store of {len(patches)} patches, by zarr-python writing its whole shards", ratio, 1.0)


def _training(patches: np.ndarray, path: Path) -> Iterator[Row]:
    """Shuffled batches scaled to [0, 1], through the data set and through the libraries alone."""
    data_set = StoredPatches(
        [PatchStore(path)], np.zeros(len(patches), np.int64), np.arange(len(patches)), input_px=TILE_PX
    )
    by_zarr = zarr.open_array(path / "patches", mode="r")
    spec = {"driver": "zarr3", "kvstore": {"driver": "file", "path": f"{path / 'patches'}/"}}
    by_tensorstore = tensorstore.open(json.loads(json.dumps(spec)), open=True, read=True).result()
    rng = np.random.default_rng(0)
    size = min(_BATCH, len(patches))
    batches = [rng.permutation(len(patches))[:size] for _ in range(_BATCHES)]

    def single(batch: np.ndarray) -> np.ndarray:
        return scale(np.stack([np.asarray(by_zarr[int(row)]) for row in batch]), _WINDOWS)

    def alone(batch: np.ndarray) -> np.ndarray:
        return scale(np.asarray(by_tensorstore[batch].read().result()), _WINDOWS)

    def work(read: Callable[[np.ndarray], np.ndarray]) -> Callable[[], Sequence[Work]]:
        return lambda: [partial(read, batch) for batch in batches]

    for read, name, goal in (
        (single, "zarr a[i]", 4.0),
        (alone, "tensorstore alone", 0.9),
    ):
        require_equal(map(data_set.__getitems__, batches), map(read, batches))
        yield Row(f"shuffled batches of {size} scaled by the data set, by {name} and the same scaling",
                  speedup(work(data_set.__getitems__), work(read)), goal)  # fmt: skip
