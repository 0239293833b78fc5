"""Find crops of labelled images that are nearly all tissue, and split them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from pathopatch.core.config import TissueConfig
from pathopatch.core.errors import ChannelMismatchError, InputUnsupportedError
from pathopatch.patches.import_list import common_spec, read_image, read_list
from pathopatch.patches.tissue_fit import fit_tissue

SPLITS = ("train", "val", "test")
_STEP_PX = 4  # grid of candidate places
_TISSUE = TissueConfig(min_speck_um2=0.0, max_hole_um2=0.0)  # in um2, but the scale is unknown


@dataclass(frozen=True, eq=False)
class Crops:
    """Crops that are nearly all tissue, one row per crop.

    Parameters
    ----------
    pixels : ndarray of uint8, shape (N, P, P, 3)
        As they are in the image.
    tissue : ndarray of bool, shape (N, P, P)
        Which pixels are tissue.
    label : ndarray of int64, shape (N,)
        1 tumour, 0 non-tumour.
    tile : ndarray of str, shape (N,)
        Source tile: what must not be split.
    """

    pixels: NDArray[np.uint8]
    tissue: NDArray[np.bool_]
    label: NDArray[np.int64]
    tile: NDArray[np.str_]

    @property
    def share(self) -> NDArray[np.float64]:
        """Share of tissue in each crop, shape (N,)."""
        return self.tissue.mean(axis=(1, 2))


def find_crops(source: Path, *, crop_px: int, apart_px: int, side_px: int, min_tissue: float) -> Crops:
    """Return crops of all labelled images of a set.

    Parameters
    ----------
    source : Path
        Folder or CSV as `pathopatch.patches.import_list.read_list` takes it; its patient_id is the source tile.
    crop_px, apart_px : int
        Side of a crop, and how far those of one image are apart, px of the image.
    side_px : int
        Side that crops are brought to.
    min_tissue : float
        Least share of tissue.

    Raises
    ------
    ChannelMismatchError
        The images are not uint8 RGB.
    """
    listed = read_list(source)
    listed = listed[listed["label"] >= 0]
    files = [Path(name) for name in listed["file"]]
    spec = common_spec(files)
    if not spec.is_rgb:
        raise ChannelMismatchError(f"images are {spec}", place=str(source), remedy="give RGB images of 8 bits")
    pixels, tissue, owner = [], [], []
    for number, file in enumerate(files):
        image = read_image(file, spec).astype(np.uint8, copy=False)
        mask = tissue_of(image)
        rng = np.random.default_rng(number)
        for x, y in places(mask, side_px=crop_px, apart_px=apart_px, min_tissue=min_tissue, rng=rng):
            rows, columns = slice(y, y + crop_px), slice(x, x + crop_px)
            pixels.append(_resized(image[:, rows, columns].transpose(1, 2, 0), side_px))
            tissue.append(_resized(mask[rows, columns].astype(np.float32), side_px) >= 0.5)
            owner.append(number)
    rows = listed.iloc[owner]
    return Crops(
        pixels=np.stack(pixels),
        tissue=np.stack(tissue),
        label=rows["label"].to_numpy(np.int64),
        tile=rows["patient_id"].to_numpy(dtype=str),
    )


def _resized(picture: NDArray[Any], side_px: int) -> NDArray[Any]:
    """Return a square picture at another size by area means."""
    return cv2.resize(np.ascontiguousarray(picture), (side_px, side_px), interpolation=cv2.INTER_AREA)


def tissue_of(image: NDArray[np.uint8]) -> NDArray[np.bool_]:
    """Return which pixels of a brightfield image (3, H, W) are tissue, (H, W)."""
    height, width = image.shape[1:]
    model = fit_tissue(
        image, polarities=("bright",) * 3, is_colour=True, config=_TISSUE, scale_x=1.0, scale_y=1.0, mpp=1.0
    )
    return model.patch_mask(image, 0, 0, 1.0, (width, height))


def places(
    mask: NDArray[np.bool_], *, side_px: int, apart_px: int, min_tissue: float, rng: np.random.Generator
) -> Iterator[tuple[int, int]]:
    """Yield (x, y) of squares with enough tissue, in random order.

    Random rather than the fullest first: the fullest of a class with much tissue would be fuller than the other's.

    Parameters
    ----------
    mask : ndarray of bool, shape (H, W)
        Tissue.
    side_px : int
        Side of the squares.
    apart_px : int
        Two squares are at least this far apart along x or along y.
    min_tissue : float
        Least share of tissue.
    rng : Generator
        Which come first.
    """
    if side_px > min(mask.shape):
        return
    total = cv2.integral(mask.astype(np.uint8))
    inner = total[side_px:, side_px:] - total[:-side_px, side_px:] - total[side_px:, :-side_px]
    tissue_px = (inner + total[:-side_px, :-side_px])[::_STEP_PX, ::_STEP_PX]
    is_free = tissue_px >= min_tissue * side_px**2
    reach = -(-apart_px // _STEP_PX) - 1
    for row, column in rng.permutation(np.argwhere(is_free)).tolist():
        if is_free[row, column]:
            top, left = max(0, row - reach), max(0, column - reach)
            is_free[top : row + reach + 1, left : column + reach + 1] = False
            yield column * _STEP_PX, row * _STEP_PX


def split_tiles(
    tile: NDArray[np.str_], label: NDArray[np.int64], shares: tuple[float, float, float], *, seed: int
) -> NDArray[np.str_]:
    """Return the split of each crop (N,); crops of a source tile stay together, and each class is split by `shares`.

    Crops of a label below 0 are in no split.
    """
    rng = np.random.default_rng((seed, 1))
    split = np.zeros(len(label), dtype="U5")
    for y in (0, 1):
        tiles = rng.permutation(np.unique(tile[label == y]))
        ends = np.round(np.cumsum(shares) / np.sum(shares) * len(tiles)).astype(int)
        for name, chosen in zip(SPLITS, np.split(tiles, ends[:-1]), strict=True):
            split[(label == y) & np.isin(tile, chosen)] = name
    return split


def matched(share: NDArray[np.float64], label: NDArray[np.int64], count: int, *, seed: int) -> NDArray[np.int64]:
    """Return `count` indices of each class, in pairs of nearly equal share of tissue: (count, 2), column = label.

    Crops of one class are mostly full and of the other mostly not quite: unmatched, the measured fraction would tell
    them apart within a size.

    Parameters
    ----------
    share : ndarray of float64, shape (N,)
        Share of tissue.
    label : ndarray of int64, shape (N,)
        Class.
    count : int
        Pairs wanted.
    seed : int
        Which of the scarcer class are taken, and which of equal ones of the other.

    Raises
    ------
    InputUnsupportedError
        A class has fewer crops.
    """
    rng = np.random.default_rng((seed, 2))
    of_class = [rng.permutation(np.flatnonzero(label == y)) for y in (0, 1)]
    sizes = [len(indices) for indices in of_class]
    if min(sizes) < count:
        raise InputUnsupportedError(
            f"{sizes[0]} crops of non-tumour and {sizes[1]} of tumour, {count} of each are needed",
            remedy="give more images, or lower min_tissue, side_px or the numbers of crops",
        )
    scarce = int(np.argmin(sizes))
    pairs = np.empty((count, 2), dtype=np.int64)
    pairs[:, scarce] = of_class[scarce][:count]
    other, is_free = of_class[1 - scarce], np.ones(sizes[1 - scarce], bool)
    for row, one in enumerate(pairs[:, scarce]):
        distance = np.where(is_free, np.abs(share[other] - share[one]), np.inf)
        nearest = int(np.argmin(distance))
        pairs[row, 1 - scarce], is_free[nearest] = other[nearest], False
    return pairs
