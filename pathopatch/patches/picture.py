"""Draw on pictures of slides: outlines, scale bars and text; write them as PNG.

Equal arguments give equal bytes: files hold no dates, and the font does not depend on the machine.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path

import cv2
import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from pathopatch.slides.composite import Picture, channel_colors

INK, PAPER, FAINT = (25, 25, 25), (255, 255, 255), (110, 110, 110)
FONT_PX, MARGIN_PX = 20, 16
ORIGIN = (56, MARGIN_PX)
"""(row, column) of the slide's top-left pixel in a framed picture, px."""
BLACK_AND_WHITE = ((0, 0, 0), (255, 255, 255))  # two lines, visible on any ground
_RUN_LENGTHS = 3  # zlib's Z_RLE
_STRIPE_PX, _STRIPES = 4, (95, 165)


def outlined(
    view: Picture, inside: NDArray[np.bool_], *, colors: Sequence[tuple[int, int, int]] = BLACK_AND_WHITE
) -> Picture:
    """Return the picture (h, w, 3) with lines along the inner edge of a mask (h, w); the picture's border is an edge.

    `colors` are red, green, blue of each line, the outermost first.
    """
    drawn = view.copy()
    for color in colors:
        line = _inner_edge(inside, _line_px(view))
        drawn[line] = color
        inside = inside & ~line
    return drawn


def _inner_edge(inside: NDArray[np.bool_], width_px: int) -> NDArray[np.bool_]:
    """Return the pixels of a mask (h, w) along its edge; the picture's border is one."""
    neighbours = cv2.getStructuringElement(cv2.MORPH_CROSS, (3, 3))
    padded = np.pad(inside.astype(np.uint8), 1)  # outside the picture nothing is set
    core = cv2.erode(padded, neighbours, iterations=width_px)[1:-1, 1:-1]
    return np.asarray(inside & (core == 0), np.bool_)


def outlined_with_holes(view: Picture, inside: NDArray[np.bool_]) -> tuple[Picture, bool]:
    """Return `outlined`, its line dashed around what the mask (h, w) surrounds, and whether there is such a hole."""
    # Of what lies around: its inner edges are outer edges of the mask. So two cells that meet at a corner are apart.
    around = np.pad((~inside).astype(np.uint8), 1, constant_values=1)
    contours, levels = cv2.findContours(around, cv2.RETR_CCOMP, cv2.CHAIN_APPROX_NONE)
    near = [np.zeros(around.shape, np.uint8), np.zeros(around.shape, np.uint8)]  # an outer edge, a hole's edge
    for index, contour in enumerate(contours):
        if contour.min() > 0:  # not the frame
            cv2.drawContours(near[int(levels[0, index, 3] < 0)], contours, index, 1)
    reach = np.ones((3, 3), np.uint8)
    outer, inner = (cv2.dilate(line, reach, iterations=2 * _line_px(view) + 1)[1:-1, 1:-1] != 0 for line in near)
    gaps = inner & ~outer & _bands(inside.shape, 2 * _dash_px(view))
    drawn = outlined(view, inside)
    drawn[gaps] = view[gaps]
    return drawn, bool(near[1].any())


def dashed(view: Picture, inside: NDArray[np.bool_], color: tuple[int, int, int]) -> Picture:
    """Return the picture (h, w, 3) with a dashed line along the inner edge of a mask (h, w)."""
    drawn = view.copy()
    drawn[_inner_edge(inside, _line_px(view)) & _bands(inside.shape, _dash_px(view))] = color
    return drawn


def _line_px(view: Picture) -> int:
    return max(
        1, round(int(max(view.shape)) / 700)
    )  # lines grow with the picture, to stay visible when it is shown smaller


