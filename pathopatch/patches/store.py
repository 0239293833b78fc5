"""Read a slide's patches, masks, overview and attributes from its store; pixels that it lacks come from the slide."""

from __future__ import annotations

import os
import threading
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, get_args

import numpy as np
import zarr
from numpy.typing import ArrayLike, NDArray

from pathopatch.core.artefacts import Stamp, fingerprint_file, require_schema
from pathopatch.core.config import TileConfig
from pathopatch.core.errors import InputCorruptError, InputMissingError, StaleArtefactError
from pathopatch.core.mask_bits import MaskKind, unpack_masks
from pathopatch.core.work_folder import WorkFolder
from pathopatch.patches.analysis import read_padded
from pathopatch.patches.grid import Grid
from pathopatch.patches.labels import LabelSource
from pathopatch.patches.store_writer import file_checksum, mask_array_name, stored_dtype
from pathopatch.slides import Slide, aligned, open_slide
from pathopatch.slides.integrity import DECODING_ERRORS
from pathopatch.slides.omezarr import ZarrReader
from pathopatch.slides.resample import planes

_WHOLE_STORE_BYTES = 256 * 2**20  # as for fingerprints: to find a cohort current must not take hours


def source_record(slide: Slide) -> dict[str, Any]:
    """Return plain values with which a store opens the slide again with the same pixels."""
    return {"path": slide.source, "mpp": slide.mpp, "channels": list(slide.channels), "background": slide.background}


def patch_ids(slide_id: str, origins: NDArray[np.int64]) -> list[str]:
    """Return ``<slide_id>@<x>,<y>`` of each origin, (N, 2)."""
    return [f"{slide_id}@{x},{y}" for x, y in origins.tolist()]


def recorded_attributes(path: Path) -> dict[str, Any]:
    """Return a store's attributes; empty if there is no readable store."""
    try:
        return dict(zarr.open_group(path, mode="r").attrs.asdict())
    except (FileNotFoundError, ValueError, KeyError):
        return {}


