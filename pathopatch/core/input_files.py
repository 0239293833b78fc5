"""List and open the files that people name: regular files only, since a pipe or a device may never end."""

from __future__ import annotations

import codecs
import errno
import io
import logging
import os
import stat
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from pathopatch.core.errors import InputUnsupportedError

_KINDS = (
    (stat.S_ISFIFO, "a named pipe"),
    (stat.S_ISSOCK, "a socket"),
    (stat.S_ISCHR, "a device"),
    (stat.S_ISBLK, "a device"),
)
_log = logging.getLogger(__name__)
_HEAD_BYTES = 64  # the names of a table's columns, or the first words of JSON or TOML, which are Latin letters
_MARKS = (
    # UTF-32 first: its mark begins with that of UTF-16.
    (codecs.BOM_UTF32_LE, "UTF-32"),
    (codecs.BOM_UTF32_BE, "UTF-32"),
    (codecs.BOM_UTF16_LE, "UTF-16"),
    (codecs.BOM_UTF16_BE, "UTF-16"),
)
_CODING_BY_ZEROS: dict[tuple[bool, ...], str] = {
    (False, True, True, True): "UTF-32LE",
    (True, True, True, False): "UTF-32BE",
    (False, True, False, True): "UTF-16LE",
    (True, False, True, False): "UTF-16BE",
}
"""Codings without a mark, by which bytes of every four are mostly zero in Latin letters and digits."""


@dataclass(frozen=True)
class LeftOut:
    """A file or folder that is not used, and why; in brackets at the end what differs between files."""

    path: Path
    reason: str


def walk_files(
    root: Path, leave_out: Callable[[LeftOut], object], closed: Callable[[Path], object] | None = None
) -> Iterator[tuple[Path, list[str], list[str]]]:
    """Yield each folder below a root with the names of its folders and its files, sorted; hidden ones are skipped.

    A folder whose name the caller removes is not entered. Links are followed, and each folder is entered once. What is
    left out is handed to `leave_out`: pipes, sockets, devices, links around them, and closed folders; these go to
    `closed` where it is given.
    """
    visited: set[Path] = set()

    def note(error: OSError) -> None:
        if closed is not None:
            closed(Path(error.filename))
            return
        leave_out(LeftOut(Path(error.filename), f"the folder cannot be read: {error.strerror}"))

    for parent, folders, files in os.walk(root, followlinks=True, onerror=note):
        folder = Path(parent)
        place = folder.resolve()
        is_circle = folder != root and folder.is_symlink() and folder.parent.resolve().is_relative_to(place)
        if is_circle:
            leave_out(LeftOut(folder, f"a link to a folder around it [{place}]"))
        if is_circle or place in visited:
            folders.clear()
            continue
        visited.add(place)
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        shown = sorted(name for name in files if not name.startswith("."))
        kinds = {name: special_kind(folder / name) for name in shown}
        for name, kind in kinds.items():
            if kind:
                leave_out(LeftOut(folder / name, f"{kind}, not a file"))
        yield folder, folders, [name for name in shown if not kinds[name]]


@lru_cache(maxsize=1024)  # a command reads a folder several times
def log_left_out(item: LeftOut) -> None:
    """Warn once of what is left out; for `walk_files`."""
    _log.warning("left out: %s: %s", item.path, item.reason)


def special_kind(path: Path) -> str:
    """Name what a path is if it is neither a file nor a folder; "" if nothing is there."""
    try:
        return kind_of_mode(os.stat(path).st_mode)  # noqa: PTH116  # Path.stat takes twice as long
    except ValueError:  # a zero byte: no such name
        return ""
    except OSError as error:  # else whoever opens it says why
        return "a link that leads in a circle" if error.errno == errno.ELOOP else ""


def kind_of_mode(mode: int) -> str:
    """Return `special_kind` of what has this mode."""
    return next((words for is_kind, words in _KINDS if is_kind(mode)), "")


def require_regular(path: Path, kind: str | None = None) -> None:
    """Raise InputUnsupportedError for a named pipe, a socket or a device, which a library would wait for.

    `kind` is its `special_kind` where that is known.
    """
    if kind := special_kind(path) if kind is None else kind:
        raise InputUnsupportedError(
            f"{path.name} is {kind}, not a file", place=str(path), remedy="copy its content into a file, and name that"
        )


def open_regular(path: Path) -> io.BufferedReader:
    """Open a regular file to read its bytes.

    InputUnsupportedError as of `require_regular`; OSError as of `Path.open`.
    """
    require_regular(path)
    # What takes the file's place meanwhile must not block either.
    flags = getattr(os, "O_NONBLOCK", 0)
    return open(path, "rb", opener=lambda name, usual: os.open(name, usual | flags))  # noqa: PTH123  # Path has no opener


def wide_coding(content: bytes) -> str | None:
    """Return the coding of a text with two or four bytes a letter, as iconv names it; None where it seems to have none.

    A name that ends in LE or BE means that there is no byte order mark.
    """
    head = content[:_HEAD_BYTES]
    for mark, name in _MARKS:
        if head.startswith(mark):
            return name
    columns = [head[offset::4] for offset in range(4)]
    return _CODING_BY_ZEROS.get(tuple([2 * column.count(0) > len(column) for column in columns]))


def require_narrow(content: bytes, *, place: Path) -> None:
    """Raise InputUnsupportedError for a text that seems to be UTF-16 or UTF-32, naming which."""
    if coding := wide_coding(content):
        mark = "with" if coding in ("UTF-16", "UTF-32") else "without"
        raise InputUnsupportedError(
            f"the text seems to be {coding} {mark} a byte order mark",
            place=str(place),
            remedy=f"save it as UTF-8, such as by `iconv -f {coding} -t UTF-8`",
        )
