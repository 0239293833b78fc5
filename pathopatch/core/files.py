"""Write files and folders whole or not at all, and read them, with clear errors.

Writes go to a temporary name beside the place and are renamed. The name tells machine and process: what a killed
process left differs from what a running one writes. What is renamed is on the disk first: after a power cut no name
stands for an emptied file.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import re
import shutil
import signal
import socket
import stat
import time
import uuid
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pathopatch.core.csv_table import csv_text
from pathopatch.core.errors import (
    InputCorruptError,
    InputMissingError,
    InputUnsupportedError,
    PathopatchError,
    os_error,
)
from pathopatch.core.input_files import kind_of_mode, require_regular

if TYPE_CHECKING:
    import pandas as pd

MARK = ".tmp-"
_NAME = re.compile(r".+\.tmp-(?P<machine>[0-9a-f]{8})-(?P<pid>\d{1,10})-[0-9a-f]{8}")

Writer = Literal["dead", "running", "unknown"]
_WRITTEN_BY = {  # the command that writes a file of a work folder, by its name or that of its folder
    "slides.parquet": "tile MANIFEST -o WORK",
    "patches": "tile MANIFEST -o WORK",
    "groups.parquet": "groups WORK",
    "audit.json": "groups WORK",
    "run.json": "train WORK",
    "metrics.json": "evaluate WORK",
    "predictions.parquet": "evaluate WORK",
    "predictions": "predict MANIFEST --model BUNDLE -o OUT",
}
_LATE_S = (0.0, 0.05, 0.2, 0.5)
_SYNC_THREADS = 8  # a journal writes at once what several threads wait for: 40 files took 10 ms, one by one 160
_NO_SYNC = {errno.EINVAL, errno.ENOTSUP, errno.EOPNOTSUPP}  # raised for folders on some network drives
FAULT_VARIABLE = "PATHOPATCH_FAULT"
_passed: Counter[str] = Counter()  # passages of each fault point


@contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """Yield a temporary name beside `path`; rename it on success, remove it otherwise. Works for files and folders.

    Its content is on the disk before it is renamed, and its new name is when this returns.

    Raises
    ------
    DiskFullError
        No space was left; the earlier artefact is untouched.
    InputUnsupportedError
        The place cannot be written to.
    """
    with disk_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
    temporary = temporary_path(path)
    # What becomes part of something unfinished is written through together with it, which costs less.
    is_part = any(_NAME.fullmatch(place.name) for place in (path, *path.parents))
    try:
        with disk_errors(path):
            yield temporary
            if not is_part:
                _sync_tree(temporary)
            fault_point("rename")
            if path.is_dir() and not path.is_symlink():
                # A non-empty folder cannot be replaced: it is moved aside first.
                aside = temporary_path(path)
                path.rename(aside)
                fault_point("rename")
                temporary.rename(path)
                remove(aside)
            else:
                temporary.replace(path)
            if not is_part:
                _sync(path.parent)
            fault_point("renamed")
    except BaseException as error:
        # What is wrong with an input is found by this thread; a failing disk, by any that writes.
        is_of_input = isinstance(error, PathopatchError) and not isinstance(error.__cause__, OSError)
        _give_up(temporary, (0.0,) if is_of_input else _LATE_S)
        raise


def _sync_tree(path: Path) -> None:
    """Write a file, or a folder and all below it, through to the disk."""
    if not path.is_dir():
        _sync(path)
        return
    with ThreadPoolExecutor(_SYNC_THREADS) as threads:
        list(threads.map(_sync, [path, *path.rglob("*")]))


def _sync(path: Path) -> None:
    """Write a file, or the names in a folder, through to the disk."""
    is_windows = os.name == "nt"
    if is_windows and path.is_dir():  # its names cannot be written through there
        return
    descriptor = os.open(path, os.O_RDWR if is_windows else os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in _NO_SYNC:
            raise
    finally:
        os.close(descriptor)


def fault_point(name: str) -> None:
    """Pass a point at which a test may kill this process; without the environment variable nothing happens.

    ``PATHOPATCH_FAULT=rename:3`` ends the process with SIGKILL at its third passage of the point ``rename``. Points are
    ``chunk`` (pixels of a store were written), ``rename`` (an artefact is about to take its place), ``renamed`` (it has
    taken it), ``step`` (a step of training is done), ``deciding`` (a reviewer's decision is about to be committed) and
    ``decided`` (it is).
    """
    wanted = os.environ.get(FAULT_VARIABLE)
    if wanted is None:
        return
    _passed[name] += 1
    if wanted == f"{name}:{_passed[name]}":
        os.kill(os.getpid(), signal.SIGKILL)


def _give_up(temporary: Path, pauses_s: Sequence[float]) -> None:
    """Remove what is unfinished; what went wrong before is what the caller must hear, not what does here.

    Where one of several threads of a library failed to write into a folder, the others go on for a moment, and find
    room again by what is removed.
    """
    for pause_s in pauses_s if temporary.is_dir() else (0.0,):
        time.sleep(pause_s)
        with suppress(OSError):
            remove(temporary)


@contextmanager
def disk_errors(path: Path) -> Iterator[None]:
    """Turn the operating system's complaints about an output into errors with code, place and remedy.

    Raises
    ------
    DiskFullError
        No space is left on the device, or the quota is used up.
    InputUnsupportedError
        The place cannot be written to.
    """
    try:
        yield
    except OSError as error:
        known = os_error(error, place=str(path), doing="write here")
        if known is None:
            raise
        raise known from error


def link_or_copy(source: Path | str, target: Path | str) -> None:
    """Give a file a second name, or copy it to another disk; only for files that are never written into."""
    try:
        os.link(source, target)
    except OSError:  # another disk, or one without links
        shutil.copyfile(source, target)


def remove(path: Path) -> None:
    """Remove a file or a folder if it is there; a symbolic link goes, what it leads to stays."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def write_bytes(path: Path, content: bytes) -> None:
    """Write a file by rename; a full disk leaves the earlier one."""
    with atomic_path(path) as temporary:
        temporary.write_bytes(content)


def write_json(path: Path, value: Mapping[str, Any]) -> None:
    """Write plain values as JSON, by rename; NaN is written as null, since JSON has none."""
    with atomic_path(path) as temporary:
        temporary.write_bytes((json_text(value, indent=2) + "\n").encode())


def write_csv(path: Path, table: pd.DataFrame) -> None:
    """Write `csv_text` of a table, by rename; errors as `write_bytes`."""
    write_bytes(path, csv_text(table).encode())


def json_text(value: object, *, indent: int | None = None) -> str:
    """Return plain values as JSON; NaN becomes null, since JSON has none."""
    return json.dumps(_without_nan(value), indent=indent, ensure_ascii=False, default=plain, allow_nan=False)


def plain(value: object) -> Any:
    """Return a value that JSON does not know as one that it knows; for ``json.dumps(default=plain)``."""
    if hasattr(value, "model_dump"):
        return value.model_dump(mode="json")
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, Mapping):
        return dict(value)
    if hasattr(value, "item"):
        return value.item()
    raise TypeError(f"no canonical JSON for {type(value).__name__}")


