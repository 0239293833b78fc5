"""Run a network that gives features, not logits: OpenVINO runs it on processors where it can, else torch does."""

from __future__ import annotations

import copy
import warnings

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from pathopatch.models.runtime import openvino_runtime, patches_per_pass
from pathopatch.models.runtime.torch_runtime import processor_threads, run_in_batches


class TorchFeatures:
    """A network run by torch, in float32."""

    def __init__(self, network: nn.Module, device: torch.device, threads: int | None) -> None:
        # The network itself stays on the processor, where its head is solved and its bundle is written.
        self._network = (network if device.type == "cpu" else copy.deepcopy(network).to(device)).eval()
        self._device, self._threads = device, threads

    def features(self, x: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return features (N, D) of standardised patches (N, C, H, W); errors as `run_in_batches`."""
        patches = torch.from_numpy(np.ascontiguousarray(x))
        with processor_threads(self._threads):
            return run_in_batches(
                lambda part: self._network(part.to(self._device)), patches, batch=len(x), device=self._device
            )


class OpenVINOFeatures:
    """A network run by OpenVINO on a processor; its weights are shared. RuntimeError where it lacks an operation."""

    def __init__(self, network: nn.Module, channels: int, input_px: int, inside_px: int, threads: int | None) -> None:
        import openvino
        from openvino.frontend import GeneralFailure, NotImplementedFailure, OpConversionFailure

        shape = patches_per_pass(max(input_px, inside_px)), channels, input_px, input_px
        with warnings.catch_warnings(), torch.inference_mode():
            warnings.simplefilter("ignore")  # torch warns that tracing is old, and that shapes become constants
            try:
                converted = openvino.convert_model(network, example_input=torch.zeros(1, *shape[1:]))
            except (GeneralFailure, NotImplementedFailure, OpConversionFailure) as error:  # no RuntimeErrors
                raise RuntimeError(str(error)) from error
        compiled = openvino_runtime.compile_network(converted, shape, "float32", threads or openvino_runtime.cores())
        self._pass = openvino_runtime.FixedBatch(compiled, shape)

    def features(self, x: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return features (N, D) of standardised patches (N, C, H, W)."""
        return self._pass(x)


FeatureRuntime = TorchFeatures | OpenVINOFeatures


def open_runtime(
    network: nn.Module, *, channels: int, input_px: int, inside_px: int, device: torch.device, threads: int | None
) -> FeatureRuntime:
    """Return a network from (N, channels, input_px, input_px) to (N, D), ready to run; it works at `inside_px`."""
    if device.type != "cpu":
        return TorchFeatures(network, device, threads)
    try:
        return OpenVINOFeatures(network, channels, input_px, inside_px, threads)
    except RuntimeError as error:
        warnings.warn(f"OpenVINO cannot run this backbone, torch does: {error}", UserWarning, stacklevel=2)
        return TorchFeatures(network, device, threads)
