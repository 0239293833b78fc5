"""Record the state of every slide: one small file each in ``status/``, for very many slides compacted into tables.

``status/<slide_id>.json`` is the truth of its slide. `compact_status` moves thousands of final ones into one
``status/chunk-<number>.parquet``, so that a million slides are not a million files to read. A slide that is worked on
again has a file again. A file takes precedence over any chunk, and a later chunk over an earlier one. Everything is
written under the folder's status lock, by rename.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pathopatch.core.errors import InputCorruptError, InputMissingError, PathopatchError
from pathopatch.core.files import atomic_path, inside, json_text, read_json, write_json
from pathopatch.core.locks import STATUS, folder_lock

if TYPE_CHECKING:
    import pandas as pd
    import pyarrow as pa

FOLDER, CHUNK = "status", "chunk-"
FINISHED = ("done", "done_empty")
"""States of a slide whose outputs are there."""
TERMINAL_STATES = (*FINISHED, "failed")
"""States in which nobody works on a slide."""
COMPACT_FROM = 5000
"""So many final files are left as they are: they are read in a second."""
_ENTRY = "entry"
_KEYS = ("slide_id", "stage")
_NESTED = ("counts", "summary")


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
    path = inside(out, FOLDER, f"{slide_id}.json")
    try:
        return _require_entries(read_json(path))
    except InputMissingError:  # the usual case of a new slide, or it was compacted
        return _from_chunks(out, slide_id)
    except InputCorruptError:
        return {}


def listed_status(out: Path, slide_id: str) -> dict[str, Any]:
    """Return the same for a list of all slides: one whose file is damaged has failed with that error."""
    try:
        return _require_entries(read_json(inside(out, FOLDER, f"{slide_id}.json")))
    except InputMissingError:
        return _from_chunks(out, slide_id)
    except PathopatchError as error:
        return _unreadable(out, error)


def _unreadable(out: Path, error: PathopatchError) -> dict[str, Any]:
    # The stage that the folder is of: the file itself cannot tell.
    stage = "predict" if (out / "predictions").is_dir() else "tile"
    return {stage: {"state": "failed", "code": error.code, "message": f"status unreadable: {error}"}}


def _require_entries(status: dict[str, Any]) -> dict[str, Any]:
    """Return a status whose entries have the right types; InputCorruptError if one has not."""
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
    ids = {path.stem for path in _files(out)}
    for path in chunks(out):
        ids.update(_column(path, "slide_id"))
    return sorted(ids)


def chunks(out: Path) -> list[Path]:
    """Return the tables that hold compacted statuses, the earliest first."""
    return sorted((out / FOLDER).glob(f"{CHUNK}*.parquet"))


def compact_status(out: Path, *, at_least: int = COMPACT_FROM) -> Path | None:
    """Put the final statuses of a work folder into one more chunk, and return it; None if fewer than `at_least`.

    Killed at any point it loses nothing: the files go after their chunk is there, and stand before it until then.

    Raises
    ------
    DiskFullError
        No space was left; nothing has changed.
    """
    if sum(1 for _ in _files(out)) < at_least:
        return None
    with folder_lock(out, STATUS):
        final = {path: status for path in _files(out) if (status := _final_status(path))}
        if len(final) < at_least:
            return None
        path = inside(out, FOLDER, f"{CHUNK}{_next_number(out):06d}.parquet")
        _write(path, {file.stem: status for file, status in sorted(final.items())})
        for file in final:
            file.unlink()
    return path


@dataclass
class StatusTable:
    """What the statuses of a work folder say, a row for each slide and stage; any number of times.

    Only what was written since the last time is read again. `columns` are the values of each entry that are wanted
    beside slide_id and stage; those of ``counts`` and ``summary`` go by their own names.
    """

    out: Path
    columns: tuple[str, ...] = ("state", "code")
    _of_files: dict[str, tuple[tuple[int, ...], list[dict[str, Any]]]] = field(default_factory=dict, init=False)
    _of_chunks: dict[Path, pd.DataFrame] = field(default_factory=dict, init=False)

    def read(self) -> pd.DataFrame:
        """Return the table, in the order of ids and stages; missing where an entry has no such thing.

        Of a million slides it takes some seconds and some hundred megabytes.

        Raises
        ------
        InputCorruptError
            A chunk cannot be read.
        """
        import pandas as pd

        earlier = self._of_chunks  # a chunk is never written again
        self._of_chunks = {
            path: earlier[path] if path in earlier else _read(path, self.columns) for path in chunks(self.out)
        }
        rows = [row for path in sorted(_files(self.out)) for row in self._rows(path)]
        parts = [*self._of_chunks.values(), pd.DataFrame(rows, columns=[*_KEYS, *self.columns])]
        table = pd.concat([part for part in parts if len(part)] or parts, ignore_index=True)
        table = table.drop_duplicates(list(_KEYS), keep="last")  # a file before all chunks, a chunk before earlier ones
        return table.sort_values(list(_KEYS), kind="stable", ignore_index=True)

    def _rows(self, path: Path) -> list[dict[str, Any]]:
        try:
            status = os.lstat(path)  # a link in a circle has a status too
        except FileNotFoundError:  # compacted meanwhile
            return []
        written = (status.st_mtime_ns, status.st_ino, status.st_size)
        if path.stem not in self._of_files or self._of_files[path.stem][0] != written:
            entries = self._entries(path).items()
            rows = [{**_flat(entry), "slide_id": path.stem, "stage": stage} for stage, entry in entries]
            self._of_files[path.stem] = written, rows
        return self._of_files[path.stem][1]

    def _entries(self, path: Path) -> dict[str, Any]:
        try:
            return _require_entries(read_json(inside(self.out, FOLDER, path.name)))
        except InputMissingError:  # compacted meanwhile
            return {}
        except PathopatchError as error:
            return _unreadable(self.out, error)


def _files(out: Path) -> Iterator[Path]:
    return (out / FOLDER).glob("*.json")


def _read_status_file(path: Path) -> dict[str, Any]:
    try:
        return read_json(path)
    except (InputMissingError, InputCorruptError):  # compacted or written anew meanwhile, or damaged
        return {}


def _entries(status: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
    return {stage: entry for stage, entry in sorted(status.items()) if isinstance(entry, dict)}


def _final_status(path: Path) -> dict[str, Any]:
    """Return a status whose every stage is final; empty if it is not, or cannot be read."""
    status = _read_status_file(path)
    entries = _entries(status)
    is_final = entries and len(entries) == len(status)
    return status if is_final and all(entry.get("state") in TERMINAL_STATES for entry in entries.values()) else {}


def _flat(entry: Mapping[str, Any]) -> dict[str, Any]:
    """Return the values of an entry, those of its counts and summary beside the others, texts of a list as one."""
    values: dict[str, Any] = {}
    for name, value in entry.items():
        if isinstance(value, list):
            value = "; ".join(map(str, value))
        parts = value.items() if name in _NESTED and isinstance(value, dict) else ((name, value),)
        values |= {str(key): part for key, part in parts if isinstance(part, str | int | float)}
    return values


def _next_number(out: Path) -> int:
    return 1 + max((int(path.stem.removeprefix(CHUNK)) for path in chunks(out)), default=0)


def _write(path: Path, statuses: Mapping[str, Mapping[str, Any]]) -> None:
    """Write a chunk: a row a slide and stage, its single values as columns to select by, all of it as JSON."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    rows = [
        {**_flat(entry), "slide_id": slide_id, "stage": stage, _ENTRY: json_text(entry)}
        for slide_id, status in statuses.items()
        for stage, entry in _entries(status).items()
    ]
    names = [*_KEYS, *sorted({name for row in rows for name in row} - {*_KEYS, _ENTRY}), _ENTRY]
    columns = {name: _array(rows, name) for name in names}
    with atomic_path(path) as temporary:
        pq.write_table(pa.table(columns), temporary, compression="zstd", row_group_size=COMPACT_FROM)


