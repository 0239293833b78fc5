"""Draw a heatmap over its slide, with legend and scale bar: a picture to look at, not to measure on.

The map is drawn by nearest cell, never smoothed: a cell's edge in the picture is its edge on the slide. It is clear at
0, so a dashed line around the cells with a value tells "nothing found" from "not looked at".
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from pathopatch.heatmaps.colors import AREA_LINE, LEGEND_TISSUE, blended, map_colors, map_opacity
from pathopatch.patches.picture import (
    FAINT,
    FONT_PX,
    INK,
    MARGIN_PX,
    ORIGIN,
    dashed,
    draw_channels,
    font,
    framed,
    outlined_with_holes,
)
from pathopatch.slides.background import Polarity
from pathopatch.slides.composite import Picture

_MIN_VIEW_PX = 1000  # smaller overviews are enlarged by a whole factor, so that legend and map are readable
_STRIPE_PX, _STRIPE_COLOR = 6, (150, 150, 150)  # every third stripe is drawn
_ALERT = (200, 40, 40)  # of the threshold and of warnings
_FOOT_PX, _SIDE_PX = 68, 290
_MIN_BODY_PX = 420  # room for the legend beside a small slide


@dataclass(frozen=True, kw_only=True)
class Legend:
    """Texts beside the picture."""

    threshold: float | None = None  # decision probability; cells above it are outlined. None: no tick, no outline
    name: str = ""  # of the slide; empty for none
    class_name: str = "tumour"  # whose probability the colours show
    channels: tuple[str, ...] = ()  # of a dark slide, shown in their colours; empty for brightfield
    warnings: tuple[str, ...] = ()  # a line each, in a few words
    title: str = ""  # of the colour bar; empty: the probability of `class_name`
    area: str = "analysed area"  # what the dashed line surrounds


_PLAIN = Legend()


def cells_under(
    size: tuple[int, int], cell_px: tuple[float, float], shape: tuple[int, int]
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return the row (h,) and the column (w,) of the cell under each row and column of a picture, by pixel centres.

    `size` is the picture's (h, w), `cell_px` a cell's (height, width) in px of the picture, `shape` the map's (ny, nx).
    """
    row, column = (
        np.minimum(((np.arange(length) + 0.5) / cell).astype(np.int64), count - 1)
        for length, cell, count in zip(size, cell_px, shape, strict=True)
    )
    return row, column


