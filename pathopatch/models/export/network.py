"""What leaves: a bundle's network with all that stands before and after it, so that nobody has to add it again.

The area mean from the patch to the network's input, the standardisation and the temperature are inside. What is left to
the user is to cut patches of ``patch_px`` at the model's mpp and to scale them to [0, 1].
"""

from __future__ import annotations

import copy
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn.functional import avg_pool2d, softmax

from pathopatch.models.bundle import PatchClassifier
from pathopatch.models.forward import area_weights
from pathopatch.models.spec import BundleSpec


class ExportedNetwork(nn.Module):
    """A network in evaluation mode, for patches as they are cut.

    Parameters
    ----------
    model : PatchClassifier
        Of which a float32 copy on the processor is taken.
    takes : str
        ``scaled``: patches in [0, 1], standardised here. ``standardised``: they are so already.
    gives : str
        ``probabilities``, or ``logits``: those divided by the temperature, of which the softmax is the probability.
    """

    def __init__(
        self,
        model: PatchClassifier,
        *,
        takes: Literal["scaled", "standardised"] = "scaled",
        gives: Literal["probabilities", "logits"] = "probabilities",
    ) -> None:
        super().__init__()
        spec = model.spec
        plain = copy.deepcopy(model.network).to("cpu", torch.float32)
        self.network = plain.to(memory_format=torch.contiguous_format).eval()  # type: ignore[call-overload]
        self.resize = AreaResize(spec.patch_px, spec.input_px)
        self.temperature = spec.temperature
        self.gives_probabilities = gives == "probabilities"
        self.standardises = takes == "scaled"
        if self.standardises:
            self.register_buffer("mean", torch.tensor(spec.mean, dtype=torch.float32)[None, :, None, None])
            self.register_buffer("std", torch.tensor(spec.std, dtype=torch.float32)[None, :, None, None])
        self.requires_grad_(False)
        self.eval()

    def forward(self, patches: Tensor) -> Tensor:
        """Return probabilities or logits (N, K) of patches (N, C, patch_px, patch_px)."""
        x = self.resize(patches)  # (N, C, input_px, input_px)
        if self.standardises:
            x = (x - self.mean) / self.std
        logits: Tensor = self.network(x) / self.temperature  # (N, K)
        return softmax(logits, dim=1) if self.gives_probabilities else logits


class AreaResize(nn.Module):
    """The area mean of `resize_area` as a part of a network.

    Parameters
    ----------
    from_px, to_px : int
        Side of the patches, and of the result.
    """

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
            return avg_pool2d(x, self.factor)  # the same mean, and a tenth of the work of two products
        return self.weights @ x @ self.weights.T


def probe(spec: BundleSpec, n: int) -> Tensor:
    """Return patches of noise in [0, 1], (n, C, patch_px, patch_px), always the same: to record or compare with."""
    generator = torch.Generator().manual_seed(n)
    return torch.rand(n, len(spec.channels), spec.patch_px, spec.patch_px, generator=generator)
