"""Tell whether a model was trained or selected on a slide, by the marks of slides that its bundle holds.

A mark is the start of the hash of a slide's files, whatever the files or the slide are called. Of a set of ready
patches it is the hash of all its images together with the patient. No name of a slide or patient can be read out of a
mark. The same slide saved anew, and another slide of the same patient, have other marks: missing ones prove nothing.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathopatch.models.spec import BundleSpec

TRAINED, VALIDATED = "train_slides", "val_slides"
"""Keys of a bundle's `training` that hold the marks, separated by commas."""
MARK_DIGITS = 16
TRAINED_ON, SELECTED_ON, NOT_KNOWN = "trained on", "selected on", "not known"
"""What a model may have to do with a slide; the last one where its bundle lists no slides."""


def leakage(specs: Sequence[BundleSpec], fingerprints: Collection[str]) -> str:
    """Return what one or more models have to do with a slide: the worst of the three words; "" if it is in no list.

    `fingerprints` are of the slide's files and of its feature files; "" where one is not known.
    """
    marks = {text[:MARK_DIGITS] for text in fingerprints if text}
    words = [_leakage(spec, marks) for spec in specs]
    return next((word for word in (TRAINED_ON, SELECTED_ON, NOT_KNOWN) if word in words), "")


def _leakage(spec: BundleSpec, marks: Collection[str]) -> str:
    for key, word in ((TRAINED, TRAINED_ON), (VALIDATED, SELECTED_ON)):
        if not set(spec.training.get(key, "").split(",")).isdisjoint(marks):
            return word
    return "" if TRAINED in spec.training else NOT_KNOWN


def leakage_warning(word: str) -> str:
    """Return the warning that goes with a word of `leakage`; empty where there is nothing to warn of."""
    if word == TRAINED_ON:
        return "the model was trained on this slide: its results here say nothing about other slides"
    if word == SELECTED_ON:
        return (
            "the model was selected on this slide (checkpoint, decision threshold): its results here are better than "
            "on other slides"
        )
    return ""
