"""Read the feature files of other tools: one module per layout."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path

from pathopatch.core.errors import InputMissingError, InputUnsupportedError
from pathopatch.core.input_files import log_left_out, require_regular, walk_files
from pathopatch.features.readers import (
    atlaspatch,
    clam,
    lazyslide,
    mussel,
    own,
    slide2vec,
    slideflow,
    stamp,
    table,
    trident,
)
from pathopatch.features.readers.folder import Candidate, Layout, SlideFile, SlideFolder
from pathopatch.features.readers.h5 import h5_contents

# The first that recognises a file has it: CLAM's files have the fewest marks.
_MODULES = (own, trident, stamp, mussel, atlaspatch, slide2vec, slideflow, lazyslide, clam, table)
LAYOUTS = {module.LAYOUT.name: module.LAYOUT for module in _MODULES}
"""By the names that `open_features` takes."""
_H5 = (".h5", ".hdf5")
_FORMATS = (*_H5, ".npz", ".parquet", ".csv", ".pt", ".pth")
_SHOWN = 5  # candidates named in a message


def open_features(path: Path, *, layout: str = "auto") -> SlideFolder:
    """Return the feature files of a folder, whose layout is recognised by their content unless it is named.

    Parameters
    ----------
    path : Path
        A folder with features of one tool and one encoder, at any depth; or one file. Where files hold several
        encoders, ``FOLDER/ENCODER``.
    layout : str
        ``auto``, or a name of `LAYOUTS`.

    Raises
    ------
    InputMissingError
        There is no such place, or no features in it.
    InputUnsupportedError
        Several tools or several encoders: the message names them. Or the layout is unknown.
    InputCorruptError
        A file is cut off or damaged.
    DuplicateIdError
        Two files are of one slide.
    """
    path = Path(path).absolute()
    if layout != "auto" and layout not in LAYOUTS:
        raise InputUnsupportedError(f"no layout {layout!r}", place=str(path), remedy=f"use auto, {', '.join(LAYOUTS)}")
    require_regular(path)
    place = path if path.exists() else path.parent
    if not place.exists():
        raise InputMissingError(f"no file or folder {path}", place=str(path), remedy="check the path")
    found = _find(place, list(LAYOUTS.values()) if layout == "auto" else [LAYOUTS[layout]])
    if place != path:
        found = {name: [file for file in files if _is_named(file, path.name)] for name, files in found.items()}
    found = {name: files for name, files in found.items() if files}
    if not found:
        raise InputMissingError(
            f"no features of patches in {path.name}",
            place=str(path),
            remedy=f"name a folder with features as one of these tools writes them: {', '.join(LAYOUTS)}",
        )
    if len(found) > 1:
        examples = "; ".join(f"{name}: {len(files)} files, such as {files[0].path}" for name, files in found.items())
        raise InputUnsupportedError(
            f"features of {len(found)} layouts: {examples}",
            place=str(path),
            remedy=f"name the folder of one of them, or state the layout: {', '.join(found)}",
        )
    ((name, files),) = found.items()
    return SlideFolder(LAYOUTS[name], path, _one_group(files, path))


def _is_named(file: SlideFile, name: str) -> bool:
    """Return whether features of a file that holds several are those of this name or encoder."""
    return bool(file.key) and name in (file.key, file.encoder_name)


def _find(place: Path, layouts: Sequence[Layout]) -> dict[str, list[SlideFile]]:
    """Return the files of features below a place, by layout."""
    found: dict[str, list[SlideFile]] = defaultdict(list)
    root = place if place.is_dir() else place.parent
    for path in _paths(place):
        contents = h5_contents(path) if path.suffix.lower() in _H5 else None
        candidate = Candidate(path=path, root=root, h5=contents)
        for layout in layouts:
            if files := layout.slide_files(candidate):
                found[layout.name] += files
                break
    return found


def _paths(place: Path) -> Iterator[Path]:
    """Yield files of known formats and Zarr stores below a place; nothing below a Zarr store or hidden folder."""
    if place.is_file() or place.suffix == ".zarr":
        yield place
        return
    for folder, folders, names in walk_files(place, log_left_out):
        yield from (folder / name for name in folders if name.endswith(".zarr"))
        folders[:] = [name for name in folders if not name.endswith(".zarr")]
        yield from (folder / name for name in names if Path(name).suffix.lower() in _FORMATS)


def _one_group(files: Sequence[SlideFile], path: Path) -> Sequence[SlideFile]:
    """Return the files if all are of one set of features."""
    groups = sorted({file.group for file in files})
    if len(groups) == 1:
        return files
    shown = ", ".join(map(str, groups[:_SHOWN])) + (", …" if len(groups) > _SHOWN else "")
    raise InputUnsupportedError(f"{len(groups)} sets of features: {shown}", place=str(path), remedy="name one of them")
