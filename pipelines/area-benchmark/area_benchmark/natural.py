"""Natural tissue, whose area nobody imposed: the cases of each ground, and what its rows are trained and judged on."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pandas as pd
from numpy.typing import NDArray

from pathopatch.core.config import GroupsConfig, IntensityConfig, TileConfig, TissueConfig, TrainConfig
from pathopatch.core.mask_bits import MaskKind
from pathopatch.core.patients import BLOCK
from pathopatch.demo.slides import CohortSpec, make_cohort
from pathopatch.slides.slide_paths import expand_variables
from pathopatch.stages.groups import fold_tables, form_groups
from pathopatch.stages.tile import import_patches, tile_cohort
from pathopatch.training.dataset import PatchSet, load_patches
from pathopatch.training.run import cohort_settings

MANIFESTS = Path(__file__).resolve().parents[3] / "data_manifests"
SPLITS = ("train", "val", "test")
MINORITIES = {"4 %": None, "8 of each class": 8, "none": 0}
"""Training patches of each class of the demo with the tissue of the other class; None: all that there are."""


_MASKS: tuple[MaskKind, ...] = ("tissue", "tumor")  # composing keeps the tumour of a patch that is called so for any
MIN_TISSUE = 0.01
_INNER = 5
_UCSB_PX, _UCSB_THRESHOLDS = 128, (0.5, 0.25)
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
    "shg_cores": TrainConfig(threshold=0.02),  # frozen rows alone
    "ucsb_breast": TrainConfig(input_px=64, steps=400, batch_per_class=16, learning_rate=1.5e-3),
}  # fmt: skip
"""What all rows of a ground share."""


@dataclass(frozen=True, eq=False)
class Fold:
    """Patches that a row is trained, selected and judged on, and the settings that all rows share."""

    train: PatchSet
    val: PatchSet | None
    test: PatchSet
    config: TrainConfig
    groups: pd.DataFrame | None = None  # of the whole cohort
    inner_folds: int = 0  # of frozen rows, see `fit_frozen`
    min_tissue: float = MIN_TISSUE  # below it a patch has no group


def cases(ground: str) -> tuple[str, ...]:
    """Return the cases of a ground."""
    return _GROUNDS[ground][0]


def folds(ground: str, case: str, seed: int, work: Path, *, is_frozen: bool = False) -> Iterator[Fold]:
    """Yield the folds of a case, whose test patches are judged together; slides are made and tiled first.

    Frozen rows have the package's own settings in place of the ground's.
    """
    return _GROUNDS[ground][1](case, seed, work, is_frozen)


def _settings(ground: str, folder: Path, *, is_frozen: bool, threshold: float | None = None) -> TrainConfig:
    """Return what all rows of a ground share; `threshold` in place of the ground's."""
    own = SETTINGS[ground]
    own = own if threshold is None else own.model_copy(update={"threshold": threshold})
    return cohort_settings(folder, TrainConfig(frozen=True, threshold=own.threshold)) if is_frozen else own


def _demo(case: str, seed: int, work: Path, is_frozen: bool) -> Iterator[Fold]:
    """Yield the demo's synthetic cohort of the seed, at its own settings."""
    spec, folder = CohortSpec(), work / f"demo-{seed}"
    manifest = make_cohort(folder / "cohort", seed=seed, spec=spec)
    tile_cohort(manifest, folder, TileConfig(patch_px=spec.field_px))
    groups = form_groups(folder, GroupsConfig(thresholds=(0.25,)))
    config = _settings("demo", folder, is_frozen=is_frozen)
    train, val, test = (_patches(folder, groups[groups["split"] == name], config) for name in SPLITS)
    if (minority := MINORITIES[case]) is not None:
        train = train.rows(with_minority(train, minority, seed=seed))
    yield Fold(train, val, test, config, groups)


def _idc(case: str, _seed: int, work: Path, is_frozen: bool) -> Iterator[Fold]:
    """Yield two breast carcinoma slides of a patient each, without validation, as `pipelines/idc` has them."""
    folder = work / "idc"
    tile_cohort(MANIFESTS / "idc.csv", folder, TileConfig(patch_px=50, mpp=4.0))
    groups = form_groups(folder, GroupsConfig(thresholds=(0.75,)))
    config = _settings("idc", folder, is_frozen=is_frozen)
    train, test = (_patches(folder, groups[groups["patient_id"] == name], config) for name in case.split(" to "))
    yield Fold(train, None, test, config.model_copy(update=_LAST), groups)


def _ocdc(_case: str, _seed: int, work: Path, is_frozen: bool) -> Iterator[Fold]:
    """Yield the oral carcinoma fields: each in turn for testing, the others to train; two of them lack a group."""
    folder, manifest = work / "ocdc", MANIFESTS / "ocdc-fields.csv"
    tile_cohort(manifest, folder, TileConfig(patch_px=64))
    groups = form_groups(folder, GroupsConfig(thresholds=(0.5,)))
    config = _settings("ocdc", folder, is_frozen=is_frozen)
    for field in pd.read_csv(manifest)["slide_id"].tolist():
        is_test = groups["slide_id"] == field
        train, test = (_patches(folder, groups[chosen], config) for chosen in (~is_test, is_test))
        yield Fold(train, None, test, config, groups, inner_folds=_INNER)


