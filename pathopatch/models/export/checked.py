"""What does a recorded network refuse? In a file of its own, since its source becomes code inside the export."""

from __future__ import annotations

from torch import Tensor


def of_scaled_patches(patches: Tensor, channels: int, side_px: int) -> Tensor:
    """Return patches as they are, if they are scaled and of the shape (N, channels, side_px, side_px).

    Raises
    ------
    ValueError
        Another shape, or a value outside [0, 1].
    """
    if patches.dim() != 4 or patches.size(1) != channels or patches.size(2) != side_px or patches.size(3) != side_px:
        raise ValueError(
            "patches of shape "
            + str(patches.size())
            + ", due is (N, "
            + str(channels)
            + ", "
            + str(side_px)
            + ", "
            + str(side_px)
            + "): cut them at the scale that export.json says"
        )
    if patches.numel() > 0 and (float(patches.min()) < 0.0 or float(patches.max()) > 1.0):
        raise ValueError("values outside [0, 1]: scale the patches as export.json says")
    return patches
