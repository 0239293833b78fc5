"""Write a manifest of the slides below a folder: the command `manifest`."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from pathopatch.core.csv_table import escape_formulas
from pathopatch.core.errors import InputMissingError, StaleArtefactError
from pathopatch.core.input_files import LeftOut
from pathopatch.core.task import Progress
from pathopatch.slides.discovery import FoundSlide, discover, why_none
from pathopatch.slides.manifest import SlideRow, read_manifest, write_rows
from pathopatch.stages.batch.slide_table import label_source

_MASKS = ("tumor_mask", "labelled_mask", "annotations", "tissue_mask")


@dataclass(frozen=True, kw_only=True)
class WrittenManifest:
    """What was written, and what a person should know of it."""

    slides: tuple[FoundSlide, ...]
    left_out: tuple[LeftOut, ...]
    patients: str  # where the patient ids come from; "": each slide is a patient of its own

    def table(self) -> list[dict[str, str]]:
        """Return a line per slide for a person: id, patient, channels, size, um/px, and its masks and outlines."""
        return [
            {
                "slide_id": found.row.slide_id,
                "patient_id": found.row.patient_id,
                "channels": ",".join(found.channels),
                "type": found.files[0].dtype,
                "px": "{} x {}".format(*found.files[0].size),
                "um/px": "-" if found.mpp is None else f"{found.mpp:.4g}",
                "labels": ", ".join(path.name for path in _masks(found.row).values()) or "-",
            }
            for found in self.slides
        ]


def make_manifest(
    folder: Path,
    out: Path,
    *,
    pattern: str | None = None,
    from_dicom: bool = False,
    force: bool = False,
    progress: Progress | None = None,
) -> WrittenManifest:
    """Find every slide below a folder by its content, and write a manifest of them; paths below it are relative to it.

    Slides that cannot be opened, sets of channels that differ from most others, and masks that do not fit are left out.
    `pattern` says how files are named, such as ``{slide}_{channel}.tif``; see `discover` for it and `from_dicom`.
    TableError if the table needs a person: patients whose ids differ only in their spelling.
    """
    if not folder.is_dir():
        raise InputMissingError(f"no folder {folder}", place=str(folder), remedy="check the path")
    if out.exists() and not force:
        raise StaleArtefactError(f"{out.name} is there already", place=str(out), remedy="give --force to replace it")
    found = discover([folder], pattern=pattern, from_dicom=from_dicom, progress=progress)
    left_out = [item for item in found.left_out if item.path.absolute() != out.absolute()]  # an earlier one
    slides = _with_common_channels(_writable(found.slides, left_out), left_out)
    slides = [replace(slide, row=_with_fitting_masks(slide, left_out)) for slide in slides]
    if not slides:
        raise InputMissingError(
            f"no slide below {folder}: {why_none(left_out)}",
            place=str(folder),
            remedy="name the folder that holds the slides",
        )
    write_rows(out, [_relative(slide.row, out.absolute().parent) for slide in slides])
    read_manifest(out)
    return WrittenManifest(slides=tuple(slides), left_out=tuple(left_out), patients=found.patients)


def _writable(slides: Sequence[FoundSlide], left_out: list[LeftOut]) -> list[FoundSlide]:
    """Return the slides that open and whose paths a table can hold; note the others."""
    kept = []
    for slide in slides:
        broken = next((file for file in slide.files if file.error is not None), None)
        if broken is not None and broken.error is not None:
            left_out.append(LeftOut(broken.path, broken.error.message))
        elif any(map(_is_unwritable, slide.row.sources)):
            reason = "its name is not UTF-8, ends with a blank, or holds a line end or ${: rename it"
            left_out.append(LeftOut(slide.files[0].path, reason))
        else:
            kept.append(slide)
    return kept


def _is_unwritable(path: str) -> bool:
    """Return whether a manifest would be read with another path than this."""
    is_text = all(character >= " " and not "\ud800" <= character <= "\udfff" for character in path)
    return not is_text or path != path.strip() or "${" in path


def _with_common_channels(slides: Sequence[FoundSlide], left_out: list[LeftOut]) -> list[FoundSlide]:
    """Return the slides in one file, and those with the files of most: a manifest has one set of path:NAME columns."""
    sets = Counter(frozenset(slide.row.source) for slide in slides if isinstance(slide.row.source, dict))
    common = max(sets, key=lambda names: (sets[names], len(names)), default=frozenset())
    kept = []
    for slide in slides:
        names = slide.row.source
        if isinstance(names, str) or frozenset(names) == common:
            kept.append(slide)
            continue
        missing, other = sorted(common - set(names)), sorted(set(names) - common)
        lacks = f"no file for {', '.join(missing)} beside it" if missing else ""
        more = f"most slides have no {', '.join(other)}" if other else ""
        left_out.append(LeftOut(slide.files[0].path, "; ".join(filter(None, (lacks, more)))))
    return kept


def _masks(row: SlideRow) -> dict[str, Path]:
    """Return a row's masks and outlines by column."""
    return {name: path for name in _MASKS if (path := getattr(row, name)) is not None}


def _with_fitting_masks(slide: FoundSlide, left_out: list[LeftOut]) -> SlideRow:
    """Return a row without the masks and outlines that cannot be read or are not in proportion; note these."""
    from pathopatch.patches.labels import label_file_errors

    row = slide.row
    if not _masks(row):
        return row
    source = label_source(row)
    errors = label_file_errors(source, tissue_mask=row.tissue_mask, slide_size=slide.files[0].size, is_quick=True)
    left_out += [LeftOut(_masks(row)[name], error.message) for name, error in errors.items()]
    without: dict[str, Any] = dict.fromkeys(errors)
    return replace(row, **without)


def _relative(row: SlideRow, folder: Path) -> SlideRow:
    """Return a row whose paths below the manifest's folder are relative to it."""

    def short(path: Path | str) -> str:
        text = str(Path(path).relative_to(folder)) if Path(path).is_relative_to(folder) else str(path)
        # Blanks at the beginning would be lost, and a spreadsheet would run a formula.
        return text if text == escape_formulas(text.strip()) else str(path)

    source = row.source
    masks: dict[str, Any] = {name: Path(short(path)) for name, path in _masks(row).items()}
    named = short(source) if isinstance(source, str) else {name: short(path) for name, path in source.items()}
    return replace(row, source=named, **masks)
