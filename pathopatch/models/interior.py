"""Crops that lie wholly in tissue: the tissue area of what the network sees is constant, whatever the labels do.

The interior of a patch is its tissue without holes and without its rim. In training a network sees one random crop of
the interior; in prediction the logit of a patch is the mean over up to `CROPS` crops that lie far apart. Where they lie
is a function of the tissue mask alone.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from pathopatch.core.errors import InputUnsupportedError

Mask = NDArray[np.bool_]

CROPS = 8
"""Crops of a patch in prediction, at most."""
LEAST_CROP_PX = 8
FULL = 0.95
"""Least share of interior in a crop. Crops that may hold more glass tell its amount again."""
BIN = 0.1
"""Width of the bins of the tissue fraction in which the automatic crop is to be found."""
_SERVED = 0.95  # share of the patches of a class and bin that have a crop
_RIM = 1 / 64  # of the side, 1 px at least: pixels of the rim are half glass


def interior(tissue: Mask) -> NDArray[np.uint8]:
    """Return the interior (H, W), 0 or 1, of a tissue mask: holes filled, then eroded by a 64th of the side."""
    filled = np.zeros(tissue.shape, np.uint8)
    outlines, _ = cv2.findContours(tissue.astype(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
    cv2.drawContours(filled, outlines, -1, 1, cv2.FILLED)
    rim = rim_px(tissue.shape[0])
    return np.asarray(cv2.erode(filled, np.ones((2 * rim + 1, 2 * rim + 1), np.uint8)), np.uint8)


def rim_px(side_px: int) -> int:
    """Return how far a mask of some side is eroded, px."""
    return max(1, round(_RIM * side_px))


def crop_shares(inside: NDArray[np.uint8], crop_px: int) -> NDArray[np.float64]:
    """Return the share of interior (H - k + 1, W - k + 1) in every crop of k px, by its first row and column."""
    total = cv2.integral(inside)
    count = total[crop_px:, crop_px:] - total[:-crop_px, crop_px:] - total[crop_px:, :-crop_px]
    return np.asarray((count + total[:-crop_px, :-crop_px]) / crop_px**2, np.float64)


def has_crop(tissue: Mask, crop_px: int) -> Mask:
    """Return which patches (N,) have a crop in their interior; masks are (N, H, W)."""
    return np.array([bool((crop_shares(interior(mask), crop_px) >= FULL).any()) for mask in tissue], np.bool_)


def random_corner(tissue: Mask, crop_px: int, draw: float) -> tuple[int, int]:
    """Return row and column of a crop, by a number in [0, 1); of the fullest one where none lies in the interior."""
    shares = crop_shares(interior(tissue), crop_px)
    places = np.flatnonzero(shares >= FULL)
    place = int(places[int(draw * len(places))]) if len(places) else int(shares.argmax())
    row, column = divmod(place, int(shares.shape[1]))
    return row, column


def spread_corners(tissue: Mask, crop_px: int) -> NDArray[np.int64]:
    """Return rows and columns (n, 2) of up to `CROPS` crops; of the fullest one where none lies in the interior.

    The first is the nearest to the middle of all, each further one the farthest from those before.
    """
    shares = crop_shares(interior(tissue), crop_px)
    places = np.argwhere(shares >= FULL)
    if not len(places):
        return np.array([divmod(int(shares.argmax()), shares.shape[1])], np.int64)
    chosen = [int(((places - places.mean(axis=0)) ** 2).sum(axis=1).argmin())]
    distance = np.full(len(places), np.inf)
    while len(chosen) < CROPS:
        np.minimum(distance, ((places - places[chosen[-1]]) ** 2).sum(axis=1), out=distance)
        farthest = int(distance.argmax())
        if distance[farthest] == 0:
            break
        chosen.append(farthest)
    return places[chosen].astype(np.int64)


def cut_crops(x: NDArray[np.float32], crop_px: int) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Return the crops (M, C, k, k) of patches (N, C + 1, H, W), whose last channel is the mask, and each one's patch.

    The crops of a patch follow one another; the second array is (M,).
    """
    corners = [spread_corners(patch[-1] > 0.5, crop_px) for patch in x]
    patch_number = np.repeat(np.arange(len(x)), [len(found) for found in corners])
    crops = np.empty((len(patch_number), x.shape[1] - 1, crop_px, crop_px), np.float32)
    for crop, number, (row, column) in zip(crops, patch_number, np.concatenate(corners), strict=True):
        crop[:] = x[number, :-1, row : row + crop_px, column : column + crop_px]
    return crops, patch_number


@dataclass(frozen=True)
class CropChoice:
    """The side of crops that suits a set of patches, and the bins of the tissue fraction that it does not serve."""

    crop_px: int
    left_out: tuple[tuple[int, float, float], ...]  # class, and tissue fraction from and to, of cells without a crop


def largest_crop_px(tissue: Mask) -> int:
    """Return the largest even side of a crop in the interior of a mask (H, W); 0 where none has `LEAST_CROP_PX`."""
    inside = interior(tissue)
    sides = range(tissue.shape[0] - tissue.shape[0] % 2, LEAST_CROP_PX - 1, -2)
    return next((side for side in sides if (crop_shares(inside, side) >= FULL).any()), 0)


def choose_crop_px(
    largest: NDArray[np.int64], label: NDArray[np.int64], tissue_fraction: NDArray[np.float64]
) -> CropChoice:
    """Return the largest even side at which 95 % of the patches of each class and bin of the fraction have a crop.

    `largest` is `largest_crop_px` of each patch; all arrays are (N,). Cells that no side serves are left out.
    InputUnsupportedError where none is served.
    """
    start = float(tissue_fraction.min(initial=1.0))
    number = ((tissue_fraction - start + 1e-9) / BIN).astype(np.int64)
    sides: list[int] = []
    left_out: list[tuple[int, float, float]] = []
    for y, n in sorted(set(zip(label.tolist(), number.tolist(), strict=True))):
        is_member = (label == y) & (number == n)
        descending = np.sort(largest[is_member])[::-1]
        side = int(descending[int(np.ceil(_SERVED * len(descending))) - 1])
        if side:
            sides.append(side)
        else:
            left_out.append((y, start + BIN * n, min(1.0, start + BIN * (n + 1))))
    if not sides:
        raise InputUnsupportedError(
            f"no crop of {LEAST_CROP_PX} px lies wholly in the tissue of most patches",
            place="[train] mask",
            remedy="raise [train] input_px, tile larger patches, or use mask = 'normalise'",
        )
    return CropChoice(min(sides), tuple(left_out))
