"""Artefacts of stages: stamped, written whole or not at all, and left alone where they are current.

A stamp names the stage, its settings and the fingerprints of its inputs. A stage that finds its finished output with an
equal stamp does nothing. Where the stamps differ it names each setting that does, with both values, and stops, unless
forced. Stamps hold no times and no host, so that equal inputs give equal bytes; the package version is recorded, not
compared.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from datetime import datetime
from functools import lru_cache
from io import BytesIO
from itertools import permutations
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pathopatch.core.errors import (
    DuplicateIdError,
    InputChangedError,
    InputCorruptError,
    InputMissingError,
    InputUnsupportedError,
    PathopatchError,
    StaleArtefactError,
)
from pathopatch.core.files import atomic_path, file_state, making_remedy, plain, read_json, write_bytes, write_json
from pathopatch.core.input_files import open_regular
from pathopatch.core.status import SlideStatus
from pathopatch.core.version import __version__

if TYPE_CHECKING:
    import pandas as pd
    from numpy.typing import NDArray

SCHEMA_VERSION = 1
"""Of what stands in work folders."""

_WHOLE_FILE_BYTES = 256 * 2**20  # larger files are fingerprinted by size and evenly spread samples
_SAMPLES = 64
_MOST_ORDERED = 4  # files of a slide: 24 orders
_SAMPLE_BYTES = 2**20
_ZARR_METADATA = ("zarr.json", ".zarray", ".zattrs", ".zgroup")
_STAMP_KEY = b"pathopatch"
_DIGEST_BYTES = hashlib.sha256().digest_size  # at the end of an npz, where NumPy does not look
EXPORT = "export.json"
"""File of an export that has its stamp."""
_UNSET = object()
_SHOWN_KEYS, _SHOWN_CHARACTERS = 8, 80  # of an error's text
_log = logging.getLogger(__name__)
_COMMANDS = {  # what makes a stage's artefacts anew, where the command is not the stage's name and WORK
    "check": "check MANIFEST -o WORK",
    "tile": "tile MANIFEST -o WORK",
    "predict": "predict MANIFEST --model BUNDLE -o OUT",
    "features": "audit --features DIR --labels CSV -o WORK",
}


@dataclass(frozen=True, kw_only=True)
class Stamp:
    """What an artefact was made of.

    Parameters
    ----------
    stage : str
        Name of the stage that wrote it.
    settings : mapping of str to Any
        The stage's configuration; kept as the plain values that JSON has.
    inputs : mapping of str to str
        Fingerprint of each input, by name.
    """

    stage: str
    settings: Mapping[str, Any] = field(default_factory=dict)
    inputs: Mapping[str, str] = field(default_factory=dict)
    schema_version: int = SCHEMA_VERSION
    package_version: str = field(default=__version__, compare=False)

    def __post_init__(self) -> None:
        # A stamp that was stored and read again must equal the one that was made: tuples and models become plain now.
        object.__setattr__(self, "settings", json.loads(_canonical(self.settings)))

    @property
    def config(self) -> str:
        """Fingerprint of the settings."""
        return fingerprint(self.settings)

    def to_dict(self) -> dict[str, Any]:
        """Return the stamp as plain values for JSON."""
        return {
            "stage": self.stage,
            "config": self.config,
            "settings": dict(self.settings),
            "inputs": dict(self.inputs),
            "schema_version": self.schema_version,
            "package_version": self.package_version,
        }

    @classmethod
    def from_dict(cls, raw: Mapping[str, Any]) -> Stamp:
        """Return the stamp that `to_dict` wrote."""
        names = ("stage", "settings", "inputs", "schema_version", "package_version")
        return cls(**{name: raw[name] for name in names if name in raw})

    def differences(self, other: Stamp) -> list[str]:
        """List what differs between this stamp and an earlier one; empty if they are equal."""
        texts = [
            f"{name} was {getattr(other, name)!r}, is {getattr(self, name)!r}"
            for name in ("schema_version", "stage")
            if getattr(self, name) != getattr(other, name)
        ]
        texts += changed_settings(other.settings, self.settings)
        names = sorted({*self.inputs, *other.inputs})
        return texts + [f"input {name!r} differs" for name in names if self.inputs.get(name) != other.inputs.get(name)]


def changed_settings(earlier: Mapping[str, Any], present: Mapping[str, Any]) -> list[str]:
    """List which nested settings differ, with both values; empty if they are equal."""
    before, now = _by_key(earlier), _by_key(present)
    keys = sorted(key for key in {*before, *now} if before.get(key, _UNSET) != now.get(key, _UNSET))
    texts = [f"{key} was {_shown(before, key)}, is {_shown(now, key)}" for key in keys[:_SHOWN_KEYS]]
    return texts + ([f"{len(keys) - _SHOWN_KEYS} further settings differ"] if len(keys) > _SHOWN_KEYS else [])


def _by_key(settings: Mapping[str, Any], above: str = "") -> dict[str, Any]:
    """Return the values of nested settings by dotted key, such as ``tissue.method``."""
    values: dict[str, Any] = {}
    for name, value in settings.items():
        is_table = isinstance(value, dict) and value
        values |= _by_key(value, f"{above}{name}.") if is_table else {f"{above}{name}": value}
    return values


def _shown(values: Mapping[str, Any], key: str) -> str:
    text = repr(values[key]) if key in values else "not set"
    return text if len(text) <= _SHOWN_CHARACTERS else text[: _SHOWN_CHARACTERS - 1] + "…"


def fingerprint(value: object) -> str:
    """Return the SHA-256 of a value's canonical JSON (keys sorted; paths, tuples and models as plain values)."""
    return hashlib.sha256(_canonical(value).encode()).hexdigest()


