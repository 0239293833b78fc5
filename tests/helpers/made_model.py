"""A small model made on the spot, for slides of three uint8 channels at 0.5 um/px."""

from __future__ import annotations

from pathlib import Path

import torch

from pathopatch.models.bundle import save_bundle
from pathopatch.models.networks import build_network
from pathopatch.models.spec import BundleSpec


def write_model(folder: Path) -> Path:
    """Write a bundle of random weights, the same ones each time, for patches of 16 px; return its folder."""
    torch.manual_seed(0)
    spec = BundleSpec(
        architecture="small-groupnorm",
        channels=("R", "G", "B"),
        dtype="uint8",
        background="bright",
        patch_px=16,
        stride_px=16,
        mpp=0.5,
        input_px=16,
        mean=(0.5, 0.5, 0.5),
        std=(0.2, 0.2, 0.2),
        method="erm",
    )
    save_bundle(folder, build_network("small-groupnorm", 3), spec)
    return folder