def to_fill(
    tissue: NDArray[np.bool_], size: tuple[int, int], cell_px: tuple[float, float], shape: tuple[int, int]
) -> NDArray[np.bool_]:
    """Return where a map (ny, nx) fills a picture of a size (h, w): over tissue, so that no glass looks like tumour.

    `tissue`, of any size, is the slide's. A cell without any of it, since it is finer than its pixels, is filled whole.
    """
    rows, columns = (np.arange(length) * n // length for length, n in zip(size, tissue.shape, strict=True))
    shown = tissue[rows][:, columns]
    row, column = cells_under(size, cell_px, shape)
    has_tissue = np.zeros(shape, np.bool_)
    line, across = np.nonzero(shown)
    has_tissue[row[line], column[across]] = True
    return np.asarray(shown | ~has_tissue[row][:, column], np.bool_)


def blend(
    picture: Picture,
    values: NDArray[np.float64],
    cell_px: tuple[float, float],
    ground: Polarity = "bright",
    tissue: NDArray[np.bool_] | None = None,
) -> Picture:
    """Return a picture (h, w, 3) with the map (ny, nx) over it, over the slide's `tissue` alone, see `to_fill`.

    Cells of value 0 and without a value stay clear.
    """
    row, column = cells_under(picture.shape[:2], cell_px, values.shape)
    opacity = map_opacity(values)[..., None]
    colors, clearness = opacity * map_colors(values, ground), 1 - opacity
    is_filled = None if tissue is None else to_fill(tissue, picture.shape[:2], cell_px, values.shape)
    over = picture.copy()
    # Row by row: the map at the picture's size would need several times the picture's memory.
    for line, cell_row in enumerate(row):
        if opacity[cell_row].any():
            drawn = np.rint(clearness[cell_row][column] * picture[line] + colors[cell_row][column])
            over[line] = drawn if is_filled is None else np.where(is_filled[line][:, None], drawn, picture[line])
    return over


def _hatched(picture: Picture, is_marked: NDArray[np.bool_], cell_px: tuple[float, float]) -> Picture:
    """Return a picture (h, w, 3) with slanted stripes over the marked cells (ny, nx)."""
    row, column = cells_under(picture.shape[:2], cell_px, is_marked.shape)
    striped, across = picture.copy(), np.arange(picture.shape[1])
    for line, cell_row in enumerate(row):
        striped[line, is_marked[cell_row][column] & ((line + across) // _STRIPE_PX % 3 == 0)] = _STRIPE_COLOR
    return striped


def render(
    picture: Picture,
    probability: NDArray[np.float64],
    *,
    ground: Polarity = "bright",
    tissue: NDArray[np.bool_] | None = None,
    hatched: Mapping[str, NDArray[np.bool_]] = MappingProxyType({}),
    cell_px: tuple[float, float],
    um_per_px: float | None,
    legend: Legend = _PLAIN,
) -> Picture:
    """Return the whole picture, uint8 (H, W, 3): map on slide, colour bar, scale bar, notes.

    `picture` is the slide, uint8 (h, w, 3), from `compose`; `probability` (ny, nx), NaN where nothing was predicted;
    cell (0, 0) starts at the picture's corner. `ground` chooses the colours, see `pathopatch.heatmaps.colors`; they are
    over the slide's `tissue`, of any size, alone. Cells
    `hatched` (ny, nx) have no value for a reason, which distinguishes them from glass: reason -> cells. `cell_px` is
    (height, width) of a cell in px of the picture, `um_per_px` its scale, without which there is no scale bar. `ORIGIN`
    and `view_size` give the slide's place in the result. Equal arguments give equal pixels.
    """
    factor = max(1, _MIN_VIEW_PX // max(picture.shape[:2]))
    picture = picture.repeat(factor, axis=0).repeat(factor, axis=1)
    cell_px = (cell_px[0] * factor, cell_px[1] * factor)
    view = blend(picture, probability, cell_px, ground, tissue)
    row, column = cells_under(picture.shape[:2], cell_px, probability.shape)
    has_value = np.isfinite(probability)
    notes = [f"grey dashes: {legend.area}"] if has_value.any() else ["nothing predicted:", "too little tissue"]
    notes += ["colours: over tissue alone"] if tissue is not None and has_value.any() else []
    view = dashed(view, has_value[row][:, column], AREA_LINE[ground])
    if legend.threshold is not None:
        view, has_hole = outlined_with_holes(view, (probability > legend.threshold)[row][:, column])
        notes.append(f"outlined: called {legend.class_name}")
        notes += ["black dashes: a hole in it"] if has_hole else []
    bar = blended(np.array(LEGEND_TISSUE[ground]), np.linspace(1, 0, 256), ground)
    reasons = [reason for reason, cells in hatched.items() if cells.any()]
    if reasons:
        view = _hatched(view, np.logical_or.reduce([hatched[reason] for reason in reasons]), cell_px)
        notes.append(f"hatched: {' or '.join(reasons)}")
    return _framed(view, bar, um_per_px and um_per_px / factor, legend, notes)


def view_size(sheet: tuple[int, int], slide: tuple[int, int]) -> tuple[int, int]:
    """Return (height, width) of the slide in a rendered picture, px, from its corner at `ORIGIN` on.

    `sheet` and `slide` are (height, width) of the whole picture and of the slide, px of each.
    """
    top, left = ORIGIN
    # A short side may be the legend's, so the scale is that of the tighter side.
    body = sheet[0] - top - _FOOT_PX, sheet[1] - left - _SIDE_PX
    scale = min(body[0] / slide[0], body[1] / slide[1])
    height, width = (max(1, round(length * scale)) for length in slide)
    return height, width


def _framed(
    view: Picture, shades: NDArray[np.float64], um_per_px: float | None, legend: Legend, notes: list[str]
) -> Picture:
    """Return the view on white paper with title, bar of colours `shades` (n, 3), and scale bar."""
    (height, width), (top, left) = view.shape[:2], ORIGIN
    body = max(height, _MIN_BODY_PX)
    lines = [_title(legend), f"      {_above(legend)}", *notes, *legend.warnings]
    side = max(_SIDE_PX, 24 + MARGIN_PX + round(max(font(FONT_PX).getlength(line) for line in lines)))
    size = (left + max(width, _MIN_BODY_PX) + side, top + body + _FOOT_PX)
    sheet, draw = framed(view, size, legend.name, um_per_px)
    _draw_bar(sheet, draw, (left + max(width, _MIN_BODY_PX) + 24, top), min(body, _MIN_BODY_PX), shades, legend, notes)
    note = "research use only"
    draw.text((size[0] - MARGIN_PX, size[1] - MARGIN_PX), note, fill=FAINT, font=font(FONT_PX), anchor="rs")
    return np.asarray(sheet)


def _title(legend: Legend) -> str:
    return legend.title or f"{legend.class_name} probability"


def _above(legend: Legend) -> str:
    return "" if legend.threshold is None else f"{legend.threshold:.2f}: {legend.class_name} above"


def _draw_bar(
    sheet: Image.Image,
    draw: ImageDraw.ImageDraw,
    corner: tuple[int, int],
    height: int,
    shades: NDArray[np.float64],
    legend: Legend,
    notes: list[str],
) -> None:
    """Draw the colour bar, its `shades` (n, 3) from the top down, with ticks, threshold, and notes below it."""
    small, (x, y) = font(FONT_PX), corner
    n_lines = len(notes) + len(legend.warnings) + len(legend.channels)
    draw.text((x, y), _title(legend), fill=INK, font=small)
    top, length, bar = y + 40, max(height - 40 - 26 * (2 + n_lines), 120), 28
    strip = np.asarray(np.rint(shades[np.arange(length) * len(shades) // length]), np.uint8)[:, None].repeat(
        bar, axis=1
    )
    sheet.paste(Image.fromarray(strip), (x, top))
    draw.rectangle((x - 1, top - 1, x + bar, top + length), outline=FAINT)
    tick = None if legend.threshold is None else top + round((1 - min(max(legend.threshold, 0), 1)) * (length - 1))
    for value in (0, 0.25, 0.5, 0.75, 1):
        level = top + round((1 - value) * (length - 1))
        draw.line((x + bar, level, x + bar + 6, level), fill=INK)
        # No text where the threshold's own text is.
        if tick is None or abs(level - tick) > FONT_PX:
            draw.text((x + bar + 12, level), f"{value:g}", fill=INK, font=small, anchor="lm")
    if tick is not None:
        draw.line((x - 10, tick, x + bar + 8, tick), fill=_ALERT, width=2)
        draw.text((x + bar + 12, tick), _above(legend), fill=_ALERT, font=small, anchor="lm")
    y = top + length + 18
    for lines, color in ((notes, INK), (legend.warnings, _ALERT)):
        for line in lines:
            draw.text((x, y), line, fill=color, font=small)
            y += 26
    draw_channels(draw, (x, y), legend.channels, width_px=_SIDE_PX - 60)
