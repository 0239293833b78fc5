"""Prepare an encoder for a command: load it, try it, and open it once in each process."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pathopatch.core.config import BatchOptions, EncodeConfig, PredictConfig, TileConfig, parse
from pathopatch.core.errors import CheckpointIncompatibleError, InputMissingError
from pathopatch.core.task import Outcome, Within
from pathopatch.core.work_folder import WorkFolder
from pathopatch.features.encode import PixelSource, encode_patches
from pathopatch.features.slide_features import Encoder
from pathopatch.stages.batch.run import DEFAULT_BATCH, run_limited

if TYPE_CHECKING:
    from pathopatch.features.encoder_network import LoadedEncoder
    from pathopatch.features.patch_encoder import PatchEncoder
    from pathopatch.models.spec import BundleSpec


def encode_source(source: PixelSource, progress: Within, *, config: EncodeConfig, out: Path, force: bool) -> Outcome:
    """Write the features of a slide's patches, by the device of this process; errors as of `encode_patches`."""
    encoder = replace(_loaded(config).encoder, precision=config.precision)
    return encode_patches(source, encoder, partial(open_encoder, config), out, config, force=force, progress=progress)


@lru_cache(maxsize=1)
def _loaded(config: EncodeConfig) -> LoadedEncoder:
    """Return the encoder of a configuration with its weights, which a process reads once."""
    from pathopatch.features import patch_encoder

    return patch_encoder.load(config)


@lru_cache(maxsize=1)
def open_encoder(config: EncodeConfig) -> PatchEncoder:
    """Return the encoder of a `PreparedEncoder`, ready to use; a process opens it once for all its slides."""
    from pathopatch.features import patch_encoder

    return patch_encoder.open_patch_encoder(
        _loaded(config), device=config.device, precision=config.precision, threads=config.threads
    )


def known_encoders_text() -> str:
    """Return a line for each encoder that is known by name: its features, pooling, crop, scale, source and licence."""
    from pathopatch.features.encoders import ENCODERS

    lines = []
    for entry in ENCODERS.values():
        scale = "any um/px" if entry.mpp is None else f"{entry.mpp:g} um/px"
        form = f"{entry.dim:5} {entry.pooling:8} {entry.crop:22} {scale:10}"
        lines.append(f"{entry.name:19} {form} {entry.source} ({entry.licence})")
    return "\n".join(lines)


@dataclass(frozen=True, kw_only=True)
class PreparedEncoder:
    """An encoder that was loaded and tried: how each process opens it, and how slides are cut for it."""

    config: EncodeConfig  # device, precision and threads are no longer "auto"
    encoder: Encoder
    patch_px: int  # side of a patch at `mpp`
    mpp: float | None  # um/px of the patches: as it was made for, unless another scale is asked for
    notes: tuple[str, ...]  # what a user must know of it

    def tiling(self, rules: TileConfig | None = None) -> TileConfig:
        """Return how slides are cut: its patches, at its scale; else as `rules` say.

        InputMissingError if it has no scale of its own, and none was asked for.
        """
        if self.mpp is None:
            raise InputMissingError(
                f"{self.encoder.name} was made for no scale of its own",
                place="[predict] encoder_mpp",
                remedy="state um/px of the patches: encode --mpp 0.5, or encoder_mpp = 0.5 under [predict]",
            )
        return (rules or TileConfig()).model_copy(
            update={"patch_px": self.patch_px, "stride_px": None, "mpp": self.mpp}
        )

    def file(self, out: Path, slide_id: str) -> Path:
        """Return the file of a slide's features in a work folder."""
        return WorkFolder(out).encoded(self.encoder.key, slide_id)


