"""Encode the patches of a slide and keep the features: ``features/<encoder key>/<slide_id>.h5`` and the status.

Patches are read from the slide, cut as `tile` cuts them, or from a tiled slide's store. Each has its tissue fraction
beside its features. A kill at any point leaves the earlier file or none.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pathopatch.core.artefacts import Stamp
from pathopatch.core.config import EncodeConfig
from pathopatch.core.errors import ChannelMismatchError, NonFiniteError
from pathopatch.core.mask_bits import unpack_masks
from pathopatch.core.task import Outcome, SlideOutputs
from pathopatch.core.work_folder import WorkFolder
from pathopatch.core.workers import prefetch_items
from pathopatch.features.patch_encoder import PatchEncoder
from pathopatch.features.readers.h5 import load_h5py, open_h5
from pathopatch.features.readers.pathopatch_h5 import ATTRIBUTE, write_slide_features
from pathopatch.features.slide_features import Encoder, SlideFeatures
from pathopatch.patches.analysis import PatchBatch
from pathopatch.patches.intensity import scale
from pathopatch.patches.source import FromSlide, FromStore

STAGE = "encode"
_AHEAD = 2  # batches that are read while the network computes
_NAMED = 5  # patches in a message


PixelSource = FromSlide | FromStore
"""Patches with pixels: what an encoder takes."""


def feature_outputs(
    source: PixelSource, encoder: Encoder, out: Path, config: EncodeConfig, *, force: bool = False
) -> SlideOutputs:
    """Return what `encode_patches` makes of a slide's patches."""
    load_h5py(out)  # without it the features could not be written: said before they are computed

    def make_stamp() -> Stamp:
        patches = source.stamp
        settings = {
            "encoder": encoder.to_dict(),
            "min_tissue": config.min_tissue,
            "min_scanned": config.min_scanned,
            "patches": patches.settings,
        }
        return Stamp(stage=STAGE, settings=settings, inputs=patches.inputs)

    return SlideOutputs(
        out=out,
        slide_id=source.slide_id,
        stage=STAGE,
        parts=(WorkFolder(out).encoded(encoder.key, source.slide_id),),
        make_stamp=make_stamp,
        force=force,
        require_unchanged=source.require_unchanged,
        stamp_of=_read_stamp,
    )


def encode_patches(
    source: PixelSource,
    encoder: Encoder,
    open_encoder: Callable[[], PatchEncoder],
    out: Path,
    config: EncodeConfig,
    *,
    force: bool = False,
    progress: Callable[[int, int], None] = lambda _done, _all: None,
) -> Outcome:
    """Write the features of a slide's patches and its status, unless they are up to date.

    `open_encoder` returns the encoder ready to use; it takes seconds, and is called only where there is something to
    do. A second process waits for the first one, and then finds its output. `progress` is called with (grid positions
    done, all).

    Raises
    ------
    ChannelMismatchError
        As `channel_index`.
    StaleArtefactError
        The features there were made of other patches or settings, and `force` is off.
    NonFiniteError, InputChangedError, DiskFullError
        A feature is NaN or infinite; the slide's files changed meanwhile; no space was left: the earlier file is
        untouched.
    """
    source_channels(source, config)  # refused before anything is looked at
    outputs = feature_outputs(source, encoder, out, config, force=force)
    (path,) = outputs.parts
    with outputs.made() as output:
        entry: dict[str, Any] = {"encoder": path.parent.name, "warnings": source.warnings}
        if output.is_current:
            with open_h5(path) as file:
                patches = len(file["features"])
        else:
            ready = open_encoder()
            features = compute_features(source, ready, config, progress)
            outputs.require_unchanged()
            patch_px, overlap_px = source.grid.patch_px, source.grid.patch_px - source.grid.stride_px
            write_slide_features(path, features, output.stamp.to_dict(), patch_px=patch_px, overlap_px=overlap_px)
            patches = len(features)
            entry["computed_by"] = ready.computed_by
        state = "done" if patches else "done_empty"
        output.record({"state": state, "patches": patches, **entry})
    return Outcome(
        slide_id=source.slide_id,
        state="current" if output.is_current else state,
        counts={"patches": patches},
        warnings=tuple(source.warnings),
    )


def _read_stamp(path: Path) -> Stamp | None:
    """Return the stamp of an earlier file; None if there is none to read, or its features cannot be read."""
    try:
        with open_h5(path) as file:
            len(file["features"])
            return Stamp.from_dict(json.loads(file.attrs[ATTRIBUTE])["stamp"])
    except (OSError, KeyError, ValueError, TypeError):
        return None


def source_channels(source: PixelSource, config: EncodeConfig) -> list[int]:
    """Return the indices of a source's channels for an encoder, see `channel_index`."""
    place = source.slide.paths[0] if isinstance(source, FromSlide) else source.store.path
    return channel_index(source.channels, config.channels, is_rgb=source.is_rgb, place=str(place))


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


def compute_features(
    source: PixelSource,
    encoder: PatchEncoder,
    config: EncodeConfig,
    progress: Callable[[int, int], None] = lambda _done, _all: None,
) -> SlideFeatures:
    """Return the features of a slide's patches with enough tissue; NonFiniteError if one is NaN or infinite.

    A thread reads and prepares the next batches while the network computes.
    """
    index, origins, total = source_channels(source, config), source.origins, len(source.origins)
    takes_tissue = config.pooling == "tissue-mean"

    def prepared() -> Iterator[tuple[PatchBatch, NDArray[np.float32]]]:
        for batch in source.batches(
            config.batch, min_tissue=config.min_tissue, min_scanned=config.min_scanned, with_masks=takes_tissue
        ):
            tissue = unpack_masks(batch.tissue_mask, source.grid.patch_px) if takes_tissue else None
            yield batch, encoder.prepare(scale(batch.patches[:, index], source.windows[index]), tissue)

    # A slide without tissue has no batch, so each begins with an empty part of its shape.
    features: list[NDArray[Any]] = [np.empty((0, encoder.encoder.dim), encoder.dtype)]
    rows, fractions, scanned = [np.empty(0, np.int64)], [np.empty(0)], [np.empty(0)]
    progress(0, total)
    with closing(prefetch_items(prepared(), ahead=_AHEAD)) as ready:
        for batch, x in ready:
            values = encoder.encode(x)
            _require_finite(values, origins[batch.rows], source.slide_id)
            features.append(values)
            rows.append(batch.rows)
            fractions.append(batch.tissue_fraction)
            scanned.append(batch.scanned_fraction)
            progress(int(batch.rows[-1]) + 1, total)
    progress(total, total)
    x, y = origins[np.concatenate(rows)].astype(np.float64).T
    share = np.concatenate(scanned)
    return SlideFeatures(
        slide_id=source.slide_id,
        features=np.concatenate(features),
        encoder=encoder.encoder,
        path=Path(),
        x=x,
        y=y,
        side=source.grid.extent,
        mpp=source.mpp,
        tissue_fraction=np.concatenate(fractions).astype(np.float32),
        scanned_fraction=None if (share == 1).all() else share.astype(np.float32),
        size_px=source.size_px,
        slide_content=next(iter(source.contents), ""),
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
