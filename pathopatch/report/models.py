"""Collect what the report shows of the models: calibration, reliance on area, and models of other studies."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd

from pathopatch.core.text import pluralize
from pathopatch.evaluation.area_reliance import limits_text, verdict_text
from pathopatch.evaluation.compare import by_validation, rows_of
from pathopatch.evaluation.group_scores import smallest_group
from pathopatch.evaluation.reference import is_plain_erm
from pathopatch.evaluation.run_settings import called_method
from pathopatch.groups import slides_of, units_of
from pathopatch.groups.attribute import SOURCE_SLIDE
from pathopatch.report.collect import Study, patients_in
from pathopatch.report.plots import reliability_plot, response_curves
from pathopatch.report.results import preferred, rows_at, runs_in_order

_MOST_PANELS = 4  # more in a row are too narrow to read


def models_summary(study: Study) -> dict[str, Any]:
    """Return what the report is about: cohort, thresholds, methods, seeds and versions."""
    configs, attribute = study.configs.values(), study.attribute
    methods = runs_in_order(pd.DataFrame({"method": sorted({called_method(config) for config in configs})}))
    groups = study.groups
    listed = groups if groups is not None and SOURCE_SLIDE in groups else study.slides
    return {
        "slides": slides_of(listed).nunique() if len(listed) else 0,
        "patients": patients_in(study.slides),
        "blocks": 0 if groups is None else units_of(groups).nunique(),
        "attribute_values": attribute.value_names,
        "thresholds": [f"{threshold:g}" for threshold in study.thresholds],
        "methods": list(methods["method"]),
        "seeds": sorted({int(config.get("seed", 0)) for config in configs}),
        "versions": sorted({stamp.package_version for stamp in study.stamps.values()}),
        # Slides of one cohort may come from several calls. Stamps of `tile` hold each slide's own facts too.
        "are_predictions_mixed": len({s.config for s in study.stamps.values() if s.stage == "predict"}) > 1,
    }


def runs_to_show(study: Study) -> list[str]:
    """Return at the first threshold the preferred run, its plain one, the default, and others by validation, at most 4.

    They are those of every picture of the page, and so in its order.
    """
    if study.comparison is None or not study.thresholds:
        return []
    rows = rows_at(study, study.thresholds[0])
    best, is_erm = preferred(rows), is_plain_erm(rows)
    if best is None:
        return [str(run) for run in rows["run"].drop_duplicates()[:_MOST_PANELS]]
    plain = [best["reference"]] if best["reference"] in set(rows["run"]) else by_validation(rows[is_erm])["run"][:1]
    others = list(by_validation(rows[~is_erm]).drop_duplicates("settings_key")["run"])
    default = by_validation(rows[rows["is_default"]])["run"][:1]
    chosen = list(dict.fromkeys([*plain, *others[:1], *default, *others]))[:_MOST_PANELS]
    return [str(run) for run in rows["run"].drop_duplicates() if run in chosen]


def calibration(study: Study) -> dict[str, Any]:
    """Return how well the probabilities of some runs are calibrated, with little tissue and with much."""
    contents = {run: study.evaluations[run]["splits"].get(study.split, {}) for run in runs_to_show(study)}
    curves = {run: content["reliability"] for run, content in contents.items() if "reliability" in content}
    if not curves:
        return {}
    attribute, file = study.attribute, "reliability.png"
    tumor = attribute.label_names[1]
    return {
        "file": file,
        "runs": list(curves),
        "at": attribute.phrase,
        "by": attribute.description,
        "pictures": {file: reliability_plot(curves, names=attribute.value_names, tumor=tumor)},
    }


def area_reliance(study: Study) -> dict[str, Any]:
    """Return the verdicts of `pathopatch audit-model` that were written into the work folder."""
    models = [
        {
            "name": place.name,
            "verdict": verdict_text(dict(result)),
            **{name: result.get(name) for name in ("slides", "patches", "date")},
            "units": pluralize(result["patients"], result.get("unit", "patient")),
            # Of a verdict NOT KNOWN the measures are no finding; the model's own page has them.
            **{
                name: None if result["verdict"] == "not known" else result.get(name, {}).get("value")
                for name in ("eta", "adj", "largest")
            },
            "file": asked_page(place),
        }
        for place, result in study.asked.items()
    ]
    limits = max(
        (limits_text(result) for result in study.asked.values()), key=len, default=""
    )  # of the fewest patients
    # Plain training comes first: the others are seen beside it.
    curves = {place.name: result for place, result in study.asked.items() if "curve" in result}
    shown = dict(sorted(curves.items(), key=lambda item: not item[0].startswith("erm-"))[:_MOST_PANELS])
    pictures = {"area_response.png": response_curves(shown)} if shown else {}
    return {"models": models, "limits": limits, "pictures": pictures} if models else {}


def asked_page(place: Path) -> str:
    """Return where a report keeps the page of a result in a folder."""
    return f"area-reliance/{place.name}.html"


def external_validation(study: Study) -> dict[str, Any]:
    """Return the results of models of other studies on this cohort."""
    models = []
    for name, numbers in study.external_validations.items():
        rows = [row for split in numbers["splits"] for row in rows_of(numbers, split, {"run": name})]
        models.append(
            {
                "name": name,
                "about": numbers["bundle"],
                "warnings": numbers["warnings"],
                "attributes": [
                    {"by": by.description, "groups": by.group_names, "rows": at}
                    for by in (*study.attributes, *study.bins)
                    if (at := [{**row, **smallest_group(row)} for row in rows if row["attribute"] == by.label])
                ],
            }
        )
    return {"models": models} if models else {}
