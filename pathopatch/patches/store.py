"""Read a slide's patches, overview and attributes from its store; pixels that were not stored, from the slide."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import zarr
from numpy.typing import ArrayLike, NDArray

from pathopatch.core.artefacts import Stamp, require_schema
from pathopatch.core.errors import InputCorruptError, InputMissingError, StaleArtefactError
from pathopatch.patches.source import SourcePatches
from pathopatch.patches.store_writer import stored_dtype
from pathopatch.slides.integrity import DECODING_ERRORS
from pathopatch.slides.zarr_reader import ZarrReader


def store_stamp(path: Path) -> Stamp | None:
    """Return the stamp of a finished store; None if there is none or it is not complete."""
    attributes = _attributes_of(path)
    if attributes.get("complete") is not True or "stamp" not in attributes:
        return None
    return Stamp.from_dict(attributes["stamp"])


def store_source(path: Path) -> Any:
    """Return the `Slide.source` that a store was made of; None if it does not say."""
    record = _attributes_of(path).get("source")
    return record.get("path") if isinstance(record, dict) else None


def store_levels(path: Path) -> dict[str, float]:
    """Return the background levels by channel, source units, that a store took from its cohort; else none."""
    return dict(_attributes_of(path).get("cohort_levels", {}))


def _attributes_of(path: Path) -> dict[str, Any]:
    """Return the attributes of a store; nothing where there is none, or none that can be read."""
    try:
        return dict(zarr.open_group(path, mode="r").attrs.asdict())
    except (FileNotFoundError, ValueError, KeyError):
        return {}


class PatchStore:
    """A finished store, for reading; pickles by opening it again.

    Parameters
    ----------
    path : Path
        ``slides/<slide_id>.zarr``.

    Raises
    ------
    InputMissingError
        There is no such store.
    InputCorruptError
        It is not complete.
    StaleArtefactError
        It is of another schema.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            attributes: Any = zarr.open_group(path, mode="r").attrs.asdict()
        except FileNotFoundError as error:
            raise InputMissingError(f"no store {path.name}", place=str(path), remedy="tile the slide") from error
        except (ValueError, KeyError) as error:
            raise InputCorruptError(
                f"not a store: {error}", place=str(path), remedy="remove it and tile the slide again"
            ) from error
        self.attributes: dict[str, Any] = attributes
        if self.attributes.get("complete") is not True:
            raise InputCorruptError("the store is not complete", place=str(path), remedy="tile the slide again")
        if "stamp" in self.attributes:
            stamp = Stamp.from_dict(self.attributes["stamp"])
            require_schema(stamp, place=path)

    def __reduce__(self) -> tuple[Any, ...]:
        return PatchStore, (self.path,)

    def __len__(self) -> int:
        """Return the number of patches."""
        return len(self.origins)

    @property
    def windows(self) -> NDArray[np.float64]:
        """Intensities that become 0 and 1: ndarray of float64, shape (C, 2), source units."""
        return np.asarray(self.attributes["windows"], np.float64)

    @property
    def has_patches(self) -> bool:
        """Whether pixels are stored (not with ``store = "none"``)."""
        return (self.path / "patches" / "zarr.json").is_file()

    @cached_property
    def origins(self) -> NDArray[np.int64]:
        """(x, y) of each patch, level-0 px: ndarray of int64, shape (N, 2), in the order of the rows."""
        return np.asarray(self._small("origins"), np.int64)

    @cached_property
    def _rows(self) -> dict[str, int]:
        """Row of each patch id."""
        slide_id = self.attributes["slide_id"]
        return {f"{slide_id}@{x},{y}": row for row, (x, y) in enumerate(self.origins.tolist())}

    @property
    def patch_ids(self) -> list[str]:
        """Each patch's id, in the order of the rows."""
        return list(self._rows)

    def rows(self, patch_ids: Sequence[str]) -> NDArray[np.int64]:
        """Return the row of each patch id.

        Raises
        ------
        InputMissingError
            An id is not of this store.
        """
        try:
            return np.array([self._rows[patch_id] for patch_id in patch_ids], np.int64)
        except KeyError as error:
            raise InputMissingError(
                f"no patch {error.args[0]!r} in this store",
                place=str(self.path),
                remedy="make the groups anew from the patch tables beside this store",
            ) from error

    def read(self, rows: ArrayLike) -> NDArray[np.generic]:
        """Return patches in any order, from the store or, where it keeps no pixels, from the slide: the same ones.

        Parameters
        ----------
        rows : array_like of int, shape (n,)
            Rows, see `rows`.

        Returns
        -------
        ndarray, shape (n, C, P, P)
            Source units.

        Raises
        ------
        InputMissingError
            There is no such row, or the slide is needed and gone.
        StaleArtefactError
            The slide is needed and not the one that was tiled.
        InputCorruptError
            A shard or the slide cannot be read.
        """
        wanted = np.asarray(rows, np.int64)
        if wanted.size and not (wanted.min() >= 0 and wanted.max() < len(self)):
            raise InputMissingError(
                f"rows {wanted.min()} to {wanted.max()} of {len(self)} patches", place=str(self.path)
            )
        if not self.has_patches:
            return self._from_slide.read(self.origins[wanted]).astype(stored_dtype(np.dtype(self.attributes["dtype"])))
        try:
            return self._patches.rows(wanted)
        except DECODING_ERRORS as error:
            raise InputCorruptError(
                f"a shard cannot be read: {error}", place=str(self.path), remedy="tile the slide again"
            ) from error

    def check_source(self) -> None:
        """Check that patches could be read from the slide, were none stored.

        Raises
        ------
        InputMissingError, StaleArtefactError, InputCorruptError
            See `read`.
        """
        self._from_slide.check()

    def close(self) -> None:
        """Let go of the slide's files, where patches are read from them; a later read opens them again."""
        if "_from_slide" in self.__dict__:
            self._from_slide.close()

    def overview(self, level: int = 0) -> NDArray[np.generic]:
        """Return the overview, ndarray of shape (C, h, w), source units; each further level is half as large."""
        return self._small(f"overview/{level}")

    def tissue(self, level: int = 0) -> NDArray[np.uint8]:
        """Return the overview's tissue mask, ndarray of uint8, shape (h, w); 1 is tissue."""
        return np.asarray(self._small(f"overview/labels/tissue/{level}"), np.uint8)

    def unscanned(self, level: int = 0) -> NDArray[np.uint8] | None:
        """Return which part of the overview was never scanned, as `tissue` does; None where nobody looked for it."""
        name = f"overview/labels/unscanned/{level}"
        return np.asarray(self._small(name), np.uint8) if (self.path / name).is_dir() else None

    @property
    def has_overview(self) -> bool:
        """Whether there is an overview: ready patches have none, for nothing lies between them."""
        return (self.path / "overview" / "zarr.json").is_file()

    @property
    def coarsest_level(self) -> int:
        """The overview's smallest level, about 512 px on its longer side."""
        return sum(1 for _ in (self.path / "overview").glob("[0-9]*")) - 1

    @cached_property
    def _patches(self) -> ZarrReader:
        """What reads the stored patches."""
        return ZarrReader(self.path / "patches")

    @cached_property
    def _from_slide(self) -> SourcePatches:
        """What reads patches that are not stored."""
        return SourcePatches(self.attributes, self.path)

    def _small(self, name: str) -> NDArray[np.generic]:
        """Return a small array whole."""
        try:
            return ZarrReader(self.path / name).read()
        except DECODING_ERRORS as error:
            raise InputCorruptError(
                f"no array {name!r}: {error}", place=str(self.path), remedy="tile the slide again"
            ) from error


def require_one_geometry(work: Path, slides: Sequence[str]) -> None:
    """Refuse stored slides that were not cut alike.

    Raises
    ------
    StaleArtefactError
        Sides of patches or steps between them differ; a slide of each kind is named.
    """
    seen: dict[tuple[int, int], str] = {}
    for slide in slides:
        attributes = PatchStore(work / "slides" / f"{slide}.zarr").attributes
        seen.setdefault((attributes["patch_px"], attributes["stride_px"]), slide)
    if len(seen) > 1:
        raise StaleArtefactError(
            "the slides are cut differently: "
            + "; ".join(f"{slide} at {px} px every {step} px" for (px, step), slide in seen.items()),
            place=str(work / "slides"),
            remedy="run pathopatch tile again with --force",
        )
