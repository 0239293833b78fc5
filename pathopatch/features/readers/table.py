"""Features in plain tables: npz or Parquet, of one slide or of many.

Arrays of an npz, or columns of a Parquet file: ``features`` (N, D), in Parquet a list per row; ``slide_id``, without
which the file is one slide; and where known ``x``, ``y`` (level-0 top-left), ``side_px``, ``mpp`` and
``tissue_fraction``. In an npz ``coords`` (N, 2) may replace x and y.
"""

from __future__ import annotations

from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pathopatch.core.errors import InputCorruptError, InputUnsupportedError
from pathopatch.core.excel import require_width
from pathopatch.core.text import parse_number
from pathopatch.features.readers.folder import Candidate, FeatureFile, Layout, slide_id_from_stem
from pathopatch.features.readers.vectors import as_features, npz_shapes, read_npz, require_stored
from pathopatch.features.slide_features import Encoder, SlideFeatures

_NUMBERS = ("x", "y", "side_px", "mpp", "tissue_fraction")
_KNOWN = ("slide_id", *_NUMBERS)
_LEAST_BYTES = 4  # of a value in Parquet, unpacked
NOTE = "the table does not say which patches were left out"


class _Table:
    """A file of features, read once for all its slides."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[type[_Table], tuple[Path]]:
        return _Table, (self.path,)  # another process reads the file again

    @cached_property
    def columns(self) -> dict[str, NDArray[Any]]:
        """The known columns that the file has, (N,) each."""
        if self.path.suffix == ".parquet":
            table = _read_parquet(self.path, _KNOWN)
            return {name: table[name].to_numpy() for name in table.column_names}
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
        """All rows, (N, D)."""
        if self.path.suffix == ".npz":
            return as_features(read_npz(self.path, ("features",))["features"], str(self.path))
        from pyarrow import ArrowException, compute

        column = _read_parquet(self.path, ("features",))["features"]
        try:
            lengths = np.unique(compute.fill_null(compute.list_value_length(column), -1).to_numpy())
            values = compute.list_flatten(column).to_numpy()
        except ArrowException as error:
            raise _damaged(self.path, f"the column features holds no lists of numbers: {error}") from error
        if len(lengths) > 1 or (len(lengths) == 1 and lengths[0] < 1):
            raise InputUnsupportedError(
                f"the lists of the column features have the lengths {', '.join(map(str, lengths))}",
                place=str(self.path),
                remedy="keep the features of one encoder in one table, a list in every row",
            )
        return as_features(values, str(self.path)).reshape(len(column), int(lengths.max(initial=0)))

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
        return {str(raw): rows for raw, rows in ids.groupby(ids.astype(str)).indices.items()}

    def number(self, name: str, rows: Any) -> NDArray[np.float64]:
        """Return some rows of a column as numbers."""
        values = self.columns[name][rows]
        try:
            if values.dtype.kind in "OU":  # texts; NumPy would take 1_0 for 10
                return np.array([parse_number(str(value)) for value in values], np.float64)
            return np.asarray(values, np.float64)
        except (TypeError, ValueError) as error:
            raise InputUnsupportedError(
                f"{name} is not a number in every row: {error}", place=str(self.path), remedy="write numbers"
            ) from error


def _slide_files(candidate: Candidate) -> list[FeatureFile]:
    """Return the slides of a table that has features."""
    path = candidate.path
    if path.suffix == ".npz":
        is_ours = len(npz_shapes(path).get("features", ())) == 2
    else:
        is_ours = path.suffix == ".parquet" and _has_features(path)
    table = _Table(path)
    return [
        FeatureFile(slide_id=slide_id_from_stem(raw), path=path, group=path.parent, table=(table, rows))
        for raw, rows in (table.rows if is_ours else {}).items()
    ]


def _has_features(path: Path) -> bool:
    """Return whether a Parquet file has features; refuse one that claims far more than it stores."""
    from pyarrow import ArrowException, parquet

    try:
        with parquet.ParquetFile(path) as file:
            names, about = file.schema_arrow.names, file.metadata
            groups = map(about.row_group, range(about.num_row_groups))
            values = sum(group.column(column).num_values for group in groups for column in range(group.num_columns))
            rows = about.num_rows
    except (OSError, ArrowException) as error:
        raise _damaged(path, f"not a whole Parquet file: {error}") from error
    if "features" not in names:
        return False
    require_width(len(names), row=1, place=str(path))
    require_stored("the table", max(rows, values) * _LEAST_BYTES, path.stat().st_size, path)
    return True


def _read_parquet(path: Path, names: tuple[str, ...]) -> Any:
    """Return those columns of a Parquet file that it has."""
    from pyarrow import ArrowException, parquet

    try:
        there = set(parquet.read_schema(path).names)
        return parquet.read_table(path, columns=[name for name in names if name in there])
    except (OSError, ArrowException) as error:
        raise _damaged(path, f"not a whole table: {error}") from error


def _damaged(path: Path, problem: str) -> InputCorruptError:
    return InputCorruptError(problem, place=str(path), remedy="write the table again")


def _read(file: FeatureFile, with_features: bool) -> SlideFeatures:
    """Return a slide's features."""
    table: _Table
    table, rows = file.table
    features = table.features[rows]
    known = {name: table.number(name, rows) for name in _NUMBERS if name in table.columns}
    tissue = known.get("tissue_fraction")
    return file.slide(
        features if with_features else np.empty((len(features), 0), np.float32),
        Encoder(dim=features.shape[1]),
        np.column_stack([known["x"], known["y"]]) if "x" in known and "y" in known else None,
        tissue_fraction=None if tissue is None else tissue.astype(np.float32),
        notes=(NOTE,),
        **{key: _one(known, name, file) for key, name in (("side", "side_px"), ("mpp", "mpp"))},
    )


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


LAYOUT = Layout("table", _slide_files, _read)
