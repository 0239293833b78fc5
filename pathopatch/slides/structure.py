"""Tell whether two slides show one picture, whatever their files' bytes: compare the structure of their overviews.

A structure is a small grey picture as text. Two are alike where they correlate after the smooth part of the picture,
such as the falling light of a lamp, is removed. Blank pictures, and those of a few plain shapes, are like none.
"""

from __future__ import annotations

import base64
from collections.abc import Iterator, Sequence
from functools import lru_cache

import cv2
import numpy as np
from numpy.typing import NDArray

_SIDE = 32  # px of the picture; the first comparison is at half of it
# Of 4,502 real images two different ones correlated by .59 at most. The same one, saved as JPEG of quality 30 to 90,
# did by .9995, and by .996 in detail; lossless compression and other tiles change nothing.
_ALIKE = 0.999  # correlation at 16 px
_ALIKE_IN_DETAIL = 0.99  # at 32 px, without the smooth part: two small pieces of tissue may fill the same large pixels
_SAME_SHAPE = 0.02  # of width over height
_CONSTANT = 0.02  # of the largest value: a smaller standard deviation is noise
# Two pictures of one rectangle or disc may well be of two slides. The rank tells: beyond rank 4, real pictures had .16
# of their energy and more, a disc .11, noise with a rectangle .02.
_PLAIN_RANK = 4
_LEAST_RICH = 0.13
_DEGREE = 4  # of the polynomial that is the smooth part
_BLOCK = 1024
_MARK_BITS = 512
_MARK_DISTANCE = 24  # bits in which the marks of two structures may differ: about correlation .99


def structure_of(overview: NDArray[np.generic], valid: NDArray[np.bool_] | None = None) -> str:
    """Return the structure of a slide's overview (C, h, w) of any real type, "" where it is next to constant or plain.

    `valid` (h, w) are the pixels that were scanned; the others count as their mean.
    """
    small = np.zeros((_SIDE, _SIDE), np.float32)
    # One step of whole numbers is no structure: a dark slide has rings of them.
    least = 1 / _CONSTANT if overview.dtype.kind in "iu" else 0.0
    with np.errstate(over="ignore"):
        planes = overview.astype(np.float32)
    for plane in planes:
        plane[~np.isfinite(plane)] = 0.0
        if valid is not None and not valid.all():
            plane[~valid] = plane[valid].mean() if valid.any() else 0.0
        largest = max(float(np.abs(plane).max()), least) or 1.0
        part = cv2.resize(plane / largest, (_SIDE, _SIDE), interpolation=cv2.INTER_AREA)
        if _rough(part[None]).std() > _CONSTANT:
            small += part
    energy = np.linalg.svd(_rough(small[None]).reshape(small.shape), compute_uv=False) ** 2
    if energy[_PLAIN_RANK:].sum() <= _LEAST_RICH * energy.sum():
        return ""
    low, high = small.min(), small.max()
    return base64.b64encode(np.rint((small - low) * (255 / (high - low))).astype(np.uint8).tobytes()).decode()


def alike_pairs(structures: Sequence[str], shapes: Sequence[float]) -> Iterator[tuple[int, int]]:
    """Yield the places (i, j), i < j, of all pairs of alike structures; "" is like none.

    `shapes` are width over height of each. The correlations of 10,000 structures take about a second.
    """
    nonblank = np.array([place for place, text in enumerate(structures) if text], np.int64)
    if len(nonblank) < 2:
        return
    small = np.stack([_picture(structures[place]) for place in nonblank])
    coarse = _unit(small.reshape(len(small), _SIDE // 2, 2, _SIDE // 2, 2).mean((2, 4), dtype=np.float32), degree=0)
    shape = np.log(np.asarray(shapes, np.float64)[nonblank])
    for start in range(0, len(nonblank), _BLOCK):
        is_alike = np.triu(coarse[start : start + _BLOCK] @ coarse[start:].T > _ALIKE, 1)
        rows, columns = (np.flatnonzero(is_alike.any(axis)) for axis in (1, 0))
        first, second = (_unit(small[start + places]) for places in (rows, columns))
        is_alike = is_alike[np.ix_(rows, columns)] & (first @ second.T > _ALIKE_IN_DETAIL)
        is_alike &= np.abs(shape[start + rows, None] - shape[start + columns]) < _SAME_SHAPE
        for i, j in np.argwhere(is_alike).tolist():
            yield int(nonblank[start + rows[i]]), int(nonblank[start + columns[j]])


def structure_mark(structure: str) -> str:
    """Return a mark of 512 bits as hexadecimal digits, from which the picture cannot be drawn; "" of "".

    Marks of alike structures differ in few bits, see `marks_alike`.

    References
    ----------
    Charikar, Similarity estimation techniques from rounding algorithms, STOC 2002.
    """
    if not structure:
        return ""
    is_above = _directions() @ _unit(_picture(structure)[None])[0] > 0
    return np.packbits(is_above).tobytes().hex()


def marks_alike(first: str, second: str) -> bool:
    """Return whether two marks are of alike structures."""
    return bool(first and second) and (int(first, 16) ^ int(second, 16)).bit_count() <= _MARK_DISTANCE


def _picture(structure: str) -> NDArray[np.uint8]:
    """Return a structure as pixels, (32, 32)."""
    return np.frombuffer(base64.b64decode(structure), np.uint8).reshape(_SIDE, _SIDE)


def _unit(pictures: NDArray[np.generic], degree: int = _DEGREE) -> NDArray[np.float32]:
    """Return pictures (n, side, side) without their smooth parts, as vectors of length 1, (n, side²)."""
    rough = _rough(pictures, degree)
    norm = np.linalg.norm(rough, axis=1, keepdims=True)
    return np.asarray(rough / np.where(norm > 0, norm, 1), np.float32)


def _rough(pictures: NDArray[np.generic], degree: int = _DEGREE) -> NDArray[np.float32]:
    """Return pictures (n, side, side) without their smooth parts, (n, side²)."""
    values = pictures.reshape(len(pictures), pictures.shape[1] ** 2).astype(np.float32)
    smooth = _smooth_basis(pictures.shape[1], degree)
    return np.asarray(values - (values @ smooth) @ smooth.T, np.float32)


@lru_cache(maxsize=4)
def _smooth_basis(side: int, degree: int) -> NDArray[np.float32]:
    """Return an orthonormal basis of the polynomials over a square picture, (side², n)."""
    # Products of orthonormal polynomials of one axis: a QR of all powers takes 0.1 s where BLAS has several threads.
    along = np.linalg.qr(np.vander(np.linspace(-1, 1, side), degree + 1, increasing=True))[0]  # (side, degree + 1)
    products = [np.outer(along[:, j], along[:, i]) for i in range(degree + 1) for j in range(degree + 1 - i)]
    return np.stack(products, -1).reshape(side * side, -1).astype(np.float32)


@lru_cache(maxsize=1)
def _directions() -> NDArray[np.float32]:
    """Return the directions of a mark's bits, (512, 1024), the same in every version of NumPy."""
    drawn = np.random.RandomState(0)  # noqa: NPY002  # the newer generators may change their streams
    return drawn.standard_normal((_MARK_BITS, _SIDE * _SIDE)).astype(np.float32)
