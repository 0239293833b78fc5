"""Run a network on patches: device, precision, batches, and the area mean that resizes patches."""

from __future__ import annotations

from collections.abc import Mapping

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from pathopatch.core.errors import InputUnsupportedError
from pathopatch.models.prepare import Precision, prepare_network, probe_patches

_LOGIT_TOLERANCE = 0.05  # largest difference of a logit from float32 at which ``auto`` takes bfloat16
_PASS_PIXELS = 4 * 256**2


def pick_device(name: str = "auto") -> torch.device:
    """Return a device by name: ``auto`` (CUDA if there is any, else the processor), ``cpu``, ``cuda:1``, ``mps``.

    Raises
    ------
    InputUnsupportedError
        torch knows no such device, or this machine has none.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.empty(1, device=device)  # a name may be valid though the machine has no such device
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

    ``auto`` takes bfloat16 if the device has it in hardware and the logits of a fixed set of patches differ from those
    of float32 by at most 0.05. So the choice depends on network and machine alone, never on the slide.

    Parameters
    ----------
    network : nn.Module
        Takes standardised float32 of shape (N, channels, input_px, input_px).
    channels, input_px : int
        Shape of its input.
    device : torch.device
        Device of the prediction.
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
    batch = forward_batch_size(input_px, device)
    full = predict_logits(prepare_network(network, "float32", channels, input_px, device=device), probe, batch=batch)
    try:
        short_network = prepare_network(network, "bfloat16", channels, input_px, device=device)
        short = predict_logits(short_network, probe, batch=batch)
    except RuntimeError:  # an operation of this network has no form for bfloat16, or refuses to mix types
        return "float32"
    difference = float(np.abs(full - short).max())
    return "bfloat16" if difference <= _LOGIT_TOLERANCE else "float32"  # NaN is not <=


def forward_batch_size(input_px: int, device: torch.device) -> int:
    """Return the number of patches per forward pass that is fastest."""
    # Few on a processor. The output of a layer for many patches does not fit the cache; the system allocates and clears
    # it for every layer, which took half of the time for 32 patches of 256 px.
    return max(1, _PASS_PIXELS // input_px**2) if device.type == "cpu" else 256


def predict_logits(network: nn.Module, x: Tensor, *, batch: int = 256) -> NDArray[np.float32]:
    """Return the logits of patches, at most `batch` at a time.

    Parameters
    ----------
    network : nn.Module
        As `prepare_network` returns it; the patches are moved to its type and device.
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
    """Return patches (N, C, p, p) resampled by area to a side of `side_px`; unchanged if they have it already.

    Training and prediction both use it, so that both see the same pixels.
    """
    n, channels, height, width = patches.shape
    if (height, width) == (side_px, side_px):
        return patches
    planes = patches.reshape(n * channels, height, width)  # plane by plane: OpenCV takes at most four channels
    resized = np.empty((n * channels, side_px, side_px), dtype=np.float32)
    for plane, target in zip(planes, resized, strict=True):
        cv2.resize(plane, (side_px, side_px), dst=target, interpolation=cv2.INTER_AREA)
    return resized.reshape(n, channels, side_px, side_px)


def area_weights(from_px: int, to_px: int) -> NDArray[np.float32]:
    """Return `resize_area` along one side as a matrix m (to_px, from_px): m @ x @ m.T resizes a plane x."""
    identity = np.eye(from_px, dtype=np.float32)
    return np.asarray(cv2.resize(identity, (from_px, to_px), interpolation=cv2.INTER_AREA), dtype=np.float32)
