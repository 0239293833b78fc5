"""Which of a method's own parameters a search tries, beside learning rate and weight decay, which every method has.

A method that is not named here has none. A search reads this table and knows no method by name.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Literal

Searched = Literal["extrapolation", "s", "t"]
"""``extrapolation``: the pair of c and beta, so that s = c (beta + 1); ``s``: s itself, without extrapolation;
``t``: the share of pseudo-hard samples. c, beta, s and t are also what the settings of a run call them."""

SEARCHED: Mapping[str, tuple[Searched, ...]] = MappingProxyType(
    {
        "gerne": ("extrapolation",),
        "gerne-unknown": ("extrapolation", "t"),
        "oversample": ("s",),
    }
)


def searched(name: str) -> tuple[Searched, ...]:
    """Return what a search tries of a method's own parameters; nothing for a method that has none.

    Parameters
    ----------
    name : str
        Name of a method.
    """
    return SEARCHED.get(name, ())
