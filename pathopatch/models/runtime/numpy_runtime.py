"""Run a head on features by NumPy: a product of matrices or two, for which no runtime needs to be installed."""

from __future__ import annotations

from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import load_file

from pathopatch.models.runtime import Precision
from pathopatch.models.weights import file_fingerprint

_ROWS = 4096  # of features at a time


class NumPyRuntime:
    """The heads ``linear`` and ``mlp-head`` of a bundle's checked weights; see `pathopatch.models.runtime.Runtime`."""

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
        parts = [self._logits(features[start : start + _ROWS]) for start in range(0, max(1, len(x)), _ROWS)]
        return np.concatenate(parts)

    def _logits(self, x: NDArray[np.float32]) -> NDArray[np.float32]:
        if "hidden.weight" in self._tensors:
            x = np.maximum(self._layer("hidden", x), 0)
        return self._layer("classifier", x)

    def _layer(self, name: str, x: NDArray[np.float32]) -> NDArray[np.float32]:
        layer: NDArray[np.float32] = x @ self._tensors[f"{name}.weight"].T + self._tensors[f"{name}.bias"]
        return layer
