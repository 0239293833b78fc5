"""Change what a row's network sees: patches with random rectangles erased, or their tissue masks alone."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from pathopatch.training.dataset import PatchSet

_COPIES = 8  # of each training patch, each with its own rectangle
_SHARES, _RATIOS = (0.02, 0.33), (0.3, 3.3)  # of the area, and height over width; half of the copies are erased


def erased(sets: Mapping[str, PatchSet], *, seed: int) -> dict[str, PatchSet]:
    """Return the sets with random erasing (Zhong et al., AAAI 2020) of the training patches, filled with noise."""
    many = sets["train"].rows(np.tile(np.arange(len(sets["train"])), _COPIES))
    pixels = many.read(slice(0, len(many))).copy()
    for number, patch in enumerate(pixels):
        rng = np.random.default_rng((seed, number))
        if rng.random() < 0.5:
            _erase(patch, rng)
    return {**sets, "train": replace(many, x=pixels)}


def _erase(patch: NDArray[np.float32], rng: np.random.Generator) -> None:
    side = patch.shape[-1]
    area, ratio = rng.uniform(*_SHARES) * side**2, np.exp(rng.uniform(*np.log(_RATIOS)))
    height, width = (min(side, max(1, round(length))) for length in (np.sqrt(area * ratio), np.sqrt(area / ratio)))
    top, left = rng.integers(side - height + 1), rng.integers(side - width + 1)
    patch[:, top : top + height, left : left + width] = rng.random((patch.shape[0], height, width), np.float32)


def masks_alone(sets: Mapping[str, PatchSet], *, seed: int) -> dict[str, PatchSet]:
    """Return the sets with the tissue mask in place of every channel: area and outline are all that there is."""
    return {name: _mask_alone(patches) for name, patches in sets.items()}


def _mask_alone(patches: PatchSet) -> PatchSet:
    assert patches.tissue is not None
    mask = patches.tissue.read(slice(0, len(patches)))[:, None].astype(np.float32)
    channels = patches.read(slice(0, 1)).shape[1]
    return replace(patches, x=np.repeat(mask, channels, axis=1))


INPUTS: Mapping[str, Callable[..., dict[str, PatchSet]]] = {"erased": erased, "masks alone": masks_alone}
"""What `[inputs]` of the benchmark may name."""
