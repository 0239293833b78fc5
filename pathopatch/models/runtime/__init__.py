"""How a trained network is run: by OpenVINO on processors, by torch anywhere, and heads on features by NumPy."""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, Protocol

import cv2
import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import load_file

from pathopatch.core.errors import CheckpointIncompatibleError, NonFiniteError
from pathopatch.models.weights import file_fingerprint

Precision = Literal["float32", "bfloat16"]
_PASS_PIXELS = 2 * 256**2
_MOST_PER_PASS = 4096  # of features, which have one pixel
_PROBE_PATCHES = 24
FUNCTION_PATCHES = 3  # one of each kind: a network may take seconds for one
_SAME = 1e-3  # part of an output's sd over the probe, by which it may differ
# Least sd of an output, as part of its size: what hardly varies differs by rounding alone. Ten networks of timm had no
# difference at all; another order of summing leaves about 1e-6 of an output, a tenth of what is allowed.
_LEAST_SD = 1e-2
_COARSE_PX = 4  # side of a smooth patch before it is enlarged


class Runtime(Protocol):
    """A trained network that is ready to predict; `name` and `version` are of the package that runs it."""

    name: str
    version: str
    precision: Precision  # logits are float32 in both
    patches_per_pass: int  # fewer take as long

    @property
    def weights(self) -> str:
        """Fingerprint of all weights by their names and values, equal for all runtimes."""
        ...

    def logits(self, x: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return the logits, float32 (N, K), of standardised float32 patches (N, C, input_px, input_px), N from 0."""
        ...


def require_function(
    run: Callable[[NDArray[np.float32]], NDArray[np.floating[Any]]], channels: int, input_px: int, *, place: str
) -> NDArray[np.floating[Any]]:
    """Refuse a network whose outputs are no function of the patch alone; return those of a fixed probe, (3, ...).

    `run` returns outputs (N, ...) of standardised patches (N, channels, input_px, input_px). The probe is run twice,
    and once more in other batches: no output may differ by more than 1e-3 of its sd. NonFiniteError for an output that
    is NaN or infinite.
    """
    probe = probe_patches(channels, input_px, FUNCTION_PATCHES)
    first, again = run(probe), run(probe)
    require_finite_answers(first, place=place)
    # Whether one, two or all patches make a pass of `run`, each has other neighbours here than in `first`.
    batches = [2, 0], [1, 2], [1]
    elsewhere = np.concatenate([run(probe[batch]) for batch in batches])
    for once, other, fault, remedy in (
        (first, again, "differ from run to run", "without dropout and random numbers"),
        (
            first[np.concatenate(batches)],
            elsewhere,
            "depend on the other patches of the batch",
            "without statistics of the batch",
        ),
    ):
        if not (share := _difference(once, other)) <= _SAME:  # NaN is not <=
            raise CheckpointIncompatibleError(
                f"the outputs of the network {fault}, by {share:.3g} of their standard deviation",
                place=place,
                remedy=f"export it in evaluation mode (network.eval()), {remedy}",
            )
    return first


def require_finite_answers(answers: NDArray[np.floating[Any]], *, place: str) -> None:
    """Refuse a network's answers to patches of ordinary values that are NaN or infinite: NonFiniteError."""
    if not np.isfinite(answers).all():
        raise NonFiniteError(
            "the network gives NaN or infinity for patches of ordinary values",
            place=place,
            remedy="look for weights that are NaN, and for divisions by zero in it",
        )


def _difference(one: NDArray[np.floating[Any]], other: NDArray[np.floating[Any]]) -> float:
    """Return the largest difference of outputs (N, ...) in units of their sd; NaN if any is NaN."""
    one, other = one.astype(np.float64), other.astype(np.float64)
    size = np.abs(one).max(axis=0)
    size = np.maximum(size, max(float(np.median(size)), float(np.finfo(np.float32).tiny)))
    sd = np.maximum(one.std(axis=0), _LEAST_SD * size)
    return float((np.abs(one - other) / sd).max(initial=0.0))


def probe_patches(channels: int, input_px: int, count: int = _PROBE_PATCHES) -> NDArray[np.float32]:
    """Return standardised float32 patches (count, channels, input_px, input_px) to test networks on, always the same.

    `count` is a multiple of 3.
    """
    # A third each are noise, flat and smooth. Rounding errors average out over noise, but not over a flat patch, where
    # every position of a channel is rounded alike.
    rng, n = np.random.default_rng(0), count // 3
    noise = rng.standard_normal((n, channels, input_px, input_px), np.float32)
    flat = np.broadcast_to(rng.standard_normal((n, channels, 1, 1), np.float32), noise.shape)
    coarse = rng.standard_normal((n * channels, _COARSE_PX, _COARSE_PX), np.float32)
    smooth = np.stack([cv2.resize(plane, (input_px, input_px), interpolation=cv2.INTER_LINEAR) for plane in coarse])
    return np.concatenate([noise, flat, smooth.reshape(noise.shape)])


def patches_per_pass(side_px: int) -> int:
    """Return the number of patches per forward pass that is fastest on a processor, by the side that a network sees."""
    # Few. The output of a layer for many patches does not fit the cache; the system allocates and clears it for every
    # layer, which took half of the time for 32 patches of 256 px.
    return min(max(1, _PASS_PIXELS // side_px**2), _MOST_PER_PASS)


class NumPyRuntime:
    """Run the linear head on features of a bundle's checked weights: a product of matrices."""

    name = "numpy"
    version = str(np.__version__)
    precision: Precision = "float32"
    patches_per_pass = _MOST_PER_PASS

    def __init__(self, weights_path: Path) -> None:
        self._weights_path = weights_path
        self._tensors: dict[str, NDArray[np.float32]] = load_file(weights_path)

    @cached_property
    def weights(self) -> str:
        """Fingerprint of the weights."""
        return file_fingerprint(self._weights_path)

    def logits(self, x: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return the logits, float32 (N, K), of standardised features (N, D, 1, 1), N from 0."""
        weight, bias = self._tensors["classifier.weight"], self._tensors["classifier.bias"]
        logits: NDArray[np.float32] = x.reshape(len(x), weight.shape[1]) @ weight.T + bias
        return logits
