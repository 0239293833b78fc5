"""Describe a slide: its facts, the measurements of its pixels, and a thumbnail with the tissue outlined."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pathopatch.core.config import TileConfig
from pathopatch.patches import intensity
from pathopatch.patches.analysis import SlideAnalysis, analyse_slide, read_level
from pathopatch.patches.labels import LabelSource, SlideLabels, patch_means, tumor_on_glass
from pathopatch.patches.labels import labels as labels_of
from pathopatch.patches.picture import (
    FAINT,
    FONT_PX,
    MARGIN_PX,
    ORIGIN,
    draw_channels,
    font,
    framed,
    mask_under,
    outlined,
)
from pathopatch.slides import Slide
from pathopatch.slides.composite import Picture, compose, shrunk

# Lengths in the thumbnail, px.
_LONGEST = 1024
_SMALLEST = 500  # smaller slides are enlarged by a whole factor, so that outline and letters are legible
_FOOT, _LINE = 52, 26


@dataclass(frozen=True, kw_only=True, eq=False)
class Description:
    """The facts and measurements of a slide."""

    slide_id: str
    slide: Slide  # open or closed: its facts stay
    mpp: float | None  # um per level-0 px; None if unknown
    background: str  # see `pathopatch.slides.background.parse_background`
    overview: NDArray[np.generic]  # (C, h, w): the whole slide, source units
    windows: NDArray[np.float64]  # (C, 2): intensities drawn black and full
    analysis: SlideAnalysis | None  # None without mpp: tissue sizes are in um
    warnings: tuple[str, ...] = ()  # for a person to check
    target_mpp: float | None = None  # um per px of patches, if they are to be cut

    @property
    def tissue_share(self) -> float:
        """Share of the overview's scanned part that is tissue, in [0, 1]; NaN without mpp."""
        return math.nan if self.analysis is None else self.analysis.tissue.share

    @property
    def shift_um(self) -> float:
        """The largest distance of a channel from the first, um; NaN if none is measured."""
        if self.analysis is None or self.mpp is None:
            return math.nan
        distances = [shift.distance_px * self.mpp for shift in self.analysis.shifts if shift.is_measured]
        return max(distances, default=math.nan)

    def measurements(self) -> dict[str, Any]:
        """Return the measurements as plain values, one row of a table."""
        tissue = None if self.analysis is None else self.analysis.tissue
        threshold = None if tissue is None or tissue.is_supplied else tissue.threshold
        return {
            "tissue_share": self.tissue_share,
            "tissue_threshold": math.nan if threshold is None else threshold,
            "tissue_confidence": math.nan if tissue is None else tissue.confidence,
            "shift_um": self.shift_um,
            "warnings": self.warnings,
        }

    def lines(self) -> list[tuple[str, str]]:
        """Return name and text of each fact, in reading order."""
        slide, (x, y, width, height) = self.slide, self.slide.bounds
        sizes = ", ".join(f"{level.width} x {level.height} (1/{level.downsample:g})" for level in slide.levels)
        size = f"{slide.size[0]} x {slide.size[1]} px"
        if self.mpp is not None:
            size += f", {slide.size[0] * self.mpp / 1000:.3g} x {slide.size[1] * self.mpp / 1000:.3g} mm"
        lines = [
            ("slide", self.slide_id),
            ("channels", ", ".join(slide.channels)),
            ("type", str(slide.dtype)),
            ("size", size),
            ("mpp", "not stated: give --slide-mpp" if self.mpp is None else f"{self.mpp:.4g} um/px"),
            ("levels", f"{len(slide.levels)}: {sizes}"),
            ("background", self.background),
        ]
        if slide.facts.icc:
            lines.append(("ICC profile", f"{slide.facts.icc}, not applied: colours are as stored"))
        if (width, height) != slide.size:
            lines.append(("scanned part", f"{width} x {height} px at ({x}, {y})"))
        if self.analysis is None:
            return [*lines, ("tissue", "not sought: its sizes in um need the mpp"), *self._channel_lines()]
        if self.target_mpp is not None:
            downsample = self.analysis.grid.downsample
            level, scale = read_level(slide.levels, downsample).values()
            side = f"{downsample / scale:.4g}"
            text = f"read from level {level} (1/{scale:g}), {side} x {side} px to one"
            lines.append((f"at {self.target_mpp:g} um/px", text))
        tissue = self.analysis.tissue
        if tissue.unscanned_share:
            lines.append(("not scanned", f"{tissue.unscanned_share:.1%} of the slide"))
        above = "" if (tissue.threshold or 0) < 0 else f", above {tissue.threshold or 0:.3f} of the signal"
        share = "none found" if tissue.threshold is None else f"{self.tissue_text()}{above}"
        return [*lines, ("tissue", f"{share}, confidence {tissue.confidence:.2f}"), *self._channel_lines()]

    def tissue_text(self) -> str:
        """Return the share of tissue with what it is a share of."""
        assert self.analysis is not None
        if not self.analysis.tissue.unscanned_share:
            return f"{self.tissue_share:.1%} of the slide"
        return f"{self.tissue_share:.1%} of what was scanned"

    def _channel_lines(self) -> list[tuple[str, str]]:
        lines = []
        shifts = {shift.channel: shift for shift in self.analysis.shifts} if self.analysis is not None else {}
        for name, (low, high) in zip(self.slide.channels, self.windows.tolist(), strict=True):
            text = f"window {low:.5g} to {high:.5g}"
            shift = shifts.get(name)
            if shift is not None and self.mpp is not None:
                text += f", against {self.slide.channels[0]}: "
                text += (
                    f"shifted {shift.x_px:+.1f} px across, {shift.y_px:+.1f} px down "
                    f"({shift.distance_px * self.mpp:.2f} um, confidence {shift.confidence:.1f})"
                    if shift.is_measured
                    else f"no common edges, shift unknown (confidence {shift.confidence:.1f})"
                )
            lines.append((name, text))
        return lines


