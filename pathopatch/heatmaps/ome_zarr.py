"""Write a heatmap as an OME-Zarr 0.5 image that viewers lay over the slide's overview.

float32 channels in a pyramid, NaN where nothing was predicted.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import zarr
from numpy.typing import NDArray

from pathopatch.heatmaps.ome_tiff import CHANNELS, pyramid
from pathopatch.patches.store_writer import write_array
from pathopatch.slides.omezarr_export import image_attributes, multiscales

_CHUNK_PX = 512
_AXES = ("c", "y", "x")


def write_ome_zarr(
    path: Path,
    cells: NDArray[np.float32],
    *,
    cell_um: float,
    over_um: tuple[float, float],
    channels: Sequence[str] = CHANNELS,
    name: str = "heatmap",
) -> None:
    """Write a map (C, ny, nx) as an OME-Zarr image with the levels of the OME-TIFF; equal arguments give equal bytes.

    Cell (0, 0) starts at level-0 (0, 0) of the slide and has a side of `cell_um`. `over_um` is (x, y) um per px of the
    image below the map. Viewers show the first channel, from 0 to 1; the others can be switched on.
    """
    levels = pyramid(np.ascontiguousarray(cells, np.float32))
    group = zarr.create_group(path, zarr_format=3)
    for number, level in enumerate(levels):
        sides = (min(side, _CHUNK_PX) for side in level.shape[1:])
        write_array(group, str(number), level, chunks=(1, *sides), names=_AXES)
    factors = [(2.0**number, 2.0**number) for number in range(len(levels))]
    # OME-Zarr places an image by the centre of its first pixel. A cell is far larger than a pixel of the overview, so
    # `over_um` gives the shift that brings the two images' corners together.
    image = multiscales(name, _AXES, factors, (cell_um, cell_um), over_um=over_um)
    windows = np.array([[0.0, 1.0]] * len(channels))
    attributes = image_attributes(image, channels, windows, version="0.5")
    for hidden in attributes["ome"]["omero"]["channels"][1:]:
        hidden["active"] = False
    group.attrs.put(attributes)
