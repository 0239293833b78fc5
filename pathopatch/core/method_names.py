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
    raise ValueError(f"the package has no method {name}: {close}Use one of {', '.join(names)}")
