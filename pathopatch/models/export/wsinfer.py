"""The format of wsinfer and of QuPath's wsinfer extension, and which models fit it.

Both cut square patches of uint8 RGB at one scale, bring them to a side (``Resize``; QuPath reads one number), divide by
255 (``ToTensor``), standardise (``Normalize``), and take the softmax of the network's output [1]_.

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
# Pillow's number of its Hamming filter. On H&E it came closest to our area means at factors of 1.1 to 2.5 that are not
# whole: 0.4 to 2.0 grey values on average, against 1.8 to 2.9 for its box filter and 0.5 to 2.1 for the default.
_HAMMING = 5


def check_fits(spec: BundleSpec) -> None:
    """Refuse a model that does not fit the format, with each reason."""
    reasons = []
    is_rgb = spec.channels == ("R", "G", "B") and spec.dtype == "uint8"
    if not is_rgb:
        reasons.append(
            f"it reads R, G, B of uint8 only, and the model takes {', '.join(spec.channels)} of {spec.dtype}"
        )
    has_other_window = any(spec.intensity.windows.get(name, _BYTE) != _BYTE for name in spec.channels)
    if has_other_window or not is_rgb:
        reasons.append(f"it divides by 255, and the model's intensity rule is {intensity_text(spec)}")
    if spec.mpp is None:
        reasons.append("it needs um per px, and the model was trained on patches of unknown scale")
    if spec.align:
        reasons.append("it does not move channels onto each other, and the model needs that (align)")
    if len(set(spec.class_names)) < len(spec.class_names):
        reasons.append(f"it needs distinct class names, and the model's are {', '.join(spec.class_names)}")
    if reasons:
        raise InputUnsupportedError(
            "this model does not fit wsinfer's format: " + "; ".join(reasons),
            place="bundle",
            remedy="export it as torchscript or onnx, whose users scale the patches themselves",
        )


def config_of(spec: BundleSpec) -> dict[str, Any]:
    """Return wsinfer's description of a model for ``config.json``."""
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