def _canonical(value: object) -> str:
    return json.dumps(value, sort_keys=True, separators=(",", ":"), default=plain, allow_nan=False)


def fingerprint_file(path: Path) -> str:
    """Return a fingerprint of a file's content, or of all files below a folder.

    Up to 256 MiB, all bytes are hashed; beyond, sizes and 64 evenly spread samples of 1 MiB, since whole slides of many
    gigabytes are opened again and again. Of a folder beyond, that is every file's name and size, the small JSON files
    that describe it, and 64 evenly spread files.

    Raises
    ------
    InputMissingError
        There is no such file.
    InputChangedError
        It changed meanwhile.
    """
    try:
        if path.is_dir():
            return _fingerprint_folder(path)
        return _hash_file(str(path), file_state(path))
    except FileNotFoundError as error:
        remedy = making_remedy(path, otherwise="check the path")
        raise InputMissingError(f"no file {path}", place=str(path), remedy=remedy) from error


def files_fingerprint(paths: Iterable[Path]) -> str:
    """Return the fingerprint of a file, or of several; raises as `fingerprint_file`."""
    marks = [fingerprint_file(path) for path in paths]
    return marks[0] if len(marks) == 1 else fingerprint(marks)


def content_fingerprint(paths: Iterable[Path]) -> str:
    """Return a fingerprint of the content of a slide's files, which does not depend on their names."""
    return fingerprint([fingerprint_file(path) for path in paths])


def content_fingerprints(paths: Sequence[Path]) -> list[str]:
    """Return the `content_fingerprint` of a slide's files in each order: a folder may list channels in another one."""
    marks = [fingerprint_file(path) for path in paths]
    orders = permutations(marks) if len(marks) <= _MOST_ORDERED else [marks]
    return [fingerprint(list(order)) for order in orders]


def file_marks(files: Mapping[str, Path]) -> dict[str, dict[str, Any]]:
    """Return the size and the fingerprint of files and folders, by the names that are given; for `damages`."""
    return {name: {"bytes": content_bytes(path), "fingerprint": fingerprint_file(path)} for name, path in files.items()}


