"""Load the labelled patches of a split: pixels scaled by their slide's window, or features as patches of one pixel.

Features of D values are patches of D channels and one pixel. So samplers, objectives, search, selection and decision
thresholds are the same as on patches. Pixels are read from their stores at once, or, of a large set, when needed.
"""

from __future__ import annotations

import math
import sys
import threading
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from pathopatch.core.config import TissueConfig, mpp_agrees
from pathopatch.core.errors import ChannelMismatchError, NonFiniteError, StaleArtefactError
from pathopatch.core.mask_bits import MaskKind, pack_masks, resize_masks, unpack_masks
from pathopatch.core.work_folder import WorkFolder
from pathopatch.features.cohort import is_feature_cohort, read_cohort, read_patches
from pathopatch.groups import attribute_in, units_of
from pathopatch.models.forward import resize_area
from pathopatch.patches.intensity import scale
from pathopatch.patches.store import PatchStore

_OPEN_SLIDES = 16  # files of three channels each stay far below the usual limit of 1024
_CHUNK = 256  # patches read at a time, about one shard
_GIB = 2**30


@dataclass(frozen=True)
class Source:
    """Facts that all slides behind a set of patches share, for the model bundle."""

    channels: tuple[str, ...]  # in order
    dtype: str  # as numpy names it
    patch_px: int  # target-mpp px, as the stride
    stride_px: int
    mpp: float | None  # target scale, um/px
    background: str = "auto"  # or "dark" or "bright"; "auto" where the slides differ or nobody stated it
    intensity: Mapping[str, Any] = field(default_factory=dict)  # the rules, as the configuration of `tile` has them
    tissue: Mapping[str, Any] = field(default_factory=dict)
    align: bool = False  # whether the channels were moved onto each other
    least_tumor: float | None = None  # share of tumour from which on a patch is tumour; None: any tumour makes it
    encoder: Mapping[str, Any] | None = None  # of features, which have no channels; see `Encoder.to_dict`

    @property
    def is_rgb(self) -> bool:
        """Whether the channels are brightfield colour."""
        return self.channels == ("R", "G", "B") and self.dtype == "uint8"


@dataclass(frozen=True, eq=False)
class PatchMasks:
    """Masks of N patches, of one kind. They take N * input_px**2 / 8 bytes of memory: 2.3 kB each at 136 px."""

    bits: NDArray[np.uint8]  # (N, input_px, ceil(input_px / 8)), as `pack_masks` returns them
    input_px: int  # side of a mask

    def __len__(self) -> int:
        return len(self.bits)

    def read(self, index: Any) -> NDArray[np.bool_]:
        """Return masks, bool of shape (n, input_px, input_px), by indices or a slice."""
        return unpack_masks(self.bits[index], self.input_px)

    def rows(self, index: NDArray[np.int64]) -> PatchMasks:
        """Return the masks of some of the patches."""
        return PatchMasks(self.bits[index], self.input_px)


