"""List and run the cells of the study: a polarity, a seed, a method and an attribute each."""

from __future__ import annotations

import itertools
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from imposed_tissue.ablations import changed
from imposed_tissue.settings import ImposedConfig, Polarity
from pathopatch import metrics
from pathopatch.core.artefacts import fingerprint, read_table
from pathopatch.core.config import TrainConfig, parse
from pathopatch.groups.attribute import tissue_bin
from pathopatch.training.dataset import PatchMasks, PatchSet, load_patches
from pathopatch.training.fit import fit_arrays

CEILING = "ceiling"
"""Not a method: erm on training crops with equal numbers of both sizes, so without the shortcut."""
_UNBIASED = "erm"
_SPLITS = ("train", "val", "test")
MIN_TISSUE = 0.01
"""Below it a patch is blank. None of these patches is."""
_COLUMNS = ("x", "label", "attribute", "tissue_fraction", "patient", "patch_id")


@dataclass(frozen=True)
class Cell:
    """One run.

    Parameters
    ----------
    polarity, seed : str, int
        The cohort; the seed drives the training too.
    method : str
        Row of the tables: as `pathopatch.debias.methods` names it, a name of ``of_method``, or `CEILING`.
    cuts : tuple of float
        Of the tissue fraction, which form the attribute that is trained and selected by: one, or those of the bins.
    steps : int
        Training steps of each phase.
    conflicting : int
        Training crops of each class with the size of the other class.
    is_val_biased : bool
        Whether validation lacks such crops.
    """

    polarity: Polarity
    seed: int
    method: str
    cuts: tuple[float, ...]
    steps: int
    conflicting: int
    is_val_biased: bool = False

    def key(self, config: ImposedConfig) -> str:
        """Return a key that changes with any setting of the cell."""
        # Without defaults: a new setting of the package makes no result stale.
        settings = train_config(self, config).model_dump(
            mode="json", exclude={"threads", "device"}, exclude_defaults=True
        )
        if (ablation := ablation_of(self, config)) is not None:
            settings["ablation"] = ablation
        shared_settings = {"cohort": config.cohort.model_dump(mode="json"), "judged": config.thresholds}
        return fingerprint({"cell": asdict(self), "train": settings, **shared_settings})


def cells_of(config: ImposedConfig) -> list[Cell]:
    """Return all runs of a study."""
    return [
        Cell(
            polarity=polarity,
            seed=seed,
            method=name,
            cuts=cuts,
            steps=config.train.steps * times,
            conflicting=config.cohort.conflicting if runs.conflicting is None else runs.conflicting,
            is_val_biased=runs.is_val_biased,
        )
        for runs in config.runs
        for cuts, times, seed, polarity, name in itertools.product(
            runs.cuts, runs.times, runs.seeds or config.seeds, runs.polarities or config.polarities, runs.methods
        )
    ]


def train_config(cell: Cell, config: ImposedConfig) -> TrainConfig:
    """Return the settings of a run."""
    method = {"method": _UNBIASED if cell.method == CEILING else cell.method}
    own = method | {key: value for key, value in config.of_method.get(cell.method, {}).items() if key != "ablation"}
    raw = config.train.model_dump() | {"threshold": cell.cuts[0], "seed": cell.seed, "steps": cell.steps} | own
    return parse(TrainConfig, raw, place=f"settings of {cell.method}")


def ablation_of(cell: Cell, config: ImposedConfig) -> str | None:
    """Return what is changed in a run's intervention; None for nothing."""
    return config.of_method.get(cell.method, {}).get("ablation")


