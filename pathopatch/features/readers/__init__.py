"""Read the feature files of other tools: one module per layout."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

from pathopatch.core.errors import InputMissingError, InputUnsupportedError
from pathopatch.core.input_files import log_left_out, require_regular, walk_files
from pathopatch.features.readers import table, tools
from pathopatch.features.readers.folder import FORMATS, Candidate, FeatureFile, SlideFolder
from pathopatch.features.readers.h5 import h5_contents

# The first that recognises a file has it: CLAM's files have the fewest marks.
LAYOUTS = {layout.name: layout for layout in (*tools.LAYOUTS, table.LAYOUT)}
"""By the names that `open_features` takes."""
OTHER_TOOLS = ("lazyslide", "slideflow", "atlaspatch", "mussel")
"""Tools whose files are recognised and refused: read in one of `LAYOUTS`, their patches would be misplaced."""
_H5 = (".h5", ".hdf5")
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
        Several tools or several encoders: the message names them. Or the layout is unknown, or is no longer read.
    InputCorruptError
        A file is cut off or damaged.
    DuplicateIdError
        Two files are of one slide.
    """
    path = Path(path).absolute()
    if layout in OTHER_TOOLS:
        raise _not_read(layout, path)
    if layout != "auto" and layout not in LAYOUTS:
        raise InputUnsupportedError(f"no layout {layout!r}", place=str(path), remedy=f"use auto, {', '.join(LAYOUTS)}")
    require_regular(path)
    if not path.exists():
        raise InputMissingError(f"no file or folder {path}", place=str(path), remedy="check the path")
    found = _find(path, layout)
    if not found:
        raise InputMissingError(
            f"no features of patches in {path.name}",
            place=str(path),
            remedy=f"name a folder with features as one of these tools writes them: {', '.join(LAYOUTS)}; a table is "
            "npz or Parquet with features as lists, see docs/how-to/other-features.md",
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
        shown = ", ".join(map(str, groups[:_SHOWN])) + (", …" if len(groups) > _SHOWN else "")
        raise InputUnsupportedError(
            f"{len(groups)} sets of features: {shown}", place=str(path), remedy="name one of them"
        )
    return SlideFolder(LAYOUTS[name], path, files)


def _find(place: Path, layout: str) -> dict[str, list[FeatureFile]]:
    """Return the files of features below a place, by layout."""
    layouts = list(LAYOUTS.values()) if layout == "auto" else [LAYOUTS[layout]]
    found: dict[str, list[FeatureFile]] = defaultdict(list)
    root = place if place.is_dir() else place.parent
    for path in _paths(place):
        candidate = Candidate(path, root, h5_contents(path) if path.suffix.lower() in _H5 else None)
        if layout == "auto" and (unread := _other_tool(candidate)):
            raise _not_read(unread, path)
        for reader in layouts:
            if files := reader.slide_files(candidate):
                found[reader.name] += files
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
        yield from (folder / name for name in names if Path(name).suffix.lower() in FORMATS)


def _other_tool(candidate: Candidate) -> str | None:
    """Return which of `OTHER_TOOLS` wrote a file; None if none did."""
    path, contents = candidate.path, candidate.h5
    if path.suffix == ".zarr":  # SpatialData; slides in OME-Zarr may have tables, and no shapes
        return "lazyslide" if all((path / name).is_dir() for name in ("shapes", "tables")) else None
    if path.suffix == ".pt":
        marks = (path.with_name(f"{path.stem}.index.npz"), path.with_name("bags_config.json"))
        return "slideflow" if any(mark.is_file() for mark in marks) else None
    if contents is None:
        return None
    if contents.shapes.get("coords", ())[1:] == (5,):  # x, y, width and height as read, level
        return "atlaspatch"
    is_mussel = "patch_size_to_resize_to_for_desired_mpp" in contents.of_dataset.get("coords", {})
    return "mussel" if is_mussel else None


def _not_read(layout: str, place: Path) -> InputUnsupportedError:
    return InputUnsupportedError(
        f"files of {layout} are not read",
        place=str(place),
        remedy="write tables from them by the ten lines in docs/how-to/other-features.md, and name their folder",
    )
