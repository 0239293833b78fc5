"""Paths as a manifest writes them: fragments such as ``#page=2``, variables, and the ids made of paths."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path

_CHOICE = r"(?:page|plane|z|t)=\d{1,9}"
_FRAGMENT = re.compile(rf"(?P<path>.+?)#(?P<choices>{_CHOICE}(?:&{_CHOICE}){{0,3}})")
_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")
_RESERVED_ON_WINDOWS = {"con", "prn", "aux", "nul", *(f"{port}{n}" for port in ("com", "lpt") for n in range(1, 10))}
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
    # One word given twice is no fragment: the text may be the name of a file.
    if len(chosen) < len(pairs):
        return Fragment(text)
    return Fragment(match["path"], **chosen)


def expand_variables(text: str) -> tuple[str, str]:
    """Return a text with ``${NAME}`` replaced from the environment, and the first undefined name or ""."""
    names = re.findall(r"\$\{([^}]*)\}", text)
    undefined = next((name for name in names if name not in os.environ), "")
    return re.sub(r"\$\{([^}]*)\}", lambda match: os.environ.get(match[1], ""), text), undefined


def valid_slide_id(text: str) -> bool:
    """Return whether a text may be an id: a plain file name on every system, and harmless in a spreadsheet."""
    is_plain = _ID.fullmatch(text) is not None and not text.endswith(".")
    # Windows reserves these names with any ending too.
    return is_plain and text.split(".")[0].casefold() not in _RESERVED_ON_WINDOWS


def slide_id_from_path(path: Path | str) -> str:
    """Return an id for a slide that has none: its file's stem, forbidden characters replaced by ``_``."""
    stem = Path(split_fragment(str(path)).path).stem
    safe = re.sub(r"[^A-Za-z0-9._-]", "_", stem).lstrip("._-")[:128].rstrip(".")
    return safe if valid_slide_id(safe) else f"slide_{safe}"[:128].rstrip(".")


def is_file(path: str) -> bool:
    """Return whether a file is there."""
    try:
        return Path(path).is_file()
    except (OSError, ValueError):  # a name too long for the file system, or with a zero byte
        return False


def is_folder(path: str) -> bool:
    """Return whether a folder is there."""
    try:
        return Path(path).is_dir()
    except (OSError, ValueError):
        return False


def is_slide(path: str) -> bool:
    """Return whether a file or an OME-Zarr folder is there."""
    # A folder is not searched: a wrong path may name a whole disk.
    return is_file(path) or any(is_file(str(Path(path) / name)) for name in _ZARR_GROUP)
