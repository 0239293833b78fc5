"""Networks, model bundles, prediction of logits, exports.

The names below are loaded on first use, so that bundles and slides can be checked without torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pathopatch.models.bundle import check_bundles as check_bundles
    from pathopatch.models.bundle import load_ensemble as load_ensemble
    from pathopatch.models.bundle import load_model as load_model
    from pathopatch.models.bundle import read_spec as read_spec
    from pathopatch.models.bundle import save_bundle as save_bundle
    from pathopatch.models.forward import Ensemble as Ensemble
    from pathopatch.models.forward import PatchClassifier as PatchClassifier
    from pathopatch.models.forward import pick_device as pick_device
    from pathopatch.models.networks import build_network as build_network
    from pathopatch.models.spec import BundleSpec as BundleSpec
    from pathopatch.models.spec import check_slide as check_slide

_HOMES = {
    "BundleSpec": "spec",
    "Ensemble": "forward",
    "PatchClassifier": "forward",
    "build_network": "networks",
    "check_bundles": "bundle",
    "check_slide": "spec",
    "load_ensemble": "bundle",
    "load_model": "bundle",
    "pick_device": "forward",
    "read_spec": "bundle",
    "save_bundle": "bundle",
}
__all__ = [*_HOMES]


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
