"""How patches become logits: the device, the precision that is safe and fast on it, and batches."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Literal

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.functional import interpolate

from pathopatch.core.errors import InputUnsupportedError
from pathopatch.models.fold import folded
from pathopatch.models.mixed import in_bfloat16

Precision = Literal["float32", "bfloat16"]
LOGIT_TOLERANCE = 0.05
"""Largest difference of a logit from float32 at which bfloat16 is taken of itself."""
_PROBE_PATCHES = 24
_COARSE_PX = 4  # of a smooth patch, before it is made as large as the others
_PASS_PIXELS = 4 * 256**2


def pick_device(name: str = "auto") -> torch.device:
    """Return the device to compute on.

    Parameters
    ----------
    name : str
        ``auto`` (a CUDA device if there is one, else the processor), ``cpu``, ``cuda``, ``cuda:1``, ``mps``.

    Raises
    ------
    InputUnsupportedError
        torch knows no such device, or this machine has none.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise InputUnsupportedError(
            f"no device {name!r} on this machine", place="--device", remedy="use 'auto' or 'cpu'"
        ) from error
    return device


def is_bfloat16_native(device: torch.device) -> bool:
    """Return whether the device multiplies bfloat16 in hardware; emulated, it is slower than float32."""
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    if device.type == "cpu":
        capabilities: Mapping[str, object] = getattr(torch.cpu, "get_capabilities", dict)()
        return any(bool(capabilities.get(name)) for name in ("amx_bf16", "avx512_bf16", "arm_bf16", "bf16"))
    return False


def pick_precision(
    network: nn.Module, channels: int, input_px: int, *, device: torch.device, requested: str = "auto"
) -> Precision:
    """Return the precision to predict in.

    ``auto`` takes bfloat16 where it is native and the logits of a fixed set of patches, see `probe_patches`, differ
    from those of float32 by at most `LOGIT_TOLERANCE`, so that the choice depends on network and machine alone, never
    on which slide comes first. A precision asked for by name is taken.

    Parameters
    ----------
    network : nn.Module
        Takes standardised float32 of shape (N, channels, input_px, input_px).
    channels, input_px : int
        Shape of its input.
    device : torch.device
        Where it is to predict.
    requested : str
        ``auto``, ``float32`` or ``bfloat16``.

    Raises
    ------
    InputUnsupportedError
        Another word.
    """
    if requested == "float32":
        return "float32"
    if requested == "bfloat16":
        return "bfloat16"
    if requested != "auto":
        raise InputUnsupportedError(
            f"no precision {requested!r}", place="[predict] precision", remedy="use 'auto', 'float32' or 'bfloat16'"
        )
    if not is_bfloat16_native(device):
        return "float32"
    probe = probe_patches(channels, input_px)
    batch = patches_a_pass(input_px, device)
    full = predict_logits(prepared(network, "float32", channels, input_px, device=device), probe, batch=batch)
    try:
        short = predict_logits(prepared(network, "bfloat16", channels, input_px, device=device), probe, batch=batch)
    except RuntimeError:  # an operation of this network has no form for bfloat16, or refuses to mix types
        return "float32"
    difference = float(np.abs(full - short).max())
    return "bfloat16" if difference <= LOGIT_TOLERANCE else "float32"  # NaN is not <=


def probe_patches(channels: int, input_px: int) -> Tensor:
    """Return the patches that precisions are compared on: a third each are noise, flat, and smooth.

    What bfloat16 rounds off averages out over noise. It does not over a flat patch, where every place of a channel is
    rounded alike.

    Returns
    -------
    Tensor of float32, shape (N, channels, input_px, input_px)
        Standardised; always the same.
    """
    generator = torch.Generator().manual_seed(0)
    n = _PROBE_PATCHES // 3
    noise = torch.randn(n, channels, input_px, input_px, generator=generator)
    flat = torch.randn(n, channels, 1, 1, generator=generator).expand(n, channels, input_px, input_px)
    coarse = torch.randn(n, channels, _COARSE_PX, _COARSE_PX, generator=generator)
    return torch.cat([noise, flat, interpolate(coarse, size=(input_px, input_px), mode="bilinear")])


