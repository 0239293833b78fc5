"""Hold what a training run gives: the selected network, how it was selected, and its logits."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from pathopatch.core.config import TrainConfig
from pathopatch.models.forward import PatchClassifier
from pathopatch.models.interior import CropChoice
from pathopatch.models.spec import BackboneSpec
from pathopatch.training.dataset import PatchSet
from pathopatch.training.selection import DecisionThreshold, Standardizer, choose_threshold, logits_of


@dataclass(frozen=True, kw_only=True, eq=False)
class TrainingResult:
    """A trained network and how it was selected."""

    network: nn.Module  # the selected weights, float32, on the processor, in evaluation mode
    mean: tuple[float, ...]  # of the training set, per channel, in the scale of [0, 1]
    std: tuple[float, ...]
    step: int  # whose weights were selected
    history: tuple[dict[str, Any], ...]  # one row per evaluation
    decision_threshold: float  # on z1 - z0
    decision_chosen_for: str  # "none", "wga", or "sensitivity 0.95"
    temperature: float  # divides the logits before they become probabilities
    # Measures on all validation patches, at that threshold and at 0; may be empty.
    validation: dict[str, Any]
    n_classes: int  # of training and validation together, at least 2
    has_mask: bool = False  # whether the network takes the tissue mask as its last channel
    crops: CropChoice | None = None  # of ``mask = "interior"``
    # Training patches that were left out for that, and validation patches that count as wrong.
    without_crop: tuple[int, int] = (0, 0)
    settings: TrainConfig | None = None  # of a frozen network, with what validation chose
    # Of each patch of train and val, z1 - z0 by the frozen head that was solved without its inner fold; None without.
    inner_fold_logit: Mapping[str, float] | None = None
    backbone: BackboneSpec | None = None
    # Of a frozen network: refuses a bundle that answers some training patches otherwise than the head their features.
    compare: Callable[[PatchClassifier], None] | None = None
    largest_s: float | None = None  # of gerne on a frozen network: the bound, where it took the place of a larger s

    def logits(self, patches: PatchSet) -> NDArray[np.float64]:
        """Return the logits (N, K) of patches, computed on the processor."""
        standardize = Standardizer(self.mean, self.std, torch.device("cpu"), has_mask=self.has_mask)
        return logits_of(self.network, patches, np.arange(len(patches)), standardize)

    def margins(self, patches: PatchSet) -> NDArray[np.float64]:
        """Return z1 - z0 (N,) of patches: class 1 is above the decision threshold."""
        logits = self.logits(patches)
        return np.asarray(logits[:, 1] - logits[:, 0], dtype=np.float64)


def finish(
    network: nn.Module,
    config: TrainConfig,
    judged: tuple[NDArray[np.float64], PatchSet] | None,
    *,
    answered: NDArray[np.bool_] | None,
    is_composed: bool = False,
    **facts: Any,
) -> TrainingResult:
    """Return a trained network with the decision that its logits (N, K) of validation patches choose.

    `judged` are these logits and patches; without them the decision is at 0. `facts` are further fields of the result.
    """
    decision = DecisionThreshold()
    if judged is not None:
        decision = choose_threshold(
            *judged, tune_threshold=config.tune_threshold, sensitivity=config.sensitivity, answered=answered
        )
    return TrainingResult(
        network=network.cpu().eval().requires_grad_(False),
        decision_threshold=decision.threshold,
        decision_chosen_for=decision.chosen_for,
        temperature=decision.temperature,
        validation=decision.validation | ({"is_composed": True} if is_composed else {}),
        has_mask=config.mask != "none",
        **facts,
    )
