"""Features in plain tables: Parquet, CSV or npz, of one slide or of many.

Columns: ``features`` (in Parquet, a list per row), or one column a value, numbered from 0 or 1 (``0``, ``feature_0``,
``f1`` …); ``slide_id``, without which the file is one slide; and where known ``x``, ``y`` (level-0 top-left),
``side_px``, ``mpp`` and ``tissue_fraction``. Arrays of an npz have the same names, ``features`` being (N, D);
``coords`` (N, 2) may stand for x and y.
"""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pathopatch.core.errors import InputCorruptError, InputUnsupportedError
from pathopatch.core.excel import require_width
from pathopatch.core.input_files import open_regular, require_narrow, wide_coding
from pathopatch.core.text import parse_number
from pathopatch.features.readers.folder import Candidate, Layout, SlideFile, slide_id_from_stem
from pathopatch.features.readers.h5 import as_features
from pathopatch.features.readers.stored_size import require_stored_table
from pathopatch.features.readers.tensors import npz_shapes, read_npz
from pathopatch.features.slide_features import Encoder, SlideFeatures

_KNOWN = ("slide_id", "x", "y", "side_px", "mpp", "tissue_fraction")
_NUMBERED = re.compile(
    r"(?P<prefix>(?:(?:f|feat|features?|emb|embeddings?|dim|v|z)[_-]?)?)(?P<number>\d+)", re.IGNORECASE
)
_FEWEST = 2  # numbered columns; a single one is hardly a vector
NOTE = "the table does not say which patches were left out"


class _Table:
    """A file of features, read once for all its slides."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[type[_Table], tuple[Path]]:
        return _Table, (self.path,)  # another process reads the file again

    @cached_property
    def columns(self) -> dict[str, NDArray[Any]]:
        """The known columns that the file has, shape (N,) each."""
        if self.path.suffix == ".npz":
            arrays = read_npz(self.path, (*_KNOWN, "coords"))
            for name, values in arrays.items():
                if values.shape != ((self.shape[0], 2) if name == "coords" else self.shape[:1]):
                    raise InputUnsupportedError(
                        f"{name} of the shape {values.shape} for {self.shape[0]} patches",
                        place=str(self.path),
                        remedy="write one value per patch",
                    )
            if "coords" in arrays:
                arrays |= {"x": arrays["coords"][:, 0], "y": arrays["coords"][:, 1]}
            return arrays
        frame = _read(self.path, [name for name in _names(self.path) if name in _KNOWN])
        return {str(name): frame[name].to_numpy() for name in frame.columns}

    @cached_property
    def features(self) -> NDArray[Any]:
        """All rows, shape (N, D)."""
        if self.path.suffix == ".npz":
            return as_features(read_npz(self.path, ("features",))["features"], str(self.path))
        names = _names(self.path)
        if "features" in names:
            return _read_lists(self.path)
        values = _read(self.path, _numbered(names)).to_numpy()
        return as_features(values.astype(np.float32) if values.dtype.kind in "iu" else values, str(self.path))

    @cached_property
    def rows(self) -> dict[str, NDArray[np.int64]]:
        """The rows of each slide, in their order."""
        if "slide_id" not in self.columns:
            return {self.path.stem: np.arange(self.shape[0])}
        import pandas as pd  # here and below: naming the readers must not load it

        ids = pd.Series(self.columns["slide_id"])
        if missing := int((ids.isna() | (ids.astype(str).str.strip() == "")).sum()):
            raise InputUnsupportedError(
                f"{missing} of {len(ids)} rows have no slide_id",
                place=str(self.path),
                remedy="write the slide of every row, or leave the column out for a file of one slide",
            )
        by_id = ids.groupby(ids.astype(str)).indices
        return {str(slide_id): np.asarray(rows, np.int64) for slide_id, rows in by_id.items()}

    @cached_property
    def shape(self) -> tuple[int, int]:
        """Rows, and values per row; without the features where the file tells it otherwise."""
        if self.path.suffix == ".npz":
            rows, dim = npz_shapes(self.path)["features"]
            return rows, dim
        if self.path.suffix == ".parquet":
            rows, dim = _parquet_shape(self.path)
            return rows, dim or len(_numbered(_names(self.path)))
        rows, dim = self.features.shape
        return rows, dim


def slide_files(candidate: Candidate) -> list[SlideFile]:
    """Return the slides of a table that has features."""
    path = candidate.path
    if path.suffix == ".npz":
        is_ours = len(npz_shapes(path).get("features", ())) == 2
    elif path.suffix in (".parquet", ".csv"):
        names = _names(path)  # CSV has no lists
        is_ours = (path.suffix == ".parquet" and "features" in names) or bool(_numbered(names))
        if is_ours:
            _require_readable(path, names)
    else:
        is_ours = False
    if not is_ours:
        return []
    table = _Table(path)
    return [
        SlideFile(slide_id=slide_id_from_stem(raw), path=path, group=path.parent, key=raw, shared=table)
        for raw in table.rows
    ]


def read(slide: SlideFile, with_features: bool) -> SlideFeatures:
    """Return a slide's features."""
    table: _Table = slide.shared
    rows = table.rows[slide.key]
    known = {name: values[rows] for name, values in table.columns.items()}
    features = table.features[rows] if with_features else np.empty((len(rows), 0), np.float32)
    has_xy = "x" in known and "y" in known
    return SlideFeatures(
        slide_id=slide.slide_id,
        features=features,
        encoder=Encoder(dim=table.shape[1]),
        path=slide.path,
        x=_numbers(known["x"], "x", slide.path) if has_xy else None,
        y=_numbers(known["y"], "y", slide.path) if has_xy else None,
        side=_one(known, "side_px", slide),
        mpp=_one(known, "mpp", slide),
        tissue_fraction=(
            _numbers(known["tissue_fraction"], "tissue_fraction", slide.path).astype(np.float32)
            if "tissue_fraction" in known
            else None
        ),
        notes=(NOTE,),
    )