def prepared(
    network: nn.Module,
    precision: Precision,
    channels: int,
    input_px: int,
    *,
    device: torch.device = torch.device("cpu"),  # noqa: B008 (immutable)
) -> nn.Module:
    """Return a copy of a network for prediction, with the same logits but for rounding.

    It is channels last, without dropout or gradients, and its batch norms are folded, see `folded`. In bfloat16, a
    processor keeps some layers in float32, see `in_bfloat16`.

    Parameters
    ----------
    network : nn.Module
        Takes standardised float32 of shape (N, channels, input_px, input_px). It is not changed.
    precision : str
        ``float32`` or ``bfloat16``.
    channels, input_px : int
        Shape of its input.
    device : torch.device
        Where the copy goes.
    """
    x = probe_patches(channels, input_px)[:1]
    ready = folded(copy.deepcopy(network).to("cpu", torch.float32), x)
    if precision == "bfloat16" and device.type == "cpu":
        ready = in_bfloat16(ready, x)
    elif precision == "bfloat16":
        ready = ready.to(torch.bfloat16)
    ready = ready.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    ready.requires_grad_(False)
    return ready  # type: ignore[no-any-return]


def patches_a_pass(input_px: int, device: torch.device) -> int:
    """Return how many patches go through a network at once where that is fastest.

    On a processor they are few: what a layer gives for many patches at once leaves its cache, and is memory that the
    system hands out anew, and clears, for every layer; of 32 patches of 256 px that is half of the time.
    """
    return max(1, _PASS_PIXELS // input_px**2) if device.type == "cpu" else 256


def predict_logits(network: nn.Module, x: Tensor, *, batch: int = 256) -> NDArray[np.float32]:
    """Return the logits of patches, at most `batch` at a time.

    Parameters
    ----------
    network : nn.Module
        As `prepared` returns it; the patches are brought to its type and device.
    x : Tensor of float32, shape (N, C, input_px, input_px)
        Standardised patches. N may be 0.
    batch : int
        Patches in one forward pass.

    Returns
    -------
    ndarray of float32, shape (N, K)
    """
    like = next(network.parameters())
    was_training = network.training
    network.eval()
    with torch.inference_mode():
        parts = [
            network(part.to(like.device, like.dtype, memory_format=torch.channels_last)).float().cpu()
            for part in torch.split(x, batch)
        ]
    network.train(was_training)
    logits: NDArray[np.float32] = torch.cat(parts).numpy()
    return logits


def resize_area(patches: NDArray[np.float32], side_px: int) -> NDArray[np.float32]:
    """Return patches resampled by area to a side of `side_px`, each channel by itself; unchanged if they have it.

    Training and prediction both use it, so that both see the same pixels.

    Parameters
    ----------
    patches : ndarray of float32, shape (N, C, p, p)
        Patches; the argument is not changed.
    side_px : int
        Side due.

    Returns
    -------
    ndarray of float32, shape (N, C, side_px, side_px)
    """
    n, channels, height, width = patches.shape
    if (height, width) == (side_px, side_px):
        return patches
    planes = patches.reshape(n * channels, height, width)
    resized = np.empty((n * channels, side_px, side_px), dtype=np.float32)
    for plane, target in zip(planes, resized, strict=True):
        cv2.resize(plane, (side_px, side_px), dst=target, interpolation=cv2.INTER_AREA)
    return resized.reshape(n, channels, side_px, side_px)


def area_weights(from_px: int, to_px: int) -> NDArray[np.float32]:
    """Return what `resize_area` does along one side, as a matrix: each target pixel's share of each source pixel.

    With ``m`` this matrix and ``x`` a plane of a patch, ``m @ x @ m.T`` is the plane as `resize_area` gives it.

    Parameters
    ----------
    from_px, to_px : int
        Side of the patch, and the side due.

    Returns
    -------
    ndarray of float32, shape (to_px, from_px)
        Every row sums to 1.
    """
    each = np.eye(from_px, dtype=np.float32)
    return np.asarray(cv2.resize(each, (from_px, to_px), interpolation=cv2.INTER_AREA), dtype=np.float32)
