"""How do several bundles speak with one voice? Members of one geometry, their mean, and how far they are apart."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pathopatch.errors import CheckpointIncompatibleError
from pathopatch.models.bundle import WEIGHTS, PatchClassifier, check_bundle, load_model
from pathopatch.models.spec import BundleSpec, SeenRange
from pathopatch.provenance import fingerprint_file

_OWN = {"architecture", "input_px", "mean", "std", "method", "schema_version"}
"""What the contracts of members may differ in: anything that a slide is not cut or scaled by."""


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


def check_bundles(folders: Sequence[Path]) -> BundleSpec:
    """Return what holds for one or more bundles together, before any weights are read.

    Parameters
    ----------
    folders : sequence of Path
        At least one.

    Raises
    ------
    CheckpointIncompatibleError
        As `Ensemble`, or two bundles hold one network: that is no second opinion, and no spread would ever tell.
    InputMissingError, InputCorruptError, CheckpointUnsafeError
        As `check_bundle`.
    """
    spec = joint_spec([check_bundle(folder) for folder in folders])
    of_weights: dict[str, Path] = {}
    for folder in folders if len(folders) > 1 else ():
        twin = of_weights.setdefault(fingerprint_file(folder / WEIGHTS), folder)
        if twin is not folder:
            raise CheckpointIncompatibleError(
                f"{twin} and {folder} hold the same weights", place="--model", remedy="name each model once"
            )
    return spec


def joint_spec(specs: Sequence[BundleSpec]) -> BundleSpec:
    """Return what holds for one or more models together; errors as of `Ensemble`."""
    first = specs[0]
    if len(first.class_names) != 2:
        raise CheckpointIncompatibleError(
            f"the model has classes {first.class_names}", place="class_names", remedy="use a model of two classes"
        )
    for one, other in combinations(specs, 2):
        _refuse_differences(one, other)
    return _joint(specs) if len(specs) > 1 else first


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


def _refuse_differences(one: BundleSpec, other: BundleSpec) -> None:
    """Raise if two members would have a slide cut or scaled differently."""
    kept = {**other.contract(), "min_tissue": other.min_tissue, "align": other.align}
    due = {**one.contract(), "min_tissue": one.min_tissue, "align": one.align}
    differing = [name for name in due if name not in _OWN and due[name] != kept.get(name)]
    if "auto" in (one.background, other.background):  # one of them takes slides of either kind
        differing = [name for name in differing if name != "background"]
    if differing:
        said = "; ".join(f"{name} is {due[name]!r} and {kept.get(name)!r}" for name in differing)
        raise CheckpointIncompatibleError(
            f"the members of the ensemble see different patches: {said}",
            place="--model",
            remedy="use bundles that were trained on patches cut and scaled alike",
        )


def _joint(specs: Sequence[BundleSpec]) -> BundleSpec:
    """Return what holds for the mean of several members.

    Each threshold is on its member's logit z1 - z0, the joint one on the mean of the logits over their temperatures.
    """
    changed = {
        "background": next((spec.background for spec in specs if spec.background != "auto"), "auto"),
        "decision_threshold": float(np.mean([spec.decision_threshold / spec.temperature for spec in specs])),
        "decision_chosen_for": ", ".join(dict.fromkeys(spec.decision_chosen_for for spec in specs)),
        "temperature": 1.0,
        "method": ", ".join(dict.fromkeys(spec.method for spec in specs)),
        "parameters": {"members": len(specs)},
        "group_metrics": {},
        "data": {},
        "seen": _seen_by_any([spec.seen for spec in specs]),
    }
    return specs[0].model_copy(update=changed)


def _seen_by_any(ranges: Sequence[SeenRange | None]) -> SeenRange | None:
    """Return the range that holds those of all members; None if one of them has none."""
    known = [each for each in ranges if each is not None]
    if len(known) < len(ranges):
        return None
    ends = np.array([each.mean for each in known])  # (M, C, 2)
    least = [each.sharpness for each in known if each.sharpness is not None]
    return SeenRange(
        mean=tuple(zip(ends[:, :, 0].min(axis=0).tolist(), ends[:, :, 1].max(axis=0).tolist(), strict=True)),
        sharpness=min(least) if len(least) == len(known) else None,
        sharpness_by_tissue=_least_of_any([each.sharpness_by_tissue for each in known]),
    )


def _least_of_any(bins: Sequence[tuple[tuple[float, float], ...] | None]) -> tuple[tuple[float, float], ...] | None:
    """Return the least sharpness of any member from each tissue fraction on; None if one of them knows none."""
    known = [np.array(each) for each in bins if each]  # (bins, 2) each
    if len(known) < len(bins):
        return None
    starts = np.unique(np.concatenate([each[:, 0] for each in known]))
    starts = starts[starts >= max(each[0, 0] for each in known)]  # with less tissue, one of them saw nothing
    of_each = [each[np.searchsorted(each[:, 0], starts, side="right") - 1, 1] for each in known]
    return tuple(zip(starts.tolist(), np.min(of_each, axis=0).tolist(), strict=True))
