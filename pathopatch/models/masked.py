"""Networks that see tissue alone: no weight, statistic or mean reads a pixel that is not tissue.

Zero padding, normalisation over all pixels, pooling over glass and the mean over the whole field tell an ordinary
network how much tissue there is. Here, pixels outside the mask are 0, statistics and means are over the tissue.

References
----------
Aniraj et al., "Masking Strategies for Background Bias Removal in Computer Vision Models", ICCV Workshops 2023,
arXiv:2308.12127: masked input, masked features. Normalisation over the tissue is this package's.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import avg_pool2d, interpolate

from pathopatch.core.errors import InputUnsupportedError

_LEAST = 1e-6  # a patch without tissue has statistics of 0, not NaN


class MaskNormalised(nn.Module):
    """One of timm's networks with masked input and the mean over tissue in place of its pooling.

    Parameters
    ----------
    network : nn.Module
        A convolutional network, whose features are (N, D, h, w), or a vision transformer, whose features are (N, T, D)
        with its square of patch tokens last. Its batch norms should be frozen: their statistics are over all pixels.

    Raises
    ------
    InputUnsupportedError
        A network whose features have another form; MLPs have none.
    """

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        if not (hasattr(network, "forward_features") and hasattr(network, "forward_head")):
            raise InputUnsupportedError(
                f"{type(network).__name__} has no features by position to take a mean of",
                place="[train] mask",
                remedy="use small-groupnorm or one of timm's networks, or set mask = 'none'",
            )
        self.network = network

    def forward(self, x: Tensor) -> Tensor:
        """Return logits (N, K) of patches (N, C + 1, H, W), whose last channel is the tissue mask, 0 or 1."""
        network: Any = self.network
        pixels, mask = split_mask(x)
        features: Tensor = network.forward_features(pixels * mask)
        # Features that are alike everywhere pass any kind of pooling unchanged.
        if features.ndim == 4 and getattr(network, "output_fmt", "NCHW") == "NHWC":  # Swin
            features = features.permute(0, 3, 1, 2)
            mean = mean_over(features, _shrunk(mask, *features.shape[2:])).expand_as(features).permute(0, 2, 3, 1)
        elif features.ndim == 4:
            mean = mean_over(features, _shrunk(mask, *features.shape[2:])).expand_as(features)
        else:
            prefix = int(getattr(network, "num_prefix_tokens", 0))
            side = round((features.shape[1] - prefix) ** 0.5)
            weight = _shrunk(mask, side, side).flatten(2).transpose(1, 2)  # (N, side * side, 1)
            tokens = features[:, prefix:]
            mean = (tokens * weight).sum(1, keepdim=True) / weight.sum(1, keepdim=True).clamp_min(_LEAST)
            mean = mean.expand_as(features)
        logits: Tensor = network.forward_head(mean)
        return logits


class MaskedGroupNorm(nn.GroupNorm):
    """Group norm by the mean and variance of weighted positions."""

    def forward(self, x: Tensor, weight: Tensor) -> Tensor:  # type: ignore[override]
        """Return normalised features (N, D, h, w) by weights (N, 1, h, w) in [0, 1]."""
        pixels, share = x.flatten(2), weight.flatten(2).transpose(1, 2)  # (N, D, h * w), (N, h * w, 1)
        total = share.sum(1, keepdim=True).clamp_min(_LEAST)  # (N, 1, 1)
        mean = self._over_groups(pixels @ share / total)  # (N, D, 1)
        # Around the mean: the mean square less the squared mean would lose digits.
        variance = self._over_groups((pixels - mean).square() @ share / total)
        scale = torch.rsqrt(variance + self.eps) * self.weight[:, None]
        return x * scale.unsqueeze(3) + (self.bias[:, None] - mean * scale).unsqueeze(3)

    def _over_groups(self, values: Tensor) -> Tensor:
        """Return values (N, D, 1) averaged over the channels of each group."""
        grouped = values.view(values.shape[0], self.num_groups, -1)  # `len` would be traced as a constant
        return grouped.mean(2, keepdim=True).expand_as(grouped).reshape_as(values)


def split_mask(x: Tensor) -> tuple[Tensor, Tensor]:
    """Return pixels (N, C, H, W) and mask (N, 1, H, W), 0 or 1, of a masked network's input."""
    # Augmentation and resampling leave shares of pixels in the mask.
    return x[:, :-1], (x[:, -1:] > 0.5).to(x.dtype)


def mean_over(features: Tensor, weight: Tensor) -> Tensor:
    """Return the mean of features (N, D, h, w) by weights (N, 1, h, w), as (N, D, 1, 1); 0 without any weight."""
    total = weight.sum((2, 3), keepdim=True).clamp_min(_LEAST)
    return (features * weight).sum((2, 3), keepdim=True) / total


def halved(weight: Tensor) -> Tensor:
    """Return weights (N, 1, h, w) of half the size, rounded up: the share of tissue of each position."""
    return avg_pool2d(weight, 2, ceil_mode=True, count_include_pad=False)


def _shrunk(mask: Tensor, height: int, width: int) -> Tensor:
    """Return the share of tissue (N, 1, height, width) of each position of a mask (N, 1, H, W)."""
    if mask.shape[2] % height == 0 and mask.shape[3] % width == 0:
        return avg_pool2d(mask, (mask.shape[2] // height, mask.shape[3] // width))
    return interpolate(mask, size=(height, width), mode="area")
