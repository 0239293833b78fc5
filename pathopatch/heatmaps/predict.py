"""Predict each patch of a slide that holds enough tissue, and flag predictions that deserve a second look.

Geometry, tissue and intensity rule are those of the model's bundle, through the same code that tiles for training.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from pandas.arrays import BooleanArray

from pathopatch.core.config import FlagsConfig, PredictConfig
from pathopatch.core.errors import NonFiniteError
from pathopatch.core.prefetch import prefetch_items
from pathopatch.heatmaps import FLAGS
from pathopatch.heatmaps.pyramids import CHANNELS
from pathopatch.heatmaps.stitch import Cells, coverage, stitch
from pathopatch.models.forward import Ensemble, PatchClassifier
from pathopatch.models.spec import TrainingRange, check_slide, patch_limits, tiling_of
from pathopatch.patches.analysis import SlideAnalysis, analyse_slide, iterate_patches
from pathopatch.patches.intensity import saturated_fraction, scale, sharpness
from pathopatch.patches.mask_bits import unpack_masks
from pathopatch.slides import Slide, TolerantSlide, in_order, tolerant

DEFAULTS = PredictConfig()
_AHEAD = 128  # patches that are read ahead: the network never waits, and few are in memory
# Scaled pixels of a batch. Reading 64 patches of 256 px at a time took half as long again: from 32 MiB on the C library
# takes fresh memory from the system for each array, which clears it page by page.
_BATCH_BYTES = 16 * 2**20
_ROWS_AT_ONCE = 65536  # of the table; a slide may have a million

_COLUMNS = {
    "patch_id": "str", "x": "int64", "y": "int64", "width": "int64", "height": "int64",
    "tissue_fraction": "float64", "scanned_fraction": "float64",
    "logit": "float64", "probability": "float64", "spread": "float64",
    "saturated_fraction": "float64", "sharpness": "float64", **{f"flag_{name}": "boolean" for name in FLAGS},
}  # fmt: skip
_PREDICTED = ("logit", "probability", "spread", "saturated_fraction", "sharpness")


@dataclass(frozen=True, kw_only=True, eq=False)
class Prediction:
    """The predictions of a slide's patches: N positions of the grid, of which M are predicted."""

    slide_id: str
    analysis: SlideAnalysis  # grid, tissue and intensity windows
    tissue_fraction: NDArray[np.float64]  # (N,), row by row of the grid, in [0, 1]; NaN if it cannot be decoded
    scanned_fraction: NDArray[np.float64]  # (N,), of each patch's part on the slide, in [0, 1]
    origins: NDArray[np.int64]  # (M, 2), in that order, level-0 px
    columns: dict[str, NDArray[Any] | BooleanArray]  # (M,) each, by the table's names; flags may be missing
    decision_probability: float  # above it a patch is of the second of two classes
    unreadable: int  # grid positions whose pixels cannot be decoded
    placement: Literal["grid", "nearest"] = "grid"  # nearest: patches lie on no common grid, and count in the next cell

    def maps(self) -> tuple[NDArray[np.float64], tuple[str, ...]]:
        """Return the maps (C, ny, nx) and their names; spread and scanned fraction only where they tell something."""
        grid = self.analysis.grid
        x, y = self.origins.T
        probability, spread = np.asarray(self.columns["probability"]), np.asarray(self.columns["spread"])
        tissue, scanned = self.tissue_maps(partial(stitch, grid, *grid.origins().T))
        maps = [stitch(grid, x, y, probability), tissue, coverage(grid, x, y, probability)]
        return with_optional_maps(maps, stitch(grid, x, y, spread), scanned)

    def tissue_maps(self, place: Callable[[NDArray[np.float64]], Cells]) -> tuple[Cells, Cells]:
        """Return the maps of the tissue fraction and the scanned fraction, (ny, nx) each, as `place` places values.

        Their product times a cell's area is the area of its tissue.
        """
        if (self.scanned_fraction == 1).all():
            tissue = place(self.tissue_fraction)
            return tissue, np.ones(tissue.shape)
        # A mean over patches by their scanned area, 0 where nothing was scanned.
        area = place(self.tissue_fraction * self.scanned_fraction)
        of_known = place(np.where(np.isnan(self.tissue_fraction), np.nan, self.scanned_fraction))
        tissue = np.divide(area, of_known, out=np.where(of_known == 0, 0.0, np.nan), where=of_known > 0)
        return tissue, place(self.scanned_fraction)

    def unreadable_cells(self, tissue: NDArray[np.float64]) -> NDArray[np.bool_]:
        """Return which cells of a map of the tissue (ny, nx) cannot be decoded."""
        return np.isnan(tissue)  # that of every other cell is known

    def tables(self) -> Iterator[pd.DataFrame]:
        """Yield the table in parts, at least one; columns as `predict_slide` returns them."""
        span_px = self.analysis.grid.span_px
        for start in range(0, max(1, len(self.origins)), _ROWS_AT_ONCE):
            rows = slice(start, start + _ROWS_AT_ONCE)
            origins = self.origins[rows]
            columns: dict[str, Any] = {
                "patch_id": [f"{self.slide_id}@{x},{y}" for x, y in origins.tolist()],
                **{"x": origins[:, 0], "y": origins[:, 1], "width": span_px, "height": span_px},
                **{name: values[rows] for name, values in self.columns.items()},
            }
            yield pd.DataFrame({name: columns[name] for name in _COLUMNS}, index=range(len(origins))).astype(_COLUMNS)


