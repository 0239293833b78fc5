"""Analyse a slide (grid, channel shifts, tissue, intensity windows) and iterate over its patches.

Tiling and prediction share this module, so that both get the same patches to the bit.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from pathopatch.core.config import MIN_SCANNED, MPP_TOLERANCE, UNCERTAIN_BELOW, TileConfig
from pathopatch.core.errors import ChannelMismatchError, InputUnsupportedError, NonFiniteError, NoTissueError
from pathopatch.core.mask_bits import pack_masks
from pathopatch.patches.annotations.masks import TissueCorrection, read_tissue_mask
from pathopatch.patches.grid import Grid
from pathopatch.patches.intensity import windows as intensity_windows
from pathopatch.patches.labels import patch_means
from pathopatch.patches.tissue_fit import fit_tissue
from pathopatch.patches.tissue_model import TissueModel, corrected_tissue, nearest_part, supplied_tissue
from pathopatch.slides import Level, Shift, Slide, aligned
from pathopatch.slides.background import Background, Polarities, background_text, parse_background
from pathopatch.slides.registration import measure_shifts, whole_offsets
from pathopatch.slides.resample import EXACT_READ_FACTOR, Pixels, level_for, planes

_BAND_PX = 2048  # side of the regions in which a whole slide is read
_BATCH_PATCHES = 256
_MOST_LOST = 0.02  # of the tissue, at the right and lower edge
_MOST_LEFT_OUT = 0.5  # of the tissue, by a mask of artefacts
_BATCH_BYTES = 32 * 2**20
_TISSUE_REMEDY = (
    "Look at its outline; give a tissue_mask in a manifest, or set background_level, method = 'fixed' or when_unsure "
    "in [tile.tissue]"
)


@dataclass(frozen=True, kw_only=True, eq=False)
class SlideAnalysis:
    """The facts of a slide that its patches depend on."""

    grid: Grid
    tissue: TissueModel
    windows: NDArray[np.float64]  # (C, 2): intensities that become 0 and 1, source units
    overview: Pixels  # (C, h, w): the whole slide, longest side at most 4096 px, source units
    fill: Pixels  # (C,): value of the pixels beyond the slide, source units
    background: Background  # the polarities as text
    shifts: tuple[Shift, ...] = ()  # of each channel but the first, before alignment; empty: not measured
    offsets: tuple[tuple[int, int], ...] = ()  # (x, y) added to each channel's read position, level-0 px
    mask_warnings: tuple[str, ...] = ()  # of a supplied mask

    def warnings(self, mpp: float, warn_um: float) -> list[str]:
        """Return warnings of uncertain tissue, of a supplied mask, and of channels shifted by more than `warn_um`.

        `mpp` is of level 0.
        """
        remedy = "corrected by whole px" if self.offsets else "run tile with --align, or register the files"
        far = [*self.mask_warnings] + [
            f"channel {shift.channel} is shifted by {shift.distance_px * mpp:.1f} um ({shift.x_px:+.1f} px across, "
            f"{shift.y_px:+.1f} px down) against the first: {remedy}"
            for shift in self.shifts
            if shift.is_measured and shift.distance_px * mpp > warn_um
        ]
        if self.tissue.confidence >= UNCERTAIN_BELOW:
            return far
        doubts = "; ".join(self.tissue.doubts)
        return [f"the tissue is uncertain (confidence {self.tissue.confidence:.2f}): {doubts}. {_TISSUE_REMEDY}", *far]

    def overhang_warnings(self) -> list[str]:
        """Return a warning if much of the tissue lies in patches that overhang the slide by more than half."""
        grid, inside = self.grid, self.grid.inside_fractions(self.grid.origins())
        is_lost = inside < MIN_SCANNED
        # Where patches overlap, those before the last ones reach its cells.
        if grid.stride_px < grid.patch_px and not is_lost.all():
            return []
        tissue = patch_means(self.tissue.mask != 0, grid) * inside
        lost = tissue[is_lost].sum() / max(1e-12, tissue.sum())
        if lost <= _MOST_LOST:
            return []
        return [
            f"{lost:.0%} of the tissue is in patches of {grid.extent:.4g} px that overhang the slide of {grid.width} x "
            f"{grid.height} px by more than half: they get no group and no prediction. Choose smaller patches, or a "
            "stride_px of half a patch, and check the slide's mpp"
        ]


def grid_of(slide: Slide, config: TileConfig) -> Grid:
    """Return a slide's grid; no pixel is read. Without a target mpp the slide's own is kept.

    Raises MppMissingError if there is a target mpp and the slide's is unknown, and InputUnsupportedError if the slide
    is coarser than the target by more than 2 %.
    """
    downsample = 1.0 if config.mpp is None else config.mpp / slide.mpp
    # Within the tolerance nothing is resampled: it would blur the slide for a difference that no network sees, and a
    # cohort tiled at its own mpp must give the same pixels in prediction.
    if 1 / (1 + MPP_TOLERANCE) <= downsample <= 1 + MPP_TOLERANCE:
        downsample = 1.0
    if downsample < 1 / (1 + MPP_TOLERANCE):
        raise InputUnsupportedError(
            f"the slide has {slide.mpp:g} um/px and is coarser than the target of {config.mpp:g} um/px",
            place=str(slide.paths[0]),
            remedy="choose a target mpp that no slide is coarser than",
        )
    width, height = slide.size
    return Grid(width=width, height=height, downsample=downsample, patch_px=config.patch_px, stride_px=config.step_px)


def analyse_slide(slide: Slide, config: TileConfig, *, tissue_mask: Path | None = None) -> SlideAnalysis:
    """Return a slide's analysis. Without a target mpp the slide's own is kept.

    With ``registration.align`` everything but the shifts is of the aligned slide. A `tissue_mask`, a raster that covers
    the whole slide or outlines of QuPath or ASAP, replaces the tissue that is found, and is compared with it. With
    corrections the intensity windows stay those of the tissue that is found.

    Raises
    ------
    MppMissingError, ChannelMismatchError
        The slide's mpp is unknown, or the configuration names a channel that the slide does not have.
    InputUnsupportedError
        The slide is coarser than the target by more than 2 %.
    ModalityMismatchError, InputMissingError, InputCorruptError
        The tissue mask does not fit the slide, is missing or cannot be read.
    NonFiniteError, NoTissueError
        The slide holds NaN or infinite pixels; or no background is in view, and the configuration refuses such slides.
    """
    grid = grid_of(slide, config)
    _check_channels(slide, config)
    overview, unscanned, scale_x, scale_y = slide.read_scanned_overview()
    _check_finite(overview, slide)
    # The channels of a colour camera come from one exposure.
    is_one_exposure = slide.is_colour or len(slide.channels) < 2
    shifts = () if is_one_exposure else measure_shifts(slide, overview, scale_x, scale_y, unscanned.mask)
    offsets = whole_offsets(shifts) if config.registration.align else ()
    polarities = polarities_of(slide, config)
    background = background_text(slide.channels, polarities)
    # Tissue is found after alignment: what moved channels leave empty was not scanned.
    if any(x or y for x, y in offsets):
        slide = aligned(slide, offsets, background)
        overview, unscanned, scale_x, scale_y = slide.read_scanned_overview()
    found_tissue = fit_tissue(
        overview,
        polarities=polarities,
        is_colour=slide.is_colour,
        config=config.tissue,
        scale_x=scale_x,
        scale_y=scale_y,
        mpp=slide.mpp,
        channels=slide.channels,
        unscanned=unscanned,
    )
    tissue, mask_warnings = found_tissue, list[str]()
    if tissue_mask is not None:
        tissue, mask_warnings = _with_mask(tissue_mask, found_tissue, slide, grid, config, unscanned.mask)
    if tissue.is_unsure and config.tissue.when_unsure == "fail":
        raise NoTissueError(
            f"nothing tells tissue from background: {'; '.join(tissue.doubts)}",
            place=str(slide.paths[0]),
            remedy=_TISSUE_REMEDY,
        )
    windows = intensity_windows(
        overview,
        (tissue if tissue.is_supplied else found_tissue).mask != 0,
        rule=config.intensity,
        is_rgb_uint8=slide.is_rgb,
        polarities=polarities,
        channels=slide.channels,
        scanned=None if tissue.unscanned is None else tissue.unscanned == 0,
    )
    return SlideAnalysis(
        grid=grid,
        tissue=tissue,
        windows=windows,
        overview=overview,
        fill=slide.values_of(polarities),
        background=background,
        shifts=shifts,
        offsets=offsets,
        mask_warnings=tuple(mask_warnings),
    )


def _with_mask(
    path: Path, found: TissueModel, slide: Slide, grid: Grid, config: TileConfig, unscanned: NDArray[np.bool_]
) -> tuple[TissueModel, list[str]]:
    """Return the tissue that a supplied mask states, or corrects in what was found, and warnings of the mask."""
    height, width = found.mask.shape
    stated = read_tissue_mask(
        path,
        slide_size=slide.size,
        overview_px=(width, height),
        bounds_origin=slide.bounds[:2] if config.labels.annotations.subtracted_bounds else (0, 0),
        grid=grid,
    )
    if isinstance(stated, TissueCorrection):
        return corrected_tissue(found, *stated), _correction_warnings(stated, found.mask != 0, path)
    return supplied_tissue(stated, found, unscanned), []


def _correction_warnings(correction: TissueCorrection, tissue: NDArray[np.bool_], path: Path) -> list[str]:
    """Return a warning if a mask takes away most of the tissue, or none: inverted and too small ones do."""
    lost = (tissue & correction.not_tissue).sum() / max(1, tissue.sum())
    if 0 < lost <= _MOST_LEFT_OUT or (lost == 0 and correction.missed.any()):
        return []
    return [f"{path.name} leaves out {lost:.0%} of the tissue that is found: see whether it is of this slide, upright"]


def _check_channels(slide: Slide, config: TileConfig) -> None:
    """Raise if the configuration names a channel that the slide lacks."""
    named = {
        "tissue.channels": config.tissue.channels,
        "tissue.background_level": tuple(config.tissue.background_level),
        "intensity.windows": tuple(config.intensity.windows),
    }
    for key, names in named.items():
        if unknown := [name for name in names if name not in slide.channels]:
            raise ChannelMismatchError(
                f"{key} names {', '.join(unknown)}, the slide has {', '.join(slide.channels)}",
                place=str(slide.paths[0]),
                remedy=f"correct {key}, or name the slide's channels in a manifest",
            )


def polarities_of(slide: Slide, config: TileConfig) -> Polarities:
    """Return each channel's polarity: as the configuration states it, else the slide's own."""
    if config.tissue.background == "auto":
        return slide.polarities
    stated = parse_background(config.tissue.background, slide.channels, place="[tile.tissue] background")
    if None not in stated:
        return tuple(polarity for polarity in stated if polarity is not None)
    # The slide's own are read only here, since guessing them reads pixels.
    return tuple(polarity or own for polarity, own in zip(stated, slide.polarities, strict=True))


def _check_finite(pixels: Pixels, slide: Slide) -> None:
    """Raise if pixels are NaN or infinite, with their number in each channel of the whole slide."""
    if pixels.dtype.kind != "f" or np.isfinite(pixels).all():
        return
    width, height = slide.size
    counts = np.zeros(len(slide.channels), np.int64)
    for top in range(0, height, _BAND_PX):
        for left in range(0, width, _BAND_PX):
            size = (min(_BAND_PX, width - left), min(_BAND_PX, height - top))
            counts += np.count_nonzero(~np.isfinite(slide.read_region(left, top, *size)), axis=(1, 2))
    per_channel = ", ".join(f"{n} in {name}" for n, name in zip(counts, slide.channels, strict=True) if n)
    raise NonFiniteError(
        f"NaN or infinite pixels: of {width * height} pixels {per_channel or 'none, but some of a coarser level'}",
        place=str(slide.paths[0]),
        remedy="replace them in the file; they are not guessed",
    )


class PatchBatch(NamedTuple):
    """Some patches of a slide or of a set."""

    rows: NDArray[np.int64]  # (n,): indices into the origins
    patches: Pixels  # (n, C, P, P), source units
    tissue_fraction: NDArray[np.float64]  # (n,): share of tissue in a patch's scanned pixels; 0 without any
    scanned_fraction: NDArray[np.float64]  # (n,): scanned share of a patch; beyond the slide nothing was
    tissue_mask: NDArray[np.uint8]  # (n, P, ceil(P / 8)): the tissue's pixels as bits, see `pack_masks`


def iterate_patches(
    slide: Slide,
    analysis: SlideAnalysis,
    *,
    origins: NDArray[np.int64] | None = None,
    min_tissue: float = 0.0,
    min_scanned: float = 0.0,
    batch_size: int | None = None,
    fractions_out: NDArray[np.float64] | None = None,
    scanned_out: NDArray[np.float64] | None = None,
) -> Iterator[PatchBatch]:
    """Yield patches in batches of `batch_size`, the last one smaller, in the order of the origins.

    The `origins`, (N, 2), are (x, y) in level-0 px; default: the whole grid. Patches have the background value beyond
    the slide. A tissue fraction is the exact mean of the tissue mask, which holds nothing beyond the slide or where it
    was not scanned. Patches below `min_tissue` or `min_scanned` are left out, but `fractions_out` and `scanned_out`,
    (N,) each, are filled with the tissue and scanned fractions of all. The default of `batch_size` bounds the memory.
    The slide is as recorded: the offsets of its `analysis` are applied.

    Raises
    ------
    NonFiniteError
        A patch holds NaN or infinite pixels.
    """
    grid, tissue = analysis.grid, analysis.tissue
    scale = tissue.scale_x, tissue.scale_y
    if analysis.offsets:
        slide = aligned(slide, analysis.offsets, analysis.background)
    places = grid.origins() if origins is None else origins
    patch_bytes = len(slide.channels) * grid.patch_px**2 * slide.dtype.itemsize
    limit = batch_size or max(1, min(_BATCH_PATCHES, _BATCH_BYTES // patch_bytes))
    kept: list[tuple[int, float, float, NDArray[np.uint8]]] = []  # of a batch: all of `PatchBatch` but the pixels
    batch = np.empty((0, len(slide.channels), grid.patch_px, grid.patch_px), slide.dtype)
    for row, (x, y) in enumerate(places.tolist()):
        within = grid.inside(x, y)
        # Without tissue on the overview a patch has none: it is not even read.
        is_blank = min_tissue > 0 and not nearest_part(tissue.mask, scale, (x, y), grid.downsample, within).any()
        fraction = 0.0
        scanned_px = tissue.count_scanned(x, y, grid.downsample, within)
        scanned_fraction = scanned_px / grid.patch_px**2
        if not is_blank:
            # Each batch has new memory, since the consumer may keep the last one.
            if not kept:
                batch = np.empty((min(limit, len(places) - row), *batch.shape[1:]), slide.dtype)
            patch = planes(read_padded(slide, grid, analysis.fill, x, y), batch[len(kept)])
            _check_finite(patch, slide)  # the overview's coarser level may hide such pixels
            mask = tissue.patch_mask(patch, x, y, grid.downsample, within)
            fraction = np.count_nonzero(mask) / max(1, scanned_px)
            if fraction >= min_tissue and scanned_fraction >= min_scanned:
                kept.append((row, fraction, scanned_fraction, pack_masks(mask)))
        if fractions_out is not None:
            fractions_out[row] = fraction
        if scanned_out is not None:
            scanned_out[row] = scanned_fraction
        if kept and (len(kept) == limit or row == len(places) - 1):
            rows, fractions, scanned, masks = (np.array(column) for column in zip(*kept, strict=True))
            yield PatchBatch(rows, batch[: len(kept)], fractions, scanned, masks)
            kept = []


def read_level(levels: Sequence[Level], downsample: float) -> dict[str, int | float]:
    """Return the level from which patches are read and its downsample, by the names of their attributes.

    `downsample` is level-0 px per target px.
    """
    downsamples = [level.downsample for level in levels]
    level = level_for(downsamples, downsample, exact_factor=EXACT_READ_FACTOR)
    return {"read_level": level, "read_level_downsample": downsamples[level]}


def read_padded(slide: Slide, grid: Grid, fill: Pixels, x: int, y: int) -> Pixels:
    """Return the patch at (x, y), level-0 px, shape (C, patch_px, patch_px), with `fill` (C,) beyond the slide."""
    patch = slide.read_patch(x, y, grid.patch_px, downsample=grid.downsample)
    width, height = grid.inside(x, y)
    # The slide pads by its own polarity; only a configuration that states another one needs the copy.
    if (width, height) != (grid.patch_px, grid.patch_px) and (fill != slide.background_values).any():
        patch = patch.copy()
        patch[:, height:] = fill[:, None, None]
        patch[:, :, width:] = fill[:, None, None]
    return patch
