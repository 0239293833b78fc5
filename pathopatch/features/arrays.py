"""Features of several slides as plain arrays, for notebooks and other code: read them, audit them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from pathopatch.core.errors import InputUnsupportedError
from pathopatch.features.readers import open_features
from pathopatch.features.slide_features import Encoder

_THRESHOLDS = (0.25, 0.5)


@dataclass(frozen=True, kw_only=True, eq=False)
class FeatureArrays:
    """Features of N patches of all slides of a folder, slide by slide; see `SlideFeatures`."""

    features: NDArray[Any]  # float16 or float32, (N, D)
    slide_id: NDArray[np.str_]  # (N,)
    # (N,): top-left corner of each patch in `unit`, from the corner of the scan; None: the files have no coordinates
    x: NDArray[np.float64] | None
    y: NDArray[np.float64] | None
    side: NDArray[np.float64]  # (N,), of each patch in `unit`; NaN where it is not known
    unit: Literal["px", "um"]  # level-0 pixels, or micrometres
    tissue_fraction: NDArray[np.float32] | None  # (N,), where the tool stored it for each slide
    encoder: Encoder
    layout: str  # the tool that wrote the files
    notes: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.features)


def read(path: Path | str, *, layout: str = "auto", mpp: float | None = None) -> FeatureArrays:
    """Return the features of all slides of a folder, or those of one file, as arrays.

    Parameters
    ----------
    path : Path or str
        As `open_features` takes it.
    layout : str
        The tool; by default it is recognised.
    mpp : float, optional
        Level-0 um/px of every slide. Micrometres stay such without it.

    Raises
    ------
    InputUnsupportedError
        Some slides have coordinates and others do not, or see `open_features`.
    PathopatchError
        See `open_features` and `SlideFolder.read`.

    Examples
    --------
    >>> from pathopatch import features
    >>> patches = features.read("features_uni_v2")  # doctest: +SKIP
    >>> patches.features.shape, patches.slide_id[0]  # doctest: +SKIP
    ((100000, 1536), 'TCGA-02-0001')
    """
    folder = open_features(Path(path), layout=layout)
    slides = [folder.read(slide_id) for slide_id in folder.slide_ids]
    slides = [slide if slide.unit == "um" and not (mpp or slide.mpp) else slide.in_level0_px(mpp) for slide in slides]
    first = slides[0]
    if any((slide.unit, slide.x is None) != (first.unit, first.x is None) for slide in slides):
        raise InputUnsupportedError(
            "some slides have coordinates in micrometres or none, others in pixels",
            place=str(path),
            remedy="state mpp, or read the slides one by one with open_features",
        )
    return FeatureArrays(
        features=np.concatenate([slide.features for slide in slides]),
        slide_id=np.repeat([slide.slide_id for slide in slides], [len(slide) for slide in slides]),
        x=_joined([slide.x for slide in slides]),
        y=_joined([slide.y for slide in slides]),
        side=np.repeat([slide.side or np.nan for slide in slides], [len(slide) for slide in slides]),
        unit=first.unit,
        tissue_fraction=_joined([slide.tissue_fraction for slide in slides]),
        encoder=first.encoder,
        layout=folder.layout,
        notes=tuple(dict.fromkeys(note for slide in slides for note in slide.notes)),
    )


def _joined(arrays: list[NDArray[Any] | None]) -> NDArray[Any] | None:
    given = [array for array in arrays if array is not None]
    return np.concatenate(given) if len(given) == len(arrays) else None


def audit(
    label: ArrayLike, tissue: ArrayLike, *, patient: ArrayLike | None = None, slide: ArrayLike | None = None
) -> dict[str, Any]:
    """Return whether tissue area alone tells the label of patches.

    Parameters
    ----------
    label : array_like of int, shape (N,)
        1 tumour, 0 non-tumour, -1 not labelled.
    tissue : array_like of float, shape (N,)
        Tissue fraction in [0, 1]; NaN where unknown.
    patient, slide : array_like, shape (N,), optional
        At least one of them; the other is taken for a missing one. Patients are the unit of all intervals.

    Returns
    -------
    dict
        ``verdict``, a text; ``is_flagged``; ``audit``, what `pathopatch.groups.audit` returns at the thresholds 0.25
        and 0.5.

    Raises
    ------
    InputUnsupportedError
        Lengths differ, a label or a tissue fraction is out of range, or neither patient nor slide is given.

    Examples
    --------
    >>> rng = np.random.default_rng(0)
    >>> label, patient = np.arange(800) % 2, np.arange(800) // 40
    >>> tissue = np.clip(0.5 + 0.3 * label + rng.normal(0, 0.1, 800), 0, 1)
    >>> audit(label, tissue, patient=patient)["is_flagged"]
    True
    """
    import pandas as pd

    from pathopatch.groups import assign_groups, verdict_text
    from pathopatch.groups import audit as audit_groups

    columns = {
        "label": np.asarray(label),
        "tissue_fraction": np.asarray(tissue, np.float64),
        "patient_id": np.asarray(slide if patient is None else patient),
        "slide_id": np.asarray(patient if slide is None else slide),
    }
    _check(columns, has_unit=patient is not None or slide is not None)
    patches = pd.DataFrame(columns).astype({"label": np.int64, "patient_id": str, "slide_id": str})
    groups = assign_groups(patches.assign(patch_id=np.arange(len(patches))), _THRESHOLDS)
    numbers = audit_groups(groups, _THRESHOLDS)
    return {
        "verdict": verdict_text(numbers),
        "is_flagged": numbers["verdict"]["is_flagged"],
        "audit": numbers,
    }


def _check(columns: dict[str, Any], *, has_unit: bool) -> None:
    """Raise if arrays do not fit each other or hold values out of range."""
    if not has_unit:
        raise InputUnsupportedError(
            "neither patients nor slides are given",
            remedy="give patient or slide: patches of one patient resemble each other, and intervals must know it",
        )
    shapes = {name: values.shape for name, values in columns.items()}
    if len(set(shapes.values())) > 1:
        found = ", ".join(f"{name} {shape}" for name, shape in shapes.items())
        raise InputUnsupportedError(f"arrays of the shapes {found}", remedy="give one value of each per patch")
    if not np.isin(columns["label"], (-1, 0, 1)).all():
        raise InputUnsupportedError(
            "labels other than 1, 0 and -1", remedy="give 1 tumour, 0 non-tumour, -1 unlabelled"
        )
    known = columns["tissue_fraction"][~np.isnan(columns["tissue_fraction"])]
    if ((known < 0) | (known > 1)).any():
        raise InputUnsupportedError("tissue fractions outside 0 to 1", remedy="give shares, not percent")
