"""Change the tissue area of test patches and see how far the logit moves, in units of the gap between the classes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from pathopatch.core.mask_bits import pack_masks
from pathopatch.debias.inpainting import inpaint
from pathopatch.debias.layers import cut_tissue, random_pixel
from pathopatch.metrics.bootstrap import bootstrap_by_patient
from pathopatch.training.dataset import PatchMasks, PatchSet

_LEAST_PX = 32  # tissue of a patch that is halved
_RIM_PX = 1.0


def halved(patches: PatchSet, *, seed: int) -> tuple[PatchSet, NDArray[np.int64]] | None:
    """Return patches without half of their tissue, cut by a random polygon, and their indices in the whole set.

    What was cut is filled with the patch's own ground; patches with hardly any tissue, or hardly any ground, are left
    out. None where that is all of them.
    """
    assert patches.tissue is not None
    pixels, masks, kept = [], [], []
    for index in range(len(patches)):
        tissue = patches.tissue.read(slice(index, index + 1))[0]
        area = int(tissue.sum())
        if area < _LEAST_PX or tissue.size - area < _LEAST_PX:
            continue
        rng = np.random.default_rng((seed, index))
        cut = cut_tissue(tissue, area // 2, random_pixel(tissue, rng), _RIM_PX, rng)
        own = patches.read(slice(index, index + 1))[0]
        ground = inpaint(own, tissue, tissue & (cut.cover == 1), rng)
        weight = cut.cover * tissue
        pixels.append(weight * own + (1 - weight) * ground)
        masks.append(cut.inside)
        kept.append(index)
    if not kept:
        return None
    rows = np.array(kept, np.int64)
    bits = PatchMasks(pack_masks(np.stack(masks)), patches.tissue.input_px)
    return replace(patches.rows(rows), x=np.stack(pixels).astype(np.float32), tissue=bits), rows


def moves(
    before: NDArray[np.float64], after: NDArray[np.float64], label: NDArray[np.int64], patient: NDArray[np.str_]
) -> tuple[float, float, float]:
    """Return the mean change of the margins (N,), and the ends of its 95 % interval over patients, in class gaps.

    The gap is the difference of the classes' mean margins before.
    """
    gap = before[label == 1].mean() - before[label == 0].mean()
    change = (after - before) / gap

    def mean(rows: NDArray[np.int64]) -> float:
        return float(change[rows].mean())

    measure: Callable[[NDArray[np.int64]], float] = mean
    low, high = bootstrap_by_patient(measure, patient, resamples=500, seed=0)
    return mean(np.arange(len(change))), low, high
