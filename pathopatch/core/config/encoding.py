"""Settings of encoding patches into features."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field

from pathopatch.core.config.base import MOST_PX, MPP_RANGE, Config, Fraction

Pooling = Literal["cls", "mean", "cls+mean", "tissue-mean"]
"""How the tokens of a patch become one vector.

cls: the class token. mean: the mean over the tokens of the image, without class token and registers, or over the last
feature map. cls+mean: both, one after the other. tissue-mean: the mean weighted by the share of tissue in each token.
"""
_Positive = Annotated[float, Field(gt=0)]


class EncodeConfig(Config):
    """How patches are encoded."""

    encoder: str
    """Name of a known encoder, a TorchScript file, or a folder of `transformers`."""
    weights: Path | None = None
    """File or folder with the weights of a known encoder. Nothing is downloaded."""
    pooling: Pooling | None = None
    """How the tokens of a patch become one vector. None: as the encoder's publisher does it."""
    mpp: float | None = Field(default=None, ge=MPP_RANGE[0], le=MPP_RANGE[1])
    """Scale of the patches, um/px. None: the encoder's."""
    channels: tuple[str, str, str] | None = None
    """Channels that are given as red, green and blue. None: the slides are RGB."""
    min_tissue: Fraction = 0.01
    """Least tissue fraction of a patch, as in `[groups]`; below it a patch is blank glass."""
    min_scanned: Fraction = 0.5
    """Least scanned share of a patch, as in `[groups]`."""
    batch: int = Field(default=64, ge=1)
    """Patches at a time."""
    precision: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    """auto: float16 on GPUs, as publishers use it, and float32 on processors, where half precision moves features by 1
    %.
    """
    devices: tuple[str, ...] = Field(default=("auto",), min_length=1)
    """auto, cpu, or GPUs by number; each GPU gets a process of its own."""
    threads: int | None = Field(default=None, ge=1)
    """Processor threads. None: all cores."""
    input_px: int | None = Field(default=None, ge=8, le=MOST_PX)
    """Side of the input of an encoder file, px; the file does not state it."""
    mean: tuple[float, float, float] | None = None
    """Mean of each channel in [0, 1] that an encoder file expects."""
    std: tuple[_Positive, _Positive, _Positive] | None = None
    """Standard deviation of each channel that an encoder file expects."""
