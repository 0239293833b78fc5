"""What training returns, and where it keeps what it has so far."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn


@dataclass(frozen=True)
class Keep:
    """Where a run keeps its checkpoint, and of what configuration and inputs it is.

    Parameters
    ----------
    folder : Path
        Folder of the run.
    fingerprint : str
        A checkpoint of another fingerprint is not taken.
    """

    folder: Path
    fingerprint: str


@dataclass(frozen=True, kw_only=True, eq=False)
class Fitted:
    """A trained network and how it was picked.

    Parameters
    ----------
    network : nn.Module
        The picked weights, float32, on the processor, in evaluation mode.
    mean, std : tuple of float
        Of the training set, per channel, in the scale of [0, 1].
    step : int
        Steps of the last phase after which the picked weights stood.
    history : tuple of dict
        One row per evaluation.
    decision_threshold : float
        On z1 - z0.
    decision_chosen_for : str
        ``none``, ``wga``, or ``sensitivity 0.95``.
    temperature : float
        By which logits are divided before they become probabilities.
    validation : dict
        What all validation patches say that no phase learnt from, at that threshold and at 0; empty without validation.
    n_classes : int
        Classes of training and validation together, at least 2.
    learnt_from_val : tuple of str
        patch_id of the validation patches that a phase learnt from: of `dfr`, half of them.
    """

    network: nn.Module
    mean: tuple[float, ...]
    std: tuple[float, ...]
    step: int
    history: tuple[dict[str, Any], ...]
    decision_threshold: float
    decision_chosen_for: str
    temperature: float
    validation: dict[str, Any]
    n_classes: int
    learnt_from_val: tuple[str, ...] = ()
