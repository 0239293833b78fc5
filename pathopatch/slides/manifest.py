"""The manifest: a CSV table with one slide a row. Every row is checked, and every problem is reported at once."""

from __future__ import annotations

import csv
import io
import math
import os
import re
from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from functools import cache
from pathlib import Path
from typing import Literal

from pathopatch.core.artefacts import content_bytes, files_fingerprint, fingerprint, fingerprint_file
from pathopatch.core.config import MPP_RANGE
from pathopatch.core.csv_table import TABLE_SUFFIXES, CsvTable, read_csv_table
from pathopatch.core.errors import DuplicateIdError, PathopatchError
from pathopatch.core.files import write_bytes
from pathopatch.core.input_files import special_kind
from pathopatch.core.patients import SPLITS, id_key, patient_problems, spelled_out
from pathopatch.core.text import parse_number
from pathopatch.slides.dicom import is_slide
from pathopatch.slides.slide_paths import (
    ID_REMEDY,
    Fragment,
    expand_variables,
    file_of,
    is_file,
    is_folder,
    split_fragment,
    valid_slide_id,
    with_companions,
)

_REQUIRED = ("slide_id", "patient_id")
_COLUMNS = (
    "block", "split", "path", "channels", "mpp", "tumor_mask", "labelled_mask", "annotations", "tissue_mask",
    "background", "slide_label", "exclude",
)  # fmt: skip
"""The optional columns, beside those that `_CHANNEL_COLUMN` matches."""
_CHANNEL_COLUMN = r"path:\s*([A-Za-z][A-Za-z0-9_.-]*)"
_ANNOTATION_SUFFIXES = (".geojson", ".json", ".geojson.gz", ".json.gz", ".xml")

_BACKGROUND = re.compile(r"(?:dark|bright)|[^=,]+=(?:dark|bright)(?:,[^=,]+=(?:dark|bright))*", re.IGNORECASE)
_SLIDE_LABELS = {"": None, "0": 0, "1": 1}
_WHOLE_SLIDE: dict[str, Literal["none", "all"]] = {"none": "none", "all": "all"}  # words for a tumour mask
_TRUE, _FALSE = ("1", "true", "yes", "x"), ("", "0", "false", "no")
_FILE_NAME = re.compile(r"\w[\w. -]*(/\w[\w. -]*)*")  # without "." and ".." between its folders
_DIGITS = 16
_MOST_NAMED = 20  # rows that one message names
PSEUDONYM = re.compile(rf"slide-(?:[0-9a-f]{{{_DIGITS}}}|of-row-\d+)")


@dataclass(frozen=True, kw_only=True)
class SlideRow:
    """One slide of a manifest."""

    slide_id: str  # safe as a file name, as is the patient's
    patient_id: str
    source: str | dict[str, str]  # absolute path, or one per channel name; fragments such as ``#page=2`` are kept
    row: int  # as a spreadsheet counts: the header is row 1
    block: str = ""  # tissue array, day, site or scanner; "": no row has one
    split: str = ""  # one of `SPLITS`; "": the patient is still to be assigned
    channels: tuple[str, ...] | None = None  # names of the planes of a multi-plane file
    mpp: float | None = None  # um per level-0 px, in place of what the file says
    tumor_mask: Path | None = None  # raster; None: there is none, or the whole slide is of one class
    whole_slide: Literal["none", "all"] | None = None  # what the manifest says in place of a tumour mask
    labelled_mask: Path | None = None  # what was labelled at all
    annotations: Path | None = None  # outlines by a pathologist
    tissue_mask: Path | None = None  # raster or outlines; None: the tissue is found
    background: str | None = None  # None: it is guessed
    slide_label: int | None = None  # 0 or 1, of the slide as a whole; None: it has none
    exclude: bool = False  # checked, and left out of the work
    # Of the cohort, not of the manifest: a slide with the same ones in another order or case is read in this one.
    channel_order: tuple[str, ...] | None = None
    fallback_mpp: float | None = None  # um per level-0 px where neither manifest nor file states it

    @property
    def has_tumor(self) -> bool:
        """Whether anything says where tumour is, or that there is none."""
        return self.tumor_mask is not None or self.annotations is not None or self.whole_slide is not None

    @property
    def sources(self) -> tuple[str, ...]:
        """All paths with their fragments, in channel order."""
        return (self.source,) if isinstance(self.source, str) else tuple(self.source.values())


