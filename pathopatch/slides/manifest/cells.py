"""Parse one row of a manifest. Each cell is checked by itself; its problems are added to the table's."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from pathopatch.core.config import MPP_RANGE
from pathopatch.core.csv_table import CsvTable
from pathopatch.slides.manifest.paths import (
    expand_variables,
    is_file,
    is_folder,
    is_slide,
    split_fragment,
    valid_slide_id,
)
from pathopatch.slides.manifest.rows import SPLITS, SlideRow

REQUIRED = ("slide_id", "patient_id")
COLUMNS = (
    "split", "path", "channels", "mpp", "tumor_mask", "labelled_mask", "annotations", "tissue_mask", "background",
    "exclude",
)  # fmt: skip
"""The optional columns, beside those that `CHANNEL_COLUMN` matches."""
CHANNEL_COLUMN = r"path:([A-Za-z][A-Za-z0-9_.-]*)"
ANNOTATION_SUFFIXES = (".geojson", ".json", ".geojson.gz", ".json.gz", ".xml")
"""Endings of the files that outlines are read from."""

_BACKGROUND = re.compile(r"(?:dark|bright)|[^=,]+=(?:dark|bright)(?:,[^=,]+=(?:dark|bright))*", re.IGNORECASE)
_TRUE, _FALSE = ("1", "true", "yes", "x"), ("", "0", "false", "no")


class RowParser:
    """Cells of one row on their way to a `SlideRow`; `channels` maps a channel to its column."""

    def __init__(self, table: CsvTable, number: int, cells: Mapping[str, str], channels: Mapping[str, str]) -> None:
        self._table, self._number, self._channels = table, number, channels
        self._cells = {column: text.strip() for column, text in cells.items()}

    def row(self) -> SlideRow:
        """Return the row; its problems are in the table."""
        tumor_mask = self._text("tumor_mask")
        is_non_tumor = tumor_mask.casefold() == "none"
        channels = tuple(name for name in re.split(r"[;,\s]+", self._text("channels")) if name)
        row = SlideRow(
            slide_id=self._id("slide_id"),
            patient_id=self._id("patient_id"),
            split=self._one_of("split", ("", *SPLITS)),
            source=self._source(),
            channels=channels or None,
            mpp=self._mpp(),
            tumor_mask=None if is_non_tumor else self._file("tumor_mask"),
            whole_slide_non_tumor=is_non_tumor,
            labelled_mask=self._file("labelled_mask"),
            annotations=self._file("annotations"),
            tissue_mask=self._file("tissue_mask"),
            background=self._background(),
            exclude=self._one_of("exclude", _TRUE + _FALSE) in _TRUE,
            row=self._number,
        )
        if row.annotations is not None and not row.annotations.name.lower().endswith(ANNOTATION_SUFFIXES):
            self._add("INPUT_UNSUPPORTED", "annotations", "neither GeoJSON nor XML",
                      f"export them from QuPath or ASAP: {', '.join(ANNOTATION_SUFFIXES)}")  # fmt: skip
        if row.annotations is not None and tumor_mask:
            self._add("INPUT_UNSUPPORTED", "annotations", "the row has a tumor_mask too",
                      "state the tumour once: empty one of the two")  # fmt: skip
        if len(set(channels)) < len(channels):
            self._add("CHANNEL_MISMATCH", "channels", "a name stands twice", "name each plane once")
        if channels and isinstance(row.source, dict) and channels != tuple(row.source):
            self._add("CHANNEL_MISMATCH", "channels", f"the files are for {', '.join(row.source)}",
                      "leave it empty: the columns path:NAME name the channels")  # fmt: skip
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
            self._add("INPUT_UNSUPPORTED", column, "not an allowed id",
                      "use 1 to 128 letters, digits, '.', '_' or '-', first a letter or digit, "
                      "and no name that Windows reserves")  # fmt: skip
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
            mpp = float(text)
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
        """Return a cell's absolute path with its fragment; slides may be OME-Zarr folders, masks may not."""
        text, undefined = expand_variables(self._text(column))
        if undefined:
            self._add("INPUT_MISSING", column, f"the environment does not define {undefined}",
                      f"set {undefined}, or write the path out")  # fmt: skip
            return text
        absolute = str((self._table.path.parent / text).absolute())
        is_there = is_slide if may_be_folder else is_file
        # The whole text first: a file's own name may hold "#page=2".
        if is_there(absolute) or is_there(split_fragment(absolute).path):
            return absolute
        if may_be_folder and is_folder(absolute):
            self._add("INPUT_UNSUPPORTED", column, f"the folder {absolute} is no OME-Zarr image",
                      "name a file, or an OME-Zarr folder", absolute)  # fmt: skip
        else:
            self._add("INPUT_MISSING", column, f"no file {absolute}",
                      "correct the path (relative to the manifest)", absolute)  # fmt: skip
        return absolute
