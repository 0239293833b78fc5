"""Names of the debiasing methods.

Data only: settings and help texts need the names, but must not load torch. `pathopatch.debias.methods` defines a method
for each name.
"""

from __future__ import annotations

from typing import Literal, get_args

MethodName = Literal[
    "erm",
    "resample",
    "groupdro",
    "gerne",
    "dfr",
    "auto",
    # More: variants of these, and baselines of papers.
    "erm-balanced",
    "reweight",
    "subsample",
    "area-matched",
    "decorrelate",
    "gerne-unknown",
    "jtt",
    "intervene",
]
METHOD_NAMES: tuple[MethodName, ...] = get_args(MethodName)
COMPOSING_METHODS: tuple[MethodName, ...] = ("intervene", "auto")
"""Methods that compose patches of another tissue area, which features do not allow."""
