"""Fit linear heads by scikit-learn on frozen ImageNet features of whole patches and of composed copies."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression

from pathopatch import metrics
from pathopatch.debias.interventions import intervention_share
from pathopatch.training.dataset import PatchSet
from pathopatch.training.intervene import COPIES_PER_CLASS, Intervention
from pathopatch.training.selection import best_temperature

SIDE_PX = 96
"""Side at which patches are encoded."""
STRENGTHS = (1e-5, 1e-4, 1e-3, 1e-2, 1e-1, 1.0)
"""Inverse L2 penalties of the head, of which validation picks one: resampling needs 1e-5, the ceiling 1e-2."""
_MEAN, _STD = 0.498, 0.502  # of the encoder's own training
_BATCH = 128

Features = NDArray[np.float32]
Weighted = tuple[Features, NDArray[np.int64], NDArray[np.float64] | None]
"""Features (N, D), labels (N,) and weights (N,) that a head is fitted on."""


def whole(encoder: torch.nn.Module, patches: PatchSet) -> Features:
    """Return the features (N, D) of whole patches."""
    parts = (patches.read(slice(start, start + _BATCH)) for start in range(0, len(patches), _BATCH))
    return np.concatenate([_encoded(encoder, pixels) for pixels in parts])


def joined_with_copies(x: Features, train: PatchSet, copies: Features, copied: NDArray[np.int64]) -> Weighted:
    """Return training patches and copies with their labels and weights."""
    fewest = int(np.bincount(2 * train.label + train.attribute, minlength=4).min())
    share = intervention_share(fewest)
    weight = np.concatenate([(1 - share) * balancing(train) / len(train), np.full(len(copies), share / len(copies))])
    return np.concatenate([x, copies]), np.concatenate([train.label, copied]), weight * len(weight)


def composed(encoder: torch.nn.Module, train: PatchSet, *, seed: int) -> tuple[Features, NDArray[np.int64]]:
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
    size = SIDE_PX, SIDE_PX
    images = [cv2.resize(patch.transpose(1, 2, 0), size, interpolation=cv2.INTER_LINEAR) for patch in pixels]
    x = torch.from_numpy(np.stack(images).transpose(0, 3, 1, 2).astype(np.float32))
    with torch.inference_mode():
        features = encoder.forward_head(encoder.forward_features((x - _MEAN) / _STD), pre_logits=True)
    return np.asarray(features.numpy(), dtype=np.float32)


def balancing(patches: PatchSet) -> NDArray[np.float64]:
    """Return weights (N,) with which every group counts alike: the expectation of resampling."""
    group = 2 * patches.label + patches.attribute
    return np.asarray(1 / np.bincount(group)[group] * len(group) / len(np.unique(group)))


def equal_groups(group: NDArray[np.int64], *, seed: int) -> NDArray[np.int64]:
    """Return rows with as many patches of every group as the smallest one has."""
    rng = np.random.default_rng(seed)
    members = [rng.permutation(np.flatnonzero(group == number)) for number in np.unique(group)]
    return np.concatenate([rows[: min(map(len, members))] for rows in members])


@dataclass(frozen=True, eq=False)
class Head:
    """A linear head, and what turns its scores into calibrated margins above 0 for tumour."""

    linear: LogisticRegression
    centre: Features  # (D,), as is scale
    scale: Features
    threshold: float = 0.0
    temperature: float = 1.0

    def scores(self, x: Features) -> NDArray[np.float64]:
        """Return the scores (N,) of features (N, D)."""
        return np.asarray(self.linear.decision_function((x - self.centre) / self.scale))

    def margins(self, x: Features) -> NDArray[np.float64]:
        """Return the calibrated margins (N,) of features (N, D)."""
        return (self.scores(x) - self.threshold) / self.temperature


def fit_head(
    head: Weighted,
    val: Features | None,
    val_set: PatchSet | None,
    *,
    strengths: Sequence[float] = STRENGTHS,
) -> Head:
    """Fit a head; validation's WGA picks penalty and threshold. Without validation there is one of `strengths`."""
    x, label, weight = head
    centre, scale = x.mean(axis=0), x.std(axis=0) + 1e-6
    best: tuple[float, Head] | None = None
    for strength in strengths:
        linear = LogisticRegression(C=strength, max_iter=500).fit((x - centre) / scale, label, sample_weight=weight)
        plain = Head(linear, centre, scale)
        if val is None or val_set is None:
            return plain
        margin = plain.scores(val)
        threshold = metrics.best_decision_threshold(margin, val_set.label, val_set.attribute)
        wga = metrics.worst_group_accuracy((margin > threshold).astype(np.int64), val_set.label, val_set.attribute)
        if best is None or wga > best[0]:
            logits = np.column_stack([np.zeros(len(margin)), margin - threshold])
            temperature = best_temperature(logits, val_set.label)
            best = wga, replace(plain, threshold=threshold, temperature=temperature)
    assert best is not None
    return best[1]
