"""Recognise the files of DICOM whole slides, which of them are one slide, and what they state of it."""

from __future__ import annotations

import logging
import tempfile
import warnings
from collections import defaultdict
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from pathopatch.core.errors import InputCorruptError, InputUnsupportedError
from pathopatch.core.files import file_state
from pathopatch.core.input_files import open_regular, special_kind
from pathopatch.slides.integrity import corrupt
from pathopatch.slides.slide_paths import is_file, is_folder, is_zarr

_SIGNATURE_AT, _SIGNATURE = 128, b"DICM"
_FIRST_FRAME_BYTES = 2**22  # the first frame comes after the place of each frame
_SLIDE = "1.2.840.10008.5.1.4.1.1.77.1.6"  # VL Whole Slide Microscopy Image Storage
_FRAMES = "PerFrameFunctionalGroupsSequence"
_ASKED = [
    "ImageType", "SeriesInstanceUID", "PatientID", "ContainerIdentifier", "PhotometricInterpretation",
    "TotalPixelMatrixColumns", "TotalPixelMatrixRows", "DimensionOrganizationType", "NumberOfFrames", _FRAMES,
]  # fmt: skip
# What it logs of a malformed file would go to the screen.
logging.getLogger("pydicom").addHandler(logging.NullHandler())
_JPEG = b"\xff\xd8\xff"


@dataclass(frozen=True, kw_only=True)
class _Header:
    """What a DICOM file states."""

    series: str  # SeriesInstanceUID; "" of a file of no slide
    size: tuple[int, int]  # px of a level: width, height; 0 of a label, an overview and all else that is no level
    is_rgb: bool
    lacks_positions: bool  # nobody knows where its frames lie
    ids: tuple[str, str]  # PatientID, ContainerIdentifier; "" where none
    pixels_at: int  # where its pixels begin, bytes


def _header(path: Path) -> _Header | None:
    """Return what a DICOM file states; None: it is none, or may not be read.

    InputCorruptError if its header cannot be decoded.
    """
    try:
        return _read_header(path, file_state(path)) if path.is_file() else None
    except (OSError, InputUnsupportedError):
        return None


@lru_cache(maxsize=4096)  # for each file of a folder the headers of all are asked for
def _read_header(path: Path, _: tuple[int | str, ...]) -> _Header | None:
    with open_regular(path) as stream:
        if stream.read(_SIGNATURE_AT + len(_SIGNATURE))[_SIGNATURE_AT:] != _SIGNATURE:
            return None
        import pydicom  # here: it loads slowly, and few slides are DICOM

        stream.seek(0)
        try:
            # Values that break the standard can be read, whatever else this process asked of pydicom.
            with warnings.catch_warnings(action="ignore"), pydicom.config.disable_value_validation():
                stated = pydicom.dcmread(stream, specific_tags=_ASKED, stop_before_pixels=True)
                return _header_of(stated, pixels_at=stream.tell())
        except MemoryError:
            raise
        except Exception as error:  # pydicom has many for a malformed file
            raise corrupt(path, f"its DICOM header cannot be read: {error}") from error


def _header_of(stated: Any, *, pixels_at: int) -> _Header:
    """Return what a pydicom Dataset states."""
    is_level = "VOLUME" in list(stated.get("ImageType") or ())[2:3]
    sides = (stated.get(f"TotalPixelMatrix{side}") or 0 for side in ("Columns", "Rows"))
    is_slide = stated.file_meta.get("MediaStorageSOPClassUID") == _SLIDE
    is_sparse = is_level and stated.get("DimensionOrganizationType") == "TILED_SPARSE"
    return _Header(
        series=str(stated.get("SeriesInstanceUID") or "") if is_slide else "",
        size=(int(next(sides)), int(next(sides))) if is_level else (0, 0),
        is_rgb=stated.get("PhotometricInterpretation") == "RGB",
        # OpenSlide crashes where there is no list of frames, and shows no frame that has no place.
        lacks_positions=is_sparse
        and sum("PlanePositionSlideSequence" in frame for frame in stated.get(_FRAMES) or ())
        < max(1, int(stated.get("NumberOfFrames") or 1)),
        ids=(str(stated.get("PatientID") or "").strip(), str(stated.get("ContainerIdentifier") or "").strip()),
        pixels_at=pixels_at,
    )


