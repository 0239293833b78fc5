"""List and run the cells of the benchmark: a ground, a case, a polarity, a seed and a row each."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray

from area_benchmark import natural
from area_benchmark.certificate import halved, moves
from area_benchmark.inputs import INPUTS
from area_benchmark.natural import MIN_TISSUE
from area_benchmark.settings import BenchmarkConfig, Case, Polarity, flat_settings
from pathopatch import metrics
from pathopatch.core.artefacts import fingerprint, read_table
from pathopatch.core.config import TrainConfig
from pathopatch.groups.attribute import tissue_bin
from pathopatch.training.crops import patches_with_crop
from pathopatch.training.dataset import PatchMasks, PatchSet, load_patches
from pathopatch.training.fit import fit_arrays
from pathopatch.training.result import TrainingResult

CONFLICTING: dict[Case, float] = {
    "30 %": 0.3,
    "15 %": 0.15,
    "5 %": 0.05,
    "1 %": 0.01,
    "0.2 %": 0.002,
    "0 %": 0.0,
    "0 %, none in validation": 0.0,
    "ceiling": 0.5,
}
"""Share of the training crops of each class that have the size of the other class."""
_COLUMNS = ("x", "label", "attribute", "tissue_fraction", "patient", "patch_id")


@dataclass(frozen=True)
class Cell:
    """One run; the seed is that of the cohort and of the training."""

    ground: str
    case: Case
    polarity: Polarity
    seed: int
    row: str

    @property
    def cohort(self) -> tuple[str, Polarity, int]:
        """What is made for it."""
        return self.ground, self.polarity, self.seed

    def key(self, config: BenchmarkConfig, settings: TrainConfig) -> str:
        """Return a key that changes with any setting of the cell, and with no new setting of the package."""
        own = flat_settings(settings)
        ground = config.grounds[self.ground].cohort.model_dump(mode="json")
        seen = {"input": config.inputs[self.row]} if self.row in config.inputs else {}
        return fingerprint({"cell": asdict(self), "train": own, "cohort": ground, "judged": config.thresholds} | seen)


def cells_of(config: BenchmarkConfig) -> list[Cell]:
    """Return all runs of the benchmark, each once."""
    cells = (
        Cell(part.ground, case, polarity, seed, row)
        for part in config.cells
        for case in part.cases
        for row in part.rows
        for seed in part.seeds or config.grounds[part.ground].seeds
        for polarity in part.polarities or config.grounds[part.ground].polarities
    )
    return list(dict.fromkeys(cells))


def load_inputs(folder: Path, cell: Cell, config: BenchmarkConfig, *, input_px: int) -> dict[str, PatchSet]:
    """Return what `load` returns, as the cell's row sees it."""
    sets = load(folder, cell.case, config, input_px=input_px)
    kind = config.inputs.get(cell.row)
    return INPUTS[kind](sets, seed=cell.seed) if kind else sets


def load(folder: Path, case: Case, config: BenchmarkConfig, *, input_px: int) -> dict[str, PatchSet]:
    """Return the patches of a cohort: train, val, test, and doubled, which follows the small ones of test."""
    cut = config.thresholds[0]
    sets = {name: _split(folder, "patches", name, input_px, cut) for name in ("train", "val", "test")}
    pair = np.arange(len(sets["train"])) // 2  # both sets have the same crops in the same order, in pairs of classes
    share = CONFLICTING[case]
    is_other = pair % 2 == 1 if case == "ceiling" else pair < round(share * len(pair) / 2)
    if is_other.any():
        sets["train"] = joined(
            sets["train"].rows(~is_other), _split(folder, "others", "train", input_px, cut).rows(is_other)
        )
    if case == "0 %, none in validation":
        val = sets["val"]
        sets["val"] = val.rows((val.tissue_fraction >= cut) == val.label)
    return sets | {"doubled": _split(folder, "doubled", "test", input_px, cut)}


def _split(folder: Path, name: str, split: str, input_px: int, cut: float) -> PatchSet:
    work = folder / f"work-{name}"
    table = read_table(work / "groups.parquet")
    patches = load_patches(work, table, input_px=input_px, splits=(split,), masks=("tissue",))
    return patches.with_attribute(tissue_bin(patches.tissue_fraction, (cut,), min_tissue=MIN_TISSUE))


