"""Which file does a text name, and what is chosen of it? Fragments such as ``#page=2``, and ``${NAME}``."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path

_CHOICE = r"(?:page|plane|z|t)=\d{1,9}"
_FRAGMENT = re.compile(rf"(?P<path>.+?)#(?P<choices>{_CHOICE}(?:&{_CHOICE}){{0,3}})")

_ZARR_GROUP = ("zarr.json", ".zattrs", ".zgroup")


@dataclass(frozen=True)
class Fragment:
    """A file and what is chosen of it.

    Parameters
    ----------
    path : str
        The file.
    page, plane, z, t : int or None
        Counted from 0; None: all. Pages and planes are the file's, z and t are positions on the axes of its metadata.
    """

    path: str
    page: int | None = None
    plane: int | None = None
    z: int | None = None
    t: int | None = None


def split_fragment(text: str) -> Fragment:
    """Return the file that a path names, and what is chosen of it after its ``#``.

    Parameters
    ----------
    text : str
        ``a.tif``, ``a.tif#page=2``, ``a.tif#plane=0``, ``a.tif#page=2&plane=0`` or ``a.tif#z=3&t=0``; each word at
        most once.
    """
    match = _FRAGMENT.fullmatch(text)
    if match is None:
        return Fragment(text)
    pairs = [choice.split("=") for choice in match["choices"].split("&")]
    chosen = {name: int(number) for name, number in pairs}
    if len(chosen) < len(pairs):
        return Fragment(text)
    return Fragment(match["path"], **chosen)


def expanded(text: str) -> tuple[str, str]:
    """Return a text with ``${NAME}`` replaced, and the first name that is not defined."""
    names = re.findall(r"\$\{([^}]*)\}", text)
    undefined = next((name for name in names if name not in os.environ), "")
    return re.sub(r"\$\{([^}]*)\}", lambda match: os.environ.get(match[1], ""), text), undefined


def is_file(path: str) -> bool:
    """Return whether a text is the path of a file that is there."""
    try:
        return Path(path).is_file()
    except (OSError, ValueError):  # a name too long for the file system, or with a zero byte
        return False


def is_folder(path: str) -> bool:
    """Return whether a text is the path of a folder that is there."""
    try:
        return Path(path).is_dir()
    except (OSError, ValueError):
        return False


def is_slide(path: str) -> bool:
    """Return whether a text is the path of a file, or of a Zarr folder: no other folder is looked through."""
    try:
        return Path(path).is_file() or any((Path(path) / name).is_file() for name in _ZARR_GROUP)
    except (OSError, ValueError):
        return False
