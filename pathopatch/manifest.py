"""Which slides make a cohort? A CSV file, read once, checked in full, and every problem reported at once."""

from __future__ import annotations

import csv
import io
import math
import os
import re
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, cast

from pathopatch.config import MPP_RANGE
from pathopatch.errors import InputMissingError, ManifestError, Problem
from pathopatch.provenance import content_bytes, fingerprint_file

SPLITS = ("", "train", "val", "test")
"""Allowed values of the column split; empty means: to be assigned, by patient."""
ANNOTATION_SUFFIXES = (".geojson", ".json", ".geojson.gz", ".json.gz", ".xml")
"""Endings of the files that outlines are read from."""

Background = Literal["dark", "bright"]

_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")
_RESERVED = {"con", "prn", "aux", "nul", *(f"{port}{n}" for port in ("com", "lpt") for n in range(1, 10))}
_REQUIRED = ("slide_id", "patient_id")
_OPTIONAL = (
    "split", "path", "channels", "mpp", "tumor_mask", "labelled_mask", "annotations", "tissue_mask", "background",
    "exclude",
)  # fmt: skip
_CHANNEL_COLUMN = re.compile(r"path:([A-Za-z][A-Za-z0-9_.-]*)")
_CHOICE = r"(?:page|plane|z|t)=\d{1,9}"
_FRAGMENT = re.compile(rf"(?P<path>.+?)#(?P<choices>{_CHOICE}(?:&{_CHOICE}){{0,3}})")
_BACKGROUNDS = ("", "auto", "dark", "bright")
_TRUE, _FALSE = ("1", "true", "yes", "x"), ("", "0", "false", "no")


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


@dataclass(frozen=True, kw_only=True)
class SlideRow:
    """One slide of a manifest.

    Parameters
    ----------
    slide_id, patient_id : str
        Safe as file names.
    split : str
        One of `SPLITS`.
    source : str or dict of str to str
        Absolute path, or one per channel name; fragments such as ``#page=2`` are kept.
    channels : tuple of str or None
        Names of the planes of a multi-plane file.
    mpp : float or None
        um per level-0 px, in place of what the file says.
    tumor_mask : Path or None
        Raster of tumour; None if there is none or the whole slide is non-tumour.
    whole_slide_non_tumor : bool
        The manifest says ``none`` for the tumour mask.
    labelled_mask, annotations : Path or None
        What was labelled at all; outlines by a pathologist.
    tissue_mask : Path or None
        Raster of the tissue; None: it is found.
    background : {"dark", "bright"} or None
        None: to be guessed.
    exclude : bool
        Checked, and left out of the work.
    row : int
        Row of the table as a spreadsheet counts; the header is row 1.
    """

    slide_id: str
    patient_id: str
    source: str | dict[str, str]
    row: int
    split: str = ""
    channels: tuple[str, ...] | None = None
    mpp: float | None = None
    tumor_mask: Path | None = None
    whole_slide_non_tumor: bool = False
    labelled_mask: Path | None = None
    annotations: Path | None = None
    tissue_mask: Path | None = None
    background: Background | None = None
    exclude: bool = False

    @property
    def has_tumor(self) -> bool:
        """Whether anything says where tumour is, or that there is none."""
        return self.tumor_mask is not None or self.annotations is not None or self.whole_slide_non_tumor

    @property
    def sources(self) -> tuple[str, ...]:
        """All paths with their fragments, in channel order."""
        return (self.source,) if isinstance(self.source, str) else tuple(self.source.values())


@dataclass(frozen=True)
class Manifest:
    """A checked table of slides.

    Parameters
    ----------
    rows : tuple of SlideRow
        All rows in the order of the file, excluded ones too.
    path : Path
        The CSV file.
    """

    rows: tuple[SlideRow, ...]
    path: Path

    def __iter__(self) -> Iterator[SlideRow]:
        return iter(self.rows)

    @property
    def included(self) -> tuple[SlideRow, ...]:
        """The rows to work on."""
        return tuple(row for row in self.rows if not row.exclude)


def valid_slide_id(text: str) -> bool:
    """Return whether a text may be an id: a plain file name on every system, and harmless in a spreadsheet."""
    is_plain = _ID.fullmatch(text) is not None and not text.endswith(".")
    return is_plain and text.split(".")[0].casefold() not in _RESERVED


