"""Predict blank glass: a model that calls glass tumour has learnt something else than tumour.

Blank patches have no group, so no accuracy by group includes them.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from pathopatch.core.text import pluralize
from pathopatch.evaluation.predicting import predict_patches
from pathopatch.groups import bins_attributes, threshold_attributes
from pathopatch.groups.attribute import scanned_enough
from pathopatch.models.forward import PatchClassifier

_LEAST_TISSUE = 0.01  # below it a patch is blank, as for `pathopatch groups`
_MOST = 1000  # patches: the share is then known to 3 percentage points
_SPLIT = "glass"


def predict_glass(work: Path, groups: pd.DataFrame, model: PatchClassifier) -> dict[str, Any]:
    """Return how a model predicts the blank patches of a cohort, 1000 at most, evenly over the groups table.

    ``patches`` and ``slides`` are numbers of them, ``positive`` the share above the decision threshold, ``probability``
    its mean. Without blank patches both are NaN.
    """
    # What fills unscanned parts of a slide is not glass.
    blank = groups[(groups["tissue_fraction"] < _LEAST_TISSUE) & scanned_enough(groups, 1.0)]
    blank = (
        blank.iloc[np.unique(np.linspace(0, len(blank) - 1, _MOST).round().astype(np.int64))] if len(blank) else blank
    )
    if blank.empty:
        return {"patches": 0, "slides": 0, "positive": float("nan"), "probability": float("nan")}
    columns = [attribute.group_column for attribute in (*threshold_attributes(groups), *bins_attributes(groups))]
    # A label and a group that mean nothing: without them a patch is not predicted.
    rows = blank.assign(split=_SPLIT, label=0, **dict.fromkeys(columns, 0))
    predictions = predict_patches(work, rows, model, splits=(_SPLIT,))
    return {
        "patches": len(predictions),
        "slides": int(blank["slide_id"].nunique()),
        "positive": float((predictions["logit"] > model.spec.decision_threshold).mean()),
        "probability": float(predictions["probability"].mean()),
    }


def glass_text(glass: dict[str, Any], name: str) -> str:
    """Return the numbers of `predict_glass` in words; `name` is the positive class."""
    if not glass["patches"]:
        return "No patch is blank glass, so calls on glass are not known."
    patches, slides = pluralize(glass["patches"], "patch"), pluralize(glass["slides"], "slide")
    return (
        f"Blank glass ({patches} of {slides}, tissue below {100 * _LEAST_TISSUE:g} %): {100 * glass['positive']:.1f} % "
        f"are called {name}, mean probability {glass['probability']:.3f}."
    )
