"""What did the training patches look like? The ranges by which a patch of another slide is told to be unlike them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd

from pathopatch.files import inside, tiled_in
from pathopatch.models.spec import SeenRange
from pathopatch.provenance import read_table
from pathopatch.training.dataset import PatchSet

_ENDS = (0.1, 99.9)  # percentiles: one stray patch does not widen the range
_CHUNK = 256


def seen_range(work: Path, groups: pd.DataFrame, train: PatchSet) -> SeenRange:
    """Return between which values the means of the training patches' channels lie, and their least sharpness.

    Parameters
    ----------
    work : Path
        Work folder; where a slide's patch table has no sharpness, it is not known.
    groups : DataFrame
        The groups table: says which slide a patch is of.
    train : PatchSet
        What was trained on.
    """
    starts = range(0, len(train), _CHUNK)
    means = np.concatenate([train.read(slice(at, at + _CHUNK)).mean(axis=(2, 3)) for at in starts])  # (N, C)
    ends = np.percentile(means.astype(np.float64), _ENDS, axis=0).T  # (C, 2)
    return SeenRange(
        mean=tuple((float(low), float(high)) for low, high in ends), sharpness=_least_sharpness(work, groups, train)
    )


def _least_sharpness(work: Path, groups: pd.DataFrame, train: PatchSet) -> float | None:
    """Return what all but one in a thousand training patches exceed in sharpness."""
    mine = groups[groups["patch_id"].isin(train.patch_id)]
    found = []
    for slide in mine["slide_id"].unique():
        path = inside(tiled_in(work), "patches", f"{slide}.parquet")
        table = read_table(path) if path.is_file() else pd.DataFrame()
        if "sharpness" not in table:
            return None
        found.append(table.loc[table["patch_id"].isin(mine["patch_id"]), "sharpness"].to_numpy(np.float64))
    values = np.concatenate(found) if found else np.empty(0)
    return float(np.percentile(values, _ENDS[0])) if values.size else None
