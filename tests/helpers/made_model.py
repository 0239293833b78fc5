"""A small model made on the spot, for slides of three uint8 channels at 0.5 um/px."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from pathopatch.models.bundle import save_bundle
from pathopatch.models.networks import build_network
from pathopatch.models.spec import BundleSpec


def made_spec(patch_px: int = 16, channels: Sequence[str] = ("R", "G", "B"), **changed: Any) -> BundleSpec:
    """Return the spec of a small network; stride, input and the moments of the channels follow from the arguments."""
    values = {
        "architecture": "small-groupnorm", "channels": tuple(channels), "dtype": "uint8", "patch_px": patch_px,
        "stride_px": patch_px, "mpp": 0.5, "input_px": patch_px, "mean": (0.5,) * len(channels),
        "std": (0.2,) * len(channels), "method": "erm",
    }  # fmt: skip
    return BundleSpec(**(values | changed))


def write_model(folder: Path) -> Path:
    """Write a bundle of random weights, the same ones each time, for patches of 16 px; return its folder."""
    torch.manual_seed(0)
    save_bundle(folder, build_network("small-groupnorm", 3), made_spec(background="bright"))
    return folder