def with_optional_maps(maps: Sequence[Cells], spread: Cells, scanned: Cells) -> tuple[Cells, tuple[str, ...]]:
    """Return the maps of `CHANNELS` and those that tell something, stacked (C, ny, nx), and their names.

    The `spread` is that of an ensemble, the `scanned` fraction of a slide that was not scanned everywhere.
    """
    further = {"spread": spread} if np.isfinite(spread).any() else {}
    further |= {} if (scanned == 1).all() else {"scanned_fraction": scanned}
    return np.stack([*maps, *further.values()]), (*CHANNELS, *further)


def predict_patches(
    slide: Slide,
    model: PatchClassifier | Ensemble,
    slide_id: str,
    config: PredictConfig,
    *,
    tissue_mask: Path | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Prediction:
    """Return the predictions of a slide's patches and the tissue of all; arguments and errors as `predict_slide`."""
    ensemble = model if isinstance(model, Ensemble) else Ensemble([model])
    spec = ensemble.spec
    slide = in_order(slide, spec.channels)
    if config.max_bad_tiles:
        slide = tolerant(slide, config.max_bad_tiles)
    check_slide(spec, slide)
    analysis = analyse_slide(slide, tiling_of(spec, config), tissue_mask=tissue_mask)
    origins = analysis.grid.origins()  # (N, 2)
    tissue, scanned = np.zeros(len(origins)), np.ones(len(origins))
    # A slide without tissue has no batch, so each column begins with an empty part of its shape.
    parts: dict[str, list[NDArray[Any]]] = {name: [np.empty(0)] for name in _PREDICTED}
    parts |= {"row": [np.empty(0, np.int64)], "mean": [np.empty((0, len(spec.channels)))]}
    batches = _batches(slide, analysis, ensemble, config, tissue, scanned)
    report: Callable[[int, int], None] = progress or (lambda _done, _all: None)
    report(0, len(origins))
    # A thread reads, scales and measures the next batches while the network computes.
    ahead = max(2, _AHEAD // _batch_size(ensemble, config))
    with closing(batches), closing(prefetch_items(batches, ahead=ahead)) as ready:
        for batch in ready:
            output = ensemble.forward(batch.x, tta=config.tta)
            predicted = {"logit": output.logit, "probability": output.probability, "spread": output.spread}
            for name, values in {**batch.measured, **predicted}.items():
                parts[name].append(values)
            report(batch.done, len(origins))
    report(len(origins), len(origins))
    columns: dict[str, Any] = {name: np.concatenate(values) for name, values in parts.items()}
    # Known only now: which tiles of the file cannot be decoded turns out while they are read.
    if isinstance(slide, TolerantSlide):
        # Aligned channels are read beside the patch too, by the largest shift.
        margin = max((abs(shift) for offset in analysis.offsets for shift in offset), default=0)
        is_lost = slide.is_lost(origins - margin, analysis.grid.extent + 2 * margin)
        tissue[is_lost] = np.nan
        is_kept = ~is_lost[columns["row"]]
        columns = {name: values[is_kept] for name, values in columns.items()}
    rows, mean = columns.pop("row"), columns.pop("mean")
    is_bad = ~np.isfinite(columns["logit"])
    if is_bad.any():
        names = [f"{slide_id}@{x},{y}" for x, y in origins[rows[is_bad]][:5].tolist()]
        raise NonFiniteError(
            f"{int(is_bad.sum())} logits are NaN or infinite: {', '.join(names)}{' …' if is_bad.sum() > 5 else ''}",
            place=slide_id,
            remedy="look for NaN pixels in the slide and for NaN weights in the model",
        )
    threshold = spec.decision_probability
    assert threshold is not None  # members of an ensemble have two classes
    raised = flags(
        tissue_fraction=tissue[rows],
        mean=mean,
        decision_probability=threshold,
        seen=spec.seen,
        config=config.flags,
        **{name: columns[name] for name in ("saturated_fraction", "sharpness", "probability", "spread")},
    )
    columns |= {"tissue_fraction": tissue[rows], "scanned_fraction": scanned[rows]}
    columns |= {f"flag_{name}": flag for name, flag in raised.items()}
    return Prediction(
        slide_id=slide_id,
        analysis=analysis,
        tissue_fraction=tissue,
        scanned_fraction=scanned,
        origins=origins[rows],
        columns=columns,
        decision_probability=threshold,
        unreadable=int(np.count_nonzero(np.isnan(tissue))),
    )


def flags(
    *,
    tissue_fraction: NDArray[np.float64],
    saturated_fraction: NDArray[np.float64],
    sharpness: NDArray[np.float64],
    mean: NDArray[np.float64],
    probability: NDArray[np.float64],
    spread: NDArray[np.float64],
    decision_probability: float,
    seen: TrainingRange | None,
    config: FlagsConfig,
) -> dict[str, BooleanArray]:
    """Return for each of `FLAGS` the patches that have it, (N,); missing where it cannot be decided.

    All arrays are (N,), shares and probabilities in [0, 1], but `mean`, (N, C): the mean of each channel, scaled to
    [0, 1]. `spread` is NaN for a single model. `seen` is the range of the training patches; without it ``out_of_range``
    and ``blurred`` are missing. `config` has the limits.
    """
    never, always = np.zeros(len(sharpness), np.bool_), np.ones(len(sharpness), np.bool_)
    raised = {  # whether a patch has the flag, and whether that is known
        "low_tissue": (tissue_fraction < config.low_tissue, always),
        "saturated": (saturated_fraction > config.saturated, always),
        "blurred": (never, never),
        "out_of_range": (never, never),
        "near_threshold": (np.abs(probability - decision_probability) <= config.near_threshold, always),
        "uncertain": (spread > config.spread, np.isfinite(spread)),
    }
    if seen is not None:
        low, high = np.array(seen.mean).T  # (C,) each
        raised["out_of_range"] = ((mean < low) | (mean > high)).any(axis=1), always
        # Little tissue is smooth on any slide, so sharpness is compared with patches of as much tissue.
        least = least_sharpness(tissue_fraction, seen)
        raised["blurred"] = sharpness < least, np.isfinite(least)
    # Cleared below the mask, so that equal flags have equal bytes.
    return {name: BooleanArray(has & is_known, ~is_known) for name, (has, is_known) in raised.items()}


def least_sharpness(tissue_fraction: NDArray[np.float64], seen: TrainingRange) -> NDArray[np.float64]:
    """Return the least sharpness, (N,), of training patches with as much tissue; NaN where none had so little."""
    if seen.sharpness_by_tissue is None:  # one least sharpness for all patches
        return np.full(len(tissue_fraction), np.nan if seen.sharpness is None else seen.sharpness)
    starts, least = np.array(seen.sharpness_by_tissue).T  # (bins,) each
    bin_number = np.searchsorted(starts, tissue_fraction, side="right")
    return np.asarray(np.append(np.nan, least)[bin_number], np.float64)


@dataclass(frozen=True, eq=False)
class _Batch:
    """Patches for the network: what each member takes, values by name, and the grid positions read so far."""

    x: list[NDArray[np.float32]]
    measured: dict[str, NDArray[Any]]
    done: int


def _batch_size(ensemble: Ensemble, config: PredictConfig) -> int:
    """Return how many patches make a batch: whole passes of the network if possible, `config.batch` at most."""
    spec = ensemble.spec
    size = min(config.batch, max(1, _BATCH_BYTES // (4 * len(spec.channels) * spec.patch_px**2)))
    return size - size % ensemble.members[0].runtime.patches_per_pass or size


def _batches(
    slide: Slide,
    analysis: SlideAnalysis,
    ensemble: Ensemble,
    config: PredictConfig,
    tissue: NDArray[np.float64],
    scanned: NDArray[np.float64],
) -> Generator[_Batch]:
    """Yield the patches to predict in batches across the rows of the grid; fill in `tissue` and `scanned`, (N,)."""
    limits = patch_limits(ensemble.spec, config)
    prepare = partial(_prepared, origins=analysis.grid.origins(), slide=slide, analysis=analysis, ensemble=ensemble)
    size = _batch_size(ensemble, config)
    for part in iterate_patches(slide, analysis, **limits, batch_size=size, fractions_out=tissue, scanned_out=scanned):
        yield prepare(part.rows, part.patches, part.tissue_mask, done=int(part.rows[-1]) + 1)


def _prepared(
    rows: NDArray[np.int64],
    patches: NDArray[np.generic],
    masks: NDArray[np.uint8],
    *,
    origins: NDArray[np.int64],
    slide: Slide,
    analysis: SlideAnalysis,
    ensemble: Ensemble,
    done: int,
) -> _Batch:
    """Return patches (n, C, P, P), source units, as a batch: measured, scaled, and as each member takes them.

    `masks` are the bits of their tissue, see `pack_masks`.
    """
    grid = analysis.grid
    sharpness_factor = ensemble.spec.intensity.sharpness_mpp / (slide.mpp * grid.downsample)
    scaled = np.empty(patches.shape, np.float32)
    saturated, sharp = np.empty((2, len(rows)))
    means = np.empty(patches.shape[:2], np.float32)
    # Patch by patch, which the processor's cache holds.
    for number, (x, y) in enumerate(origins[rows].tolist()):
        means[number] = scale(patches[number], analysis.windows, out=scaled[number]).mean(axis=(1, 2))
        # Only what lies on the slide is measured; the overhang is filled with glass.
        width, height = grid.inside(x, y)
        saturated[number] = saturated_fraction(
            patches[number, :, :height, :width],
            analysis.windows,
            polarities=analysis.tissue.polarities,
            scanned=partial(analysis.tissue.scanned_mask, x, y, grid.downsample, (width, height)),
        )
        sharp[number] = sharpness(scaled[number, :, :height, :width], factor=sharpness_factor)
    values = {
        "row": rows,
        "saturated_fraction": saturated,
        "sharpness": sharp,
        "mean": means.astype(np.float64),
    }
    inside = unpack_masks(masks, grid.patch_px) if ensemble.takes_masks else None
    return _Batch([member.standardised(scaled, inside) for member in ensemble.members], values, done)
