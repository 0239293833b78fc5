"""Run one or more trained networks on patches: device, precision, forward passes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from pathopatch.core.errors import ChannelMismatchError, InputUnsupportedError
from pathopatch.models.prepare import Precision, prepare_network, probe_patches
from pathopatch.models.spec import BundleSpec, joint_spec
from pathopatch.patches.mask_bits import resize_masks

_LOGIT_TOLERANCE = 0.05  # largest difference of a logit from float32 at which ``auto`` takes bfloat16
_PASS_PIXELS = 4 * 256**2


class PatchClassifier:
    """A trained model, ready to predict.

    Parameters
    ----------
    spec : BundleSpec
        The model's inputs, outputs and decision rule.
    network : nn.Module
        Its network. It is not changed; a copy is prepared for prediction.
    device : torch.device, optional
        Device to compute on; the processor by default.
    precision : str
        ``auto``, ``float32`` or ``bfloat16``; see `pick_precision`. The attribute is the one in use.
    """

    def __init__(
        self,
        spec: BundleSpec,
        network: nn.Module,
        device: torch.device | None = None,
        precision: str = "auto",
    ) -> None:
        if spec.mask != "none":
            if precision == "bfloat16":
                raise InputUnsupportedError(
                    "a network that takes the tissue mask computes in float32",
                    place="[predict] precision",
                    remedy="use 'auto' or 'float32'",
                )
            precision = "float32"  # `cast_to_bfloat16` sees only what the network calls as modules
        self.spec = spec
        self.device = device or torch.device("cpu")
        self.network = network  # as given: exports need it
        self.precision, self._inference_network = pick_precision(
            network, spec.input_channels, spec.input_px, device=self.device, requested=precision
        )
        self._mean = np.array(spec.mean, dtype=np.float32)[:, None, None]  # (C, 1, 1)
        self._std = np.array(spec.std, dtype=np.float32)[:, None, None]

    def predict_logits(
        self, batch: NDArray[np.float32], tissue: NDArray[np.bool_] | None = None
    ) -> NDArray[np.float32]:
        """Return the logits, float32 (N, K), of patches, which are resized and standardised here.

        Parameters
        ----------
        batch : ndarray of float32, shape (N, C, p, p)
            Patches scaled to [0, 1] by their slide's windows, channels in the order of ``spec.channels``.
        tissue : ndarray of bool, shape (N, p, p), optional
            Their tissue masks, for a model that needs them; others do not read it.

        Raises
        ------
        ChannelMismatchError
            Another number of channels or dimensions.
        InputUnsupportedError
            The model needs tissue masks, and there are none.
        """
        if batch.ndim != 4 or batch.shape[1] != len(self.spec.channels):
            raise ChannelMismatchError(
                f"patches of shape {batch.shape}, the model takes (N, {len(self.spec.channels)}, p, p)",
                remedy=f"give the channels {', '.join(self.spec.channels)} in this order",
            )
        if len(batch) == 0:
            return np.empty((0, len(self.spec.class_names)), dtype=np.float32)
        return self.logits(self.standardised(batch, tissue))

    def standardised(self, batch: NDArray[np.float32], tissue: NDArray[np.bool_] | None = None) -> Tensor:
        """Return patches in [0, 1] as the network's input; arguments and errors as of `predict_logits`.

        It is float32 of shape (N, C, input_px, input_px), or C + 1 for a network that takes the tissue mask.
        """
        resized = resize_area(np.asarray(batch, dtype=np.float32), self.spec.input_px)
        x = resized - self._mean
        x = np.divide(x, self._std, out=x)
        if self.spec.mask == "none":
            return torch.from_numpy(x)
        if tissue is None:
            raise InputUnsupportedError(
                "the model needs the tissue mask of each patch", remedy="give `tissue`, bool of shape (N, p, p)"
            )
        return torch.from_numpy(append_mask(x, resize_masks(tissue, self.spec.input_px)))

    def logits(self, x: Tensor) -> NDArray[np.float32]:
        """Return the logits, float32 of shape (N, K), of the network's input as `standardised` returns it."""
        return predict_logits(self._inference_network, x, batch=forward_batch_size(self.spec.input_px, self.device))


@dataclass(frozen=True, eq=False)
class EnsembleOutput:
    """Prediction of all members for N patches."""

    # (N,): z1 - z0 of a single model, less its slope over the area; of several the mean of that over the temperature.
    logit: NDArray[np.float64]
    probability: NDArray[np.float64]  # (N,), sigmoid of the logit; of a single model, of the logit over its temperature
    spread: NDArray[np.float64]  # (N,), standard deviation of the members' probabilities; NaN for a single model


