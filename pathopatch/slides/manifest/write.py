"""How is a manifest written? In parts for the jobs of a cluster, each of which names its slides by absolute paths."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from pathlib import Path

from pathopatch.core.files import write_bytes
from pathopatch.slides.manifest.rows import Manifest, SlideRow


def write_parts(manifest: Manifest, folder: Path, slides: int) -> list[Path]:
    """Write the rows to work on as manifests of so many slides each; return them, ``000001.csv`` and so on.

    Parameters
    ----------
    manifest : Manifest
        A checked manifest.
    folder : Path
        Where the parts go.
    slides : int
        In each part, but for the last one, which may have fewer.

    Raises
    ------
    DiskFullError
        No space was left.
    """
    rows = manifest.included
    written = []
    for number, first in enumerate(range(0, len(rows), slides), 1):
        path = folder / f"{number:06d}.csv"
        write_bytes(path, manifest_text(rows[first : first + slides]).encode())
        written.append(path)
    return written


def manifest_text(rows: Sequence[SlideRow]) -> str:
    """Return rows as `read_manifest` reads them, in the order of `rows`, columns that are empty left out."""
    records = [_cells(row) for row in rows]
    names = list(dict.fromkeys(name for record in records for name in record))
    stream = io.StringIO()
    writer = csv.DictWriter(stream, names, restval="", lineterminator="\n")
    writer.writeheader()
    writer.writerows(records)
    return stream.getvalue()


def _cells(row: SlideRow) -> dict[str, str]:
    source = row.source if isinstance(row.source, dict) else {"": row.source}
    cells = {
        "slide_id": row.slide_id,
        "patient_id": row.patient_id,
        **{f"path:{name}" if name else "path": path for name, path in source.items()},
        "split": row.split,
        "channels": ";".join(row.channels or ()),
        "mpp": "" if row.mpp is None else repr(row.mpp),
        "tumor_mask": "none" if row.whole_slide_non_tumor else str(row.tumor_mask or ""),
        "labelled_mask": str(row.labelled_mask or ""),
        "annotations": str(row.annotations or ""),
        "tissue_mask": str(row.tissue_mask or ""),
        "background": row.background or "",
        "exclude": "true" if row.exclude else "",
    }
    return {name: text for name, text in cells.items() if text}
