"""What a model has to do with a slide, by the marks of its bundle."""

from __future__ import annotations

import pytest
from made_model import made_spec

from pathopatch.models.leakage import leakage, leakage_warning
from pathopatch.models.spec import BundleSpec

TRAIN, VAL, OTHER = (letter * 64 for letter in "abc")


def spec(data: dict[str, object] | None = None, **training: str) -> BundleSpec:
    return made_spec(data=data or {}, training={name: text[:16] for name, text in training.items()})


LISTED = spec(train_slides=TRAIN, val_slides=VAL)


@pytest.mark.parametrize(
    ("specs", "fingerprints", "word"),
    [
        ([LISTED], [TRAIN], "trained on"),
        ([LISTED], [VAL], "selected on"),
        ([LISTED], [OTHER], ""),
        ([LISTED], [OTHER, VAL, TRAIN], "trained on"),
        ([LISTED], [], ""),
        ([spec(config="x")], [TRAIN], "not known"),
        ([spec(val_slides=VAL)], [VAL], "selected on"),
        ([spec(train_slides=OTHER), LISTED], [TRAIN], "trained on"),  # the second bundle of an ensemble knows it
        ([LISTED, spec(train_slides=VAL)], [VAL], "trained on"),
        ([LISTED, spec()], [OTHER], "not known"),
    ],
)
def test_the_worst_of_what_any_bundle_says_counts(specs: list[BundleSpec], fingerprints: list[str], word: str) -> None:
    assert leakage(specs, fingerprints) == word


def test_only_training_and_selection_are_warned_of() -> None:
    assert [bool(leakage_warning(word)) for word in ("trained on", "selected on", "not known", "")] == [
        True, True, False, False,
    ]  # fmt: skip