@dataclass(frozen=True)
class Manifest:
    """A checked table of slides."""

    rows: tuple[SlideRow, ...]  # in the order of the file, excluded ones too
    path: Path  # the CSV file

    def __iter__(self) -> Iterator[SlideRow]:
        return iter(self.rows)

    @property
    def included(self) -> tuple[SlideRow, ...]:
        """The rows to work on."""
        return tuple(row for row in self.rows if not row.exclude)


def is_manifest(path: Path | str) -> bool:
    """Return whether a file is a manifest by the ending of its name."""
    return str(path).lower().endswith(TABLE_SUFFIXES)


def is_annotation(path: Path) -> bool:
    """Return whether outlines are read from a file, by its ending."""
    return path.name.lower().endswith(_ANNOTATION_SUFFIXES)


def read_manifest(
    path: Path, *, strict: bool = True, distinct_patients: Collection[tuple[str, str]] | None = ()
) -> Manifest:
    """Return the slides of a table: a CSV file with any usual separator and encoding, or an Excel workbook.

    Parameters
    ----------
    path : Path
        One row a slide, see `read_csv_table`. Paths in it are relative to it; ``${NAME}`` is replaced from the
        environment.
    strict : bool
        A file that is not there is a problem of the manifest. Off: its slide fails alone, when it is opened.
    distinct_patients : collection of (str, str), optional
        Pairs of ids that are two patients, see `patient_problems`. None: patients are not compared, for a use in which
        they are in no split.

    Raises
    ------
    InputMissingError
        There is no such file.
    TableError
        Lists everything wrong in it, each problem with row, column, value and remedy.
    """
    table = read_csv_table(
        path,
        kind="manifest",
        item="slide",
        required=_REQUIRED,
        optional=_COLUMNS,
        pattern=("path:NAME", _CHANNEL_COLUMN),
        numbers=("mpp",),
    )
    channels = {match[1]: name for name in table.header if (match := re.fullmatch(_CHANNEL_COLUMN, name))}
    by_name: dict[str, str] = {}
    for name, column in channels.items():
        first = by_name.setdefault(name.casefold(), column)
        if first != column:
            table.add_problem("CHANNEL_MISMATCH", None, column, "", f"the channel of {first!r} too", "remove one")
    if table.header and "path" not in table.header and not channels:
        table.add_problem("INPUT_MISSING", None, "path", "", "no column names the files", "add path or path:NAME")
    if not table.rows and not table.problems:
        table.add_problem("INPUT_MISSING", None, "slide_id", "", "no rows", "write one row per slide")
    folder = path.parent.absolute()
    rows = [_RowParser(table, folder, number, cells, channels, strict).row() for number, cells in table.rows]
    # Rows with problems are compared too: a user should see all of them in one go.
    _check_ids(table, rows)
    if distinct_patients is not None:
        kept = [row for row in rows if not row.exclude]
        table.problems += patient_problems(((row.patient_id, row.split, row.row) for row in kept), distinct_patients)
        table.problems += patient_problems(((row.block, row.split, row.row) for row in kept), column="block")
        for row in kept if any(row.block for row in kept) else ():
            if not row.block:
                table.add_problem("INPUT_MISSING", row.row, "block", "", "no block",
                                  "name the block in every row, or in none")  # fmt: skip
    _check_content(table, rows)
    table.raise_problems()
    return Manifest(tuple(rows), path)


def _check_ids(table: CsvTable, rows: list[SlideRow]) -> None:
    """Note ids that are equal, or look equal, but for case."""
    by_id: dict[str, list[SlideRow]] = defaultdict(list)
    for row in rows:
        # Without regard to case: on some file systems the artefacts of `s1` and `S1` would share a name.
        by_id[id_key(row.slide_id)].append(row)
    for slide_id, group in by_id.items():
        if slide_id and len(group) > 1:
            ids = list(dict.fromkeys(row.slide_id for row in group))
            is_case_alone = len({text.casefold() for text in ids}) == 1
            spelled = " and ".join(map(spelled_out, ids))
            alike = "have the same id" if is_case_alone else f"have ids of one Unicode form: {spelled}"
            table.add_problem("DUPLICATE_ID", group[1].row, "slide_id", group[1].slide_id,
                              f"rows {_numbers(group)} {alike}",
                              "give each slide an id of its own")  # fmt: skip


