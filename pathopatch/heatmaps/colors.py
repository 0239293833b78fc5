"""Colours of heatmaps: clear at 0, and stronger with the value, in hues that the slide itself lacks.

Every picture, report and page takes its colours from here. The map is chartreuse to green on bright ground, away from
the reds, purples and browns of the usual stains. On dark ground it is blue to cyan, away from the red, green and yellow
that most channels mix to. To readers with any colour blindness, quarters of it stay a visible step apart on tissue.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from pathopatch.slides.background import Polarity

MAP_OPACITY = 0.38
"""Opacity of the value 1: the tissue keeps 62 % of its contrast."""

Color = tuple[int, int, int]
"""Red, green, blue, 0 to 255."""

HEAT_COLORS: dict[Polarity, tuple[Color, Color]] = {
    "bright": ((190, 255, 0), (0, 205, 20)),
    "dark": ((0, 140, 255), (120, 255, 255)),
}
"""Colours next to 0 and at 1, by the slide's ground; linear in between."""

LEGEND_TISSUE: dict[Polarity, Color] = {"bright": (222, 184, 208), "dark": (48, 40, 36)}
"""What legends show the colours on: the same tissue in every picture, so that slides can be compared."""

AREA_LINE: dict[Polarity, Color] = {"bright": (110, 110, 110), "dark": (150, 150, 150)}
"""The dashed line around the analysed area."""

GROUP_COLORS = ("#56b4e9", "#0072b2", "#e69f00", "#d55e00")
"""Groups 0 to 3 (Okabe-Ito): blue for non-tumour, orange for tumour, the darker one for much tissue."""

DIFFERENCE_COLORS = ("#0072b2", "#d55e00")
"""Where run A is lower, and where it is higher."""


def ground_of(background: str) -> Polarity:
    """Return the ground of a slide's picture by its background; bright where channels differ, since they add up."""
    return "dark" if background == "dark" else "bright"


def page_colors(ground: Polarity) -> dict[str, Any]:
    """Return all colours of the review page on a ground, as JSON values."""
    return {
        "map": HEAT_COLORS[ground],
        "legend_tissue": LEGEND_TISSUE[ground],
        "area": AREA_LINE[ground],
        "groups": GROUP_COLORS,
        "difference": DIFFERENCE_COLORS,
    }


def map_colors(values: NDArray[np.floating[Any]], ground: Polarity) -> NDArray[np.float64]:
    """Return the colours of values in [0, 1]: red, green, blue, 0 to 255, on one more axis, not rounded.

    How strongly they are drawn is another matter, see `map_opacity`. Values outside are clipped; NaN is as 0.
    """
    low, high = (np.array(color, np.float64) for color in HEAT_COLORS[ground])
    share = np.clip(np.nan_to_num(np.asarray(values, np.float64)), 0, 1)[..., None]
    return np.asarray(low + share * (high - low), np.float64)


def map_opacity(values: NDArray[np.floating[Any]], highest: float = MAP_OPACITY) -> NDArray[np.float64]:
    """Return the opacity of values in [0, 1]: 0 at 0 and for NaN, `highest` at 1."""
    return np.asarray(highest * np.clip(np.nan_to_num(np.asarray(values, np.float64)), 0, 1), np.float64)


def blended(
    under: NDArray[np.number[Any]], values: NDArray[np.floating[Any]], ground: Polarity, highest: float = MAP_OPACITY
) -> NDArray[np.float64]:
    """Return colours (..., 3), 0 to 255, with those of values (...) over them, not rounded."""
    opacity = map_opacity(values, highest)[..., None]
    mixed = (1 - opacity) * under.astype(np.float64) + opacity * map_colors(values, ground)
    return np.asarray(np.clip(mixed, 0, 255), np.float64)  # by rounding it may lie above 255, which matplotlib refuses
