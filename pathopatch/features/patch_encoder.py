"""Open an encoder by name, file or folder, and turn patches into features: resize, standardise, run, pool.

OpenVINO runs the network on processors where it can, else torch does.
"""

from __future__ import annotations

import warnings
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from pathopatch.core.config import EncodeConfig
from pathopatch.core.errors import CheckpointIncompatibleError, InputUnsupportedError
from pathopatch.features.encoder_files import is_own_file, load_file
from pathopatch.features.encoder_network import CHANNELS, LoadedEncoder, load_entry
from pathopatch.models.device import pick_device
from pathopatch.models.forward import resize_area
from pathopatch.models.runtime import openvino_runtime, patches_per_pass
from pathopatch.models.runtime.torch_runtime import processor_threads, run_in_batches

_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


class PatchEncoder:
    """An encoder that is ready to use."""

    def __init__(self, loaded: LoadedEncoder, runtime: FeatureRuntime, *, precision: str) -> None:
        self.encoder = replace(loaded.encoder, precision=precision)
        self.takes_tissue = loaded.takes_tissue
        self.computed_by = f"{runtime.name} {runtime.version}"
        self._runtime = runtime
        self.resize_px = loaded.resize_px
        self._mean, self._std = (
            np.array(values, np.float32)[:, None, None] for values in (self.encoder.mean, self.encoder.std)
        )

    @property
    def dtype(self) -> type[np.floating[Any]]:
        """Type in which features are stored: float16 where they were computed in it, else float32."""
        return np.float16 if self.encoder.precision == "float16" else np.float32

    def prepare(self, patches: NDArray[np.float32], tissue: NDArray[np.bool_] | None = None) -> NDArray[np.float32]:
        """Return the network's input, float32 (N, 3, H, W), or (N, 4, H, W) with the share of tissue last.

        `patches` are float32 (N, 3, p, p), in [0, 1]; `tissue` their masks (N, p, p), needed where `takes_tissue`.
        """
        x = (self._cropped(patches) - self._mean) / self._std
        if not self.takes_tissue:
            return x
        assert tissue is not None
        return np.concatenate([x, self._cropped(tissue[:, None].astype(np.float32))], axis=1)

    def encode(self, x: NDArray[np.float32]) -> NDArray[np.floating[Any]]:
        """Return features (N, D) in `dtype` of what `prepare` returned; a value beyond the type's range is infinite."""
        features = self._runtime.features(x)
        if features.ndim != 2 or features.shape[1] != self.encoder.dim:
            raise CheckpointIncompatibleError(
                f"the network gives features of shape {features.shape}, (N, {self.encoder.dim}) expected",
                place="--encoder",
                remedy="give the file of another encoder",
            )
        with np.errstate(over="ignore"):
            return features.astype(self.dtype, copy=False)

    def _cropped(self, patches: NDArray[np.float32]) -> NDArray[np.float32]:
        resized = resize_area(patches, self.resize_px)
        side = self.encoder.input_px
        assert side is not None
        start = (self.resize_px - side) // 2
        return resized[:, :, start : start + side, start : start + side]


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


def load(config: EncodeConfig) -> LoadedEncoder:
    """Return the encoder that a configuration names, with its weights, in float32 on the processor."""
    loaded = load_file(config) if is_own_file(config.encoder) else load_entry(config)
    return replace(loaded, encoder=replace(loaded.encoder, channels=config.channels))


def open_patch_encoder(loaded: LoadedEncoder, *, device: str, precision: str, threads: int | None) -> PatchEncoder:
    """Return an encoder on a device, ready to use; see `open_runtime`."""
    runtime = open_runtime(
        loaded.network,
        channels=CHANNELS + loaded.takes_tissue,
        input_px=loaded.encoder.input_px or loaded.resize_px,
        device=pick_device(device),
        precision=precision,
        threads=threads,
    )
    return PatchEncoder(loaded, runtime, precision=precision)


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
