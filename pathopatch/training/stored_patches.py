"""Read patches from their stores when they are needed, scaled by their slide's window and resampled."""

from __future__ import annotations

import math
import sys
import threading
from collections import OrderedDict
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pathopatch.models.forward import resize_area
from pathopatch.patches.intensity import scale
from pathopatch.patches.store import PatchStore

_OPEN_SLIDES = 16  # files of three channels each stay far below the usual limit of 1024


class StoredPatches:
    """Patches that are read from their stores when they are needed; any thread or process may read.

    `slide` and `row` (N,) name the store of each patch and its row in it; `input_px` is the side after resampling.
    """

    def __init__(
        self, stores: Sequence[PatchStore], slide: NDArray[np.int64], row: NDArray[np.int64], *, input_px: int
    ) -> None:
        self._stores = tuple(stores)
        self._slide, self._row, self._input_px = slide, row, input_px
        self._open_slides, self._memory = _OpenSlides(), _BatchMemory()

    def __len__(self) -> int:
        return len(self._row)

    def rows(self, index: NDArray[np.int64]) -> StoredPatches:
        """Return some of the patches, read from the same stores."""
        return StoredPatches(self._stores, self._slide[index], self._row[index], input_px=self._input_px)

    def __getitems__(self, indices: Sequence[int] | NDArray[np.int64]) -> NDArray[np.float32]:
        """Return several patches, float32 of shape (n, C, input_px, input_px); one read per slide."""
        chosen = np.asarray(indices, dtype=np.int64)
        slides = self._slide[chosen]
        x: NDArray[np.float32] | None = None
        for number in np.unique(slides):
            store = self._stores[number]
            places = np.flatnonzero(slides == number)
            pixels, windows = store.read(self._row[chosen[places]]), store.windows  # (n, C, p, p)
            if x is None:
                x = self._memory.array((len(chosen), pixels.shape[1], self._input_px, self._input_px))
            if pixels.shape[2:] == x.shape[2:]:
                for place, patch in zip(places, pixels, strict=True):  # one by one: each fits into the cache
                    scale(patch, windows, out=x[place])
            else:
                x[places] = resize_area(scale(pixels, windows), self._input_px)
            for least_recent in self._open_slides.note(int(number)):
                self._stores[least_recent].close()
        if x is None:
            raise IndexError("no patch indices were given")
        return x

    def __getitem__(self, index: Any) -> NDArray[np.float32]:
        """Return patches by a slice or an array of indices, or one patch (C, input_px, input_px) by its index."""
        if isinstance(index, int | np.integer):
            patch: NDArray[np.float32] = self.__getitems__([int(index)])[0]
            return patch
        return self.__getitems__(np.arange(len(self))[index])


class _BatchMemory:
    """Memory for batches, used again once nobody holds an earlier batch."""

    # Touching new memory takes as long as scaling the pixels. CPython counts who holds an array; an interpreter that
    # counts more, or not at all, only gets new memory each time.
    _MOST = 3  # a batch that is learnt from, one that waits, one that is being read
    _OWN = 3  # holders of an array while it is looked at: the list, the variable, the argument

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._arrays: list[NDArray[np.float32]] = []

    def __reduce__(self) -> tuple[Any, ...]:
        return _BatchMemory, ()

    def array(self, shape: tuple[int, ...]) -> NDArray[np.float32]:
        """Return an array of a shape, its content arbitrary."""
        size = math.prod(shape)
        with self._lock:
            for array in self._arrays:
                if array.size >= size and sys.getrefcount(array) <= self._OWN:
                    return array[:size].reshape(shape)
            new = np.empty(size, np.float32)
            self._arrays = [new, *self._arrays[: self._MOST - 1]]
            return new.reshape(shape)


class _OpenSlides:
    """The slides read last: only a few stay open, since each holds files and decoded tiles."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._numbers: OrderedDict[int, None] = OrderedDict()

    def __reduce__(self) -> tuple[Any, ...]:
        return _OpenSlides, ()  # another process has opened nothing yet

    def note(self, number: int) -> list[int]:
        """Note that a slide was read; return those to close."""
        with self._lock:
            self._numbers[number] = None
            self._numbers.move_to_end(number)
            excess = len(self._numbers) - _OPEN_SLIDES
            return [self._numbers.popitem(last=False)[0] for _ in range(max(0, excess))]
