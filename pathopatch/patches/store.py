"""Where a slide's patches, its overview and its numbers are kept, and how they are read back.

One Zarr v3 group a slide. `StoreWriter` writes it in one go, whole shards by one writer: two writers in one shard lose
patches without a word. `PatchStore` reads single patches through tensorstore, which is tens of times faster on shards
than fancy indexing by zarr-python.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import tensorstore as ts
import zarr
from numpy.typing import ArrayLike, NDArray

from pathopatch.errors import InputCorruptError, InputMissingError
from pathopatch.faultpoints import fault_point
from pathopatch.patches.overview import compressor, write_array, write_overview
from pathopatch.provenance import Stamp

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
        channels: Sequence[str],
        um_per_px: tuple[float, float],
        windows: NDArray[np.float64],
    ) -> None:
        """Write the overview and its tissue mask; see `pathopatch.patches.overview.write_overview`."""
        pixels = overview.astype(stored_dtype(overview.dtype), copy=False)
        write_overview(self._root, pixels, tissue, channels=channels, um_per_px=um_per_px, windows=windows)

    def finish(self, attributes: Mapping[str, Any]) -> None:
        """Write the last patches and the attributes; ``complete: true`` comes last."""
        self._flush()
        if self._patches is not None and self._written != self._patches.shape[0]:
            raise AssertionError(f"{self._written} of {self._patches.shape[0]} patches were written")
        self._root.attrs.put(dict(attributes))
        self._root.attrs["complete"] = True


def store_stamp(path: Path) -> Stamp | None:
    """Return the stamp of a finished store; None if there is none or it is not complete."""
    try:
        attributes: dict[str, Any] = zarr.open_group(path, mode="r").attrs.asdict()
    except (FileNotFoundError, ValueError, KeyError):
        return None
    if attributes.get("complete") is not True or "stamp" not in attributes:
        return None
    return Stamp.from_dict(attributes["stamp"])


class PatchStore:
    """A finished store, for reading; pickles by opening it again.

    Parameters
    ----------
    path : Path
        ``slides/<slide_id>.zarr``.

    Raises
    ------
    InputMissingError
        There is no such store.
    InputCorruptError
        It is not complete.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            self.attributes: dict[str, Any] = zarr.open_group(path, mode="r").attrs.asdict()
        except FileNotFoundError as error:
            raise InputMissingError(f"no store {path.name}", place=str(path), remedy="tile the slide") from error
        except (ValueError, KeyError) as error:
            raise InputCorruptError(
                f"not a store: {error}", place=str(path), remedy="remove it and tile the slide again"
            ) from error
        if self.attributes.get("complete") is not True:
            raise InputCorruptError("the store is not complete", place=str(path), remedy="tile the slide again")

    def __reduce__(self) -> tuple[Any, ...]:
        return PatchStore, (self.path,)

    def __len__(self) -> int:
        """Return the number of patches."""
        return len(self.origins)

    @property
    def windows(self) -> NDArray[np.float64]:
        """Intensities that become 0 and 1: ndarray of float64, shape (C, 2), source units."""
        return np.asarray(self.attributes["windows"], np.float64)

    @property
    def has_patches(self) -> bool:
        """Whether pixels are stored (not with ``store = "none"``)."""
        return (self.path / "patches" / "zarr.json").is_file()

    @cached_property
    def origins(self) -> NDArray[np.int64]:
        """(x, y) of each patch, level-0 px: ndarray of int64, shape (N, 2), in the order of the rows."""
        return np.asarray(self._open("origins").read().result(), np.int64)

    @cached_property
    def _rows(self) -> dict[str, int]:
        """Row of each patch id."""
        slide_id = self.attributes["slide_id"]
        return {f"{slide_id}@{x},{y}": row for row, (x, y) in enumerate(self.origins.tolist())}

    @property
    def patch_ids(self) -> list[str]:
        """Each patch's id, in the order of the rows."""
        return list(self._rows)

    def rows(self, patch_ids: Sequence[str]) -> NDArray[np.int64]:
        """Return the row of each patch id.

        Raises
        ------
        InputMissingError
            An id is not of this store.
        """
        try:
            return np.array([self._rows[patch_id] for patch_id in patch_ids], np.int64)
        except KeyError as error:
            raise InputMissingError(
                f"no patch {error.args[0]!r} in this store",
                place=str(self.path),
                remedy="make the groups anew from the patch tables beside this store",
            ) from error

    def read(self, rows: ArrayLike) -> NDArray[np.generic]:
        """Return patches in any order.

        Parameters
        ----------
        rows : array_like of int, shape (n,)
            Rows, see `rows`.

        Returns
        -------
        ndarray, shape (n, C, P, P)
            Source units.

        Raises
        ------
        InputMissingError
            The slide was tiled without storing pixels, or there is no such row.
        InputCorruptError
            A shard cannot be read.
        """
        if not self.has_patches:
            raise InputMissingError(
                "no pixels are stored", place=str(self.path), remedy='tile the slide with store = "zarr"'
            )
        wanted = np.asarray(rows, np.int64)
        if wanted.size and not (wanted.min() >= 0 and wanted.max() < len(self)):
            raise InputMissingError(
                f"rows {wanted.min()} to {wanted.max()} of {len(self)} patches", place=str(self.path)
            )
        try:
            return np.asarray(self._patches[wanted].read().result())
        except ValueError as error:
            raise InputCorruptError(
                f"a shard cannot be read: {error}", place=str(self.path), remedy="tile the slide again"
            ) from error

    def overview(self, level: int = 0) -> NDArray[np.generic]:
        """Return the overview, ndarray of shape (C, h, w), source units; each further level is half as large."""
        return np.asarray(self._open(f"overview/{level}").read().result())

    def tissue(self, level: int = 0) -> NDArray[np.uint8]:
        """Return the overview's tissue mask, ndarray of uint8, shape (h, w); 1 is tissue."""
        return np.asarray(self._open(f"overview/labels/tissue/{level}").read().result(), np.uint8)

    @cached_property
    def _patches(self) -> Any:
        """The open array of patches."""
        return self._open("patches")

    def _open(self, name: str) -> Any:
        """Return an array, opened in this process."""
        spec = {
            "driver": "zarr3",
            "kvstore": {"driver": "file", "path": str((self.path / name).resolve()) + "/"},
            "recheck_cached_data": "open",
        }
        try:
            return ts.open(spec, open=True, read=True).result()
        except ValueError as error:
            raise InputCorruptError(
                f"no array {name!r}: {error}", place=str(self.path), remedy="tile the slide again"
            ) from error
