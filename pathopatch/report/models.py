"""Answers how the models were trained, whether they still follow the tissue, and what everything was made of."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pandas as pd

from pathopatch.core.text import pluralize
from pathopatch.evaluation.compare import ERM_METHODS
from pathopatch.groups.attribute import training_label
from pathopatch.report.collect import Study, patients_in
from pathopatch.report.curves import training_histories
from pathopatch.report.findings import in_order, preferred, rows_at
from pathopatch.report.markup import Html, between, paragraph, picture, signed, table, tag, warning
from pathopatch.report.plots import probability_by_fraction

_MOST_PANELS = 4
_SETTINGS = (
    "architecture", "threshold", "seed", "steps", "batch_per_class", "optimizer", "learning_rate",
    "weight_decay", "c", "beta",
)  # fmt: skip
_STAGES = ("tile", "groups", "evaluate", "predict")
_OF_EXTRAPOLATION = ("c", "beta")
_EXTRAPOLATING = ("gerne", "gerne-unknown")  # gerne-auto has both fixed


def dependence_section(study: Study, pictures: dict[str, bytes]) -> Html:
    """Return how the probability depends on the tissue fraction within each class, ERM beside debiased runs."""
    if study.comparison is None or study.comparison.empty:
        return paragraph("No run has been evaluated yet, so this is not known.", kind="absent")
    split = str(study.comparison["split"].iloc[0])
    labels = study.attribute.label_names
    is_own = study.attribute.is_patch_attribute  # then the shortcut that was trained against is another
    steep = "says that the model follows the tissue too" if is_own else "is the shortcut at work"
    runs = runs_to_show(study)
    pictures["probability_by_tissue.png"] = probability_by_fraction(
        {run: study.predictions[run][study.predictions[run]["split"] == split] for run in runs},
        labels=labels,
    )
    rows = [
        (run, *(cell for told in study.evaluations[run]["splits"][split]["tissue_dependence"] for cell in _told(told)))
        for run in in_order(study.comparison, "trained_threshold")["run"].drop_duplicates()
    ]
    return tag(
        "div",
        paragraph(
            "Within one class the amount of tissue says nothing about the label. A model that ignores it has slope 0 "
            f"and rank correlation 0 there; a steep line {steep}. Some slope may remain where patches with little "
            "tissue are harder to read."
        ),
        picture(
            "probability_by_tissue.png",
            f"Predicted probability against tissue fraction within {' and '.join(labels)} patches, for "
            f"{', '.join(runs)}; slopes and rank correlations are in the table below.",
            f"Patches of the {split} split, coloured by probability (dark 0, yellow 1). Line: least squares. Diamonds: "
            "mean of each tenth of the tissue fraction. Shown: ERM and, of each other method, the run that validation "
            "prefers.",
        ),
        table(
            f"Slope of the probability per unit of tissue fraction, with 95 % interval by patient, and Spearman's rank "
            f"correlation with its own; {split} split.",
            (
                "run",
                *(
                    head
                    for label in study.attribute.label_names
                    for head in (f"slope within {label}", "rank correlation")
                ),
            ),
            rows,
        ),
    )


def _told(told: dict[str, Any]) -> tuple[Html, Html]:
    """Return slope and correlation of one class."""
    slope, low, high = (signed(told[name], 2) for name in ("slope", "slope_low", "slope_high"))
    ranks = (signed(told.get(f"spearman{end}"), 2) for end in ("", "_low", "_high"))
    return between(slope, low, high), between(*ranks)


def runs_to_show(study: Study) -> list[str]:
    """Return the ERM run and the one that validation prefers of each other method, at the first threshold."""
    if study.comparison is None or not study.thresholds:
        return []
    rows = rows_at(study, study.thresholds[0])
    best = preferred(rows)
    if best is None:
        return [str(run) for run in rows["run"].drop_duplicates()[:_MOST_PANELS]]
    erm = rows[rows["method"].isin(ERM_METHODS)]
    chosen = [] if (first := preferred(erm)) is None else [str(first["run"])]
    for method in rows.loc[~rows["method"].isin(ERM_METHODS), "method"].drop_duplicates():
        winner = preferred(rows[rows["method"] == method])
        if winner is not None:
            chosen.append(str(winner["run"]))
    return chosen[:_MOST_PANELS]


def training_section(study: Study, pictures: dict[str, bytes]) -> Html:
    """Return the training histories and the settings of each run."""
    if not study.configs and not study.histories:
        return paragraph("No run has been trained yet.", kind="absent")
    parts: list[Html] = []
    panels = _history_panels(study)
    if panels:
        pictures["histories.png"] = training_histories(panels)
        parts.append(
            picture(
                "histories.png",
                f"Worst-group and group-balanced accuracy on validation, and the training loss, over the steps of "
                f"{sum(map(len, panels.values()))} runs.",
                "A line a seed. Above: worst-group (WGA, red) and group-balanced accuracy (GBA, blue) on validation. "
                "Below: training loss; an extrapolated one may fall below 0. A WGA that falls after its best means "
                "overfitting to few patches.",
            )
        )
    rows = [
        (run, *(_setting(config, name) for name in _SETTINGS), _decision(study, run))
        for run, config in _configs_in_order(study)
    ]
    header = ("run", *(name.replace("_", " ") for name in _SETTINGS), "decision threshold")
    parts.append(table("Settings of each run. The decision threshold is on the logit.", header, rows, text_columns=2))
    return tag("div", *parts)


def _configs_in_order(study: Study) -> list[tuple[str, Mapping[str, Any]]]:
    """Return the runs' configurations by threshold, method and seed."""
    rows = pd.DataFrame({"run": list(study.configs)}, dtype=str)
    for name in ("threshold", "method", "seed"):
        rows[name] = [config.get(name) for config in study.configs.values()]
    return [(run, study.configs[run]) for run in in_order(rows, "threshold")["run"]]


