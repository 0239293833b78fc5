"""Features in plain tables: Parquet, CSV or npz, of one slide or of many.

Columns: ``features`` (in Parquet, a list per row), or one column a value, numbered from 0 or 1 (``0``, ``feature_0``,
``f1`` …); ``slide_id``, without which the file is one slide; and where known ``x``, ``y`` (level-0 top-left),
``side_px``, ``mpp`` and ``tissue_fraction``. Arrays of an npz have the same names, ``features`` being (N, D);
``coords`` (N, 2) may replace x and y.
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
from pathopatch.features.readers.folder import Candidate, FeatureFile, Layout, slide_id_from_stem
from pathopatch.features.readers.vectors import as_features, npz_shapes, read_npz, read_vectors, require_stored
from pathopatch.features.slide_features import Encoder, SlideFeatures

_KNOWN = ("slide_id", "x", "y", "side_px", "mpp", "tissue_fraction")
_NUMBERED = re.compile(
    r"(?P<prefix>(?:(?:f|feat|features?|emb|embeddings?|dim|v|z)[_-]?)?)(?P<number>\d+)", re.IGNORECASE
)
_FEWEST = 2  # numbered columns; a single one is hardly a vector
_LEAST_BYTES = 4  # of a value in Parquet, unpacked
NOTE = "the table does not say which patches were left out"


class _Table:
    """A file of features, read once for all its slides; `names` are those of its columns or arrays."""

    def __init__(self, path: Path, names: Sequence[str]) -> None:
        self.path, self.names = path, names

    def __reduce__(self) -> tuple[type[_Table], tuple[Path, Sequence[str]]]:
        return _Table, (self.path, self.names)  # another process reads the file again

    @cached_property
    def columns(self) -> dict[str, NDArray[Any]]:
        """The known columns that the file has, shape (N,) each."""
        if self.path.suffix != ".npz":
            frame = _read(self.path, [name for name in self.names if name in _KNOWN])
            return {str(name): frame[name].to_numpy() for name in frame.columns}
        arrays = read_npz(self.path, (*_KNOWN, "coords"))
        count = npz_shapes(self.path, ("features",))["features"][0]
        for name, values in arrays.items():
            if values.shape != ((count, 2) if name == "coords" else (count,)):
                raise InputUnsupportedError(
                    f"{name} of the shape {values.shape} for {count} patches",
                    place=str(self.path),
                    remedy="write one value per patch",
                )
        coords = arrays.pop("coords", None)
        return arrays if coords is None else arrays | {"x": coords[:, 0], "y": coords[:, 1]}

    @cached_property
    def features(self) -> NDArray[Any]:
        """All rows, shape (N, D)."""
        if self.path.suffix == ".npz":
            return read_vectors(self.path, True)[0]
        if "features" in self.names:
            return _read_lists(self.path)
        values = _read(self.path, _numbered(self.names)).to_numpy()
        return as_features(values.astype(np.float32) if values.dtype.kind in "iu" else values, str(self.path))

    @cached_property
    def rows(self) -> dict[str, Any]:
        """The rows of each slide, in their order."""
        if "slide_id" not in self.columns:
            return {self.path.stem: slice(None)}
        import pandas as pd  # here and below: naming the readers must not load it

        ids = pd.Series(self.columns["slide_id"])
        if missing := int((ids.isna() | (ids.astype(str).str.strip() == "")).sum()):
            raise InputUnsupportedError(
                f"{missing} of {len(ids)} rows have no slide_id",
                place=str(self.path),
                remedy="write the slide of every row, or leave the column out for a file of one slide",
            )
        return {str(slide_id): rows for slide_id, rows in ids.groupby(ids.astype(str)).indices.items()}


def slide_files(candidate: Candidate) -> list[FeatureFile]:
    """Return the slides of a table that has features."""
    path = candidate.path
    if path.suffix not in (".npz", ".parquet", ".csv"):
        return []
    names = _names(path)
    has_lists = path.suffix != ".csv" and "features" in names
    if not has_lists and (path.suffix == ".npz" or not _numbered(names)):
        return []
    require_width(len(names), row=1, place=str(path))
    if path.suffix == ".parquet":
        _require_stored_parquet(path)
    if path.suffix == ".csv":
        with open_regular(path) as stream:
            require_narrow(stream.peek(), place=path)
    table = _Table(path, names)
    return [
        FeatureFile(slide_id=slide_id_from_stem(raw), path=path, group=path.parent, key=raw, shared=table)
        for raw in table.rows
    ]


def read(file: FeatureFile, with_features: bool) -> SlideFeatures:
    """Return a slide's features."""
    table: _Table = file.shared
    rows = table.rows[file.key]
    features = table.features[rows]
    known = {name: _numbers(table, name, rows) for name in _KNOWN[1:] if name in table.columns}
    tissue = known.get("tissue_fraction")
    return file.slide(
        features if with_features else np.empty((len(features), 0), np.float32),
        Encoder(dim=features.shape[1]),
        np.column_stack([known["x"], known["y"]]) if "x" in known and "y" in known else None,
        side=_one(known, "side_px", file),
        mpp=_one(known, "mpp", file),
        tissue_fraction=None if tissue is None else tissue.astype(np.float32),
        notes=(NOTE,),
    )