def describe_slide(
    slide: Slide,
    config: TileConfig,
    *,
    slide_id: str,
    tissue_mask: Path | None = None,
    labels: LabelSource | None = None,
) -> Description:
    """Describe a slide; its overview is read.

    Arguments and errors are those of `analyse_slide`. A slide without mpp has no tissue. Where `labels` put tumour on
    glass, as the overview shows it, a warning says so; raises as `SlideLabels`.
    """
    analysis = analyse_slide(slide, config, tissue_mask=tissue_mask) if slide.has_mpp else None
    if analysis is not None:
        overview, windows, background = analysis.overview, analysis.windows, analysis.background
    else:
        overview, unscanned, _, _ = slide.read_scanned_overview()
        windows = intensity.windows(
            overview,
            np.zeros(overview.shape[1:], np.bool_),
            rule=config.intensity,
            is_rgb_uint8=slide.is_rgb,
            polarities=slide.polarities,
            scanned=~unscanned.mask,
        )
        background = slide.background
    mpp = slide.mpp if slide.has_mpp else None
    warnings = list(slide.notes)
    if analysis is not None and mpp is not None:
        warnings += analysis.warnings(mpp, config.registration.warn_um)
    if analysis is not None and not analysis.tissue.mask.any():
        warnings.append("no tissue found")
    if analysis is not None and labels is not None:
        grid = analysis.grid
        stated = SlideLabels(
            labels, slide_size=slide.size, bounds_origin=slide.bounds[:2], config=config.labels, grid=grid
        )
        origins = grid.origins()
        x, y = origins.T
        label = labels_of(*stated.fractions(x, y, grid.extent), patch_px=grid.patch_px, config=config.labels)
        shares = patch_means(analysis.tissue.mask != 0, grid), grid.inside_fractions(origins)
        warnings += tumor_on_glass(x, y, label, *shares, extent=grid.extent, whole_slide=labels.whole_slide)
    return Description(
        slide_id=slide_id,
        slide=slide,
        mpp=mpp,
        background=background,
        overview=overview,
        windows=windows,
        analysis=analysis,
        warnings=tuple(warnings),
        target_mpp=config.mpp,
    )


def thumbnail(description: Description) -> Picture:
    """Draw a slide: its channels in colours, names, and with mpp the outlined tissue and a scale bar; see `framed`."""
    view = compose(shrunk(description.overview, _LONGEST), description.windows, is_rgb=description.slide.is_rgb)
    # By a whole factor, so that each pixel stays a square.
    factor = max(1, _SMALLEST // max(view.shape[:2]))
    view = view.repeat(factor, axis=0).repeat(factor, axis=1)
    if description.analysis is not None:
        view = outlined(view, mask_under(view, description.analysis.tissue.mask))
    (height, width), (top, left) = view.shape[:2], ORIGIN
    channels = () if description.slide.is_rgb else description.slide.channels
    size = (2 * left + max(width, 420), top + height + _FOOT + _LINE * len(channels) + MARGIN_PX)
    um_per_px = None if description.mpp is None else description.slide.size[0] * description.mpp / width
    sheet, draw = framed(view, size, description.slide_id, um_per_px)
    share = "mpp unknown" if description.analysis is None else f"tissue {description.tissue_text()}, outlined"
    draw.text((size[0] - left, top + height + 26), share, fill=FAINT, font=font(FONT_PX), anchor="ra")
    draw_channels(draw, (left, top + height + _FOOT + 6), channels, width_px=size[0] - 2 * left - 22)
    return np.asarray(sheet)