@dataclass(frozen=True, eq=False)
class PatchSet:
    """Patches with label, attribute and patient (of cohorts with blocks the block), one row per patch."""

    # (N, C, input_px, input_px), scaled to [0, 1]; rows by ``x[index]``, of which both forms give the same.
    x: NDArray[np.float16] | NDArray[np.float32] | StoredPatches
    label: NDArray[np.int64]  # (N,), as are all below
    attribute: NDArray[np.int64]  # much tissue (1) or not (0), a bin, or a value of the patches' own; -1: not known
    tissue_fraction: NDArray[np.float64]  # in [0, 1]
    patient: NDArray[Any]
    patch_id: NDArray[Any]
    source: Source | None = None
    tissue: PatchMasks | None = None  # at the network's input size; None where they were not asked for
    tumor: PatchMasks | None = None
    has_tumor: NDArray[np.bool_] | None = None  # of the patch's slide; without masks the patch's is empty

    def __len__(self) -> int:
        return len(self.label)

    @property
    def slide(self) -> NDArray[np.str_]:
        """Slide of each patch, (N,), by its identifier; a patch that names none is its own."""
        return np.array([name.rpartition("@")[0] or name for name in self.patch_id.tolist()])

    @property
    def is_rgb(self) -> bool:
        """Whether the channels are brightfield colour."""
        return self.source is not None and self.source.is_rgb

    @cached_property
    def statistics(self) -> tuple[tuple[float, ...], tuple[float, ...]]:
        """`channel_statistics` of these patches, which the trials of a search share."""
        return channel_statistics(self)

    def read(self, index: Any) -> NDArray[np.float32]:
        """Return patches in [0, 1], float32 of shape (n, C, input_px, input_px), by indices or a slice."""
        return np.asarray(self.stored(index), dtype=np.float32)

    def stored(self, index: Any) -> NDArray[np.floating]:
        """Return what `read` returns, as it is kept: float16 or float32."""
        return self.x[index]

    def rows(self, index: Any) -> PatchSet:
        """Return some of the patches, by a mask or an array of indices; those in memory are copied."""
        index = np.flatnonzero(index) if np.asarray(index).dtype == np.bool_ else np.asarray(index)
        x = self.x.rows(index) if isinstance(self.x, StoredPatches) else self.x[index]
        names = ("label", "attribute", "tissue_fraction", "patient", "patch_id", "has_tumor")
        columns: dict[str, Any] = {name: getattr(self, name) for name in names}
        columns = {name: column if column is None else column[index] for name, column in columns.items()}
        tissue, tumor = (masks if masks is None else masks.rows(index) for masks in (self.tissue, self.tumor))
        return replace(self, x=x, tissue=tissue, tumor=tumor, **columns)

    def with_attribute(self, attribute: NDArray[np.int64]) -> PatchSet:
        """Return the same patches grouped by another attribute; the pixels are shared, not copied."""
        return replace(self, attribute=np.asarray(attribute, dtype=np.int64))


def load_patches(
    work: Path,
    groups: pd.DataFrame,
    *,
    input_px: int,
    splits: Sequence[str],
    threshold: float | None = None,
    cache_gib: float = 1.5,
    masks: Sequence[MaskKind] = (),
) -> PatchSet:
    """Return the labelled patches of some splits; in memory, as float16, up to `cache_gib`, otherwise read when needed.

    `groups` is the groups table or some rows of it, whose order is kept; the result may be empty, without a source. The
    attribute is that of a `threshold`, and patches without a group there are left out; -1 without one.
    `masks` ("tissue", "tumor") are always held in memory; a slide may be without tumour masks.

    Raises
    ------
    InputMissingError
        A store or one of the patches is missing, or the table has no groups for this threshold.
    ChannelMismatchError
        The slides differ in channels, type or patch size; both sides are named.
    StaleArtefactError
        A store holds other pixels than those that the groups table was made from, or lacks the masks asked for.
    InputCorruptError
        Chunks of a store are missing or changed.
    NonFiniteError
        Some patches hold NaN; they are named.
    """
    rows, attribute = _chosen_rows(groups, splits, threshold)
    patch_id = rows["patch_id"].to_numpy(dtype=str)
    slide_ids, slide = np.unique(rows["slide_id"].to_numpy(dtype=str), return_inverse=True)
    stores = [PatchStore(WorkFolder(work).tiled.store(name)) for name in slide_ids]
    # By identifier, not by order: the groups table may be sorted or filtered.
    store_row = np.empty(len(rows), dtype=np.int64)
    for number, store in enumerate(stores):
        _require_same_pixels(store, rows[slide == number])
        store_row[slide == number] = store.rows(patch_id[slide == number].tolist())
    source = common_source(stores)
    loaded = {kind: _load_masks(stores, slide, store_row, kind, input_px=input_px) for kind in masks}
    has_tumor = np.array([store.has_masks("tumor") for store in stores], np.bool_)[slide] if "tumor" in loaded else None
    x: Any = StoredPatches(stores, slide.astype(np.int64), store_row, input_px=input_px)
    shape = (len(rows), len(source.channels) if source else 0, input_px, input_px)
    if np.prod(shape, dtype=np.float64) * np.dtype(np.float16).itemsize <= cache_gib * _GIB:
        x = _in_memory(x, slide, store_row, shape, patch_id)
    return PatchSet(
        x=x,
        label=rows["label"].to_numpy(dtype=np.int64),
        attribute=attribute,
        tissue_fraction=rows["tissue_fraction"].to_numpy(dtype=np.float64),
        patient=units_of(rows).to_numpy(dtype=str),
        patch_id=patch_id,
        source=source,
        tissue=loaded.get("tissue"),
        tumor=loaded.get("tumor"),
        has_tumor=has_tumor,
    )


