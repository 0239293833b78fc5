"""Tell which pixels are tissue: the signal, the overview's cleaned mask, and the model that holds both.

A dark channel's signal is its intensity, a bright one's is what it lacks; the largest of the channels counts. At the
target mpp a pixel is tissue if its signal passes the threshold and it lies in the overview's cleaned mask. Both come
from `pathopatch.patches.tissue_fit`, or from a supplied mask. Pure arithmetic on arrays.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache, reduce
from typing import Any, cast

import cv2
import numpy as np
from numpy.typing import NDArray

from pathopatch.core.config import UNCERTAIN_BELOW
from pathopatch.core.mask_bits import resize_mask
from pathopatch.patches.intensity import scale
from pathopatch.slides.background import Polarities, Polarity
from pathopatch.slides.glass import Illumination

EVERY_PIXEL = -1.0
"""Threshold that every pixel passes: the mask alone decides."""
_LEAST_CONTRAST = 2.0  # sparse fibres fill little of an outline, but far more of it than of the rest
_DARK_PERCENTILES = (1.0, 99.9)  # a few hot pixels, and dead ones, must not set the scale
_BAND_PX = 2**18  # a megabyte of float32, which the processor's cache holds


def bands(shape: tuple[int, ...]) -> Iterator[slice]:
    """Yield the rows of an overview (H, W) in bands: a copy of all at every step costs more than the work on it."""
    step = max(1, _BAND_PX // max(1, shape[1]))
    for top in range(0, shape[0], step):
        yield slice(top, min(top + step, shape[0]))


def tissue_signal(
    pixels: NDArray[np.generic],
    *,
    polarities: Sequence[Polarity],
    windows: NDArray[np.float64],
    light: NDArray[np.float32] | None = None,
) -> NDArray[np.float32]:
    """Return how much like tissue each pixel of (C, H, W) is, float32 of shape (H, W) in [0, 1].

    A channel with an empty window (low, high) in `windows`, shape (C, 2), does not count. Bright channels are divided
    by the `light`, shape (H, W).
    """
    if light is not None:
        is_bright = np.array([polarity == "bright" for polarity in polarities])[:, None, None]
        pixels = np.where(is_bright, pixels.astype(np.float32) / light, pixels).astype(np.float32)
    used = np.flatnonzero(windows[:, 1] > windows[:, 0]).tolist()
    channels = [(pixels[channel], polarities[channel], windows[channel]) for channel in used]
    # Scaling keeps the order: under one window, the furthest channel is found before scaling, on one plane.
    if len({(polarity, *window.tolist()) for _, polarity, window in channels}) == 1:
        _, polarity, window = channels[0]
        furthest = np.maximum if polarity == "dark" else np.minimum
        channels = [(reduce(furthest, [plane for plane, _, _ in channels]), polarity, window)]
    signals = (_plane_signal(*channel) for channel in channels)
    signal = next(signals, None)
    if signal is None:
        return np.zeros(pixels.shape[1:], np.float32)
    for further in signals:
        np.maximum(signal, further, out=signal)
    return signal


def _plane_signal(plane: NDArray[np.generic], polarity: Polarity, window: NDArray[np.float64]) -> NDArray[np.float32]:
    """Return the signal of one channel, (H, W)."""
    # One pass over a large overview, where arithmetic takes four; the same to the bit.
    if plane.dtype == np.uint8 and plane.size:
        return np.asarray(cv2.LUT(cast(Any, plane), cast(Any, _byte_signals(polarity, *window.tolist()))), np.float32)
    scaled: NDArray[np.float32] = scale(plane[None], window[None])[0]
    return np.subtract(1, scaled, out=scaled) if polarity == "bright" else scaled


@lru_cache(maxsize=64)
def _byte_signals(polarity: Polarity, low: float, high: float) -> NDArray[np.float32]:
    """Return the signal of each byte, shape (256,)."""
    return _plane_signal(np.arange(256, dtype=np.float32)[None], polarity, np.array([low, high])).ravel()


@dataclass(frozen=True, kw_only=True, eq=False)
class OverviewSignal:
    """The signal of an overview, computed anew for some rows: new memory for all would cost more than that."""

    pixels: NDArray[np.generic]  # (C, H, W), source units
    polarities: Sequence[Polarity]
    windows: NDArray[np.float64]  # (C, 2)
    illumination: Illumination | None = None

    def __getitem__(self, rows: slice) -> NDArray[np.float32]:
        """Return the signal of some rows, (h, W)."""
        light = None if self.illumination is None else self.illumination.over(*self.pixels.shape[1:], rows=rows)
        return tissue_signal(self.pixels[:, rows], polarities=self.polarities, windows=self.windows, light=light)


def dark_window(plane: NDArray[np.generic], usable: NDArray[np.bool_]) -> tuple[float, float]:
    """Return a dark channel's window, source units: percentiles of all usable pixels (H, W); (0, 0) without any."""
    values: NDArray[Any] = plane.ravel() if usable.all() else plane[usable]
    if not values.size:
        return 0.0, 0.0
    low, high = np.percentile(np.asarray(values), _DARK_PERCENTILES).tolist()
    return float(low), float(high)


