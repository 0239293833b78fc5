"""Write a heatmap as an 8-bit RGB pyramid, which OpenSlide-based viewers open beside the slide.

OpenSlide reads neither floats nor levels in SubIFDs. One pixel is one cell; colours are viridis from 0 to 1, lossless,
and **white**, which viridis lacks, where nothing was predicted.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import tifffile
from numpy.typing import NDArray

from pathopatch.heatmaps.ome_tiff import pyramid
from pathopatch.heatmaps.overlay import map_colors
from pathopatch.patches.picture import Picture

_NOT_PREDICTED = 255  # of red, green and blue
_TILE_PX = 256
_UM_PER_CM = 1e4
_DESCRIPTION = "pathopatch heatmap: probability of the positive class, viridis from 0 to 1; white: not predicted"


def write_rgb_pyramid(path: Path, probability: NDArray[np.floating[Any]], *, cell_um: float) -> None:
    """Write a map (ny, nx) as a tiled pyramidal TIFF in colours; equal arguments give equal bytes.

    NaN where nothing was predicted. `cell_um`, the side of a cell, becomes OpenSlide's ``openslide.mpp-x`` and ``-y``.
    """
    cells = np.asarray(probability, np.float32)
    step = 2 ** (len(pyramid(cells[None])) - 1)
    # Viewers take the ratio of the levels' sizes as their scale: padded to the right and below until each level is
    # exactly half of the one before.
    overhang = [(0, -side % step) for side in cells.shape]
    levels = pyramid(np.pad(cells, overhang, constant_values=np.nan)[None])
    with tifffile.TiffWriter(path, bigtiff=True) as writer:
        for level, level_cells in enumerate(levels):
            writer.write(
                colored(level_cells[0]),
                photometric="rgb",
                tile=(_TILE_PX, _TILE_PX),
                compression="adobe_deflate",
                predictor=True,
                subfiletype=int(level > 0),
                resolution=(_UM_PER_CM / cell_um / 2**level,) * 2,
                resolutionunit="CENTIMETER",
                description=_DESCRIPTION if level == 0 else None,
                software="pathopatch",
                metadata=None,
            )


def colored(probability: NDArray[np.floating[Any]]) -> Picture:
    """Return a map (ny, nx) as a picture, one pixel per cell: viridis, white where nothing was predicted."""
    colors = np.where(np.isfinite(probability)[..., None], map_colors(probability), _NOT_PREDICTED)
    return np.asarray(np.rint(colors), np.uint8)
