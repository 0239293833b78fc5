"""Open an encoder by name, file or folder, and turn patches into features: resize, standardise, run, pool."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pathopatch.core.config import EncodeConfig
from pathopatch.core.errors import CheckpointIncompatibleError, InputUnsupportedError
from pathopatch.features.encoder_files import is_own_file, load_file
from pathopatch.features.encoder_network import CHANNELS, LoadedEncoder, find_weights, load_encoder, weights_file
from pathopatch.features.encoder_runtime import FeatureRuntime, open_runtime
from pathopatch.features.encoders import encoder_entry, pooled_dim, twins_of
from pathopatch.features.slide_features import Encoder
from pathopatch.models.device import pick_device
from pathopatch.models.forward import resize_area
from pathopatch.models.weights import file_sha256


class PatchEncoder:
    """An encoder that is ready to use."""

    def __init__(self, loaded: LoadedEncoder, runtime: FeatureRuntime, *, precision: str) -> None:
        self.encoder = replace(loaded.encoder, precision=precision)
        self.takes_tissue = loaded.takes_tissue
        self.notes = loaded.notes
        self.computed_by = f"{runtime.name} {runtime.version}"
        self._runtime = runtime
        self._resize_px = loaded.resize_px
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
        resized = resize_area(patches, self._resize_px)
        side = self.encoder.input_px
        assert side is not None
        start = (self._resize_px - side) // 2
        return resized[:, :, start : start + side, start : start + side]


def load(config: EncodeConfig) -> LoadedEncoder:
    """Return the encoder that a configuration names, with its weights, in float32 on the processor.

    InputUnsupportedError if there is no such encoder or pooling, or an option does not go with it; else as `load_file`
    and `load_encoder`.
    """
    loaded = load_file(config) if is_own_file(config.encoder) else _load_entry(config)
    encoder = replace(loaded.encoder, channels=config.channels)
    return replace(loaded, encoder=encoder)


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


def _load_entry(config: EncodeConfig) -> LoadedEncoder:
    """Return an encoder of the table."""
    entry = encoder_entry(config.encoder)
    stated = [name for name in ("input_px", "mean", "std") if getattr(config, name) is not None]
    if stated:
        raise InputUnsupportedError(
            f"{entry.name} has its own {', '.join(stated)}",
            place="--" + stated[0].replace("_", "-"),
            remedy="leave it out: these options are for a file",
        )
    pooling = config.pooling or entry.pooling
    weights = find_weights(config.weights, entry)
    network = load_encoder(entry, weights, pooling)
    notes = [f"{entry.name}: weights of {entry.source}, licence: {entry.licence}"]
    if twins := twins_of(entry.name):
        notes.append(
            f"the weights of {', '.join(twins)} have the same shapes: nothing but their file's name tells them from "
            f"those of {entry.name}"
        )
    mean, std = entry.norm
    return LoadedEncoder(
        network=network,
        encoder=Encoder(
            name=entry.name,
            dim=pooled_dim(entry, pooling),
            pooling=pooling,
            input_px=entry.input_px,
            mean=mean,
            std=std,
            crop=entry.crop,
            weights_sha256=file_sha256(weights_file(entry, weights)),
        ),
        resize_px=entry.resize_px or entry.input_px,
        mpp=entry.mpp,
        patch_px=entry.patch_px,
        notes=tuple(notes),
    )
