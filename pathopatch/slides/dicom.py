"""Recognise the files of DICOM whole slides, which of them are one slide, and what they state of it."""

from __future__ import annotations

import re
from collections import defaultdict
from contextlib import suppress
from pathlib import Path

from pathopatch.core.errors import InputUnsupportedError
from pathopatch.core.input_files import open_regular
from pathopatch.slides.slide_paths import is_file, is_folder, is_zarr

_SIGNATURE_AT, _SIGNATURE = 128, b"DICM"
_HEADER_BYTES = 2**16
_FIRST_FRAME_BYTES = 2**22  # the first frame comes after the header and, of a sparse level, the place of each frame
_IS_SLIDE = b"\x02\0\x02\0UI\x1e\x001.2.840.10008.5.1.4.1.1.77.1.6"  # VL Whole Slide Microscopy Image Storage
# The study's id stands before the series' in a slide's own data alone, not where other series are named.
_SERIES = re.compile(rb"\x20\0\x0d\0.{4}[\d.]*[\0 ]?\x20\0\x0e\0.{4}([\d.]+)", re.DOTALL)
_IS_VOLUME = re.compile(rb"\x08\0\x08\0.{4}[A-Z]+\\[A-Z]+\\VOLUME", re.DOTALL)
_IS_RGB = re.compile(rb"\x28\0\x04\0.{4}RGB", re.DOTALL)
_SIZE = re.compile(rb"\x48\0\x06\0.{4}(.{4})\x48\0\x07\0.{4}(.{4})", re.DOTALL)
_PIXELS, _JPEG = b"\xe0\x7f\x10\0OB", b"\xff\xd8\xff"


def series_of(path: Path) -> tuple[str, int] | None:
    """Return a file's SeriesInstanceUID, "" if it is of no slide, and its level's width; None: no DICOM.

    The width, px, is 0 of a label, an overview and all else that is no level.
    """
    content = _beginning(path, _HEADER_BYTES)
    if content is None:
        return None
    series = _SERIES.search(content) if _IS_SLIDE in content else None
    size = _SIZE.search(content) if _IS_VOLUME.search(content) else None
    return ("" if series is None else series[1].decode(), 0 if size is None else int.from_bytes(size[1], "little"))


def _beginning(path: Path, size: int) -> bytes | None:
    """Return the first bytes of a DICOM file after its signature; None if it is none, or cannot be read."""
    try:
        with open_regular(path) as stream:
            is_dicom = stream.read(_SIGNATURE_AT + len(_SIGNATURE))[_SIGNATURE_AT:] == _SIGNATURE
            return stream.read(size) if is_dicom else None
    except (OSError, InputUnsupportedError):
        return None


def series_in(folder: Path) -> dict[str, list[Path]]:
    """Return the files with pixels of each slide in a folder, the finest level first, by series."""
    series: dict[str, list[tuple[int, Path]]] = defaultdict(list)
    for path in folder.iterdir():
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
    """
    own = ("", 0) if path.is_dir() else series_of(path)
    if own is None:
        return []
    series = series_in(path if path.is_dir() else path.parent)
    if path.is_dir() and len(series) == 1:
        return next(iter(series.values()))
    if own[0] in series:
        return series[own[0]]
    what, remedy = f"{path.name} is a folder without OME-Zarr and DICOM images", "name a file in it"
    if not path.is_dir():
        what, remedy = "no image of the slide beside this file", "put all files of its series into one folder"
    elif series:
        names = " and ".join(f"{name} ({files[0].name})" for name, files in series.items())
        what = f"{len(series)} DICOM series, so {len(series)} slides, in one folder: {names}"
        remedy = "name a file of one of them, or let `pathopatch manifest` list them"
    raise InputUnsupportedError(what, place=str(path), remedy=remedy)


def level_of_false_colours(path: Path) -> tuple[int, int] | None:
    """Return the size (width, height) of a file's level if its frames are YCbCr although it states RGB, else None.

    Bio-Formats and wsidicomizer write such levels of Aperio slides, and OpenSlide shows them pink without an error.
    """
    content = _beginning(path, _FIRST_FRAME_BYTES) or b""
    frame = content.partition(_PIXELS)[2].partition(_JPEG)[2]
    size = _SIZE.search(content)
    if size is None or not _IS_RGB.search(content) or frame[3:7] != b"JFIF":  # a JPEG with this mark is YCbCr
        return None
    return int.from_bytes(size[1], "little"), int.from_bytes(size[2], "little")


def stated_ids(path: Path) -> tuple[str, str]:
    """Return the ids of patient and slide (PatientID, ContainerIdentifier) that a DICOM file states; "" where none."""
    if series_of(path) is None:
        return "", ""
    import openslide  # here: manifests are read without it

    with openslide.OpenSlide(path) as handle:
        patient, slide = (handle.properties.get(f"dicom.{name}", "") for name in ("PatientID", "ContainerIdentifier"))
    return patient.strip(), slide.strip()
