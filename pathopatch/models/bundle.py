"""Store a trained model and read it safely: safetensors, JSON and a model card."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import save_file
from torch import nn

from pathopatch.core.errors import ChannelMismatchError, CheckpointIncompatibleError, InputUnsupportedError
from pathopatch.core.files import atomic_path, write_json
from pathopatch.models.card import model_card
from pathopatch.models.compatibility import HEADER, SPEC, WEIGHTS, check_bundle, open_weights
from pathopatch.models.forward import forward_batch_size, pick_device, pick_precision, predict_logits, resize_area
from pathopatch.models.networks import build_network
from pathopatch.models.prepare import Precision, prepare_network
from pathopatch.models.spec import BundleSpec

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

    def standardised(self, batch: NDArray[np.float32]) -> torch.Tensor:
        """Return patches in [0, 1] (N, C, p, p) as the network's input, float32 (N, C, input_px, input_px)."""
        resized = resize_area(np.asarray(batch, dtype=np.float32), self.spec.input_px)
        x = resized - self._mean
        return torch.from_numpy(np.divide(x, self._std, out=x))

    def logits(self, x: torch.Tensor, *, forward_batch: int | None = None) -> NDArray[np.float32]:
        """Return the logits, float32 of shape (N, K), of the network's input as `standardised` returns it."""
        batch = forward_batch or forward_batch_size(self.spec.input_px, self.device)
        return predict_logits(self._inference_network, x, batch=batch)


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
