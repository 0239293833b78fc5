"""Encode the patches of a slide and keep the features: ``features/<encoder key>/<slide_id>.h5`` and the status.

Patches are read from the slide, cut as `tile` cuts them, or from a tiled slide's store. Each has its tissue fraction
beside its features. A kill at any point leaves the earlier file or none.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from pathopatch.core.artefacts import (
    SlideStatus,
    Stamp,
    artefact,
    content_fingerprint,
    fingerprint_file,
    read_table,
)
from pathopatch.core.config import EncodeConfig, TileConfig
from pathopatch.core.errors import ChannelMismatchError, NonFiniteError
from pathopatch.core.locks import folder_lock, slide_lock
from pathopatch.core.prefetch import prefetch_items
from pathopatch.core.work_folder import WorkFolder
from pathopatch.features.patch_encoder import PatchEncoder
from pathopatch.features.readers.h5 import load_h5py, open_h5
from pathopatch.features.readers.pathopatch_h5 import ATTRIBUTE, write_slide_features
from pathopatch.features.slide_features import Encoder, SlideFeatures
from pathopatch.groups.attribute import scanned_enough
from pathopatch.patches.analysis import SlideAnalysis, analyse_slide, grid_of, iterate_patches
from pathopatch.patches.intensity import scale
from pathopatch.patches.mask_bits import unpack_masks
from pathopatch.patches.store import PatchStore
from pathopatch.patches.tile import tile_stamp, tiled_content
from pathopatch.slides import Slide

if TYPE_CHECKING:
    import pandas as pd

STAGE = "encode"
_AHEAD = 2  # batches that are read while the network computes
_NAMED = 5  # patches in a message


@dataclass(frozen=True, kw_only=True)
class EncodeResult:
    """The outcome of encoding a slide."""

    slide_id: str
    patches: int
    state: Literal["done", "done_empty", "current"]  # done_empty: no patch with enough tissue
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True, eq=False)
class _Batch:
    """Patches for the encoder: n of them."""

    patches: NDArray[np.float32]  # (n, 3, p, p), in [0, 1]
    tissue: NDArray[np.bool_] | None  # (n, p, p); None where the encoder does not take it
    origins: NDArray[np.int64]  # (n, 2): x, y, level-0 px
    tissue_fraction: NDArray[np.float64]  # (n,)
    scanned_fraction: NDArray[np.float64]  # (n,)
    done: int  # positions of the grid that are read so far


@dataclass(frozen=True, kw_only=True, eq=False)
class PatchSource:
    """Where the patches of a slide come from.

    `batches` reads them, `batch` at a time, and is called only where there is something to do.
    """

    slide_id: str
    positions: int  # of the grid, with and without tissue
    side_px: float  # of a patch, level-0 px
    patch_px: int  # the same as it is cut
    overlap_px: int  # of neighbouring patches, in the same pixels
    mpp: float | None  # of level 0
    size_px: tuple[int, int] | None
    content: str  # `content_fingerprint` of the slide's files; "" of ready patches
    stamp: Stamp  # of the patches alone
    batches: Callable[[], Iterator[_Batch]]
    require_unchanged: Callable[[], None] = lambda: None
    warnings: list[str]  # may grow while the patches are read


def slide_patches(
    slide: Slide, slide_id: str, tiling: TileConfig, config: EncodeConfig, *, tissue_mask: Path | None = None
) -> PatchSource:
    """Return the patches of a slide, cut as `tiling` says; errors as of `grid_of` and `channel_index`."""
    grid = grid_of(slide, tiling)
    index = channel_index(slide.channels, config.channels, is_rgb=slide.is_rgb, place=str(slide.paths[0]))
    warnings = list(slide.notes)

    def batches() -> Iterator[_Batch]:
        analysis = analyse_slide(slide, tiling, tissue_mask=tissue_mask)
        warnings.extend(analysis.warnings(slide.mpp, tiling.registration.warn_um))
        return _slide_batches(slide, analysis, index, config)

    return PatchSource(
        slide_id=slide_id,
        positions=grid.nx * grid.ny,
        side_px=grid.extent,
        patch_px=grid.patch_px,
        overlap_px=grid.patch_px - grid.stride_px,
        mpp=slide.mpp if slide.has_mpp else None,
        size_px=slide.size,
        content=content_fingerprint(slide.paths),
        stamp=tile_stamp(slide, tiling, slide_id, "", None, tissue_mask),
        batches=batches,
        require_unchanged=slide.require_unchanged,
        warnings=warnings,
    )


def stored_patches(work: Path, slide_id: str, config: EncodeConfig) -> PatchSource:
    """Return the patches of a tiled slide, from its store; errors as of `PatchStore` and `channel_index`."""
    store, table_path = PatchStore(WorkFolder(work).store(slide_id)), WorkFolder(work).patches(slide_id)
    stored = store.attributes
    index = channel_index(stored["channels"], config.channels, is_rgb=stored["is_rgb"], place=str(store.path))

    def batches() -> Iterator[_Batch]:
        table = read_table(table_path)
        table = table[with_enough_tissue(table, config)]
        return _stored_batches(store, table, index, config)

    mpp = stored["mpp"]
    return PatchSource(
        slide_id=slide_id,
        positions=len(store),
        side_px=stored["patch_px"] * stored["downsample"],
        patch_px=stored["patch_px"],
        overlap_px=stored["patch_px"] - stored["stride_px"],
        mpp=mpp,
        size_px=None if stored.get("is_ready_set") else (stored["size_px"][0], stored["size_px"][1]),
        content=tiled_content(stored),
        stamp=Stamp(stage="tile", inputs={"pixels": store.pixels_checksum, "patches": fingerprint_file(table_path)}),
        batches=batches,
        warnings=[],
    )


def with_enough_tissue(table: pd.DataFrame, config: EncodeConfig) -> pd.Series[bool]:
    """Return which rows of a patch table are encoded."""
    return (table["tissue_fraction"] >= config.min_tissue) & scanned_enough(table, config.min_scanned)


def encode_patches(
    source: PatchSource,
    encoder: Encoder,
    open_encoder: Callable[[], PatchEncoder],
    out: Path,
    config: EncodeConfig,
    *,
    force: bool = False,
    progress: Callable[[int, int], None] = lambda _done, _all: None,
) -> EncodeResult:
    """Write the features of a slide's patches and its status, unless they are up to date.

    `open_encoder` returns the encoder ready to use; it takes seconds, and is called only where there is something to
    do. A second process waits for the first one, and then finds its output. `progress` is called with (grid positions
    done, all).

    Raises
    ------
    StaleArtefactError
        The features there were made of other patches or settings, and `force` is off.
    NonFiniteError, InputChangedError, DiskFullError
        A feature is NaN or infinite; the slide's files changed meanwhile; no space was left: the earlier file is
        untouched.
    """
    key, slide_id = encoder.key, source.slide_id
    path = WorkFolder(out).encoded(key, slide_id)
    settings = {
        "encoder": encoder.to_dict(),
        "min_tissue": config.min_tissue,
        "min_scanned": config.min_scanned,
        "patches": source.stamp.settings,
    }
    stamp = Stamp(stage=STAGE, settings=settings, inputs=source.stamp.inputs)
    with folder_lock(out, slide_lock(slide_id, STAGE), waiting_for=f"slide {slide_id} ({STAGE})"):
        earlier = _read_earlier(path)
        with artefact(
            path,
            stamp=stamp,
            force=force,
            existing=[earlier and earlier[0]],
            require_unchanged=source.require_unchanged,
            status=SlideStatus(out, slide_id, STAGE),
        ) as output:
            patches = earlier[1] if earlier else 0
            entry: dict[str, Any] = {"encoder": key, "warnings": source.warnings}
            if not output.is_current:
                ready = open_encoder()
                features = compute_features(source, ready, config, progress)
                output.require_unchanged()
                px, overlap_px = source.patch_px, source.overlap_px
                write_slide_features(path, features, stamp.to_dict(), patch_px=px, overlap_px=overlap_px)
                patches = len(features)
                entry["computed_by"] = ready.computed_by
            state: Literal["done", "done_empty"] = "done" if patches else "done_empty"
            output.record({"state": state, "patches": patches, **entry})
    return EncodeResult(
        slide_id=slide_id,
        patches=patches,
        state="current" if output.is_current else state,
        warnings=tuple(source.warnings),
    )


def _read_earlier(path: Path) -> tuple[Stamp, int] | None:
    """Return the stamp and the number of patches of an earlier file; None if there is none to read."""
    load_h5py(path)  # without it the features could not be written: said before they are computed
    try:
        with open_h5(path) as file:
            return Stamp.from_dict(json.loads(file.attrs[ATTRIBUTE])["stamp"]), len(file["features"])
    except (OSError, KeyError, ValueError, TypeError):
        return None


def channel_index(
    channels: tuple[str, ...] | list[str], chosen: tuple[str, str, str] | None, *, is_rgb: bool, place: str
) -> list[int]:
    """Return the indices of the channels that are given to an encoder as red, green and blue.

    ChannelMismatchError if the slide is not 8-bit RGB and none are chosen, or if it lacks one of them.
    """
    if chosen is None:
        if is_rgb:
            return [0, 1, 2]
        raise ChannelMismatchError(
            f"the channels are {', '.join(channels)}, and the encoder was made for red, green and blue",
            place=place,
            remedy="say which channels to give as red, green and blue: encode --channels A,B,C",
        )
    number_of = {name.casefold(): number for number, name in enumerate(channels)}
    if unknown := [name for name in chosen if name.casefold() not in number_of]:
        raise ChannelMismatchError(
            f"no channel {unknown[0]!r}, the slide has {', '.join(channels)}",
            place=place,
            remedy="name the slide's channels in the manifest, or correct encode --channels",
        )
    return [number_of[name.casefold()] for name in chosen]


def _slide_batches(slide: Slide, analysis: SlideAnalysis, index: list[int], config: EncodeConfig) -> Iterator[_Batch]:
    grid = analysis.grid
    origins = grid.origins()
    parts = iterate_patches(
        slide, analysis, min_tissue=config.min_tissue, min_scanned=config.min_scanned, batch_size=config.batch
    )
    for part in parts:
        yield _Batch(
            patches=scale(part.patches[:, index], analysis.windows[index]),
            tissue=unpack_masks(part.tissue_mask, grid.patch_px) if config.pooling == "tissue-mean" else None,
            origins=origins[part.rows],
            tissue_fraction=part.tissue_fraction,
            scanned_fraction=part.scanned_fraction,
            done=int(part.rows[-1]) + 1,
        )


def _stored_batches(store: PatchStore, table: Any, index: list[int], config: EncodeConfig) -> Iterator[_Batch]:
    rows = store.rows(table["patch_id"].tolist())
    fractions, scanned = (table[name].to_numpy(np.float64) for name in ("tissue_fraction", "scanned_fraction"))
    for start in range(0, len(rows), config.batch):
        part = slice(start, start + config.batch)
        yield _Batch(
            patches=scale(store.read(rows[part])[:, index], store.windows[index]),
            tissue=store.masks(rows[part], "tissue") if config.pooling == "tissue-mean" else None,
            origins=store.origins[rows[part]],
            tissue_fraction=fractions[part],
            scanned_fraction=scanned[part],
            done=int(rows[part][-1]) + 1,
        )


def compute_features(
    source: PatchSource,
    encoder: PatchEncoder,
    config: EncodeConfig,
    progress: Callable[[int, int], None] = lambda _done, _all: None,
) -> SlideFeatures:
    """Return the features of a slide's patches with enough tissue; NonFiniteError if one is NaN or infinite.

    A thread reads and prepares the next batches while the network computes.
    """

    def prepared() -> Iterator[tuple[_Batch, NDArray[np.float32]]]:
        for batch in source.batches():
            yield batch, encoder.prepare(batch.patches, batch.tissue)

    # A slide without tissue has no batch, so each begins with an empty part of its shape.
    features: list[NDArray[Any]] = [np.empty((0, encoder.encoder.dim), encoder.dtype)]
    origins, fractions, scanned = [np.empty((0, 2), np.int64)], [np.empty(0)], [np.empty(0)]
    progress(0, source.positions)
    with closing(prefetch_items(prepared(), ahead=_AHEAD)) as ready:
        for batch, x in ready:
            values = encoder.encode(x)
            _require_finite(values, batch.origins, source.slide_id)
            features.append(values)
            origins.append(batch.origins)
            fractions.append(batch.tissue_fraction)
            scanned.append(batch.scanned_fraction)
            progress(batch.done, source.positions)
    progress(source.positions, source.positions)
    x, y = np.concatenate(origins).astype(np.float64).T
    share = np.concatenate(scanned)
    return SlideFeatures(
        slide_id=source.slide_id,
        features=np.concatenate(features),
        encoder=encoder.encoder,
        path=Path(),
        x=x,
        y=y,
        side=source.side_px,
        mpp=source.mpp,
        tissue_fraction=np.concatenate(fractions).astype(np.float32),
        scanned_fraction=None if (share == 1).all() else share.astype(np.float32),
        size_px=source.size_px,
        slide_content=source.content,
        notes=(f"patches with less than {100 * config.min_tissue:g} % tissue were left out",)
        if config.min_tissue
        else (),
    )


def _require_finite(values: NDArray[Any], origins: NDArray[np.int64], slide_id: str) -> None:
    is_bad = ~np.isfinite(values).all(axis=1)
    if is_bad.any():
        names = ", ".join(f"{slide_id}@{x},{y}" for x, y in origins[is_bad][:_NAMED].tolist())
        raise NonFiniteError(
            f"the features of {int(is_bad.sum())} patches are NaN or infinite: {names}",
            place=slide_id,
            remedy="use encode --precision float32 or bfloat16, and look for NaN in the weights",
        )
