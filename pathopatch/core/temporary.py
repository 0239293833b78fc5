"""How is an unfinished file named, and does the process that writes it still run? The name tells machine and process.

So what a killed process left can be told from what another one is writing.
"""

from __future__ import annotations

import hashlib
import os
import re
import socket
import uuid
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Literal

MARK = ".tmp-"
_NAME = re.compile(r".+\.tmp-(?P<machine>[0-9a-f]{8})-(?P<pid>\d{1,10})-[0-9a-f]{8}")
_NAMELESS = re.compile(r".+\.tmp-[0-9a-f]{12}")  # as schema 1 named them

Writer = Literal["dead", "running", "unknown"]


@dataclass(frozen=True)
class Owner:
    """Who writes a temporary file: a process of this machine that is dead or running, or one that cannot be asked.

    Parameters
    ----------
    state : {"dead", "running", "unknown"}
        ``unknown``: of another machine or container, or of a version that did not write its process down.
    pid : int or None
        Process.
    """

    state: Writer
    pid: int | None = None


def temporary_path(path: Path) -> Path:
    """Return a fresh name beside a path, for what is to be renamed to it."""
    return path.with_name(f"{path.name}{MARK}{_machine()}-{os.getpid()}-{uuid.uuid4().hex[:8]}")


def owner(path: Path) -> Owner | None:
    """Return who writes a temporary file; None if its name is not one of a temporary file."""
    match = _NAME.fullmatch(path.name)
    if match is None:
        return Owner("unknown") if _NAMELESS.fullmatch(path.name) else None
    pid = int(match["pid"])
    if match["machine"] != _machine() or os.name == "nt":  # where asking a process ends it
        return Owner("unknown", pid)
    return Owner("running" if _is_running(pid) else "dead", pid)


@lru_cache(maxsize=1)
def _machine() -> str:
    """Return a name of this machine and, in a container, of its processes' numbering."""
    try:
        numbering = os.readlink("/proc/self/ns/pid")  # noqa: PTH115  # no path, a kernel's name
    except OSError:
        numbering = ""
    return hashlib.sha256(f"{socket.gethostname()} {numbering}".encode()).hexdigest()[:8]


def _is_running(pid: int) -> bool:
    try:
        os.kill(pid, 0)  # signal 0 only asks
    except ProcessLookupError:
        return False
    except OverflowError:
        return False
    except PermissionError:
        return True
    return pid > 0 and not _is_unburied(pid)


def _is_unburied(pid: int) -> bool:
    """Return whether a process has ended and only its parent has not asked how; in a container perhaps nobody will."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text(encoding="ascii", errors="replace")
    except OSError:  # no such system, or it is gone by now, which the next look finds
        return False
    return fields.rpartition(")")[2].split()[0] in "ZX"
