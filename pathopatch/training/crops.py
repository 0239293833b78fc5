"""Crops that lie wholly in tissue, for training: their side, and the patches that have one."""

from __future__ import annotations

import warnings

import numpy as np
from numpy.typing import NDArray

from pathopatch.core.config import TrainConfig
from pathopatch.core.errors import InputUnsupportedError
from pathopatch.models.interior import BIN, CropChoice, choose_crop_px, has_crop, largest_crop_px
from pathopatch.training.dataset import PatchSet

_PER_CELL = 512  # patches of each class and bin of the tissue fraction by which the side is chosen
_AT_ONCE = 1024


def choose_crops(patches: PatchSet, config: TrainConfig) -> CropChoice:
    """Return the crops of a run: of ``config.interior``, or of the largest side that serves the patches."""
    if config.interior.crop_px is not None:
        return CropChoice(config.interior.crop_px, ())
    assert patches.tissue is not None
    bin_number = (patches.tissue_fraction / BIN).astype(np.int64)
    cell = bin_number * (1 + int(patches.label.max(initial=0))) + patches.label
    rng = np.random.default_rng(config.seed)
    index = np.sort(
        np.concatenate([rng.permutation(np.flatnonzero(cell == number))[:_PER_CELL] for number in np.unique(cell)])
    )
    largest = np.array([largest_crop_px(mask) for mask in patches.tissue.read(index)], np.int64)
    return choose_crop_px(largest, patches.label[index], patches.tissue_fraction[index])


def patches_with_crop(patches: PatchSet, crop_px: int, *, needed: int = 0) -> NDArray[np.bool_]:
    """Return which patches (N,) have a crop of that side; refuse the run if none of the first `needed` has."""
    assert patches.tissue is not None
    parts = [np.arange(start, min(start + _AT_ONCE, len(patches))) for start in range(0, len(patches), _AT_ONCE)]
    found = [has_crop(patches.tissue.read(part), crop_px) for part in parts]
    has_one = np.concatenate([np.empty(0, np.bool_), *found])
    if needed and not has_one[:needed].any():
        raise InputUnsupportedError(
            f"no training patch has a crop of {crop_px} px wholly in its tissue",
            place="[train.interior] crop_px",
            remedy="lower it, or leave it out",
        )
    return has_one


def keep_crops(train: PatchSet, config: TrainConfig) -> tuple[PatchSet, CropChoice]:
    """Return the training patches that have a crop, and the choice of crops.

    InputUnsupportedError where no side of a crop serves the training patches; a warning names those that it does not.
    """
    choice = choose_crops(train, config)
    for y, low, high in choice.left_out:
        warnings.warn(
            f"patches of class {y} with a tissue fraction of {low:.2f} to {high:.2f}: fewer than 95 % hold a crop of "
            "8 px that lies wholly in tissue; they have no part in the choice of the side, and those without a crop "
            "are left out",
            UserWarning,
            stacklevel=2,
        )
    return train.rows(patches_with_crop(train, choice.crop_px, needed=len(train))), choice
