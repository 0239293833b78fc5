"""Predict each patch of a slide that holds enough tissue, and flag predictions that deserve a second look.

Geometry, tissue and intensity rule are those of the model's bundle, through the same code that tiles for training.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from pandas.arrays import BooleanArray

from pathopatch.core.config import PredictConfig
from pathopatch.core.errors import InputUnsupportedError, NonFiniteError
from pathopatch.core.mask_bits import masks_and_area, resize_masks, unpack_masks
from pathopatch.core.workers import prefetch_items
from pathopatch.debias.interventions import LEAST_AREA, set_area
from pathopatch.features.slide_features import SlideFeatures
from pathopatch.features.source import FromFeatures
from pathopatch.heatmaps import FLAGS
from pathopatch.heatmaps.pyramids import CHANNELS
from pathopatch.heatmaps.stitch import Cells, mean_of_nearest, stitch
from pathopatch.models.forward import Ensemble, EnsembleOutput, resize_area
from pathopatch.models.spec import (
    BundleSpec,
    TrainingRange,
    check_correction,
    check_features,
    check_slide,
    patch_limits,
    tiling_of,
)
from pathopatch.patches.analysis import PatchBatch, SlideAnalysis
from pathopatch.patches.grid import Grid
from pathopatch.patches.source import FromSlide, measured
from pathopatch.slides import Slide, in_order, tolerant
from pathopatch.slides.resolution import SlideFacts

DEFAULTS = PredictConfig()
FLAG_LIMITS = {"low_tissue": 0.1, "saturated": 0.05, "near_threshold": 0.1, "spread": 0.1}
"""From where on a patch is flagged: tissue fraction below, share of saturated pixels above, distance of the probability
to the decision up to, and standard deviation of the probability over an ensemble's members above."""
_MOST_PATCHES = 64  # of a batch, whatever their size
_AHEAD = 128  # patches that are read ahead: the network never waits, and few are in memory
# Scaled pixels of a batch. Reading 64 patches of 256 px at a time took half as long again: from 32 MiB on the C library
# takes fresh memory from the system for each array, which clears it page by page.
_BATCH_BYTES = 16 * 2**20
_FEATURES_AT_ONCE = 4096
_ROWS_AT_ONCE = 65536  # of the table; a slide may have a million

_COLUMNS = {
    "patch_id": "str", "x": "int64", "y": "int64", "width": "int64", "height": "int64",
    "tissue_fraction": "float64", "scanned_fraction": "float64",
    "logit": "float64", "probability": "float64", "spread": "float64",
    "saturated_fraction": "float64", "sharpness": "float64", **{f"flag_{name}": "boolean" for name in FLAGS},
}  # fmt: skip
_PREDICTED = ("logit", "probability", "spread", "saturated_fraction", "sharpness")


