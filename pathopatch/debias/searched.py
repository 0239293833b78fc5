"""Which of a method's own parameters a search tries, beside learning rate and weight decay, which every method has.

A method says so by what it takes: see `pathopatch.debias.methods`. A search knows no method by name.
"""

from __future__ import annotations

from typing import Literal

from pathopatch.debias.methods import parameters_of

Searched = Literal["extrapolation", "s", "t", "biased_lr_scale"]
"""``extrapolation``: the pair of c and beta, so that s = c (beta + 1); ``s``: s itself, without extrapolation;
``t``: the share of pseudo-hard samples; ``biased_lr_scale``: how fast the model learns that finds them. All but the
first, and c and beta, are also what the settings of a run call them."""
_SINGLE: tuple[Searched, ...] = ("s", "t", "biased_lr_scale")


def searched(name: str) -> tuple[Searched, ...]:
    """Return what a search tries of a method's own parameters; nothing for a method that has none of these.

    Parameters
    ----------
    name : str
        Name of a method.
    """
    own = parameters_of(name)
    pair: tuple[Searched, ...] = ("extrapolation",) if {"c", "beta"} <= set(own) else ()
    return pair + tuple(parameter for parameter in _SINGLE if parameter in own)