def load_features(work: Path, groups: pd.DataFrame, *, splits: Sequence[str]) -> PatchSet:
    """Return the labelled patches of some splits with x of shape (N, D, 1, 1), in the type that the files have.

    Arguments are those of `load_patches` without a threshold, errors those of `read_patches`.
    """
    rows, attribute = _chosen_rows(groups, splits, None)
    x = read_patches(work, rows)
    return PatchSet(
        x=x[:, :, None, None],
        label=np.array(rows["label"], np.int64),  # a copy: torch takes no array that is read-only
        attribute=attribute,
        tissue_fraction=rows["tissue_fraction"].to_numpy(dtype=np.float64),
        patient=units_of(rows).to_numpy(dtype=str),
        patch_id=rows["patch_id"].to_numpy(dtype=str),
        source=feature_data(work, str(x.dtype)) if len(rows) else None,
    )


def feature_data(work: Path, dtype: str) -> Source | None:
    """Return what a model on the features of a work folder states about them; None where its patches are pixels."""
    if not is_feature_cohort(work):
        return None
    encoder = read_cohort(work).encoder
    return Source(channels=(), dtype=dtype, patch_px=1, stride_px=1, mpp=None, encoder=encoder)


def _chosen_rows(
    groups: pd.DataFrame, splits: Sequence[str], threshold: float | None
) -> tuple[pd.DataFrame, NDArray[np.int64]]:
    """Return the labelled rows of some splits and their attribute (N,); arguments as of `load_patches`."""
    is_chosen = groups["split"].isin(list(splits)) & (groups["label"] >= 0)
    if threshold is None:
        return groups[is_chosen], np.full(int(is_chosen.sum()), -1, dtype=np.int64)
    column = attribute_in(groups, threshold).column
    rows = groups[is_chosen & (groups[column] >= 0)]
    return rows, rows[column].to_numpy(dtype=np.int64)


