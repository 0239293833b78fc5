"""Store a trained model, read it safely, and run it, alone or with others.

A bundle is a folder of safetensors, JSON and a model card. Several models are an ensemble: their predictions are
averaged, and their spread tells how far they disagree.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import save_file
from torch import Tensor, nn

from pathopatch.core.errors import ChannelMismatchError, CheckpointIncompatibleError, InputUnsupportedError
from pathopatch.core.files import atomic_path, write_json
from pathopatch.models.card import model_card
from pathopatch.models.forward import forward_batch_size, pick_device, pick_precision, predict_logits, resize_area
from pathopatch.models.networks import build_network
from pathopatch.models.prepare import Precision, prepare_network
from pathopatch.models.spec import (
    HEADER,
    SPEC,
    WEIGHTS,
    BundleSpec,
    check_bundle,
    check_bundles,
    joint_spec,
    open_weights,
)

_CARD = "README.md"


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
        self.spec = spec
        self.device = device or torch.device("cpu")
        self.network = network  # as given: exports need it
        shape = len(spec.channels), spec.input_px
        self.precision: Precision = pick_precision(network, *shape, device=self.device, requested=precision)
        self._inference_network = prepare_network(network, self.precision, *shape, device=self.device)
        self._mean = np.array(spec.mean, dtype=np.float32)[:, None, None]  # (C, 1, 1)
        self._std = np.array(spec.std, dtype=np.float32)[:, None, None]

    def predict_logits(self, batch: NDArray[np.float32], *, forward_batch: int | None = None) -> NDArray[np.float32]:
        """Return the logits of patches, which are resized to the network's input and standardised here.

        Parameters
        ----------
        batch : ndarray of float32, shape (N, C, p, p)
            Patches scaled to [0, 1] by their slide's windows, channels in the order of ``spec.channels``.
        forward_batch : int, optional
            Patches per forward pass; by default `forward_batch_size`.

        Returns
        -------
        ndarray of float32, shape (N, K)

        Raises
        ------
        ChannelMismatchError
            Another number of channels or dimensions.
        """
        if batch.ndim != 4 or batch.shape[1] != len(self.spec.channels):
            raise ChannelMismatchError(
                f"patches of shape {batch.shape}, the model takes (N, {len(self.spec.channels)}, p, p)",
                remedy=f"give the channels {', '.join(self.spec.channels)} in this order",
            )
        if len(batch) == 0:
            return np.empty((0, len(self.spec.class_names)), dtype=np.float32)
        return self.logits(self.standardised(batch), forward_batch=forward_batch)

    def standardised(self, batch: NDArray[np.float32]) -> Tensor:
        """Return patches in [0, 1] (N, C, p, p) as the network's input, float32 (N, C, input_px, input_px)."""
        resized = resize_area(np.asarray(batch, dtype=np.float32), self.spec.input_px)
        x = resized - self._mean
        return torch.from_numpy(np.divide(x, self._std, out=x))

    def logits(self, x: Tensor, *, forward_batch: int | None = None) -> NDArray[np.float32]:
        """Return the logits, float32 of shape (N, K), of the network's input as `standardised` returns it."""
        batch = forward_batch or forward_batch_size(self.spec.input_px, self.device)
        return predict_logits(self._inference_network, x, batch=batch)


@dataclass(frozen=True, eq=False)
class EnsembleOutput:
    """Prediction of all members for some patches.

    Parameters
    ----------
    logit : ndarray of float64, shape (N,)
        z1 - z0 of a single model; of several models the mean of (z1 - z0) / temperature.
    probability : ndarray of float64, shape (N,)
        Sigmoid of the logit; of a single model, sigmoid of the logit over its temperature.
    spread : ndarray of float64, shape (N,)
        Standard deviation of the members' probabilities; NaN for a single model.
    """

    logit: NDArray[np.float64]
    probability: NDArray[np.float64]
    spread: NDArray[np.float64]