def slide_id_from_path(path: Path | str) -> str:
    """Return an id for a slide that has none: its file's stem, forbidden characters replaced by ``_``."""
    stem = Path(split_fragment(str(path)).path).stem
    safe = re.sub(r"[^A-Za-z0-9._-]", "_", stem).lstrip("._-")[:128].rstrip(".")
    return safe if valid_slide_id(safe) else f"slide_{safe}"[:128].rstrip(".")


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


def read_manifest(path: Path) -> Manifest:
    """Return the slides of a CSV file.

    Parameters
    ----------
    path : Path
        UTF-8, comma-separated, one row a slide. Paths in it are relative to it; ``${NAME}`` is replaced from the
        environment.

    Raises
    ------
    InputMissingError
        There is no such file.
    ManifestError
        Lists everything wrong in it, each problem with row, column, value and remedy.
    """
    table = _Table(path)
    rows = [_Row(table, number, cells).parsed() for number, cells in table.records]
    _check_ids(table, rows)
    _check_patients(table, rows)
    _check_content(table, rows)
    if table.problems:
        ordered = sorted(table.problems, key=lambda problem: problem.row or 0)
        raise ManifestError(ordered, place=str(path))
    return Manifest(tuple(rows), path)


class _Table:
    """The cells of the file, and the problems found so far."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.problems: list[Problem] = []
        self.records: list[tuple[int, dict[str, str]]] = []
        try:
            lines = list(csv.reader(io.StringIO(path.read_text("utf-8-sig"), newline=""), strict=True))
        except (FileNotFoundError, IsADirectoryError, NotADirectoryError) as error:
            raise InputMissingError(f"no manifest {path.name}", place=str(path), remedy="check the path") from error
        except (UnicodeDecodeError, csv.Error) as error:
            self.add("INPUT_CORRUPT", None, "", "", f"not a UTF-8 CSV file: {error}", "save it as CSV, UTF-8")
            lines = []
        header = [name.strip() for name in lines[0]] if lines else []
        self._check_header(header)
        for number, cells in enumerate(lines[1:], start=2):
            if not any(cell.strip() for cell in cells):
                continue
            if len(cells) != len(header):
                self.add("INPUT_CORRUPT", number, "", "", f"{len(cells)} cells under {len(header)} columns",
                         "quote cells that hold a comma")  # fmt: skip
                continue
            named = dict(zip(header, (cell.strip() for cell in cells), strict=True))
            self.records.append((number, named))
        if not self.records and not self.problems:
            self.add("INPUT_MISSING", None, "slide_id", "", "no rows", "write one row per slide")

    def _check_header(self, header: list[str]) -> None:
        self.channel_columns = {m[1]: name for name in header if (m := _CHANNEL_COLUMN.fullmatch(name))}
        known = {*_REQUIRED, *_OPTIONAL, *self.channel_columns.values()}
        for name in header:
            if name not in known:
                self.add("INPUT_UNSUPPORTED", None, name, "", "unknown column",
                         f"use {', '.join(_REQUIRED + _OPTIONAL)} or path:NAME")  # fmt: skip
        for name in sorted({name for name in header if header.count(name) > 1}):
            self.add("INPUT_UNSUPPORTED", None, name, "", "the column stands twice", "remove one")
        for name in _REQUIRED if header else ():
            if name not in header:
                self.add("INPUT_MISSING", None, name, "", "the column is missing", "add it")
        if header and "path" not in header and not self.channel_columns:
            self.add("INPUT_MISSING", None, "path", "", "no column names the files", "add path or path:NAME")

    def add(self, code: str, row: int | None, column: str, value: str, message: str, remedy: str) -> None:
        """Note a problem."""
        self.problems.append(Problem(code=code, row=row, column=column, value=value, message=message, remedy=remedy))


class _Row:
    """One row on its way to a `SlideRow`."""

    def __init__(self, table: _Table, number: int, cells: dict[str, str]) -> None:
        self.table, self.number, self.cells = table, number, cells

    def parsed(self) -> SlideRow:
        """Return the row; what is wrong in it is noted."""
        mask = self.cells.get("tumor_mask", "")
        is_non_tumor = mask.casefold() == "none"
        channels = tuple(name for name in re.split(r"[;,\s]+", self.cells.get("channels", "")) if name)
        row = SlideRow(
            slide_id=self.identifier("slide_id"),
            patient_id=self.identifier("patient_id"),
            split=self.one_of("split", SPLITS),
            source=self.source(),
            channels=channels or None,
            mpp=self.mpp(),
            tumor_mask=None if is_non_tumor else self.file("tumor_mask"),
            whole_slide_non_tumor=is_non_tumor,
            labelled_mask=self.file("labelled_mask"),
            annotations=self.file("annotations"),
            tissue_mask=self.file("tissue_mask"),
            background=cast(Background | None, self.one_of("background", _BACKGROUNDS).replace("auto", "") or None),
            exclude=self.one_of("exclude", _TRUE + _FALSE) in _TRUE,
            row=self.number,
        )
        if row.annotations is not None and not row.annotations.name.lower().endswith(ANNOTATION_SUFFIXES):
            self.problem("INPUT_UNSUPPORTED", "annotations", "neither GeoJSON nor XML",
                         f"export them from QuPath or ASAP: {', '.join(ANNOTATION_SUFFIXES)}")  # fmt: skip
        if row.annotations is not None and self.cells.get("tumor_mask"):
            self.problem("INPUT_UNSUPPORTED", "annotations", "the row has a tumor_mask too",
                         "state the tumour once: empty one of the two")  # fmt: skip
        if len(set(channels)) < len(channels):
            self.problem("CHANNEL_MISMATCH", "channels", "a name stands twice", "name each plane once")
        if channels and isinstance(row.source, dict) and channels != tuple(row.source):
            self.problem("CHANNEL_MISMATCH", "channels", f"the files are for {', '.join(row.source)}",
                         "leave it empty: the columns path:NAME name the channels")  # fmt: skip
        return row

    def problem(self, code: str, column: str, message: str, remedy: str) -> None:
        """Note a problem of this row."""
        self.table.add(code, self.number, column, self.cells.get(column, ""), message, remedy)

    def identifier(self, column: str) -> str:
        """Return an id."""
        text = self.cells.get(column, "")
        if column in self.cells and not valid_slide_id(text):
            self.problem("INPUT_UNSUPPORTED", column, "not an allowed id",
                         "use 1 to 128 letters, digits, '.', '_' or '-', first a letter or digit, "
                         "and no name that Windows reserves")  # fmt: skip
        return text

    def one_of(self, column: str, allowed: Sequence[str]) -> str:
        """Return a word of a list."""
        text = self.cells.get(column, "").casefold()
        if text not in allowed:
            said = ", ".join(word or "nothing" for word in allowed)
            self.problem("INPUT_UNSUPPORTED", column, "not an allowed value", f"say {said}")
        return text

    def mpp(self) -> float | None:
        """Return the stated mpp."""
        text = self.cells.get("mpp", "")
        if not text:
            return None
        try:
            value = float(text)
        except ValueError:
            value = math.nan
        if not MPP_RANGE[0] <= value <= MPP_RANGE[1]:
            self.problem("MPP_MISSING", "mpp", "not a number of micrometres per pixel that makes sense",
                         f"give {MPP_RANGE[0]:g} to {MPP_RANGE[1]:g}, or leave it empty")  # fmt: skip
        return value

    def source(self) -> str | dict[str, str]:
        """Return the row's file, or its files by channel."""
        columns = {name: column for name, column in self.table.channel_columns.items() if self.cells[column]}
        if self.cells.get("path"):
            if columns:
                self.problem("INPUT_UNSUPPORTED", "path", "both path and path:NAME are filled", "empty one of them")
            return self.located("path", folders=True)
        for name, column in self.table.channel_columns.items():
            if columns and name not in columns:
                self.problem("INPUT_MISSING", column, f"no file for {name}", "every channel needs a file")
        if not columns:
            self.problem("INPUT_MISSING", "path", "no file named", "fill path, or the columns path:NAME")
        return {name: self.located(column, folders=True) for name, column in columns.items()}

    def file(self, column: str) -> Path | None:
        """Return an optional file."""
        return Path(self.located(column)) if self.cells.get(column) else None

    def located(self, column: str, *, folders: bool = False) -> str:
        """Return a cell's absolute path with its fragment, variables replaced; note it if no file is there.

        Slides may be folders (OME-Zarr); masks and annotations are files.
        """
        text, undefined = expanded(self.cells[column])
        if undefined:
            self.problem("INPUT_MISSING", column, f"the environment does not define {undefined}",
                         f"set {undefined}, or write the path out")  # fmt: skip
            return text
        absolute = str((self.table.path.parent / text).absolute())
        is_there = _exists if folders else _is_file
        if not (is_there(absolute) or is_there(split_fragment(absolute).path)):
            self.problem("INPUT_MISSING", column, f"no file {absolute}", "correct the path (relative to the manifest)")
        return absolute


