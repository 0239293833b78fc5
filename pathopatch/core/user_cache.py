"""Keep what is slow to compute in the user's cache folder: of bounded size, checked when read, safe to delete."""

from __future__ import annotations

import hashlib
import os
import sys
from contextlib import suppress
from pathlib import Path

MOST_BYTES = 2**30
_DIGEST_BYTES = hashlib.sha256().digest_size


def cache_folder() -> Path:
    """Return the folder, which may not exist: ``~/.cache/pathopatch`` on Linux, or below XDG_CACHE_HOME."""
    if sys.platform == "win32":
        return Path(os.environ.get("LOCALAPPDATA") or Path.home() / "AppData" / "Local", "pathopatch", "Cache")
    default = "~/Library/Caches" if sys.platform == "darwin" else "~/.cache"
    return Path(os.path.expanduser(os.environ.get("XDG_CACHE_HOME") or default), "pathopatch")  # noqa: PTH111  # no error


def read_cached(name: str) -> bytes | None:
    """Return what was kept under a name; None if it is not there, cannot be read or is damaged."""
    path = cache_folder() / name
    try:
        content = path.read_bytes()
        path.touch()  # the least recently used is removed first
    except OSError:
        return None
    digest, value = content[:_DIGEST_BYTES], content[_DIGEST_BYTES:]
    return value if hashlib.sha256(value).digest() == digest else None


def write_cached(name: str, value: bytes) -> None:
    """Keep a value under a name, and remove the least recently used ones beyond `MOST_BYTES`.

    Where the folder cannot be written, nothing is kept.
    """
    if len(value) > MOST_BYTES:
        return
    folder = cache_folder()
    with suppress(OSError):
        folder.mkdir(parents=True, exist_ok=True)
        # Renamed when whole, but not written through: what is damaged is not read, and is made again.
        temporary = folder / f"{name}.{os.getpid()}"
        temporary.write_bytes(hashlib.sha256(value).digest() + value)
        temporary.replace(folder / name)
        kept = 0
        stats = [(path, path.stat()) for path in folder.rglob("*") if path.is_file()]
        for path, stat in sorted(stats, key=lambda file: file[1].st_mtime_ns, reverse=True):
            kept += stat.st_size
            if kept > MOST_BYTES:
                path.unlink(missing_ok=True)
