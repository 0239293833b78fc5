"""Leak controls: predict the class from anything but the texture, one property at a time, without the shortcut.

What is learnt here is learnt on every training crop at both of its sizes, so that the imposed shortcut is not in it and
whatever tells the classes apart on the test split is a leak.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from skimage.measure import label as pieces_of
from skimage.measure import regionprops
from sklearn.ensemble import RandomForestClassifier

from imposed_tissue.cells import MIN_TISSUE, joined, work_of
from imposed_tissue.cohort import SETS
from imposed_tissue.settings import ImposedConfig
from pathopatch import metrics
from pathopatch.core.artefacts import read_table
from pathopatch.groups.attribute import tissue_bin
from pathopatch.training.dataset import PatchSet, load_patches
from pathopatch.training.fit import fit_arrays

_HALF = 128  # of 255: a pixel is island from here on


def controls(folder: Path, config: ImposedConfig, *, seed: int) -> dict[str, tuple[float, float, float]]:
    """Return the AUROC of each property on the test split, with its 95 % interval over source tiles.

    Two rows are no suspects: the area on the training split is the shortcut itself, and the whole patch is what the
    same network learns in the same steps when the texture is in view.

    Parameters
    ----------
    folder : Path
        A cohort, written and tiled.
    config : ImposedConfig
        The study.
    seed : int
        Of the forest, the networks and the intervals.
    """
    both, biased = _load(folder, config)
    train, _, test = (both[split] for split in ("train", "val", "test"))
    forest = RandomForestClassifier(300, min_samples_leaf=5, random_state=seed)
    forest.fit(shapes(train.island), train.patches.label)
    pictures = {
        "mask alone": {split: as_mask(part.island) for split, part in both.items()},
        "background alone": {split: without_tissue(part.patches.x, part.island) for split, part in both.items()},
        "whole patch": {split: np.asarray(part.patches.x) for split, part in both.items()},
    }
    scores = {
        "area alone": test.patches.tissue_fraction,
        "island shape alone": forest.predict_proba(shapes(test.island))[:, 1],
        **{name: _learnt(both, x, config, seed) for name, x in pictures.items()},
    }
    aurocs = {name: _with_interval(score, test.patches, seed) for name, score in scores.items()}
    return {"area alone, in training": _with_interval(biased.tissue_fraction, biased, seed), **aurocs}


@dataclass(frozen=True, eq=False)
class _Split:
    """Patches of a split, and the islands (N, P, P) of their tissue."""

    patches: PatchSet
    island: NDArray[np.uint8]


def _load(folder: Path, config: ImposedConfig) -> tuple[dict[str, _Split], PatchSet]:
    """Return each split, training crops at both sizes, and the training split of the methods."""
    parts: dict[str, _Split] = {}
    for name in SETS:
        work = work_of(folder, name)
        table = read_table(work / "groups.parquet")
        islands = np.load(folder / name / "islands.npy")
        for split in table["split"].unique():
            patches = load_patches(work, table, input_px=config.train.input_px, splits=(split,))
            a = tissue_bin(patches.tissue_fraction, config.thresholds[:1], min_tissue=MIN_TISSUE)
            parts[f"{name} {split}"] = _Split(patches.with_attribute(a), islands[table["split"] == split])
    biased, other = parts["patches train"], parts["others train"]
    island = np.concatenate([biased.island, other.island])
    splits = {split: parts[f"patches {split}"] for split in ("val", "test")}
    return {"train": _Split(joined(biased.patches, other.patches), island), **splits}, biased.patches


def _learnt(
    splits: dict[str, _Split], x: dict[str, NDArray[np.float16]], config: ImposedConfig, seed: int
) -> NDArray[np.float64]:
    """Return z1 - z0 on the test split of a small network trained on these pictures (N, C, P, P)."""
    sets = {split: replace(part.patches, x=x[split]) for split, part in splits.items()}
    control_config = config.train.model_copy(
        update={"method": "erm", "steps": config.control_steps, "seed": seed, "evaluations": 4}
    )
    return fit_arrays(sets["train"], sets["val"], control_config).margins(sets["test"])


def _with_interval(score: NDArray[np.float64], patches: PatchSet, seed: int) -> tuple[float, float, float]:
    """Return the AUROC of a score, and the interval's ends when source tiles are drawn again."""
    low, high = metrics.bootstrap_by_patient(
        lambda index: metrics.auroc(score[index], patches.label[index]), patches.patient, seed=seed
    )
    return metrics.auroc(score, patches.label), low, high


def shapes(islands: NDArray[np.uint8]) -> NDArray[np.float64]:
    """Return shape features of each island: (N, 9).

    Share, pieces, share of the largest, and of that its eccentricity, solidity, perimeter and centre; how much of the
    patch's border is covered.
    """
    return np.array([_shape(island >= _HALF) for island in islands])


def _shape(mask: NDArray[np.bool_]) -> list[float]:
    border = np.concatenate([mask[0], mask[-1], mask[1:-1, 0], mask[1:-1, -1]])
    pieces = regionprops(pieces_of(mask))
    if not pieces:
        return [0.0] * 9
    largest = max(pieces, key=lambda piece: piece.area)
    descriptors = [largest.eccentricity, largest.solidity, largest.perimeter, *largest.centroid]
    return [mask.mean(), len(pieces), largest.area / mask.size, *descriptors, border.mean()]


def as_mask(islands: NDArray[np.uint8]) -> NDArray[np.float16]:
    """Return islands (N, P, P) as pictures of one channel, 0 or 1."""
    return (islands >= _HALF)[:, None].astype(np.float16)


def without_tissue(x: Any, islands: NDArray[np.uint8]) -> NDArray[np.float16]:
    """Return patches whose tissue, its rim and a pixel around are replaced by the mean of the rest.

    Parameters
    ----------
    x : ndarray of float, shape (N, C, P, P)
        Finished patches.
    islands : ndarray of uint8, shape (N, P, P)
        Where their tissue is.
    """
    masked = np.array(x, dtype=np.float32)
    for patch, island in zip(masked, islands, strict=True):
        is_hidden = cv2.dilate((island > 0).astype(np.uint8), np.ones((3, 3), np.uint8)) != 0
        shown = patch[:, ~is_hidden]  # (C, n)
        patch[:, is_hidden] = shown.mean(axis=1, keepdims=True) if shown.size else 0.0
    return masked.astype(np.float16)
