"""Find what several bundles have in common, and refuse those that see different patches, without loading torch."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations
from pathlib import Path

import numpy as np

from pathopatch.core.artefacts import fingerprint_file
from pathopatch.core.errors import CheckpointIncompatibleError
from pathopatch.models.compatibility import WEIGHTS, check_bundle
from pathopatch.models.spec import BundleSpec, SeenRange

_OWN = {"architecture", "input_px", "mean", "std", "method", "schema_version"}
"""What the contracts of members may differ in: anything that a slide is not cut or scaled by."""


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
