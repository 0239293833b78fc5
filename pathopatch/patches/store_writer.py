"""How is a slide's store written? One Zarr v3 group, in one go, whole shards by one writer.

Two writers in one shard lose patches without a word.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import zarr
from numpy.typing import NDArray

from pathopatch.core.faultpoints import fault_point
from pathopatch.patches.overview import write_array, write_overview
from pathopatch.slides.omezarr_attributes import compressor

SHARD_PATCHES = 256
SHARD_BYTES = 100_000_000


def stored_dtype(dtype: np.dtype[np.generic]) -> np.dtype[np.generic]:
    """Return the type that pixels of a source's type are stored in: its own, but float32 for float64."""
    return np.dtype(np.float32) if dtype == np.float64 else np.dtype(dtype)


def shard_patches(patch_bytes: int, n: int) -> int:
    """Return how many patches go into one shard: 256, fewer of large patches (100 MB raw) or if there are fewer."""
    return max(1, min(SHARD_PATCHES, SHARD_BYTES // patch_bytes, n))


class StoreWriter:
    """One slide's store while it is written, from the first patch to the last.

    Parameters
    ----------
    path : Path
        Where it is built; the caller renames it when it is finished.
    origins : ndarray of int64, shape (N, 2)
        (x, y) of each patch, level-0 px, in the order in which patches will come.
    channels : int
        Number of channels, C.
    patch_px : int
        Side of a patch, px.
    dtype : dtype
        The source's type.
    with_patches : bool
        Off: no pixels are stored, the overview and the attributes are.
    """

    def __init__(
        self,
        path: Path,
        *,
        origins: NDArray[np.int64],
        channels: int,
        patch_px: int,
        dtype: np.dtype[np.generic],
        with_patches: bool = True,
    ) -> None:
        self._root = zarr.create_group(path, zarr_format=3)
        self._dtype = stored_dtype(dtype)
        self._patches: zarr.Array[Any] | None = None
        self._buffer: NDArray[np.generic] = np.empty(0, self._dtype)
        self._buffered = self._written = 0
        write_array(self._root, "origins", origins, chunks=origins.shape, names=("patch", "xy"))
        if with_patches:
            one = (channels, patch_px, patch_px)
            shard = shard_patches(int(np.prod(one)) * self._dtype.itemsize, len(origins))
            self._buffer = np.empty((shard, *one), self._dtype)
            self._patches = self._root.create_array(
                "patches",
                shape=(len(origins), *one),
                chunks=(1, *one),
                shards=(shard, *one),
                dtype=self._dtype,
                compressors=[compressor(self._dtype)],
                fill_value=0,
                dimension_names=("patch", "c", "y", "x"),
            )

    def append(self, patches: NDArray[np.generic]) -> None:
        """Add the next patches, ndarray of shape (n, C, P, P); a shard is written as soon as it is full."""
        if self._patches is None:
            return
        while len(patches):
            n = min(len(patches), len(self._buffer) - self._buffered)
            self._buffer[self._buffered : self._buffered + n] = patches[:n]
            self._buffered += n
            patches = patches[n:]
            if self._buffered == len(self._buffer):
                self._flush()

    def _flush(self) -> None:
        """Write what is buffered as one shard."""
        if self._patches is not None and self._buffered:
            stop = self._written + self._buffered
            self._patches[self._written : stop] = self._buffer[: self._buffered]
            self._written, self._buffered = stop, 0
            fault_point("chunk")

    def write_overview(
        self,
        overview: NDArray[np.generic],
        tissue: NDArray[np.uint8],
        *,
        unscanned: NDArray[np.uint8] | None = None,
        channels: Sequence[str],
        um_per_px: tuple[float, float],
        windows: NDArray[np.float64],
    ) -> None:
        """Write the overview and its masks; see `pathopatch.patches.overview.write_overview`."""
        pixels = overview.astype(stored_dtype(overview.dtype), copy=False)
        write_overview(
            self._root, pixels, tissue, unscanned=unscanned, channels=channels, um_per_px=um_per_px, windows=windows
        )

    def finish(self, attributes: Mapping[str, Any]) -> None:
        """Write the last patches and the attributes; ``complete: true`` comes last."""
        self._flush()
        if self._patches is not None and self._written != self._patches.shape[0]:
            raise AssertionError(f"{self._written} of {self._patches.shape[0]} patches were written")
        self._root.attrs.put(dict(attributes))
        self._root.attrs["complete"] = True
