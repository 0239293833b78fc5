"""Rows of a manifest, and manifests in parts for the jobs of a cluster."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from pathopatch.core.files import write_bytes

SPLITS = ("train", "val", "test")
"""The splits of a cohort, in the order in which tables show them."""


@dataclass(frozen=True, kw_only=True)
class SlideRow:
    """One slide of a manifest.

    Parameters
    ----------
    slide_id, patient_id : str
        Safe as file names.
    split : str
        One of `SPLITS`, or "" for a slide whose patient is still to be assigned.
    source : str or dict of str to str
        Absolute path, or one per channel name; fragments such as ``#page=2`` are kept.
    channels : tuple of str or None
        Names of the planes of a multi-plane file.
    mpp : float or None
        um per level-0 px, in place of what the file says.
    tumor_mask : Path or None
        Raster of tumour; None if there is none or the whole slide is non-tumour.
    whole_slide_non_tumor : bool
        The manifest says ``none`` for the tumour mask.
    labelled_mask, annotations : Path or None
        What was labelled at all; outlines by a pathologist.
    tissue_mask : Path or None
        Raster or outlines of the tissue; None: it is found.
    background : str or None
        None: to be guessed.
    exclude : bool
        Checked, and left out of the work.
    channel_order : tuple of str or None
        The channels of the cohort, not of the manifest: a slide that has the same ones in another order or case is
        read in this one.
    row : int
        Row of the table as a spreadsheet counts; the header is row 1.
    """

    slide_id: str
    patient_id: str
    source: str | dict[str, str]
    row: int
    split: str = ""
    channels: tuple[str, ...] | None = None
    mpp: float | None = None
    tumor_mask: Path | None = None
    whole_slide_non_tumor: bool = False
    labelled_mask: Path | None = None
    annotations: Path | None = None
    tissue_mask: Path | None = None
    background: str | None = None
    exclude: bool = False
    channel_order: tuple[str, ...] | None = None

    @property
    def has_tumor(self) -> bool:
        """Whether anything says where tumour is, or that there is none."""
        return self.tumor_mask is not None or self.annotations is not None or self.whole_slide_non_tumor

    @property
    def sources(self) -> tuple[str, ...]:
        """All paths with their fragments, in channel order."""
        return (self.source,) if isinstance(self.source, str) else tuple(self.source.values())


@dataclass(frozen=True)
class Manifest:
    """A checked table of slides.

    Parameters
    ----------
    rows : tuple of SlideRow
        All rows in the order of the file, excluded ones too.
    path : Path
        The CSV file.
    """

    rows: tuple[SlideRow, ...]
    path: Path

    def __iter__(self) -> Iterator[SlideRow]:
        return iter(self.rows)

    @property
    def included(self) -> tuple[SlideRow, ...]:
        """The rows to work on."""
        return tuple(row for row in self.rows if not row.exclude)


def write_parts(manifest: Manifest, folder: Path, slides: int) -> list[Path]:
    """Write the included rows as manifests of `slides` rows each, with absolute paths: one for each job of a cluster.

    Parameters
    ----------
    manifest : Manifest
        A checked manifest.
    folder : Path
        Where the parts go: ``000001.csv`` and so on.
    slides : int
        Rows of each part; the last one may have fewer.

    Returns
    -------
    list of Path
        The parts in the order of the rows.

    Raises
    ------
    DiskFullError
        No space was left.
    """
    rows = manifest.included
    paths = []
    for number, first in enumerate(range(0, len(rows), slides), 1):
        path = folder / f"{number:06d}.csv"
        write_bytes(path, _manifest_text(rows[first : first + slides]).encode())
        paths.append(path)
    return paths


def _manifest_text(rows: Sequence[SlideRow]) -> str:
    """Return rows as CSV, without the columns that are empty in all of them."""
    records = [_cells(row) for row in rows]
    names = list(dict.fromkeys(name for record in records for name in record))
    stream = io.StringIO()
    writer = csv.DictWriter(stream, names, restval="", lineterminator="\n")
    writer.writeheader()
    writer.writerows(records)
    return stream.getvalue()


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
        "exclude": "true" if row.exclude else "",
    }
    return {name: text for name, text in cells.items() if text}