def load(folder: Path, cell: Cell, config: ImposedConfig) -> dict[str, PatchSet]:
    """Return the patches of each split of a cohort with the cell's attribute; for the ceiling, of both sizes."""
    sets = _splits(work_of(folder, "patches"), cell, _SPLITS, input_px=config.train.input_px)
    pair = np.arange(len(sets["train"])) // 2  # both sets have the same crops in the same order, in pairs of classes
    is_other = (cell.conflicting <= pair) & (pair < config.cohort.conflicting)
    if cell.method == CEILING:
        is_other = pair % 2 == 1
    if is_other.any():
        other = _splits(work_of(folder, "others"), cell, ("train",), input_px=config.train.input_px)["train"]
        sets["train"] = joined(sets["train"].rows(~is_other), other.rows(is_other))
    if cell.is_val_biased:
        val = sets["val"]
        sets["val"] = val.rows((val.tissue_fraction >= config.thresholds[0]) == val.label)
    return sets


def work_of(folder: Path, name: str) -> Path:
    """Return the work folder of one of a cohort's two sets."""
    return folder / f"work-{name}"


def _splits(work: Path, cell: Cell, splits: Sequence[str], *, input_px: int) -> dict[str, PatchSet]:
    table, sets = read_table(work / "groups.parquet"), {}
    for split in splits:
        patches = load_patches(work, table, input_px=input_px, splits=(split,), masks=("tissue",))
        sets[split] = patches.with_attribute(tissue_bin(patches.tissue_fraction, cell.cuts, min_tissue=MIN_TISSUE))
    return sets


def joined(first: PatchSet, second: PatchSet) -> PatchSet:
    """Return the patches of two sets, those of the first set first."""
    parts = {name: np.concatenate([getattr(first, name), getattr(second, name)]) for name in _COLUMNS}
    tissue = None
    if first.tissue is not None and second.tissue is not None:
        tissue = PatchMasks(np.concatenate([first.tissue.bits, second.tissue.bits]), first.tissue.input_px)
    return replace(first, tissue=tissue, **parts)


def run(cell: Cell, config: ImposedConfig, folder: Path) -> dict[str, Any]:
    """Train a cell's network, evaluate it on the test split, and return a row of plain values.

    Parameters
    ----------
    cell : Cell
        Which.
    config : ImposedConfig
        The study.
    folder : Path
        Where the cohort of the cell's polarity and seed was tiled.
    """
    torch.set_num_threads(1)
    sets = load(folder, cell, config)
    start = time.perf_counter()
    with changed(ablation_of(cell, config)):
        fitted = fit_arrays(sets["train"], sets["val"], train_config(cell, config))
    seconds = time.perf_counter() - start
    margin = fitted.margins(sets["test"])
    scores = judged(margin - fitted.decision_threshold, sets["test"], config)
    plain = judged(margin, sets["test"], config)
    return {
        "key": cell.key(config),
        **asdict(cell),
        "picked_step": fitted.step,
        "decision_threshold": fitted.decision_threshold,
        "val_wga": fitted.validation["wga"],
        "val_gba": fitted.validation["gba"],
        "last_val_wga": fitted.history[-1]["val_wga"],
        **scores,
        **{f"{name}_at_zero": value for name, value in plain.items() if name.startswith(("wga", "gba"))},
        "auroc": metrics.auroc(margin, sets["test"].label),
        "seconds": round(seconds, 1),
    }


def judged(margin: NDArray[np.float64], patches: PatchSet, config: ImposedConfig) -> dict[str, Any]:
    """Return WGA and GBA, and accuracy and number of each group, at every threshold, of margins above 0.

    Parameters
    ----------
    margin : ndarray of float64, shape (N,)
        Less the decision threshold.
    patches : PatchSet
        Those that were judged.
    config : ImposedConfig
        Names the thresholds.
    """
    prediction = (margin > 0).astype(np.int64)
    scores: dict[str, Any] = {}
    for threshold in config.thresholds:
        a = tissue_bin(patches.tissue_fraction, (threshold,), min_tissue=MIN_TISSUE)
        groups = metrics.group_accuracies(prediction, patches.label, a)
        scores[f"wga@{threshold:g}"] = float(np.nanmin(groups.accuracy))
        scores[f"gba@{threshold:g}"] = float(np.nanmean(groups.accuracy))
        scores[f"groups@{threshold:g}"] = groups.accuracy.ravel().tolist()
        scores[f"n@{threshold:g}"] = groups.n.ravel().tolist()
    return scores