def series_of(path: Path) -> tuple[str, int] | None:
    """Return a file's SeriesInstanceUID, "" if it is of no slide, and its level's width; None: no DICOM.

    The width, px, is 0 of a label, an overview and all else that is no level. InputCorruptError if its header cannot be
    decoded.
    """
    header = _header(path)
    return None if header is None else (header.series, header.size[0])


def series_in(folder: Path) -> dict[str, list[Path]]:
    """Return the files with pixels of each slide in a folder, the finest level first, by series."""
    series: dict[str, list[tuple[int, Path]]] = defaultdict(list)
    for path in folder.iterdir():
        with suppress(InputCorruptError):  # which is said of the file itself
            name, width = series_of(path) or ("", 0)
            if name and width:
                series[name].append((-width, path))
    return {name: [path for _, path in sorted(files)] for name, files in sorted(series.items())}


def is_slide(path: str) -> bool:
    """Return whether a file, an OME-Zarr folder, or a folder with files of a DICOM slide is there."""
    # Folders in a folder are not searched: a wrong path may name a whole disk.
    with suppress(PermissionError):
        return is_file(path) or is_folder(path) and (is_zarr(Path(path)) or bool(series_in(Path(path))))
    return False


def slide_files(path: Path) -> list[Path]:
    """Return the files with pixels of the slide that a DICOM file, or a folder, is of; none if the file is no DICOM.

    InputUnsupportedError if a folder holds none or several, or a file's folder no pixels of its series.
    InputCorruptError if a header cannot be decoded, or does not say where its frames lie.
    """
    own = ("", 0) if path.is_dir() else series_of(path)
    if own is None:
        return []
    series = series_in(path if path.is_dir() else path.parent)
    if files := next(iter(series.values())) if path.is_dir() and len(series) == 1 else series.get(own[0]):
        for file in files:
            if (header := _header(file)) is not None and header.lacks_positions:
                raise corrupt(file, "it is TILED_SPARSE and does not say where its frames lie")
        return files
    what, remedy = f"{path.name} is a folder without OME-Zarr and DICOM images", "name a file in it"
    if not path.is_dir():
        what, remedy = "no image of the slide beside this file", "put all files of its series into one folder"
    elif series:
        names = " and ".join(f"{name} ({files[0].name})" for name, files in series.items())
        what = f"{len(series)} DICOM series, so {len(series)} slides, in one folder: {names}"
        remedy = "name a file of one of them, or let `pathopatch manifest` list them"
    raise InputUnsupportedError(what, place=str(path), remedy=remedy)


def linked_apart(files: Sequence[Path]) -> Path:
    """Return the first of a slide's files, or a link to it in a new folder of links to them all.

    OpenSlide opens every file of a folder: that may be a pipe, for which it waits, or of another slide, and malformed.
    """
    own = series_of(files[0])
    if all(_is_harmless(path, own) for path in files[0].parent.iterdir()):
        return files[0]
    folder = Path(tempfile.mkdtemp(prefix="pathopatch-dicom-"))
    for path in files:
        (folder / path.name).symlink_to(path.absolute())
    return folder / files[0].name


def _is_harmless(path: Path, own: tuple[str, int] | None) -> bool:
    """Return whether OpenSlide may open a file beside a slide's: one that is no DICOM, or of the same series."""
    with suppress(InputCorruptError):
        other = series_of(path)
        return not special_kind(path) and (other is None or own is None or other[0] == own[0])
    return False


def level_of_false_colours(path: Path) -> tuple[int, int] | None:
    """Return the size (width, height) of a file's level if its frames are YCbCr although it states RGB, else None.

    Bio-Formats and wsidicomizer write such levels of Aperio slides, and OpenSlide shows them pink without an error.
    """
    if (header := _header(path)) is None or not header.is_rgb:
        return None
    with open_regular(path) as stream:
        stream.seek(header.pixels_at)
        frame = stream.read(_FIRST_FRAME_BYTES).partition(_JPEG)[2]
    return header.size if frame[3:7] == b"JFIF" else None  # a JPEG with this mark is YCbCr


def stated_ids(path: Path) -> tuple[str, str]:
    """Return the ids of patient and slide (PatientID, ContainerIdentifier) that a DICOM file states; "" where none."""
    header = _header(path)
    return ("", "") if header is None else header.ids
