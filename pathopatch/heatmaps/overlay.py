"""How a heatmap looks on its slide: one picture with legend and scale bar, for eyes and not for measuring.

The map is drawn by nearest cell, never smoothed: a cell's edge in the picture is its edge on the slide. Cells without
a prediction stay clear. Equal arguments give equal bytes (no dates in the file).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Literal

import cv2
import matplotlib as mpl
import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

ALPHA = 0.45  # the tissue stays readable through the map
# Fixed colours of dark slides' channels, in order: the red, green, blue of CARS, TPEF, SHG pictures, then mixtures.
CHANNEL_COLORS = ((1, 0, 0), (0, 1, 0), (0, 0, 1), (1, 0, 1), (0, 1, 1), (1, 1, 0))
_SHORTEST_VIEW_PX = 1000  # smaller overviews are enlarged by a whole factor, so that legend and map are readable
_SWATCH = 96  # grey of the legend's ground where nothing was predicted
_INK, _PAPER, _FAINT = (25, 25, 25), (255, 255, 255), (110, 110, 110)

Picture = NDArray[np.uint8]
Background = Literal["dark", "bright"]


@dataclass(frozen=True, kw_only=True)
class Legend:
    """What stands beside the picture.

    Parameters
    ----------
    threshold : float or None
        Decision threshold as a probability; cells above it are outlined. None: no tick, no outline.
    name : str
        Name of the slide; empty: none is shown.
    class_name : str
        Class whose probability the colours show.
    channels : tuple of str
        Names of a dark slide's channels, shown in their colours; empty for brightfield.
    """

    threshold: float | None = None
    name: str = ""
    class_name: str = "tumour"
    channels: tuple[str, ...] = ()


PLAIN = Legend()
"""Neither a decision threshold nor a name."""


def shrunk(overview: NDArray[np.generic], longest_px: int) -> NDArray[np.generic]:
    """Return an overview whose longest side has at most so many px, by area means.

    Parameters
    ----------
    overview : ndarray, shape (C, h, w)
        In the slide's type.
    longest_px : int
        Positive.

    Returns
    -------
    ndarray, shape (C, h', w')
        In the same type; the scales are exactly ``h / h'`` and ``w / w'``.
    """
    height, width = overview.shape[1:]
    factor = max(height, width) / longest_px
    if factor <= 1:
        return overview
    size = max(1, round(width / factor)), max(1, round(height / factor))
    return np.stack([cv2.resize(plane, size, interpolation=cv2.INTER_AREA) for plane in overview])


def compose(overview: NDArray[np.generic], windows: NDArray[np.float64], *, is_rgb: bool) -> Picture:
    """Return a slide's overview as an RGB picture: brightfield as it is, other channels in fixed colours.

    Parameters
    ----------
    overview : ndarray, shape (C, h, w)
        In the slide's type.
    windows : ndarray of float64, shape (C, 2)
        Intensity drawn black, and drawn in full colour, per channel: the slide's windows, not the picture's.
    is_rgb : bool
        The channels are R, G, B of type uint8.

    Returns
    -------
    ndarray of uint8, shape (h, w, 3)
    """
    if is_rgb:
        return np.ascontiguousarray(overview.transpose(1, 2, 0)).astype(np.uint8)
    colors = _channel_colors(len(overview))
    total = np.zeros((*overview.shape[1:], 3), np.float32)
    for plane, (low, high), color in zip(overview, windows, colors, strict=True):
        scaled = np.clip((plane.astype(np.float32) - low) / max(high - low, 1e-12), 0.0, 1.0)
        total += scaled[..., None] * np.asarray(color, np.float32)
    return np.asarray(np.rint(np.clip(total, 0.0, 1.0) * 255), np.uint8)


def cells_under(
    size: tuple[int, int], cell_px: tuple[float, float], shape: tuple[int, int]
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return the cell under each row and each column of a picture (by the pixel's centre).

    Parameters
    ----------
    size : tuple of int
        (height, width) of the picture, px.
    cell_px : tuple of float
        (height, width) of a cell, px of the picture: stride / (level-0 px per px of the picture).
    shape : tuple of int
        (ny, nx) of the map.

    Returns
    -------
    row : ndarray of int64, shape (height,)
    column : ndarray of int64, shape (width,)
    """
    row, column = (
        np.minimum(((np.arange(length) + 0.5) / cell).astype(np.int64), count - 1)
        for length, cell, count in zip(size, cell_px, shape, strict=True)
    )
    return row, column


