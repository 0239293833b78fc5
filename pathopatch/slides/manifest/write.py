"""Write rows as manifests."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from pathlib import Path

from pathopatch.core.files import write_bytes
from pathopatch.slides.manifest.rows import Manifest, SlideRow


def write_parts(manifest: Manifest, folder: Path, slides: int) -> list[Path]:
    """Write the included rows as manifests of `slides` rows each, one for each job of a cluster; return their paths.

    Parameters
    ----------
    manifest : Manifest
        A checked manifest; the parts name its files by absolute paths.
    folder : Path
        Where the parts go: ``000001.csv`` and so on, in the order of the rows.
    slides : int
        Rows of each part; the last one may have fewer.

    Raises
    ------
    DiskFullError
        No space was left.
    """
    paths = []
    for number, first in enumerate(range(0, len(manifest.included), slides), 1):
        paths.append(folder / f"{number:06d}.csv")
        write_rows(paths[-1], manifest.included[first : first + slides])
    return paths


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
        **{f"path:{name}" if name else "path": path for name, path in source.items()},
        "split": row.split,
        "channels": ";".join(row.channels or ()),
        "mpp": "" if row.mpp is None else repr(row.mpp),  # all digits, so that reading gives the same number
        "tumor_mask": "none" if row.whole_slide_non_tumor else str(row.tumor_mask or ""),
        "labelled_mask": str(row.labelled_mask or ""),
        "annotations": str(row.annotations or ""),
        "tissue_mask": str(row.tissue_mask or ""),
        "background": row.background or "",
        "slide_label": "" if row.slide_label is None else str(row.slide_label),
        "exclude": "true" if row.exclude else "",
    }
    return {name: text for name, text in cells.items() if text}
