"""Score slides and patients: by the mean logit of their patches, and by the share of their tissue called tumour.

A slide or patient is scored where its predicted patches have one label. Under folds only pairs within one fold are
compared, since the logits of two models have no common scale; the AUROC over all pairs stands beside it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd

from pathopatch.core.patients import BLOCK
from pathopatch.core.text import pluralize
from pathopatch.evaluation.group_scores import answers
from pathopatch.groups import slides_of, units_of
from pathopatch.groups.attribute import LABEL_NAMES
from pathopatch.metrics.accuracy import auroc
from pathopatch.metrics.bootstrap import effective_count
from pathopatch.metrics.equal_area import auroc_at_equal_area
from pathopatch.metrics.intervals import mann_whitney_interval

SCORED = ("slide", "patient")
_SCORES = {"auroc": "mean_logit", "auroc_of_share": "positive_share"}
_EQUAL = 5e-4  # AUROCs that print alike


def slide_rows(predictions: pd.DataFrame, groups: pd.DataFrame, *, of: str, decision_threshold: float) -> pd.DataFrame:
    """Return a row for each slide or patient of some predictions, by name; patches without an answer are left out.

    Columns: its name (slide_id or patient_id), unit (see `units_of`), block where the groups have blocks, slides, label
    (NaN where the patches have both labels, or are of several units or folds), patches, tissue (the sum of the tissue
    fractions), mean_logit, mean_probability, positive_share (of the tissue, the share above the decision threshold; NaN
    without tissue) and, where several folds are pooled, fold.
    """
    about = groups.assign(slide_id=slides_of(groups), unit=units_of(groups)).set_index("patch_id")
    about = about[[name for name in ("slide_id", "patient_id", "unit", BLOCK) if name in about]]
    judged = predictions[answers(predictions)].drop(columns=about.columns, errors="ignore").join(about, on="patch_id")
    judged["positive"] = judged["tissue_fraction"].where(judged["logit"] > decision_threshold, 0)
    by_name = judged.groupby(f"{of}_id", sort=True)
    constant = [name for name in ("label", "unit", "fold") if name in judged]
    has_one = (by_name[constant].nunique() == 1).all(axis=1)
    total, positive = (by_name[name].sum(skipna=False) for name in ("tissue_fraction", "positive"))
    rows = {
        "unit": by_name["unit"].first(),
        **({BLOCK: by_name[BLOCK].agg(lambda blocks: " ".join(sorted(set(blocks))))} if BLOCK in judged else {}),
        "slides": by_name["slide_id"].nunique(),
        "label": by_name["label"].first().where(has_one),
        "patches": by_name.size(),
        "tissue": total,
        "mean_logit": by_name["logit"].mean(),
        "mean_probability": by_name["probability"].mean(),
        "positive_share": positive / total.where(total > 0),
        **({"fold": by_name["fold"].first()} if "fold" in judged else {}),
    }
    return pd.DataFrame(rows).reset_index()


def score_slides(
    predictions: pd.DataFrame, groups: pd.DataFrame, *, of: str, decision_threshold: float
) -> dict[str, Any]:
    """Return how well the slides, or patients, of some predictions are told apart, with intervals by unit.

    Returns
    -------
    dict
        `n` and `n_tumor` with one label, and `left_out` with two, or of several units or folds; `auroc` of the mean
        logit and `auroc_of_share` of the positive share of the tissue: `value`, `low`, `high` and `pooled`, which takes
        pairs of two folds as well; `accuracy` of the mean logit at the decision threshold; `reason`, why an AUROC is
        not known, else "". What is not known is None.
    """
    rows = slide_rows(predictions, groups, of=of, decision_threshold=decision_threshold)
    one = rows[rows["label"].notna()].reset_index(drop=True)
    folds = one.groupby(one["fold"] if "fold" in one else np.zeros(len(one)))
    label = one["label"].to_numpy(np.int64)
    units = [  # of each label and fold: slides of one patient count as one
        [effective_count(part.loc[label[part.index] == y, "unit"]) for _, part in folds] for y in (1, 0)
    ]
    # Without an area, every two of one fold are a pair.
    pairs: dict[str, Any] = {"label": label, "fraction": np.zeros(len(one)), "stratum": one.get("fold")}
    scores: dict[str, Any] = {"n": len(one), "n_tumor": int(label.sum()), "left_out": len(rows) - len(one)}
    for name, column in _SCORES.items():
        score = one[column].to_numpy(np.float64)
        ends = dict.fromkeys(("value", "low", "high", "pooled"), float("nan"))
        if np.isfinite(score).all():
            value = auroc_at_equal_area(score, **pairs).value
            low, high = mann_whitney_interval(value, *units, units=effective_count(one["unit"]))
            ends = {"value": value, "low": low, "high": high, "pooled": auroc(score, label)}
        scores[name] = {end: None if np.isnan(value) else value for end, value in ends.items()}
    is_right = (one["mean_logit"].to_numpy(np.float64) > decision_threshold) == (label == 1)
    scores["accuracy"] = float(is_right.mean()) if len(one) else None
    return scores | {"reason": _reason(scores, of)}


def _reason(scores: Mapping[str, Any], of: str) -> str:
    """Return why slides or patients have no AUROC; empty if they have one."""
    n, n_tumor = scores["n"], scores["n_tumor"]
    if not n:
        return f"no {of} has patches of one label"
    if n_tumor in (0, n):
        return f"{pluralize(n, of)} with one label, and all are {LABEL_NAMES[n_tumor > 0]}"
    return f"no fold has {of}s of both labels" if scores["auroc"]["value"] is None else ""


def scores_text(scores: Mapping[str, Any]) -> str:
    """Return what `score_slides` returned as a line of text, but for its numbers of slides."""
    parts = []
    for name, words in (("auroc", "AUROC of the mean logit"), ("auroc_of_share", "of the positive share of tissue")):
        value, low, high, pooled = (scores[name][end] for end in ("value", "low", "high", "pooled"))
        if value is not None:
            ends = "" if low is None else f" [{low:.3f}, {high:.3f}]"
            if value == 1 and low is not None:
                ends = f" (all pairs right, at least {low:.3f} by 95 %)"
            is_within = pooled is not None and abs(pooled - value) > _EQUAL
            parts.append(f"{words} {value:.3f}{ends}" + (f" (pooled {pooled:.3f})" if is_within else ""))
    if scores["accuracy"] is not None:
        parts.append(f"accuracy of the mean logit {100 * scores['accuracy']:.1f} %")
    return ", ".join(parts)


def scores_by(contents: Mapping[str, Mapping[str, Any]]) -> list[tuple[str, dict[str, dict[str, Any]]]]:
    """Return a title and the scores of each run, by slide and by patient, of the numbers of one split by run.

    Where each patient has one slide, slides are left out: their scores are the same.
    """
    found = {of: {run: each[f"by_{of}"] for run, each in contents.items()} for of in SCORED}
    numbers = [{run: own | {"reason": ""} for run, own in scores.items()} for scores in found.values()]
    parts = []
    for of, scores in found.items():
        if scores and not (of == "slide" and numbers[0] == numbers[1]):
            first = next(iter(scores.values()))
            left_out = f"; {first['left_out']} left out, with two labels" if first["left_out"] else ""
            title = f"By {of} ({pluralize(first['n'], of)} with one label, {first['n_tumor']} tumour{left_out})"
            parts.append((title, scores))
    return parts