def joined(first: PatchSet, second: PatchSet) -> PatchSet:
    """Return the patches of two sets, those of the first set first."""
    parts: dict[str, Any] = {name: np.concatenate([getattr(first, name), getattr(second, name)]) for name in _COLUMNS}
    for name in ("tissue", "tumor"):
        one, other = getattr(first, name), getattr(second, name)
        has_both = one is not None and other is not None
        parts[name] = PatchMasks(np.concatenate([one.bits, other.bits]), one.input_px) if has_both else None
    if first.has_tumor is not None and second.has_tumor is not None:
        parts["has_tumor"] = np.concatenate([first.has_tumor, second.has_tumor])
    return replace(first, **parts)


def run(cell: Cell, config: BenchmarkConfig, settings: TrainConfig, folder: Path) -> dict[str, Any]:
    """Train a cell's network, evaluate it on the test split, and return a row of plain values, shares in percent.

    Parameters
    ----------
    cell, config : Cell, BenchmarkConfig
        Which, and of what.
    settings : TrainConfig
        Of the row, with what its search found.
    folder : Path
        Where the cell's cohort was made.
    """
    torch.set_num_threads(1)
    sets = load_inputs(folder, cell, config, input_px=settings.input_px)
    fitted, train_seconds = timed(lambda: fit_arrays(sets["train"], sets["val"], settings))
    margin, seconds = timed(lambda: fitted.margins(sets["test"]))
    return {
        "key": cell.key(config, settings),
        **asdict(cell),
        "settings": json.dumps(settings.model_dump(mode="json", exclude_defaults=True), sort_keys=True),
        "crop_px": 0 if fitted.crops is None else fitted.crops.crop_px,
        "picked_step": fitted.step,
        "decision_threshold": fitted.decision_threshold,
        **{f"val_{name}": 100 * fitted.validation[name] for name in ("wga", "wga_at_zero", "gba")},
        **judged(answers(margin, sets["test"], fitted), config.thresholds),
        **certified(margin, sets, fitted, seed=cell.seed),
        "step_ms": 1000 * train_seconds / settings.steps,
        "predict_ms": 1000 * seconds / len(margin),
    }


def run_natural(ground: str, case: str, seed: int, row: str, config: BenchmarkConfig, work: Path) -> dict[str, Any]:
    """Train a row on every fold of a case on natural tissue, judge all test patches together, and return a row."""
    torch.set_num_threads(1)
    parts, halves, train_seconds, seconds, steps = [], [], 0.0, 0.0, 0
    for fold in natural.folds(ground, case, seed, work):
        settings = config.variant_of(row, fold.config, seed=seed)
        fitted, taken = timed(partial(fit_arrays, fold.train, fold.val, settings))
        margin, spent = timed(partial(fitted.margins, fold.test))
        train_seconds, seconds, steps = train_seconds + taken, seconds + spent, steps + settings.steps
        parts.append(answers(margin, fold.test, fitted))
        if (cut_test := halved(fold.test, seed=seed)) is not None:
            without, rows = cut_test
            halves.append((margin[rows], fitted.margins(without), fold.test.label[rows], fold.test.patient[rows]))
        cut = settings.threshold
    half = moves(*(np.concatenate(values) for values in zip(*halves, strict=True)))
    cost = 1000 * train_seconds / steps, 1000 * seconds / sum(map(len, parts))
    key = natural_key(ground, case, seed, row, config)
    return natural_row(key, (ground, case, seed, row), cut, judged(pd.concat(parts), (cut,)), half, cost)


def natural_key(ground: str, case: str, seed: int, row: str, config: BenchmarkConfig) -> str:
    """Return a key that changes with any setting of a run on natural tissue."""
    settings = config.variant_of(row, natural.SETTINGS[ground], seed=seed)
    own = flat_settings(settings)
    return fingerprint([ground, case, seed, row, own])


def natural_row(
    key: str,
    about: tuple[str, str, int, str],
    cut: float,
    measures: Mapping[str, float],
    half: tuple[float, ...] = (np.nan,) * 3,
    cost: tuple[float, float] = (np.nan, np.nan),
) -> dict[str, Any]:
    """Return a row of the table on natural tissue, whose columns are those of every ground."""
    return {
        "key": key,
        **dict(zip(("ground", "case", "seed", "row"), about, strict=True)),
        "threshold": cut,
        **{name.replace(f"@{cut:g}", ""): value for name, value in measures.items()},
        **dict(zip(("half", "half_low", "half_high"), half, strict=True)),
        **dict(zip(("step_ms", "predict_ms"), cost, strict=True)),
    }