def _check_content(table: CsvTable, rows: list[SlideRow]) -> None:
    """Note rows whose files hold the same bytes under several names."""
    for group in rows_of_same_content(rows):
        ids = _listed([row.slide_id for row in group], " and ")
        if {row.slide_label for row in group} >= {0, 1}:
            table.add_problem("LABEL_CONFLICT", group[1].row, "slide_label", group[1].slide_id,
                              f"rows {_numbers(group)} have the same content and the labels 1 and 0: {ids}",
                              "find out which label is right, and exclude the other")  # fmt: skip
        is_leak = len({row.split for row in group}) > 1
        table.add_problem("SPLIT_LEAKAGE" if is_leak else "DUPLICATE_ID", group[1].row, "path",
                          group[1].sources[0], f"rows {_numbers(group)} have the same content: {ids}",
                          "keep one of them, exclude the others")  # fmt: skip


def rows_of_same_content(rows: Sequence[SlideRow]) -> Iterator[list[SlideRow]]:
    """Yield groups of rows of which a file holds the same bytes; excluded rows are left out."""
    # Only files of equal size, and equal page or plane, are read: a fingerprint of a whole cohort takes minutes.
    by_size: dict[tuple[int, tuple[int | None, ...]], list[tuple[SlideRow, tuple[Path, ...]]]] = defaultdict(list)
    for row in rows:
        for source in () if row.exclude else row.sources:
            is_whole = is_slide(source)
            fragment = Fragment(source) if is_whole else split_fragment(source)
            # A missing or failing file has its own problem, when its slide is opened.
            with suppress(PathopatchError, OSError):
                if is_whole or fragment.path != source and is_slide(fragment.path):
                    parts = with_companions(Path(fragment.path))
                    by_size[sum(map(content_bytes, parts)), fragment.chosen].append((row, tuple(parts)))
    reported: set[tuple[int, ...]] = set()
    for candidates in by_size.values():
        by_content: dict[str, dict[int, SlideRow]] = defaultdict(dict)
        fingerprint_of = cache(files_fingerprint)  # rows may name one file thousands of times
        for row, files in candidates if len(candidates) > 1 else ():
            with suppress(PathopatchError, OSError):
                by_content[fingerprint_of(files)][row.row] = row
        for same in by_content.values():
            # Slides with one file per channel would be reported once per channel.
            if len(same) > 1 and tuple(same) not in reported:
                reported.add(tuple(same))
                yield list(same.values())


def _numbers(group: Sequence[SlideRow]) -> str:
    return _listed([str(row.row) for row in group])


def _listed(texts: Sequence[str], joint: str = ", ") -> str:
    """Return the first texts in one, and how many more there are."""
    more = f" and {len(texts) - _MOST_NAMED:,} more" if len(texts) > _MOST_NAMED else ""
    return joint.join(texts[:_MOST_NAMED]) + more