def prepare_encoder(config: EncodeConfig, batch: BatchOptions = DEFAULT_BATCH) -> PreparedEncoder:
    """Load and try the encoder of a configuration for the processes of a batch; PathopatchError if it is refused.

    One that is a file may be a program that does not end: with a limit it is tried in a process of its own.
    """
    from pathopatch.features.encoder_files import is_own_file

    config = _with_device(config, batch.workers)
    if not is_own_file(config.encoder) or (batch.timeout_s is None and batch.memory_gb is None):
        loaded = _loaded(config)
    else:
        loaded = run_limited(
            partial(_without_network, config),
            place=config.encoder,
            what="to load and try the encoder",
            limit_s=batch.timeout_s,
            limit_bytes=batch.limit_bytes,
        )
    return PreparedEncoder(
        config=config,
        encoder=replace(loaded.encoder, precision=config.precision),
        patch_px=loaded.patch_px,
        mpp=config.mpp or loaded.mpp,
        notes=loaded.notes,
    )


def _without_network(config: EncodeConfig) -> LoadedEncoder:
    return replace(_loaded(config), network=None)


def _with_device(config: EncodeConfig, workers: int) -> EncodeConfig:
    """Return a configuration with device, precision and threads as they will be in `workers` processes."""
    from pathopatch.models.device import pick_device
    from pathopatch.models.runtime.openvino_runtime import cores

    device, precision = pick_device(config.device), config.precision
    if precision == "auto":
        precision = "float32" if device.type == "cpu" else "float16"
    threads = config.threads or max(1, cores() // workers)
    return config.model_copy(update={"device": str(device), "precision": precision, "threads": threads})


def encoder_of_head(
    model: Path | Sequence[Path],
    weights: Path,
    config: PredictConfig,
    batch: BatchOptions = DEFAULT_BATCH,
    *,
    mpp: float | None = None,
) -> PreparedEncoder:
    """Return the encoder of the features that a head was trained on, for `predict_cohort`.

    `weights` is the file or folder of its weights; for TorchScript and transformers that of the encoder itself.
    `mpp` is um per px of the patches, by default the encoder's own. What is wrong with any of them is refused here,
    before any slide is opened; CheckpointIncompatibleError for another encoder than the head's.
    """
    from pathopatch.heatmaps.predict import refuse_pixel_settings
    from pathopatch.models.bundle import check_bundles
    from pathopatch.models.spec import check_features

    refuse_pixel_settings(config)
    spec = check_bundles((model,) if isinstance(model, Path) else tuple(model))
    encoding = _encoding(spec, weights, config, mpp=mpp)
    prepared = prepare_encoder(encoding, batch)
    check_features(spec, prepared.encoder.to_dict(), place=str(weights))
    prepared.tiling()  # refused here, not slide by slide
    return prepared


def _encoding(spec: BundleSpec, weights: Path, config: PredictConfig, *, mpp: float | None) -> EncodeConfig:
    """Return how slides are encoded for a head: by the encoder of its features, with weights from a place.

    CheckpointIncompatibleError if the head does not say which encoder that is, or only the tool that made its features
    has it; InputMissingError if there is nothing at `weights`.
    """
    from pathopatch.features.encoder_files import holds_network
    from pathopatch.features.encoders import ENCODERS, crop_text
    from pathopatch.models.spec import patch_limits

    stated: dict[str, Any] = dict(spec.encoder or {})
    name = stated.get("name")
    if not weights.exists():
        raise InputMissingError(
            f"no file {weights.name}", place="--weights", remedy=f"give the weights of {name or 'the encoder'}"
        )
    values = {
        **patch_limits(spec, config),
        "device": config.device,
        "threads": config.threads,
        "mpp": mpp,
        "channels": stated.get("channels"),
    }
    if name in ENCODERS:
        values |= {"encoder": name, "weights": weights, "pooling": stated.get("pooling")}
    elif name is not None and holds_network(weights) and {"input_px", "mean", "std"} <= stated.keys():
        values |= {"encoder": str(weights)}
        if weights.is_dir():
            values |= {"pooling": stated.get("pooling")}
        if stated.get("crop") == crop_text(None, stated["input_px"]):  # else the folder itself says how it crops
            values |= {key: stated[key] for key in ("input_px", "mean", "std")}
    else:
        raise CheckpointIncompatibleError(
            f"the head takes features of {name!r}, which pathopatch encode does not know by that name"
            if name is not None
            else "the head does not say of which encoder its features are",
            place="--weights",
            remedy="make the features by the tool of the training features, and predict these",
        )
    return parse(EncodeConfig, values, place="--weights")