DrawnSource = FromSlide | FromFeatures
"""Patches of a slide that maps can be drawn of."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Prediction:
    """The predictions of a slide's patches: N places, of which M are predicted."""

    slide_id: str
    grid: Grid
    facts: SlideFacts  # of the slide that maps are drawn on
    mpp: float  # um per level-0 px
    analysis: SlideAnalysis  # of that slide; a tissue mask of (0, 0): no tissue was looked for
    places: NDArray[np.int64]  # (N, 2): of all patches, in the order of the source, level-0 px
    tissue_fraction: NDArray[np.float64]  # (N,), in [0, 1]; NaN if it cannot be decoded or is not known
    scanned_fraction: NDArray[np.float64]  # (N,), of each patch's part on the slide, in [0, 1]
    origins: NDArray[np.int64]  # (M, 2), in that order, level-0 px
    columns: dict[str, NDArray[Any] | BooleanArray]  # (M,) each, by the table's names; flags may be missing
    decision_probability: float  # above it a patch is of the second of two classes
    unreadable: int  # patches whose pixels cannot be decoded
    # (K, 2): patches with tissue, but without a crop of it that the model could judge, level-0 px
    too_little_tissue: NDArray[np.int64] = field(default_factory=lambda: np.empty((0, 2), np.int64))
    placement: Literal["grid", "nearest"] = "grid"  # nearest: patches lie on no common grid, and count in the next cell

    def maps(self) -> tuple[NDArray[np.float64], tuple[str, ...]]:
        """Return the maps (C, ny, nx) and their names; spread and scanned fraction only where they tell something."""
        x, y = self.origins.T
        of_predicted = partial(stitch if self.placement == "grid" else mean_of_nearest, self.grid, x, y)
        probability, spread = (of_predicted(np.asarray(self.columns[name])) for name in ("probability", "spread"))
        tissue, scanned = self._tissue_maps()
        further = {"spread": spread} if np.isfinite(spread).any() else {}
        further |= {} if (scanned == 1).all() else {"scanned_fraction": scanned}
        return np.stack([probability, tissue, *further.values()]), (*CHANNELS, *further)

    @property
    def has_patch(self) -> NDArray[np.bool_]:
        """Which cells (ny, nx) a patch lies on, predicted or not."""
        x, y = self.places.T
        place = stitch if self.placement == "grid" else mean_of_nearest
        return np.isfinite(place(self.grid, x, y, np.ones(len(x))))

    def _tissue_maps(self) -> tuple[Cells, Cells]:
        """Return the maps of the tissue fraction and the scanned fraction, (ny, nx) each.

        Their product times a cell's area is the area of its tissue. Where there is no patch, there is no tissue.
        """
        x, y = self.places.T
        place = partial(stitch if self.placement == "grid" else mean_of_nearest, self.grid, x, y)
        if (self.scanned_fraction == 1).all():
            tissue = place(self.tissue_fraction)
            scanned = np.ones(tissue.shape)
        else:
            # A mean over patches by their scanned area, 0 where nothing was scanned.
            area = place(self.tissue_fraction * self.scanned_fraction)
            of_known = place(np.where(np.isnan(self.tissue_fraction), np.nan, self.scanned_fraction))
            tissue = np.divide(area, of_known, out=np.where(of_known == 0, 0.0, np.nan), where=of_known > 0)
            scanned = place(self.scanned_fraction)
        is_tissue_known = not len(self.places) or bool(np.isfinite(self.tissue_fraction).any())
        if is_tissue_known and np.isnan(tissue).any():
            tissue[~self.has_patch] = 0.0
        return tissue, scanned

    def without_answer(self, maps: Mapping[str, Cells]) -> NDArray[np.bool_]:
        """Return the cells (ny, nx) without a value in which a patch with too little tissue for the model lies."""
        x, y = self.too_little_tissue.T
        held = stitch(self.grid, x, y, np.ones(len(x))) if len(x) else np.full(maps["probability"].shape, np.nan)
        return np.asarray(np.isfinite(held) & np.isnan(maps["probability"]), np.bool_)

    def tables(self) -> Iterator[pd.DataFrame]:
        """Yield the table in parts, at least one; columns as `predict_slide` returns them."""
        span_px = self.grid.span_px
        for start in range(0, max(1, len(self.origins)), _ROWS_AT_ONCE):
            rows = slice(start, start + _ROWS_AT_ONCE)
            origins = self.origins[rows]
            columns: dict[str, Any] = {
                "patch_id": [f"{self.slide_id}@{x},{y}" for x, y in origins.tolist()],
                **{"x": origins[:, 0], "y": origins[:, 1], "width": span_px, "height": span_px},
                **{name: values[rows] for name, values in self.columns.items()},
            }
            yield pd.DataFrame({name: columns[name] for name in _COLUMNS}, index=range(len(origins))).astype(_COLUMNS)


def slide_source(
    slide: Slide, spec: BundleSpec, slide_id: str, config: PredictConfig, *, tissue_mask: Path | None = None
) -> FromSlide:
    """Return the patches of a slide as a model takes them.

    Raises as `check_slide`, `tiling_of` and `grid_of`, and with a correction of `check_correction`.
    """
    slide = in_order(slide, spec.channels)
    if config.max_bad_tiles:
        slide = tolerant(slide, config.max_bad_tiles)
    warnings = check_slide(spec, slide)
    if config.area_correct != "none":
        check_correction(spec, slide)
    source = FromSlide(slide, slide_id, tiling_of(spec, config), tissue_mask=tissue_mask)
    source.warnings += warnings
    return source


