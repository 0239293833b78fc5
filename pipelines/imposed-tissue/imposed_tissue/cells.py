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

from imposed_tissue.settings import ImposedConfig, Polarity
from pathopatch import metrics
from pathopatch.core.artefacts import fingerprint, read_table
from pathopatch.core.config import TrainConfig, parse
from pathopatch.debias.methods import method
from pathopatch.groups.attribute import tissue_bin
from pathopatch.training.dataset import PatchSet, load_patches
from pathopatch.training.fit import TrainingResult, fit_arrays
from pathopatch.training.phase_data import needs_groups
from pathopatch.training.selection import Standardizer, logits_of

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
        As `pathopatch.debias.methods` names it, or `CEILING`.
    cuts : tuple of float
        Of the tissue fraction, which form the attribute that is trained and selected by: one, or those of the bins.
    steps : int
        Training steps of each phase.
    """

    polarity: Polarity
    seed: int
    method: str
    cuts: tuple[float, ...]
    steps: int

    def key(self, config: ImposedConfig) -> str:
        """Return a key that changes with any setting of the cell."""
        settings = train_config(self, config).model_dump(mode="json", exclude={"threads", "device"})
        shared_settings = {
            "cohort": config.cohort.model_dump(mode="json"),
            "judged": config.thresholds,
            "bins": config.bins,
        }
        return fingerprint({"cell": asdict(self), "train": settings, **shared_settings})


def cells_of(config: ImposedConfig) -> list[Cell]:
    """Return all runs of a study, attribute by attribute.

    A method that needs no groups is trained once, by the first threshold; erm is trained longer at the end.
    """
    first, *others = [(threshold,) for threshold in config.thresholds]
    cohorts = list(itertools.product(config.seeds, config.polarities))
    by_groups = [name for name in config.methods if any(needs_groups(phase) for phase in method(name))]
    cells = [Cell(p, s, name, first, config.train.steps) for s, p in cohorts for name in (CEILING, *config.methods)]
    for cuts in [config.bins] * bool(config.bins) + others:
        cells += [Cell(p, s, name, cuts, config.train.steps) for s, p in cohorts for name in by_groups]
    longer = [config.train.steps * factor for factor in config.longer]
    return cells + [Cell(p, s, _UNBIASED, first, steps) for steps in longer for s, p in cohorts]


def train_config(cell: Cell, config: ImposedConfig) -> TrainConfig:
    """Return the settings of a run."""
    name = _UNBIASED if cell.method == CEILING else cell.method
    changed = {"method": name, "threshold": cell.cuts[0], "seed": cell.seed, "steps": cell.steps}
    raw = config.train.model_dump() | config.of_method.get(cell.method, {}) | changed
    return parse(TrainConfig, raw, place=f"settings of {cell.method}")


def load(folder: Path, cell: Cell, config: ImposedConfig) -> dict[str, PatchSet]:
    """Return the patches of each split of a cohort with the cell's attribute; for the ceiling, of both sizes."""
    sets = _splits(work_of(folder, "patches"), cell, config, _SPLITS)
    if cell.method == CEILING:
        other = _splits(work_of(folder, "others"), cell, config, ("train",))["train"]
        is_first = np.arange(len(other)) % 4 < 2  # both sets have the same crops in the same order, in pairs of classes
        sets["train"] = joined(_rows(sets["train"], is_first), _rows(other, ~is_first))
    return sets


def work_of(folder: Path, name: str) -> Path:
    """Return the work folder of one of a cohort's two sets."""
    return folder / f"work-{name}"


def _splits(work: Path, cell: Cell, config: ImposedConfig, splits: Sequence[str]) -> dict[str, PatchSet]:
    table, sets = read_table(work / "groups.parquet"), {}
    for split in splits:
        patches = load_patches(work, table, input_px=config.train.input_px, splits=(split,))
        sets[split] = patches.with_attribute(tissue_bin(patches.tissue_fraction, cell.cuts, min_tissue=MIN_TISSUE))
    return sets


def joined(first: PatchSet, second: PatchSet) -> PatchSet:
    """Return the patches of two sets, those of the first set first."""
    parts = {name: np.concatenate([getattr(first, name), getattr(second, name)]) for name in _COLUMNS}
    return replace(first, **parts)


def _rows(patches: PatchSet, chosen: NDArray[np.bool_]) -> PatchSet:
    return replace(patches, **{name: getattr(patches, name)[chosen] for name in _COLUMNS})


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
    fitted = fit_arrays(sets["train"], sets["val"], train_config(cell, config))
    seconds = time.perf_counter() - start
    margin = margins_of(fitted, sets["test"])
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


def margins_of(fitted: TrainingResult, patches: PatchSet) -> NDArray[np.float64]:
    """Return z1 - z0 of all patches."""
    standardised = Standardizer.of(fitted.mean, fitted.std, torch.device("cpu"))
    logits = logits_of(fitted.network, patches, np.arange(len(patches)), standardised)  # (N, 2)
    return np.asarray(logits[:, 1] - logits[:, 0])


def judged(margin: NDArray[np.float64], patches: PatchSet, config: ImposedConfig) -> dict[str, Any]:
    """Return WGA and GBA at every threshold, and accuracy and number of each (label, bin), of margins above 0.

    Parameters
    ----------
    margin : ndarray of float64, shape (N,)
        Less the decision threshold.
    patches : PatchSet
        Those that were judged.
    config : ImposedConfig
        Names thresholds and bins.
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
    bins = metrics.group_accuracies(
        prediction, patches.label, tissue_bin(patches.tissue_fraction, config.bins, min_tissue=MIN_TISSUE)
    )
    return {**scores, "bins": bins.accuracy.ravel().tolist(), "n_bins": bins.n.ravel().tolist()}
