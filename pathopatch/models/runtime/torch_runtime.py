"""Run a network by torch: on a GPU, and on a processor where there is no ONNX graph or torch is asked for."""

from __future__ import annotations

import copy
import gc
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cached_property
from itertools import chain
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from pathopatch.core.errors import OutOfMemoryError
from pathopatch.models.device import full_float32
from pathopatch.models.runtime import Precision, patches_per_pass
from pathopatch.models.weights import weights_fingerprint

_PATCHES_ON_GPU = 256


class TorchRuntime:
    """A copy of a network in evaluation mode, channels last; `network` itself is kept as it is.

    It runs on the processor by default, there with torch's own number of threads unless `threads` says another.
    """

    name = "torch"
    version = str(torch.__version__)

    def __init__(
        self,
        network: nn.Module,
        *,
        device: torch.device | None = None,
        precision: Precision = "float32",
        threads: int | None = None,
    ) -> None:
        self.network = network
        self.device = device or torch.device("cpu")
        self.precision = precision
        self.patches_per_pass = 1 if self.device.type == "cpu" else _PATCHES_ON_GPU  # a processor takes any number
        self._threads = threads
        form: Any = getattr(getattr(network, "network", network), "form", None)  # of a frozen network, or of its crops
        self._inside_px: int = 0 if form is None else form.side_px
        dtype = torch.bfloat16 if precision == "bfloat16" else torch.float32
        ready = copy.deepcopy(network).to(self.device, dtype, memory_format=torch.channels_last)  # type: ignore[call-overload]
        self._ready = ready.eval().requires_grad_(False)

    @cached_property
    def weights(self) -> str:
        """Fingerprint of the weights."""
        tensors = self.network.state_dict().items()
        return weights_fingerprint(
            (name, tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
            for name, tensor in sorted(tensors)
        )

    def logits(self, x: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return the logits, float32 (N, K), of standardised float32 patches (N, C, input_px, input_px), N from 0."""
        px = max(x.shape[-1], self._inside_px)
        batch = patches_per_pass(px) if self.device.type == "cpu" else _PATCHES_ON_GPU
        with processor_threads(self._threads):
            return predict_logits(self._ready, torch.from_numpy(np.ascontiguousarray(x)), batch=batch)


@contextmanager
def processor_threads(threads: int | None) -> Iterator[None]:
    """Let torch use a number of threads of a processor within; None: as many as before."""
    before = torch.get_num_threads()
    torch.set_num_threads(threads or before)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def predict_logits(network: nn.Module, x: Tensor, *, batch: int = _PATCHES_ON_GPU) -> NDArray[np.float32]:
    """Return the logits, float32 (N, K), of standardised patches (N, C, input_px, input_px), N from 0.

    The patches are moved to the network's type and device; see `run_in_batches`. It predicts in evaluation mode and is
    left in the mode that it had.
    """
    like = next(chain(network.parameters(), network.buffers()))  # a frozen program has no parameters
    was_training = network.training
    network.eval()

    def run(part: Tensor) -> Tensor:
        logits: Tensor = network(part.to(like.device, like.dtype, memory_format=torch.channels_last))
        return logits

    try:
        return run_in_batches(run, x, batch=batch, device=like.device)
    finally:
        network.train(was_training)


def run_in_batches(
    run: Callable[[Tensor], Tensor], x: Tensor, *, batch: int, device: torch.device
) -> NDArray[np.float32]:
    """Return a network's output for patches, `batch` at a time, or half as many as often as memory is short.

    Raises
    ------
    OutOfMemoryError
        Not even one patch fits the device.
    """
    batch = max(1, min(batch, len(x)))
    while True:
        try:
            with torch.inference_mode(), full_float32:
                output: NDArray[np.float32] = torch.cat(
                    [run(part).float().cpu() for part in torch.split(x, batch)]
                ).numpy()
                return output
        except torch.OutOfMemoryError as error:
            release(error)
            if batch == 1:
                raise OutOfMemoryError(
                    f"one patch of {x.shape[-1]} px does not fit the memory of {device}",
                    place="--device",
                    remedy="use --device cpu, or a GPU with more free memory",
                ) from error
        batch //= 2


def largest_fitting(run: Callable[[int], object], most: int) -> int:
    """Return the largest n below `most` for which ``run(n)`` finds enough memory, by bisection; 0 if none does.

    `run` tries n samples and keeps nothing; `most` samples are known not to fit.
    """
    fitting, too_many = 0, most
    while too_many - fitting > 1:
        count = (fitting + too_many) // 2
        try:
            run(count)
            fitting = count
        except torch.OutOfMemoryError as error:
            release(error)
            too_many = count
    return fitting


def release(error: torch.OutOfMemoryError) -> None:
    """Free what the calls that ran out of memory still hold."""
    # The frames of a traceback keep their variables: here the activations of the whole batch.
    traceback.clear_frames(error.__traceback__)
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
