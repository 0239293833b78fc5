"""Features that pathology encoders made: read them, audit them, train classifiers on them.

The public names are loaded on first use: HDF5 and PyTorch only once a file needs them.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pathopatch.features.arrays import audit as audit
    from pathopatch.features.arrays import read as read

# Heads are trained by a layer above this one, so that their module is named here and not imported.
_HOMES = {
    "audit": "pathopatch.features.arrays",
    "fit_head": "pathopatch.training.array_heads",
    "read": "pathopatch.features.arrays",
}
__all__ = ["audit", "fit_head", "read"]


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'pathopatch.features' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *_HOMES])
