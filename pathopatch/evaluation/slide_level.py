"""Evaluate classification at slide level: scores from patch predictions, AUROC by patients, and what tissue area tells.

A slide is one sample here, and patients are what intervals resample.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from pathopatch.core.artefacts import read_table
from pathopatch.core.errors import InputMissingError
from pathopatch.core.files import read_json
from pathopatch.core.work_folder import WorkFolder
from pathopatch.evaluation.predicting import require_these_groups, stored_predictions
from pathopatch.features.bags import Bag
from pathopatch.groups.shortcut import FLAGGED, NEGLIGIBLE, NOT_SHOWN, fraction_only
from pathopatch.metrics import auroc, bootstrap_by_patient
from pathopatch.metrics.bootstrap import auroc_of, ratio

VERDICTS = {FLAGGED: "SHORTCUT", NOT_SHOWN: "no shortcut is shown", NEGLIGIBLE: "no shortcut of any size"}
MEASURES = {
    "tissue_area": "tissue area of the slide",
    "tissue_fraction": "mean tissue fraction of its patches",
    "patches": "number of its patches",
}


def evaluated_runs(work: Path) -> list[str]:
    """Return the names of the runs whose patch predictions are stored, sorted."""
    return sorted(path.parent.parent.name for path in work.glob("runs/*/evaluation/predictions.parquet"))


def pooled_patch_predictions(work: Path, run: str, *, top_k: int) -> pd.DataFrame:
    """Return a score per test slide by the predictions of an evaluated run that learnt patch labels.

    Indexed by slide_id. ``top-k`` is the mean probability of the `top_k` patches of the highest, of which 0.5 is the
    run's decision threshold; of all where there are fewer. ``area`` is the share of the tissue that lies in patches
    predicted as tumour, NaN without tissue.

    Raises
    ------
    InputMissingError
        The run is not evaluated.
    StaleArtefactError
        It was evaluated by other groups than the present ones.
    """
    path = WorkFolder(work).evaluation(run) / "metrics.json"
    if not path.is_file():
        raise InputMissingError(f"run {run!r} is not evaluated", place=str(path), remedy="run pathopatch evaluate WORK")
    require_these_groups(work, [run])
    table = stored_predictions(work, run, "test")
    slide_of = read_table(WorkFolder(work).groups).set_index("patch_id")["slide_id"]
    margin = table["logit"].to_numpy(np.float64) - float(read_json(path)["decision_threshold"])
    patches = pd.DataFrame(
        {
            "slide_id": slide_of.loc[table.index].to_numpy(),
            "probability": 0.5 * (1 + np.tanh(0.5 * margin)),  # the logistic function; no exponential overflows
            "tissue": table["tissue_fraction"].to_numpy(np.float64),
        }
    )
    patches["positive"] = patches["tissue"] * (margin > 0)
    by_slide = patches.groupby("slide_id")
    highest = patches.sort_values("probability", ascending=False, kind="stable").groupby("slide_id").head(top_k)
    sums = by_slide[["positive", "tissue"]].sum()
    return pd.DataFrame(
        {
            "top-k": highest.groupby("slide_id")["probability"].mean(),
            "area": ratio(sums["positive"], sums["tissue"]),
            "patches": by_slide.size(),
        }
    )


def score_slides(predictions: pd.DataFrame, *, resamples: int) -> dict[str, Any]:
    """Return the AUROC over slides with its 95 % interval over patients, as plain values; None where unknown.

    `predictions` has a row per test slide: patient_id, label and probability.
    """
    label, score = predictions["label"].to_numpy(np.int64), predictions["probability"].to_numpy(np.float64)
    patient = predictions["patient_id"].to_numpy(dtype=str)
    low, high = bootstrap_by_patient(auroc_of(score, label), patient, resamples=resamples)
    numbers = {"auroc": auroc(score, label), "auroc_low": low, "auroc_high": high}
    sizes = {"slides": len(label), "positive": int(label.sum()), "patients": len(set(patient))}
    return sizes | {name: None if np.isnan(value) else value for name, value in numbers.items()}


def tissue_alone(bags: Sequence[Bag], *, resamples: int) -> dict[str, dict[str, Any]]:
    """Return how well the tissue of a slide alone tells its label, by measure, as `fraction_only` returns it.

    ``tissue_area`` is the sum of the tissue fractions of its patches, which all have one physical size;
    ``tissue_fraction`` their mean. Where a fraction is not known, ``patches`` is in place of both: their number.
    """
    label = np.array([bag.label for bag in bags], dtype=np.int64)
    patient = np.array([bag.patient_id for bag in bags])
    area = np.array([bag.tissue_fraction.sum() for bag in bags])
    size = np.array([len(bag) for bag in bags], dtype=np.float64)
    measures = {"patches": size} if np.isnan(area).any() else {"tissue_area": area, "tissue_fraction": area / size}
    return {name: fraction_only(label, value, patient, resamples=resamples) for name, value in measures.items()}


def slide_level_text(results: Mapping[str, Any]) -> str:
    """Return the content of ``results.json`` in words and one table, for a terminal."""
    lines = [results["summary"], *results["notes"], ""]
    if not results["methods"]:
        return "\n".join([*lines, "No slide has a label: the AUROC is not known."])
    lines.append(f"  {'pooling':<12}{'run':<28}{'slides':>7}{'positive':>10}{'patients':>10}  AUROC [95 % interval]")
    lines += [
        f"  {row['pooling']:<12}{row['run'] or 'trained on slide labels':<28}{row['slides']:>7}{row['positive']:>10}"
        f"{row['patients']:>10}  {_interval(row)}"
        for row in results["methods"]
    ]
    if len({(row["slides"], row["positive"]) for row in results["methods"]}) > 1:
        lines.append("  The rows are not of the same slides: compare them with care.")
    lines += ["", "How well tissue alone tells the slide's label (all labelled slides):"]
    lines += [_tissue_line(name, result) for name, result in results["tissue_alone"].items()]
    return "\n".join(lines)


def _tissue_line(name: str, result: Mapping[str, Any]) -> str:
    verdict = VERDICTS.get(result["verdict"], "not known: too few patients for a verdict")
    return f"  {MEASURES[name]:<36} AUROC {_interval(result)}: {verdict}"


def _interval(result: Mapping[str, Any]) -> str:
    if result["auroc"] is None:
        return "unknown: one label only"
    low, high = result["auroc_low"], result["auroc_high"]
    return f"{result['auroc']:.3f}" + ("" if low is None else f" [{low:.3f}, {high:.3f}]")