def _history_panels(study: Study) -> dict[tuple[str, str], list[pd.DataFrame]]:
    """Return the histories by threshold and method, in the order of the report."""
    rows = [
        {
            "run": run,
            "threshold": training_label(study.configs.get(run, {})),
            "method": str(study.configs.get(run, {}).get("method", run)),
            "seed": int(study.configs.get(run, {}).get("seed", 0)),
        }
        for run, history in study.histories.items()
        if "step" in history and len(history)
    ]
    panels: dict[tuple[str, str], list[pd.DataFrame]] = {}
    for row in in_order(pd.DataFrame(rows), "threshold").to_dict("records") if rows else ():
        panels.setdefault((row["threshold"], row["method"]), []).append(study.histories[row["run"]])
    return panels


def _setting(config: Any, name: str) -> str:
    """Return a setting as text; those that a method does not use are a dash."""
    if name in _OF_EXTRAPOLATION and config.get("method") not in _EXTRAPOLATING:
        return "–"
    value = training_label(config) if name == "threshold" and config else config.get(name, "–")
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _decision(study: Study, run: str) -> str:
    """Return a run's decision threshold."""
    if study.folds is not None:
        return "of each fold"
    return signed(study.evaluations[run]["decision_threshold"], 3) if run in study.evaluations else "–"


def summary(study: Study) -> Html:
    """Return what was studied, in a few lines: cohort, thresholds, methods, settings and versions."""
    configs = study.configs.values()
    methods = in_order(pd.DataFrame({"method": sorted({str(config.get("method", "")) for config in configs})}))
    seeds = sorted({int(config.get("seed", 0)) for config in configs})
    slides, patients = (study.slides["slide_id"].nunique(), patients_in(study.slides)) if len(study.slides) else (0, 0)
    hashes = {stage: {s.config[:12] for s in study.stamps.values() if s.stage == stage} for stage in _STAGES}
    is_own = study.attribute.is_patch_attribute
    facts = {
        "Cohort": f"{pluralize(slides, 'slide')} of {pluralize(patients, 'patient')}",
        "Groups by the patches' own attribute": ", ".join(study.attribute.value_names) if is_own else "",
        "Tissue thresholds": "" if is_own else ", ".join(f"{cut:g}" for cut in study.thresholds),
        "Methods": ", ".join(methods["method"]),
        "Seeds": ", ".join(map(str, seeds)),
        "Config hashes": "; ".join(f"{stage} {', '.join(sorted(found))}" for stage, found in hashes.items() if found),
        "Made by": ", ".join(sorted({f"pathopatch {s.package_version}" for s in study.stamps.values()})),
    }
    return tag("dl", *(part for name, said in facts.items() if said for part in (tag("dt", name), tag("dd", said))))


def provenance_section(study: Study) -> Html:
    """Return which settings and inputs every artefact was made of."""
    if not study.stamps:
        return paragraph("No artefact with a stamp was found.", kind="absent")
    parts: list[Html] = []
    frame = pd.DataFrame(
        [(place, s.stage, s.config, s.package_version, s.schema_version) for place, s in study.stamps.items()],
        columns=["place", "stage", "config", "package", "schema"],
    )
    for stage in ("tile", "predict"):
        if frame.loc[frame["stage"] == stage, "config"].nunique() > 1:
            parts.append(warning(f"Stage {stage} ran with different settings on different slides."))
    rows = []
    for key, group in frame.groupby(["stage", "config", "package", "schema"], sort=False):
        stage_name, config, package, schema = key
        places = group["place"].tolist()
        where = places[0] if len(places) == 1 else f"{places[0]} and {len(places) - 1} more"
        rows.append((where, stage_name, tag("code", str(config)[:16] or "none"), package, schema))
    caption = "Config hash: the first 16 digits of the SHA-256 of the stage's settings. Equal hashes, equal settings."
    parts.append(table(caption, ("artefact", "stage", "config hash", "pathopatch", "schema"), rows, text_columns=4))
    return tag("div", *parts)