class _RowParser:
    """Cells of one row on their way to a `SlideRow`; paths are of `folder`, `channels` maps a channel to its column."""

    def __init__(
        self,
        table: CsvTable,
        folder: Path,
        number: int,
        cells: Mapping[str, str],
        channels: Mapping[str, str],
        strict: bool,
    ) -> None:
        self._table, self._folder, self._number, self._channels, self._strict = table, folder, number, channels, strict
        self._cells = {column: text.strip() for column, text in cells.items()}

    def row(self) -> SlideRow:
        """Return the row; its problems are in the table."""
        tumor_mask = self._text("tumor_mask")
        whole_slide = _WHOLE_SLIDE.get(tumor_mask.casefold())
        channels = tuple(name for name in re.split(r"[;,\s]+", self._text("channels")) if name)
        row = SlideRow(
            slide_id=self._id("slide_id"),
            patient_id=self._id("patient_id"),
            block=self._text("block"),
            split=self._one_of("split", ("", *SPLITS)),
            source=self._source(),
            channels=channels or None,
            mpp=self._mpp(),
            tumor_mask=None if whole_slide else self._file("tumor_mask"),
            whole_slide=whole_slide,
            labelled_mask=self._file("labelled_mask"),
            annotations=self._file("annotations"),
            tissue_mask=self._file("tissue_mask"),
            background=self._background(),
            slide_label=_SLIDE_LABELS.get(self._one_of("slide_label", tuple(_SLIDE_LABELS))),
            exclude=self._one_of("exclude", _TRUE + _FALSE) in _TRUE,
            row=self._number,
        )
        if row.annotations is not None and not is_annotation(row.annotations):
            self._add("INPUT_UNSUPPORTED", "annotations", "neither GeoJSON nor XML",
                      f"export them from QuPath or ASAP: {', '.join(_ANNOTATION_SUFFIXES)}")  # fmt: skip
        if row.annotations is not None and tumor_mask:
            self._add("INPUT_UNSUPPORTED", "annotations", "the row has a tumor_mask too",
                      "state the tumour once: empty one of the two")  # fmt: skip
        folded = sorted(name.casefold() for name in channels)
        if len(set(folded)) < len(folded):
            self._add("CHANNEL_MISMATCH", "channels", "a name stands twice", "name each plane once")
        if channels and isinstance(row.source, dict):
            if folded != sorted(name.casefold() for name in row.source):
                self._add("CHANNEL_MISMATCH", "channels", f"the files are for {', '.join(row.source)}",
                          "leave it empty: the columns path:NAME name the channels")  # fmt: skip
            row = replace(row, channels=None)  # the columns say which file is which
        return row

    def _text(self, column: str) -> str:
        return self._cells.get(column, "")

    def _add(self, code: str, column: str, message: str, remedy: str, *own: str) -> None:
        """Add a problem; `own` are words of the message that belong to this row alone."""
        self._table.add_problem(code, self._number, column, self._text(column), message, remedy, *own)

    def _id(self, column: str) -> str:
        text = self._text(column)
        # A missing column is one problem of the header, not one of every row.
        if column in self._cells and not valid_slide_id(text):
            self._add("INPUT_UNSUPPORTED", column, "not an allowed id", ID_REMEDY)
        return text

    def _one_of(self, column: str, allowed: Sequence[str]) -> str:
        text = self._text(column).casefold()
        if text not in allowed:
            words = ", ".join(word or "nothing" for word in allowed)
            self._add("INPUT_UNSUPPORTED", column, "not an allowed value", f"write {words}")
        return text

    def _background(self) -> str | None:
        """Return the stated background; None where it is to be guessed."""
        text = re.sub(r"\s*([=,])\s*", r"\1", self._text("background"))
        if text.casefold() in ("", "auto"):
            return None
        # Channel names can only be checked once the slide is open.
        if not _BACKGROUND.fullmatch(text):
            self._add("INPUT_UNSUPPORTED", "background", "not an allowed value",
                      "write dark, bright, or CHANNEL=dark,CHANNEL=bright")  # fmt: skip
            return None
        return text

    def _mpp(self) -> float | None:
        """Return the stated um per level-0 px."""
        text = self._text("mpp")
        if not text:
            return None
        try:
            mpp = parse_number(text)
        except ValueError:
            mpp = math.nan
        if not MPP_RANGE[0] <= mpp <= MPP_RANGE[1]:
            self._add("MPP_MISSING", "mpp", "not a plausible number of micrometres per pixel",
                      f"give {MPP_RANGE[0]:g} to {MPP_RANGE[1]:g}, or leave it empty")  # fmt: skip
        return mpp

    def _source(self) -> str | dict[str, str]:
        """Return the row's file, or its files by channel."""
        filled = {name: column for name, column in self._channels.items() if self._text(column)}
        if self._text("path"):
            if filled:
                self._add("INPUT_UNSUPPORTED", "path", "both path and path:NAME are filled", "empty one of them")
            return self._absolute("path", may_be_folder=True)
        if not filled:
            self._add("INPUT_MISSING", "path", "no file named", "fill path, or the columns path:NAME")
        for name, column in self._channels.items():
            if filled and name not in filled:
                self._add("INPUT_MISSING", column, f"no file for {name}", "every channel needs a file")
        return {name: self._absolute(column, may_be_folder=True) for name, column in filled.items()}

    def _file(self, column: str) -> Path | None:
        return Path(self._absolute(column)) if self._text(column) else None

    def _absolute(self, column: str, *, may_be_folder: bool = False) -> str:
        """Return a cell's absolute path with its fragment; slides may be folders, masks may not."""
        text, undefined = expand_variables(self._text(column))
        if undefined:
            self._add("INPUT_MISSING", column, f"the environment does not define {undefined}",
                      f"set {undefined}, or write the path out")  # fmt: skip
            return text
        if may_be_folder and "://" in text:
            if self._strict:
                self._add("INPUT_MISSING", column, "an address, not a file", "copy the slide to a drive; predict alone "
                          "brings slides, by [predict] fetch")  # fmt: skip
            return text
        # A file below the manifest's own folder, as most are: to join paths takes longer than all else of a row.
        is_name = _FILE_NAME.fullmatch(text) is not None
        absolute = f"{self._folder}{os.sep}{text}" if is_name else str(self._folder / text)
        if not self._strict:
            return absolute
        is_there = is_slide if may_be_folder else is_file
        path = split_fragment(absolute).path
        # Of a hundred thousand missing files each is asked for once. A trailing slash is no difference.
        is_missing = not any(os.path.lexists(name.rstrip("/")) for name in {absolute, path})
        # The whole text first: a file's own name may hold "#page=2".
        if not is_missing and (is_there(absolute) or path != absolute and is_there(path)):
            return absolute
        if not is_missing and (kind := special_kind(Path(absolute))):
            self._add("INPUT_UNSUPPORTED", column, f"{absolute} is {kind}, not a file", "name a file", absolute)
        elif may_be_folder and is_folder(absolute):
            self._add("INPUT_UNSUPPORTED", column, f"the folder {absolute} is neither OME-Zarr nor DICOM",
                      "name a file, or an OME-Zarr folder", absolute)  # fmt: skip
        else:
            self._add("INPUT_MISSING", column, f"no file {absolute}",
                      "correct the path (relative to the manifest)", absolute)  # fmt: skip
        return absolute