def _load_masks(
    stores: Sequence[PatchStore], slide: NDArray[Any], row: NDArray[np.int64], kind: MaskKind, *, input_px: int
) -> PatchMasks:
    """Return the masks of patches, given the number of each one's store and its row there."""
    bits = np.zeros((len(row), input_px, -(-input_px // 8)), np.uint8)
    for number, store in enumerate(stores):
        if store.has_masks("tissue") and not store.has_masks(kind):
            continue  # nobody stated where its tumour is
        index = np.flatnonzero(slide == number)
        index = index[np.argsort(row[index], kind="stable")]  # in the order of the store: each shard is read once
        for start in range(0, len(index), _CHUNK):
            chunk = index[start : start + _CHUNK]
            bits[chunk] = pack_masks(resize_masks(store.masks(row[chunk], kind), input_px))
    return PatchMasks(bits, input_px)


def _require_same_pixels(store: PatchStore, rows: pd.DataFrame) -> None:
    """Refuse a store that holds other pixels than its rows of the groups table were made from."""
    if "pixels_checksum" in rows and (rows["pixels_checksum"] == store.pixels_checksum).all():
        return
    raise StaleArtefactError(
        f"slide {store.path.stem}: the store holds other pixels than those that the groups were formed from",
        place=str(store.path),
        remedy="bring the store back, or run pathopatch tile MANIFEST -o WORK --force, then groups, train and evaluate "
        "with --force",
    )


def channel_statistics(patches: PatchSet) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Return mean and standard deviation of each channel over all patches and pixels, in the scale of [0, 1]."""
    count, total, squares = 0, 0.0, 0.0
    for start in range(0, len(patches), _CHUNK):
        part = patches.read(slice(start, start + _CHUNK)).astype(np.float64)
        _check_finite(part, patches.patch_id[start : start + _CHUNK])
        count += part.shape[0] * part.shape[2] * part.shape[3]
        total = total + part.sum(axis=(0, 2, 3))
        squares = squares + np.square(part).sum(axis=(0, 2, 3))
    mean = np.asarray(total / count)
    std = np.sqrt(np.maximum(squares / count - mean**2, 0))
    # A constant channel is standardised to zeros. Features may be large: the rounding of their squares is, too.
    std[std < 1e-6 * (1 + np.abs(mean))] = 1.0
    return tuple(mean.tolist()), tuple(std.tolist())


def common_source(stores: Sequence[PatchStore]) -> Source | None:
    """Return what the slides have in common; None without slides. ChannelMismatchError names two that do not fit."""
    sources = [_source_of(store) for store in stores]
    if not sources:
        return None
    first = sources[0]
    mpps = [source.mpp for source in sources if source.mpp is not None]
    if mpps and not mpp_agrees(*mpps):
        raise ChannelMismatchError(
            f"the slides were tiled at {min(mpps):g} to {max(mpps):g} um/px",
            place="slides",
            remedy="tile them at one scale, such as tile --mpp 0.5",
        )
    for source, store in zip(sources, stores, strict=True):
        for name in ("channels", "dtype", "patch_px", "intensity", "align", "least_tumor"):
            if getattr(source, name) != getattr(first, name):
                raise ChannelMismatchError(
                    f"{name} is {getattr(source, name)} in {store.path.stem!r}, "
                    f"{getattr(first, name)} in {stores[0].path.stem!r}",
                    place=str(store.path),
                    remedy="train on slides of one kind, with the same patch size and rules of intensity and labels",
                )
    # Slides that show no background took their level from the cohort: such a level is no rule of the model.
    levels = [source.tissue.get("background_level", {}) for source in sources]
    shared = {name: level for name, level in levels[0].items() if all(own.get(name) == level for own in levels)}
    tissue = {**first.tissue, "background_level": shared} if levels[0] else first.tissue
    same = all(source.background == first.background for source in sources)
    return replace(first, background=first.background if same else "auto", tissue=tissue)


def _source_of(store: PatchStore) -> Source:
    """Return the facts that a store holds about its slide."""
    stored = store.attributes
    rule = stored.get("stamp", {}).get("settings", {}).get("labels", {})
    # Ready patches show too little background to tell whether it is dark: a guess there binds no other slide.
    is_guess = stored.get("is_ready_set", False) and stored["tissue"]["background"] == "auto"
    return Source(
        channels=tuple(stored["channels"]),
        dtype=stored["dtype"],
        patch_px=stored["patch_px"],
        stride_px=stored["stride_px"],
        mpp=stored["target_mpp"],
        background="auto" if is_guess else stored["background"],
        intensity=stored["intensity"],
        tissue={name: value for name, value in stored["tissue"].items() if name in TissueConfig.model_fields},
        align=stored.get("registration", {}).get("align", False),
        least_tumor=rule["ambiguous"][1] if rule.get("ambiguous") else rule.get("min_tumor_fraction"),
    )


def _in_memory(
    stored: StoredPatches,
    slide: NDArray[Any],
    row: NDArray[np.int64],
    shape: tuple[int, ...],
    patch_id: NDArray[Any],
) -> NDArray[np.float16]:
    """Return all patches as one array in memory."""
    x = np.empty(shape, dtype=np.float16)
    order = np.lexsort((row, slide))  # in the order of the stores, so that each shard is decoded once
    for start in range(0, len(order), _CHUNK):
        chunk = order[start : start + _CHUNK]
        part = stored.__getitems__(chunk)
        _check_finite(part, patch_id[chunk])
        x[chunk] = part
    return x


def _check_finite(part: NDArray[Any], patch_id: NDArray[Any]) -> None:
    """Refuse patches with NaN or infinity, by name."""
    bad = ~np.isfinite(part).all(axis=(1, 2, 3))
    if bad.any():
        names = ", ".join(str(name) for name in patch_id[bad][:5])
        raise NonFiniteError(
            f"{int(bad.sum())} patches hold NaN or infinity: {names}",
            place=names,
            remedy="exclude or repair their slide, then tile it again",
        )


def mixed_seed(*parts: int) -> int:
    """Return one seed of 63 bits that depends on all parts; neighbouring parts give unrelated seeds."""
    return int(np.random.SeedSequence(parts).generate_state(1, np.uint64)[0] >> np.uint64(1))


class StoredPatches:
    """Patches that are read from their stores when they are needed; any thread or process may read.

    `slide` and `row` (N,) name the store of each patch and its row in it; `input_px` is the side after resampling.
    """

    def __init__(
        self, stores: Sequence[PatchStore], slide: NDArray[np.int64], row: NDArray[np.int64], *, input_px: int
    ) -> None:
        self._stores = tuple(stores)
        self._slide, self._row, self._input_px = slide, row, input_px
        self._open_slides, self._memory = _OpenSlides(), _BatchMemory()

    def __len__(self) -> int:
        return len(self._row)

    def rows(self, index: NDArray[np.int64]) -> StoredPatches:
        """Return some of the patches, read from the same stores."""
        return StoredPatches(self._stores, self._slide[index], self._row[index], input_px=self._input_px)

    def __getitems__(self, indices: Sequence[int] | NDArray[np.int64]) -> NDArray[np.float32]:
        """Return several patches, float32 of shape (n, C, input_px, input_px); one read per slide."""
        chosen = np.asarray(indices, dtype=np.int64)
        slides = self._slide[chosen]
        x: NDArray[np.float32] | None = None
        for number in np.unique(slides):
            store = self._stores[number]
            places = np.flatnonzero(slides == number)
            pixels, windows = store.read(self._row[chosen[places]]), store.windows  # (n, C, p, p)
            if x is None:
                x = self._memory.array((len(chosen), pixels.shape[1], self._input_px, self._input_px))
            if pixels.shape[2:] == x.shape[2:]:
                for place, patch in zip(places, pixels, strict=True):  # one by one: each fits into the cache
                    scale(patch, windows, out=x[place])
            else:
                x[places] = resize_area(scale(pixels, windows), self._input_px)
            for least_recent in self._open_slides.note(int(number)):
                self._stores[least_recent].close()
        if x is None:
            raise IndexError("no patch indices were given")
        return x

    def __getitem__(self, index: Any) -> NDArray[np.float32]:
        """Return patches by a slice or an array of indices, or one patch (C, input_px, input_px) by its index."""
        if isinstance(index, int | np.integer):
            patch: NDArray[np.float32] = self.__getitems__([int(index)])[0]
            return patch
        return self.__getitems__(np.arange(len(self))[index])


class _BatchMemory:
    """Memory for batches, used again once nobody holds an earlier batch."""

    # Touching new memory takes as long as scaling the pixels. CPython counts who holds an array; an interpreter that
    # counts more, or not at all, only gets new memory each time.
    _MOST = 3  # a batch that is learnt from, one that waits, one that is being read
    _OWN = 3  # holders of an array while it is looked at: the list, the variable, the argument

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._arrays: list[NDArray[np.float32]] = []

    def __reduce__(self) -> tuple[Any, ...]:
        return _BatchMemory, ()

    def array(self, shape: tuple[int, ...]) -> NDArray[np.float32]:
        """Return an array of a shape, its content arbitrary."""
        size = math.prod(shape)
        with self._lock:
            for array in self._arrays:
                if array.size >= size and sys.getrefcount(array) <= self._OWN:
                    return array[:size].reshape(shape)
            new = np.empty(size, np.float32)
            self._arrays = [new, *self._arrays[: self._MOST - 1]]
            return new.reshape(shape)


class _OpenSlides:
    """The slides read last: only a few stay open, since each holds files and decoded tiles."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._numbers: OrderedDict[int, None] = OrderedDict()

    def __reduce__(self) -> tuple[Any, ...]:
        return _OpenSlides, ()  # another process has opened nothing yet

    def note(self, number: int) -> list[int]:
        """Note that a slide was read; return those to close."""
        with self._lock:
            self._numbers[number] = None
            self._numbers.move_to_end(number)
            excess = len(self._numbers) - _OPEN_SLIDES
            return [self._numbers.popitem(last=False)[0] for _ in range(max(0, excess))]