def feature_source(
    features: SlideFeatures, spec: BundleSpec, config: PredictConfig, *, slide: Slide | None = None
) -> FromFeatures:
    """Return the patches behind features, see `FromFeatures`; raises as that, and of `check_features`.

    InputUnsupportedError for settings that need pixels: ``deidentify``, ``stride_px``, ``max_bad_tiles``,
    ``area_correct``.
    """
    warnings = check_features(spec, features.encoder.to_dict(), place=str(features.path))
    refuse_pixel_settings(config)
    source = FromFeatures(features, slide=slide)
    source.warnings[:0] = warnings
    return source


def refuse_pixel_settings(config: PredictConfig) -> None:
    """Refuse settings that need pixels, with InputUnsupportedError."""
    asked = {
        "stride_px": config.stride_px is not None,
        "--deidentify": config.deidentify,
        "--area-correct": config.area_correct != "none",
        "--max-bad-tiles": bool(config.max_bad_tiles),
        "fetch": config.fetch is not None,
    }
    if names := [name for name, is_asked in asked.items() if is_asked]:
        raise InputUnsupportedError(
            f"features are predicted without {', '.join(names)}", place=names[0], remedy="leave it out"
        )


def predict_patches(
    source: DrawnSource,
    ensemble: Ensemble,
    config: PredictConfig,
    *,
    progress: Callable[[int, int], None] = lambda _done, _all: None,
) -> Prediction:
    """Return the predictions of a slide's patches and the tissue of all; errors as `predict_slide`."""
    # The slide is analysed here, not in the thread that reads on: what a thread frees, the C library keeps for it.
    spec, origins, analysis = ensemble.spec, source.origins, source.analysis
    assert source.mpp is not None  # the analysis takes it
    tissue, scanned = np.zeros(len(origins)), np.ones(len(origins))
    # A slide without tissue has no batch, so each column begins with an empty part of its shape.
    parts: dict[str, list[NDArray[Any]]] = {name: [np.empty(0)] for name in _PREDICTED}
    parts |= {"row": [np.empty(0, np.int64)], "mean": [np.empty((0, max(1, len(spec.channels))))]}
    refused = np.zeros(len(origins), np.bool_)
    batches = _batches(source, ensemble, config, tissue=tissue, scanned=scanned, refused=refused)
    progress(0, len(origins))
    # A thread reads, scales and measures the next batches while the network computes.
    ahead = max(2, _AHEAD // _batch_size(ensemble))
    with closing(batches), closing(prefetch_items(batches, ahead=ahead)) as ready:
        for batch in ready:
            output = _answered(batch, ensemble, config)
            predicted = {"logit": output.logit, "probability": output.probability, "spread": output.spread}
            for name, values in {**batch.measured, **predicted}.items():
                parts[name].append(values)
            progress(int(batch.measured["row"][-1]) + 1, len(origins))
    progress(len(origins), len(origins))
    columns: dict[str, Any] = {name: np.concatenate(values) for name, values in parts.items()}
    # Known only now: which tiles of the file cannot be decoded turns out while they are read.
    is_lost = source.undecodable()
    if is_lost.any():
        tissue[is_lost] = np.nan
        is_kept = ~is_lost[columns["row"]]
        columns = {name: values[is_kept] for name, values in columns.items()}
    rows, mean = columns.pop("row"), columns.pop("mean")
    is_bad = ~np.isfinite(columns["logit"])
    if is_bad.any():
        names = [f"{source.slide_id}@{x},{y}" for x, y in origins[rows[is_bad]][:5].tolist()]
        raise NonFiniteError(
            f"{int(is_bad.sum())} logits are NaN or infinite: {', '.join(names)}{' …' if is_bad.sum() > 5 else ''}",
            place=source.slide_id,
            remedy="look for NaN pixels in the slide and for NaN weights in the model",
        )
    inside, threshold = source.inside_fractions, spec.decision_probability
    assert threshold is not None  # members of an ensemble have two classes
    raised = flags(
        tissue_fraction=tissue[rows],
        mean=mean,
        decision_probability=threshold,
        seen=spec.seen,
        **{name: columns[name] for name in ("saturated_fraction", "sharpness", "probability", "spread")},
    )
    columns |= {"tissue_fraction": tissue[rows], "scanned_fraction": scanned[rows]}
    columns |= {f"flag_{name}": flag for name, flag in raised.items()}
    return Prediction(
        slide_id=source.slide_id,
        grid=source.grid,
        facts=source.facts,
        mpp=source.mpp,
        analysis=analysis,
        places=origins,
        tissue_fraction=tissue,
        # Stored features have float32 shares.
        scanned_fraction=np.where(np.isclose(scanned, inside, rtol=1e-6), 1.0, np.minimum(scanned / inside, 1.0)),
        origins=origins[rows],
        columns=columns,
        decision_probability=threshold,
        unreadable=int(is_lost.sum()),
        too_little_tissue=origins[refused & ~is_lost],
        placement=source.placement,
    )


def _answered(batch: _Batch, ensemble: Ensemble, config: PredictConfig) -> EnsembleOutput:
    """Return the prediction of a batch, corrected where the model is."""
    output = ensemble.forward(batch.x)
    if batch.area is None:
        return output
    set_logit = None
    if batch.set_areas is not None:
        set_logit = np.full(batch.set_areas.shape, np.nan)
        if batch.set_areas.any():
            set_logit[batch.set_areas] = ensemble.forward(batch.set_x).logit
    return ensemble.corrected(output, batch.area, set_logit)


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
) -> dict[str, BooleanArray]:
    """Return for each of `FLAGS` the patches that have it, (N,); missing where it cannot be decided.

    All arrays are (N,), shares and probabilities in [0, 1], but `mean`, (N, C): the mean of each channel, scaled to
    [0, 1]. `spread` is NaN for a single model, and what is measured on pixels is NaN without them. `seen` is the range
    of the training patches; without it ``out_of_range`` and ``blurred`` are missing. The others go by `FLAG_LIMITS`.
    """
    never = np.zeros(len(sharpness), np.bool_)
    raised = {  # whether a patch has the flag, and whether that is known
        "low_tissue": (tissue_fraction < FLAG_LIMITS["low_tissue"], np.isfinite(tissue_fraction)),
        "saturated": (saturated_fraction > FLAG_LIMITS["saturated"], np.isfinite(saturated_fraction)),
        "blurred": (never, never),
        "out_of_range": (never, never),
        "near_threshold": (np.abs(probability - decision_probability) <= FLAG_LIMITS["near_threshold"], ~never),
        "uncertain": (spread > FLAG_LIMITS["spread"], np.isfinite(spread)),
    }
    if seen is not None:
        low, high = np.array(seen.mean).T  # (C,) each
        is_known = np.asarray(np.isfinite(mean).all(axis=1))
        raised["out_of_range"] = ((mean < low) | (mean > high)).any(axis=1), is_known
        # Little tissue is smooth on any slide, so sharpness is compared with patches of as much tissue.
        least = least_sharpness(tissue_fraction, seen)
        raised["blurred"] = sharpness < least, np.isfinite(least) & np.isfinite(sharpness)
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
    """Patches for the network: what each member takes, and values by name, among them the patches' rows."""

    x: list[NDArray[np.float32]]
    measured: dict[str, NDArray[Any]]
    area: NDArray[np.float64] | None = None  # (n,): share of the whole patch that is tissue; None: nothing to correct
    # Of a correction that averages: which patches could be set to which area, (n, T), and these, as `x`.
    set_areas: NDArray[np.bool_] | None = None
    set_x: list[NDArray[np.float32]] = field(default_factory=list)


