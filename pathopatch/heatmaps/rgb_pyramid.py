"""How a heatmap becomes a picture that OpenSlide-based viewers open beside the slide: an 8-bit RGB pyramid.

OpenSlide reads neither floats nor levels in SubIFDs, so this TIFF has tiles of colours and its levels at the top. One
pixel is one cell. Colours are the overlay's, viridis from 0 to 1, without loss; where nothing was predicted it is
**white**, which viridis does not hold. For numbers, take the OME-TIFF.
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

NOT_PREDICTED = 255  # of red, green and blue
_TILE_PX = 256
_UM_PER_CM = 1e4
_DESCRIPTION = "pathopatch heatmap: probability of the positive class, viridis from 0 to 1; white: not predicted"


def write_rgb_pyramid(path: Path, probability: NDArray[np.floating[Any]], *, cell_um: float) -> None:
    """Write a map as a tiled pyramidal TIFF in colours; equal arguments give equal bytes.

    Viewers take the ratio of the levels' sizes as their scale, so the map is continued in white, right and below, until
    every level is exactly half as large as the one before.

    Parameters
    ----------
    path : Path
        File to write; the caller renames it into place.
    probability : ndarray of float, shape (ny, nx)
        In [0, 1], NaN where nothing was predicted; cell (0, 0) starts at level-0 (0, 0) of the slide.
    cell_um : float
        Side of a cell, um; OpenSlide's ``openslide.mpp-x`` and ``mpp-y`` of the file.
    """
    with tifffile.TiffWriter(path, bigtiff=True) as writer:
        for level, cells in enumerate(_levels(probability)):
            writer.write(
                colored(cells),
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
    """Return the picture of a map, a pixel a cell.

    Parameters
    ----------
    probability : ndarray of float, shape (ny, nx)
        In [0, 1], NaN where nothing was predicted.

    Returns
    -------
    ndarray of uint8, shape (ny, nx, 3)
        Viridis; white where nothing was predicted.
    """
    colors = np.where(np.isfinite(probability)[..., None], map_colors(probability), NOT_PREDICTED)
    return np.asarray(np.rint(colors), np.uint8)


def _levels(probability: NDArray[np.floating[Any]]) -> list[NDArray[np.float32]]:
    """Return the map and its halvings as the OME-TIFF has them, continued by NaN so that all sides halve exactly."""
    cells = np.asarray(probability, np.float32)
    step = 2 ** (len(pyramid(cells[None])) - 1)
    overhang = [(0, -side % step) for side in cells.shape]
    return [level[0] for level in pyramid(np.pad(cells, overhang, constant_values=np.nan)[None])]
