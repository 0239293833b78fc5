"""What must a user of an exported model know? The numbers for programs, and the words for people."""

from __future__ import annotations

from typing import Any

from pathopatch.models.card import decision_text, intensity_text, model_card, scale_text
from pathopatch.models.spec import BundleSpec

FACTS, README = "export.json", "README.md"

_TAKES = """It takes **patches**: float32 of shape (N, {c}, {p}, {p}), any N, cut at {mpp}, channels in the order
{channels}. Values are scaled to [0, 1] and clipped: {intensity}.{align} What overhangs the slide
is filled with its background. It returns **probabilities**: float32 of shape (N, {k}), in the order {classes}. The
resampling to the network's {input_px} px, the standardisation and the temperature are inside: do not add them again."""

_TORCHSCRIPT = """# {method} as TorchScript

`model.pt` needs torch alone.

{takes}

    import torch

    model = torch.jit.load("model.pt").eval()
    with torch.inference_mode():
        probability = model(patches)[:, 1]  # of {second}

Patches of another shape, or with values outside [0, 1], are refused.
"""

_ONNX = """# {method} as ONNX

`model.onnx` runs in ONNX Runtime and other programs.

{takes}

    import onnxruntime

    session = onnxruntime.InferenceSession("model.onnx")
    probability = session.run(["probabilities"], {{"patches": patches}})[0][:, 1]  # of {second}

Patches of another shape are refused. Values outside [0, 1] are not: they give numbers, wrong ones.
"""

_WSINFER = """# {method} for wsinfer and QuPath

    wsinfer run --wsi-dir SLIDES --results-dir OUT --config config.json --model-path torchscript_model.pt

In QuPath put this folder into the user directory of the wsinfer extension. Both take 8-bit RGB slides, cut patches of
{p} px at {mpp}, standardise them as `config.json` says, and take the softmax of what the network returns: its logits
divided by the temperature. The resampling to the network's {input_px} px is inside.

What differs from `pathopatch predict`:

- **The decision.** Neither program knows a threshold: QuPath marks the class of the largest probability.
  {decision}
- **The scale.** On a slide of {mpp} the probabilities are the same to 0.00001. On a finer one both programs cut whole
  level-0 pixels and shrink them by filters of their own; pathopatch takes exact area means. On H&E the pixels then
  differ by a grey value or two on average, and by far more at edges: compare some slides before relying on a threshold.
- **Where.** The patches stand on the other program's grid, inside its own tissue mask; at the slide's edge they are
  filled with black.
"""
_TEXTS = {"torchscript": _TORCHSCRIPT, "onnx": _ONNX, "wsinfer": _WSINFER}


def facts_of(spec: BundleSpec, kind: str) -> dict[str, Any]:
    """Return what an export's ``export.json`` says: what goes in and comes out, as ``model.json`` has it.

    Parameters
    ----------
    spec : BundleSpec
        The model's.
    kind : str
        Format of the export.
    """
    known = spec.model_dump(mode="json")
    is_wsinfer = kind == "wsinfer"
    return {
        "format": kind,
        "input": {
            "shape": ["N", len(spec.channels), spec.patch_px, spec.patch_px],
            "type": "float32",
            "range": None if is_wsinfer else [0, 1],
            "is_standardised": is_wsinfer,
            "intensity_rule": intensity_text(spec),
        },
        "output": {
            "shape": ["N", len(spec.class_names)],
            "type": "float32",
            "is": "logits divided by the temperature" if is_wsinfer else "probabilities",
        },
        "decision": {
            "threshold_on_logit_difference": spec.decision_threshold,
            "threshold_on_probability": spec.decision_probability,
            "of_class": spec.class_names[1] if len(spec.class_names) == 2 else None,
            "chosen_for": spec.decision_chosen_for,
        },
        "model": known,
    }


def readme_of(spec: BundleSpec, kind: str) -> str:
    """Return how an export is used, and the model card after it."""
    takes = _TAKES.format(
        c=len(spec.channels),
        p=spec.patch_px,
        k=len(spec.class_names),
        mpp=scale_text(spec),
        channels=", ".join(spec.channels),
        classes=", ".join(spec.class_names),
        intensity=intensity_text(spec),
        input_px=spec.input_px,
        align=" The channels are moved onto each other first, by shifts measured on each slide." if spec.align else "",
    )
    text = _TEXTS[kind].format(
        method=spec.method,
        takes=takes,
        p=spec.patch_px,
        mpp=scale_text(spec),
        input_px=spec.input_px,
        second=spec.class_names[1],
        decision=_sentence(spec),
    )
    decision = "" if kind == "wsinfer" else f"\n{_sentence(spec)}\n"
    return f"{text}{decision}\n{model_card(spec)}"


def _sentence(spec: BundleSpec) -> str:
    return f"A patch counts as {decision_text(spec)}."
