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
from pathopatch.training.selection import Standardizer, logits_of


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

    def logits(
        self, patches: PatchSet, index: NDArray[np.int64] | None = None, *, device: torch.device | None = None
    ) -> NDArray[np.float64]:
        """Return the logits (N, K) of patches, or of those at `index`; the default device is the processor."""
        device = device or torch.device("cpu")
        standardize = Standardizer(self.mean, self.std, device, has_mask=self.has_mask)
        index = np.arange(len(patches)) if index is None else index
        logits = logits_of(self.network.to(device), patches, index, standardize)
        self.network.cpu()
        return logits

    def margins(self, patches: PatchSet) -> NDArray[np.float64]:
        """Return z1 - z0 (N,) of patches: class 1 is above the decision threshold."""
        logits = self.logits(patches)
        return np.asarray(logits[:, 1] - logits[:, 0], dtype=np.float64)
