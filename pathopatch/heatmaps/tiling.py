"""Derive how a slide is cut from what a model was trained on."""

from __future__ import annotations

from pathopatch.core.config import PredictConfig, RegistrationConfig, TileConfig
from pathopatch.core.errors import InputUnsupportedError
from pathopatch.models.spec import BundleSpec


def tiling_of(spec: BundleSpec, config: PredictConfig) -> TileConfig:
    """Return how a slide is cut for a model.

    Parameters
    ----------
    spec : BundleSpec
        The model's.
    config : PredictConfig
        Its `stride_px` replaces the model's.

    Raises
    ------
    InputUnsupportedError
        The stride exceeds the patch.
    """
    stride_px = spec.stride_px if config.stride_px is None else config.stride_px
    if stride_px > spec.patch_px:
        raise InputUnsupportedError(
            f"stride of {stride_px} px, patches have {spec.patch_px}",
            place="--stride-px",
            remedy=f"give at most {spec.patch_px}: the slide would not be covered",
        )
    return TileConfig(
        patch_px=spec.patch_px,
        stride_px=stride_px,
        mpp=spec.mpp,
        store="none",
        tissue=spec.tissue,
        intensity=spec.intensity,
        registration=RegistrationConfig(align=spec.align),
    )
