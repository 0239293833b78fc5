"""Collect what the report shows of the models: calibration, training and provenance."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd

from pathopatch.core.text import pluralize
from pathopatch.debias.methods import extrapolates
from pathopatch.evaluation.area_reliance import limits_text, verdict_text
from pathopatch.evaluation.external_validation import glass_text
from pathopatch.evaluation.group_scores import smallest_group, with_ends
from pathopatch.evaluation.reference import is_plain_erm
from pathopatch.evaluation.run_settings import settings_note
from pathopatch.groups import PatchAttribute, TissueBins, TissueThreshold, slides_of, units_of
from pathopatch.groups.attribute import SOURCE_SLIDE, training_label
from pathopatch.report.cells import signed
from pathopatch.report.collect import Study, patients_in
from pathopatch.report.plots import reliability
from pathopatch.report.results import by_validation, in_order, preferred, rows_at

_MOST_PANELS = 4  # more in a row are too narrow to read
_SETTINGS = (
    "architecture", "threshold", "seed", "steps", "batch_per_class", "optimizer", "learning_rate", "weight_decay", "c",
    "beta",
)  # fmt: skip
_EXTRAPOLATION_SETTINGS = ("c", "beta")


def summary(study: Study) -> dict[str, Any]:
    """Return what the report is about: cohort, thresholds, methods, seeds and versions."""
    configs, attribute = study.configs.values(), study.attribute
    methods = in_order(pd.DataFrame({"method": sorted({str(config.get("method", "")) for config in configs})}))
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
    }


def runs_to_show(study: Study) -> list[str]:
    """Return the preferred run at the first threshold, its plain one, and the best runs of other settings, at most 4.

    They are those of every picture of the page, and so in its order.
    """
    if study.comparison is None or not study.thresholds:
        return []
    rows = rows_at(study, study.thresholds[0])
    best, is_erm = preferred(rows), is_plain_erm(rows)
    if best is None:
        return [str(run) for run in rows["run"].drop_duplicates()[:_MOST_PANELS]]
    plain = [best["reference"]] if best["reference"] in set(rows["run"]) else by_validation(rows[is_erm])["run"][:1]
    others = by_validation(rows[~is_erm]).drop_duplicates("settings_key")["run"]
    chosen = [*plain, *others][:_MOST_PANELS]
    return [str(run) for run in rows["run"].drop_duplicates() if run in chosen]


def calibration(study: Study) -> dict[str, Any]:
    """Return how well the probabilities of some runs are calibrated, with little tissue and with much."""
    split = study.split
    contents = {run: study.evaluations[run]["splits"].get(split, {}) for run in runs_to_show(study)}
    contents = {run: content for run, content in contents.items() if "calibration" in content}
    return _calibration(contents, study.attribute, "reliability.png") if contents else {}


def _smallest_of(scores: Mapping[str, Any]) -> dict[str, int]:
    """Return patches and patients of the smallest group of an evaluation."""
    groups = scores["groups"]
    return smallest_group({f"{kind}_{group['group']}": group[kind] for kind in ("n", "patients") for group in groups})


def _calibration(
    contents: Mapping[str, Mapping[str, Any]], attribute: TissueThreshold | PatchAttribute, file: str
) -> dict[str, Any]:
    """Return the calibration of some models on a split, each before and, where it has one, after its temperature."""
    scopes = []
    for run, content in contents.items():
        kinds = content["calibration"]
        for kind, numbers in kinds.items():
            at = numbers["thresholds"][attribute.key]
            model = {"model": f"{run}, {kind} its temperature" if len(kinds) > 1 else run}
            scopes += [
                {**model, **row, "scope": scope}
                for scope, row in zip(("all", *attribute.value_names), (numbers["all"], *at["attributes"]), strict=True)
            ]
    # The bundle applies the temperature, so the diagram shows the probabilities after it.
    kinds_of = {run: content["calibration"] for run, content in contents.items()}
    in_use = {run: kinds.get("after", kinds["before"]) for run, kinds in kinds_of.items()}
    diagram = reliability(
        {run: numbers["thresholds"][attribute.key]["attributes"] for run, numbers in in_use.items()},
        names=attribute.value_names,
        tumor=attribute.label_names[1],
    )
    return {
        "file": file,
        "runs": list(contents),
        "tumor": attribute.label_names[1],
        "at": attribute.phrase,
        "by": attribute.description,
        "scopes": scopes,
        "pictures": {file: diagram},
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
    return {"models": models, "limits": limits} if models else {}


def asked_page(place: Path) -> str:
    """Return where a report keeps the page of a result in a folder."""
    return f"area-reliance/{place.name}.html"


def external_validation(study: Study) -> dict[str, Any]:
    """Return the results of models of other studies on this cohort."""
    pictures: dict[str, bytes] = {}
    models = []
    for number, (name, numbers) in enumerate(study.external_validations.items(), 1):
        splits = [
            _external_split(name, split, content, study.attribute, f"external_{number}_{place}")
            for place, (split, content) in enumerate(numbers["splits"].items(), 1)
        ]
        for split in splits:
            pictures |= split["calibration"]["pictures"]
        models.append(
            {
                "name": name,
                "about": numbers["bundle"],
                "warnings": numbers["warnings"],
                "glass": glass_text(numbers["glass"], numbers["bundle"]["positive_class"]),
                "attributes": _external_attributes(numbers["splits"], study.attribute),
                "splits": splits,
            }
        )
    return {"models": models, "pictures": pictures} if models else {}


def _external_attributes(
    splits: Mapping[str, Any], attribute: TissueThreshold | PatchAttribute
) -> list[dict[str, Any]]:
    """Return the accuracies of one model by each attribute: the thresholds, then the bins."""
    first = next(iter(splits.values()))
    is_own, labels = attribute.is_patch_attribute, attribute.label_names
    by_threshold = [replace(attribute, tau=float(key)) for key in list(first["thresholds"])[: 1 if is_own else None]]
    by_bins = [] if is_own else [TissueBins.from_key(key, label_names=labels) for key in first["bins"]]
    return [
        {
            "by": by.description,
            "rows": [{"split": split, **scores, **_smallest_of(scores)} for split, scores in at.items()],
            "groups": [
                {**group, "split": split, "name": f"{group['group']} {by.group_names[group['group']]}", **ends}
                for split, scores in at.items()
                for group in scores["groups"]
                for ends in [with_ends("accuracy", group["accuracy"], group["low"], group["high"])]
            ],
        }
        for kind, attributes in (("thresholds", by_threshold), ("bins", by_bins))
        for by in attributes
        for at in [{split: content[kind][by.key] for split, content in splits.items() if content[kind][by.key]}]
    ]


def _external_split(
    name: str, split: str, content: Mapping[str, Any], attribute: TissueThreshold | PatchAttribute, stem: str
) -> dict[str, Any]:
    """Return ranking and calibration of one model on one split."""
    key, accuracies = next(iter(content["thresholds"].items()))
    attribute = replace(attribute, tau=float(key))
    return {
        "split": split,
        "auroc": accuracies["auroc"],
        "equal_area": content["equal_area"],
        "floor": content["equal_area"]["floor"],
        **{name: accuracies[name] for name in ("n", "patients")},
        **{f"{name}_fraction": content["fraction_only"][name] for name in ("n", "patients")},
        **{f"fraction_auroc{end}": content["fraction_only"][f"auroc{end}"] for end in ("", "_low", "_high")},
        "calibration": _calibration({name: content}, attribute, f"{stem}_reliability.png"),
    }


def training(study: Study) -> dict[str, Any]:
    """Return the settings of each run."""
    if not study.configs:
        return {}
    rows = pd.DataFrame({"run": list(study.configs)}, dtype=str)
    for name in ("threshold", "method", "seed"):
        rows[name] = [study.configs[run].get(name) for run in rows["run"]]
    return {
        "n_searches": len(study.trials),
        "runs": [
            {
                "run": run,
                **{name: _setting_text(study.configs[run], name) for name in _SETTINGS},
                "note": settings_note(*map(str, study.run_variants.loc[run, ["variant", "rerun_of"]])),
                "decision": "of each fold"
                if study.folds is not None
                else signed(study.evaluations.get(run, {}).get("decision_threshold"), 3),
            }
            for run in in_order(rows, "threshold")["run"]
        ],
    }


def _setting_text(config: Mapping[str, Any], name: str) -> str:
    """Return a setting as text; a dash if the method does not use it."""
    if name in _EXTRAPOLATION_SETTINGS and not extrapolates(config.get("method", "")):
        return "–"
    own = config.get("gerne", config) if name in _EXTRAPOLATION_SETTINGS else config
    value = training_label(config) if name == "threshold" and config else own.get(name, "–")
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def provenance(study: Study) -> dict[str, Any]:
    """Return the configuration and version behind every artefact; artefacts of equal ones share a row."""
    if not study.stamps:
        return {}
    frame = pd.DataFrame(
        [(place, s.stage, s.config, s.package_version, s.schema_version) for place, s in study.stamps.items()],
        columns=["place", "stage", "config", "package", "schema"],
    )
    # Slides of one cohort may come from several calls of tile or predict.
    configs_of = frame.groupby("stage")["config"].nunique()
    keys = ["stage", "config", "package", "schema"]
    return {
        "mixed_stages": [stage for stage in ("tile", "predict") if configs_of.get(stage, 0) > 1],
        "rows": [
            {
                **dict(zip(keys, key, strict=True)),
                "artefact": rows["place"].iloc[0] + (f" and {len(rows) - 1} more" if len(rows) > 1 else ""),
                "hash": rows["config"].iloc[0][:16] or "none",
            }
            for key, rows in frame.groupby(keys, sort=False)
        ],
    }
