"""How do several bundles speak with one voice? Members of one geometry, their mean, and how far they are apart."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pathopatch.models.bundle import PatchClassifier, load_model
from pathopatch.models.joint_spec import check_bundles, joint_spec


@dataclass(frozen=True, eq=False)
class Voices:
    """What all members say of some patches.

    Parameters
    ----------
    logit : ndarray of float64, shape (N,)
        Of a single model z1 - z0; of several the mean of (z1 - z0) / temperature.
    probability : ndarray of float64, shape (N,)
        The sigmoid of the logit, of a single model over its temperature.
    spread : ndarray of float64, shape (N,)
        Standard deviation of the members' probabilities; NaN of a single model.
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
        Other than two classes, or members that differ in what a slide is cut and scaled by; the difference is named.

    Attributes
    ----------
    spec : BundleSpec
        What holds for all. Of several members the logit is the mean of their (z1 - z0) / temperature, so its own
        temperature is 1, and its decision threshold, in the same units, the mean of their decision thresholds /
        temperature. So a patch is of the second class if (logit - threshold) / temperature is above 0 on the mean.
    """

    def __init__(self, members: Sequence[PatchClassifier]) -> None:
        self.members = tuple(members)
        self.spec = joint_spec([member.spec for member in self.members])

    @property
    def precision(self) -> str:
        """The precision of each member, once where all have the same."""
        return "+".join(dict.fromkeys(member.precision for member in self.members))

    def prepared(self, scaled: NDArray[np.float32]) -> tuple[Tensor, ...]:
        """Return patches as each member's network takes them.

        Parameters
        ----------
        scaled : ndarray of float32, shape (N, C, p, p)
            In [0, 1].
        """
        return tuple(member.standardised(scaled) for member in self.members)

    def speak(self, prepared: Sequence[Tensor], *, tta: bool = False) -> Voices:
        """Return what the members say.

        Parameters
        ----------
        prepared : sequence of Tensor
            As `prepared` returns it.
        tta : bool
            Take each member's mean logit over the eight symmetries of the square.
        """
        margins = np.stack(
            [_margin(member, x, tta=tta) for member, x in zip(self.members, prepared, strict=True)]
        )  # (M, N)
        if len(self.members) == 1:
            nothing = np.full(margins.shape[1], np.nan)
            return Voices(margins[0], sigmoid(margins[0] / self.spec.temperature), nothing)
        calibrated = margins / np.array([[member.spec.temperature] for member in self.members])
        logit = calibrated.mean(axis=0)
        return Voices(logit, sigmoid(logit), sigmoid(calibrated).std(axis=0, ddof=1))


def load_ensemble(folders: Sequence[Path], *, device: str = "auto", precision: str = "auto") -> Ensemble:
    """Return the models of one or more bundles as one; arguments and errors as of `load_model` and `check_bundles`."""
    check_bundles(folders)
    return Ensemble([load_model(folder, device=device, precision=precision) for folder in folders])


def sigmoid(z: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return 1 / (1 + exp(-z)), without overflow."""
    return 0.5 * (1.0 + np.tanh(0.5 * z))


def _margin(member: PatchClassifier, x: Tensor, *, tta: bool) -> NDArray[np.float64]:
    """Return z1 - z0 of patches, shape (N,)."""
    seen = [turned for k in range(4) for turned in _both_sides(torch.rot90(x, k, (2, 3)))] if tta else [x]
    logits = np.mean([member.logits(each).astype(np.float64) for each in seen], axis=0)
    return np.asarray(logits[:, 1] - logits[:, 0])


def _both_sides(x: Tensor) -> tuple[Tensor, Tensor]:
    return x, torch.flip(x, (3,))
