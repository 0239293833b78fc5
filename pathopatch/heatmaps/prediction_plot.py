"""Draw a slide's prediction with matplotlib: the map on the slide, with axes in micrometres or millimetres."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from matplotlib.collections import LineCollection
from numpy.typing import NDArray

from pathopatch.heatmaps.colors import MAP_OPACITY, heat_colormap
from pathopatch.heatmaps.overlay import cells_under
from pathopatch.patches.annotations.polygons import border_lines
from pathopatch.slides.background import Polarity

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_FROM_MM = 2000.0  # um: longer slides have axes in mm
_WHITE = (1.0, 1.0, 1.0)


def draw_map(
    values: NDArray[np.float64],
    *,
    title: str,
    label: str,
    cell_um: float,
    size_um: tuple[float, float],
    picture: NDArray[np.uint8] | None = None,
    ground: Polarity = "bright",
    outlined_above: float | None = None,
    highest: float | None = 1.0,
    axes: Axes | None = None,
) -> Axes:
    """Draw a map (ny, nx) over its slide and return the axes.

    `cell_um` is the side of a cell, `size_um` the slide's (width, height), `picture` the slide (h, w, 3); without it
    the map lies on white in full colours. `ground` chooses the colours. A dashed line surrounds the cells with a
    value. Cells above `outlined_above` are outlined; `highest` is the value of the top colour, None for
    the map's own maximum. `label` stands at the colour bar.
    """
    if axes is None:
        import matplotlib.pyplot as plt  # here: it chooses a backend, and notebooks show its figures by themselves

        _, axes = plt.subplots(layout="constrained")
    per_unit, unit = (1000.0, "mm") if max(size_um) > _FROM_MM else (1.0, "um")
    (width, height), cell = (length / per_unit for length in size_um), cell_um / per_unit
    if picture is not None:
        axes.imshow(picture, extent=(0, width, height, 0), interpolation="nearest")
    ny, nx = values.shape
    image = axes.imshow(
        np.ma.masked_invalid(values),
        cmap=heat_colormap(ground, 1.0 if picture is None else MAP_OPACITY),
        vmin=0,
        vmax=highest,
        extent=(0, nx * cell, ny * cell, 0),
        interpolation="nearest",
    )
    area = cell * border_lines(np.isfinite(values))
    axes.add_collection(LineCollection(list(area), colors="grey", linewidths=0.8, linestyles="dashed"))
    if outlined_above is not None:
        lines = cell * border_lines(values > outlined_above)
        axes.add_collection(LineCollection(list(lines), colors="black", linewidths=2.2))
        axes.add_collection(LineCollection(list(lines), colors="white", linewidths=1.0))
    axes.set(xlim=(0, width), ylim=(height, 0), xlabel=unit, ylabel=unit)
    # A slide's name may hold a dollar sign, which would start a formula.
    axes.set_title(title, fontsize="medium", parse_math=False)
    bar = axes.figure.colorbar(image, ax=axes, shrink=0.8)
    bar.set_label(label, parse_math=False)
    across, down = (cell / length for length in (width, height))
    bar.ax.set_facecolor(_WHITE if picture is None else _ground(picture, values, (down, across)))
    return axes


def _ground(
    picture: NDArray[np.uint8], values: NDArray[np.float64], cell: tuple[float, float]
) -> tuple[float, float, float]:
    """Return the median colour of the slide under a map, on which the colour bar shows the map's own colours.

    `cell` is a cell's (height, width) as shares of the slide.
    """
    height, width = picture.shape[:2]
    row, column = cells_under((height, width), (cell[0] * height, cell[1] * width), values.shape)
    under = picture[np.isfinite(values)[row][:, column]]
    if not len(under):  # cells smaller than a pixel of the picture
        return _WHITE
    red, green, blue = np.median(under, axis=0) / 255
    return (float(red), float(green), float(blue))
