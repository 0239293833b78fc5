"""What is known of a slide before and while its patches are read: grid, tissue, windows.

Tiling and prediction share this module, so that both see the same patches to the bit.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from pathopatch.core.config import UNCERTAIN_BELOW, TileConfig
from pathopatch.core.errors import ChannelMismatchError, InputUnsupportedError, NonFiniteError, NoTissueError
from pathopatch.patches import intensity
from pathopatch.patches.annotations.tissue_outlines import read_tissue_mask
from pathopatch.patches.grid import Grid
from pathopatch.patches.source import read_padded
from pathopatch.patches.tissue import TissueModel, supplied_tissue
from pathopatch.patches.tissue_fit import fit_tissue
from pathopatch.slides import Shift, Slide, aligned
from pathopatch.slides.background import Background, Polarities, background_text, parse_background
from pathopatch.slides.registration import measure_shifts, whole_offsets
from pathopatch.slides.resample import planes
from pathopatch.slides.resolution import MPP_TOLERANCE

_BAND_PX = 2048
_BATCH_PATCHES = 256
_BATCH_BYTES = 32 * 2**20  # patches held at a time
_LOOK_AT_TISSUE = (
    "Look at its outline; give a tissue_mask in the manifest, or set background_level, method = 'fixed' or when_unsure "
    "in [tile.tissue]"
)


@dataclass(frozen=True, kw_only=True, eq=False)
class SlideAnalysis:
    """What is known of a slide before its patches are read.

    Parameters
    ----------
    grid : Grid
        Where the patches lie.
    tissue : TissueModel
        What tells tissue from background.
    windows : ndarray of float64, shape (C, 2)
        Intensities that become 0 and 1, source units.
    overview : ndarray, shape (C, h, w)
        The whole slide, longest side at most 4096 px, source units.
    fill : ndarray, shape (C,)
        Value of the pixels beyond the slide, source units.
    background : str
        The polarities as a text, see `pathopatch.slides.background.parse_background`.
    shifts : tuple of Shift
        How far each channel but the first lies from it, as recorded; empty where that is not measured.
    offsets : tuple of (int, int)
        Level-0 px (x, y) by which each channel is read further on, so that all lie on each other; empty: none is.
    """

    grid: Grid
    tissue: TissueModel
    windows: NDArray[np.float64]
    overview: NDArray[np.generic]
    fill: NDArray[np.generic]
    background: Background
    shifts: tuple[Shift, ...] = ()
    offsets: tuple[tuple[int, int], ...] = ()

    def warnings(self, mpp: float, warn_um: float) -> list[str]:
        """Return in words what a person should know: doubts of the tissue, and channels that lie far from the first.

        Parameters
        ----------
        mpp : float
            um per level-0 px.
        warn_um : float
            Distance from which a shift is worth a word.
        """
        done = "corrected by whole px" if self.offsets else "run tile with --align, or register the files"
        far = [
            f"channel {shift.channel} is shifted by {shift.distance_px * mpp:.1f} um ({shift.x_px:+.1f} px across, "
            f"{shift.y_px:+.1f} px down) against the first: {done}"
            for shift in self.shifts
            if shift.is_measured and shift.distance_px * mpp > warn_um
        ]
        if self.tissue.confidence >= UNCERTAIN_BELOW:
            return far
        doubts = "; ".join(self.tissue.doubts)
        return [
            f"the tissue is uncertain (confidence {self.tissue.confidence:.2f}): {doubts}. {_LOOK_AT_TISSUE}",
            *far,
        ]


def grid_of(slide: Slide, config: TileConfig) -> Grid:
    """Return where a slide's patches lie; no pixel is read.

    A slide within 2 % of the target mpp is not resampled: that would blur it for a difference no network sees, and a
    cohort tiled at its own mpp must give the same pixels when it is predicted.

    Parameters
    ----------
    slide : Slide
        An open slide.
    config : TileConfig
        Without a target mpp the slide's own is kept.

    Raises
    ------
    MppMissingError
        There is a target mpp and the slide's is unknown.
    InputUnsupportedError
        The slide is coarser than the target by more than 2 %.
    """
    downsample = 1.0 if config.mpp is None else config.mpp / slide.mpp
    if 1 / (1 + MPP_TOLERANCE) <= downsample <= 1 + MPP_TOLERANCE:
        downsample = 1.0
    if downsample < 1 / (1 + MPP_TOLERANCE):
        raise InputUnsupportedError(
            f"the slide has {slide.mpp:g} um/px and is coarser than the target of {config.mpp:g} um/px",
            place=str(slide.paths[0]),
            remedy="choose a target mpp that no slide is coarser than",
        )
    width, height = slide.size
    return Grid(
        width=width,
        height=height,
        downsample=downsample,
        patch_px=config.patch_px,
        stride_px=config.step_px,
    )


def analyse_slide(slide: Slide, config: TileConfig, *, tissue_mask: Path | None = None) -> SlideAnalysis:
    """Return a slide's grid, the shifts of its channels, tissue model and intensity windows.

    Parameters
    ----------
    slide : Slide
        An open slide.
    config : TileConfig
        Without a target mpp the slide's own is kept. With ``registration.align`` all else is that of the slide after
        its channels were moved onto each other.
    tissue_mask : Path, optional
        Raster at any scale that covers the whole slide, or outlines of QuPath or ASAP; it takes the place of the tissue
        that would be found.

    Raises
    ------
    MppMissingError
        The slide's mpp is unknown.
    InputUnsupportedError
        The slide is coarser than the target by more than 2 %, or windows of a cohort are asked for and not given.
    ChannelMismatchError
        The configuration names a channel that the slide does not have.
    ModalityMismatchError, InputMissingError, InputCorruptError
        The tissue mask does not fit the slide, is missing or cannot be read.
    NonFiniteError
        The slide holds NaN or infinite pixels; they are counted.
    """
    grid = grid_of(slide, config)
    _refuse_channels(slide, config)
    if config.intensity.scope == "cohort" and not slide.is_rgb and set(slide.channels) - set(config.intensity.windows):
        raise InputUnsupportedError(
            f"no window of the cohort for {', '.join(sorted(set(slide.channels) - set(config.intensity.windows)))}",
            place=str(slide.paths[0]),
            remedy="tile the cohort by its manifest, which finds them; or give "
            "[tile.intensity] windows, or scope = 'slide'",
        )
    return _analysed(slide, config, grid, tissue_mask)


def slide_quantiles(slide: Slide, config: TileConfig, *, tissue_mask: Path | None = None) -> NDArray[np.float64]:
    """Return how a slide's tissue intensities are distributed, for windows over a cohort; arguments as above.

    Returns
    -------
    ndarray of float64, shape (C, 2001), or (C, 0) without tissue
        See `pathopatch.patches.intensity.tissue_quantiles`.
    """
    _refuse_channels(slide, config)
    analysis = _analysed(slide, config, grid_of(slide, config), tissue_mask)
    return intensity.tissue_quantiles(analysis.overview, analysis.tissue.mask != 0)


def _refuse_channels(slide: Slide, config: TileConfig) -> None:
    """Raise if the configuration names a channel that the slide does not have."""
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
                remedy=f"correct {key}, or name the slide's channels in the manifest",
            )


def _analysed(slide: Slide, config: TileConfig, grid: Grid, tissue_mask: Path | None) -> SlideAnalysis:
    """Return a slide's analysis, the configuration being checked."""
    overview, unscanned, scale_x, scale_y = slide.read_scanned_overview()
    _refuse_nonfinite(overview, slide)
    shifts = measure_shifts(slide, overview, scale_x, scale_y, unscanned.mask)
    offsets = whole_offsets(shifts) if config.registration.align else ()
    polarities = polarities_of(slide, config)
    background = background_text(slide.channels, polarities)
    if any(x or y for x, y in offsets):
        slide = aligned(slide, offsets, background)
        overview, unscanned, scale_x, scale_y = slide.read_scanned_overview()
    if tissue_mask is None:
        tissue = fit_tissue(
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
        if tissue.is_unsure and config.tissue.when_unsure == "fail":
            raise NoTissueError(
                f"nothing tells tissue from background: {'; '.join(tissue.doubts)}",
                place=str(slide.paths[0]),
                remedy=_LOOK_AT_TISSUE,
            )
    else:
        overview_px = (overview.shape[2], overview.shape[1])
        is_from_bounds = config.labels.annotations.subtracted_bounds
        tissue = supplied_tissue(
            read_tissue_mask(
                tissue_mask,
                slide_size=slide.size,
                overview_px=overview_px,
                bounds_origin=slide.bounds[:2] if is_from_bounds else (0, 0),
            ),
            polarities=polarities,
            overview_px=overview_px,
            scale_x=scale_x,
            scale_y=scale_y,
            unscanned=unscanned.mask,
        )
    windows = intensity.windows(
        overview,
        tissue.mask != 0,
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
    )


def polarities_of(slide: Slide, config: TileConfig) -> Polarities:
    """Return the polarity of each channel: as the configuration states it, else as the slide has it."""
    if config.tissue.background == "auto":
        return slide.polarities
    stated = parse_background(config.tissue.background, slide.channels, place="[tile.tissue] background")
    if None not in stated:
        return tuple(each for each in stated if each is not None)
    return tuple(one or other for one, other in zip(stated, slide.polarities, strict=True))


def _refuse_nonfinite(pixels: NDArray[np.generic], slide: Slide) -> None:
    """Raise if pixels of a slide are NaN or infinite, with their number in each channel of the whole slide."""
    if pixels.dtype.kind != "f" or np.isfinite(pixels).all():
        return
    width, height = slide.size
    counts = np.zeros(len(slide.channels), np.int64)
    for top in range(0, height, _BAND_PX):
        for left in range(0, width, _BAND_PX):
            size = (min(_BAND_PX, width - left), min(_BAND_PX, height - top))
            counts += np.count_nonzero(~np.isfinite(slide.read_region(left, top, *size)), axis=(1, 2))
    found = ", ".join(f"{n} in {name}" for n, name in zip(counts, slide.channels, strict=True) if n)
    raise NonFiniteError(
        f"NaN or infinite pixels: of {width * height} pixels {found or 'none, but some of a coarser level'}",
        place=str(slide.paths[0]),
        remedy="replace them in the file; what they should be is not guessed",
    )


def iterate_patches(
    slide: Slide,
    analysis: SlideAnalysis,
    *,
    origins: NDArray[np.int64] | None = None,
    min_tissue: float = 0.0,
) -> Iterator[tuple[NDArray[np.int64], NDArray[np.generic], NDArray[np.float64]]]:
    """Yield patches in batches of bounded size, in the order of the origins.

    Parameters
    ----------
    slide : Slide
        An open slide, as recorded.
    analysis : SlideAnalysis
        Of this slide; its offsets are applied.
    origins : ndarray of int64, shape (N, 2), optional
        (x, y), level-0 px; the whole grid if not given.
    min_tissue : float
        Patches below this tissue fraction are left out; where the overview shows none, they are not even read.

    Raises
    ------
    NonFiniteError
        A patch holds NaN or infinite pixels.

    Yields
    ------
    rows : ndarray of int64, shape (n,)
        Which of the origins.
    patches : ndarray, shape (n, C, P, P)
        Source type and units; what lies beyond the slide has the background value.
    tissue_fraction : ndarray of float64, shape (n,)
        Share of tissue in what was scanned of the patch, the exact mean of its mask; 0 where nothing was.
    """
    grid, tissue = analysis.grid, analysis.tissue
    slide = aligned(slide, analysis.offsets, analysis.background)
    places = grid.origins() if origins is None else origins
    patch_bytes = len(slide.channels) * grid.patch_px**2 * slide.dtype.itemsize
    limit = max(1, min(_BATCH_PATCHES, _BATCH_BYTES // patch_bytes))
    rows: list[int] = []
    fractions: list[float] = []
    held = np.empty((0, len(slide.channels), grid.patch_px, grid.patch_px), slide.dtype)
    for row, (x, y) in enumerate(places.tolist()):
        within = grid.inside(x, y)
        is_blank = min_tissue > 0 and not tissue.overview_mask(x, y, grid.downsample, within).any()
        if not is_blank:
            if not rows:  # new memory for each batch: whoever got the last one may have kept it
                held = np.empty((min(limit, len(places) - row), *held.shape[1:]), slide.dtype)
            patch = planes(read_padded(slide, grid, analysis.fill, x, y), held[len(rows)])
            _refuse_nonfinite(patch, slide)  # the levels that the overview came from may hide them
            mask = tissue.patch_mask(patch, x, y, grid.downsample, within)
            tissue_px, scanned_px = np.count_nonzero(mask), within[0] * within[1]
            if tissue_px and (scanned := tissue.scanned_mask(x, y, grid.downsample, within)) is not None:
                scanned_px = int(np.count_nonzero(scanned))
            fraction = tissue_px / max(1, scanned_px)
            if fraction >= min_tissue:
                rows.append(row)
                fractions.append(fraction)
        if rows and (len(rows) == limit or row == len(places) - 1):
            yield np.array(rows, np.int64), held[: len(rows)], np.array(fractions)
            rows, fractions = [], []
