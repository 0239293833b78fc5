"""Read HDF5 files with features and coordinates of a slide; tools differ in names, units and attributes alone.

Files that a name in a file leads to are never opened.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from pathopatch.core.errors import InputCorruptError, InputMissingError, InputUnsupportedError, PathopatchError
from pathopatch.core.text import parse_number
from pathopatch.features.readers.folder import FeatureFile, Layout, as_features, slide_id_from_stem
from pathopatch.features.slide_features import Encoder, SlideFeatures

_COMPLAINTS = (OSError, RuntimeError, KeyError, ValueError)  # what h5py raises for files that are cut or damaged
_SHOWN = 3  # files named in a message


class _Tool(NamedTuple):
    """How a tool names what it writes. Attributes count wherever they stand: at the file, features or coordinates."""

    name: str
    features: str  # dataset (N, D), beside ``coords`` (N, 2): top-left corners
    # Attributes with the side of a patch, the first that is there; its files have one of them. Of a tool without any,
    # ``coords`` have no attributes, and files of coordinates beside the features state the side.
    side: tuple[str, ...]
    notes: tuple[str, ...]
    unit: Literal["px", "um"] = "px"  # of coordinates and side: level-0 pixels, or micrometres
    size: tuple[str, str] | None = None  # attributes with the slide's width and height, level-0 px
    encoder: str = ""  # attribute with the encoder's name
    input_px: str = ""  # attribute with the side of what the encoder took
    is_ordered: bool = True  # False: rows are written as threads end, and are read by y, then x
    folder: str = ""  # what the folder's name begins with, before the encoder's: such a folder holds one set


_NO_SIDE = "no patches/SLIDE.h5 of CLAM beside the features, or several that differ: the side of a patch is unknown"
_TOOLS = (
    _Tool(
        "trident",
        "features",
        ("patch_size_level0",),
        (
            "TRIDENT keeps every patch that touches tissue unless --min_tissue_proportion was set, which its files do "
            "not say",
            "TRIDENT's magnification is a bin of um/px: the um/px of the scan is not in its files",
        ),
        size=("level0_width", "level0_height"),
        encoder="encoder",
        folder="features_",
    ),
    _Tool(
        "stamp",
        "feats",
        ("tile_size_um", "tile_size"),  # version 2.0 has the latter; before it, no unit was certain
        ("STAMP left out patches as bright as glass (240 of 255 in the thumbnail) and those with few edges",),
        unit="um",
        encoder="extractor",
        input_px="tile_size_px",
        is_ordered=False,
    ),
    _Tool("clam", "features", (), ("CLAM left out patches whose four test points lie outside its tissue contours",)),
)


@contextmanager
def open_h5(path: Path) -> Iterator[Any]:
    """Yield an HDF5 file to read; nothing is ever written to it, not even a lock.

    InputUnsupportedError without h5py, or if a name in the file leads to another file; InputMissingError,
    InputCorruptError if HDF5 cannot read the file.
    """
    try:
        import h5py
    except ModuleNotFoundError as error:
        raise InputUnsupportedError("h5py is not installed", place=str(path), remedy="pip install 'h5py'") from error
    try:
        # Without locks: folders of others may be read-only, and their drives may not know locks.
        with h5py.File(path, "r", locking=False) as file:
            _refuse_other_files(file, h5py)
            yield file
    except PathopatchError:  # of whoever reads the file
        raise
    except FileNotFoundError as error:
        raise InputMissingError(f"no file {path.name}", place=str(path), remedy="check the path") from error
    except _COMPLAINTS as error:
        raise InputCorruptError(
            f"not a whole HDF5 file: {error}",
            place=str(path),
            remedy="copy the file again, or extract the features of this slide again",
        ) from error


def _refuse_other_files(file: Any, h5py: Any) -> None:
    """Refuse links, external storage and virtual datasets that lead to other files; none of those is opened."""
    # A file from a stranger could name any file of this machine, and HDF5 opens it as soon as the name is looked up.
    outside: list[str] = []

    def look_at_link(name: bytes, link: Any) -> None:
        if link.type not in (h5py.h5l.TYPE_HARD, h5py.h5l.TYPE_SOFT):
            is_external = link.type == h5py.h5l.TYPE_EXTERNAL
            target = file.id.links.get_val(name)[0].decode("utf-8", "replace") if is_external else "somewhere else"
            outside.append(f"{name.decode('utf-8', 'replace')} is a link to {target}")

    def look_at_object(name: str, item: Any) -> None:
        if isinstance(item, h5py.Dataset) and item.is_virtual:
            sources = sorted({source.file_name for source in item.virtual_sources()})
            outside.append(f"{name} is a virtual dataset of {', '.join(sources[:_SHOWN]) or 'nothing'}")
        elif isinstance(item, h5py.Dataset) and item.external:
            outside.append(f"{name} is stored in {item.external[0][0]}")

    file.id.links.visit(look_at_link, info=True)  # it follows no link to another file
    file.visititems(look_at_object)
    if outside:
        more = f", and {len(outside) - 1} more" if len(outside) > 1 else ""
        raise InputUnsupportedError(
            f"values outside the file are not read: {outside[0]}{more}",
            place=file.filename,
            remedy="write the values into this file: h5py reads them, and writes them as a plain dataset",
        )


def _facts(file: Any, *names: str) -> dict[str, Any]:
    """Return the attributes of a file and of its datasets `names`, as plain values."""
    found = [file.attrs, *(file[name].attrs for name in names if name in file)]
    values = [item for attributes in found for item in attributes.items()]
    return {name: value.decode("utf-8", "replace") if isinstance(value, bytes) else value for name, value in values}


def slide_files(path: Path) -> dict[str, list[FeatureFile]]:
    """Return a file as the features of a slide, by the name of the tool that wrote it; empty where that is unknown."""
    with open_h5(path) as file:
        shapes = {name: item.shape for name, item in file.items() if hasattr(item, "shape")}
        facts = {tool.name: _facts(file, tool.features, "coords") for tool in _TOOLS}
        is_plain = not _facts(file, "coords")
    coords, slide_id = shapes.get("coords"), slide_id_from_stem(path.stem)
    for tool in _TOOLS:
        features = shapes.get(tool.features)
        if features is None or coords is None or (coords[1:] != (2,) and coords[0:1] != (0,)):
            continue
        if len(features) != 2 and features[0:1] != (0,):  # of a whole slide; without patches, the shape is (0,)
            continue
        if any(name in facts[tool.name] for name in tool.side):
            # STAMP repeats the folders of the slides below one folder of its extractor.
            encoder = None if tool.folder else _text(facts[tool.name], tool.encoder)
            return {tool.name: [FeatureFile(slide_id=slide_id, path=path, group=encoder or str(path.parent))]}
        if is_plain and not tool.side:
            folder = path.parent.parent if path.parent.name == "h5_files" else path.parent
            places = (folder / "patches", folder.parent / "patches", *sorted(folder.parent.glob("*/patches")))
            files = [place / f"{name}.h5" for place in places for name in (path.stem, slide_id)]
            companions = tuple(file for file in dict.fromkeys(files) if file.is_file())
            return {tool.name: [FeatureFile(slide_id=slide_id, path=path, group=str(folder), companions=companions)]}
    return {}


def _read(tool: _Tool, file: FeatureFile, with_features: bool) -> SlideFeatures:
    """Return a slide's features."""
    with open_h5(file.path) as content:
        stored, xy, facts = content[tool.features], _corners(content), _facts(content, tool.features, "coords")
        shape = stored.shape if len(stored.shape) == 2 else (0, 0)
        features: NDArray[Any] = np.empty((shape[0], shape[1] if with_features else 0), np.float32)
        if features.size:
            features = as_features(stored[()], str(file.path))
    if not tool.is_ordered and len(xy) == shape[0]:
        order = np.lexsort((xy[:, 0], xy[:, 1]))
        features, xy = features[order], xy[order]
    side, notes = next((value for name in tool.side if (value := _number(facts, name))), None), tool.notes
    if not tool.side:
        sides = {_side_of_clam(path) for path in file.companions if np.array_equal(_corners_of(path), xy)}
        side, notes = (sides.pop(), notes) if len(sides) == 1 else (None, (*notes, _NO_SIDE))
    width, height = (_number(facts, name) for name in tool.size or ("", ""))
    folder, name = file.path.parent.name, _text(facts, tool.encoder)
    if tool.folder and folder.startswith(tool.folder):
        name = name or folder.removeprefix(tool.folder)
    input_px = _number(facts, tool.input_px)
    return file.slide(
        features,
        Encoder(dim=shape[1], name=name or None, input_px=None if input_px is None else int(input_px)),
        xy,
        side=side,
        unit=tool.unit,
        size_px=None if width is None or height is None else (int(width), int(height)),
        notes=notes,
    )


