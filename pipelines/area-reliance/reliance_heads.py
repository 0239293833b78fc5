"""Linear heads on frozen ImageNet features, of the networks' cohorts; pixels are edited and encoded again."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import linear_heads
import torch
from area_benchmark.cells import load
from area_benchmark.settings import BenchmarkConfig

from pathopatch.models.networks import build_network
from pathopatch.training.dataset import PatchSet

IMPOSED = (
    ("erm", "0 %"), ("erm", "1 %"), ("erm", "5 %"), ("erm", "15 %"), ("erm", "30 %"),
    ("resample", "1 %"), ("auto", "1 %"), ("erm", "ceiling"),
)  # fmt: skip
"""Row, and share of conflicting training patches."""
NATURAL = (("erm", "as it is"), ("resample", "as it is"), ("subsample", "as it is"))
NATURAL_STRENGTH = 1e-2
"""Inverse penalty on a breast slide, where no validation can choose one."""


def encoder() -> torch.nn.Module:
    """Return EfficientNet-Lite0 with its ImageNet weights."""
    network: torch.nn.Module = build_network("tf_efficientnet_lite0", 3, pretrained="efficientnet-lite0").eval()
    return network


def imposed(
    folder: Path, config: BenchmarkConfig, network: torch.nn.Module, *, input_px: int, seed: int
) -> tuple[dict[tuple[str, str], linear_heads.Head], PatchSet, PatchSet]:
    """Return the heads of a cohort with an imposed area, and its patches of validation and of test."""
    sets: dict[str, PatchSet] = {}
    made, encoded = {}, dict[str, Any]()
    for row, case in IMPOSED:
        sets = load(folder, case, config, input_px=input_px)  # type: ignore[arg-type]  # one of its cases
        train, val = sets["train"], sets["val"]
        if case not in encoded:
            encoded[case] = linear_heads.whole(network, train)
        if "val" not in encoded:
            encoded["val"] = linear_heads.whole(network, val)
        x = encoded[case]
        if row == "auto":
            patches = linear_heads.joined_with_copies(x, train, *linear_heads.composed(network, train, seed=seed))
        else:
            patches = x, train.label, linear_heads.balancing(train) if row == "resample" else None
        made[row, case] = linear_heads.fit_head(patches, encoded["val"], val)
    return made, sets["val"], sets["test"]


def breast(train: PatchSet, network: torch.nn.Module, *, seed: int) -> dict[tuple[str, str], linear_heads.Head]:
    """Return the heads of a breast carcinoma slide."""
    x, label = linear_heads.whole(network, train), train.label
    picked = linear_heads.equal_groups(2 * label + train.attribute, seed=seed)
    rows = {
        "erm": (x, label, None),
        "resample": (x, label, linear_heads.balancing(train)),
        "subsample": (x[picked], label[picked], None),
    }
    strengths = (NATURAL_STRENGTH,)
    return {(row, case): linear_heads.fit_head(rows[row], None, None, strengths=strengths) for row, case in NATURAL}
