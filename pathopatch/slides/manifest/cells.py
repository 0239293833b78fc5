"""What do the cells of one row mean? Each is checked by itself; what is wrong is noted in the table."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from pathlib import Path

from pathopatch.core.config import MPP_RANGE
from pathopatch.slides.manifest.ids import valid_slide_id
from pathopatch.slides.manifest.paths import expanded, is_file, is_folder, is_slide, split_fragment
from pathopatch.slides.manifest.rows import SPLITS, SlideRow
from pathopatch.slides.manifest.table import Table

ANNOTATION_SUFFIXES = (".geojson", ".json", ".geojson.gz", ".json.gz", ".xml")
"""Endings of the files that outlines are read from."""

_BACKGROUND = re.compile(r"(?:dark|bright)|[^=,]+=(?:dark|bright)(?:,[^=,]+=(?:dark|bright))*", re.IGNORECASE)
_TRUE, _FALSE = ("1", "true", "yes", "x"), ("", "0", "false", "no")


class Cells:
    """The cells of one row on their way to a `SlideRow`."""

    def __init__(self, table: Table, number: int, cells: dict[str, str]) -> None:
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
            background=self.background(),
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

    def problem(self, code: str, column: str, message: str, remedy: str, *own: str) -> None:
        """Note a problem of this row; `own` are words of the message that belong to it alone."""
        self.table.add(code, self.number, column, self.cells.get(column, ""), message, remedy, *own)

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

    def background(self) -> str | None:
        """Return the stated background; whether it names the slide's channels is seen when that is opened."""
        text = re.sub(r"\s*([=,])\s*", r"\1", self.cells.get("background", ""))
        if text.casefold() in ("", "auto"):
            return None
        if not _BACKGROUND.fullmatch(text):
            self.problem("INPUT_UNSUPPORTED", "background", "not an allowed value",
                         "say dark, bright, or CHANNEL=dark,CHANNEL=bright")  # fmt: skip
            return None
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
        is_there = is_slide if folders else is_file
        if is_there(absolute) or is_there(split_fragment(absolute).path):
            return absolute
        if folders and is_folder(absolute):
            self.problem("INPUT_UNSUPPORTED", column, f"the folder {absolute} is no OME-Zarr image",
                         "name a file, or an OME-Zarr folder", absolute)  # fmt: skip
        else:
            self.problem("INPUT_MISSING", column, f"no file {absolute}",
                         "correct the path (relative to the manifest)", absolute)  # fmt: skip
        return absolute
