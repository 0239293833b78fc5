"""Run the network of an encoder: by OpenVINO on processors where it can, else by torch."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from pathopatch.core.errors import InputUnsupportedError, OutOfMemoryError
from pathopatch.models.device import full_float32
from pathopatch.models.runtime import openvino_runtime, patches_per_pass
from pathopatch.models.runtime.torch_runtime import largest_fitting, release

_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


class TorchFeatures:
    """A network run by torch, in automatic mixed precision where that is not float32, as publishers do."""

    name = "torch"
    version = str(torch.__version__)

    def __init__(self, network: nn.Module, device: torch.device, precision: str, threads: int | None) -> None:
        self._network = network.to(device).eval()
        self._device = device
        self._dtype = _DTYPES[precision]
        self._threads = threads

    def features(self, x: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return features (N, D) of standardised patches (N, C, H, W).

        OutOfMemoryError names the batch that would fit.
        """
        before = torch.get_num_threads()
        if self._threads is not None:
            torch.set_num_threads(self._threads)
        try:
            return self._pass(x)
        except torch.OutOfMemoryError as error:
            release(error)
            fitting = largest_fitting(lambda count: self._pass(x[:count]), len(x))
            raise OutOfMemoryError(
                f"{len(x)} patches do not fit the memory of {self._device}",
                place="--batch",
                remedy=f"use encode --batch {fitting}" if fitting else "not even one fits: use a processor (cpu)",
            ) from error
        finally:
            torch.set_num_threads(before)

    def _pass(self, x: NDArray[np.float32]) -> NDArray[np.float32]:
        is_mixed = self._dtype is not torch.float32
        mixed = torch.autocast(self._device.type, self._dtype, enabled=is_mixed)
        with torch.inference_mode(), full_float32, mixed:
            output = self._network(torch.from_numpy(np.ascontiguousarray(x)).to(self._device))
        features: NDArray[np.float32] = output.float().cpu().numpy()
        return features


class OpenVINOFeatures:
    """A network run by OpenVINO on a processor.

    `network` is one that OpenVINO holds already, such as one read from an ONNX file.
    """

    name = "openvino"

    def __init__(self, network: Any, channels: int, input_px: int, precision: str, threads: int | None) -> None:
        self.version = openvino_runtime.version()
        shape = patches_per_pass(input_px), channels, input_px, input_px
        threads = threads or openvino_runtime.cores()
        compiled = openvino_runtime.compile_network(network, shape, precision, threads)
        self._pass = openvino_runtime.FixedBatch(compiled, shape)

    def features(self, x: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return features (N, D) of standardised patches (N, C, H, W)."""
        return self._pass(x)


FeatureRuntime = TorchFeatures | OpenVINOFeatures
"""Both have `features`, and the `name` and `version` of the package that runs them."""


def open_runtime(
    network: Any, *, channels: int, input_px: int, device: torch.device, precision: str, threads: int | None
) -> FeatureRuntime:
    """Return a network from (N, channels, input_px, input_px) to (N, D), of torch or of OpenVINO, ready to run.

    `precision` is ``float32``, ``bfloat16``, or on a GPU ``float16``; `threads` those of a processor, by default one
    for each core. InputUnsupportedError for float16 on a processor, and for a network of OpenVINO on a GPU.
    """
    is_torch = isinstance(network, nn.Module)
    if device.type != "cpu" and not is_torch:
        raise InputUnsupportedError("ONNX files run on processors", place="--devices", remedy="use a processor (cpu)")
    if device.type != "cpu":
        return TorchFeatures(network, device, precision, threads)
    if precision == "float16":
        raise InputUnsupportedError(
            "float16 on a processor", place="--precision", remedy="use float32, or bfloat16 where the processor has it"
        )
    try:
        converted = _converted(network, channels, input_px) if is_torch else network
        return OpenVINOFeatures(converted, channels, input_px, precision, threads)
    except RuntimeError as error:  # an operation that OpenVINO lacks
        if not is_torch:
            raise
        warnings.warn(f"OpenVINO cannot run this encoder, torch does: {error}", UserWarning, stacklevel=2)
        return TorchFeatures(network, device, precision, threads)


def _converted(network: nn.Module, channels: int, input_px: int) -> Any:
    """Return a network of torch as one of OpenVINO; the weights are shared.

    Raises
    ------
    RuntimeError
        OpenVINO lacks an operation of the network.
    """
    import openvino
    from openvino.frontend import GeneralFailure, NotImplementedFailure, OpConversionFailure

    example = torch.zeros(1, channels, input_px, input_px)
    with warnings.catch_warnings(), torch.inference_mode():
        warnings.simplefilter("ignore")  # torch warns that tracing is old, and that shapes become constants
        try:
            return openvino.convert_model(network, example_input=example)
        except (GeneralFailure, NotImplementedFailure, OpConversionFailure) as error:  # no RuntimeErrors
            raise RuntimeError(str(error)) from error