def _corners(content: Any) -> NDArray[np.float64]:
    """Return the coordinates of a file, (N, 2)."""
    return np.asarray(content["coords"][()], np.float64).reshape(-1, 2)


def _corners_of(path: Path) -> NDArray[np.float64]:
    with open_h5(path) as content:
        return _corners(content)


def _side_of_clam(path: Path) -> float | None:
    """Return the side of patches that CLAM states beside their coordinates, level-0 px; None where it is unknown."""
    with open_h5(path) as content:
        facts = _facts(content, "coords")
    patch_px, downsample = _number(facts, "patch_size"), _number(facts, "downsample")
    if patch_px is None or downsample is None:
        return None
    return patch_px * downsample * (_number(facts, "custom_downsample") or 1.0)  # patch_size is in px of patch_level


def _number(facts: Mapping[str, Any], name: str) -> float | None:
    """Return an attribute, or the first of its values, as a positive number; None where it is missing or none."""
    try:
        value = np.ravel(facts[name])[0]
        value = parse_number(value) if isinstance(value, str) else float(value)
    except (LookupError, TypeError, ValueError):
        return None
    return value if np.isfinite(value) and value > 0 else None


def _text(facts: Mapping[str, Any], name: str) -> str | None:
    """Return an attribute as text; None where it is missing, empty or Python's ``None`` written as text."""
    value = facts.get(name)
    return None if value is None or str(value) in ("", "None") else str(value)


LAYOUTS = tuple(Layout(tool.name, partial(_read, tool)) for tool in _TOOLS)
