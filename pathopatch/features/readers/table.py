"""Features in plain tables: npz or Parquet, of one slide or of many.

Arrays of an npz, or columns of a Parquet file: ``features`` (N, D), in Parquet a list per row; ``slide_id``, without
which the file is one slide; and where known ``x``, ``y`` (level-0 top-left), ``side_px``, ``mpp`` and
``tissue_fraction``. In an npz ``coords`` (N, 2) may replace x and y.
"""

from __future__ import annotations

import zipfile
import zlib
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pathopatch.core.errors import CheckpointUnsafeError, InputCorruptError, InputUnsupportedError
from pathopatch.core.text import parse_number
from pathopatch.features.readers.folder import FeatureFile, Layout, as_features, slide_id_from_stem
from pathopatch.features.slide_features import Encoder, SlideFeatures

_NUMBERS = ("x", "y", "side_px", "mpp", "tissue_fraction")
_KNOWN = ("slide_id", *_NUMBERS)
_NPZ_ERRORS = (
    OSError, LookupError, EOFError, ValueError, AttributeError, TypeError, zipfile.BadZipFile, zlib.error
)  # fmt: skip
"""What is raised for an npz file that is cut or damaged, or holds a single array in place of several."""
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
        arrays, count = _read_npz(self.path, (*_KNOWN, "coords")), len(self.features)
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
            return as_features(_read_npz(self.path, ("features",))["features"], str(self.path))
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
        return as_features(values.reshape(len(column), int(lengths.max(initial=0))), str(self.path))

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


def npz_files(path: Path) -> dict[str, list[FeatureFile]]:
    """Return the slides of an npz file, if it has features."""
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
    except (OSError, zipfile.BadZipFile) as error:
        raise _damaged(path, f"not a readable npz: {error}") from error
    return _slide_files(path, has_features="features.npy" in names)


def parquet_files(path: Path) -> dict[str, list[FeatureFile]]:
    """Return the slides of a Parquet file, if it has features."""
    from pyarrow import ArrowException, parquet

    try:
        names = parquet.read_schema(path).names
    except (OSError, ArrowException) as error:
        raise _damaged(path, f"not a whole Parquet file: {error}") from error
    return _slide_files(path, has_features="features" in names)


def _slide_files(path: Path, *, has_features: bool) -> dict[str, list[FeatureFile]]:
    if not has_features:
        return {}
    table = _Table(path)
    files = [
        FeatureFile(slide_id=slide_id_from_stem(raw), path=path, group=str(path.parent), table=(table, rows))
        for raw, rows in table.rows.items()
    ]
    return {LAYOUT.name: files}


def _read_npz(path: Path, names: tuple[str, ...]) -> dict[str, NDArray[Any]]:
    """Return those arrays of an npz file that it holds; CheckpointUnsafeError if one is pickled."""
    try:
        # Opened here: numpy does not close a file that turns out to be damaged.
        with path.open("rb") as stream, np.load(stream, allow_pickle=False) as arrays:
            return {name: arrays[name] for name in names if name in arrays.files}
    except _NPZ_ERRORS as error:
        if isinstance(error, ValueError) and "pickle" in str(error):
            raise CheckpointUnsafeError(
                "an array of the file is pickled, and reading it could run code; nothing was run",
                place=str(path),
                remedy="store the features as float32 or float16, and ids as text",
            ) from error
        raise _damaged(path, f"not a readable npz: {error}") from error


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


LAYOUT = Layout("table", _read)
