"""How a model becomes one of wsinfer's and of QuPath's wsinfer extension, and which models cannot.

Both cut square patches of uint8 RGB at one scale, bring them to a side (``Resize``; QuPath reads one number), divide by
255 (``ToTensor``), standardise (``Normalize``), and take the softmax of what the network returns [1]_.

References
----------
.. [1] Kaczmarzyk et al., "Open and reusable deep learning for pathology with WSInfer and QuPath", npj Precision
   Oncology 8, 9 (2024).
"""

from __future__ import annotations

from typing import Any

from pathopatch.core.errors import InputUnsupportedError
from pathopatch.models.card import intensity_text
from pathopatch.models.spec import BundleSpec

CONFIG, WEIGHTS = "config.json", "torchscript_model.pt"
_BYTE = (0.0, 255.0)
# Pillow's number of the filter that on H&E came nearest to our area means at factors of 1.1 to 2.5 that are not whole:
# 0.4 to 2.0 grey values on average, against 1.8 to 2.9 of its box filter and 0.5 to 2.1 of the default.
_HAMMING = 5


def check_held(spec: BundleSpec) -> None:
    """Refuse a model that the format cannot hold.

    Raises
    ------
    InputUnsupportedError
        With each reason.
    """
    reasons = list(_reasons(spec))
    if reasons:
        raise InputUnsupportedError(
            "wsinfer's format cannot hold this model: " + "; ".join(reasons),
            place="bundle",
            remedy="export it as torchscript or onnx, whose users scale the patches themselves",
        )


def config_of(spec: BundleSpec) -> dict[str, Any]:
    """Return wsinfer's description of a model, for ``config.json``."""
    return {
        "spec_version": "1.0",
        "architecture": spec.architecture,
        "num_classes": len(spec.class_names),
        "patch_size_pixels": spec.patch_px,
        "spacing_um_px": spec.mpp,
        "class_names": list(spec.class_names),
        "transform": [
            {"name": "Resize", "arguments": {"size": spec.patch_px, "interpolation": _HAMMING}},
            {"name": "ToTensor"},
            {"name": "Normalize", "arguments": {"mean": list(spec.mean), "std": list(spec.std)}},
        ],
    }


def _reasons(spec: BundleSpec) -> list[str]:
    """Return in words why a model does not fit."""
    found = []
    is_rgb = spec.channels == ("R", "G", "B") and spec.dtype == "uint8"
    if not is_rgb:
        found.append(f"it reads R, G, B of uint8 only, and the model takes {', '.join(spec.channels)} of {spec.dtype}")
    changed = any(spec.intensity.windows.get(name, _BYTE) != _BYTE for name in spec.channels)
    if changed or not is_rgb:
        found.append(f"it divides by 255, and the model's intensity rule is {intensity_text(spec)}")
    if spec.mpp is None:
        found.append("it needs um per px, and the model was trained on patches of unknown scale")
    if spec.align:
        found.append("it does not move channels onto each other, and the model's are moved (align)")
    if len(set(spec.class_names)) < len(spec.class_names):
        found.append(f"it names each class once, and the model's are {', '.join(spec.class_names)}")
    return found
