"""Which networks there are, how a trained one is stored and read safely, and how it turns patches into logits."""

from pathopatch.models.bundle import PatchClassifier, check_slide, load_model, read_spec, save_bundle
from pathopatch.models.ensemble import Ensemble, check_bundles, load_ensemble
from pathopatch.models.forward import pick_device
from pathopatch.models.networks import build_network
from pathopatch.models.spec import BundleSpec

__all__ = [
    "BundleSpec",
    "Ensemble",
    "PatchClassifier",
    "build_network",
    "check_bundles",
    "check_slide",
    "load_ensemble",
    "load_model",
    "pick_device",
    "read_spec",
    "save_bundle",
]