def _dash_px(view: Picture) -> int:
    return max(4, int(max(view.shape)) // 150)


def _bands(shape: tuple[int, ...], width_px: int) -> NDArray[np.bool_]:
    """Return the pixels (h, w), to be read alone, of every other slanted band: by the sum of row and column."""
    height, width = shape
    is_in_band = np.arange(height + width) // width_px % 2 == 0
    return sliding_window_view(is_in_band, width)[:height]


def mask_under(view: Picture, mask: NDArray[np.uint8]) -> NDArray[np.bool_]:
    """Return a mask (H, W) of 0 and 1 at the size of a picture of the same area, by majority, as bool (h, w)."""
    size = view.shape[1], view.shape[0]
    # Area means of 0 and 255 above half are a majority; an enlarged mask has no means.
    method = cv2.INTER_AREA if mask.shape[1] >= size[0] else cv2.INTER_NEAREST
    return np.asarray(cv2.resize(mask * np.uint8(255), size, interpolation=method) > 127, np.bool_)


def hatched(view: Picture, where: NDArray[np.bool_]) -> Picture:
    """Return the picture (h, w, 3) with diagonal grey stripes in place of the pixels `where` (h, w)."""
    stripes = np.where(_bands(where.shape, _STRIPE_PX), *map(np.uint8, _STRIPES))
    return np.where(where[..., None], stripes[..., None], view)


def write_png(path: Path, image: Picture) -> None:
    """Write an RGB picture as PNG without metadata; the caller renames it into place."""
    with path.open("wb") as stream:
        # Runs of equal bytes alone are compressed, and the rest is coded by frequency: of pictures of slides that gives
        # smaller files in four fifths of the time of level 2, and in two fifths of that of level 6.
        Image.fromarray(image).save(stream, format="PNG", compress_level=1, compress_type=_RUN_LENGTHS)


@lru_cache(maxsize=8)
def font(size: int) -> ImageFont.FreeTypeFont:
    """Return the font that matplotlib ships, so that pictures do not depend on the machine's fonts."""
    found = find_spec("matplotlib")  # its file alone: the package loads slowly
    assert found is not None
    assert found.origin is not None
    return ImageFont.truetype(str(Path(found.origin).with_name("mpl-data") / "fonts" / "ttf" / "DejaVuSans.ttf"), size)


def shortened(text: str, width_px: int) -> str:
    """Return the text cut to a width in the size of names, with an ellipsis."""
    letters = font(FONT_PX + 4)
    if letters.getlength(text) <= width_px:
        return text
    while text and letters.getlength(text + "…") > width_px:
        text = text[:-1]
    return text + "…"


def framed(
    view: Picture, size: tuple[int, int], name: str, um_per_px: float | None
) -> tuple[Image.Image, ImageDraw.ImageDraw]:
    """Return a slide's picture (h, w, 3) at `ORIGIN` of a white sheet of a size (width, height), to be drawn on.

    Above it is the slide's name, and below it, where the scale is known, a bar of round length (1, 2, 5, 10, 20 … um),
    at most a quarter of the slide's width.
    """
    (height, width), (top, left) = view.shape[:2], ORIGIN
    sheet = Image.new("RGB", size, PAPER)
    sheet.paste(Image.fromarray(view), (left, top))
    draw = ImageDraw.Draw(sheet)
    draw.rectangle((left - 1, top - 1, left + width, top + height), outline=FAINT)
    draw.text((left, MARGIN_PX), shortened(name, size[0] - 2 * left), fill=INK, font=font(FONT_PX + 4))
    if um_per_px is not None:
        longest = max(width / 4, 40) * um_per_px
        power = 10.0 ** math.floor(math.log10(longest))
        length = max(step * power for step in (1, 2, 5) if step * power <= longest * (1 + 1e-9))
        text, y = f"{length / 1000:g} mm" if length >= 1000 else f"{length:g} µm", top + height + 14
        draw.rectangle((left, y, left + round(length / um_per_px) - 1, y + 6), fill=INK)
        draw.text((left, y + 12), text, fill=INK, font=font(FONT_PX))
    return sheet, draw


def draw_channels(
    draw: ImageDraw.ImageDraw, corner: tuple[int, int], channels: Sequence[str], *, width_px: int
) -> None:
    """Draw one line per channel: its colour, and its name cut to a width."""
    x, y = corner
    for name, color in zip(channels, channel_colors(len(channels)), strict=True):
        draw.rectangle((x, y + 5, x + 14, y + 19), fill=tuple(180 * part for part in color), outline=FAINT)
        draw.text((x + 22, y), shortened(name, width_px), fill=INK, font=font(FONT_PX))
        y += 26
