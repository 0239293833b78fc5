"""Frozen networks: a backbone in evaluation mode, the mean of its maps, and a linear head.

The backbone's weights come from elsewhere and do not learn. So the features of a patch are computed once, and a head is
solved exactly on them. Head and backbone are one network, which is predicted with and exported like any other.

References
----------
Kirichenko, Izmailov, Wilson, "Last Layer Re-Training is Sufficient for Robustness to Spurious Correlations", ICLR 2023,
arXiv:2204.02937: features of plain training, or of ImageNet, hold what a balanced head needs.
"""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.functional import interpolate

from pathopatch.core.errors import InputUnsupportedError
from pathopatch.models.runtime import openvino_runtime, patches_per_pass
from pathopatch.models.runtime.torch_runtime import processor_threads, run_in_batches
from pathopatch.models.spec import BackboneSpec

FeatureFunction = Callable[[NDArray[np.float32]], NDArray[np.float32]]
"""Gives the features (N, D) of standardised patches (N, C, H, W)."""

WHOLE_PX, CROPPED_PX = 224, 96
"""Sides to which patches, and crops of them, are brought for a convolutional backbone: multiples of its last stride."""
_STRIDES = (8, 16, 32)
_LEAST = 1e-6  # a patch without tissue has features of 0, not NaN


class FrozenNetwork(nn.Module):
    """A backbone whose weights never change, and a linear head on its features.

    Parameters
    ----------
    backbone : nn.Module
        One of timm's networks, of three channels.
    form : BackboneSpec
        How patches are fed and features are pooled.
    channels : int
        Of the patches. Three are colour, unless the form takes each channel as grey.
    n_classes : int
        Outputs of the head.
    is_masked : bool
        Whether maps are averaged over tissue only; the last channel of the input is the mask.
    """

    def __init__(
        self, backbone: nn.Module, form: BackboneSpec, *, channels: int, n_classes: int, is_masked: bool
    ) -> None:
        super().__init__()
        self.backbone: nn.Module = backbone
        self.form, self.is_masked = form, is_masked
        self.classifier = nn.Linear(feature_dim(backbone, form) * (channels if form.by_channel else 1), n_classes)
        self.requires_grad_(False)
        self.eval()

    def train(self, mode: bool = True) -> FrozenNetwork:
        """Leave the backbone in evaluation mode, whose batch norms must keep their statistics."""
        super().train(mode)
        self.backbone.eval()
        return self

    def forward(self, x: Tensor) -> Tensor:
        """Return logits (N, K) of standardised patches (N, C, H, W), or (N, C + 1, H, W) with the tissue mask last."""
        logits: Tensor = self.classifier(self.features(x))
        return logits

    def features(self, x: Tensor) -> Tensor:
        """Return the features (N, D) of patches as `forward` takes them; those of grey channels side by side."""
        pixels, mask = (x[:, :-1], x[:, -1:]) if self.is_masked else (x, None)
        channels = pixels.shape[1]
        if self.form.by_channel:
            pixels = pixels.reshape(-1, 1, *pixels.shape[2:]).expand(-1, 3, -1, -1)
            mask = None if mask is None else mask.repeat_interleave(channels, dim=0)
        side = (self.form.side_px,) * 2
        if tuple(pixels.shape[2:]) != side:
            pixels = interpolate(pixels, size=side, mode="bilinear", align_corners=False)
        if mask is not None:
            mask = (mask > 0.5).to(pixels.dtype)  # augmentation and resampling leave shares of pixels in it
        pooled = self._pooled(pixels, mask)
        return pooled.reshape(-1, channels * pooled.shape[1]) if self.form.by_channel else pooled

    def _pooled(self, pixels: Tensor, mask: Tensor | None) -> Tensor:
        backbone: Any = self.backbone
        if self.form.pooling == "final":
            pooled: Tensor = backbone.forward_head(backbone.forward_features(pixels), pre_logits=True)
            return pooled
        if is_transformer(backbone):
            prefix = int(backbone.num_prefix_tokens)
            whole: Tensor = backbone.forward_features(pixels)
            tokens = whole[:, prefix:]
            if self.form.pooling == "class+mean":
                return torch.cat([whole[:, 0], tokens.mean(1)], 1)
            if mask is None:
                return tokens.mean(1)
            side = round(tokens.shape[1] ** 0.5)
            weight: Tensor = _tissue_share(mask, self.form.side_px, side).flatten(2).transpose(1, 2)
            return (tokens * weight).sum(1) / weight.sum(1).clamp_min(_LEAST)
        maps: list[Tensor] = backbone.forward_intermediates(pixels, indices=_places(backbone), intermediates_only=True)
        if mask is None:
            return torch.cat([each.mean((2, 3)) for each in maps], 1)
        means = []
        for each in maps:
            share = _tissue_share(mask, self.form.side_px, each.shape[2])
            means.append((each * share).sum((2, 3)) / share.sum((2, 3)).clamp_min(_LEAST))
        return torch.cat(means, 1)


