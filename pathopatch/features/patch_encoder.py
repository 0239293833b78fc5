"""Open an encoder by name, file or folder, and turn patches into features: resize, standardise, run, pool.

OpenVINO runs the network on processors where it can, else torch does.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pathopatch.core.config import EncodeConfig
from pathopatch.core.errors import CheckpointIncompatibleError
from pathopatch.features.encoder_files import is_own_file, load_file
from pathopatch.features.encoder_network import CHANNELS, LoadedEncoder, load_entry
from pathopatch.models.device import pick_device
from pathopatch.models.forward import resize_area
from pathopatch.models.runtime.feature_runtime import FeatureRuntime, open_runtime


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
