"""Read Zarr arrays in any process: by tensorstore, and by zarr-python in a forked one.

Tensorstore is tens of times faster on shards. It aborts a process that was forked after it was loaded.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import tensorstore as ts
import zarr
from numpy.typing import NDArray

_LOADED_IN = os.getpid()  # a process of another id is a fork of the one that loaded tensorstore


class ZarrReader:
    """An array on disk, opened in each process when it is first read there.

    Parameters
    ----------
    folder : Path
        Where the array lies.
    driver : {"zarr", "zarr3"}
        Zarr v2 or v3.
    cache_bytes : int
        Decoded chunks that are kept.
    """

    def __init__(self, folder: Path, *, driver: str = "zarr3", cache_bytes: int = 0) -> None:
        self._folder, self._driver, self._cache_bytes = folder, driver, cache_bytes
        self._array: Any = None
        self._pid = -1

    def __reduce__(self) -> tuple[Any, ...]:
        return _rebuild, (self._folder, self._driver, self._cache_bytes)

    def read(self, selection: tuple[int | slice, ...] | slice = slice(None)) -> NDArray[np.generic]:
        """Return a rectangle; the libraries' own errors pass through (see `pathopatch.slides.integrity`)."""
        array = self._open_here()
        return np.asarray(array[selection] if self._is_fork() else array[selection].read().result())

    def rows(self, index: NDArray[np.int64]) -> NDArray[np.generic]:
        """Return entries along the first axis in any order; the libraries' own errors pass through."""
        array = self._open_here()
        # In zarr-python fancy indexing of shards is far slower than one row after another.
        if self._is_fork():
            return np.stack([np.asarray(array[row]) for row in index.tolist()])
        return np.asarray(array[index].read().result())

    @staticmethod
    def _is_fork() -> bool:
        return os.getpid() != _LOADED_IN

    def _open_here(self) -> Any:
        """Return the array, opened in this process."""
        if self._array is None or self._pid != os.getpid():
            self._array, self._pid = self._open(), os.getpid()
        return self._array

    def _open(self) -> Any:
        if self._is_fork():
            return zarr.open_array(self._folder, mode="r")
        spec = {
            "driver": self._driver,
            "kvstore": {"driver": "file", "path": f"{self._folder.resolve()}/"},
            "recheck_cached_data": "open",
            "context": {"cache_pool": {"total_bytes_limit": self._cache_bytes}},
        }
        return ts.open(spec, open=True, read=True).result()


def _rebuild(folder: Path, driver: str, cache_bytes: int) -> ZarrReader:
    return ZarrReader(folder, driver=driver, cache_bytes=cache_bytes)
