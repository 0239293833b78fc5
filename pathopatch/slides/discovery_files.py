"""List the files that may be slides, recognise those that together are one, and read what their names say."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from pathopatch.core.errors import InputCorruptError, InputUnsupportedError, PathopatchError, with_code
from pathopatch.core.input_files import LeftOut, walk_files
from pathopatch.slides.dicom import series_in, series_of
from pathopatch.slides.open import open_slide
from pathopatch.slides.slide_paths import SLIDE_SUFFIXES, is_file, is_folder, is_zarr, split_fragment, with_companions

_IGNORED = {
    "thumbs.db", "desktop.ini", "@eadir", "__macosx", "lost+found", "system volume information", "$recycle.bin",
    "dicomdir",
}  # fmt: skip
_OUTPUTS = {"predictions", "heatmaps", "patches", "features", "report", "runs", "tissue", "index"}
CHANNELS = (
    "CARS", "TPEF", "SHG", "THG", "SRS", "FLIM", "TPL", "DAPI", "Hoechst", "FITC", "TRITC", "Cy3", "Cy5", "Cy7", "GFP",
    "RFP", "YFP", "CFP", "mCherry",
)  # fmt: skip
"""Channels that are known by name, as manifests write them."""
_SEPARATOR = r"[\s_.-]+"
_MASK_WORDS = {
    "tumor_mask": {"tumor", "tumour", "cancer", "mask", "masks", "gt", "groundtruth", "annotation", "annotations"},
    "labelled_mask": {"labelled", "labeled"},
    "tissue_mask": {"tissue"},
}
_PICTURE_WORDS = {"label", "macro", "thumbnail", "thumb", "preview", "overview", "overlay", "info"}
_DOUBLE_SUFFIXES = (".ome", ".geojson", ".json", ".companion")
_PATIENT = re.compile(r"TCGA-[A-Z0-9]{2}-[A-Z0-9]{4}(?=-|$)|patient[\s_-]?\d+(?!\d)", re.IGNORECASE)
_PLACEHOLDERS = ("slide", "channel", "patient")


@dataclass(frozen=True, kw_only=True)
class FoundFile:
    """A file or folder that holds a slide, or one of its channels, and what its header states."""

    path: Path
    stem: str  # its name, or its folder's where a folder holds one DICOM slide
    channels: tuple[str, ...] = ()
    dtype: str = ""
    size: tuple[int, int] = (0, 0)  # level-0 px: width, height
    mpp: float | None = None
    error: PathopatchError | None = None  # a slide by its first bytes that cannot be opened
    stated_ids: tuple[str, str] = ("", "")  # of patient and slide, where a DICOM file is asked for them


def list_files(sources: Iterable[Path], left_out: list[LeftOut], *, skipped: Collection[Path] = ()) -> dict[Path, str]:
    """Return the files that are named or lie below folders that are named, sorted within each, with their stems.

    A slide's further files are not among them. Links are followed. Hidden files, `skipped` folders and work folders are
    not entered; `left_out` takes what else is left out, see `walk_files`. A folder that cannot be read is among the
    files: nobody knows which slides it holds.
    """
    stems: dict[Path, str] = {}
    unread: list[Path] = []
    for source in sources:
        if source.is_dir() and not is_zarr(source):
            closed = {path.resolve() for path in skipped} - {source.resolve()}
            for folder, names in _walk(source, closed, left_out, unread):
                stems |= {path: stem for path, stem in _in_folder(folder, names, left_out).items() if path not in stems}
        else:
            # Files of one DICOM series, as `*.dcm` names them, are one slide.
            series = _series_of(source)
            first = next(iter(series_in(source.parent).get(series[0], [])), source) if series else source
            stems.setdefault(first, stem_of(source))
    return stems | {folder: folder.name for folder in unread}


def _walk(
    root: Path, closed: set[Path], left_out: list[LeftOut], unread: list[Path]
) -> Iterator[tuple[Path, list[str]]]:
    """Yield each folder that is not closed, with the names in it to be looked at: files and OME-Zarr folders."""
    for folder, folders, files in walk_files(root, left_out.append, unread.append):
        if folder.resolve() in closed:
            folders.clear()
            continue
        # MIRAX and Olympus VSI keep tiles in a folder beside the file.
        skipped = {Path(name).stem for name in files if name.lower().endswith(".mrxs")}
        skipped |= {f"_{Path(name).stem}_" for name in files if name.lower().endswith(".vsi")}
        if is_folder(str(folder / "status")):
            outputs = {name for name in _OUTPUTS if is_folder(str(folder / name))}
            outputs |= {"slides"} if is_file(str(folder / "slides.parquet")) else set()
            if outputs and folder != root:
                left_out.append(LeftOut(folder, "a work folder of pathopatch"))
                folders.clear()
                continue
            skipped |= outputs
        shown = [name for name in folders if name.casefold() not in _IGNORED and name not in skipped]
        images = [name for name in shown if is_zarr(folder / name)]
        folders[:] = [name for name in shown if name not in images]
        yield folder, sorted([*(name for name in files if name.casefold() not in _IGNORED), *images])


def _in_folder(folder: Path, names: list[str], left_out: list[LeftOut]) -> dict[Path, str]:
    """Return the files of one folder with their stems; of files that are one slide the first."""
    stems: dict[Path, str] = {}
    companions = {part.name for name in names for part in with_companions(folder / name)[1:]}
    series: dict[str, list[tuple[int, Path]]] = defaultdict(list)
    for name in names:
        path = folder / name
        if name in companions:
            continue
        if (dicom := _series_of(path)) is not None:
            series[dicom[0]].append((-dicom[1], path))
        elif name.lower().endswith(".vsi"):
            left_out.append(LeftOut(path, "Olympus VSI is not read: write an OME-TIFF of it"))
        else:
            stems[path] = stem_of(path)
    left_out += [LeftOut(path, "a DICOM file of no whole slide") for _, path in series.pop("", [])]
    for files in series.values():
        _, first = min(files)  # of the finest level: it tells whether the slide is that of another folder
        # DICOM files are named by numbers; the folder has the slide's name where it holds one.
        stems[first] = folder.name if len(series) == 1 else stem_of(first)
    return stems


def _series_of(path: Path) -> tuple[str, int] | None:
    """Return `series_of`, and of a header that cannot be decoded None: the file fails alone when it is opened."""
    try:
        return series_of(path)
    except InputCorruptError:
        return None


def describe(path: Path, stem: str) -> FoundFile | LeftOut:
    """Open a file by its content and return what it states, or why it is no slide."""
    try:
        with open_slide(path) as slide:
            return FoundFile(
                path=path,
                stem=stem,
                channels=tuple(slide.channels),
                dtype=str(slide.dtype),
                size=slide.size,
                mpp=slide.mpp if slide.has_mpp else None,
            )
    except (PathopatchError, OSError, ValueError) as error:
        coded = with_code(error, place=str(path))
        # What cannot be read for want of a permission, or by a fault of its drive, may be a slide.
        is_unread = isinstance(error, OSError) and not isinstance(error, PathopatchError)
        if coded.code == InputUnsupportedError.code and not (
            is_unread and (path.is_dir() or path.name.lower().endswith(SLIDE_SUFFIXES))
        ):
            return LeftOut(path, coded.message)
        return FoundFile(path=path, stem=stem, error=coded)


def stem_of(path: Path | str) -> str:
    """Return a file's name without its ending, and without the first of two, as in ``a.ome.tif``."""
    name = Path(path).name
    stem = Path(name).stem
    inner = Path(stem).suffix.lower()
    return Path(stem).stem if inner in _DOUBLE_SUFFIXES else stem