def timed(make: Callable[[], Any]) -> tuple[Any, float]:
    """Return what a function returns, and the CPU-seconds that it took."""
    start = time.process_time()
    return make(), time.process_time() - start


def answers(margin: NDArray[np.float64], test: PatchSet, fitted: TrainingResult) -> pd.DataFrame:
    """Return `answers_of` a fitted network's margins (N,), with ``has_answer``."""
    made = answers_of(margin, test, threshold=fitted.decision_threshold, temperature=fitted.temperature)
    return made if fitted.crops is None else made.assign(has_answer=patches_with_crop(test, fitted.crops.crop_px))


def answers_of(margin: NDArray[np.float64], test: PatchSet, *, threshold: float, temperature: float) -> pd.DataFrame:
    """Return a row a test patch: margin, z (less the decision threshold), probability, label, tissue, has_answer."""
    z = margin - threshold
    columns = {"margin": margin, "z": z, "probability": 0.5 * (1 + np.tanh(z / temperature / 2)), "has_answer": True}
    return pd.DataFrame(columns | {"label": test.label, "tissue": test.tissue_fraction})


def judged(patches: pd.DataFrame, cuts: Sequence[float], *, min_tissue: float = MIN_TISSUE) -> dict[str, float]:
    """Return the measures on test patches, as `answers` returns them: tuned, at 0, and with no answer counted wrong.

    The first of `cuts` forms the groups that are given one by one, and the strata. At equal area only
    pairs within a fold are compared.
    """
    z, margin, y, tissue = (patches[name].to_numpy() for name in ("z", "margin", "label", "tissue"))
    answered = patches["has_answer"].to_numpy()
    numbers: dict[str, float] = {"answered": 100 * float(answered.mean())}
    for cut in cuts:
        a = tissue_bin(tissue, (cut,), min_tissue=min_tissue)
        scores = {"": z > 0, "_at_zero": margin > 0, "_no_answer_wrong": np.where(answered, z > 0, y == 0)}
        for ending, positive in scores.items():
            groups = metrics.group_accuracies(positive.astype(np.int64), y, a)
            numbers |= {f"wga@{cut:g}{ending}": 100 * float(np.nanmin(groups.accuracy))}
            numbers |= {f"gba@{cut:g}{ending}": 100 * float(np.nanmean(groups.accuracy))}
    attribute = tissue_bin(tissue, (cuts[0],), min_tissue=min_tissue)
    groups = metrics.group_accuracies((z > 0).astype(np.int64), y, attribute)
    numbers |= {f"group_{number}": 100 * value for number, value in enumerate(groups.accuracy.ravel().tolist())}
    fold = patches["fold"].to_numpy() if "fold" in patches else None
    at_equal_area = metrics.auroc_at_equal_area(z, y, tissue, stratum=fold, answered=answered)
    numbers |= {"auroc": metrics.auroc(z, y), "equal_area": at_equal_area.value}
    for value, name in enumerate(("little", "much")):
        numbers[f"auroc_{name}"] = metrics.auroc(z[attribute == value], y[attribute == value])
    probability = patches["probability"].to_numpy()
    slopes = [float(np.polyfit(tissue[y == c], probability[y == c], 1)[0]) for c in (0, 1)]
    return numbers | {"shift": sum(slopes) / 2, "spread": slopes[1] - slopes[0]}


def certified(
    margin: NDArray[np.float64], sets: Mapping[str, PatchSet], fitted: TrainingResult, *, seed: int
) -> dict[str, float]:
    """Return how far margins (N,) move where half of the tissue is cut, and where twice as much is uncovered."""
    test, doubled = sets["test"], sets["doubled"]
    cut = halved(test, seed=seed)
    assert cut is not None  # half of the patches are islands on ground
    without, rows = cut
    small = np.arange(0, len(test), 2)  # a crop at its small size, then at its large one
    changes = {
        "half": moves(margin[rows], fitted.margins(without), test.label[rows], test.patient[rows]),
        "double": moves(margin[small], fitted.margins(doubled), test.label[small], test.patient[small]),
    }
    return {
        f"{name}{ending}": value
        for name, ends in changes.items()
        for ending, value in zip(("", "_low", "_high"), ends, strict=True)
    }
