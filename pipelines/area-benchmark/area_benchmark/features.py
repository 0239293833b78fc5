"""Linear heads on frozen ImageNet features of the cohorts with an imposed area: whole patches, copies, and crops."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression

from area_benchmark.cells import answers_of, judged
from pathopatch import metrics
from pathopatch.debias.interventions import intervention_share
from pathopatch.models.interior import cut_crops
from pathopatch.models.networks import build_network
from pathopatch.training.dataset import PatchSet
from pathopatch.training.intervene import COPIES_PER_CLASS, Intervention
from pathopatch.training.phase_data import keep_crops, patches_with_crop
from pathopatch.training.selection import best_temperature

ROWS = ("erm", "resample", "subsample", "intervene", "auto", "interior erm", "ceiling")
SIDE_PX = 96
"""Side at which patches and crops are encoded."""
STRENGTHS = (1e-5, 1e-4, 1e-3, 1e-2, 1e-1, 1.0)
"""Inverse L2 penalties of the head, of which validation picks one: resampling needs 1e-5, the ceiling 1e-2."""
_MEAN, _STD = 0.498, 0.502  # of the encoder's own training
_BATCH = 128

Features = NDArray[np.float32]
Weighted = tuple[Features, NDArray[np.int64], NDArray[np.float64] | None]
"""Features (N, D), labels (N,) and weights (N,) that a head is fitted on."""


def rows(sets: Mapping[str, PatchSet], both: PatchSet, settings: Any, cuts: tuple[float, ...]) -> dict[str, Any]:
    """Return the measures of a head for each of `ROWS`: row -> measures.

    Parameters
    ----------
    sets : mapping
        train, val and test.
    both : PatchSet
        The training patches of the ceiling, half of which have the other size.
    settings : TrainConfig
        Seed, and how crops are chosen.
    cuts : tuple of float
        Thresholds of the tissue fraction; the first forms the groups.
    """
    torch.set_num_threads(1)
    encoder = build_network("tf_efficientnet_lite0", 3, pretrained="efficientnet-lite0").eval()
    train, val, test = (sets[name] for name in ("train", "val", "test"))
    features = {name: whole(encoder, patches) for name, patches in sets.items()}
    copies, copied = composed(encoder, train, seed=settings.seed)
    groups, balanced = 2 * train.label + train.attribute, balancing(train)
    picked = equal_groups(groups, seed=settings.seed)
    heads: dict[str, Weighted] = {
        "erm": (features["train"], train.label, None),
        "resample": (features["train"], train.label, balanced),
        "subsample": (features["train"][picked], train.label[picked], None),
        "intervene": (copies, copied, None),
        "auto": joined_with_copies(features["train"], train, copies, copied),
        "ceiling": (whole(encoder, both), both.label, None),
    }
    judge = partial(_judged, cuts=cuts)
    made = {name: judge(head, features["val"], val, features["test"], test) for name, head in heads.items()}
    kept, kept_val, choice, _ = keep_crops(train, val, settings)
    assert kept_val is not None
    inner = [_inner(encoder, patches, choice.crop_px) for patches in (kept, kept_val, test)]
    has_answer = patches_with_crop(test, choice.crop_px)
    head = inner[0], kept.label, None
    return made | {"interior erm": judge(head, inner[1], kept_val, inner[2], test, has_answer=has_answer)}


def whole(encoder: torch.nn.Module, patches: PatchSet) -> Features:
    """Return the features (N, D) of whole patches."""
    parts = (patches.read(slice(start, start + _BATCH)) for start in range(0, len(patches), _BATCH))
    return np.concatenate([_encoded(encoder, pixels) for pixels in parts])


def _inner(encoder: torch.nn.Module, patches: PatchSet, crop_px: int) -> Features:
    """Return the mean features of each patch's crops in tissue."""
    assert patches.tissue is not None
    means = []
    for start in range(0, len(patches), _BATCH):
        part = slice(start, start + _BATCH)
        tissue = patches.tissue.read(part)[:, None].astype(np.float32)
        crops, owner = cut_crops(np.concatenate([patches.read(part), tissue], axis=1), crop_px)
        features = np.concatenate([_encoded(encoder, crops[k : k + _BATCH]) for k in range(0, len(crops), _BATCH)])
        sums = np.zeros((owner.max() + 1, features.shape[1]), np.float32)
        np.add.at(sums, owner, features)
        means.append(sums / np.bincount(owner)[:, None])
    return np.concatenate(means)


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


def _judged(
    head: Weighted,
    val: Features,
    val_set: PatchSet,
    test: Features,
    test_set: PatchSet,
    *,
    cuts: tuple[float, ...],
    has_answer: NDArray[np.bool_] | bool = True,
) -> dict[str, Any]:
    """Fit the head, pick penalty and decision threshold by validation's WGA, and return its numbers on test."""
    found = fit_head(head, val, val_set)
    patches = answers_of(found.scores(test), test_set, threshold=found.threshold, temperature=found.temperature)
    return judged(patches.assign(has_answer=has_answer), cuts)


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