def _without_nan(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _without_nan(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_without_nan(item) for item in value]
    if isinstance(value, float) and (value != value or value in (float("inf"), float("-inf"))):
        return None
    return value


def read_json(path: Path) -> dict[str, Any]:
    """Return the values of a JSON file.

    Raises
    ------
    InputMissingError
        There is no such file.
    InputCorruptError
        It is not a JSON object, or cannot be read.
    """
    try:
        # A pipe would wait for whoever writes into it.
        if path.exists() and not path.is_file():
            raise OSError(errno.EINVAL, "not a file")
        value = json.loads(path.read_text(encoding="utf-8-sig"))  # editors of Windows put a byte order mark first
    except FileNotFoundError as error:
        raise InputMissingError(f"no file {path.name}", place=str(path), remedy=making_remedy(path)) from error
    except (ValueError, RecursionError) as error:  # a stranger's file may be nested without end
        raise InputCorruptError(
            f"not JSON: {error}", place=str(path), remedy=f"remove it and {making_remedy(path)}"
        ) from error
    except OSError as error:
        raise InputCorruptError(
            f"cannot be read: {error.strerror}", place=str(path), remedy=f"remove it and {making_remedy(path)}"
        ) from error
    if not isinstance(value, dict):
        raise InputCorruptError("not a JSON object", place=str(path), remedy=f"remove it and {making_remedy(path)}")
    return value


def making_remedy(path: Path, *, otherwise: str = "run the command that writes it") -> str:
    """Return the remedy for a missing or damaged file of a work folder: the command that writes it, if it is known."""
    command = _WRITTEN_BY.get(path.name) or _WRITTEN_BY.get(path.parent.name)
    return f"run pathopatch {command}" if command else otherwise


def file_state(path: Path | int) -> tuple[int | str, ...]:
    """Return what differs once a file is overwritten, replaced, extended or cut; of a folder, of all files below it.

    A descriptor stands for the file behind it, whatever its name leads to by now. The time of the last change of state
    is part of it: unlike the modification time no program can set it back.
    """
    status = os.stat(path)  # noqa: PTH116  # also of a descriptor
    if isinstance(path, int) or not stat.S_ISDIR(status.st_mode):
        return _identity(status)
    digest = hashlib.sha256()
    waiting = [os.fspath(path)]
    while waiting:
        with os.scandir(waiting.pop()) as entries:
            for entry in sorted(entries, key=lambda entry: entry.name):
                if entry.is_dir(follow_symlinks=False):
                    waiting.append(entry.path)
                else:
                    below = os.stat(entry.path)  # noqa: PTH116  # half the time
                    require_regular(Path(entry.path), kind_of_mode(below.st_mode))  # a reader would wait for a pipe
                    digest.update(repr((entry.path, _identity(below))).encode())
    return status.st_dev, status.st_ino, digest.hexdigest()


def _identity(status: os.stat_result) -> tuple[int, ...]:
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns


def inside(folder: Path, *parts: str) -> Path:
    """Return a path below a work folder, refusing one that a symbolic link leads outside.

    Raises
    ------
    InputUnsupportedError
        The path would leave the folder.
    """
    path = folder.joinpath(*parts)
    if not _is_inside(path, folder):
        raise InputUnsupportedError(
            f"{path} leads outside the work folder",
            place=os.fspath(folder),
            remedy="remove the symbolic link, or choose another work folder",
        )
    return path


def refuse_links_outside(folder: Path) -> None:
    """Refuse a folder that is read as one file if a symbolic link below it leads outside; no file is opened.

    Raises
    ------
    InputUnsupportedError
        The first such link is named.
    """
    waiting = [os.fspath(folder)]
    while waiting:
        with os.scandir(waiting.pop()) as entries:
            for entry in entries:
                if entry.is_symlink():
                    if not _is_inside(Path(entry.path), folder):
                        raise InputUnsupportedError(
                            f"{os.path.relpath(entry.path, folder)} is a symbolic link that leads outside",
                            place=os.fspath(folder),
                            remedy="copy the folder together with what its links lead to, as cp -rL does",
                        )
                elif entry.is_dir(follow_symlinks=False):
                    waiting.append(entry.path)


def _is_inside(path: Path, folder: Path) -> bool:
    """Return whether a path leads into a folder, links included."""
    try:
        return path.resolve().is_relative_to(folder.resolve())
    except (RuntimeError, OSError):  # links that lead to each other
        return False


@dataclass(frozen=True)
class Owner:
    """Who writes a temporary file: a process of this machine that is dead or running, or one that cannot be asked.

    It is ``unknown`` if it is of another machine or container, or of a version that did not write its process down.
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
        return None
    pid = int(match["pid"])
    if match["machine"] != _machine():
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
    import psutil

    try:
        # One that has ended and whose parent has not asked how is no more; in a container perhaps nobody ever asks.
        return psutil.Process(pid).status() not in (psutil.STATUS_ZOMBIE, psutil.STATUS_DEAD)
    except psutil.AccessDenied:
        return True
    except psutil.NoSuchProcess:
        return False
