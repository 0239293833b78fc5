"""Patch-wise tumour classification that does not learn the tissue-area shortcut.

The public names are loaded on first use, so that each part can be used alone.
"""

from __future__ import annotations

import warnings
from importlib import import_module
from typing import TYPE_CHECKING, Any

from pathopatch.core.version import FOREIGN_REMEDY, __version__, foreign_distribution

if TYPE_CHECKING:
    from pathopatch import debias as debias
    from pathopatch import features as features
    from pathopatch import metrics as metrics
    from pathopatch.groups import assign_groups as assign_groups
    from pathopatch.heatmaps.predict import predict_slide as predict_slide
    from pathopatch.models.loading import load_model as load_model
    from pathopatch.patches import tile_slide as tile_slide
    from pathopatch.slides import open_slide as open_slide

_HOMES = {
    "open_slide": "pathopatch.slides",
    "tile_slide": "pathopatch.patches",
    "assign_groups": "pathopatch.groups",
    "load_model": "pathopatch.models.loading",
    "predict_slide": "pathopatch.heatmaps.predict",
}
_MODULES = ("debias", "features", "metrics")
__all__ = [
    "__version__",
    "assign_groups",
    "debias",
    "features",
    "load_model",
    "metrics",
    "open_slide",
    "predict_slide",
    "tile_slide",
]


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        return import_module(f"pathopatch.{name}")
    if name in _HOMES:
        return getattr(import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'pathopatch' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *_HOMES, *_MODULES])


if _foreign := foreign_distribution():
    warnings.warn(f"another package with this import name is installed: {_foreign}. {FOREIGN_REMEDY}", stacklevel=2)
