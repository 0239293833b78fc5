"""Collect the first page of a study's report: the answer, on what it rests, and what to beware of."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pandas as pd

from pathopatch.core.text import capitalize_first
from pathopatch.evaluation.compare import by_validation
from pathopatch.evaluation.group_scores import LEAST_PATCHES, n_groups_of, smallest_group, too_few_of
from pathopatch.evaluation.reference import gain_verdict, is_plain_erm, lead_of, measured_text
from pathopatch.groups import GroupingAttribute
from pathopatch.groups.audit import verdict_text
from pathopatch.metrics.bootstrap import LEAST_SEEDS
from pathopatch.report.answer_picture import answer_picture
from pathopatch.report.cohort_section import patients_in_several_splits, slide_problems
from pathopatch.report.collect import Study
from pathopatch.report.models import runs_to_show
from pathopatch.report.results import preferred, rows_at, validation_groups

_MEASURES = (
    "run", "title", "is_default", "wga", "wga_low", "wga_high", "wga_at_zero", "average", "auroc", "equal_area",
    "equal_area_low", "equal_area_high", "equal_area_caliper", "equal_area_floor", "reference", "gain_wga",
    "gain_wga_low", "gain_wga_high",
)  # fmt: skip


def answer(study: Study) -> dict[str, Any]:
    """Return per threshold plain training, the default and the run that validation prefers, a picture, and limits."""
    cards = [_card(rows, by) for by in study.attributes if len(rows := rows_at(study, by.tau))]
    names, validated = study.attribute.group_names, validation_groups(study, study.attribute)
    picture = answer_picture(study, _pair(study)) if cards else {}
    return {
        "problems": slide_problems(study),
        "shared_patients": patients_in_several_splits(study.slides) if len(study.slides) else [],
        "card": cards[0] if cards else None,
        "further": cards[1:],
        "empty_in_validation": [names[group["group"]] for group in validated if not group["n"]],
        "worst_groups": [_worst_group_row(card, model) for card in cards for model in card["models"]],
        "picture": picture,
        "pictures": {picture["file"]: picture.pop("png")} if picture else {},
        "verdict": None if study.audit is None else verdict_text(study.audit),
        "is_flagged": study.audit is not None and study.audit["verdict"]["is_flagged"],
        "limits": _limits(study),
        "untrained": study.untrained,
    }


def _pair(study: Study) -> dict[str, str]:
    """Return the plain run and the other one to look at, of the first threshold, by title; fewer if there is none."""
    rows = rows_at(study, study.thresholds[0])
    shown = rows[rows["run"].isin(runs_to_show(study))]
    # Of the other runs the one that validation prefers comes before the rest.
    ranked = pd.concat([by_validation(shown), shown]).assign(is_plain=is_plain_erm)
    pair = ranked.drop_duplicates("is_plain").sort_values("is_plain", ascending=False)
    return {f"{capitalize_first(title)} ({run})": run for title, run in zip(pair["title"], pair["run"], strict=True)}


def _card(rows: pd.DataFrame, attribute: GroupingAttribute) -> dict[str, Any]:
    """Return the answer at one threshold: reference, default and preferred run (all if none is), and the outcome."""
    best = preferred(rows)
    by_run = {row["run"]: row for row in rows.to_dict("records")}
    reference = by_run.get(best["reference"]) if best and best["reference"] != best["run"] else None
    shown = [reference, preferred(rows[rows["is_default"]]), best] if best else by_run.values()
    names = attribute.group_names
    first = rows.to_dict("records")[0]
    places = {f"group {group}": name for group, name in enumerate(names)} | {"all": "all groups together"}
    reasons = too_few_of(first)
    few = [{"name": places[place], "reason": reason} for place, reason in reasons.items()]
    card = {
        "by": attribute.description,
        "best": best,
        "models": [_model(row, names) for row in {row["run"]: row for row in shown if row}.values()],
        "reference": reference,
        "few": few,
        "has_few_blocks": "all" in reasons and first.get("unit") == "block",
        **smallest_group(first),
        "split": first["split"],
        "n": first["n"],
        "patients": first["patients"],
        "left_out": [first[f"left_out_{label}"] for label in (0, 1)],
    }
    if best is None:
        return card | {"outcome": "not chosen", "lead": "", "measured": ""}
    # A plain run that is not shown here, such as one of another threshold, is no comparison on this page.
    is_alone = reference is None and best["reference"] != best["run"]
    outcome = gain_verdict({**best, "reference": ""} if is_alone else best)
    measured = "" if reference is None or outcome == "empty group" else measured_text(best, attribute)
    return card | {"outcome": outcome, "lead": lead_of(outcome, attribute), "measured": measured}


def _model(row: Mapping[Any, Any], names: tuple[str, ...]) -> dict[str, Any]:
    """Return a run's worst-group accuracy, and which group it is; of equal ones the first."""
    accuracy = [row[f"accuracy_{group}"] for group in range(n_groups_of(row))]
    worst = None if pd.isna(row["wga"]) else min(range(len(accuracy)), key=lambda group: accuracy[group])
    group = (
        None if worst is None else {"name": names[worst], "n": row[f"n_{worst}"], "patients": row[f"patients_{worst}"]}
    )
    return {**{name: row[name] for name in _MEASURES}, "worst": group}


def _worst_group_row(card: Mapping[str, Any], model: Mapping[str, Any]) -> dict[str, Any]:
    """Return a model's worst group at one threshold as a row, with its gain where it has a reference."""
    has_gain = model["reference"] not in ("", model["run"])
    return {
        **model,
        **{name: card[name] for name in card if name in ("by", "n", "patients") or name.endswith("_smallest")},
        "model": f"{model['title']}: {model['run']}{', the default' if model['is_default'] else ''}",
        "worst": model["worst"] and model["worst"]["name"],
        **{f"gain_wga{end}": model[f"gain_wga{end}"] if has_gain else None for end in ("", "_low", "_high")},
    }


def _limits(study: Study) -> dict[str, Any]:
    """Return what weakens the numbers; empty before any evaluation."""
    table = study.comparison
    if table is None:
        return {}
    seeds = table[table["rerun_of"] == ""].groupby("settings_key")["seed"].nunique()
    sizes = {by.phrase: [group["n"] for group in validation_groups(study, by)] for by in study.attributes}
    return {
        "validation_groups": [{"at": at, "n": min(n)} for at, n in sizes.items() if n and min(n) < LEAST_PATCHES],
        "fewest_seeds": int(seeds.min()),
        "few_seeds": LEAST_SEEDS,
        "has_unequal_budgets": (table["steps"] * table["batch_per_class"]).nunique() > 1,
        "has_erm": is_plain_erm(table).any(),
        "is_validation_only": (table["split"] != "test").any(),
    }
