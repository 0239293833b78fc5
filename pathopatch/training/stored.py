"""How are patches read when a network asks for them? From their stores or slides, scaled, at the network's size."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch.utils.data import Dataset

from pathopatch.models.forward import resize_area
from pathopatch.patches.intensity import scale
from pathopatch.patches.store import PatchStore

_OPEN_SLIDES = 16  # files of three channels each stay far below the usual limit of 1024


class StoredPatches(Dataset[NDArray[np.float32]]):
    """Patches that are read from their stores, or slides, when they are asked for; any thread or process may ask.

    Parameters
    ----------
    stores : sequence of PatchStore
        One a slide.
    slide, row : ndarray of int64, shape (N,)
        Store of each patch, and its row in it.
    input_px : int
        Side that they are resampled to.
    """

    def __init__(
        self, stores: Sequence[PatchStore], slide: NDArray[np.int64], row: NDArray[np.int64], *, input_px: int
    ) -> None:
        self._stores = tuple(stores)
        self._slide, self._row, self._input_px = slide, row, input_px
        self._recent = _Recent()

    def __len__(self) -> int:
        return len(self._row)

    def rows(self, index: NDArray[np.int64]) -> StoredPatches:
        """Return some of the patches, read from the same stores."""
        return StoredPatches(self._stores, self._slide[index], self._row[index], input_px=self._input_px)

    def __getitems__(self, indices: Sequence[int] | NDArray[np.int64]) -> NDArray[np.float32]:
        """Return several patches, float32 of shape (n, C, input_px, input_px); one read per slide."""
        chosen = np.asarray(indices, dtype=np.int64)
        slides = self._slide[chosen]
        found: NDArray[np.float32] | None = None
        for number in np.unique(slides):
            store = self._stores[number]
            places = np.flatnonzero(slides == number)
            pixels, windows = store.read(self._row[chosen[places]]), store.windows  # (n, C, p, p)
            if found is None:
                found = np.empty((len(chosen), pixels.shape[1], self._input_px, self._input_px), dtype=np.float32)
            if pixels.shape[2:] == found.shape[2:]:
                for place, patch in zip(places, pixels, strict=True):  # one by one: each fits into the cache
                    scale(patch, windows, out=found[place])
            else:
                found[places] = resize_area(scale(pixels, windows), self._input_px)
            for old in self._recent.after(int(number)):
                self._stores[old].close()
        if found is None:
            raise IndexError("no patches asked for")
        return found

    def __getitem__(self, index: Any) -> NDArray[np.float32]:
        """Return patches by a slice or an array of indices, or one patch (C, input_px, input_px) by its index."""
        if isinstance(index, int | np.integer):
            patch: NDArray[np.float32] = self.__getitems__([int(index)])[0]
            return patch
        return self.__getitems__(np.arange(len(self))[index])


class _Recent:
    """Which slides were read last: only a few stay open, for each holds files and decoded tiles."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._numbers: OrderedDict[int, None] = OrderedDict()

    def __reduce__(self) -> tuple[Any, ...]:
        return _Recent, ()  # another process has opened nothing yet

    def after(self, number: int) -> list[int]:
        """Note that a slide was read; return those to close."""
        with self._lock:
            self._numbers[number] = None
            self._numbers.move_to_end(number)
            excess = len(self._numbers) - _OPEN_SLIDES
            return [self._numbers.popitem(last=False)[0] for _ in range(max(0, excess))]
