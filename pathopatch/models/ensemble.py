"""Average the predictions of several models, and measure how far they disagree."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pathopatch.models.bundle import PatchClassifier, load_model
from pathopatch.models.compatibility import check_bundles, joint_spec


@dataclass(frozen=True, eq=False)
class EnsembleOutput:
    """Prediction of all members for some patches.

    Parameters
    ----------
    logit : ndarray of float64, shape (N,)
        z1 - z0 of a single model; of several models the mean of (z1 - z0) / temperature.
    probability : ndarray of float64, shape (N,)
        Sigmoid of the logit; of a single model, sigmoid of the logit over its temperature.
    spread : ndarray of float64, shape (N,)
        Standard deviation of the members' probabilities; NaN for a single model.
    """

    logit: NDArray[np.float64]
    probability: NDArray[np.float64]
    spread: NDArray[np.float64]


class Ensemble:
    """One or more models of two classes that see the same patches.

    Parameters
    ----------
    members : sequence of PatchClassifier
        At least one.

    Raises
    ------
    CheckpointIncompatibleError
        Other than two classes, or members that cut or scale a slide differently; the difference is named.

    Attributes
    ----------
    spec : BundleSpec
        Common to all members. The logit of several is the mean of (z1 - z0) / temperature, so the joint temperature is
        1. The joint decision threshold has the same unit: the mean of the members' thresholds / temperature.
    """

    def __init__(self, members: Sequence[PatchClassifier]) -> None:
        self.members = tuple(members)
        self.spec = joint_spec([member.spec for member in self.members])

    @property
    def precision(self) -> str:
        """The precision of each member; one word if all have the same."""
        return "+".join(dict.fromkeys(member.precision for member in self.members))

    def standardised(self, scaled: NDArray[np.float32]) -> tuple[Tensor, ...]:
        """Return patches in [0, 1] (N, C, p, p) as the input of each member's network."""
        return tuple(member.standardised(scaled) for member in self.members)

    def forward(self, inputs: Sequence[Tensor], *, tta: bool = False) -> EnsembleOutput:
        """Return the prediction of all members.

        Parameters
        ----------
        inputs : sequence of Tensor
            As `standardised` returns them, one per member.
        tta : bool
            Test-time augmentation: the mean logit over the eight symmetries of the square.
        """
        margins = np.stack(
            [_margin(member, x, tta=tta) for member, x in zip(self.members, inputs, strict=True)]
        )  # (M, N)
        if len(self.members) == 1:
            no_spread = np.full(margins.shape[1], np.nan)
            return EnsembleOutput(margins[0], sigmoid(margins[0] / self.spec.temperature), no_spread)
        # Calibrate before averaging: otherwise an overconfident member, with large logits, would dominate the mean.
        calibrated = margins / np.array([[member.spec.temperature] for member in self.members])
        logit = calibrated.mean(axis=0)
        return EnsembleOutput(logit, sigmoid(logit), sigmoid(calibrated).std(axis=0, ddof=1))


def load_ensemble(folders: Sequence[Path], *, device: str = "auto", precision: str = "auto") -> Ensemble:
    """Return the models of one or more bundles; arguments and errors are those of `load_model` and `check_bundles`."""
    check_bundles(folders)
    return Ensemble([load_model(folder, device=device, precision=precision) for folder in folders])


def sigmoid(z: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return 1 / (1 + exp(-z)), without overflow."""
    return 0.5 * (1.0 + np.tanh(0.5 * z))


def _margin(member: PatchClassifier, x: Tensor, *, tta: bool) -> NDArray[np.float64]:
    """Return z1 - z0 of patches, shape (N,)."""
    views = [x]
    if tta:
        rotated = (torch.rot90(x, k, (2, 3)) for k in range(4))
        views = [view for turned in rotated for view in (turned, torch.flip(turned, (3,)))]
    logits = np.mean([member.logits(view).astype(np.float64) for view in views], axis=0)
    return np.asarray(logits[:, 1] - logits[:, 0])
