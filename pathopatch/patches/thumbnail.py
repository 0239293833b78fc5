"""How does a slide look, and which part of it counts as tissue? One small picture with outline and scale bar."""

from __future__ import annotations

import numpy as np
from PIL import Image, ImageDraw

from pathopatch.patches.describe import Description
from pathopatch.patches.picture import (
    FAINT,
    FONT_PX,
    INK,
    PAPER,
    Picture,
    compose,
    draw_channels,
    draw_scale,
    font,
    mask_under,
    outlined,
    shortened,
    shrunk,
)

LONGEST_PX = 1024
_SMALLEST_PX = 500  # smaller slides are enlarged by a whole factor, so that outline and letters are readable
_MARGIN, _HEAD, _FOOT, _LINE = 16, 40, 52, 26


def thumbnail(description: Description) -> Picture:
    """Return a picture of a slide: its channels in colours, tissue outlined, a scale bar, and its names.

    Parameters
    ----------
    description : Description
        From `describe_slide`. Without mpp there is neither outline nor bar.

    Returns
    -------
    ndarray of uint8, shape (H, W, 3)
        The slide's corner stands at (row, column) = `corner()`.
    """
    view = compose(shrunk(description.overview, LONGEST_PX), description.windows, is_rgb=description.is_rgb)
    factor = max(1, _SMALLEST_PX // max(view.shape[:2]))
    view = view.repeat(factor, axis=0).repeat(factor, axis=1)
    if description.analysis is not None:
        view = outlined(view, mask_under(view, description.analysis.tissue.mask))
    height, width = view.shape[:2]
    (top, left), channels = corner(), () if description.is_rgb else description.channels
    size = (2 * left + max(width, 420), top + height + _FOOT + _LINE * len(channels) + _MARGIN)
    sheet = Image.new("RGB", size, PAPER)
    sheet.paste(Image.fromarray(view), (left, top))
    draw = ImageDraw.Draw(sheet)
    draw.rectangle((left - 1, top - 1, left + width, top + height), outline=FAINT)
    draw.text((left, _MARGIN), shortened(description.slide_id, size[0] - 2 * left), fill=INK, font=font(FONT_PX + 4))
    if description.mpp is not None:
        um_per_px = description.size[0] * description.mpp / width
        draw_scale(draw, (left, top + height + 14), width, um_per_px)
    share = f"tissue {description.tissue_share:.1%}, outlined" if description.analysis is not None else "mpp unknown"
    draw.text((size[0] - left, top + height + 26), share, fill=FAINT, font=font(FONT_PX), anchor="ra")
    draw_channels(draw, (left, top + height + _FOOT + 6), channels, width_px=size[0] - 2 * left - 22)
    return np.asarray(sheet)


def corner() -> tuple[int, int]:
    """Return (row, column) at which the slide's corner stands in a thumbnail, px."""
    return _MARGIN + _HEAD, _MARGIN
