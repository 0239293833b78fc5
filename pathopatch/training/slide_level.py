"""Train a slide classifier on slide labels: bags of patch features in, one logit a slide out."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from copy import deepcopy
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits

from pathopatch.core.config import SlideLevelConfig
from pathopatch.core.errors import GroupEmptyError, NoTissueError
from pathopatch.features.bags import Bag
from pathopatch.metrics import auroc, best_decision_threshold
from pathopatch.models.attention_pooling import SlideClassifier
from pathopatch.training.optimise import reproducible
from pathopatch.training.seeds import mixed_seed


@dataclass(frozen=True, kw_only=True, eq=False)
class FittedSlideClassifier:
    """A trained classifier, as it was at the epoch of the best validation."""

    network: SlideClassifier
    decision_threshold: float  # on the logit: the highest accuracy of the worse label in validation
    epoch: int  # from 1
    validation_auroc: float


def fit_slide_classifier(
    train: Sequence[Bag],
    val: Sequence[Bag],
    config: SlideLevelConfig,
    *,
    is_gated: bool,
    seed: int,
    progress: Callable[[int, int], None] | None = None,
) -> FittedSlideClassifier:
    """Train on some slides, and keep the epoch with the best AUROC on others; of equal ones that of the lowest loss.

    Both labels have the same weight in the loss. With one thread, equal bags and seeds give equal weights, whatever the
    order of the bags. The weights of the pooling are gated attention or, unless `is_gated`, all equal. `progress` is
    called with (epochs done, epochs in all). GroupEmptyError if a label is missing in `train` or in `val`,
    NoTissueError if a bag is empty.
    """
    train, val = (sorted(bags, key=lambda bag: bag.slide_id) for bags in (train, val))
    for name, bags in (("training", train), ("validation", val)):
        if len({bag.label for bag in bags}) < 2:
            raise GroupEmptyError(f"the {name} slides do not show both labels", remedy="use other splits")
    if empty := [bag.slide_id for bag in (*train, *val) if len(bag) == 0]:
        raise NoTissueError("a slide without patches", place=f"slide {empty[0]}", remedy="leave it out")
    generator = np.random.default_rng(mixed_seed(seed))
    with reproducible(config.threads, torch.device("cpu")):
        torch.manual_seed(mixed_seed(seed, 1))
        network = SlideClassifier(_dim(train[0]), config.hidden, is_gated=is_gated, dropout=config.dropout)
        network.mean, network.std = _moments(train, config.bag_patches, generator)
        optimizer = torch.optim.AdamW(
            network.parameters(), lr=config.learning_rate, weight_decay=config.weight_decay, fused=True
        )
        best: tuple[float, float] | None = None
        for epoch in range(1, config.epochs + 1):
            _train_epoch(network, optimizer, train, config, generator)
            logits, label = predict_logits(network, val), np.array([bag.label for bag in val])
            score = (auroc(logits, label), -_balanced_loss(logits, label))
            if best is None or score > best:
                if best is None or best[0] < 1:  # once all slides are in their place, the loss falls on for long
                    gained = epoch
                best, kept = score, (epoch, deepcopy(network), logits)
            if progress:
                progress(epoch, config.epochs)
            if epoch - gained >= config.patience:
                break
    epoch, network, logits = kept
    threshold = best_decision_threshold(logits, label, np.zeros(len(label), dtype=np.int64))
    assert best is not None  # there is at least one epoch
    return FittedSlideClassifier(
        network=network.eval(), decision_threshold=threshold, epoch=epoch, validation_auroc=best[0]
    )


def predict_logits(network: SlideClassifier, bags: Sequence[Bag]) -> NDArray[np.float64]:
    """Return the logit of each slide, (S,)."""
    return np.array([predict_slide(network, bag)[0] for bag in bags])


def predict_slide(network: SlideClassifier, bag: Bag) -> tuple[float, NDArray[np.float32]]:
    """Return a slide's logit, and the weight of each of its patches, (N,), by all of its patches."""
    network.eval()
    with torch.inference_mode():
        logit, weight = network(_tensor(bag.read(np.arange(len(bag)))))
    return float(logit), weight.numpy()


def _train_epoch(
    network: SlideClassifier,
    optimizer: torch.optim.Optimizer,
    bags: Sequence[Bag],
    config: SlideLevelConfig,
    generator: np.random.Generator,
) -> None:
    """Take the gradient steps of one pass over all slides, in a drawn order."""
    network.train()
    n_of_label = np.bincount([bag.label for bag in bags], minlength=2)
    order = generator.permutation(len(bags))
    for start in range(0, len(order), config.slides_per_step):
        step = [bags[place] for place in order[start : start + config.slides_per_step]]
        optimizer.zero_grad()
        for bag in step:
            logit, _ = network(_tensor(bag.read(_sample(len(bag), config.bag_patches, generator))))
            weight = len(bags) / (2 * n_of_label[bag.label] * len(step))
            # One bag at a time: the graph of all bags of a step would take their memory together.
            (weight * binary_cross_entropy_with_logits(logit, torch.tensor(float(bag.label)))).backward()
        optimizer.step()


def _sample(n: int, most: int, generator: np.random.Generator) -> NDArray[np.int64]:
    """Return the places of a bag's patches that a step sees, rising: all of them, or as many as allowed."""
    return np.arange(n) if n <= most else np.sort(generator.choice(n, most, replace=False))


def _moments(bags: Sequence[Bag], most: int, generator: np.random.Generator) -> tuple[Tensor, Tensor]:
    """Return mean and standard deviation (D,) of the patches of some bags, each slide with the same weight."""
    total, squares = np.zeros(_dim(bags[0])), np.zeros(_dim(bags[0]))
    for bag in bags:
        features = bag.read(_sample(len(bag), most, generator)).astype(np.float64)
        total += features.mean(axis=0)
        squares += (features**2).mean(axis=0)
    mean = total / len(bags)
    std = np.sqrt(np.maximum(squares / len(bags) - mean**2, 0))
    std[std < 1e-6 * (1 + np.abs(mean))] = 1.0  # a constant value tells nothing, and its rounding must not be scaled up
    return torch.from_numpy(mean.astype(np.float32)), torch.from_numpy(std.astype(np.float32))


def _balanced_loss(logits: NDArray[np.float64], label: NDArray[np.int64]) -> float:
    """Return the mean cross-entropy of logits (S,), both labels with the same weight."""
    loss = np.logaddexp(0, np.where(label == 1, -logits, logits))
    return float((loss[label == 0].mean() + loss[label == 1].mean()) / 2)


def _dim(bag: Bag) -> int:
    return int(bag.read(np.arange(min(1, len(bag)))).shape[1])


def _tensor(features: NDArray[np.floating]) -> Tensor:
    return torch.from_numpy(features.astype(np.float32))