def _is_file(path: str) -> bool:
    try:
        return Path(path).is_file()
    except (OSError, ValueError):  # a name too long for the file system, or with a zero byte
        return False


def _exists(path: str) -> bool:
    try:
        return Path(path).exists()
    except (OSError, ValueError):
        return False


def expanded(text: str) -> tuple[str, str]:
    """Return a text with ``${NAME}`` replaced, and the first name that is not defined."""
    names = re.findall(r"\$\{([^}]*)\}", text)
    undefined = next((name for name in names if name not in os.environ), "")
    return re.sub(r"\$\{([^}]*)\}", lambda match: os.environ.get(match[1], ""), text), undefined


def _check_ids(table: _Table, rows: list[SlideRow]) -> None:
    """Note ids that differ in nothing but case: their artefacts would share a name."""
    same: dict[str, list[SlideRow]] = defaultdict(list)
    for row in (row for row in rows if row.slide_id):
        same[row.slide_id.casefold()].append(row)
    for group in same.values():
        if len(group) > 1:
            table.add("DUPLICATE_ID", group[1].row, "slide_id", group[1].slide_id,
                      f"rows {_numbers(group)} have the same id", "give each slide an id of its own")  # fmt: skip


def _check_patients(table: _Table, rows: list[SlideRow]) -> None:
    """Note patients whose slides stand in several splits."""
    patients: dict[str, list[SlideRow]] = defaultdict(list)
    for row in rows:
        if row.patient_id and not row.exclude:
            patients[row.patient_id].append(row)
    for patient, group in patients.items():
        splits = sorted({row.split for row in group})
        if len(splits) > 1:
            said = ", ".join(split or "(empty)" for split in splits)
            table.add("SPLIT_LEAKAGE", group[-1].row, "patient_id", patient,
                      f"rows {_numbers(group)} are in the splits {said}", "keep each patient in one split")  # fmt: skip


