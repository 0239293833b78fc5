"""Audit features in arrays: `pathopatch.features.audit`."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike

from pathopatch.core.errors import InputUnsupportedError, NonFiniteError
from pathopatch.features.confounder import cohort_indices

_THRESHOLDS = (0.25, 0.5)


def audit(
    features: ArrayLike,
    label: ArrayLike,
    tissue: ArrayLike,
    *,
    patient: ArrayLike | None = None,
    slide: ArrayLike | None = None,
) -> dict[str, Any]:
    """Return whether tissue area alone tells the label, and whether features follow it more than the label.

    Parameters
    ----------
    features : array_like of float, shape (N, D)
        One vector per patch.
    label : array_like of int, shape (N,)
        1 tumour, 0 non-tumour, -1 not labelled.
    tissue : array_like of float, shape (N,)
        Tissue fraction in [0, 1]; NaN where unknown.
    patient, slide : array_like, shape (N,), optional
        At least one of them; each stands in for the other. Patients are the unit of all intervals; neighbours of the
        same slide do not count.

    Returns
    -------
    dict
        ``verdict``, in words; ``is_flagged``; ``audit``, what `pathopatch.groups.audit` returns at the thresholds 0.25
        and 0.5; ``robustness``, what `pathopatch.features.confounder.cohort_indices` returns.

    Raises
    ------
    InputUnsupportedError
        Lengths differ, a label or a tissue fraction is out of range, or neither patient nor slide is given.
    NonFiniteError
        Features are NaN or infinite.

    Examples
    --------
    >>> rng = np.random.default_rng(0)
    >>> label, patient = np.arange(800) % 2, np.arange(800) // 40
    >>> tissue = np.clip(0.5 + 0.3 * label + rng.normal(0, 0.1, 800), 0, 1)
    >>> audit(rng.normal(size=(800, 4)), label, tissue, patient=patient)["is_flagged"]
    True
    """
    from pathopatch.groups import assign_groups, verdict_text
    from pathopatch.groups import audit as audit_groups

    vectors = np.asarray(features)
    columns = {
        "label": np.asarray(label),
        "tissue_fraction": np.asarray(tissue, np.float64),
        "patient_id": np.asarray(slide if patient is None else patient),
        "slide_id": np.asarray(patient if slide is None else slide),
    }
    _check(vectors, columns, has_unit=patient is not None or slide is not None)
    patches = pd.DataFrame(columns).astype({"label": np.int64, "patient_id": str, "slide_id": str})
    groups = assign_groups(patches.assign(patch_id=np.arange(len(patches))), _THRESHOLDS)
    numbers = audit_groups(groups, _THRESHOLDS)
    return {
        "verdict": verdict_text(numbers),
        "is_flagged": numbers["verdict"]["is_flagged"],
        "audit": numbers,
        "robustness": cohort_indices(groups, lambda rows: vectors[rows]),
    }


def _check(features: Any, columns: dict[str, Any], *, has_unit: bool) -> None:
    """Raise if arrays do not fit each other or hold values out of range."""
    if not has_unit:
        raise InputUnsupportedError(
            "neither patients nor slides are given",
            remedy="give patient or slide: patches of one patient resemble each other, and intervals must know it",
        )
    shapes = {"features": features.shape[:1], **{name: values.shape for name, values in columns.items()}}
    if features.ndim != 2 or len(set(shapes.values())) > 1:
        found = ", ".join(f"{name} {shape}" for name, shape in (shapes | {"features": features.shape}).items())
        raise InputUnsupportedError(
            f"arrays of the shapes {found}", remedy="give features (N, D) and N values of all else"
        )
    if not np.isfinite(features).all():
        raise NonFiniteError("features are NaN or infinite", remedy="leave those patches out")
    if not np.isin(columns["label"], (-1, 0, 1)).all():
        raise InputUnsupportedError(
            "labels other than 1, 0 and -1", remedy="give 1 tumour, 0 non-tumour, -1 unlabelled"
        )
    known = columns["tissue_fraction"][~np.isnan(columns["tissue_fraction"])]
    if ((known < 0) | (known > 1)).any():
        raise InputUnsupportedError("tissue fractions outside 0 to 1", remedy="give shares, not percent")
