"""Draw a slide's prediction with matplotlib: the map on the slide, with axes in micrometres or millimetres."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from matplotlib.collections import LineCollection
from numpy.typing import NDArray

from pathopatch.heatmaps.overlay import cells_under

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from pathopatch.heatmaps.prediction import SlidePrediction

_ALPHA = 0.45  # as in ``overlay.png``: the tissue stays readable through the map
_FROM_MM = 2000.0  # um: longer slides have axes in mm


def draw_map(prediction: SlidePrediction, which: str, *, axes: Axes | None = None) -> Axes:
    """Draw a map over its slide and return the axes; see `SlidePrediction.plot`."""
    if axes is None:
        import matplotlib.pyplot as plt  # here: it chooses a backend, and notebooks show its figures by themselves

        _, axes = plt.subplots(layout="constrained")
    values = prediction.maps[which]
    width_um, height_um = (length * prediction.mpp for length in prediction.size_px)
    per_unit, unit = (1000.0, "mm") if max(width_um, height_um) > _FROM_MM else (1.0, "um")
    width, height = width_um / per_unit, height_um / per_unit
    cell = prediction.cell_px * prediction.mpp / per_unit
    if prediction.picture is not None:
        axes.imshow(prediction.picture, extent=(0, width, height, 0), interpolation="nearest")
    ny, nx = values.shape
    # The top of a spread has no meaning of its own; all else is a share.
    image = axes.imshow(
        np.ma.masked_invalid(values),
        cmap="viridis",
        vmin=0,
        vmax=None if which == "spread" else 1,
        alpha=1.0 if prediction.picture is None else _ALPHA,
        extent=(0, nx * cell, ny * cell, 0),
        interpolation="nearest",
    )
    if which == "probability":
        lines = cell * border_lines(values > prediction.decision_probability)
        axes.add_collection(LineCollection(list(lines), colors="black", linewidths=2.2))
        axes.add_collection(LineCollection(list(lines), colors="white", linewidths=1.0))
    axes.set(xlim=(0, width), ylim=(height, 0), xlabel=unit, ylabel=unit)
    # A slide's name may hold a dollar sign, which would start a formula.
    axes.set_title(f"{prediction.slide_id}\n{_title(prediction, which)}", fontsize="medium", parse_math=False)
    name = f"{prediction.class_names[1]} probability" if which == "probability" else which.replace("_", " ")
    bar = axes.figure.colorbar(image, ax=axes, shrink=0.8)
    bar.set_label(name, parse_math=False)
    bar.ax.set_facecolor(_ground(prediction, values))
    return axes


def _ground(prediction: SlidePrediction, values: NDArray[np.float64]) -> tuple[float, float, float]:
    """Return the median colour of the slide under a map, on which the colour bar shows the map's own colours."""
    if prediction.picture is None:
        return (1.0, 1.0, 1.0)
    size = prediction.picture.shape[:2]
    across, down = (prediction.cell_px * px / whole for px, whole in zip(size[::-1], prediction.size_px, strict=True))
    row, column = cells_under(size, (down, across), values.shape)
    under = prediction.picture[np.isfinite(values)[row][:, column]]
    if not len(under):  # cells smaller than a pixel of the picture
        return (1.0, 1.0, 1.0)
    red, green, blue = np.median(under, axis=0) / 255
    return (float(red), float(green), float(blue))


def border_lines(inside: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Return the edges between cells (ny, nx) inside and outside, as lines (n, 2, 2) of two points (x, y), in cells."""
    padded = np.pad(inside, 1)
    # An edge lies where a cell differs from the one before it, along each axis.
    row, column = np.nonzero(padded[1:] != padded[:-1])
    across = np.stack([np.stack([column - 1, row], 1), np.stack([column, row], 1)], 1)
    row, column = np.nonzero(padded[:, 1:] != padded[:, :-1])
    down = np.stack([np.stack([column, row - 1], 1), np.stack([column, row], 1)], 1)
    return np.concatenate([across, down]).astype(np.float64)


def _title(prediction: SlidePrediction, which: str) -> str:
    if which != "probability":
        return which.replace("_", " ")
    positive = int(prediction.is_positive.sum())
    of = f"{positive} of {len(prediction.table)} patches {prediction.class_names[1]}"
    return f"{of} (above {prediction.decision_probability:.2f})"