def _lung(_case: str, seed: int, work: Path, is_frozen: bool) -> Iterator[Fold]:
    """Yield the images of lung as they are, split by source tile; cut where the smallest groups are largest."""
    folder = work / f"lung-images-{seed}"
    import_patches(Path(expand_variables("${PATHOPATCH_REAL_DATA}/lung")[0]), folder, TileConfig())
    groups = form_groups(folder, GroupsConfig(thresholds=(0.65,), split_seed=seed))
    config = _settings("lung images", folder, is_frozen=is_frozen)
    parts = (groups[groups["split"] == name] for name in SPLITS)
    train, val, test = (_patches(folder, rows, config, masks=("tissue",)) for rows in parts)
    yield Fold(train, val, test, config, groups)


def _ucsb(case: str, seed: int, work: Path, is_frozen: bool) -> Iterator[Fold]:
    """Yield the folds of the breast arrays: an image is a patient, an array a block."""
    folder, (how, threshold) = work / "ucsb_breast", case.rsplit(", ", 1)
    import_patches(_cut_ucsb(folder / "patches"), folder / "work", TileConfig())
    groups = form_groups(folder / "work", GroupsConfig(thresholds=_UCSB_THRESHOLDS))
    groups = groups.drop(columns=BLOCK) if how.endswith("image") else groups
    count = groups[BLOCK].nunique() if how.startswith("one array") else 5
    config = _settings("ucsb_breast", folder / "work", is_frozen=is_frozen, threshold=float(threshold))
    yield from _cross_validated(folder / "work", groups, config, seed=seed, count=count)


def _shg(_case: str, seed: int, work: Path, is_frozen: bool) -> Iterator[Fold]:
    """Yield the folds of the cores, all squares of each: without signal there is a group too."""
    folder = work / "shg_cores"
    tissue = TissueConfig(background="dark", method="fixed", fixed_threshold=0.02, min_speck_um2=0, max_hole_um2=0)
    cut = TileConfig(patch_px=256, tissue=tissue, intensity=IntensityConfig(windows={"SHG": (0, 255)}))
    tile_cohort(MANIFESTS / "shg-cores.csv", folder, cut)
    groups = form_groups(folder, GroupsConfig(thresholds=(0.02,), min_tissue=0))
    config = _settings("shg_cores", folder, is_frozen=is_frozen)
    yield from _cross_validated(folder, groups, config, seed=seed, count=7, min_tissue=0)


def _cross_validated(
    folder: Path,
    groups: pd.DataFrame,
    config: TrainConfig,
    *,
    seed: int,
    count: int,
    min_tissue: float = MIN_TISSUE,
) -> Iterator[Fold]:
    """Yield as many folds as are asked for, drawn by patient or block as the package draws them."""
    by = GroupsConfig(thresholds=(config.threshold,), split_seed=seed, min_tissue=min_tissue)
    tables = fold_tables(groups, by, folds=count)
    whole = _patches(folder, tables[0], config, masks=("tissue",))
    for number in range(1, count + 1):
        split = tables[number].set_index("patch_id")["split"].loc[whole.patch_id].to_numpy()
        train, val, test = (whole.rows(split == name) for name in SPLITS)
        yield Fold(train, val, test, config, tables[0], inner_folds=_INNER, min_tissue=min_tissue)


def _cut_ucsb(folder: Path) -> Path:
    """Cut the images into squares with their image's label, unless that is done; return the folder."""
    source, listed = Path(expand_variables("${PATHOPATCH_REAL_DATA}/ucsb_breast")[0]), folder / "patches.csv"
    if listed.is_file():
        return folder
    folder.mkdir(parents=True, exist_ok=True)
    rows = []
    for image in pd.read_csv(source / "images.csv").itertuples():
        pixels, name = cv2.imread(str(source / str(image.path))), Path(str(image.path)).stem
        assert pixels is not None
        for y in range(0, pixels.shape[0] - _UCSB_PX + 1, _UCSB_PX):
            for x in range(0, pixels.shape[1] - _UCSB_PX + 1, _UCSB_PX):
                path = f"{name}_{x}_{y}.png"
                cv2.imwrite(str(folder / path), pixels[y : y + _UCSB_PX, x : x + _UCSB_PX])
                rows.append((path, image.label, name, name, image.group))
    table = pd.DataFrame(rows, columns=["path", "label", "patient_id", "slide_id", BLOCK])
    table.to_csv(listed, index=False, lineterminator="\n")
    return folder


_GROUNDS: dict[str, tuple[tuple[str, ...], Callable[[str, int, Path, bool], Iterator[Fold]]]] = {
    "demo": (tuple(MINORITIES), _demo),
    "idc": (("14082 to 14306", "14306 to 14082"), _idc),
    "ocdc": (("each field in turn",), _ocdc),
    "lung images": (("as they are",), _lung),
    "ucsb_breast": (
        tuple(
            f"{how}, {threshold}"
            for how in ("one array in turn", "five folds by array", "five folds by image")
            for threshold in _UCSB_THRESHOLDS
        ),
        _ucsb,
    ),
    "shg_cores": (("seven folds by core",), _shg),
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
    held_gib = 0.0 if config.frozen else config.cache_gib  # features of a backbone are computed once
    by: dict[str, Any] = {"input_px": config.input_px, "threshold": config.threshold, "cache_gib": held_gib}
    return load_patches(folder, rows, splits=SPLITS, masks=masks, **by)