class Ensemble:
    """One or more models of two classes that see the same patches.

    Parameters
    ----------
    members : sequence of PatchClassifier
        At least one.

    Raises
    ------
    CheckpointIncompatibleError
        Other than two classes, or members that cut or scale a slide differently; the difference is named.

    Attributes
    ----------
    precision : str
        Of each member; one word if all have the same.
    spec : BundleSpec
        Common to all members. The logit of several is the mean of (z1 - z0) / temperature, so the joint temperature is
        1. The joint decision threshold has the same unit: the mean of the members' thresholds / temperature.
    """

    def __init__(self, members: Sequence[PatchClassifier]) -> None:
        self.members = tuple(members)
        self.spec = joint_spec([member.spec for member in self.members])
        self.precision = "+".join(dict.fromkeys(member.precision for member in self.members))

    def standardised(self, scaled: NDArray[np.float32]) -> tuple[Tensor, ...]:
        """Return patches in [0, 1] (N, C, p, p) as the input of each member's network."""
        return tuple(member.standardised(scaled) for member in self.members)

    def forward(self, inputs: Sequence[Tensor], *, tta: bool = False) -> EnsembleOutput:
        """Return the prediction of all members.

        Parameters
        ----------
        inputs : sequence of Tensor
            As `standardised` returns them, one per member.
        tta : bool
            Test-time augmentation: the mean logit over the eight symmetries of the square.
        """
        margins = np.empty((len(self.members), len(inputs[0])))  # (M, N): z1 - z0 of each patch
        for row, member, x in zip(margins, self.members, inputs, strict=True):
            views = [x]
            if tta:
                rotated = (torch.rot90(x, k, (2, 3)) for k in range(4))
                views = [view for turned in rotated for view in (turned, torch.flip(turned, (3,)))]
            logits = np.mean([member.logits(view).astype(np.float64) for view in views], axis=0)
            row[:] = logits[:, 1] - logits[:, 0]
        if len(self.members) == 1:
            no_spread = np.full(margins.shape[1], np.nan)
            return EnsembleOutput(margins[0], sigmoid(margins[0] / self.spec.temperature), no_spread)
        # Calibrate before averaging: otherwise an overconfident member, with large logits, would dominate the mean.
        calibrated = margins / np.array([[member.spec.temperature] for member in self.members])
        logit = calibrated.mean(axis=0)
        return EnsembleOutput(logit, sigmoid(logit), sigmoid(calibrated).std(axis=0, ddof=1))


def save_bundle(folder: Path, network: nn.Module, spec: BundleSpec) -> None:
    """Write a bundle as a whole: weights, ``model.json`` and a model card. Equal models give equal bytes.

    Parameters
    ----------
    folder : Path
        The bundle's folder; an earlier bundle there is replaced.
    network : nn.Module
        As `build_network` made it for ``spec.architecture``.
    spec : BundleSpec
        Everything but the weights.

    Raises
    ------
    DiskFullError
        No space is left; an earlier bundle is untouched.
    """
    # Sorted, contiguous and in one memory format, so that equal models give equal bytes.
    tensors = {
        name: value.detach().to("cpu", memory_format=torch.contiguous_format).contiguous().clone()
        for name, value in sorted(network.state_dict().items())
    }
    header = {HEADER: json.dumps(spec.contract(), sort_keys=True)}
    with atomic_path(folder) as temporary:
        temporary.mkdir(parents=True)
        save_file(tensors, temporary / WEIGHTS, metadata=header)
        write_json(temporary / SPEC, spec.model_dump(mode="json"))
        (temporary / _CARD).write_text(model_card(spec), encoding="utf-8")


def load_model(folder: Path | str, *, device: str = "auto", precision: str = "auto") -> PatchClassifier:
    """Return the model of a bundle, ready to predict. No code of the bundle is run.

    Parameters
    ----------
    folder : Path or str
        The bundle.
    device : str
        See `pick_device`.
    precision : str
        See `pick_precision`.

    Raises
    ------
    InputMissingError
        There is no bundle, or a part of it is missing.
    InputCorruptError
        The weights are cut off or damaged.
    CheckpointUnsafeError
        A pickle (``.pt``, ``.pth`` and so on), which could run code when read.
    CheckpointIncompatibleError
        A bundle of another version, or one whose ``model.json`` and weights contradict each other.
    """
    folder = Path(folder)
    spec = check_bundle(folder)
    with open_weights(folder / WEIGHTS, framework="pt") as stream:
        tensors = {name: stream.get_tensor(name) for name in stream.keys()}  # noqa: SIM118 (not a mapping)
    try:
        network = build_network(
            spec.architecture, len(spec.channels), n_classes=len(spec.class_names), input_px=spec.input_px
        )
        network.load_state_dict(tensors)
    except (RuntimeError, InputUnsupportedError) as error:
        raise CheckpointIncompatibleError(
            f"the weights are not those of {spec.architecture!r}: {error}",
            place=str(folder),
            remedy="restore the bundle's files together, or train again",
        ) from error
    return PatchClassifier(spec, network, pick_device(device), precision)


def load_ensemble(folders: Sequence[Path], *, device: str = "auto", precision: str = "auto") -> Ensemble:
    """Return the models of one or more bundles; arguments and errors are those of `load_model` and `check_bundles`."""
    check_bundles(folders)
    return Ensemble([load_model(folder, device=device, precision=precision) for folder in folders])


def sigmoid(z: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return 1 / (1 + exp(-z)), without overflow."""
    return 0.5 * (1.0 + np.tanh(0.5 * z))
