"""What did the training patches look like? The ranges by which a patch of another slide is told to be unlike them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from pathopatch.core.artefacts import read_table
from pathopatch.core.files import inside, tiled_in
from pathopatch.models.spec import SeenRange
from pathopatch.training.dataset import PatchSet

_ENDS = (0.1, 99.9)  # percentiles: one stray patch does not widen the range
_TISSUE = (0.0, 0.01, 0.02, 0.05, 0.1, 0.2, 0.35, 0.5, 0.7, 0.9)  # patches between two of them are compared
_FEWEST = 200  # patches of which the least is told; fewer are taken together with those of more tissue
_CHUNK = 256


def seen_range(work: Path, groups: pd.DataFrame, train: PatchSet) -> SeenRange:
    """Return between which values the means of the training patches' channels lie, and their least sharpness.

    Parameters
    ----------
    work : Path
        Work folder; where a slide's patch table has no sharpness, it is not known.
    groups : DataFrame
        The groups table: says which slide a patch is of, and its tissue.
    train : PatchSet
        What was trained on.
    """
    starts = range(0, len(train), _CHUNK)
    means = np.concatenate([train.read(slice(at, at + _CHUNK)).mean(axis=(2, 3)) for at in starts])  # (N, C)
    ends = np.percentile(means.astype(np.float64), _ENDS, axis=0).T  # (C, 2)
    mean = tuple((float(low), float(high)) for low, high in ends)
    measured = _measured(work, groups, train)
    if measured is None:
        return SeenRange(mean=mean)
    tissue, sharpness = measured.to_numpy(np.float64).T
    return SeenRange(mean=mean, sharpness=_least(sharpness), sharpness_by_tissue=least_by_tissue(tissue, sharpness))


def least_by_tissue(
    tissue: NDArray[np.float64], sharpness: NDArray[np.float64]
) -> tuple[tuple[float, float], ...] | None:
    """Return (tissue fraction, least sharpness from there on to the next), rising; None where tissue is not known.

    A patch that is half glass shows half the detail, in focus as it may be: so it is compared with its like.

    Parameters
    ----------
    tissue, sharpness : ndarray of float64, shape (N,)
        Of patches that are in focus: their tissue fraction, and see `pathopatch.patches.intensity.sharpness`.
    """
    if not np.isfinite(tissue).all():
        return None
    parts: list[tuple[float, NDArray[np.float64]]] = []
    number = np.searchsorted(_TISSUE, tissue, side="right") - 1
    for start, values in ((each, sharpness[number == k]) for k, each in enumerate(_TISSUE)):
        if parts and len(parts[-1][1]) < _FEWEST:
            parts[-1] = parts[-1][0], np.concatenate([parts[-1][1], values])
        elif len(values):
            parts.append((start, values))
    if len(parts) > 1 and len(parts[-1][1]) < _FEWEST:
        (start, values), (_, last) = parts[-2:]
        parts[-2:] = [(start, np.concatenate([values, last]))]
    return tuple((start, _least(values)) for start, values in parts)


def _least(values: NDArray[np.float64]) -> float:
    """Return what all but one in a thousand values exceed."""
    return float(np.percentile(values, _ENDS[0]))


def _measured(work: Path, groups: pd.DataFrame, train: PatchSet) -> pd.DataFrame | None:
    """Return tissue_fraction and sharpness of the training patches; None if not measured, or if there are none."""
    mine = groups[groups["patch_id"].isin(train.patch_id)]
    found = []
    for slide in mine["slide_id"].unique():
        path = inside(tiled_in(work), "patches", f"{slide}.parquet")
        table = read_table(path) if path.is_file() else pd.DataFrame()
        if "sharpness" not in table:
            return None
        found.append(table[["patch_id", "sharpness"]])
    if not found:
        return None
    return mine.merge(pd.concat(found), on="patch_id", validate="1:1")[["tissue_fraction", "sharpness"]]