def blend(picture: Picture, probability: NDArray[np.float64], cell_px: tuple[float, float]) -> Picture:
    """Return the picture with the map over it, cells without a value left clear.

    Parameters
    ----------
    picture : ndarray of uint8, shape (h, w, 3)
    probability : ndarray of float64, shape (ny, nx)
        In [0, 1], NaN where nothing was predicted.
    cell_px : tuple of float
        (height, width) of a cell, px of the picture.

    Returns
    -------
    ndarray of uint8, shape (h, w, 3)
    """
    row, column = cells_under(picture.shape[:2], cell_px, probability.shape)
    blended = picture.copy()
    colors = np.where(np.isfinite(probability)[..., None], _colors(probability), 0)
    # Row by row: the map at the picture's size would need several times the picture's memory.
    for line, cell_row in enumerate(row):
        shown = np.isfinite(probability[cell_row])[column]
        under, over = picture[line, shown], colors[cell_row][column[shown]]
        blended[line, shown] = np.rint((1 - ALPHA) * under + ALPHA * over)
    return blended


def render(
    picture: Picture,
    probability: NDArray[np.float64],
    *,
    cell_px: tuple[float, float],
    um_per_px: float,
    legend: Legend = PLAIN,
) -> Picture:
    """Return the finished picture: map on slide, colour bar, scale bar, notes.

    Parameters
    ----------
    picture : ndarray of uint8, shape (h, w, 3)
        From `compose`.
    probability : ndarray of float64, shape (ny, nx)
        In [0, 1], NaN where nothing was predicted; cell (0, 0) starts at the picture's corner.
    cell_px : tuple of float
        (height, width) of a cell, px of the picture.
    um_per_px : float
        Micrometres per px of the picture.
    legend : Legend

    Returns
    -------
    ndarray of uint8, shape (H, W, 3)
        The slide stands at rows and columns that `origin` gives.
    """
    factor = max(1, _SHORTEST_VIEW_PX // max(picture.shape[:2]))
    picture = picture.repeat(factor, axis=0).repeat(factor, axis=1)
    cell_px = (cell_px[0] * factor, cell_px[1] * factor)
    view = blend(picture, probability, cell_px)
    if legend.threshold is not None:
        view = _outlined(view, probability > legend.threshold, cell_px)
    ground = _ground(picture, probability, cell_px)
    notes = ["clear: not predicted"] if np.isfinite(probability).any() else ["no tissue: nothing predicted"]
    if legend.threshold is not None:
        notes.append(f"outlined: called {legend.class_name}")
    return _framed(view, ground, um_per_px / factor, legend, notes)


def origin() -> tuple[int, int]:
    """Return (row, column) at which the slide's corner stands in a rendered picture, px."""
    return _MARGIN + _HEAD, _MARGIN


def write_png(path: Path, image: Picture) -> None:
    """Write an RGB picture as PNG without any metadata.

    Parameters
    ----------
    path : Path
        File to write; the caller renames it into place.
    image : ndarray of uint8, shape (H, W, 3)
    """
    with path.open("wb") as stream:
        Image.fromarray(image).save(stream, format="PNG", compress_level=6)


def round_length_um(limit_um: float) -> float:
    """Return the longest of 1, 2, 5, 10, 20, 50 … um that is at most the limit.

    Parameters
    ----------
    limit_um : float
        Positive.
    """
    power = 10.0 ** math.floor(math.log10(limit_um))
    return max(step * power for step in (1, 2, 5) if step * power <= limit_um * (1 + 1e-9))


def length_text(length_um: float) -> str:
    """Return a length as text, in mm from 1000 um on."""
    return f"{length_um / 1000:g} mm" if length_um >= 1000 else f"{length_um:g} µm"


_MARGIN, _HEAD, _FOOT, _SIDE, _FONT_PX = 16, 40, 68, 290, 20


def _channel_colors(count: int) -> tuple[tuple[int, ...], ...]:
    """Return each channel's colour; one channel alone is grey, those past the palette start it anew."""
    if count == 1:
        return ((1, 1, 1),)
    return tuple(CHANNEL_COLORS[index % len(CHANNEL_COLORS)] for index in range(count))


def _colors(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return viridis of values in [0, 1], 0 to 255, shape (..., 3); of NaN anything."""
    table = np.asarray(mpl.colormaps["viridis"](np.linspace(0, 1, 256)))[:, :3] * 255
    index = np.rint(np.clip(np.nan_to_num(values), 0, 1) * 255).astype(np.int64)
    return np.asarray(table[index], np.float64)


def _outlined(view: Picture, positive: NDArray[np.bool_], cell_px: tuple[float, float]) -> Picture:
    """Return the picture with a line, black and white, along the inside of the edge of the positive cells."""
    row, column = cells_under(view.shape[:2], cell_px, positive.shape)
    inside = positive[row][:, column]
    outlined = view.copy()
    for shade in (0, 255):
        core = inside
        for _ in range(max(1, round(max(view.shape) / 700))):
            core = _shrunk(core)
        outlined[inside & ~core] = shade
        inside = core
    return outlined


def _shrunk(mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Return a mask without its outermost pixels; the picture's border counts as outside."""
    padded = np.pad(mask, 1)
    return mask & padded[:-2, 1:-1] & padded[2:, 1:-1] & padded[1:-1, :-2] & padded[1:-1, 2:]


def _ground(picture: Picture, probability: NDArray[np.float64], cell_px: tuple[float, float]) -> NDArray[np.float64]:
    """Return the median colour under the map: the legend's bar, blended on it, shows the map's own colours."""
    row, column = cells_under(picture.shape[:2], cell_px, probability.shape)
    thinned = picture[::4, ::4][np.isfinite(probability)[row[::4]][:, column[::4]]]
    return np.median(thinned, axis=0) if len(thinned) else np.full(3, float(_SWATCH))


@lru_cache(maxsize=8)
def _font(size: int) -> ImageFont.FreeTypeFont:
    """Return the font that matplotlib ships, so that pictures do not depend on the machine's fonts."""
    return ImageFont.truetype(str(Path(mpl.get_data_path(), "fonts", "ttf", "DejaVuSans.ttf")), size)


def _framed(view: Picture, ground: NDArray[np.float64], um_per_px: float, legend: Legend, notes: list[str]) -> Picture:
    """Return the view on white paper with title, colour bar and scale bar."""
    height, width = view.shape[:2]
    top, left = origin()
    body = max(height, 420)
    size = (left + max(width, 420) + _SIDE, top + body + _FOOT)
    sheet = Image.new("RGB", size, _PAPER)
    sheet.paste(Image.fromarray(view), (left, top))
    draw = ImageDraw.Draw(sheet)
    draw.rectangle((left - 1, top - 1, left + width, top + height), outline=_FAINT)
    draw.text((left, _MARGIN), _shortened(legend.name, size[0] - 2 * left), fill=_INK, font=_font(_FONT_PX + 4))
    _draw_bar(sheet, draw, (left + max(width, 420) + 24, top), min(body, 420), ground, legend, notes)
    _draw_scale(draw, (left, top + height + 14), width, um_per_px)
    note = "research use only"
    draw.text((size[0] - _MARGIN, size[1] - _MARGIN), note, fill=_FAINT, font=_font(_FONT_PX), anchor="rs")
    return np.asarray(sheet)


def _shortened(text: str, width_px: int) -> str:
    """Return the text, its tail replaced by an ellipsis where it would leave the sheet."""
    font = _font(_FONT_PX + 4)
    if font.getlength(text) <= width_px:
        return text
    while text and font.getlength(text + "…") > width_px:
        text = text[:-1]
    return text + "…"


def _draw_scale(draw: ImageDraw.ImageDraw, corner: tuple[int, int], width: int, um_per_px: float) -> None:
    """Draw a bar of round length, at most a quarter of the slide's width, and its length."""
    length = round_length_um(max(width / 4, 40) * um_per_px)
    x, y = corner
    draw.rectangle((x, y, x + round(length / um_per_px) - 1, y + 6), fill=_INK)
    draw.text((x, y + 12), length_text(length), fill=_INK, font=_font(_FONT_PX))


def _draw_bar(
    sheet: Image.Image,
    draw: ImageDraw.ImageDraw,
    corner: tuple[int, int],
    height: int,
    ground: NDArray[np.float64],
    legend: Legend,
    notes: list[str],
) -> None:
    """Draw the colour bar with its ticks, the decision threshold, and the notes below it."""
    font, (x, y) = _font(_FONT_PX), corner
    draw.text((x, y), f"{legend.class_name} probability", fill=_INK, font=font)
    top, length, bar = y + 40, max(height - 40 - 26 * (4 + len(legend.channels)), 120), 28
    shades = (1 - ALPHA) * ground + ALPHA * _colors(np.linspace(1, 0, length))
    strip = np.asarray(np.rint(shades), np.uint8)[:, None].repeat(bar, axis=1)
    sheet.paste(Image.fromarray(strip), (x, top))
    draw.rectangle((x - 1, top - 1, x + bar, top + length), outline=_FAINT)
    tick = None if legend.threshold is None else top + round((1 - min(max(legend.threshold, 0), 1)) * (length - 1))
    for value in (0, 0.25, 0.5, 0.75, 1):
        level = top + round((1 - value) * (length - 1))
        draw.line((x + bar, level, x + bar + 6, level), fill=_INK)
        if tick is None or abs(level - tick) > _FONT_PX:  # the threshold's own text stands there
            draw.text((x + bar + 12, level), f"{value:g}", fill=_INK, font=font, anchor="lm")
    if tick is not None:
        text = f"{legend.threshold:.2f}: {legend.class_name} above"
        draw.line((x - 10, tick, x + bar + 8, tick), fill=(200, 40, 40), width=2)
        draw.text((x + bar + 12, tick), text, fill=(200, 40, 40), font=font, anchor="lm")
    y = top + length + 18
    for note in notes:
        draw.text((x, y), note, fill=_INK, font=font)
        y += 26
    for name, color in zip(legend.channels, _channel_colors(len(legend.channels)), strict=True):
        draw.rectangle((x, y + 5, x + 14, y + 19), fill=tuple(180 * part for part in color), outline=_FAINT)
        draw.text((x + 22, y), _shortened(name, _SIDE - 60), fill=_INK, font=font)
        y += 26
