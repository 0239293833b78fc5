"""Fingerprints and stamps of artefacts, and the tables that carry them.

A stamp names the stage, its configuration and the fingerprints of its inputs. A stage that finds its finished output
with an equal stamp does nothing; with another stamp it says what changed and stops, unless forced. Stamps hold no
times and no host, so that equal inputs give equal bytes; the package version is recorded, not compared.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field, fields
from functools import lru_cache
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pathopatch.core.errors import DuplicateIdError, InputCorruptError, InputMissingError, StaleArtefactError
from pathopatch.core.files import atomic_path, plain, read_json

if TYPE_CHECKING:
    import pandas as pd

SCHEMA_VERSION = 4
"""Of what stands in work folders. 2: a store says where its pixels come from, so that they need not be kept. 3: patches
over the edge of resampled, float or signed slides are filled with background, not with a mixture of it. 4: tissue is
found relative to the glass; a store says what was never scanned, which levels came from its cohort, and warnings."""

_WHOLE_FILE_BYTES = 256 * 2**20  # larger files are fingerprinted by size and evenly spread samples
_SAMPLES = 64
_SAMPLE_BYTES = 2**20
_ZARR_METADATA = ("zarr.json", ".zarray", ".zattrs", ".zgroup")
_STAMP_KEY = b"pathopatch"
_COMMANDS = {  # what makes a stage's artefacts anew, where the command is not the stage's name and WORK
    "check": "check MANIFEST -o WORK",
    "tile": "tile MANIFEST -o WORK",
    "predict": "predict MANIFEST --model BUNDLE -o OUT",
}


@dataclass(frozen=True, kw_only=True)
class Stamp:
    """What an artefact was made of.

    Parameters
    ----------
    stage : str
        Name of the stage that wrote it.
    config : str
        Fingerprint of the stage's configuration.
    inputs : mapping of str to str
        Fingerprint of each input, by name.
    """

    stage: str
    config: str
    inputs: Mapping[str, str] = field(default_factory=dict)
    schema_version: int = SCHEMA_VERSION
    package_version: str = field(default_factory=lambda: version("pathopatch"), compare=False)

    def to_dict(self) -> dict[str, Any]:
        """Return the stamp as plain values for JSON."""
        return asdict(self)

    @classmethod
    def from_dict(cls, raw: Mapping[str, Any]) -> Stamp:
        """Return the stamp that `to_dict` wrote, of any schema."""
        known = {each.name for each in fields(cls)}
        return cls(**{name: value for name, value in raw.items() if name in known})

    def differences(self, other: Stamp) -> list[str]:
        """Return in words what differs between this stamp and another; empty if they are equal."""
        found = [
            f"{name} was {getattr(other, name)!r}, is {getattr(self, name)!r}"
            for name in ("schema_version", "stage")
            if getattr(self, name) != getattr(other, name)
        ]
        if self.config != other.config:
            found.append("the configuration differs")
        for name in sorted({*self.inputs, *other.inputs}):
            if self.inputs.get(name) != other.inputs.get(name):
                found.append(f"input {name!r} differs")
        return found


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
    """
    try:
        if path.is_dir():
            return _fingerprint_folder(path)
        status = path.stat()
        return _hash_file(str(path), status.st_size, status.st_mtime_ns)
    except FileNotFoundError as error:
        raise InputMissingError(f"no file {path}", place=str(path), remedy="check the path") from error


def content_bytes(path: Path) -> int:
    """Return the size of a file, or of all files below a folder."""
    return path.stat().st_size if path.is_file() else sum(_sizes_below(path).values())


def _sizes_below(folder: Path) -> dict[str, int]:
    """Return the size of each file below a folder, by its path in it, sorted."""
    found = {str(path.relative_to(folder)): path.stat().st_size for path in folder.rglob("*") if path.is_file()}
    return dict(sorted(found.items()))


