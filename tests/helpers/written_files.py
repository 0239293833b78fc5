"""What a command has written, to compare two runs."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

TIMES = ("logs", "status")
"""Folders of files that hold times."""


def contents(folder: Path, *, without: Collection[str] = ()) -> dict[str, bytes]:
    """Return the bytes of each file by its path below a folder; folders of these names are left out."""
    files = {path.relative_to(folder): path for path in folder.rglob("*") if path.is_file()}
    return {str(name): path.read_bytes() for name, path in files.items() if not {*name.parts[:-1]} & {*without}}


def finished(out: Path) -> dict[str, bytes]:
    """Return every finished file but status and logs, which hold times."""
    return {name: content for name, content in contents(out, without=TIMES).items() if ".tmp-" not in name}
