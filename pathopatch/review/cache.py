"""Which encoded pictures are kept, so that looking again costs nothing? The latest ones, up to so many bytes."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable

TILE_BYTES = 256 * 2**20
"""About 20,000 tiles: some slides looked at closely."""


class ByteCache:
    """Byte strings by key, those that were asked for longest ago forgotten first; any thread may ask.

    Parameters
    ----------
    limit_bytes : int
        What is kept comes to at most so much; a value larger than that is never kept.
    """

    def __init__(self, limit_bytes: int = TILE_BYTES) -> None:
        self._limit, self._lock = limit_bytes, threading.Lock()
        self._kept: OrderedDict[Hashable, bytes] = OrderedDict()
        self._held = 0

    @property
    def held_bytes(self) -> int:
        """Size of all that is kept."""
        return self._held

    def get(self, key: Hashable, make: Callable[[], bytes]) -> bytes:
        """Return a key's bytes, made if they are not kept; threads do not wait for each other while they are made."""
        with self._lock:
            if key in self._kept:
                self._kept.move_to_end(key)
                return self._kept[key]
        value = make()
        with self._lock:
            self._held -= len(self._kept.pop(key, b""))
            if len(value) <= self._limit:
                self._kept[key] = value
                self._held += len(value)
            while self._held > self._limit:
                self._held -= len(self._kept.popitem(last=False)[1])
        return value
