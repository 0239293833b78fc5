"""What may stand in the place of a status file that was damaged, or put there by somebody else."""

from __future__ import annotations

import os
from pathlib import Path


def damaged(path: Path) -> None:
    path.write_text('{"predict": {"state": "do')


def no_text(path: Path) -> None:
    path.write_bytes(b"\xff\xfe\0")


def a_list(path: Path) -> None:
    path.write_text("[1, 2]")


def too_deep(path: Path) -> None:
    path.write_text('{"predict":' * 100_000)


def other_types(path: Path) -> None:
    path.write_text('{"predict": {"state": "done", "counts": [], "warnings": 5}}')


def texts_for_numbers(path: Path) -> None:
    path.write_text('{"predict": {"state": "done", "counts": {"patches": "a"}, "summary": {"tissue_mm2": []}}}')


def no_entry(path: Path) -> None:
    path.write_text('{"predict": "done"}')


def pipe(path: Path) -> None:
    os.mkfifo(path)


def link_outside(path: Path) -> None:
    path.symlink_to("/etc/hostname")


def link_in_a_circle(path: Path) -> None:
    path.symlink_to(path.name)


CONTENTS = [damaged, no_text, a_list, too_deep, other_types, texts_for_numbers, no_entry]
"""What writes other contents into the file."""
SPOILT = [*CONTENTS, Path.mkdir, pipe, link_outside, link_in_a_circle]
"""The same, and what puts something else in its place."""
