"""Patient data that synthetic slides hold, and readers that look for it in outputs."""

from __future__ import annotations

import gzip
from pathlib import Path

import pyarrow.parquet as pq

MARKER = "PATIENT-MARKER"  # in the description of the made Aperio slide, and the barcode of the made Leica slide


def readable(path: Path) -> bytes:
    """A file's content, out of its compression."""
    if path.suffix == ".gz":
        return gzip.decompress(path.read_bytes())
    if path.suffix == ".parquet":
        table = pq.read_table(path)
        return repr((table.to_pylist(), table.schema.metadata)).encode()
    return path.read_bytes()
