"""List the slides and other files below folders; recognise files that together are one slide."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from pathopatch.core.errors import InputUnsupportedError, PathopatchError, with_code
from pathopatch.core.input_files import LeftOut, open_regular, walk_files
from pathopatch.core.text import pluralize
from pathopatch.slides.discovery.names import stem_of
from pathopatch.slides.manifest.rows import is_file, is_folder
from pathopatch.slides.omezarr import is_zarr
from pathopatch.slides.open import open_slide

_IGNORED = {"thumbs.db", "desktop.ini", "@eadir", "__macosx", "lost+found"}
_LISTS_OF_FILES = (".vms", ".vmu")  # Hamamatsu's, which name the JPEG files and maps of one slide
_MOST_LIST_BYTES = 2**16
_DICOM_SIGNATURE_AT, _DICOM_SIGNATURE = 128, b"DICM"
_DICOM_SERIES = b"\x20\x00\x0e\x00UI"  # tag (0020,000E), explicit little endian
_DICOM_HEADER_BYTES = 2**16
_OUTPUTS = {"predictions", "heatmaps", "patches", "features", "report", "runs", "tissue", "index"}


def why_none(left_out: Sequence[LeftOut]) -> str:
    """Return why there is no slide: the most frequent reason for which files were left out."""
    if not left_out:
        return "there are no files"
    reason, count = Counter(item.reason for item in left_out).most_common(1)[0]
    return f"{pluralize(len(left_out), 'file')} left out, {count} of them since: {reason}"


@dataclass(frozen=True, kw_only=True)
class SlideFile:
    """A file or folder that holds a slide, or one of its channels, and what its header states."""

    path: Path
    stem: str  # its name, or its folder's where a folder holds one DICOM slide
    channels: tuple[str, ...] = ()
    dtype: str = ""
    size: tuple[int, int] = (0, 0)  # level-0 px: width, height
    mpp: float | None = None
    error: PathopatchError | None = None  # a slide by its first bytes that cannot be opened


@dataclass
class Listing:
    """The files below some folders: a slide's further files are not among them."""

    paths: dict[Path, str] = field(default_factory=dict)  # with their stems
    left_out: list[LeftOut] = field(default_factory=list)


def list_files(sources: Iterable[Path], *, skipped: Collection[Path] = ()) -> Listing:
    """Return the files that are named and those below the folders that are named, sorted within each.

    Links are followed. Hidden files, `skipped` folders and work folders are not entered; what else is left out is in
    the listing, see `walk_files`.
    """
    listing = Listing()
    for source in sources:
        if source.is_dir() and not is_zarr(source):
            closed = {path.resolve() for path in skipped} - {source.resolve()}
            for folder, names in _walk(source, closed, listing.left_out):
                _add_folder(listing, folder, names)
        else:
            listing.paths.setdefault(source, stem_of(source))
    return listing


def _walk(root: Path, closed: set[Path], left_out: list[LeftOut]) -> Iterator[tuple[Path, list[str]]]:
    """Yield each folder that is not closed, with the names in it to be looked at: files and OME-Zarr folders."""
    for folder, folders, files in walk_files(root, left_out.append):
        if folder.resolve() in closed:
            folders.clear()
            continue
        own = _folders_of_slides(files)
        if outputs := _outputs(folder):
            if folder != root:
                left_out.append(LeftOut(folder, "a work folder of pathopatch"))
                folders.clear()
                continue
            own |= outputs
        shown = [name for name in folders if not _is_ignored(name) and name not in own]
        images = [name for name in shown if is_zarr(folder / name)]
        folders[:] = [name for name in shown if name not in images]
        yield folder, sorted([*(name for name in files if not _is_ignored(name)), *images])


def _outputs(folder: Path) -> set[str]:
    """Return the folders of artefacts in a work folder; none if it is no work folder."""
    if not is_folder(str(folder / "status")):
        return set()
    outputs = {name for name in _OUTPUTS if is_folder(str(folder / name))}
    return outputs | ({"slides"} if is_file(str(folder / "slides.parquet")) else set())


def _is_ignored(name: str) -> bool:
    return name.casefold() in _IGNORED


def _folders_of_slides(files: Sequence[str]) -> set[str]:
    """Return the names of folders that belong to a file beside them: MIRAX keeps tiles there, Olympus VSI too."""
    mirax = {Path(name).stem for name in files if name.lower().endswith(".mrxs")}
    return mirax | {f"_{Path(name).stem}_" for name in files if name.lower().endswith(".vsi")}


def _add_folder(listing: Listing, folder: Path, names: list[str]) -> None:
    """Add the files of one folder; of files that are one slide the first."""
    companions = set().union(*(_named_in(folder / name) for name in names if name.lower().endswith(_LISTS_OF_FILES)))
    series: dict[bytes, list[Path]] = defaultdict(list)
    for name in names:
        path = folder / name
        if name in companions:
            continue
        if (key := _dicom_series(path)) is not None:
            series[key].append(path)
        elif name.lower().endswith(".vsi"):
            listing.left_out.append(LeftOut(path, "Olympus VSI is not read: write an OME-TIFF of it"))
        else:
            listing.paths.setdefault(path, stem_of(path))
    for files in series.values():
        # DICOM files are named by numbers; the folder has the slide's name where it holds one.
        listing.paths.setdefault(files[0], folder.name if len(series) == 1 else stem_of(files[0]))


def _named_in(path: Path) -> set[str]:
    """Return the names of files that a list of files has behind its equals signs."""
    try:
        with open_regular(path) as stream:
            text = stream.read(_MOST_LIST_BYTES).decode("latin-1")
    except OSError:
        return set()
    return {line.split("=", 1)[1].strip() for line in text.splitlines() if "=" in line}


def _dicom_series(path: Path) -> bytes | None:
    """Return the id of the series that a DICOM file is of, empty if it does not say; None if it is no DICOM file."""
    try:
        with open_regular(path) as stream:
            content = stream.read(_DICOM_SIGNATURE_AT + len(_DICOM_SIGNATURE))
            if content[_DICOM_SIGNATURE_AT:] != _DICOM_SIGNATURE:
                return None
            content += stream.read(_DICOM_HEADER_BYTES)
    except OSError:
        return None
    _, tag, value = content.partition(_DICOM_SERIES)
    return value[2 : 2 + int.from_bytes(value[:2], "little")] if tag else b""


def describe(path: Path, stem: str) -> SlideFile | LeftOut:
    """Open a file by its content and return what it states, or why it is no slide."""
    try:
        with open_slide(path) as slide:
            return SlideFile(
                path=path,
                stem=stem,
                channels=tuple(slide.channels),
                dtype=str(slide.dtype),
                size=slide.size,
                mpp=slide.mpp if slide.has_mpp else None,
            )
    except (PathopatchError, OSError, ValueError) as error:
        known = with_code(error, place=str(path))
        if known.code == InputUnsupportedError.code:
            return LeftOut(path, known.message)
        return SlideFile(path=path, stem=stem, error=known)
