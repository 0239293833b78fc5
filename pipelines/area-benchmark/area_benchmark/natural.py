"""Natural tissue, whose area nobody imposed: the cases of each ground, and what its rows are trained and judged on."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from pathopatch.core.config import GroupsConfig, TileConfig, TrainConfig
from pathopatch.core.mask_bits import MaskKind
from pathopatch.demo.slides import CohortSpec, make_cohort
from pathopatch.slides.slide_paths import expand_variables
from pathopatch.stages.groups import form_groups
from pathopatch.stages.tile import import_patches, tile_cohort
from pathopatch.training.dataset import PatchSet, load_patches

MANIFESTS = Path(__file__).resolve().parents[3] / "data_manifests"
SPLITS = ("train", "val", "test")
MINORITIES = {"4 %": None, "8 of each class": 8, "none": 0}
"""Training patches of each class of the demo with the tissue of the other class; None: all that there are."""


_MASKS: tuple[MaskKind, ...] = ("tissue", "tumor")  # composing keeps the tumour of a patch that is called so for any
_LAST = {"select": "last", "tune_threshold": False}  # there is no validation
SETTINGS = {
    "demo": TrainConfig(
        input_px=64, steps=800, batch_per_class=32, learning_rate=1e-3, weight_decay=1e-2, threshold=0.25
    ),
    "idc": TrainConfig(
        architecture="tf_efficientnet_lite0", pretrained="efficientnet-lite0", input_px=64, steps=200,
        batch_per_class=16, learning_rate=3e-4, threshold=0.75, **_LAST,
    ),
    "ocdc": TrainConfig(
        input_px=64, steps=600, batch_per_class=16, learning_rate=1.5e-3, threshold=0.5, **_LAST
    ),
    "lung images": TrainConfig(
        input_px=96, steps=600, batch_per_class=16, learning_rate=1.5e-3, threshold=0.65, evaluations=12
    ),
}  # fmt: skip
"""What all rows of a ground share."""


@dataclass(frozen=True, eq=False)
class Fold:
    """Patches that a row is trained, selected and judged on, and the settings that all rows share."""

    train: PatchSet
    val: PatchSet | None
    test: PatchSet
    config: TrainConfig


def cases(ground: str) -> tuple[str, ...]:
    """Return the cases of a ground."""
    return _GROUNDS[ground][0]


def folds(ground: str, case: str, seed: int, work: Path) -> Iterator[Fold]:
    """Yield the folds of a case, whose test patches are judged together; slides are made and tiled first."""
    return _GROUNDS[ground][1](case, seed, work)


def _demo(case: str, seed: int, work: Path) -> Iterator[Fold]:
    """Yield the demo's synthetic cohort of the seed, at its own settings."""
    spec, folder = CohortSpec(), work / f"demo-{seed}"
    manifest = make_cohort(folder / "cohort", seed=seed, spec=spec)
    tile_cohort(manifest, folder, TileConfig(patch_px=spec.field_px))
    groups = form_groups(folder, GroupsConfig(thresholds=(0.25,)))
    config = SETTINGS["demo"]
    train, val, test = (_patches(folder, groups[groups["split"] == name], config) for name in SPLITS)
    if (minority := MINORITIES[case]) is not None:
        train = train.rows(with_minority(train, minority, seed=seed))
    yield Fold(train, val, test, config)


def _idc(case: str, _seed: int, work: Path) -> Iterator[Fold]:
    """Yield two breast carcinoma slides of a patient each, without validation, as `pipelines/idc` has them."""
    folder = work / "idc"
    tile_cohort(MANIFESTS / "idc.csv", folder, TileConfig(patch_px=50, mpp=4.0))
    groups = form_groups(folder, GroupsConfig(thresholds=(0.75,)))
    config = SETTINGS["idc"]
    train, test = (_patches(folder, groups[groups["patient_id"] == name], config) for name in case.split(" to "))
    yield Fold(train, None, test, config)


def _ocdc(_case: str, _seed: int, work: Path) -> Iterator[Fold]:
    """Yield the oral carcinoma fields: each in turn for testing, the others to train; two of them lack a group."""
    folder, manifest = work / "ocdc", MANIFESTS / "ocdc-fields.csv"
    tile_cohort(manifest, folder, TileConfig(patch_px=64))
    groups = form_groups(folder, GroupsConfig(thresholds=(0.5,)))
    config = SETTINGS["ocdc"]
    for field in pd.read_csv(manifest)["slide_id"].tolist():
        is_test = groups["slide_id"] == field
        train, test = (_patches(folder, groups[chosen], config) for chosen in (~is_test, is_test))
        yield Fold(train, None, test, config)


def _lung(_case: str, seed: int, work: Path) -> Iterator[Fold]:
    """Yield the images of lung as they are, split by source tile; cut where the smallest groups are largest."""
    folder = work / f"lung-images-{seed}"
    import_patches(Path(expand_variables("${PATHOPATCH_REAL_DATA}/lung")[0]), folder, TileConfig())
    groups = form_groups(folder, GroupsConfig(thresholds=(0.65,), split_seed=seed))
    config = SETTINGS["lung images"]
    parts = (groups[groups["split"] == name] for name in SPLITS)
    train, val, test = (_patches(folder, rows, config, masks=("tissue",)) for rows in parts)
    yield Fold(train, val, test, config)


_GROUNDS: dict[str, tuple[tuple[str, ...], Callable[[str, int, Path], Iterator[Fold]]]] = {
    "demo": (tuple(MINORITIES), _demo),
    "idc": (("14082 to 14306", "14306 to 14082"), _idc),
    "ocdc": (("each field in turn",), _ocdc),
    "lung images": (("as they are",), _lung),
}


def with_minority(patches: PatchSet, count: int, *, seed: int) -> NDArray[np.bool_]:
    """Return which patches stay, (N,), if each class keeps `count` with the tissue of the other class."""
    rng = np.random.default_rng(seed)
    stays: NDArray[np.bool_] = patches.label == patches.attribute
    for label in (0, 1):
        conflicting = np.flatnonzero((patches.label == label) & (patches.attribute != label))
        stays[rng.permutation(conflicting)[:count]] = True
    return stays


def _patches(
    folder: Path, rows: pd.DataFrame, config: TrainConfig, *, masks: tuple[MaskKind, ...] = _MASKS
) -> PatchSet:
    by = {"input_px": config.input_px, "threshold": config.threshold}
    return load_patches(folder, rows, splits=SPLITS, masks=masks, **by)
