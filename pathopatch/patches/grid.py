"""Lay out the patches of a slide.

The grid is laid on the plane of the target mpp and written down in level-0 px. It starts at (0, 0) and covers the
whole slide: the last patch of a row or column may overhang, none is left out.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from pathopatch.core.errors import InputUnsupportedError

_ROUNDING = 1e-9  # a quotient this close above a whole number is that number: no patch for a rounding error


@dataclass(frozen=True, kw_only=True)
class Grid:
    """The patches of one slide as numbers.

    Raises
    ------
    InputUnsupportedError
        A size is not positive, or the stride is below one level-0 px.
    """

    width: int  # size of the slide, level-0 px
    height: int
    downsample: float  # level-0 px per target-mpp px, that is target mpp / slide mpp
    patch_px: int  # side of a patch, target-mpp px
    stride_px: int  # distance of neighbouring patches, target-mpp px
    stride: float = field(init=False, repr=False, compare=False)  # the same, level-0 px; a real number
    extent: float = field(init=False, repr=False, compare=False)  # side of a patch, level-0 px; a real number
    span_px: int = field(init=False, repr=False, compare=False)  # the same, to the nearest whole pixel
    nx: int = field(init=False, repr=False, compare=False)  # patches in a row
    ny: int = field(init=False, repr=False, compare=False)  # patches in a column

    def __post_init__(self) -> None:
        # A frozen class refuses assignments, so the derived fields are set through its dictionary.
        vars(self).update(stride=self.stride_px * self.downsample, extent=self.patch_px * self.downsample)
        if min(self.width, self.height, self.patch_px) < 1 or not self.stride >= 1:
            raise InputUnsupportedError(
                f"no grid of stride {self.stride:g} level-0 px and patches of {self.patch_px} px "
                f"on {self.width} x {self.height} px",
                remedy="give a positive patch size and a stride of at least one level-0 pixel",
            )
        # Rounded up: the last patch overhangs, so that no tissue at the edge is lost.
        nx, ny = (math.ceil(side / self.stride - _ROUNDING) for side in (self.width, self.height))
        vars(self).update(span_px=math.floor(self.extent + 0.5), nx=nx, ny=ny)

    def origins(self) -> NDArray[np.int64]:
        """Return the (x, y) of each patch's top-left corner.

        Returns
        -------
        ndarray of int64, shape (nx * ny, 2)
            Level-0 px, row by row: y outer, x inner. Patch i of a row starts at floor(i * stride + 0.5).
        """
        x, y = (np.floor(np.arange(n) * self.stride + 0.5).astype(np.int64) for n in (self.nx, self.ny))
        return np.stack([np.tile(x, len(y)), np.repeat(y, len(x))], axis=1)  # (N, 2)

    def inside_fractions(self, origins: NDArray[np.int64]) -> NDArray[np.float64]:
        """Return the share of each patch's pixels that lies on the slide, (N,), by `origins`, (N, 2), and `inside`."""
        sides = np.floor((np.array([self.width, self.height]) - origins) / self.downsample + 0.5)
        return np.asarray(np.clip(sides, 1, self.patch_px).prod(axis=1) / self.patch_px**2, np.float64)

    def inside(self, x: int, y: int) -> tuple[int, int]:
        """Return how much of the patch at (x, y), level-0 px, lies on the slide: (width, height) in target-mpp px.

        A pixel counts if its centre lies on the slide; a patch that touches the slide keeps at least one pixel.
        """
        width, height = (
            min(self.patch_px, max(1, math.floor(rest / self.downsample + 0.5))) if rest > 0 else 0
            for rest in (self.width - x, self.height - y)
        )
        return width, height