def _tissue_share(mask: Tensor, side_px: int, positions: int) -> Tensor:
    """Return the share of tissue at each position of a map, (N, 1, positions, positions).

    The mask (N, 1, H, H) is brought to `side_px` by area means, or by the nearest pixel, in products with a constant.
    OpenVINO has no fast code for means over windows of several sizes: they took a third of a whole pass.
    """
    height, positions = int(mask.shape[2]), int(positions)  # of a trace they are tensors
    pixel = np.arange(side_px)
    start = pixel * height // side_px
    end = -(-(pixel + 1) * height // side_px) if height > side_px else start + 1
    place = np.arange(height)
    is_read = (place >= start[:, None]) & (place < end[:, None])  # (side_px, H)
    weight = (is_read / (end - start)[:, None]).reshape(positions, -1, height).mean(axis=1)
    rows = torch.tensor(weight, dtype=mask.dtype, device=mask.device)
    return rows @ mask @ rows.T


def is_transformer(backbone: nn.Module) -> bool:
    """Return whether the features of a network are tokens, all of one stride."""
    return hasattr(backbone, "num_prefix_tokens")


def feature_dim(backbone: nn.Module, form: BackboneSpec) -> int:
    """Return the number of features of a patch, or of one of its channels.

    InputUnsupportedError for a convolutional network without maps of strides 8, 16 and 32.
    """
    network: Any = backbone
    if form.pooling == "final":
        return int(network.head_hidden_size)
    if is_transformer(network):
        return int(network.num_features) * (2 if form.pooling == "class+mean" else 1)
    return sum(network.feature_info[place]["num_chs"] for place in _places(network))


def _places(backbone: Any) -> list[int]:
    """Return which of a network's maps have the strides 8, 16 and 32: the last one of each."""
    strides = [info["reduction"] for info in getattr(backbone, "feature_info", ())]
    if missing := [stride for stride in _STRIDES if stride not in strides]:
        raise InputUnsupportedError(
            f"the backbone has no map of stride {missing[0]}, whose strides are {strides}",
            place="[train] architecture",
            remedy="use another of timm's convolutional networks or vision transformers, or mask = 'none'",
        )
    return [len(strides) - 1 - strides[::-1].index(stride) for stride in _STRIDES]


def open_features(
    network: nn.Module, *, channels: int, input_px: int, inside_px: int, device: torch.device, threads: int | None
) -> FeatureFunction:
    """Return what runs a network from (N, channels, input_px, input_px) to (N, D); it works at `inside_px`.

    OpenVINO runs it on processors where it can, else torch does.
    """
    if device.type != "cpu":
        return torch_features(network, device, threads)
    try:
        return _openvino_features(network, channels, input_px, inside_px, threads)
    except RuntimeError as error:
        warnings.warn(f"OpenVINO cannot run this backbone, torch does: {error}", UserWarning, stacklevel=2)
        return torch_features(network, device, threads)


def torch_features(network: nn.Module, device: torch.device, threads: int | None) -> FeatureFunction:
    """Return what runs a network by torch, in float32; it raises as `run_in_batches`."""
    # The network itself stays on the processor, where its head is solved and its bundle is written.
    ready = (network if device.type == "cpu" else copy.deepcopy(network).to(device)).eval()

    def features(x: NDArray[np.float32]) -> NDArray[np.float32]:
        patches = torch.from_numpy(np.ascontiguousarray(x))
        with processor_threads(threads):
            return run_in_batches(lambda part: ready(part.to(device)), patches, batch=len(x), device=device)

    return features


def _openvino_features(
    network: nn.Module, channels: int, input_px: int, inside_px: int, threads: int | None
) -> FeatureFunction:
    """Return what runs a network by OpenVINO on a processor, with its weights; RuntimeError without an operation."""
    import openvino
    from openvino.frontend import GeneralFailure, NotImplementedFailure, OpConversionFailure

    shape = patches_per_pass(max(input_px, inside_px)), channels, input_px, input_px
    with warnings.catch_warnings(), torch.inference_mode():
        warnings.simplefilter("ignore")  # torch warns that tracing is old, and that shapes become constants
        try:
            converted = openvino.convert_model(network, example_input=torch.zeros(1, *shape[1:]))
        except (GeneralFailure, NotImplementedFailure, OpConversionFailure) as error:  # no RuntimeErrors
            raise RuntimeError(str(error)) from error
    compiled = openvino_runtime.compile_network(converted, shape, "float32", threads or openvino_runtime.cores())
    return openvino_runtime.FixedBatch(compiled, shape)
