"""The network of an export, with everything before and after it that users would otherwise have to add.

The area mean from the patch to the network's input, the standardisation and the temperature are inside. Users only cut
patches of ``patch_px`` at the model's mpp and scale them to [0, 1].
"""

from __future__ import annotations

import copy

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.functional import avg_pool2d, softmax

from pathopatch.models.spec import BundleSpec


class ExportedNetwork(nn.Module):
    """A float32 copy of a model's network on the processor, in evaluation mode, for patches as they are cut.

    It takes patches in [0, 1] and gives probabilities. For wsinfer it takes standardised patches and gives logits,
    divided by the temperature, so that their softmax is the probability.
    """

    def __init__(self, spec: BundleSpec, network: nn.Module, *, is_wsinfer: bool = False) -> None:
        super().__init__()
        plain = copy.deepcopy(network).to("cpu", torch.float32)
        self.network = plain.to(memory_format=torch.contiguous_format).eval()  # type: ignore[call-overload]
        self.resize = _AreaResize(spec.patch_px, spec.input_px)
        self.temperature = spec.temperature
        self.is_wsinfer = is_wsinfer
        if not is_wsinfer:
            self.register_buffer("mean", torch.tensor(spec.mean, dtype=torch.float32)[None, :, None, None])
            self.register_buffer("std", torch.tensor(spec.std, dtype=torch.float32)[None, :, None, None])
        self.requires_grad_(False)
        self.eval()

    def forward(self, patches: Tensor) -> Tensor:
        """Return probabilities or logits (N, K) of patches (N, C, patch_px, patch_px)."""
        x = self.resize(patches)  # (N, C, input_px, input_px)
        if not self.is_wsinfer:
            x = (x - self.mean) / self.std
        logits: Tensor = self.network(x) / self.temperature  # (N, K)
        return logits if self.is_wsinfer else softmax(logits, dim=1)


class _AreaResize(nn.Module):
    """`resize_area` from a side of `from_px` to one of `to_px`, as a part of a network."""

    weights: Tensor

    def __init__(self, from_px: int, to_px: int) -> None:
        super().__init__()
        self.factor = from_px // to_px if from_px % to_px == 0 else 0
        if self.factor == 0:
            self.register_buffer("weights", torch.from_numpy(area_weights(from_px, to_px)))

    def forward(self, x: Tensor) -> Tensor:
        """Return patches (N, C, to_px, to_px) of patches (N, C, from_px, from_px)."""
        if self.factor == 1:
            return x
        if self.factor:
            return avg_pool2d(x, self.factor)  # the same mean at a tenth of the work of two matrix products
        return self.weights @ x @ self.weights.T


def area_weights(from_px: int, to_px: int) -> NDArray[np.float32]:
    """Return `resize_area` along one side as a matrix m (to_px, from_px): m @ x @ m.T resizes a plane x."""
    identity = np.eye(from_px, dtype=np.float32)
    return np.asarray(cv2.resize(identity, (from_px, to_px), interpolation=cv2.INTER_AREA), dtype=np.float32)


def probe(spec: BundleSpec, n: int) -> Tensor:
    """Return noise patches in [0, 1], (n, C, patch_px, patch_px), always the same, to record or compare networks."""
    generator = torch.Generator().manual_seed(n)
    return torch.rand(n, len(spec.channels), spec.patch_px, spec.patch_px, generator=generator)


def check_patches(patches: Tensor, channels: int, side_px: int) -> Tensor:
    """Return patches unchanged; refuse another shape than (N, channels, side_px, side_px) or values outside [0, 1]."""
    # torch compiles this function into the export, so it uses only what torch's compiler accepts. It must not share a
    # module with the class that is recorded: torch stores a file of code per module, and refuses to load such a
    # mixture.
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