class PatchStore:
    """A finished store ``slides/<slide_id>.zarr``, for reading.

    Raises
    ------
    InputMissingError, InputCorruptError, StaleArtefactError
        There is no such store, or it is not complete, or of another schema.
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
        if self.attributes.get("complete") is not True or "checksums" not in self.attributes:
            raise InputCorruptError("the store is not complete", place=str(path), remedy="tile the slide again")
        if "stamp" in self.attributes:
            stamp = Stamp.from_dict(self.attributes["stamp"])
            require_schema(stamp, place=path)

        self._forget_slide()

    def _forget_slide(self) -> None:
        """Start without an open slide, with a new lock."""
        self._pid, self._lock = os.getpid(), threading.Lock()
        self._slide: Slide | None = None

    # A worker process opens the store itself: open files and locks cannot be pickled.
    def __reduce__(self) -> tuple[Any, ...]:
        return PatchStore, (self.path,)

    def __len__(self) -> int:
        """Return the number of patches."""
        return len(self.origins)

    @cached_property
    def grid(self) -> Grid:
        """The slide's grid, or the sheet's of ready patches."""
        width, height = self.attributes["size_px"]
        sides = {name: self.attributes[name] for name in ("downsample", "patch_px", "stride_px")}
        return Grid(width=width, height=height, **sides)

    @property
    def windows(self) -> NDArray[np.float64]:
        """Intensities that become 0 and 1, shape (C, 2), source units."""
        return np.asarray(self.attributes["windows"], np.float64)

    @property
    def pixels_checksum(self) -> str:
        """Hash of all pixels and masks; the patch table and the groups table repeat it."""
        return str(self.attributes["pixels_checksum"])

    # Asked of the disk each time: `pathopatch clean` may remove the pixels of an open store.
    @property
    def has_patches(self) -> bool:
        """Whether pixels are stored."""
        return (self.path / "patches").is_dir()

    @cached_property
    def origins(self) -> NDArray[np.int64]:
        """(x, y) of each patch, level-0 px, int64 of shape (N, 2), in the order of the rows."""
        return np.asarray(self._read_array("origins"), np.int64)

    @cached_property
    def _rows(self) -> dict[str, int]:
        """Row of each patch id."""
        return {name: row for row, name in enumerate(patch_ids(self.attributes["slide_id"], self.origins))}

    def rows(self, patch_ids: Sequence[str]) -> NDArray[np.int64]:
        """Return the row of each patch id; raises InputMissingError for an unknown one."""
        try:
            return np.array([self._rows[patch_id] for patch_id in patch_ids], np.int64)
        except KeyError as error:
            raise InputMissingError(
                f"no patch {error.args[0]!r} in this store",
                place=str(self.path),
                remedy="form the groups again from the patch tables beside this store",
            ) from error

    def read(self, rows: ArrayLike) -> NDArray[np.generic]:
        """Return patches in any order, shape (n, C, P, P), source units.

        A store without pixels reads the same patches from the slide. For `rows`, (n,), see the method of that name.

        Raises
        ------
        InputMissingError
            There is no such row, or the slide is needed and missing.
        StaleArtefactError
            The slide is needed and is not the one that was tiled.
        InputCorruptError
            A shard or the slide cannot be read.
        """
        indices = self._checked_rows(rows)
        if not self.has_patches:
            return self._read_slide(self.origins[indices]).astype(stored_dtype(np.dtype(self.attributes["dtype"])))
        try:
            return self._patches.rows(indices)
        except DECODING_ERRORS as error:
            raise self._corrupt(self._damage("patches/") or f"a shard cannot be read: {error}") from error

    def has_masks(self, kind: MaskKind) -> bool:
        """Return whether there are masks of a kind; of the tumour there are none where nobody stated it."""
        return self._has_array(mask_array_name(kind))

    def masks(self, rows: ArrayLike, kind: MaskKind) -> NDArray[np.bool_]:
        """Return the masks of patches in any order, bool of shape (n, P, P).

        A tissue mask is what `tissue_fraction` is the mean of, over scanned pixels; nothing that was not scanned or
        lies beyond the slide is tissue. For `rows`, (n,), see the method of that name.

        Raises
        ------
        InputMissingError
            There is no such row, or nobody stated where the tumour is.
        InputCorruptError
            Chunks are missing or changed.
        """
        indices, name = self._checked_rows(rows), mask_array_name(kind)
        if not self.has_masks(kind):
            raise InputMissingError(
                f"slide {self.path.stem}: no {kind} masks",
                place=str(self.path),
                remedy="give a tumor_mask or annotations in the manifest, or the column tumor_mask in a list of "
                "patches, and tile again with --force",
            )
        try:
            bits = np.asarray(self._masks[kind].rows(indices), np.uint8)
        except DECODING_ERRORS as error:
            raise self._corrupt(self._damage(f"{name}/") or f"a mask cannot be read: {error}") from error
        return unpack_masks(bits, bits.shape[1])

    def _checked_rows(self, rows: ArrayLike) -> NDArray[np.int64]:
        """Return rows as an array; raises InputMissingError for one that is not there."""
        indices = np.asarray(rows, np.int64)
        if indices.size and not (indices.min() >= 0 and indices.max() < len(self)):
            raise InputMissingError(
                f"rows {indices.min()} to {indices.max()} of {len(self)} patches", place=str(self.path)
            )
        return indices

    def check_files(self) -> None:
        """Check that every file is there as it was written: by its size, and of up to 256 MiB by its checksum.

        Raises InputCorruptError, which names slide and chunk. Larger stores are read by checksum when patches are.
        """
        total = sum(int(checksum.partition(":")[0]) for checksum in self.attributes["checksums"].values())
        if damage := self._damage(by_size=total > _WHOLE_STORE_BYTES):
            raise self._corrupt(damage)

    def _damage(self, folder: str = "", *, by_size: bool = False) -> str:
        """Return what became of the first file below `folder` that is not as it was written; empty if all are."""
        has_patches = self.has_patches
        for name, checksum in self.attributes["checksums"].items():
            # `pathopatch clean` may remove the pixels, all at once.
            if not name.startswith(folder) or (name.startswith("patches/") and not has_patches):
                continue
            try:
                path = self.path / name
                present = f"{path.stat().st_size}:" if by_size else file_checksum(path)
            except FileNotFoundError:
                return f"chunk {name} is missing"
            except OSError as error:
                return f"chunk {name} cannot be read: {error.strerror}"
            if not checksum.startswith(present):
                return f"chunk {name} is not what was written"
        return ""

    def _corrupt(self, what: str) -> InputCorruptError:
        return InputCorruptError(
            f"slide {self.path.stem}: {what}", place=str(self.path), remedy="tile the slide again with --force"
        )

    def close(self) -> None:
        """Close the slide's files and free its decoded tiles, if it is open; a later read opens them again."""
        if self._slide is not None and self._pid == os.getpid():
            with self._lock:
                self._slide.close()

    def _read_slide(self, origins: NDArray[np.int64]) -> NDArray[np.generic]:
        """Return the patches at `origins`, (n, 2), from the slide; safe in any thread and any forked process."""
        # After a fork, the parent's lock may be held by a thread that does not exist here.
        if self._pid != os.getpid():
            self._forget_slide()
        with self._lock:
            if self._slide is None:
                self._slide = self._open_slide()
            shape = len(origins), len(self.attributes["channels"]), self.grid.patch_px, self.grid.patch_px
            out, fill = np.empty(shape, self._slide.dtype), np.array(self.attributes["fill"], self._slide.dtype)
            # Row by row, each tile of the file is decoded once.
            for place in np.lexsort((origins[:, 0], origins[:, 1])).tolist():
                x, y = origins[place].tolist()
                planes(read_padded(self._slide, self.grid, fill, x, y), out[place])
        return out

    def _open_slide(self) -> Slide:
        """Open the slide and verify that its files are those that were tiled."""
        record = self.attributes.get("source")
        if record is None:
            raise InputMissingError(
                "the store records neither pixels nor their source",
                place=str(self.path),
                remedy="tile the slide again with --force",
            )
        slide = open_slide(
            record["path"], mpp=record["mpp"], channels=tuple(record["channels"]), background=record["background"]
        )
        tiled = self.attributes["stamp"]["inputs"]
        # Other pixels under the same patch ids would be trained on with the wrong labels and tissue.
        if not slide_inputs(slide, tiled).items() <= tiled.items():
            slide.close()
            names = ", ".join(path.name for path in slide.paths)
            raise StaleArtefactError(
                f"{names} is not what was tiled; no pixels are stored, so the patches would change",
                place=", ".join(map(str, (*slide.paths, self.path))),
                remedy="bring the file back, or tile the slide again with --force",
            )
        offsets = tuple((x, y) for x, y in self.attributes.get("registration", {}).get("offsets_px", ()))
        return aligned(slide, offsets, self.attributes["background"])

    def overview(self, level: int = 0) -> NDArray[np.generic]:
        """Return the overview, shape (C, h, w), source units; each further level is half as large."""
        return self._read_array(f"overview/{level}")

    def tissue(self, level: int = 0) -> NDArray[np.uint8]:
        """Return the overview's tissue mask, uint8 of shape (h, w); 1 is tissue."""
        return np.asarray(self._read_array(f"overview/labels/tissue/{level}"), np.uint8)

    def unscanned(self, level: int = 0) -> NDArray[np.uint8] | None:
        """Return the overview's unscanned pixels, uint8 of shape (h, w); None if all were scanned."""
        place = f"overview/labels/unscanned/{level}"
        return np.asarray(self._read_array(place), np.uint8) if self._has_array(place) else None

    @property
    def has_overview(self) -> bool:
        """Whether there is an overview; an imported set of patches has none."""
        return self._has_array("overview/0")

    @property
    def coarsest_level(self) -> int:
        """The overview's smallest level, at most 512 px on its longer side."""
        # Levels are folders named 0, 1, 2 …, beside `labels` and the metadata.
        return sum(1 for _ in (self.path / "overview").glob("[0-9]*")) - 1

    @cached_property
    def _patches(self) -> ZarrReader:
        return ZarrReader(self.path / "patches", is_complete=True)

    @cached_property
    def _masks(self) -> dict[MaskKind, ZarrReader]:
        kinds: tuple[MaskKind, ...] = get_args(MaskKind)
        return {kind: ZarrReader(self.path / mask_array_name(kind), is_complete=True) for kind in kinds}

    def _has_array(self, name: str) -> bool:
        """Return whether a small array is here, or was written and must be."""
        metadata = f"{name}/zarr.json"
        return metadata in self.attributes["checksums"] or (self.path / metadata).is_file()

    def _read_array(self, name: str) -> NDArray[np.generic]:
        """Read a small array whole."""
        try:
            return ZarrReader(self.path / name, is_complete=True).read()
        except DECODING_ERRORS as error:
            raise self._corrupt(self._damage(f"{name}/") or f"no array {name!r}: {error}") from error


