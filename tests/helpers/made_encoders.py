"""Encoders of known answer, as files: the mean of each channel."""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
import torch

from pathopatch.models.bundle import save_bundle
from pathopatch.models.networks import build_network
from pathopatch.models.spec import BundleSpec
from pathopatch.models.weights import file_sha256

PX = 32
WEIGHT = np.array([3.0, -5.0, 2.0], np.float32)


class MeanColour(torch.nn.Module):
    """(N, 3) means of patches (N, 3, H, W)."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.mean(dim=(2, 3))


class Colours(torch.nn.Module):
    """(N, T, 3) tokens, one a pixel."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.flatten(2).transpose(1, 2)


class NoFunction(torch.nn.Module):
    """Means of each channel and something that is no matter of the patch: `kind` names it."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.kind = kind

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = x.mean(dim=(2, 3))
        if self.kind == "dropout":
            return torch.nn.functional.dropout(x, 0.1, True).mean(dim=(2, 3))
        if self.kind == "noise":
            return y + 0.01 * torch.randn_like(y)
        if self.kind == "batch norm":
            return torch.nn.functional.batch_norm(x, None, None, training=True).amax(dim=(2, 3))
        if self.kind == "centred":
            return y - y.mean(dim=0, keepdim=True)
        if self.kind == "place in the batch":
            return y + torch.arange(len(y))[:, None]
        return y


class Endless(torch.nn.Module):
    """Means of each channel, after a loop of native code that never ends."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = x.mean(dim=(2, 3))
        while bool((y == y).all()):
            y = y + 1.0
        return y


def write_torchscript(path: Path, network: torch.nn.Module | None = None) -> Path:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # TorchScript is old, and this package reads it
        torch.jit.save(torch.jit.script(network or MeanColour()), path)
    return path


def write_head(folder: Path, encoder: Path, *, marks: dict[str, str] | None = None, **stated: object) -> Path:
    """Write a linear head on the encoder's features."""
    facts = {
        "dim": 3, "name": "mean", "input_px": PX, "mean": [0.0] * 3, "std": [1.0] * 3, "crop": f"resize {PX}",
        "precision": "float32", "weights_sha256": file_sha256(encoder), **stated,
    }  # fmt: skip
    known = {name: value for name, value in facts.items() if value is not None}
    spec = BundleSpec(
        architecture="linear", channels=(), encoder=known, dtype="float32", patch_px=1, stride_px=1, input_px=1,
        mean=(0.5,) * int(facts["dim"]), std=(1.0,) * int(facts["dim"]), method="erm",
        training=marks or {},
    )  # fmt: skip
    network = build_network("linear", int(facts["dim"]), n_classes=2, input_px=1)
    state = {name: torch.zeros_like(value) for name, value in network.state_dict().items()}
    state["classifier.weight"][1, :3] = torch.from_numpy(WEIGHT)
    network.load_state_dict(state)
    save_bundle(folder, network, spec)
    return folder
