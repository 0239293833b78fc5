"""Record the state of every slide in a small file of its own, ``status/<slide_id>.json``.

Every file is written under the folder's status lock, by rename.
"""

from __future__ import annotations

import socket
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pathopatch.core.errors import InputCorruptError, InputMissingError, PathopatchError
from pathopatch.core.files import inside, read_json, write_json
from pathopatch.core.locks import STATUS, folder_lock, slide_lock

if TYPE_CHECKING:
    import pandas as pd

FOLDER = "status"
FINISHED = ("done", "done_empty")
"""States of a slide whose outputs are there."""
TERMINAL_STATES = (*FINISHED, "failed")
"""States in which nobody works on a slide."""
_KEYS = ("slide_id", "stage")
_NESTED = ("counts", "summary")


@dataclass(frozen=True, kw_only=True)
class SlideStatus:
    """A slide in one stage: where its state stands, and the lock on what the stage makes of it."""

    out: Path  # the work folder
    slide_id: str
    stage: str
    about: Mapping[str, Any] = field(default_factory=dict)  # recorded while the work goes on

    def locked(self) -> AbstractContextManager[None]:
        """Hold the slide's lock; raises as `folder_lock`."""
        name, waiting_for = slide_lock(self.slide_id, self.stage), f"slide {self.slide_id} ({self.stage})"
        return folder_lock(self.out, name, waiting_for=waiting_for)

    def read(self) -> dict[str, Any]:
        """Return the entry of the stage; empty if there is none."""
        return dict(read_status(self.out, self.slide_id).get(self.stage, {}))

    def write(self, entry: Mapping[str, Any]) -> None:
        """Replace the entry of the stage, with this host unless it names one; raises as `update_status`."""
        update_status(self.out, self.slide_id, self.stage, {"host": socket.gethostname(), **entry})


def update_status(out: Path, slide_id: str, stage: str, entry: Mapping[str, Any]) -> None:
    """Write what became of one slide in one stage into ``status/<slide_id>.json``, keeping the other stages' entries.

    An entry has at least ``state`` (running, done, done_empty, failed); times and host may stand here, and only here.

    Raises
    ------
    DiskFullError
        No space was left; the earlier file is untouched.
    """
    path = inside(out, FOLDER, f"{slide_id}.json")
    with folder_lock(out, STATUS):  # two stages may be at one slide
        write_json(path, {**read_status(out, slide_id), stage: dict(entry)})


def is_recorded_done(out: Path, slide_id: str, stage: str) -> bool:
    """Return whether a status says that a stage is done; if its outputs still hold, only the stage can tell."""
    return read_status(out, slide_id).get(stage, {}).get("state") in FINISHED


def read_status(out: Path, slide_id: str) -> dict[str, Any]:
    """Return what is known of one slide, a key per stage; empty if nothing is or the file is damaged.

    Entries have the types that `update_status` is given.
    """
    try:
        return _read(out, slide_id)
    except InputCorruptError:
        return {}


def listed_status(out: Path, slide_id: str) -> dict[str, Any]:
    """Return the same for a list of all slides: one whose file is damaged has failed with that error."""
    try:
        return _read(out, slide_id)
    except PathopatchError as error:
        # The stage that the folder is of: the file itself cannot tell.
        stage = "predict" if (out / "predictions").is_dir() else "tile"
        return {stage: {"state": "failed", "code": error.code, "message": f"status unreadable: {error}"}}


def _read(out: Path, slide_id: str) -> dict[str, Any]:
    """Return a status whose entries have the right types; InputCorruptError if one has not; empty if there is none."""
    try:
        status = read_json(inside(out, FOLDER, f"{slide_id}.json"))
    except InputMissingError:  # of a new slide
        return {}
    for stage, entry in status.items():
        is_entry = (
            isinstance(entry, dict)
            and isinstance(entry.get("state"), str)
            and all(isinstance(entry.get(name, {}), dict) for name in _NESTED)
            and isinstance(entry.get("warnings", []), list)
        )
        numbers = [number for name in _NESTED for number in entry.get(name, {}).values()] if is_entry else []
        if not is_entry or not all(isinstance(number, int | float | None) for number in numbers):
            raise InputCorruptError(f"no status of the stage {stage!r}", remedy="run it again with --force")
    return status


def slide_ids(out: Path) -> list[str]:
    """Return the ids of all slides that have a status, in order."""
    return sorted(path.stem for path in (out / FOLDER).glob("*.json"))


def status_table(out: Path, columns: Sequence[str], told: Callable[..., Any] = lambda *of: of[-1]) -> pd.DataFrame:
    """Return what the statuses of a work folder say, a row for each slide and stage, in the order of ids and stages.

    `columns` are the values of each entry that are wanted beside slide_id and stage; those of ``counts`` and
    ``summary`` go by their own names. They are missing where an entry has no such thing. `told` is called
    with slide id, stage and entry, and returns the entry to take.
    """
    import pandas as pd

    rows = [
        {**_flat(told(slide_id, stage, entry)), "slide_id": slide_id, "stage": stage}
        for slide_id in slide_ids(out)
        for stage, entry in sorted(listed_status(out, slide_id).items())
    ]
    return pd.DataFrame(rows, columns=[*_KEYS, *columns])


def _flat(entry: Mapping[str, Any]) -> dict[str, Any]:
    """Return the values of an entry, those of its counts and summary beside the others, texts of a list as one."""
    values: dict[str, Any] = {}
    for name, value in entry.items():
        if isinstance(value, list):
            value = "; ".join(map(str, value))
        parts = value.items() if name in _NESTED and isinstance(value, dict) else ((name, value),)
        values |= {str(key): part for key, part in parts if isinstance(part, str | int | float)}
    return values