def write_rows(path: Path, rows: Sequence[SlideRow]) -> None:
    """Write rows as a manifest, without the columns that are empty in all of them; DiskFullError as `write_bytes`."""
    records = [_cells(row) for row in rows]
    stream = io.StringIO()
    filled = dict.fromkeys(name for record in records for name in record)
    names = sorted(filled, key=lambda name: (not name.endswith("_id"), not name.startswith("path")))
    writer = csv.DictWriter(stream, names, restval="", lineterminator="\n")
    writer.writeheader()
    writer.writerows(records)
    write_bytes(path, stream.getvalue().encode())


def _cells(row: SlideRow) -> dict[str, str]:
    """Return the filled cells of a row by column."""
    source = row.source if isinstance(row.source, dict) else {"": row.source}
    cells = {
        "slide_id": row.slide_id,
        "patient_id": row.patient_id,
        "block": row.block,
        **{f"path:{name}" if name else "path": path for name, path in source.items()},
        "split": row.split,
        "channels": ";".join(row.channels or ()),
        "mpp": "" if row.mpp is None else repr(row.mpp),  # all digits, so that reading gives the same number
        "tumor_mask": row.whole_slide or str(row.tumor_mask or ""),
        "labelled_mask": str(row.labelled_mask or ""),
        "annotations": str(row.annotations or ""),
        "tissue_mask": str(row.tissue_mask or ""),
        "background": row.background or "",
        "slide_label": "" if row.slide_label is None else str(row.slide_label),
        "exclude": "true" if row.exclude else "",
    }
    return {name: text for name, text in cells.items() if text}


def pseudonymize(rows: Sequence[SlideRow]) -> list[SlideRow]:
    """Return the rows with pseudonyms as slide ids, without patients and blocks; DuplicateIdError if two are one slide.

    A slide has the same pseudonym in every run, as long as the content of its files is the same.
    """
    by_pseudonym: dict[str, SlideRow] = {}
    for row in rows:
        name = pseudonym(row)
        if name in by_pseudonym:
            both = f"rows {by_pseudonym[name].row} and {row.row}"
            raise DuplicateIdError(f"{both} are one slide", place=name, remedy="name each slide once")
        by_pseudonym[name] = replace(row, slide_id=name, patient_id="", block="")
    return list(by_pseudonym.values())


def pseudonym(row: SlideRow) -> str:
    """Return a slide's name made of its files' content, their channels, and pages or planes."""
    sources = row.source if isinstance(row.source, dict) else {"": row.source}
    try:
        parts = {}
        for channel, text in sources.items():
            fragment = Fragment(text) if Path(text).exists() else split_fragment(text)
            # Only what is chosen: a choice that a later version adds must not rename the slides of this one.
            chosen = {name: value for name, value in asdict(fragment).items() if name != "path" and value is not None}
            parts[channel] = [fingerprint_file(Path(fragment.path)), chosen]
    except (PathopatchError, OSError):
        # The error itself is reported when the slide is opened; until then it needs a name.
        return f"slide-of-row-{row.row}"
    return f"slide-{fingerprint(parts)[:_DIGITS]}"


def source_content(sources: Iterable[str]) -> str:
    """Return a fingerprint of a slide's files, whatever their order and their channels; "" if one cannot be read."""
    with suppress(PathopatchError, OSError):
        return fingerprint(sorted({fingerprint_file(file_of(text)) for text in sources}))
    return ""


def file_times(sources: Iterable[str]) -> list[list[int]]:
    """Return [bytes, time of the last change in ns] of each file of a slide; [] if one is not there."""
    with suppress(OSError):
        return [[state.st_size, state.st_mtime_ns] for state in map(Path.stat, map(file_of, sources))]
    return []