def _array(rows: Sequence[Mapping[str, Any]], name: str) -> pa.Array:
    """Return a column of whole numbers, of numbers, or, as soon as there is one, of texts."""
    import pyarrow as pa

    types = {type(row[name]) for row in rows if name in row}
    for kinds, kind in (({bool}, pa.bool_()), ({int}, pa.int64()), ({int, float}, pa.float64())):
        if types <= kinds:
            return pa.array([row.get(name) for row in rows], kind)
    return pa.array([str(row[name]) if name in row else None for row in rows], pa.string())


def _read(path: Path, columns: Iterable[str]) -> pd.DataFrame:
    """Return some columns of a chunk, those that it lacks as missing."""
    import pyarrow.parquet as pq

    with _name_corrupt_chunk(path):
        there = set(pq.read_schema(path).names)
        table: pd.DataFrame = pq.read_table(path, columns=[*_KEYS, *(n for n in columns if n in there)]).to_pandas()
    return table.reindex(columns=[*_KEYS, *columns])


def _column(path: Path, name: str) -> list[str]:
    import pyarrow.parquet as pq

    with _name_corrupt_chunk(path):
        values: list[str] = pq.read_table(path, columns=[name])[name].to_pylist()
    return values


def _from_chunks(out: Path, slide_id: str) -> dict[str, Any]:
    """Return what the latest chunk that has a slide says of it; empty if none has it."""
    for path in reversed(chunks(out)):
        written = path.stat().st_mtime_ns
        low, high = _id_range(path, written)
        if low <= slide_id <= high and slide_id in (entries_by_slide := _chunk_entries(path, written)):
            return {stage: json.loads(entry) for stage, entry in entries_by_slide[slide_id].items()}
    return {}


@lru_cache(maxsize=4096)
def _id_range(path: Path, _written: int) -> tuple[str, str]:
    """Return the first and the last slide id of a chunk, which its metadata tell."""
    import pyarrow.parquet as pq

    with _name_corrupt_chunk(path):
        metadata = pq.read_metadata(path)
        column = metadata.schema.names.index(_KEYS[0])
        groups = [metadata.row_group(index).column(column).statistics for index in range(metadata.num_row_groups)]
    return min(group.min for group in groups), max(group.max for group in groups)


@lru_cache(maxsize=8)
def _chunk_entries(path: Path, _written: int) -> dict[str, dict[str, str]]:
    """Return the entries of a chunk, as JSON, by slide and stage."""
    import pyarrow.parquet as pq

    with _name_corrupt_chunk(path):
        table = pq.read_table(path, columns=[*_KEYS, _ENTRY])
    entries: dict[str, dict[str, str]] = {}
    for slide_id, stage, entry in zip(*(table[name].to_pylist() for name in (*_KEYS, _ENTRY)), strict=True):
        entries.setdefault(slide_id, {})[stage] = entry
    return entries


@contextmanager
def _name_corrupt_chunk(path: Path) -> Iterator[None]:
    """Turn what a damaged chunk raises into an error that says which, and that nothing made it."""
    import pyarrow as pa

    try:
        yield
    except (pa.ArrowInvalid, pa.ArrowKeyError, OSError, ValueError) as error:
        raise InputCorruptError(
            f"not a readable table of statuses: {error}",
            place=str(path),
            remedy="bring it back from a copy; without it its slides count as never worked on",
        ) from error
