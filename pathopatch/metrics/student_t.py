"""Student's t, for intervals of few units; SciPy, which has it, is the largest package that prediction can do without.

With x = sqrt(df) / tan(angle) the share above x is that of the integral of sin(angle)**(df - 1) from 0 on [1]_.

References
----------
.. [1] NIST Digital Library of Mathematical Functions, 8.17.1 and 8.17.4, https://dlmf.nist.gov/8.17
"""

from __future__ import annotations

from functools import lru_cache
from statistics import NormalDist

import numpy as np
from numpy.typing import ArrayLike, NDArray

FloatArray = NDArray[np.float64]

_POINTS = 50_001
_NORMAL_FROM = 1e5  # degrees of freedom: the quantile of 97.5 % is within 2e-5 of a normal's


def t_quantile(p: ArrayLike, df: float) -> FloatArray:
    """Return the value below which a share `p` of Student's t with `df` > 0 degrees of freedom lies, to 1e-6 of it."""
    share = np.asarray(p, np.float64)
    if df >= _NORMAL_FROM:
        return np.asarray(np.vectorize(NormalDist().inv_cdf, otypes=[np.float64])(share))
    places, tail = _upper_half(df)
    angle = np.interp(np.minimum(share, 1 - share), tail, places) ** (1 / _power(df))
    with np.errstate(divide="ignore"):
        size = np.sqrt(df) / np.tan(angle)
    return np.asarray(np.where(share < 0.5, -size, size))


def t_share_below(x: ArrayLike, df: float) -> FloatArray:
    """Return the share of Student's t with `df` > 0 degrees of freedom that lies below `x`; NaN for NaN."""
    value = np.asarray(x, np.float64)
    if df >= _NORMAL_FROM:
        return np.asarray(np.vectorize(NormalDist().cdf, otypes=[np.float64])(value))
    place = np.arctan2(np.sqrt(df), np.abs(value)) ** _power(df)
    above = np.interp(place, *_upper_half(df))
    return np.where(value < 0, above, 1 - above)


def _power(df: float) -> float:
    """Return the power of an angle over which the integrand is flat at 0."""
    return df if df < 2 else 1.0


@lru_cache(maxsize=64)
def _upper_half(df: float) -> tuple[FloatArray, FloatArray]:
    """Return powers of angles from 0 to pi / 2, ascending, and the share above each one's x: from 0 to 0.5."""
    power = _power(df)
    places = np.linspace(0, (np.pi / 2) ** power, _POINTS)
    angles = places ** (1 / power)
    height = np.sinc(angles / np.pi) ** (df - 1) if df < 2 else np.sin(angles) ** (df - 1)
    area = np.concatenate([[0.0], np.cumsum((height[1:] + height[:-1]) / 2)])
    return places, area / (2 * area[-1])