def channel_of(stem: str) -> tuple[str, str] | None:
    """Return the known channel in a stem, and the stem without it; None if there is not exactly one."""
    matches = [(name, rest) for name in CHANNELS if (rest := _without_channel(stem, name)) is not None]
    return matches[0] if len(matches) == 1 else None


def _without_channel(stem: str, channel: str) -> str | None:
    """Return a stem without a channel's name, in any case, and its separators; None if it is not there alone."""
    pattern = rf"(?:^|{_SEPARATOR}){re.escape(channel)}(?=$|{_SEPARATOR})"
    rest, count = re.subn(pattern, "", stem, flags=re.IGNORECASE)
    return _trimmed(rest) if count == 1 else None


def set_name(files: Mapping[str, Path | str]) -> str:
    """Return the name of a slide with one file per channel: what is left of their stems without the channels.

    Where nothing is left it is the name of their folder, and where stems have nothing in common the first stem.
    """
    paths = [Path(split_fragment(str(path)).path) for path in files.values()]
    rests = {
        stem if (rest := _without_channel(stem, name)) is None else rest
        for name, stem in zip(files, map(stem_of, paths), strict=True)
    }
    folders = {path.absolute().parent.name for path in paths}
    if rests == {""} and len(folders) == 1:
        return folders.pop()
    return rests.pop() if len(rests) == 1 and rests != {""} else stem_of(paths[0])


def mask_role(stem: str) -> tuple[str, str] | None:
    """Return the manifest's column for a mask, by the words at the end of its stem, and the stem without them."""
    words, rest = _last_words(stem, set().union(*_MASK_WORDS.values()))
    for column in ("labelled_mask", "tissue_mask", "tumor_mask"):
        if words & _MASK_WORDS[column]:
            return column, rest
    return None


def picture_of(stem: str) -> str | None:
    """Return the stem of the slide that a thumbnail or a picture of the label is of, by its last word; else None."""
    words, rest = _last_words(stem, _PICTURE_WORDS)
    return rest if words else None


def _last_words(stem: str, known: set[str]) -> tuple[set[str], str]:
    """Return the known words at the end of a stem, and what comes before them."""
    parts = re.split(f"({_SEPARATOR})", stem)  # words at even places, separators between them
    words: set[str] = set()
    while parts and parts[-1].casefold() in known:
        words.add(parts.pop().casefold())
        parts = parts[:-1]
    return words, _trimmed("".join(parts))


def patient_in(stem: str) -> str | None:
    """Return the patient that a stem names in a known way: a TCGA barcode, or ``patient_017``."""
    match = _PATIENT.match(stem)
    return match[0] if match else None


def pattern_regex(pattern: str) -> re.Pattern[str]:
    """Return the expression of a pattern such as ``{slide}_{channel}.tif``, whatever the case; ``*`` is any text.

    A pattern with a slash is of the path below the folder, another one of the file's name. One without ``{slide}``,
    with an unknown word in braces, or with one twice is an InputUnsupportedError.
    """
    words = re.findall(r"\{([^{}]*)\}", pattern)
    if "slide" not in words or not set(words) <= set(_PLACEHOLDERS) or len(set(words)) < len(words):
        raise InputUnsupportedError(
            f"a pattern {pattern!r}",
            place="--pattern",
            remedy="write {slide} once, and {channel} and {patient} where names hold them: '{slide}_{channel}.tif'",
        )
    pieces = re.split(r"(\{[^{}]*\}|\*)", pattern)
    expressions = {"*": "[^/]*", **{f"{{{word}}}": f"(?P<{word}>[^/]+)" for word in words}}
    return re.compile("".join(expressions.get(piece, re.escape(piece)) for piece in pieces), re.IGNORECASE)


def _trimmed(text: str) -> str:
    return re.sub(rf"^{_SEPARATOR}|{_SEPARATOR}$", "", text)
