"""Run a network that gives features, not logits: OpenVINO runs it on processors where it can, else torch does."""

from __future__ import annotations

import warnings

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from pathopatch.core.errors import InputUnsupportedError
from pathopatch.models.runtime import openvino_runtime, patches_per_pass
from pathopatch.models.runtime.torch_runtime import processor_threads, run_in_batches

_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


class TorchFeatures:
    """A network run by torch, in automatic mixed precision where that is not float32, as publishers do."""

    name = "torch"
    version = str(torch.__version__)

    def __init__(self, network: nn.Module, device: torch.device, precision: str, threads: int | None) -> None:
        self._network = network.to(device).eval()
        self._device, self._dtype, self._threads = device, _DTYPES[precision], threads

    def features(self, x: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return features (N, D) of standardised patches (N, C, H, W); errors as `run_in_batches`."""
        patches = torch.from_numpy(np.ascontiguousarray(x))
        mixed = torch.autocast(self._device.type, self._dtype, enabled=self._dtype is not torch.float32)
        with processor_threads(self._threads), mixed:
            return run_in_batches(
                lambda part: self._network(part.to(self._device)), patches, batch=len(x), device=self._device
            )


class OpenVINOFeatures:
    """A network run by OpenVINO on a processor; its weights are shared. RuntimeError where it lacks an operation."""

    name = "openvino"

    def __init__(self, network: nn.Module, channels: int, input_px: int, precision: str, threads: int | None) -> None:
        import openvino
        from openvino.frontend import GeneralFailure, NotImplementedFailure, OpConversionFailure

        self.version = openvino_runtime.version()
        shape = patches_per_pass(input_px), channels, input_px, input_px
        with warnings.catch_warnings(), torch.inference_mode():
            warnings.simplefilter("ignore")  # torch warns that tracing is old, and that shapes become constants
            try:
                converted = openvino.convert_model(network, example_input=torch.zeros(1, *shape[1:]))
            except (GeneralFailure, NotImplementedFailure, OpConversionFailure) as error:  # no RuntimeErrors
                raise RuntimeError(str(error)) from error
        compiled = openvino_runtime.compile_network(converted, shape, precision, threads or openvino_runtime.cores())
        self._pass = openvino_runtime.FixedBatch(compiled, shape)

    def features(self, x: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return features (N, D) of standardised patches (N, C, H, W)."""
        return self._pass(x)


FeatureRuntime = TorchFeatures | OpenVINOFeatures
"""Both have `features`, and the `name` and `version` of the package that runs them."""


def open_runtime(
    network: nn.Module, *, channels: int, input_px: int, device: torch.device, precision: str, threads: int | None
) -> FeatureRuntime:
    """Return a network from (N, channels, input_px, input_px) to (N, D), ready to run."""
    if device.type != "cpu":
        return TorchFeatures(network, device, precision, threads)
    if precision == "float16":
        raise InputUnsupportedError(
            "float16 on a processor", place="--precision", remedy="use float32, or bfloat16 where the processor has it"
        )
    try:
        return OpenVINOFeatures(network, channels, input_px, precision, threads)
    except RuntimeError as error:
        warnings.warn(f"OpenVINO cannot run this encoder, torch does: {error}", UserWarning, stacklevel=2)
        return TorchFeatures(network, device, precision, threads)