def rounding_spread(window: tuple[float, float], dtype: np.dtype[np.generic]) -> float:
    """Return half a step of a dtype in units of the signal: no background level is known more exactly."""
    low, high = window
    return 0.5 / (high - low) if dtype.kind in "iu" and high > low else 1e-6


def clean_mask(
    mask: NDArray[np.bool_], *, um2_per_px: float, min_speck_um2: float, max_hole_um2: float
) -> NDArray[np.bool_]:
    """Return an overview's mask (H, W) without small specks and small holes.

    A component of tissue below `min_speck_um2` becomes background. An enclosed component of background (4 neighbours)
    up to `max_hole_um2` becomes tissue.
    """
    labels = np.empty(mask.shape, np.int32)  # of components: new memory of this size costs as much as finding them
    return _without_holes(_without_specks(mask, labels, um2_per_px, min_speck_um2), labels, max_hole_um2 / um2_per_px)


def _without_specks(
    mask: NDArray[np.bool_], labels: NDArray[np.int32], um2_per_px: float, min_speck_um2: float
) -> NDArray[np.bool_]:
    # Components no further apart than the side of a speck count as one: fibres and nuclei are small, lie close to each
    # other and are no dust.
    reach = 2 * math.floor(math.sqrt(min_speck_um2 / um2_per_px) / 2) + 1
    grown = cv2.dilate(mask.view(np.uint8), np.ones((reach, reach), np.uint8))
    count, components = cv2.connectedComponents(grown, labels, connectivity=8)
    is_speck = _component_areas(components, count, mask) * um2_per_px < min_speck_um2
    is_speck[0] = False  # component 0 is the background
    return _without_labels(mask, components, is_speck)


def _without_holes(tissue: NDArray[np.bool_], labels: NDArray[np.int32], most_px: float) -> NDArray[np.bool_]:
    ground = ~tissue
    count, components = cv2.connectedComponents(ground.view(np.uint8), labels, connectivity=4)
    is_hole = _component_areas(components, count, ground) <= most_px
    # Background at the border continues outside the image: its area is unknown.
    for side in (components[0], components[-1], components[:, 0], components[:, -1]):
        is_hole[side] = False
    is_hole[0] = False  # component 0 is the tissue itself
    return ~_without_labels(ground, components, is_hole)


def _component_areas(components: NDArray[Any], count: int, mask: NDArray[np.bool_]) -> NDArray[np.int64]:
    """Return each component's number of pixels in a mask (H, W), shape (count,)."""
    areas = np.zeros(count, np.int64)
    for first, length in _runs(mask):
        in_band = np.bincount(components.ravel()[first], length).astype(np.int64)
        areas[: len(in_band)] += in_band
    return areas