def damages(files: Mapping[str, Path], marks: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """List what is not as it was when `file_marks` returned `marks`; sizes are compared before contents."""
    texts: list[str] = []
    for name, path in files.items():
        try:
            if name not in marks or not path.exists():
                texts.append(f"{name} is missing")
            elif (size := content_bytes(path)) != marks[name]["bytes"]:
                texts.append(f"{name} has {size} bytes, {marks[name]['bytes']} were written")
            elif fingerprint_file(path) != marks[name]["fingerprint"]:
                texts.append(f"{name} has another content than was written")
        except OSError as error:
            texts.append(f"{name} cannot be read: {error.strerror}")
    return texts


def content_bytes(path: Path) -> int:
    """Return the size of a file, or of all files below a folder."""
    return path.stat().st_size if path.is_file() else sum(_sizes_below(path).values())


def _sizes_below(folder: Path) -> dict[str, int]:
    """Return the size of each file below a folder, by its path in it, sorted."""
    bytes_by_path = {str(path.relative_to(folder)): path.stat().st_size for path in folder.rglob("*") if path.is_file()}
    return dict(sorted(bytes_by_path.items()))


def _fingerprint_folder(folder: Path) -> str:
    sizes = _sizes_below(folder)
    if sum(sizes.values()) <= _WHOLE_FILE_BYTES:
        return fingerprint({name: fingerprint_file(folder / name) for name in sizes})
    names = list(sizes)
    spread = {names[index * (len(names) - 1) // (_SAMPLES - 1)] for index in range(_SAMPLES)}
    described = {name for name, size in sizes.items() if size <= _SAMPLE_BYTES and Path(name).name in _ZARR_METADATA}
    return fingerprint([sizes, {name: fingerprint_file(folder / name) for name in sorted(spread | described)}])


@lru_cache(maxsize=65536)
def _hash_file(path: str, state: tuple[int | str, ...]) -> str:
    with open_regular(Path(path)) as stream:
        size = os.fstat(stream.fileno()).st_size
        digest = hashlib.sha256(str(size).encode())
        if size <= _WHOLE_FILE_BYTES:
            while block := stream.read(_SAMPLE_BYTES):
                digest.update(block)
        else:
            for index in range(_SAMPLES):
                stream.seek(index * (size - _SAMPLE_BYTES) // (_SAMPLES - 1))
                digest.update(stream.read(_SAMPLE_BYTES))
        if file_state(stream.fileno()) != state:
            raise changed(path)
    return digest.hexdigest()


def changed(place: Path | str) -> InputChangedError:
    """Return the error that a file or folder is not the one that was opened."""
    return InputChangedError(
        "it was overwritten, replaced, extended or cut while it was read",
        place=str(place),
        remedy="run the same command again once nothing writes to it",
    )


def is_up_to_date(
    stamp: Stamp,
    existing: Sequence[Stamp | None],
    place: Path,
    *,
    force: bool = False,
    refuse: Callable[[Stamp, Stamp, Path], bool | None] | None = None,
) -> bool:
    """Return whether an artefact already is what a stage would write: its parts carry one stamp, and it is equal.

    Arguments are those of `made`; `existing` are the stamps of its parts, the first of which is at `place`.

    Raises
    ------
    StaleArtefactError
        The artefact was made of something else and `force` is off.
    """
    first = existing[0]
    # Parts that do not belong together were left by a killed process: there is no finished artefact.
    if first is None or any(part is None or part.differences(first) for part in existing):
        return False
    changes = stamp.differences(first)
    if not changes or force:
        return not changes
    if refuse is not None and first.schema_version == stamp.schema_version and refuse(stamp, first, place):
        return False
    require_schema(first, place=place, remedy="run the same command with --force to make it anew")
    raise StaleArtefactError(
        "the output here was made with other settings or inputs: " + "; ".join(changes),
        place=str(place),
        remedy="use --force to redo it, or another work folder to keep both",
    )


@dataclass(kw_only=True)
class Job:
    """An artefact in the making. If `is_current`, it is there already, and its parts need not be written."""

    stamp: Stamp
    is_current: bool = False
    unreadable: Sequence[Path] = ()  # parts that are there, and have no stamp that can be read
    status: SlideStatus | None = None
    _began: float = field(default_factory=time.time)

    def write_table(self, path: Path, table: pd.DataFrame) -> None:
        """Write a Parquet table with the stamp, by rename."""
        write_table(path, table, self.stamp)

    def write_json(self, path: Path, values: Mapping[str, Any]) -> None:
        """Write plain values and the stamp as JSON, by rename."""
        write_json(path, {**values, "stamp": self.stamp.to_dict()})

    def write_arrays(self, path: Path, **arrays: NDArray[Any]) -> None:
        """Write NumPy arrays and the stamp as npz, by rename; equal arrays give equal bytes."""
        import numpy as np

        npz, content = BytesIO(), {**arrays, "stamp": np.array(_canonical(self.stamp.to_dict()))}
        np.savez(npz, allow_pickle=False, **content)
        write_bytes(path, npz.getvalue() + hashlib.sha256(npz.getvalue()).digest())

    def record(self, entry: Mapping[str, Any]) -> None:
        """Write how the work on the slide ended, with times, which stand in its status and nowhere else."""
        assert self.status is not None
        seconds = {} if self.is_current else {"seconds": f"{time.time() - self._began:.2f}"}
        # To the millisecond: two nights may make a small slide within one second, and a summary tells each of them.
        ended = datetime.now().astimezone().isoformat(timespec="milliseconds")
        self.status.write({**entry, **seconds, "ended": ended})

    def require_own(self, what: str) -> None:
        """Refuse to replace what no stage wrote, with InputUnsupportedError; `what` is a noun."""
        for path in self.unreadable:
            raise InputUnsupportedError(
                f"the path exists and is no {what}", place=str(path), remedy="choose another folder"
            )

    def begin(self) -> None:
        """Write that the work on the slide has begun: from now on an earlier "done" is no longer true."""
        if self.status is not None:
            self.status.write({"state": "running", **self.status.about})


@contextmanager
def made(
    *parts: Path,
    stamp: Stamp | Callable[[], Stamp],
    status: SlideStatus | None = None,
    is_whole: Callable[[], bool] = lambda: True,
    refuse: Callable[[Stamp, Stamp, Path], bool | None] | None = None,
    require_unchanged: Callable[[], None] = lambda: None,
    force: bool = False,
    dry: bool = False,
) -> Iterator[Job]:
    """Make an artefact, unless it is there: ``with made(…) as job: if job.is_current: return …``.

    Parameters
    ----------
    parts : Path
        Files or folders with one and the same stamp; the first has it only when all are written.
    stamp : Stamp or callable
        What the artefact is made of; called with the slide locked.
    status : SlideStatus, optional
        Of a slide: it is locked, and its state recorded. A second process waits for the first one.
    is_whole : callable, optional
        Asked where the stamps agree: False makes the artefact anew.
    refuse : callable, optional
        Called with the new stamp, the one that differs, and its place; may raise an error that says more than
        StaleArtefactError, or return True to have the artefact made anew.
    require_unchanged : callable, optional
        Raises InputChangedError if inputs changed; called if the work fails, since that may be the reason.
    force : bool
        Make anew what was made of something else.
    dry : bool
        Only look: nothing is locked or recorded.

    Raises
    ------
    StaleArtefactError
        The artefact was made of something else and `force` is off.
    """
    with nullcontext() if status is None or dry else status.locked():
        existing = [read_stamp(part) for part in parts]
        unreadable = [part for part, found in zip(parts, existing, strict=True) if found is None and part.exists()]
        job = Job(stamp=stamp() if callable(stamp) else stamp, unreadable=unreadable, status=None if dry else status)
        try:
            is_equal = is_up_to_date(job.stamp, existing, parts[0], force=force, refuse=refuse)
            job.is_current = is_equal and is_whole()
        except InputCorruptError:
            job.begin()  # what is damaged is finished no longer
            raise
        if not job.is_current:
            job.begin()
        try:
            yield job
        except PathopatchError:
            require_unchanged()
            raise
        _log.debug("%s: %s %s", job.stamp.stage, parts[0], "is current" if job.is_current else "was made")


def read_stamp(path: Path) -> Stamp | None:
    """Return the stamp of a finished table, JSON file, npz, checkpoint, patch store or export; None if none is read."""
    if path.suffix == ".parquet":
        import pyarrow as pa
        import pyarrow.parquet as pq

        try:
            text = (pq.read_schema(path).metadata or {}).get(_STAMP_KEY)
        except (FileNotFoundError, pa.ArrowInvalid, OSError):
            return None
        raw = json.loads(text) if text else None
    elif path.suffix == ".npz":
        raw = _stamp_of_arrays(path)
    elif path.suffix == ".safetensors":
        raw = _stamp_of_tensors(path)
    elif path.suffix == ".zarr":
        try:
            attributes = read_json(path / "zarr.json").get("attributes", {})
        except (InputMissingError, InputCorruptError):  # no store, or the rest of one: it is made anew
            return None
        raw = attributes.get("stamp") if attributes.get("complete") is True else None
    else:
        try:
            raw = read_json(path / EXPORT if path.is_dir() else path).get("stamp")
        except (InputMissingError, InputCorruptError):
            return None
    return Stamp.from_dict(raw) if raw else None


def _stamp_of_arrays(path: Path) -> Any:
    """Return the stamp in an npz as plain values; None where the file is not to the byte what was written."""
    import numpy as np

    content = path.read_bytes() if path.is_file() else b""
    if content[-_DIGEST_BYTES:] != hashlib.sha256(content[:-_DIGEST_BYTES]).digest():
        return None
    return json.loads(str(np.load(BytesIO(content))["stamp"]))


def _stamp_of_tensors(path: Path) -> Any:
    """Return the stamp in the header of a safetensors file as plain values; None where there is none to read."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="numpy") as stream:
            return json.loads((stream.metadata() or {}).get(_STAMP_KEY.decode(), "{}")).get("stamp")
    except (SafetensorError, OSError, ValueError):
        return None


def require_schema(stamp: Stamp, *, place: Path, remedy: str | None = None) -> None:
    """Refuse an artefact of another schema; a newer one needs another version of this package, whatever the remedy.

    Without a `remedy` the error names the command of the stage that wrote the artefact.

    Raises
    ------
    StaleArtefactError
        The schema is not this version's.
    """
    if stamp.schema_version == SCHEMA_VERSION:
        return
    if remedy is None:
        remedy = f"run pathopatch {_COMMANDS.get(stamp.stage, f'{stamp.stage} WORK')} --force"
    if stamp.schema_version > SCHEMA_VERSION:
        remedy = f"use pathopatch {stamp.package_version} or newer, or another work folder"
    raise StaleArtefactError(
        f"made by pathopatch {stamp.package_version} under schema {stamp.schema_version}, "
        f"this version works with schema {SCHEMA_VERSION}",
        place=str(place),
        remedy=remedy,
    )


def require_same_source(existing: object, source: object, *, slide_id: str, place: Path) -> None:
    """Refuse a slide that would take the place of another one of the same id; an unknown source is accepted.

    `existing` and `source` are the `Slide.source` of the slide whose artefact stands at `place`, and of the new one.

    Raises
    ------
    DuplicateIdError
        They are two.
    """
    if existing in (None, source):
        return
    raise DuplicateIdError(
        f"{slide_id!r} is {_files(existing)} here, and would be {_files(source)} now",
        place=str(place),
        remedy="give each slide an id of its own (column slide_id, or predict --slide-id), or use another work folder; "
        "--force puts the new one in place of the other",
    )


def _files(source: object) -> str:
    return ", ".join(f"{name}={path}" for name, path in source.items()) if isinstance(source, dict) else str(source)


def write_table(path: Path, table: pd.DataFrame, stamp: Stamp) -> None:
    """Write a Parquet table with its stamp, by rename; equal tables give equal bytes.

    Raises
    ------
    DiskFullError
        No space was left; the earlier file is untouched.
    """
    write_tables(path, [table], stamp)


def write_tables(path: Path, parts: Iterable[pd.DataFrame], stamp: Stamp) -> None:
    """Write a Parquet table that comes in parts of equal columns, at least one; otherwise as `write_table`."""
    import pyarrow as pa  # here, and below: processes must start before this one has loaded all that it will need
    import pyarrow.parquet as pq

    metadata = {_STAMP_KEY: _canonical(stamp.to_dict()).encode()}
    writer: pq.ParquetWriter | None = None
    with atomic_path(path) as temporary:
        try:
            for part in parts:
                schema = None if writer is None else writer.schema
                content = pa.Table.from_pandas(part, schema=schema, preserve_index=False)
                content = content.replace_schema_metadata(metadata)
                if writer is None:
                    writer = pq.ParquetWriter(temporary, content.schema, compression="zstd")
                writer.write_table(content)
        finally:
            if writer is not None:
                writer.close()


def read_table(path: Path, *, slide_id: str | None = None) -> pd.DataFrame:
    """Return a Parquet table that a stage wrote; with `slide_id` only the rows of that slide, to save memory.

    Raises
    ------
    InputMissingError
        There is no such file.
    InputCorruptError
        It cannot be read.
    StaleArtefactError
        It is of another schema.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        chosen = None if slide_id is None else [("slide_id", "==", slide_id)]
        content = pq.read_table(path, filters=chosen)
        raw = (content.schema.metadata or {}).get(_STAMP_KEY)
        if raw:
            require_schema(Stamp.from_dict(json.loads(raw)), place=path)
        table: pd.DataFrame = content.to_pandas()
        return table
    except FileNotFoundError as error:
        raise InputMissingError(f"no table {path.name}", place=str(path), remedy=making_remedy(path)) from error
    except (pa.ArrowInvalid, OSError) as error:
        raise InputCorruptError(
            f"not a readable Parquet table: {error}",
            place=str(path),
            remedy=f"remove it and {making_remedy(path)}",
        ) from error