def _names(path: Path) -> list[str]:
    """Return the names of a table's columns; none of a CSV file that is no text."""
    if path.suffix == ".csv":
        return _csv_names(path)
    from pyarrow import ArrowException, parquet

    try:
        return list(parquet.read_schema(path).names)
    except (OSError, ArrowException) as error:
        raise InputCorruptError(
            f"not a whole Parquet file: {error}", place=str(path), remedy="write the table again"
        ) from error


def _csv_names(path: Path) -> list[str]:
    """Return the names of the columns of a CSV file; none where it is no text."""
    try:
        with open_regular(path) as stream:
            coding = wide_coding(stream.peek()) or "utf-8-sig"
            with io.TextIOWrapper(stream, coding, newline="") as text:
                return [name.strip() for name in next(csv.reader(text), [])]
    except (OSError, UnicodeDecodeError, csv.Error):
        return []


def _require_readable(path: Path, names: Sequence[str]) -> None:
    """Refuse a table of features with too many columns or values, or in a coding that is not read."""
    require_width(len(names), row=1, place=str(path))
    if path.suffix == ".parquet":
        require_stored_table(path)
    if path.suffix == ".csv":
        with open_regular(path) as stream:
            require_narrow(stream.peek(), place=path)


def _numbered(names: Sequence[str]) -> list[str]:
    """Return the columns of one prefix that count without a gap from 0 or 1, in the order of their numbers."""
    by_prefix: dict[str, dict[int, str]] = {}
    for name in names:
        if match := _NUMBERED.fullmatch(name):
            by_prefix.setdefault(match["prefix"], {})[int(match["number"])] = name
    series = max(by_prefix.values(), key=len, default={})
    first = min(series, default=0)
    is_whole = first in (0, 1) and sorted(series) == list(range(first, first + len(series)))
    return [series[number] for number in sorted(series)] if is_whole and len(series) >= _FEWEST else []


def _read(path: Path, names: Sequence[str]) -> Any:
    """Return some columns of a table."""
    import pandas as pd

    try:
        if path.suffix == ".parquet":
            return pd.read_parquet(path, columns=list(names))
        types = {name: str if name == "slide_id" else np.float64 if name in _KNOWN else np.float32 for name in names}
        return pd.read_csv(path, usecols=list(names), dtype=types)[list(names)]
    except (OSError, ValueError) as error:
        raise InputCorruptError(
            f"not a whole table of numbers: {error}", place=str(path), remedy="write the table again"
        ) from error


def _parquet_shape(path: Path) -> tuple[int, int]:
    """Return the rows of a Parquet file, and the length of the first list of features; 0 where it has no lists."""
    from pyarrow import parquet

    with parquet.ParquetFile(path) as file:
        rows = file.metadata.num_rows
        if "features" not in file.schema_arrow.names or not rows:
            return rows, 0
        first = next(file.iter_batches(batch_size=1, columns=["features"]))["features"]
        return rows, len(first[0].as_py() or ())


def _read_lists(path: Path) -> NDArray[Any]:
    """Return the column of lists of a Parquet file as one array (N, D)."""
    from pyarrow import ArrowException, compute, parquet

    try:
        column = parquet.read_table(path, columns=["features"])["features"]
        lengths = np.unique(compute.fill_null(compute.list_value_length(column), -1).to_numpy())
        values = compute.list_flatten(column).to_numpy()
    except (OSError, ArrowException) as error:
        raise InputCorruptError(
            f"the column features holds no lists of numbers: {error}", place=str(path), remedy="write the table again"
        ) from error
    if len(lengths) > 1 or (len(lengths) == 1 and lengths[0] < 1):
        raise InputUnsupportedError(
            f"the lists of the column features have the lengths {', '.join(map(str, lengths))}",
            place=str(path),
            remedy="keep the features of one encoder in one table, a list in every row",
        )
    return as_features(values, str(path)).reshape(len(column), -1)


def _numbers(values: NDArray[Any], name: str, path: Path) -> NDArray[np.float64]:
    try:
        if values.dtype.kind in "OU":  # texts; NumPy would take 1_0 for 10
            return np.array([parse_number(str(value)) for value in values], np.float64)
        return values.astype(np.float64)
    except (TypeError, ValueError) as error:
        raise InputUnsupportedError(
            f"{name} is not a number in every row: {error}", place=str(path), remedy="write numbers"
        ) from error


def _one(known: dict[str, NDArray[Any]], name: str, slide: SlideFile) -> float | None:
    """Return the one value that a column has for a slide."""
    if name not in known or not len(known[name]):
        return None
    values = np.unique(_numbers(known[name], name, slide.path))
    if len(values) != 1 or not np.isfinite(values[0]) or values[0] <= 0:
        raise InputUnsupportedError(
            f"{name} of the slide {slide.slide_id} is {', '.join(map(str, values[:3]))}",
            place=str(slide.path),
            remedy="give every patch of a slide the same positive value, or leave the column out",
        )
    return float(values[0])


LAYOUT = Layout("table", slide_files, read)
