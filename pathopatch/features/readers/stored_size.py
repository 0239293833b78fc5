"""Refuse arrays whose headers claim far more than their files hold, before memory is taken."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

from pathopatch.core.errors import InputTooLargeError

# Features are packed to a fifth at best, regular positions to a hundredth: 64 MiB are those of four million patches.
_MOST_RATIO, _SPARE_BYTES = 100, 64 * 2**20
_LEAST_BYTES = 4  # of a value, unpacked


def require_stored(name: str, claimed_bytes: int, stored_bytes: int, path: Path) -> None:
    """Refuse an array of a file that claims over a hundred times what is stored of it: InputTooLargeError."""
    stored_bytes = min(stored_bytes, path.stat().st_size) if path.is_file() else stored_bytes
    if claimed_bytes > max(_SPARE_BYTES, _MOST_RATIO * stored_bytes):
        raise InputTooLargeError(
            f"{name} claims {claimed_bytes} bytes, and {stored_bytes} are stored",
            place=str(path),
            remedy="copy the file again, or extract the features of this slide again",
        )


def require_stored_dataset(dataset: Any) -> None:
    """Refuse a dataset of an HDF5 file as `require_stored`."""
    claimed_bytes = math.prod(dataset.shape) * dataset.dtype.itemsize
    require_stored(dataset.name, claimed_bytes, dataset.id.get_storage_size(), Path(dataset.file.filename))


def require_stored_table(path: Path) -> None:
    """Refuse a Parquet file as `require_stored`; OSError, ArrowException if it cannot be read."""
    from pyarrow import parquet

    with parquet.ParquetFile(path) as file:
        about = file.metadata
        groups = map(about.row_group, range(about.num_row_groups))
        values = sum(group.column(column).num_values for group in groups for column in range(group.num_columns))
        rows = about.num_rows
    require_stored("the table", max(rows, values) * _LEAST_BYTES, path.stat().st_size, path)
