"""What a reader must know about a model before using it: its model card, made from the bundle's own numbers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pathopatch.models.spec import BundleSpec

_CARD = """# Patch classifier: {method}

Says of each patch of a slide whether it is {classes}. **For research only; not for diagnosis.**

| | |
|---|---|
| network | {architecture}, input {input_px} px |
| channels, in order | {channels} ({dtype}) |
| patch | {patch_px} px, step {stride_px} px, {mpp} |
| intensity | {intensity} |
| blank glass | below a tissue share of {min_tissue:g} nothing is predicted |
| decision | {decision} |
| temperature | {temperature:g} |
| trained by | {parameters} |

## On validation patches
{metrics}

The model was selected on these patches, so the numbers flatter it; judge it by `pathopatch evaluate` on patients that
neither training nor selection has seen. Group accuracies of few patches are noisy.

## Limits
Other channels, stains, scanners or scales than those above are outside what it was trained on. Tissue share predicts
the label in its training data; the shortcut audit of the evaluation says how far the model still follows it.
"""


def model_card(spec: BundleSpec) -> str:
    """Return the model card in Markdown.

    Parameters
    ----------
    spec : BundleSpec
        The model's.
    """
    is_rgb = spec.channels == ("R", "G", "B") and spec.dtype == "uint8"
    is_binary = len(spec.class_names) == 2
    return _CARD.format(
        method=spec.method,
        classes=" or ".join(reversed(spec.class_names)) if is_binary else ", ".join(spec.class_names),
        decision=_decision(spec) if is_binary else "the class of the largest logit",
        architecture=spec.architecture,
        input_px=spec.input_px,
        channels=", ".join(spec.channels),
        dtype=spec.dtype,
        patch_px=spec.patch_px,
        stride_px=spec.stride_px,
        mpp="unknown scale" if spec.mpp is None else f"{spec.mpp:g} um/px",
        intensity="0 to 255" if is_rgb else _intensity(spec),
        min_tissue=spec.min_tissue,
        temperature=spec.temperature,
        parameters=", ".join(f"{name} = {value}" for name, value in sorted(spec.parameters.items())) or spec.method,
        metrics=_table(spec.group_metrics),
    )


def _decision(spec: BundleSpec) -> str:
    """Return in words when a patch counts as the second of two classes."""
    return (
        f"{spec.class_names[1]} if the logit exceeds {spec.decision_threshold:.4g} "
        f"(chosen for: {spec.decision_chosen_for})"
    )


def _intensity(spec: BundleSpec) -> str:
    """Return in words how channels other than RGB are scaled."""
    rule = spec.intensity
    given = ", ".join(f"{name} {low:g} to {high:g}" for name, (low, high) in rule.windows.items())
    percentiles = f"percentiles {rule.low_percentile:g} to {rule.high_percentile:g} of tissue"
    if rule.scope == "cohort":
        return f"{given} (given, or {percentiles} over the training slides)"
    return (
        f"{given} (given); other channels {percentiles}, per slide"
        if given
        else f"{percentiles}, per slide and channel"
    )


def _table(metrics: Mapping[str, Any]) -> str:
    """Return numbers as a Markdown table; nested ones as further rows."""
    if not metrics:
        return "None were computed."
    rows = ["| | |", "|---|---|"]
    for name, value in metrics.items():
        rows.append(f"| {name} | {f'{value:.4g}' if isinstance(value, float) else value} |")
    return "\n".join(rows)