def _batch_size(ensemble: Ensemble) -> int:
    """Return how many patches make a batch: whole passes of the network if possible."""
    spec = ensemble.spec
    if spec.encoder is not None:
        return _FEATURES_AT_ONCE
    size = min(_MOST_PATCHES, max(1, _BATCH_BYTES // (4 * len(spec.channels) * spec.patch_px**2)))
    if ensemble.area_correct == "average":  # each patch comes several times more
        size = max(1, size // 4)
    return size - size % ensemble.members[0].runtime.patches_per_pass or size


def _batches(
    source: DrawnSource,
    ensemble: Ensemble,
    config: PredictConfig,
    *,
    tissue: NDArray[np.float64],
    scanned: NDArray[np.float64],
    refused: NDArray[np.bool_],
) -> Generator[_Batch]:
    """Yield the patches to predict in batches, in the order of the source; fill in what is measured of all, (N,).

    Refused are patches that hold tissue, but no crop of it that every member could judge.
    """
    limits, size = patch_limits(ensemble.spec, config), _batch_size(ensemble)
    if isinstance(source, FromFeatures):
        for part in source.batches(size, **limits, fractions_out=tissue, scanned_out=scanned):
            unknown, values = np.full(len(part.rows), np.nan), part.patches.astype(np.float32)
            measured = {"row": part.rows, "saturated_fraction": unknown, "sharpness": unknown, "mean": unknown[:, None]}
            yield _Batch([member.standardised(values) for member in ensemble.members], measured)
        return
    needs_masks = ensemble.takes_masks or ensemble.area_correct != "none"
    for part in source.batches(size, **limits, fractions_out=tissue, scanned_out=scanned):
        inside = unpack_masks(part.tissue_mask, source.grid.patch_px) if needs_masks else None
        if inside is not None:
            is_taken = np.all([member.takes(inside) for member in ensemble.members], axis=0)
            # With all_patches glass comes too, of which no model of crops is expected to say anything.
            refused[part.rows[~is_taken & (part.tissue_fraction >= ensemble.spec.min_tissue)]] = True
            part = PatchBatch._make(values[is_taken] for values in part)
            inside = inside[is_taken]
        if len(part.rows):
            yield _prepared(part, source, ensemble, inside)


def _prepared(part: PatchBatch, source: FromSlide, ensemble: Ensemble, inside: NDArray[np.bool_] | None) -> _Batch:
    """Return patches as a batch: measured, scaled, and as each member takes them.

    `inside` (n, P, P) are their tissue masks, for members that take them and for a correction.
    """
    found = measured(source, part.patches, part.rows)
    values = {"row": part.rows, "saturated_fraction": found.saturated, "sharpness": found.sharpness}
    values["mean"] = found.mean.astype(np.float64)
    x = [member.standardised(found.scaled, inside) for member in ensemble.members]
    if ensemble.area_correct == "none" or inside is None:
        return _Batch(x, values)
    masks, area = masks_and_area(inside, edit_side(ensemble, inside.shape[-1]))
    if ensemble.area_correct == "subtract":
        return _Batch(x, values, area)
    origins = source.origins[part.rows]
    return _Batch(x, values, area, *_with_areas(ensemble, found.scaled, masks, origins, source.clearest))


def _with_areas(
    ensemble: Ensemble,
    patches: NDArray[np.float32],
    masks: NDArray[np.bool_],
    origins: NDArray[np.int64],
    clearest: tuple[NDArray[np.float32], NDArray[np.bool_]] | None,
) -> tuple[NDArray[np.bool_], list[NDArray[np.float32]]]:
    """Return which patches (n, C, P, P) could be set to which area of the model's record, (n, T), and these as `x`.

    The same patches as the audit edits, in the same way, by their `masks` (n, S, S) at the side of the edits;
    `clearest` is a patch with ground and its tissue.
    """
    rule, side = ensemble.spec.area_reliance, masks.shape[-1]
    assert rule is not None
    ground = None
    if clearest is not None:
        ground = resize_area(clearest[0][None], side)[0][:, ~resize_masks(clearest[1][None], side)[0]]
    made, is_set = [], np.zeros((len(patches), len(rule.areas)), np.bool_)
    for number, (pixels, mask) in enumerate(zip(resize_area(patches, side), masks, strict=True)):
        if mask.mean() < LEAST_AREA or (mask.all() and ground is None):
            continue
        for place, area in enumerate(rule.areas):
            rng = np.random.default_rng((*origins[number].tolist(), place))
            edited = set_area(pixels, mask, area, rng, ground=ground)
            if all(member.takes(edited.tissue[None])[0] for member in ensemble.members):
                made.append(edited)
                is_set[number, place] = True
    if not made:
        return is_set, []
    x, inside = (np.stack(parts) for parts in zip(*made, strict=True))
    return is_set, [member.standardised(x, inside) for member in ensemble.members]


def edit_side(ensemble: Ensemble, patch_px: int) -> int:
    """Return the side at which patches are edited: what the network takes, so nothing that it would see is lost."""
    return min(patch_px, max(member.spec.input_px for member in ensemble.members))