def _names(path: Path) -> list[str]:
    """Return the names of a table's columns or arrays; none of a file that is no table."""
    if path.suffix == ".npz":
        shapes = npz_shapes(path)
        return list(shapes) if len(shapes.get("features", ())) == 2 else []
    if path.suffix == ".csv":
        try:
            with open_regular(path) as stream:
                coding = wide_coding(stream.peek()) or "utf-8-sig"
                with io.TextIOWrapper(stream, coding, newline="") as text:
                    return [name.strip() for name in next(csv.reader(text), [])]
        except (OSError, UnicodeDecodeError, csv.Error):
            return []
    from pyarrow import ArrowException, parquet

    try:
        return list(parquet.read_schema(path).names)
    except (OSError, ArrowException) as error:
        raise InputCorruptError(
            f"not a whole Parquet file: {error}", place=str(path), remedy="write the table again"
        ) from error


def _require_stored_parquet(path: Path) -> None:
    """Refuse a Parquet file as `require_stored`; OSError, ArrowException if it cannot be read."""
    from pyarrow import parquet

    with parquet.ParquetFile(path) as file:
        about = file.metadata
        groups = map(about.row_group, range(about.num_row_groups))
        values = sum(group.column(column).num_values for group in groups for column in range(group.num_columns))
        rows = about.num_rows
    require_stored("the table", max(rows, values) * _LEAST_BYTES, path.stat().st_size, path)


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
    return as_features(values, str(path)).reshape(len(column), int(lengths.max(initial=0)))


def _numbers(table: _Table, name: str, rows: Any) -> NDArray[np.float64]:
    """Return some rows of a column as numbers."""
    values = table.columns[name][rows]
    try:
        if values.dtype.kind in "OU":  # texts; NumPy would take 1_0 for 10
            return np.array([parse_number(str(value)) for value in values], np.float64)
        return np.asarray(values, np.float64)
    except (TypeError, ValueError) as error:
        raise InputUnsupportedError(
            f"{name} is not a number in every row: {error}", place=str(table.path), remedy="write numbers"
        ) from error


def _one(known: dict[str, NDArray[np.float64]], name: str, file: FeatureFile) -> float | None:
    """Return the one value that a column has for a slide."""
    values = np.unique(known.get(name, np.empty(0)))
    if not len(values):
        return None
    if len(values) != 1 or not np.isfinite(values[0]) or values[0] <= 0:
        raise InputUnsupportedError(
            f"{name} of the slide {file.slide_id} is {', '.join(map(str, values[:3]))}",
            place=str(file.path),
            remedy="give every patch of a slide the same positive value, or leave the column out",
        )
    return float(values[0])


LAYOUT = Layout("table", slide_files, read)