def require_one_geometry(work: Path, slides: Sequence[str]) -> None:
    """Refuse stored slides of different patch size or stride with StaleArtefactError, which names a slide of each.

    Features are accepted: their encoder resampled all patches to one size, whatever their side on the slides.
    """
    if WorkFolder(work).features.is_file():
        return
    slide_by_geometry: dict[tuple[int, int], str] = {}
    for slide in slides:
        attributes = PatchStore(WorkFolder(work).store(slide)).attributes
        slide_by_geometry.setdefault((attributes["patch_px"], attributes["stride_px"]), slide)
    if len(slide_by_geometry) > 1:
        raise StaleArtefactError(
            "the slides are cut differently: "
            + "; ".join(f"{slide} at {px} px every {step} px" for (px, step), slide in slide_by_geometry.items()),
            place=str(work / "slides"),
            remedy="run pathopatch tile again with --force",
        )


def tile_stamp(
    slide: Slide,
    config: TileConfig,
    slide_id: str,
    patient_id: str,
    source: LabelSource | None,
    tissue_mask: Path | None,
    *,
    block: str = "",
    earlier: Stamp | None = None,
) -> Stamp:
    """Return the stamp of a slide's store and table: the configuration and the fingerprints of all inputs.

    `earlier` is the stamp of what is there: a store that version 0.2 made of the same files stays current.
    """
    settings = {
        **config.model_dump(mode="json", exclude={"registration": {"warn_um"}}),  # which changes no artefact
        "slide": {
            "id": slide_id,
            "patient_id": patient_id,
            **({"block": block} if block else {}),  # stamps of cohorts without blocks stay as they are
            "channels": slide.channels,
            "mpp": slide.mpp,
            "background": slide.background,
            "whole_slide": None if source is None else source.whole_slide,
        },
    }
    inputs = slide_inputs(slide, {} if earlier is None else earlier.inputs)
    for role, path in (source.paths if source is not None else {}).items():
        inputs[role] = fingerprint_file(path)
    if tissue_mask is not None:
        inputs["tissue_mask"] = fingerprint_file(tissue_mask)
    return Stamp(stage="tile", settings=settings, inputs=inputs)


def slide_inputs(slide: Slide, earlier: Mapping[str, str]) -> dict[str, str]:
    """Return a slide's part of the inputs of a stamp; as version 0.2 had it if `earlier` ones are so, of its files."""
    if "pixels" in earlier:
        of_files = {f"slide {index}": fingerprint_file(path) for index, path in enumerate(slide.paths)}
        if of_files == {role: mark for role, mark in earlier.items() if role.startswith("slide ")}:
            return of_files | {"pixels": earlier["pixels"]}
    return {"slide": slide.fingerprint}