class Ensemble:
    """One or more models of two classes that see the same patches.

    Parameters
    ----------
    members : sequence of PatchClassifier
        At least one. `precision` is that of each; one word if all have the same.

    Raises
    ------
    CheckpointIncompatibleError
        Other than two classes, or members that cut or scale a slide differently; the difference is named.
    """

    def __init__(self, members: Sequence[PatchClassifier]) -> None:
        self.members = tuple(members)
        self.spec = joint_spec([member.spec for member in self.members])
        self.takes_masks = any(member.spec.mask != "none" for member in self.members)
        self.precision = "+".join(dict.fromkeys(member.precision for member in self.members))

    def forward(
        self, inputs: Sequence[Tensor], tissue_fraction: NDArray[np.float64], *, tta: bool = False
    ) -> EnsembleOutput:
        """Return the prediction of all members.

        `inputs` are what `PatchClassifier.standardised` returns, one per member; `tissue_fraction` (N,) is that of the
        patches. With `tta` (test-time augmentation) a logit is the mean over the eight symmetries of the square.
        """
        margins = np.empty((len(self.members), len(inputs[0])))  # (M, N): z1 - z0 of each patch
        for row, member, x in zip(margins, self.members, inputs, strict=True):
            views = [x]
            if tta:
                rotated = (torch.rot90(x, k, (2, 3)) for k in range(4))
                views = [view for turned in rotated for view in (turned, torch.flip(turned, (3,)))]
            logits = np.mean([member.logits(view).astype(np.float64) for view in views], axis=0)
            row[:] = logits[:, 1] - logits[:, 0] - member.spec.area_slope * tissue_fraction
        # Calibrate before averaging: otherwise an overconfident member, with large logits, would dominate the mean.
        calibrated = margins / np.array([[member.spec.temperature] for member in self.members])
        logit = calibrated.mean(axis=0)
        # The logistic function as a tanh, which cannot overflow.
        probability, *of_members = 0.5 * (1.0 + np.tanh(0.5 * np.vstack([logit, calibrated])))
        if len(self.members) == 1:
            return EnsembleOutput(margins[0], probability, np.full_like(probability, np.nan))
        return EnsembleOutput(logit, probability, np.std(of_members, axis=0, ddof=1))


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
) -> tuple[Precision, nn.Module]:
    """Return the precision to predict in, ``float32`` or ``bfloat16``, and the network prepared for it.

    ``auto`` takes bfloat16 if the device has it in hardware and the logits of a fixed set of patches differ from those
    of float32 by at most 0.05. So the choice depends on network and machine alone, never on the slide.
    """
    if requested not in ("auto", "float32", "bfloat16"):
        raise InputUnsupportedError(
            f"no precision {requested!r}", place="[predict] precision", remedy="use 'auto', 'float32' or 'bfloat16'"
        )
    if requested == "bfloat16":
        return "bfloat16", prepare_network(network, "bfloat16", channels, input_px, device=device)
    full_network = prepare_network(network, "float32", channels, input_px, device=device)
    if requested == "float32" or not is_bfloat16_native(device):
        return "float32", full_network
    probe = probe_patches(channels, input_px)
    batch = forward_batch_size(input_px, device)
    full = predict_logits(full_network, probe, batch=batch)
    try:
        short_network = prepare_network(network, "bfloat16", channels, input_px, device=device)
        short = predict_logits(short_network, probe, batch=batch)
    except RuntimeError:  # an operation of this network has no form for bfloat16, or refuses to mix types
        return "float32", full_network
    is_near = float(np.abs(full - short).max()) <= _LOGIT_TOLERANCE  # NaN is not <=
    return ("bfloat16", short_network) if is_near else ("float32", full_network)


def forward_batch_size(input_px: int, device: torch.device) -> int:
    """Return the number of patches per forward pass that is fastest."""
    # Few on a processor. The output of a layer for many patches does not fit the cache; the system allocates and clears
    # it for every layer, which took half of the time for 32 patches of 256 px.
    return max(1, _PASS_PIXELS // input_px**2) if device.type == "cpu" else 256


def predict_logits(network: nn.Module, x: Tensor, *, batch: int = 256) -> NDArray[np.float32]:
    """Return the logits, float32 (N, K), of standardised patches (N, C, input_px, input_px), N from 0.

    `network` is as `prepare_network` returns it; the patches are moved to its type and device, `batch` at a time.
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


def append_mask(pixels: NDArray[np.float32], tissue: NDArray[np.bool_]) -> NDArray[np.float32]:
    """Return patches (N, C, H, W) with their tissue masks (N, H, W) as last channel, 0 or 1."""
    return np.concatenate([pixels, tissue[:, None].astype(np.float32)], axis=1)


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
