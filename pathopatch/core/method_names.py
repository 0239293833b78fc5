"""Names of the debiasing methods.

Settings and help texts need the names, but must not load torch. `pathopatch.debias.methods` defines a method
for each name, and `register_method` there adds further ones.
"""

from __future__ import annotations

import difflib

METHOD_NAMES = ("erm", "erm-balanced", "resample", "groupdro", "gerne", "auto")
COMPOSING_METHODS = ("auto",)
"""Methods that compose patches of another tissue area, which features do not allow."""
_REGISTERED: list[str] = []
_PIPELINE = "it is registered by pipelines/area-benchmark/area_benchmark/methods.py"
_INSTEAD = {
    "dfr": "it is a script now, pipelines/cmnist/two_steps.py",
    "jtt": "it is a script now, pipelines/cmnist/two_steps.py",
    "gerne-unknown": "train erm-balanced, then gerne with groups_from and hard_share: see pathopatch groups --from-run",
    "intervene": "use auto, or [train.composing] share = 1.0 with erm-balanced",
    **dict.fromkeys(("reweight", "subsample", "area-matched", "decorrelate"), _PIPELINE),
}
"""Methods of earlier versions, and what to do."""


def add_method_name(name: str) -> None:
    """Let settings take a further name."""
    if name not in _REGISTERED:
        _REGISTERED.append(name)


def known_method(name: str) -> str:
    """Return a name that settings may take; ValueError for others, with what to use."""
    names = (*METHOD_NAMES, *_REGISTERED)
    if name in names:
        return name
    close = "".join(f"did you mean {name}? " for name in difflib.get_close_matches(name, names, n=1))
    instead = _INSTEAD.get(name, f"{close}Use one of {', '.join(names)}")
    raise ValueError(f"the package has no method {name}: {instead}")
