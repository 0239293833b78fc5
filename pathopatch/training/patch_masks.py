"""Masks of the training patches, in memory at the network's input size."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pathopatch.patches.mask_bits import unpack_masks


@dataclass(frozen=True, eq=False)
class PatchMasks:
    """Masks of N patches, of one kind. They take N * input_px**2 / 8 bytes of memory: 2.3 kB each at 136 px.

    Parameters
    ----------
    bits : ndarray of uint8, shape (N, input_px, ceil(input_px / 8))
        As `pack_masks` returns them.
    input_px : int
        Side of a mask.
    """

    bits: NDArray[np.uint8]
    input_px: int

    def __len__(self) -> int:
        return len(self.bits)

    def read(self, index: Any) -> NDArray[np.bool_]:
        """Return masks, bool of shape (n, input_px, input_px), by indices or a slice."""
        return unpack_masks(self.bits[index], self.input_px)

    def rows(self, index: NDArray[np.int64]) -> PatchMasks:
        """Return the masks of some of the patches."""
        return PatchMasks(self.bits[index], self.input_px)
