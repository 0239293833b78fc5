"""Pseudo-attributes from the samples that a biased model finds hard, for data without attributes.

References
----------
.. [1] Asaad, Shadaydeh, Denzler, ICCV 2025, arXiv:2503.13236, section 4.2 and Algorithm 2.
"""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

from pathopatch.core.errors import GroupEmptyError, InputUnsupportedError, NonFiniteError
from pathopatch.debias import gerne

_ROUNDING = 1e-9  # samples: 0.29 * 100 is 28.999999999999996 and means 29


def pseudo_attributes(p_true_class: npt.ArrayLike, label: npt.ArrayLike, t: float) -> npt.NDArray[np.int64]:
    """Return 1 for the hard samples of each class and 0 for the easy ones, Algorithm 2 of [1]_.

    In a class of n samples, the floor(t n) with the lowest probability of their true class are hard; at least 1 and at
    most n - 1, so that both cells exist. Of equal probabilities the earlier sample is harder.

    Parameters
    ----------
    p_true_class : array_like of float, shape (N,)
        p(y|x) of the biased model for each sample's true class; any finite score of the same order works.
    label : array_like of int, shape (N,)
        Class of each sample, from 0.
    t : float
        Hard share, in (0, 1).

    Returns
    -------
    ndarray of int64, shape (N,)
        1 = hard, 0 = easy.

    Raises
    ------
    InputUnsupportedError
        t outside (0, 1), or arrays of other shapes or types.
    NonFiniteError
        A probability is NaN or infinite.
    GroupEmptyError
        A class with fewer than two samples.
    """
    if not 0.0 < t < 1.0:
        raise InputUnsupportedError(f"t = {t} is outside (0, 1)", remedy="Use a share, for instance 0.1.")
    p = np.asarray(p_true_class, dtype=np.float64)
    y = np.asarray(label)
    if p.shape != y.shape:
        raise InputUnsupportedError(
            f"{p.shape} probabilities but {y.shape} labels", remedy="Give one probability per sample."
        )
    if not np.isfinite(p).all():
        raise NonFiniteError(
            f"{int((~np.isfinite(p)).sum())} of {p.size} probabilities are not finite",
            remedy="Train the biased model again with a lower learning rate.",
        )
    n_of_class = gerne.cell_counts(y, np.zeros(y.shape, dtype=np.int64)).sum(axis=1)
    if (n_of_class < 2).any():
        raise GroupEmptyError(
            f"samples of each class: {n_of_class.tolist()}", remedy="Give at least two samples of each class."
        )
    hard = np.zeros(len(p), dtype=np.int64)
    for code, n in enumerate(n_of_class.tolist()):
        members = np.flatnonzero(y == code)
        # Both cells must exist in every class, since GERNE with A = 2 refuses an empty one.
        n_hard = min(max(math.floor(t * n + _ROUNDING), 1), n - 1)
        hard[members[np.argsort(p[members], kind="stable")[:n_hard]]] = 1
    return hard


def minority_found(hard: npt.ArrayLike, label: npt.ArrayLike, attribute: npt.ArrayLike) -> dict[str, float]:
    """Return how well the hard samples match the minority of each class.

    A sample belongs to the minority if its attribute is not the most frequent one of its class (the first of equal
    ones). Samples of unknown attribute, -1, take no part in precision and recall. Arrays are (N,), `hard` as
    `pseudo_attributes` returns it.

    Returns
    -------
    dict
        `hard_n`; `precision`, the minority's share of the hard samples; `recall`, the hard share of the minority. NaN
        if there are none.
    """
    is_hard, y, a = np.asarray(hard) == 1, np.asarray(label), np.asarray(attribute)
    has_attribute = a >= 0
    is_minority = np.zeros(len(y), dtype=np.bool_)
    for code in np.unique(y[has_attribute]):
        of_class = has_attribute & (y == code)
        is_minority |= of_class & (a != np.bincount(a[of_class]).argmax())
    n_both, n_hard, n_minority = (int(n.sum()) for n in (is_hard & is_minority, is_hard & has_attribute, is_minority))
    return {
        "hard_n": float(is_hard.sum()),
        "precision": n_both / n_hard if n_hard else math.nan,
        "recall": n_both / n_minority if n_minority else math.nan,
    }
