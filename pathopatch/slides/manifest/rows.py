"""What does a manifest say of a slide? Its row, checked; and all rows of a file."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

SPLITS = ("", "train", "val", "test")
"""Allowed values of the column split; empty means: to be assigned, by patient."""


@dataclass(frozen=True, kw_only=True)
class SlideRow:
    """One slide of a manifest.

    Parameters
    ----------
    slide_id, patient_id : str
        Safe as file names.
    split : str
        One of `SPLITS`.
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
