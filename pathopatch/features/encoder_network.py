"""Build an encoder of the table, load its weights strictly, and pool its tokens to one vector per patch."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn

from pathopatch.core.config import EncodeConfig, Pooling
from pathopatch.core.errors import CheckpointIncompatibleError, InputMissingError, InputUnsupportedError
from pathopatch.features.encoders import ENCODERS, LITE0, EncoderEntry, encoder_entry, pooled_dim, poolings_of, twins_of
from pathopatch.features.slide_features import Encoder
from pathopatch.models.networks import BATCH_COUNTER, build_network, timm_arguments, weights_path
from pathopatch.models.weights import file_sha256, read_weights

CHANNELS = 3
_NAMES = ("model.safetensors", "pytorch_model.bin", "pytorch_model.pth", "model.pth")  # in a folder, the first counts
_SUFFIXES = (".safetensors", ".bin", ".pth", ".pt")
_WRAPPED = ("module.", "_orig_mod.", "teacher.", "backbone.")
_PACKAGE_STEM = "_conv_stem.weight"  # of the package's file, whose names are not timm's: training maps them by order
_TRAINING_ONLY = re.compile(r"(^|\.)(dino_head|ibot_head|mask_token)(\.|$)|^student\.")
_CHUNKED_BLOCK = re.compile(r"^blocks\.\d+\.(\d+)\.")  # DINOv2 shards its blocks in chunks


class PooledEncoder(nn.Module):
    """A network with `forward_features`, and the pooling of its tokens.

    ``forward_features`` gives tokens (N, P + T, D), or a feature map (N, D, h, w). `stride_px` counts input pixels per
    token, a side. `prefix_tokens` is P: the class token and registers before the T tokens of the image.
    """

    def __init__(self, network: nn.Module, pooling: Pooling, *, stride_px: int, prefix_tokens: int = 0) -> None:
        super().__init__()
        self.network = network
        self.pooling = pooling
        self.stride_px = stride_px
        self.prefix_tokens = prefix_tokens

    def forward(self, x: Tensor) -> Tensor:
        """Return features (N, D) of standardised patches (N, 3, H, W); for tissue-mean (N, 4, H, W), the mask last."""
        output = cast(Any, self.network).forward_features(x[:, :CHANNELS])
        tokens: Tensor = output.flatten(2).transpose(1, 2) if output.ndim == 4 else output
        image = tokens[:, self.prefix_tokens :]
        if self.pooling == "cls":
            return tokens[:, 0]
        if self.pooling == "cls+mean":
            return torch.cat([tokens[:, 0], image.mean(dim=1)], dim=1)
        if self.pooling == "tissue-mean":
            return (image * self._weights(x[:, CHANNELS:])).sum(dim=1)
        return image.mean(dim=1)

    def _weights(self, mask: Tensor) -> Tensor:
        """Return the weight of each token, (N, T, 1), which sum to 1: its share of tissue.

        Without any tissue all tokens weigh the same.
        """
        share = nn.functional.avg_pool2d(mask, self.stride_px).flatten(2).transpose(1, 2)
        total = share.sum(dim=1, keepdim=True)
        return torch.where(total > 0, share / total.clamp(min=1e-6), 1.0 / share.shape[1])


@dataclass(frozen=True, kw_only=True, eq=False)
class LoadedEncoder:
    """The network of an encoder, not yet on a device."""

    network: Any  # nn.Module; None where it was loaded in another process
    encoder: Encoder  # but for the precision
    resize_px: int  # side of patches before the centre of the input's side is cut out
    mpp: float | None  # um/px for which it was made; None: for no scale
    patch_px: int  # side of a patch at that scale
    notes: tuple[str, ...] = ()  # what a user must know, such as the licence

    @property
    def takes_tissue(self) -> bool:
        """Whether the pooling weighs tokens by tissue."""
        return self.encoder.pooling == "tissue-mean"


def load_entry(config: EncodeConfig) -> LoadedEncoder:
    """Return an encoder of the table with its weights."""
    entry = encoder_entry(config.encoder)
    stated = [name for name in ("input_px", "mean", "std") if getattr(config, name) is not None]
    if stated:
        raise InputUnsupportedError(
            f"{entry.name} has its own {', '.join(stated)}",
            place="--" + stated[0].replace("_", "-"),
            remedy="leave it out: these options are for a file",
        )
    pooling = config.pooling or entry.pooling
    weights = find_weights(config.weights, entry)
    network = load_encoder(entry, weights, pooling)
    notes = [f"{entry.name}: weights of {entry.source}, licence: {entry.licence}"]
    if twins := twins_of(entry.name):
        notes.append(
            f"the weights of {', '.join(twins)} have the same shapes: nothing but their file's name tells them from "
            f"those of {entry.name}"
        )
    mean, std = entry.norm
    return LoadedEncoder(
        network=network,
        encoder=Encoder(
            name=entry.name,
            dim=pooled_dim(entry, pooling),
            pooling=pooling,
            input_px=entry.input_px,
            mean=mean,
            std=std,
            crop=entry.crop,
            weights_sha256=file_sha256(weights),
        ),
        resize_px=entry.resize_px or entry.input_px,
        mpp=entry.mpp,
        patch_px=entry.patch_px,
        notes=tuple(notes),
    )


def load_encoder(entry: EncoderEntry, weights: Path, pooling: Pooling) -> PooledEncoder:
    """Return an encoder of the table with the weights of a file, in float32 on the processor, in evaluation mode."""
    if pooling not in poolings_of(entry):
        raise InputUnsupportedError(
            f"{entry.name} has no pooling {pooling!r}",
            place="--pooling",
            remedy=f"use one of {', '.join(poolings_of(entry))}",
        )
    tensors = read_weights(weights)
    if entry.name == LITE0 and _PACKAGE_STEM in tensors:
        network = build_network(entry.architecture, CHANNELS, pretrained=weights)
    else:
        network = _with_weights(entry, tensors, place=str(weights))
    if entry.architecture.startswith("vit"):
        patch_px = int(cast(Any, network).patch_embed.patch_size[0])
        grid = cast(Any, network).patch_embed.grid_size
        # An encoder that was trained on larger patches: its position embedding is resampled once, not in each pass.
        if grid is not None and grid != (entry.input_px // patch_px,) * 2:
            cast(Any, network).set_input_size((entry.input_px, entry.input_px))
        form = {"stride_px": patch_px, "prefix_tokens": int(cast(Any, network).num_prefix_tokens)}
    else:
        form = {"stride_px": int(cast(Any, network).feature_info[-1]["reduction"])}
    return PooledEncoder(network, pooling, **form).eval().requires_grad_(False)


def find_weights(place: Path | None, entry: EncoderEntry) -> Path:
    """Return the file of weights at a place, which is a file or a folder; where none is given, those of a package."""
    if place is None:
        if entry.name == LITE0:
            return weights_path(LITE0, entry.architecture)
        raise InputMissingError(
            f"the weights of {entry.name} are not given, and nothing is downloaded",
            place="--weights",
            remedy=f"get them from their publisher ({entry.source}; {entry.licence}) and give --weights FILE or FOLDER",
        )
    if not place.is_dir():
        return place
    for name in _NAMES:
        if (place / name).is_file():
            return place / name
    files = sorted(path for path in place.iterdir() if path.suffix in _SUFFIXES)
    if not files:
        raise InputMissingError(
            f"no file of weights in {place.name}", place=str(place), remedy=f"give a file ({', '.join(_SUFFIXES)})"
        )
    if len(files) > 1:
        raise InputUnsupportedError(
            f"several files of weights: {', '.join(path.name for path in files)}",
            place=str(place),
            remedy="name one of them",
        )
    return files[0]


def plain_names(weights: Mapping[str, Tensor], *, dropped: tuple[str, ...] = ()) -> dict[str, Tensor]:
    """Return the tensors of a publisher's file under timm's names, without those for training and those `dropped`."""
    named: dict[str, Tensor] = {}
    for name, value in weights.items():
        if _TRAINING_ONLY.search(name):
            continue
        for prefix in _WRAPPED:
            name = name.removeprefix(prefix)
        if not dropped or not name.startswith(dropped):
            name = _CHUNKED_BLOCK.sub(r"blocks.\1.", name)
            named[name.replace(".mlp.w12.", ".mlp.fc1.").replace(".mlp.w3.", ".mlp.fc2.")] = value
    if "register_tokens" in named:  # timm adds no position to registers, and that of the class token at once
        position = named["pos_embed"]
        named |= {
            "reg_token": named.pop("register_tokens"),
            "cls_token": named["cls_token"] + position[:, :1],
            "pos_embed": position[:, 1:],
        }
    return named


def _with_weights(entry: EncoderEntry, weights: Mapping[str, Tensor], *, place: str) -> nn.Module:
    """Return the network of an entry with weights, which must be exactly its tensors."""
    named = plain_names(weights, dropped=entry.dropped)
    # Without memory of its own, the network takes the file's tensors: the largest are of 4.5 GB.
    with torch.device("meta"):
        network = _headless(entry)
    shapes = _shapes(network.state_dict())
    for name in shapes:
        if name.endswith(BATCH_COUNTER):  # old files lack it, and no prediction reads it
            named.setdefault(name, torch.zeros((), dtype=torch.int64))
    if _shapes(named) != shapes:
        raise _other_weights(entry, _shapes(named), shapes, place=place)
    if any(name not in shapes for name, _ in network.named_buffers()):  # computed when the network is built
        network = _headless(entry)
    network.load_state_dict(named, strict=True, assign=True)
    return network.float()


def _headless(entry: EncoderEntry) -> nn.Module:
    import timm

    arguments = timm_arguments(entry.arguments)
    network: nn.Module = timm.create_model(entry.architecture, pretrained=False, num_classes=0, **arguments)
    return network


def _shapes(tensors: Mapping[str, Tensor]) -> dict[str, tuple[int, ...]]:
    return {name: tuple(value.shape) for name, value in tensors.items()}


def encoder_shapes(entry: EncoderEntry) -> dict[str, tuple[int, ...]]:
    """Return the shapes of an encoder's tensors by name, without taking memory for them."""
    with torch.device("meta"):
        return _shapes(_headless(entry).state_dict())


def _other_weights(
    entry: EncoderEntry, shapes: Mapping[str, tuple[int, ...]], expected: Mapping[str, tuple[int, ...]], *, place: str
) -> CheckpointIncompatibleError:
    """Return the error that tensors are not exactly the expected ones: the first of each kind, and whose they are."""
    different = (name for name in expected if shapes.get(name, expected[name]) != expected[name])
    differences = [
        *[f"first missing tensor {name!r}" for name in expected if name not in shapes][:1],
        *[f"first surplus tensor {name!r}" for name in shapes if name not in expected][:1],
        *[f"{name!r} is {shapes[name]}, {expected[name]} expected" for name in different][:1],
    ]
    others = [other.name for other in ENCODERS.values() if other is not entry and encoder_shapes(other) == shapes]
    return CheckpointIncompatibleError(
        f"the weights are not those of {entry.name}: {'; '.join(differences)}",
        place=place,
        remedy=f"they fit encode --encoder {' or '.join(others)}" if others else "give the file of this encoder",
    )