def _fingerprint_folder(folder: Path) -> str:
    sizes = _sizes_below(folder)
    if sum(sizes.values()) <= _WHOLE_FILE_BYTES:
        return fingerprint({name: fingerprint_file(folder / name) for name in sizes})
    names = list(sizes)
    spread = {names[index * (len(names) - 1) // (_SAMPLES - 1)] for index in range(_SAMPLES)}
    described = {name for name, size in sizes.items() if size <= _SAMPLE_BYTES and Path(name).name in _ZARR_METADATA}
    return fingerprint([sizes, {name: fingerprint_file(folder / name) for name in sorted(spread | described)}])


@lru_cache(maxsize=65536)
def _hash_file(path: str, size: int, _mtime_ns: int) -> str:
    digest = hashlib.sha256(str(size).encode())
    with Path(path).open("rb") as stream:
        if size <= _WHOLE_FILE_BYTES:
            while block := stream.read(_SAMPLE_BYTES):
                digest.update(block)
        else:
            for index in range(_SAMPLES):
                stream.seek(index * (size - _SAMPLE_BYTES) // (_SAMPLES - 1))
                digest.update(stream.read(_SAMPLE_BYTES))
    return digest.hexdigest()


def is_current(stamp: Stamp, existing: Stamp | None, *, place: Path, force: bool) -> bool:
    """Return whether an existing artefact already is what a stage would write.

    Parameters
    ----------
    stamp : Stamp
        What the stage would write now.
    existing : Stamp or None
        The finished artefact's stamp; None if there is none.
    place : Path
        Where the artefact stands, for the message.
    force : bool
        Redo an artefact of another stamp in place of stopping.

    Raises
    ------
    StaleArtefactError
        The artefact was made of something else and `force` is off.
    """
    if existing is None:
        return False
    changes = stamp.differences(existing)
    if not changes:
        return True
    if force:
        return False
    require_schema(existing, place=place, remedy="run the same command with --force to make it anew")
    raise StaleArtefactError(
        "what stands here was made otherwise: " + "; ".join(changes),
        place=str(place),
        remedy="use --force to redo it, or another work folder to keep both",
    )


def require_schema(stamp: Stamp, *, place: Path, remedy: str | None = None) -> None:
    """Refuse an artefact of another schema; a newer one needs another version of this package, whatever the remedy.

    Parameters
    ----------
    stamp : Stamp
        The artefact's.
    place : Path
        Where it stands.
    remedy : str, optional
        The command of the stage that wrote it, if not given.

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


def require_same_source(known: object, source: object, *, slide_id: str, place: Path) -> None:
    """Refuse a slide that would take the place of another one of the same id; what is not known is not refused.

    Parameters
    ----------
    known, source : str or dict of str to str, or None
        `Slide.source` of the slide that is there, and of the one that comes.
    slide_id : str
        Of both.
    place : Path
        Where the first one's artefact stands.

    Raises
    ------
    DuplicateIdError
        They are two.
    """
    if known in (None, source):
        return
    raise DuplicateIdError(
        f"{slide_id!r} is {_files(known)} here, and would be {_files(source)} now",
        place=str(place),
        remedy="give each slide an id of its own (column slide_id, or --slide-id), or use another work folder; "
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

    metadata = stamped_metadata(stamp)
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


def stamped_metadata(stamp: Stamp) -> dict[bytes, bytes]:
    """Return how a Parquet file carries a stamp."""
    return {_STAMP_KEY: _canonical(stamp.to_dict()).encode()}


def read_table(path: Path, *, slide_id: str | None = None) -> pd.DataFrame:
    """Return a Parquet table that a stage wrote.

    Parameters
    ----------
    path : Path
        The file.
    slide_id : str, optional
        Only the rows of this slide, by the column of this name; the others are not held in memory.

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
        raise InputMissingError(f"no table {path.name}", place=str(path), remedy="run the stage before") from error
    except (pa.ArrowInvalid, OSError) as error:
        raise InputCorruptError(
            f"not a readable Parquet table: {error}",
            place=str(path),
            remedy="remove it and run its stage again",
        ) from error


def table_stamp(path: Path) -> Stamp | None:
    """Return a finished table's stamp; None if there is no table or it carries none."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        metadata = pq.read_schema(path).metadata or {}
    except (FileNotFoundError, pa.ArrowInvalid, OSError):
        return None
    raw = metadata.get(_STAMP_KEY)
    return Stamp.from_dict(json.loads(raw)) if raw else None


def json_stamp(path: Path, key: str = "stamp") -> Stamp | None:
    """Return the stamp inside a finished JSON artefact; None if there is no such file or no stamp in it."""
    if not path.is_file():
        return None
    raw = read_json(path).get(key)
    return Stamp.from_dict(raw) if raw else None
