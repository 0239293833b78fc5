"""Run a head on features by NumPy: a product of matrices or two, for which no runtime needs to be installed."""

from __future__ import annotations

from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import load_file

from pathopatch.core.config import HEAD_NETWORKS
from pathopatch.models.runtime import Precision
from pathopatch.models.weights import file_fingerprint

HIDDEN = 256
"""Units of the hidden layer of the head ``mlp``."""
_ROWS = 4096  # of features at a time


def head_shapes(architecture: str, dim: int, n_classes: int) -> dict[str, tuple[int, ...]]:
    """Return the shapes of a head's weights by name; ValueError for what is no head."""
    if architecture not in HEAD_NETWORKS.values():
        raise ValueError(f"a head on features is {' or '.join(HEAD_NETWORKS.values())}")
    hidden, width = {}, dim
    if architecture == HEAD_NETWORKS["mlp"]:
        hidden, width = {"hidden.weight": (HIDDEN, dim), "hidden.bias": (HIDDEN,)}, HIDDEN
    return {"classifier.weight": (n_classes, width), "classifier.bias": (n_classes,), **hidden}


class NumPyRuntime:
    """The heads ``linear`` and ``mlp-head`` of a bundle's checked weights."""

    name = "numpy"
    version = str(np.__version__)
    precision: Precision = "float32"
    patches_per_pass = _ROWS

    def __init__(self, weights_path: Path) -> None:
        self._weights_path = weights_path
        self._tensors: dict[str, NDArray[np.float32]] = load_file(weights_path)

    @cached_property
    def weights(self) -> str:
        """Fingerprint of the weights."""
        return file_fingerprint(self._weights_path)

    def logits(self, x: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return the logits, float32 (N, K), of standardised features (N, D, 1, 1), N from 0."""
        features = x.reshape(len(x), -1)
        parts = []
        for start in range(0, max(1, len(x)), _ROWS):
            part = features[start : start + _ROWS]
            if "hidden.weight" in self._tensors:
                part = np.maximum(self._layer("hidden", part), 0)
            parts.append(self._layer("classifier", part))
        return np.concatenate(parts)

    def _layer(self, name: str, x: NDArray[np.float32]) -> NDArray[np.float32]:
        layer: NDArray[np.float32] = x @ self._tensors[f"{name}.weight"].T + self._tensors[f"{name}.bias"]
        return layer
