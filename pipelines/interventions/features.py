"""A linear head on frozen ImageNet features: compose, encode, train the head; on the cohorts of `../imposed-tissue`."""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression

from pathopatch import metrics
from pathopatch.debias.interventions import intervention_share
from pathopatch.evaluation.tissue_dependence import slope
from pathopatch.models.networks import build_network
from pathopatch.training.dataset import PatchSet
from pathopatch.training.intervene import COPIES_PER_CLASS, Intervention
from pathopatch.training.selection import best_temperature

IMPOSED = Path(__file__).resolve().parents[1] / "imposed-tissue"
sys.path.insert(0, str(IMPOSED))
from imposed_tissue import cells  # noqa: E402
from imposed_tissue.settings import load  # noqa: E402

SIDE_PX = 96
"""Side at which patches are encoded."""
STRENGTHS = (1e-5, 1e-4, 1e-3, 1e-2, 1e-1, 1.0)
"""Inverse L2 penalties of the head, of which validation picks one: resampling needs 1e-5, the ceiling 1e-2."""
_MEAN, _STD = 0.498, 0.502  # of the encoder's own training
_BATCH = 128

Features = NDArray[np.float32]


def name_of(polarity: str, conflicting: int) -> str:
    """Return the name of a case."""
    return f"{polarity}, {conflicting} of 1,000"


def rows(work: Path, *, polarity: Any, seed: int, conflicting: int) -> list[dict[str, Any]]:
    """Train heads by resampling, on composed copies and on both (auto), by erm, and the ceiling; return a row for each.

    `work` holds the cohorts of the study on imposed tissue; `conflicting` crops of each class have the other size.
    """
    config, folder = load(IMPOSED / "study.toml"), work / f"{polarity}-s{seed}"
    if not folder.is_dir():
        raise SystemExit(f"{folder} is missing: run {IMPOSED / 'run.sh'} first, or name its work folder by --imposed")
    torch.set_num_threads(1)
    start = time.perf_counter()
    encoder = build_network("tf_efficientnet_lite0", 3, pretrained="efficientnet-lite0").eval()
    cell = cells.Cell(polarity, seed, "erm", (0.5,), config.train.steps, conflicting)
    sets = cells.load(folder, cell, config)
    both = cells.load(folder, cells.Cell(polarity, seed, cells.CEILING, (0.5,), config.train.steps, 0), config)["train"]
    train, val, test, fair = (_natural(encoder, part) for part in (sets["train"], sets["val"], sets["test"], both))
    copies, copied = _composed(encoder, sets["train"], seed=seed)
    heads = {"ceiling": (fair, both.label, None), "intervene": (copies, copied, None)}
    if conflicting:
        balanced, share = _balancing(sets["train"]), intervention_share(conflicting)
        heads["resample"] = (train, sets["train"].label, balanced)
        weight = np.concatenate([(1 - share) * balanced / len(train), np.full(len(copies), share / len(copies))])
        both_labels = np.concatenate([sets["train"].label, copied])
        heads["auto"] = (np.concatenate([train, copies]), both_labels, weight * len(weight))
    heads["erm"] = (train, sets["train"].label, None)
    made = []
    for name, (x, label, weight) in heads.items():
        row: dict[str, Any] = {
            "ground": "features",
            "case": name_of(polarity, conflicting),
            "seed": seed,
            "method": name,
        }
        made.append(row | _judged(x, label, weight, val, sets["val"], test, sets["test"]))
    print(f"{polarity} seed {seed}: {time.perf_counter() - start:.0f} s", flush=True)
    return made


def _natural(encoder: torch.nn.Module, patches: PatchSet) -> Features:
    return np.concatenate(
        [_encoded(encoder, patches.read(slice(start, start + _BATCH))) for start in range(0, len(patches), _BATCH)]
    )


def _composed(encoder: torch.nn.Module, train: PatchSet, *, seed: int) -> tuple[Features, NDArray[np.int64]]:
    """Return the features and labels of all composed copies."""
    intervention = Intervention(train, share=1, seed=seed)
    label = np.repeat([0, 1], COPIES_PER_CLASS)
    features = []
    for start in range(0, len(label), _BATCH):
        numbers = range(start, min(start + _BATCH, len(label)))
        pixels = [intervention.compose(int(label[n]), n % COPIES_PER_CLASS).pixels for n in numbers]
        features.append(_encoded(encoder, np.stack(pixels)))
    return np.concatenate(features), label


def _encoded(encoder: Any, pixels: NDArray[np.float32]) -> Features:
    """Return the pooled features (n, D) of patches in [0, 1] (n, 3, P, P)."""
    x = torch.nn.functional.interpolate(torch.from_numpy(pixels), size=SIDE_PX, mode="bilinear")
    with torch.inference_mode():
        features = encoder.forward_head(encoder.forward_features((x - _MEAN) / _STD), pre_logits=True)
    return np.asarray(features.numpy(), dtype=np.float32)


def _balancing(patches: PatchSet) -> NDArray[np.float64]:
    """Return weights (N,) with which every group counts alike: the expectation of resampling."""
    group = 2 * patches.label + patches.attribute
    return np.asarray(1 / np.bincount(group)[group] * len(group) / len(np.unique(group)))


def _judged(
    x: Features,
    label: NDArray[np.int64],
    weight: NDArray[np.float64] | None,
    val: Features,
    val_set: PatchSet,
    test: Features,
    test_set: PatchSet,
) -> dict[str, Any]:
    """Fit the head, pick penalty and decision threshold by validation's WGA, and return its numbers on test."""
    centre, scale = x.mean(axis=0), x.std(axis=0) + 1e-6
    best: tuple[float, float, Any, float] | None = None
    for strength in STRENGTHS:
        head = LogisticRegression(C=strength, max_iter=500).fit((x - centre) / scale, label, sample_weight=weight)
        margin = head.decision_function((val - centre) / scale)
        threshold = metrics.best_decision_threshold(margin, val_set.label, val_set.attribute)
        wga = metrics.worst_group_accuracy((margin > threshold).astype(np.int64), val_set.label, val_set.attribute)
        if best is None or wga > best[0]:
            logits = np.column_stack([np.zeros(len(margin)), margin - threshold])
            best = wga, threshold, head, best_temperature(logits, val_set.label)
    assert best is not None
    z = (best[2].decision_function((test - centre) / scale) - best[1]) / best[3]
    y, share = test_set.label, test_set.tissue_fraction
    groups = metrics.group_accuracies((z > 0).astype(np.int64), y, test_set.attribute)
    probability = 0.5 * (1 + np.tanh(z / 2))
    return {
        "wga": 100 * float(np.nanmin(groups.accuracy)),
        "gba": 100 * float(np.nanmean(groups.accuracy)),
        "auroc": metrics.auroc(z, y),
        **{f"slope_{c}": slope(share[y == c], probability[y == c]) for c in (0, 1)},
    }
