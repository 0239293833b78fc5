"""Watch which files of a folder are opened, by this process or any other (Linux)."""

from __future__ import annotations

import ctypes
import os
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_IN_OPEN, _IN_NONBLOCK = 0x20, 0o4000


@contextmanager
def opened_files(folder: Path) -> Iterator[list[str]]:
    """Yield a list that holds, at the end, the name of each file in a folder that was opened meanwhile."""
    names: list[str] = []
    libc = ctypes.CDLL(None, use_errno=True)
    descriptor = libc.inotify_init1(_IN_NONBLOCK)
    try:
        assert libc.inotify_add_watch(descriptor, os.fsencode(folder), _IN_OPEN) > 0, os.strerror(ctypes.get_errno())
        yield names
        try:
            events = os.read(descriptor, 2**16)
        except BlockingIOError:
            events = b""
        while events:
            (length,) = struct.unpack_from("I", events, 12)
            names.append(events[16 : 16 + length].rstrip(b"\0").decode())
            events = events[16 + length :]
    finally:
        os.close(descriptor)