def _check_content(table: _Table, rows: list[SlideRow]) -> None:
    """Note rows that hold the same pixels under several names; only files of equal size are compared."""
    users: dict[tuple[int, str], list[tuple[SlideRow, Fragment]]] = defaultdict(list)
    for row in rows:
        for source in () if row.exclude else row.sources:
            fragment = Fragment(source) if _exists(source) else split_fragment(source)
            if not _exists(fragment.path):
                continue  # noted already
            users[content_bytes(Path(fragment.path)), str(replace(fragment, path=""))].append((row, fragment))
    reported: set[tuple[int, ...]] = set()
    for candidates in users.values():
        same: dict[str, dict[int, SlideRow]] = defaultdict(dict)
        for row, fragment in candidates if len(candidates) > 1 else ():
            same[fingerprint_file(Path(fragment.path))][row.row] = row
        for group in same.values():
            if len(group) > 1 and tuple(group) not in reported:
                reported.add(tuple(group))
                _note_same_content(table, list(group.values()))


def _note_same_content(table: _Table, group: list[SlideRow]) -> None:
    """Note rows with one content: a leak if their splits differ."""
    is_leak = len({row.split for row in group}) > 1
    table.add("SPLIT_LEAKAGE" if is_leak else "DUPLICATE_ID", group[1].row, "path", group[1].sources[0],
              f"rows {_numbers(group)} have the same content", "keep one of them, exclude the others")  # fmt: skip


def _numbers(group: Sequence[SlideRow]) -> str:
    return ", ".join(str(row.row) for row in group)
