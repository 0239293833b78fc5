"""The grounds of the study, natural tissue whose area nobody imposed: training, validation and test patches."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from pathopatch.core.config import GroupsConfig, TileConfig, TrainConfig
from pathopatch.demo.slides import CohortSpec, make_cohort
from pathopatch.demo.study import TRAIN as DEMO
from pathopatch.stages.groups import form_groups
from pathopatch.stages.tile import tile_cohort
from pathopatch.training.dataset import PatchSet, load_patches

MANIFESTS = Path(__file__).resolve().parents[2] / "data_manifests"
_SPLITS = ("train", "val", "test")


@dataclass(frozen=True)
class Case:
    """What is trained on and judged by.

    Parameters
    ----------
    ground, name : str
        Such as ``idc`` and ``14082 to 14306``.
    seed : int
        Of training; on the demo of the cohort too.
    minority : int, optional
        Training patches of each class with the tissue of the other class; None: all that there are.
    """

    ground: str
    name: str
    seed: int
    minority: int | None = None


@dataclass(frozen=True, eq=False)
class Data:
    """Patches of a case and the settings that all its methods share."""

    train: PatchSet
    val: PatchSet | None
    test: PatchSet
    config: TrainConfig


def cases(ground: str, seeds: Sequence[int]) -> list[Case]:
    """Return the cases of a ground."""
    if ground == "demo":
        names: list[tuple[str, int | None]] = [("4 %", None), ("8 of each class", 8), ("none", 0)]
    elif ground == "idc":
        names = [("14082 to 14306", None), ("14306 to 14082", None)]
    else:
        names = [("each field in turn", None)]
    return [Case(ground, name, seed, minority) for name, minority in names for seed in seeds]


def load(case: Case, work: Path) -> Iterator[Data]:
    """Yield the patches of a case, fold by fold; slides are made and tiled first where they are not yet."""
    folds = {"demo": _demo, "idc": _idc, "ocdc": _ocdc}
    return folds[case.ground](case, work)


def _demo(case: Case, work: Path) -> Iterator[Data]:
    """Yield the demo's synthetic cohort, at its own settings."""
    spec, folder = CohortSpec(), work / f"demo-{case.seed}"
    manifest = make_cohort(folder / "cohort", seed=case.seed, spec=spec)
    groups = _tiled(manifest, folder, TileConfig(patch_px=spec.field_px), threshold=0.25)
    train, val, test = (
        _patches(folder, groups[groups["split"] == name], input_px=64, threshold=0.25) for name in _SPLITS
    )
    if case.minority is not None:
        train = train.rows(with_minority(train, case.minority, seed=case.seed))
    yield Data(train, val, test, DEMO.model_copy(update={"threshold": 0.25}))


def _idc(case: Case, work: Path) -> Iterator[Data]:
    """Yield two breast carcinoma slides of a patient each, without validation, as `pipelines/idc` has them."""
    folder, (trained, tested) = work / "idc", case.name.split(" to ")
    groups = _tiled(MANIFESTS / "idc.csv", folder, TileConfig(patch_px=50, mpp=4.0), threshold=0.75)
    train, test = (
        _patches(folder, groups[groups["patient_id"] == name], input_px=64, threshold=0.75)
        for name in (trained, tested)
    )
    config = TrainConfig(
        architecture="tf_efficientnet_lite0",
        pretrained="efficientnet-lite0",
        input_px=64,
        steps=200,
        batch_per_class=16,
        learning_rate=3e-4,
        threshold=0.75,
        select="last",
        tune_threshold=False,
    )
    yield Data(train, None, test, config)


def _ocdc(case: Case, work: Path) -> Iterator[Data]:
    """Yield the oral carcinoma fields: each in turn for testing, the others to train; two of them lack a group."""
    folder, manifest = work / "ocdc", MANIFESTS / "ocdc-fields.csv"
    groups = _tiled(manifest, folder, TileConfig(patch_px=64), threshold=0.5)
    config = TrainConfig(
        input_px=64,
        steps=600,
        batch_per_class=16,
        learning_rate=1.5e-3,
        threshold=0.5,
        select="last",
        tune_threshold=False,
    )
    for field in pd.read_csv(manifest)["slide_id"].tolist():
        is_test = groups["slide_id"] == field
        train, test = (_patches(folder, groups[chosen], input_px=64, threshold=0.5) for chosen in (~is_test, is_test))
        yield Data(train, None, test, config)


def with_minority(patches: PatchSet, count: int, *, seed: int) -> NDArray[np.bool_]:
    """Return which patches stay, (N,), if each class keeps `count` with the tissue of the other class."""
    rng = np.random.default_rng(seed)
    stays: NDArray[np.bool_] = patches.label == patches.attribute
    for label in (0, 1):
        conflicting = np.flatnonzero((patches.label == label) & (patches.attribute != label))
        stays[rng.permutation(conflicting)[:count]] = True
    return stays


def _tiled(manifest: Path, folder: Path, config: TileConfig, *, threshold: float) -> pd.DataFrame:
    """Return the groups of a manifest's patches at a threshold."""
    tile_cohort(manifest, folder, config)
    return form_groups(folder, GroupsConfig(thresholds=(threshold,)))


def _patches(folder: Path, rows: pd.DataFrame, *, input_px: int, threshold: float) -> PatchSet:
    return load_patches(folder, rows, input_px=input_px, splits=_SPLITS, threshold=threshold, masks=("tissue", "tumor"))