def _without_labels(mask: NDArray[np.bool_], labels: NDArray[Any], is_chosen: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Return a mask (H, W) without its pixels of the chosen labels; `is_chosen` is (count,)."""
    if not is_chosen.any():
        return mask
    kept = mask.copy()
    for first, length in _runs(mask):
        is_left_out = is_chosen[labels.ravel()[first]]
        first, length = first[is_left_out], length[is_left_out]
        before = np.cumsum(length) - length  # pixels of the runs before each
        kept.ravel()[np.arange(length.sum()) + np.repeat(first - before, length)] = False
    return kept


def _runs(mask: NDArray[np.bool_]) -> Iterator[tuple[NDArray[np.int64], NDArray[np.int64]]]:
    """Yield the flat index of the first pixel, and the length, of each row's runs of a mask (H, W), by bands of rows.

    A run lies in one component, and there are far fewer runs than pixels.
    """
    for rows in bands(mask.shape):
        part = mask[rows]
        is_first, is_last = part.copy(), part.copy()
        np.greater(part[:, 1:], part[:, :-1], out=is_first[:, 1:])
        np.greater(part[:, :-1], part[:, 1:], out=is_last[:, :-1])
        first = np.flatnonzero(is_first)
        yield first + rows.start * mask.shape[1], np.flatnonzero(is_last) - first + 1


@dataclass(frozen=True, kw_only=True, eq=False)
class TissueModel:
    """What tells tissue from background on one slide."""

    polarities: Polarities
    windows: NDArray[np.float64]  # (C, 2): (low, high) of the signal, source units; empty for a channel without tissue
    threshold: float | None  # a pixel passes above it; None: no tissue; EVERY_PIXEL: the mask decides
    mask: NDArray[np.uint8]  # (h, w): cleaned mask on the overview, 1 is tissue
    scale_x: float  # level-0 px per overview px
    scale_y: float
    unscanned: NDArray[np.uint8] | None = None  # (h, w): 1 was never scanned; None: all was scanned
    levels: tuple[float, ...] = ()  # background level by channel, source units; NaN where unknown
    illumination: Illumination | None = None  # factor on the windows of bright channels; None: even light
    missed: NDArray[np.uint8] | None = None  # (h, w): 1 is tissue whatever its signal, as a person said; None: nowhere
    is_supplied: bool = False
    is_unsure: bool = False  # nothing told tissue from background: the configuration decided
    ink_share: float = 0.0  # of the overview, under pen marks, which are no tissue
    confidence: float = 1.0  # of the mask, in [0, 1]
    doubts: tuple[str, ...] = ()  # reasons for a confidence below UNCERTAIN_BELOW
    _limits_by_dtype: dict[np.dtype[np.generic], list[Any | None]] = field(init=False, repr=False, default_factory=dict)

    @property
    def masks(self) -> dict[str, NDArray[np.uint8]]:
        """Masks on the overview, (h, w) each: of tissue, and of what was not scanned, or was missed, if any."""
        masks = {"tissue": self.mask, "unscanned": self.unscanned, "missed": self.missed}
        return {name: mask for name, mask in masks.items() if mask is not None}

    @property
    def unscanned_share(self) -> float:
        """Share of the overview that was never scanned."""
        return 0.0 if self.unscanned is None else float(self.unscanned.mean())

    @property
    def share(self) -> float:
        """Share of the overview's scanned part that is tissue; 0 where nothing was scanned."""
        scanned = self.mask.size if self.unscanned is None else int(np.count_nonzero(self.unscanned == 0))
        return np.count_nonzero(self.mask) / max(1, scanned)

    def scanned_mask(self, x: int, y: int, downsample: float, inside: tuple[int, int]) -> NDArray[np.bool_] | None:
        """Return a patch's scanned pixels, (height, width), or None for all; see `patch_mask`."""
        if self.unscanned is None:
            return None
        missing = nearest_part(self.unscanned, (self.scale_x, self.scale_y), (x, y), downsample, inside)
        return ~missing if missing.any() else None

    def count_scanned(self, x: int, y: int, downsample: float, inside: tuple[int, int]) -> int:
        """Return how many pixels of a patch's part on the slide were scanned; see `patch_mask`."""
        scanned = self.scanned_mask(x, y, downsample, inside)
        return inside[0] * inside[1] if scanned is None else int(np.count_nonzero(scanned))

    def patch_mask(
        self, patch: NDArray[np.generic], x: int, y: int, downsample: float, inside: tuple[int, int]
    ) -> NDArray[np.bool_]:
        """Return the tissue pixels of a patch, bool of shape (P, P).

        The `patch`, (C, P, P), is in source units at the target mpp, its origin (x, y) in level-0 px. `downsample` is
        level-0 px per px of the patch, `inside` (width, height) of its part on the slide, px: beyond it is no tissue.
        """
        width, height = inside
        if self.threshold is None:
            return np.zeros(patch.shape[1:], np.bool_)
        is_tissue = nearest_part(self.mask, (self.scale_x, self.scale_y), (x, y), downsample, inside)
        if is_tissue.any() and self.threshold != EVERY_PIXEL:
            light = None if self.illumination is None else self._light(x, y, downsample, inside)
            np.logical_and(is_tissue, self._above_threshold(patch[:, :height, :width], light), out=is_tissue)
            if self.missed is not None:
                is_tissue |= nearest_part(self.missed, (self.scale_x, self.scale_y), (x, y), downsample, inside)
        if is_tissue.shape == patch.shape[1:]:
            return is_tissue
        padded = np.zeros(patch.shape[1:], np.bool_)
        padded[:height, :width] = is_tissue
        return padded

    def _light(self, x: int, y: int, downsample: float, inside: tuple[int, int]) -> NDArray[np.float32]:
        """Return the illumination at the pixels of a patch, (height, width)."""
        assert self.illumination is not None
        height, width = self.mask.shape
        columns, rows = (
            2 * (start + (np.arange(n) + 0.5) * downsample) / size - 1
            for start, n, size in zip((x, y), inside, (width * self.scale_x, height * self.scale_y), strict=True)
        )
        return self.illumination.at(columns, rows)

    def _above_threshold(self, pixels: NDArray[np.generic], light: NDArray[np.float32] | None) -> NDArray[np.bool_]:
        """Return the pixels (C, H, W) with a signal above the threshold, (H, W)."""
        threshold = np.float32(self.threshold or 0)
        if light is not None or pixels.dtype.kind not in "iu" or pixels.dtype.itemsize > 2:
            return tissue_signal(pixels, polarities=self.polarities, windows=self.windows, light=light) > threshold
        # The signal rises or falls with the value, so small integers are compared with one value and never scaled:
        # with the first (dark) or last (bright) value that passes, or None where none does.
        if (limits := self._limits_by_dtype.get(pixels.dtype)) is None:
            bounds = np.iinfo(str(pixels.dtype))
            values = np.arange(bounds.min, bounds.max + 1).astype(pixels.dtype)
            limits = []
            for window, polarity in zip(self.windows, self.polarities, strict=True):
                signal = tissue_signal(values[None, None, :], polarities=(polarity,), windows=window[None])[0]
                passing = values[signal > threshold]
                limits.append((passing[0] if polarity == "dark" else passing[-1]) if passing.size else None)
            self._limits_by_dtype[pixels.dtype] = limits  # only when whole: other threads read it
        above: NDArray[np.bool_] | None = None
        for plane, polarity, limit in zip(pixels, self.polarities, limits, strict=True):
            if limit is not None:
                passing = plane >= limit if polarity == "dark" else plane <= limit
                above = passing if above is None else np.logical_or(above, passing, out=above)
        return np.zeros(pixels.shape[1:], np.bool_) if above is None else above


def nearest_part(
    image: NDArray[Any], scale: tuple[float, float], origin: tuple[int, int], downsample: float, inside: tuple[int, int]
) -> NDArray[np.bool_]:
    """Return a slide's mask (h, w) at the pixels of a patch (nearest), shape (height, width).

    `scale` is (x, y) level-0 px per px of the mask; the other arguments are as of `TissueModel.patch_mask`.
    """
    columns, rows = (
        _nearest(start, n, downsample, step, size)
        for start, n, step, size in zip(origin, inside, scale, image.shape[::-1], strict=True)
    )
    if not (columns.size and rows.size):
        return np.zeros((rows.size, columns.size), np.bool_)
    part: NDArray[np.bool_] = image[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1] != 0
    if not part.any() or part.all():
        return np.full((rows.size, columns.size), part[0, 0], np.bool_)
    # Columns first: a patch covers few rows of the overview, so the second step repeats whole rows.
    for axis, places in ((1, columns - columns[0]), (0, rows - rows[0])):
        # All rows or columns in order need no copy.
        if not np.array_equal(places, np.arange(part.shape[axis])):
            part = np.take(part, places, axis=axis)
    return part


@lru_cache(maxsize=1024)  # the patches of a column, and of a row, share theirs
def _nearest(start: int, n: int, downsample: float, step: float, size: int) -> NDArray[np.int64]:
    """Return the index along an axis of the mask's pixel nearest to each of a patch's n pixels; read-only."""
    nearest = np.minimum(((start + (np.arange(n) + 0.5) * downsample) / step).astype(np.int64), size - 1)
    nearest.flags.writeable = False
    return nearest


def corrected_tissue(found: TissueModel, missed: NDArray[np.bool_], not_tissue: NDArray[np.bool_]) -> TissueModel:
    """Return the tissue that was found with what a person corrected on the overview, (h, w) each; the rest stays."""
    if found.unscanned is not None:
        missed = missed & (found.unscanned == 0)
    mask = ((found.mask != 0) & ~not_tissue | missed).astype(np.uint8)
    if found.threshold is None:  # none was found: what was missed is all
        return replace(found, mask=mask, threshold=EVERY_PIXEL)
    return replace(found, mask=mask, missed=missed.astype(np.uint8) if missed.any() else None)


def supplied_tissue(mask: NDArray[np.bool_], found: TissueModel, unscanned: NDArray[np.bool_]) -> TissueModel:
    """Return the tissue model of a supplied mask (H, W) that covers the slide at any scale; specks and holes stay.

    It has a doubt where it leaves out as much of the `found` tissue as it holds. `unscanned` is the overview's, (h, w).
    """
    is_tissue = resize_mask(mask, found.mask.shape[::-1]) & ~unscanned
    supplied = TissueModel(
        polarities=found.polarities,
        windows=np.zeros((len(found.polarities), 2)),
        threshold=EVERY_PIXEL,
        mask=is_tissue.astype(np.uint8),
        scale_x=found.scale_x,
        scale_y=found.scale_y,
        unscanned=unscanned.astype(np.uint8) if unscanned.any() else None,
        is_supplied=True,
    )
    is_left_out = ~is_tissue & ~unscanned
    # Tissue is often supplied since finding it failed: then nothing is to be learnt from what was found.
    if found.confidence < UNCERTAIN_BELOW or not is_tissue.any() or not is_left_out.any():
        return supplied
    inside, outside = (float((found.mask[part] != 0).mean()) for part in (is_tissue, is_left_out))
    if inside >= UNCERTAIN_BELOW or inside >= _LEAST_CONTRAST * outside:
        return supplied
    doubt = (
        f"{inside:.0%} of the supplied tissue looks like tissue, and {outside:.0%} of what it leaves out: "
        "its mask or outlines may be turned, mirrored or shifted"
    )
    return replace(supplied, confidence=inside, doubts=(doubt,))
