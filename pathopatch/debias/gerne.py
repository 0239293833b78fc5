"""The arithmetic of GERNE: shares p(a|y) that it trains on, and the bounds of beta (no torch).

Notation of [1]_: K classes y, A attribute values a, alpha_ya = p(a|y) of the training data, c the strength of the
less biased stream, beta the extrapolation. A class with empty cells has the target 1/A_y over its A_y non-empty
cells, and its empty cells keep the share 0.

References
----------
.. [1] Asaad, Shadaydeh, Denzler, "Gradient Extrapolation for Debiased Representation Learning", ICCV 2025,
   arXiv:2503.13236: eq. 2 (alpha), eq. 4 (less biased), eq. 8 (extrapolated), eq. 9 and appendix C (bounds).
"""

from __future__ import annotations

import math
import warnings

import numpy as np
import numpy.typing as npt

from pathopatch.core.errors import BetaOutOfBoundsError, GroupEmptyError, InputUnsupportedError

_UNIFORM_TOLERANCE = 1e-12  # a cell this close to its target gives no bound: its i1 and i2 are rounding noise


def cell_counts(
    label: npt.ArrayLike, attribute: npt.ArrayLike, *, at_least: tuple[int, int] = (2, 2)
) -> npt.NDArray[np.int64]:
    """Return the number of samples of each cell (y, a).

    Parameters
    ----------
    label, attribute : array_like of int, shape (N,)
        Class and attribute value of each sample, from 0.
    at_least : tuple of int
        Smallest K and A, if other samples have more values than these.

    Returns
    -------
    ndarray of int64, shape (K, A)
        K and A are one more than the largest label and attribute, at least 2: a single value of either means that
        the other cell is empty, not that it does not exist.

    Raises
    ------
    InputUnsupportedError
        Not two one-dimensional integer arrays of one length, no sample, or a negative value (unlabelled).
    """
    y, a = _codes(label, "label"), _codes(attribute, "attribute")
    if len(y) != len(a):
        raise InputUnsupportedError(
            f"{len(y)} labels but {len(a)} attributes", remedy="Give one attribute for each label."
        )
    n_classes, n_attributes = max(at_least[0], int(y.max()) + 1), max(at_least[1], int(a.max()) + 1)
    flat = np.bincount(y * n_attributes + a, minlength=n_classes * n_attributes)
    return flat.reshape(n_classes, n_attributes).astype(np.int64)  # (K, A)


def check_cells(counts: npt.NDArray[np.int64]) -> None:
    """Raise GroupEmptyError for an empty class and, if A = 2, for an empty cell of `counts` (K, A); else warn of it."""
    if not (counts == 0).any():
        return
    if counts.shape[1] == 1:  # classes without an attribute
        empty, layout = ", ".join(f"label {y}" for y, _ in np.argwhere(counts == 0)), "counts by label"
    else:
        empty = ", ".join(f"(label {y}, attribute {a})" for y, a in np.argwhere(counts == 0))
        layout = "counts, one row per label, one column per attribute"
    text = f"no sample in {empty}; {layout}: {counts.tolist()}"
    # With more than two values a class can still be balanced over its other cells; with two it would have no contrast.
    if counts.shape[1] == 2 or (counts.sum(axis=1) == 0).any():
        raise GroupEmptyError(text, remedy="Add samples of this group, or choose a threshold at which none is empty.")
    warnings.warn(f"{text}; each class aims at equal shares of its non-empty cells", UserWarning, stacklevel=3)


def alpha(label: npt.ArrayLike, attribute: npt.ArrayLike) -> npt.NDArray[np.float64]:
    """Return p(a|y) of the data, eq. 2; arguments as of `cell_counts`.

    Returns
    -------
    ndarray of float64, shape (K, A)
        Shares in [0, 1]; each row sums to 1.

    Raises
    ------
    GroupEmptyError
        A class without samples, or an empty cell with A = 2 (A > 2 warns).
    InputUnsupportedError
        As `cell_counts`.
    """
    counts = cell_counts(label, attribute)
    check_cells(counts)
    shares: npt.NDArray[np.float64] = counts / counts.sum(axis=1, keepdims=True)
    return shares


def less_biased(alpha: npt.ArrayLike, c: float) -> npt.NDArray[np.float64]:
    """Return p(a|y) of the less biased stream, alpha + c (1/A - alpha), eq. 4; c = 1 is group-balanced.

    Arguments and errors are those of `extrapolated`, which this is at beta = 0. Shares are in [0, 1].
    """
    return extrapolated(alpha, c, 0.0)


