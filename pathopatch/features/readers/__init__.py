"""Read the feature files of other tools: HDF5 files, and tables."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

from pathopatch.core.errors import InputMissingError, InputUnsupportedError
from pathopatch.core.input_files import log_left_out, require_regular, walk_files
from pathopatch.features.readers import hdf5, table
from pathopatch.features.readers.folder import FeatureFile, SlideFolder

LAYOUTS = {layout.name: layout for layout in (*hdf5.LAYOUTS, table.LAYOUT)}
"""By the names that `open_features` takes."""
_READERS = {
    ".h5": hdf5.slide_files,
    ".hdf5": hdf5.slide_files,
    ".npz": table.npz_files,
    ".parquet": table.parquet_files,
}
_SHOWN = 5  # candidates named in a message


def open_features(path: Path, *, layout: str = "auto") -> SlideFolder:
    """Return the feature files of a folder, whose layout is recognised by their content unless it is named.

    Parameters
    ----------
    path : Path
        A folder with features of one tool and one encoder, at any depth; or one file.
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
        raise InputUnsupportedError(
            f"no layout {layout!r}",
            place=str(path),
            remedy=f"use auto, {', '.join(LAYOUTS)}; tables of another tool's features: docs/how-to/other-features.md",
        )
    require_regular(path)
    if not path.exists():
        raise InputMissingError(f"no file or folder {path}", place=str(path), remedy="check the path")
    found = _find(path, layout)
    if not found:
        raise InputMissingError(
            f"no features of patches in {path.name}",
            place=str(path),
            remedy=f"name a folder with features as one of these tools writes them: {', '.join(LAYOUTS)}; a table is "
            "npz or Parquet with features as lists. docs/how-to/other-features.md writes it from any tool's files",
        )
    if len(found) > 1:
        examples = "; ".join(f"{name}: {len(files)} files, such as {files[0].path}" for name, files in found.items())
        raise InputUnsupportedError(
            f"features of {len(found)} layouts: {examples}",
            place=str(path),
            remedy=f"name the folder of one of them, or state the layout: {', '.join(found)}",
        )
    ((name, files),) = found.items()
    groups = sorted({file.group for file in files})
    if len(groups) > 1:
        shown = ", ".join(groups[:_SHOWN]) + (", …" if len(groups) > _SHOWN else "")
        raise InputUnsupportedError(
            f"{len(groups)} sets of features: {shown}", place=str(path), remedy="name one of them"
        )
    return SlideFolder(LAYOUTS[name], path, files)


def _find(place: Path, layout: str) -> dict[str, list[FeatureFile]]:
    """Return the files of features below a place, by layout."""
    found: dict[str, list[FeatureFile]] = defaultdict(list)
    for path in _paths(place):
        for name, files in _READERS[path.suffix.lower()](path).items():
            if layout in ("auto", name):
                found[name] += files
    return found


def _paths(place: Path) -> Iterator[Path]:
    """Yield the files of known formats at or below a place; nothing below a Zarr store or hidden folder."""
    if place.is_file():
        yield from [place] if place.suffix.lower() in _READERS else []
        return
    for folder, folders, names in walk_files(place, log_left_out):
        folders[:] = [name for name in folders if not name.endswith(".zarr")]
        yield from (folder / name for name in names if Path(name).suffix.lower() in _READERS)
