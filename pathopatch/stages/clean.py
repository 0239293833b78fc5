"""Remove what dead processes left: the command `clean`."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from pathopatch.core.artefacts import content_bytes
from pathopatch.core.errors import PathopatchError
from pathopatch.core.files import MARK, inside, owner, remove
from pathopatch.core.status import read_status, slide_ids
from pathopatch.core.work_folder import WorkFolder
from pathopatch.stages.batch.summaries import is_gone

_OUTPUTS = ("slides", "patches", "predictions", "heatmaps", "models", "status")
_GONE = "the slide failed, and its file is gone, or it was a folder that was away"


@dataclass(frozen=True, kw_only=True)
class Leftover:
    """One file or folder that may go, or must stay, and why."""

    path: Path
    bytes: int
    goes: bool
    reason: str


def find(out: Path, *, force: bool = False) -> list[Leftover]:
    """Return what may be removed from a work folder, and what looks like it and must stay.

    With `force`, also temporary files of processes that cannot be asked.
    """
    findings = [_left_over(path, force) for path in _temporary_files(out)]
    findings += [
        Leftover(path=status, bytes=content_bytes(status), goes=True, reason=_GONE)
        for status in (inside(out, "status", f"{name}.json") for name in slide_ids(out))
        if (entries := read_status(out, status.stem)) and all(map(is_gone, entries.values()))
    ]
    if not findings:  # a killed process may have left nothing else
        WorkFolder(out).require_outputs()
    return findings


def clean(out: Path, *, force: bool = False) -> list[Leftover]:
    """Remove what `find` says may go; return its findings. InputUnsupportedError if a symbolic link leads outside."""
    findings = find(out, force=force)
    for finding in findings:
        if finding.goes:
            remove(inside(out, str(finding.path.relative_to(out))))
    return findings


def remove_stale_files(out: Path) -> None:
    """Remove what killed processes of this machine left beside the outputs of a run; what cannot be removed stays.

    No output is opened: with a million slides it takes a second.
    """
    for folder in (out, *(out / name for name in _OUTPUTS)):
        try:
            names = os.listdir(folder)  # noqa: PTH208  # paths as objects would take longer than all else
        except OSError:
            continue
        for name in names:
            if MARK in name and (writer := owner(folder / name)) is not None and writer.state == "dead":
                with suppress(OSError, PathopatchError):
                    remove(inside(out, str((folder / name).relative_to(out))))


def _temporary_files(folder: Path) -> Iterator[Path]:
    """Yield temporary files and folders, not what is in them; links are not followed."""
    for place, folders, files in os.walk(folder):
        for name in sorted(files + folders):
            if owner(Path(name)) is not None:
                yield Path(place) / name
        folders[:] = sorted(name for name in folders if owner(Path(name)) is None)


def _left_over(path: Path, force: bool) -> Leftover:
    """Return whether a temporary file may go."""
    writer = owner(path)
    state, pid = ("unknown", None) if writer is None else (writer.state, writer.pid)
    reason = {
        "dead": f"left by process {pid}, which has ended",
        "running": f"process {pid} is writing it",
        "unknown": "its process cannot be asked" + ("" if pid is None else f" (process {pid} of another machine)"),
    }[state]
    return Leftover(
        path=path,
        bytes=0 if path.is_symlink() else content_bytes(path),
        goes=state == "dead" or (state == "unknown" and force),
        reason=reason,
    )
