"""Names of the debiasing methods.

Data only: settings and help texts need the names, but must not load torch. `pathopatch.debias.methods` defines a method
for each name.
"""

from __future__ import annotations

from typing import Literal, get_args

MethodName = Literal[
    "erm",
    "erm-balanced",
    "reweight",
    "resample",
    "oversample",
    "groupdro",
    "gerne",
    "gerne-unknown",
    "jtt",
    "dfr",
    "gerne-auto",
    "intervene",
    "auto",
]
METHOD_NAMES: tuple[MethodName, ...] = get_args(MethodName)
COMPOSING_METHODS: tuple[MethodName, ...] = ("intervene", "auto")
"""Methods that compose patches of another tissue area, which features do not allow."""
RANK_METHODS: tuple[MethodName, ...] = ("resample", "gerne", "gerne-auto")
"""Methods that can also draw by the rank of a measurement, such as the tissue fraction."""
