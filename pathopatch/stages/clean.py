"""Remove what dead processes left, and pixels that can be read again: the command `clean`."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from pathopatch.core.artefacts import content_bytes
from pathopatch.core.errors import PathopatchError
from pathopatch.core.files import MARK, inside, owner, remove, temporary_path
from pathopatch.core.status import read_status, slide_ids
from pathopatch.core.work_folder import WorkFolder
from pathopatch.stages.batch.summaries import is_gone

_OUTPUTS = ("slides", "patches", "predictions", "heatmaps", "models", "status")


@dataclass(frozen=True, kw_only=True)
class Leftover:
    """One file or folder that may go, or must stay, and why."""

    path: Path
    bytes: int
    goes: bool
    reason: str


def find(out: Path, *, store: bool = False, force: bool = False) -> list[Leftover]:
    """Return what may be removed from a work folder, and what looks like it and must stay.

    With `store`, also the pixels of slides that are tiled to the end, which can be read from the slides again. With
    `force`, also temporary files of processes that cannot be asked, and pixels whose slide is gone or changed.
    """
    findings = [_left_over(path, force) for path in _temporary_files(out)]
    findings += [
        Leftover(path=status, bytes=content_bytes(status), goes=True, reason="the slide failed, and its file is gone")
        for status in (inside(out, "status", f"{name}.json") for name in slide_ids(out))
        if (entries := read_status(out, status.stem)) and all(map(is_gone, entries.values()))
    ]
    if not findings:  # a killed process may have left nothing else
        WorkFolder(out).require_outputs()
    if store:
        findings += [_pixels(out, path, force) for path in sorted((out / "slides").glob("*.zarr/patches"))]
    return findings


def clean(out: Path, *, store: bool = False, force: bool = False) -> list[Leftover]:
    """Remove what `find` says may go; return its findings. InputUnsupportedError if a symbolic link leads outside."""
    findings = find(out, store=store, force=force)
    for finding in findings:
        if finding.goes:
            path = inside(out, str(finding.path.relative_to(out)))
            if owner(path) is None and path.is_dir():  # in one step: a store half without its pixels must not be seen
                path = path.rename(temporary_path(path))
            remove(path)
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


def _pixels(out: Path, path: Path, force: bool) -> Leftover:
    """Return whether the pixels of a store may go."""
    from pathopatch.patches.store import PatchStore
    from pathopatch.patches.tile import is_tiled

    slide_id = path.parent.stem
    goes, reason = False, f"slide {slide_id} is not tiled to the end"
    if is_tiled(out, slide_id):
        try:
            PatchStore(path.parent).check_source()
            goes, reason = True, f"pixels of slide {slide_id}, which are read from the slide again"
        except (PathopatchError, OSError) as error:
            goes, reason = force, f"pixels of slide {slide_id}, which cannot be read from the slide again: {error}"
    return Leftover(path=path, bytes=content_bytes(path), goes=goes, reason=reason)