def extrapolated(alpha: npt.ArrayLike, c: float, beta: float) -> npt.NDArray[np.float64]:
    """Return the p(a|y) that GERNE trains on in expectation, alpha + c (beta + 1) (1/A - alpha), eq. 8.

    Parameters
    ----------
    alpha : array_like of float, shape (..., A)
        p(a|y) of the data; 0 marks an empty cell.
    c : float
        Strength in (0, 1].
    beta : float
        Extrapolation; -1 gives alpha, 0 the less biased stream.

    Returns
    -------
    ndarray of float64, shape (..., A)
        Rows sum to 1; outside [0, 1] exactly where beta is outside `beta_bounds`.

    Raises
    ------
    InputUnsupportedError
        c outside (0, 1], or rows that are not shares.
    """
    shares = _shares(alpha)
    check_c(c)
    return shares + c * (beta + 1.0) * (_target(shares) - shares)


def beta_bounds(alpha: npt.ArrayLike, c: float) -> tuple[float, float]:
    """Return the smallest and the largest beta for which every extrapolated share is in [0, 1], eq. 9.

    Arguments and errors are those of `extrapolated`. The bounds are (-inf, inf) if every non-empty cell already has its
    target share.
    """
    shares = _shares(alpha)
    check_c(c)
    gap = _target(shares) - shares
    is_bounding = (shares > 0) & (np.abs(gap) > _UNIFORM_TOLERANCE)
    if not is_bounding.any():
        return -math.inf, math.inf
    # The two beta at which a share reaches 0 and 1, in the paper's names. Which one is larger depends on the gap's
    # sign.
    i1 = -shares[is_bounding] / (c * gap[is_bounding]) - 1.0
    i2 = (1.0 - shares[is_bounding]) / (c * gap[is_bounding]) - 1.0
    return float(np.minimum(i1, i2).max()), float(np.maximum(i1, i2).min())


def check_beta(alpha: npt.ArrayLike, c: float, beta: float) -> None:
    """Refuse a beta with which training diverges; arguments and other errors as `extrapolated`.

    Raises
    ------
    BetaOutOfBoundsError
        beta outside `beta_bounds`, NaN or infinite; the message states the bounds.
    """
    low, high = beta_bounds(alpha, c)
    if not (math.isfinite(beta) and low <= beta <= high):
        raise BetaOutOfBoundsError(
            f"beta = {beta:g} is outside [{low:.6g}, {high:.6g}], the bounds for these groups at c = {c:g}",
            remedy="Choose beta inside the bounds, or a smaller c, which widens them.",
        )


def check_c(c: float) -> None:
    """Refuse a strength outside (0, 1], or NaN."""
    if not 0.0 < c <= 1.0:
        raise InputUnsupportedError(f"c = {c} is outside (0, 1]", remedy="Use 0.5 or 1, as the paper does.")


def _codes(values: npt.ArrayLike, name: str) -> npt.NDArray[np.int64]:
    """Return class or attribute codes as int64; refuse anything else."""
    array = np.asarray(values)
    if array.ndim != 1 or array.size == 0 or array.dtype.kind not in "iub":
        raise InputUnsupportedError(
            f"{name} has shape {array.shape} and type {array.dtype}",
            remedy=f"Give the {name} of each sample as a non-empty one-dimensional array of integers.",
        )
    if array.min() < 0:
        raise InputUnsupportedError(f"{name} holds {int(array.min())}", remedy="Leave out unlabelled samples.")
    return array.astype(np.int64)


def _shares(alpha: npt.ArrayLike) -> npt.NDArray[np.float64]:
    """Return alpha as float64; refuse rows that are not shares."""
    shares = np.asarray(alpha, dtype=np.float64)
    if shares.ndim < 1 or not ((shares >= 0).all() and np.allclose(shares.sum(axis=-1), 1.0, atol=1e-6)):
        raise InputUnsupportedError(
            f"rows of alpha are not shares: {shares.tolist()}", remedy="Pass p(a|y), as `alpha` returns it."
        )
    return shares


def _target(shares: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Return 1/A_y in the non-empty cells of each row and 0 in the others."""
    present = shares > 0
    target: npt.NDArray[np.float64] = present / present.sum(axis=-1, keepdims=True)
    return target
