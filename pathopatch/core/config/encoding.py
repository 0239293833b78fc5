"""Settings of encoding patches into features."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field

from pathopatch.core.config.base import MOST_PX, MPP_RANGE, Config, Fraction

Pooling = Literal["cls", "mean", "cls+mean", "tissue-mean", "layer3"]
"""How the tokens of a patch become one vector.

cls: the class token. mean: the mean over the tokens of the image, without class token and registers, or over the last
feature map. cls+mean: both, one after the other. tissue-mean: the mean weighted by the share of tissue in each token.
layer3: the mean over the third stage of a ResNet.
"""
_Positive = Annotated[float, Field(gt=0)]


class EncodeConfig(Config):
    """How patches are encoded."""

    encoder: str  # a name of the table of encoders; or a TorchScript or ONNX file, or a folder of transformers
    weights: Path | None = None  # file or folder, for an encoder of the table
    pooling: Pooling | None = None  # None: the publisher's
    mpp: float | None = Field(default=None, ge=MPP_RANGE[0], le=MPP_RANGE[1])  # um/px of patches; None: the encoder's
    channels: tuple[str, str, str] | None = None  # which channels are given as red, green and blue; None: RGB slides
    min_tissue: Fraction = 0.01  # as of groups: below it a patch is blank glass
    batch: int = Field(default=64, ge=1)  # patches at a time
    # auto: float16 on GPUs, as the publishers do, and float32 on processors, whose half precision moves features by 1 %
    precision: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    devices: tuple[str, ...] = Field(default=("auto",), min_length=1)
    threads: int | None = Field(default=None, ge=1)
    # of a file, which states none of them
    input_px: int | None = Field(default=None, ge=8, le=MOST_PX)
    mean: tuple[float, float, float] | None = None
    std: tuple[_Positive, _Positive, _Positive] | None = None
