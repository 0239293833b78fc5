"""Open HDF5 files of features: their contents, arrays and attributes, and no file that they lead to."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from pathopatch.core.errors import InputCorruptError, InputMissingError, InputUnsupportedError, PathopatchError
from pathopatch.core.text import parse_number
from pathopatch.features.readers.vectors import as_features, require_stored, rows_and_dim

_COMPLAINTS = (OSError, RuntimeError, KeyError, ValueError)  # what h5py raises for files that are cut or damaged
_SHOWN = 3  # files named in a message


@dataclass(frozen=True, kw_only=True)
class H5Contents:
    """Shapes and attributes of an HDF5 file."""

    attributes: Mapping[str, Any]  # of the file
    shapes: Mapping[str, tuple[int, ...]]  # of each dataset
    of_dataset: Mapping[str, Mapping[str, Any]]  # attributes of each dataset

    def has_vectors(self, name: str) -> bool:
        """Return whether a dataset is (N, D), or of a slide without patches."""
        shape = self.shapes.get(name)
        return shape is not None and (len(shape) == 2 or shape[0:1] == (0,))


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


def h5_contents(path: Path) -> H5Contents:
    """Return shapes and attributes of an HDF5 file, without those in groups; errors as `open_h5`."""
    with open_h5(path) as file:
        datasets = {name: item for name, item in file.items() if hasattr(item, "shape")}
        return H5Contents(
            attributes=_plain(file.attrs),
            shapes={name: tuple(item.shape) for name, item in datasets.items()},
            of_dataset={name: _plain(item.attrs) for name, item in datasets.items()},
        )


class H5Slide(NamedTuple):
    """Arrays and attributes of an HDF5 file of a slide."""

    features: NDArray[Any]  # float16 or float32, (N, D); (N, 0) if they were not asked for
    dim: int  # D; 0 for a slide without patches whose file does not say it
    xy: NDArray[np.float64]  # (N, 2), of the dataset ``coords``
    attributes: dict[str, dict[str, Any]]  # of each dataset by its name; "" is the file's


def read_slide(path: Path, name: str = "", with_features: bool = True) -> H5Slide:
    """Return what an HDF5 file holds of a slide: the features `name` and ``coords``.

    InputUnsupportedError for features of other shapes and types; InputTooLargeError as `require_stored`.
    """
    with open_h5(path) as file:
        features, dim = np.empty((0, 0), np.float32), 0
        for key in (name, "coords"):
            if key in file:
                claimed_bytes = math.prod(file[key].shape) * file[key].dtype.itemsize
                require_stored(file[key].name, claimed_bytes, file[key].id.get_storage_size(), path)
        if name:
            shape = file[name].shape
            if shape[0:1] == (0,):
                shape = (0, shape[1] if len(shape) == 2 else 0)
            count, dim = rows_and_dim(name, shape, str(path))
            features = np.empty((count, dim if with_features else 0), np.float32)
            if features.size:
                features = as_features(file[name][()], str(path))
        xy = np.asarray(file["coords"][()] if "coords" in file else np.empty((0, 2)), np.float64)
        return H5Slide(
            features=features,
            dim=dim,
            xy=xy[:, :2] if xy.ndim == 2 and xy.shape[1] >= 2 else np.empty((0, 2)),
            attributes={
                key: dict((file[key] if key else file).attrs) for key in ("", "coords", name) if key in file or not key
            },
        )


def number(attributes: Mapping[str, Any], name: str, index: int = 0) -> float | None:
    """Return an attribute, or one of its values, as a positive number; None where it is missing or none."""
    try:
        value = np.ravel(attributes[name])[index]
        value = parse_number(value) if isinstance(value, str) else float(value)
    except (LookupError, TypeError, ValueError):
        return None
    return value if np.isfinite(value) and value > 0 else None


def whole(value: float | None) -> int | None:
    """Return a number as a whole one."""
    return None if value is None else int(value)


def size(attributes: Mapping[str, Any], width: str, height: str = "") -> tuple[int, int] | None:
    """Return a width and a height in pixels, of two attributes or of one with two values; None where one is missing."""
    w = whole(number(attributes, width))
    h = whole(number(attributes, height) if height else number(attributes, width, 1))
    return None if w is None or h is None else (w, h)


def text(attributes: Mapping[str, Any], name: str) -> str | None:
    """Return an attribute as text; None where it is missing, empty or Python's ``None`` written as text."""
    value = attributes.get(name)
    return None if value is None or str(value) in ("", "None") else str(value)


def _plain(attributes: Any) -> dict[str, Any]:
    """Return attributes as numpy's and Python's values, bytes as text."""
    values = attributes.items()
    return {name: value.decode("utf-8", "replace") if isinstance(value, bytes) else value for name, value in values}
