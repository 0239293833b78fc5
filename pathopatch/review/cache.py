"""Keep encoded pictures in memory, the least recently used dropped first."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable

_LIMIT_BYTES = 256 * 2**20  # about 20,000 tiles: several slides looked at closely


class ByteCache:
    """Least-recently-used cache of byte strings, of at most `limit_bytes` together; safe to share among threads."""

    def __init__(self, limit_bytes: int = _LIMIT_BYTES) -> None:
        self._limit_bytes, self._lock = limit_bytes, threading.Lock()
        self._values: OrderedDict[Hashable, bytes] = OrderedDict()
        self.size_bytes = 0

    def get(self, key: Hashable, make: Callable[[], bytes]) -> bytes:
        """Return a key's bytes, made if they are not cached."""
        with self._lock:
            if key in self._values:
                self._values.move_to_end(key)
                return self._values[key]
        # The lock is free meanwhile: a slow tile must not hold up the others. Two threads may make the same one.
        value = make()
        with self._lock:
            self.size_bytes -= len(self._values.pop(key, b""))
            # A value larger than the limit would push out all others.
            if len(value) <= self._limit_bytes:
                self._values[key] = value
                self.size_bytes += len(value)
            while self.size_bytes > self._limit_bytes:
                self.size_bytes -= len(self._values.popitem(last=False)[1])
        return value
