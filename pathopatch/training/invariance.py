"""Versions of patches whose tissue area was set, and how a frozen network's features answer to it.

A head that is solved with `[train] invariance` pays for the second moment of what the area does to the features of
training patches: nuisance attribute projection and within-class covariance normalisation are its relatives [1]_ [2]_.
No label and no group enters.

References
----------
.. [1] Solomonoff, Campbell, Boardman, "Advances in Channel Compensation for SVM Speaker Recognition", ICASSP 2005.
.. [2] Hatch, Kajarekar, Stolcke, "Within-Class Covariance Normalization for SVM-Based Speaker Recognition",
   Interspeech 2006.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from zlib import crc32

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from pathopatch.debias.interventions import KEPT, LEAST_AREA, EditedPatch, set_area
from pathopatch.training.dataset import PatchSet

Edits = tuple[tuple[float, float], ...]
"""Areas that are set, and the share of the patch that stays of its own tissue at most."""

EDITS: Edits = ((0.1, 1.0), (0.35, 1.0), (0.6, 1.0), (0.85, 1.0), (0.2, KEPT), (0.75, KEPT))
"""Versions of a patch, beside the patch as it is."""
POOL = 450
"""Patches of which versions are made: of 250 the second moment was within 16 % of that of 2,195 patches."""
_TENTHS = 10


def draw_pool(patches: PatchSet, count: int = POOL) -> NDArray[np.int64]:
    """Return sorted indices of patches whose area can be set, evenly over patients and tenths of the area.

    A patch comes before another of its patient and tenth by its name alone, so folds of a cohort draw nearly the same.
    """
    fraction = patches.tissue_fraction
    rows = np.flatnonzero(fraction >= LEAST_AREA)
    table = pd.DataFrame({"patient": patches.patient[rows], "tenth": (_TENTHS * fraction[rows]).astype(int)})
    table["draw"] = [crc32(str(name).encode()) for name in patches.patch_id[rows]]
    table = table.set_index(rows).sort_values("draw")
    table["turn"] = table.groupby(["patient", "tenth"]).cumcount()
    return np.sort(table.sort_values(["turn", "draw"]).index.to_numpy()[:count]).astype(np.int64)


def with_ground(
    patches: PatchSet, index: Sequence[int] | NDArray[np.int64]
) -> Iterator[tuple[NDArray[np.float32], NDArray[np.bool_], NDArray[np.float32] | None]]:
    """Yield the pixels (C, P, P) of each patch at `index`, its tissue (P, P), and ground (C, n) of its slide or None.

    The ground of a slide is that of its patch with least tissue.
    """
    assert patches.tissue is not None
    slide = patches.slide
    grounds: dict[str, NDArray[np.float32] | None] = {}
    for row in index:
        name = str(slide[row])
        if name not in grounds:
            members = np.flatnonzero(slide == name)
            clearest = members[np.argmin(patches.tissue_fraction[members])]
            clear = ~patches.tissue.read(slice(clearest, clearest + 1))[0]
            grounds[name] = patches.read(slice(clearest, clearest + 1))[0][:, clear] if clear.any() else None
        yield patches.read(slice(row, row + 1))[0], patches.tissue.read(slice(row, row + 1))[0], grounds[name]


def versions(patches: PatchSet, index: Sequence[int] | NDArray[np.int64], edits: Edits) -> Iterator[list[EditedPatch]]:
    """Yield the versions of each patch at `index`; none of a patch that is full of tissue on a slide without ground.

    Draws come from the patch's name and the edit.
    """
    for row, (pixels, tissue, ground) in zip(index, with_ground(patches, index), strict=True):
        if not tissue.any() or (tissue.all() and ground is None):
            yield []
            continue
        seed = crc32(str(patches.patch_id[row]).encode())
        yield [
            set_area(pixels, tissue, area, np.random.default_rng((seed, round(1000 * area))), kept=kept, ground=ground)
            for area, kept in edits
        ]


def second_moment(
    features: NDArray[np.floating], of_versions: NDArray[np.floating], std: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Return the second moment (D, D) of standardised features within patches, about each patch's mean.

    `features` (n, D) are of the patches as they are, `of_versions` (n, V, D) of their versions; NaN where there is
    none.
    """
    both = np.concatenate([features[:, None], of_versions], axis=1).astype(np.float64) / std
    known = np.isfinite(both[:, :, 0])
    both[~known] = 0
    both -= (both.sum(axis=1) / np.maximum(known.sum(axis=1), 1)[:, None])[:, None]
    moved = both[known]
    return np.asarray(moved.T @ moved / max(1, len(moved)))
