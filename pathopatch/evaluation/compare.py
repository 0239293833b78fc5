"""Compare the evaluated runs, with what each gained or lost on every group against ERM, as a table and as text.

"ERM" is the better of plain ERM settings, class-balanced among them, by their mean validation WGA over seeds; of its
runs that of the same seed where there is one: see `reference_run`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from pathopatch.core.artefacts import read_table
from pathopatch.core.config import EvaluateConfig
from pathopatch.core.errors import InputMissingError
from pathopatch.core.files import read_json, write_csv
from pathopatch.core.work_folder import WorkFolder
from pathopatch.evaluation.evaluate import by_attribute, require_current
from pathopatch.evaluation.group_scores import null_to_nan, with_ends
from pathopatch.evaluation.predicting import require_these_groups
from pathopatch.evaluation.reference import (
    budget_of,
    gain_text,
    gains_of_row,
    measured_runs,
    reference_run,
    unequal_budgets_text,
)
from pathopatch.evaluation.run_settings import called_method, chosen_heads, describe_runs, read_config, run_settings
from pathopatch.evaluation.slide_scores import scores_by, scores_text
from pathopatch.evaluation.summary import summarise_runs
from pathopatch.groups import GroupingAttribute, bins_attributes, threshold_attributes, unit_noun
from pathopatch.groups.attribute import label_names, training_label
from pathopatch.metrics.equal_area import compared_text
from pathopatch.metrics.intervals import NO_INTERVAL

LEAST_PARTNERED = 0.5
"""Share of tumour patches with a partner at equal area below which it is said: they may not stand for the others."""
_MEASURES = ("wga", "gba", "average", "auroc")
_MASKS = {"none": "", "normalise": "masked", "interior": "crops within tissue"}
_WRITTEN = (
    "run", "method", "variant", "seed", "attribute", "split", "n", "unit", "patients", "smallest_group_n",
    "decision_threshold", "wga", "wga_low", "wga_high", "wga_at_zero", "wga_val", "gba", "auroc", "equal_area",
    "equal_area_low", "equal_area_high", "equal_area_even", "equal_area_floor", r"accuracy_\d+", "reference",
    "gain_seeds", "gain_wga", "gain_wga_low", "gain_wga_high", "gain_equal_area", "gain_equal_area_low",
    "gain_equal_area_high",
)  # fmt: skip


def compare(
    work: Path,
    runs: Sequence[str] | None = None,
    *,
    split: str | None = None,
    config: EvaluateConfig | None = None,
) -> pd.DataFrame:
    """Return one row per evaluated run and threshold, or set of bins, and write it in short as ``comparison.csv``.

    The file has what a person reads, see `written_columns`; the rest is in each run's evaluation. Beside it
    ``summary.csv``, ``.md`` and ``.tex`` have each setting over its seeds, see `summary`. `runs` are all evaluated ones
    by default. Of `split`, ``test`` if any run has it, else ``val`` (which flatters, since models and thresholds were
    picked on it), runs without it are left out.

    Columns: the run's settings and budget (see `describe_runs`, `budget_of`), ``trained_threshold`` and ``threshold``
    (NaN of bins), ``trained_attribute`` and ``attribute`` (by which the row is evaluated); wga, gba, average, auroc,
    equal_area, each with ``_low`` and ``_high``; ``equal_area_even`` and what else `equal_area` returns; ``left_out_0``
    and ``left_out_1``, patches of each label without a group; ``accuracy_g``, ``n_g``, ``patients_g`` of each group g;
    ``unit``, what intervals resample and ``patients`` count (patient or block); reference (the ERM run), and what
    `gains_of_row` returns over it.

    Raises
    ------
    InputMissingError
        No run is evaluated on that split, or a named one is not.
    StaleArtefactError
        A run was evaluated by groups that have been formed anew since, or by an earlier version.
    """
    table = comparison(work, runs, split=split, config=config)
    write_csv(work / "comparison.csv", written_columns(table))
    summarise_runs(work, table, config=config or EvaluateConfig()).write(work)
    return table


def written_columns(table: pd.DataFrame) -> pd.DataFrame:
    """Return a comparison with the columns of ``comparison.csv``: 34, and more where bins have more than four groups.

    They are settings, sizes of groups, WGA with its interval, at a decision threshold of 0 and on validation, GBA,
    AUROC, AUROC at equal area with its floor, the accuracy of each group, and the gains in WGA and at equal area; where
    units are blocks, ``unit`` says so.
    """
    if (table["unit"] == "patient").all():
        table = table.drop(columns="unit")
    return table[[name for form in _WRITTEN for name in table.columns if re.fullmatch(form, name)]]


def comparison(
    work: Path,
    runs: Sequence[str] | None = None,
    *,
    split: str | None = None,
    config: EvaluateConfig | None = None,
) -> pd.DataFrame:
    """Return what `compare` returns and write nothing; arguments and errors as there."""
    config = config or EvaluateConfig()
    names = evaluated_runs(work) if runs is None else list(runs)
    require_these_groups(work, names)
    splits = ("test", "val") if split is None else (split,)
    # The first split that any run has: all rows of a comparison are of one split.
    candidates = ([row for name in names for row in _rows_of(work, name, candidate)] for candidate in splits)
    rows = next((rows for rows in candidates if rows), [])
    if not rows:
        raise InputMissingError(
            f"no run is evaluated on split {' or '.join(splits)}",
            place=str(work / "runs"),
            remedy="run `pathopatch evaluate` first",
        )
    split = rows[0]["split"]
    table = pd.DataFrame(rows)
    settings_of = {name: run_settings(work, name) for name in table["run"].unique()}
    table = table.join(describe_runs(settings_of), on="run")
    path = WorkFolder(work).tiled.root / "study.json"
    study = read_json(path) if path.is_file() else {}
    listed = [*study.get("methods", ()), *(row["name"] for row in study.get("runs", ()))]
    place = {name: number for number, name in enumerate(listed)}
    table = table.sort_values("row", key=lambda names: names.map(place), kind="stable")  # others come last, by name
    table["reference"] = [reference_run(table, row) for _, row in table.iterrows()]
    measured = measured_runs(work, table, read_table(WorkFolder(work).groups), config)
    gains = [gains_of_row(row, table, measured) for _, row in table.iterrows()]
    table = pd.concat([table, pd.DataFrame(gains, index=table.index)], axis=1)
    return table.sort_values(["threshold", "method", "seed", "run"], kind="stable", ignore_index=True)


def evaluated_runs(work: Path) -> list[str]:
    """Return the names of the runs that have an evaluation, sorted."""
    return sorted(path.parent.parent.name for path in work.glob("runs/*/evaluation/metrics.json"))


def preferred_run(work: Path, *, threshold: float) -> str:
    """Return the name of the evaluated run that validation prefers at a tissue threshold; the test split plays no part.

    The WGA decides; ties go to the higher GBA, then to the first name. `InputMissingError` if no run is evaluated on
    validation at that threshold.
    """
    table = pd.DataFrame([row for name in evaluated_runs(work) for row in _rows_of(work, name, "val")])
    ranked = by_validation(table[table["threshold"] == threshold]) if len(table) else table
    if ranked.empty:
        raise InputMissingError(
            f"no run has a validation WGA at threshold {threshold:g}",
            place=str(work / "runs"),
            remedy="run `pathopatch evaluate`; validation needs labelled patches in all four groups",
        )
    return str(ranked["run"].iloc[0])


def by_validation(rows: pd.DataFrame) -> pd.DataFrame:
    """Return the rows of a comparison with a validation WGA, the highest first, then by GBA and name."""
    validated = rows[rows["wga_val"].notna()]
    return validated.sort_values(["wga_val", "gba_val", "run"], ascending=[False, False, True])


def comparison_text(work: Path, table: pd.DataFrame, contents: Mapping[str, Mapping[str, Any]] | None = None) -> str:
    """Return rows of `compare`, or of `rows_of` of one split, as a text table for a terminal.

    `contents` has the numbers of the split by run, by default those of the work folder's runs.
    """
    groups = read_table(WorkFolder(work).groups)
    if contents is None:
        runs = table[["run", "split"]].drop_duplicates().itertuples(index=False)
        contents = {
            run: read_json(WorkFolder(work).evaluation(run) / "metrics.json")["splits"][split] for run, split in runs
        }
    first = threshold_attributes(groups)[0]
    is_own, bins = first.is_patch_attribute, bins_attributes(groups)
    if is_own:  # all thresholds give the same groups, and bins of the tissue are of no interest
        table, bins = table[table["threshold"] == table["threshold"].min()], ()
    lines = [
        f"Split {table['split'].iloc[0]}, in percent; smallest group n = {table['smallest_group_n'].min()}",
        f"  {'tau':<5}{'run':<26} {'WGA [95 % interval]':<22} {'at 0':>5} {'GBA':>5} {'avg':>5} {'AUROC':>6} "
        f"{'at equal area':<22} {'groups from 0':<24} {'trials':>6} {'steps':>7}",
    ]
    gains = []
    for attribute, rows in table.groupby("attribute", sort=False):
        tau = "own" if is_own else str(attribute).split(" ")[0]
        lines += [f"  {tau:<5}{_text_row(row)}" for _, row in rows.iterrows()]
        lines.append("")
        texts = [(row["run"], gain_text(row, first)) for row in rows.to_dict("records") if "reference" in row]
        gains += [f"  {tau:<5}{run:<26} {text}" for run, text in texts if text]
    if gains:
        lines += [
            f"Gain over ERM, with its paired 95 % interval over {unit_noun(groups)}s and seeds:",
            *gains,
            "",
        ]
    for title, scores in scores_by(contents):
        reason = next(iter(scores.values()))["reason"]
        lines.append(f"{title}: {reason}" if reason else title)
        lines += [f"  {run:<26} {scores_text(own)}" for run, own in scores.items() if not own["reason"]]
        lines.append("")
    is_run = "search" in table  # a model from elsewhere has no search, and nothing was chosen for it here
    whose = "that validation chose" if is_run else "of the model"
    lines.append(f"WGA is at the decision threshold {whose}; at 0: WGA at a decision threshold of 0.")
    lines.append(_equal_area_text(table, label_names(groups)))
    if table[["wga_low", "equal_area_low"]].isna().any(axis=None):
        lines.append(f"[-, -]: no interval, {NO_INTERVAL.format(unit=unit_noun(groups))}.")
    if is_run:
        unequal = unequal_budgets_text(table["search"].tolist(), table["reference"].tolist())
        lines.append(f"Trials and steps: all that the search of a run took. {unequal}".rstrip())
        lines.append("What settings differ: comparison.csv, column variant.")
    meaning = "own, the patches' own attribute" if is_own else "tissue threshold"
    titles: list[tuple[str, GroupingAttribute]] = [(f"tau: {meaning}. Groups", first)]
    for title, by in (*titles, *(("Groups by bins", each) for each in bins)):
        names = "; ".join(f"{number} {group}" for number, group in enumerate(by.group_names))
        lines.append(f"{title}: {names}.")
    return "\n".join(lines)


def _rows_of(work: Path, name: str, split: str) -> list[dict[str, Any]]:
    """Return one row per attribute of one run; none if it was not evaluated on that split."""
    numbers = read_json(WorkFolder(work).evaluation(name) / "metrics.json")
    if split not in numbers["splits"]:
        return []
    require_current(numbers, WorkFolder(work).evaluation(name))
    return rows_of(numbers, split, {"run": name, **_about(work, name)})


def rows_of(numbers: Mapping[str, Any], split: str, about: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return one row per attribute of what is in a ``metrics.json``, each with what is known `about` the model."""
    content = numbers["splits"][split]
    at_equal_area, validation = content["equal_area"], by_attribute(numbers["splits"].get("val", {"thresholds": {}}))
    rows = []
    for label, scores in by_attribute(content).items():
        # Bins have no threshold; sorting puts their NaN last.
        threshold = float(label) if label in content["thresholds"] else float("nan")
        row: dict[str, Any] = {**about, "threshold": threshold, "attribute": label, "split": split}
        row |= {"unit": numbers["unit"]} | {
            key: scores[key] for key in ("n", "patients", "smallest_group_n", "decision_threshold")
        }
        for measure in _MEASURES:
            row |= with_ends(measure, *(scores[measure][end] for end in ("value", "low", "high")))
        row |= with_ends("equal_area", *(at_equal_area[end] for end in ("value", "low", "high")))
        rests_on = ("even", "floor", "caliper", "pairs", "partnered")
        row |= {f"equal_area_{key}": null_to_nan(at_equal_area[key]) for key in rests_on}
        row |= {f"left_out_{y}": n for y, n in enumerate(content["left_out"])}
        row["wga_at_zero"] = null_to_nan(scores["wga_at_zero"])
        for measure in ("wga", "gba"):
            row[f"{measure}_val"] = null_to_nan(validation[label][measure]["value"] if label in validation else None)
        for group in scores["groups"]:
            number = group["group"]
            row |= with_ends(f"accuracy_{number}", group["accuracy"], group["low"], group["high"])
            row |= {f"n_{number}": group["n"], f"patients_{number}": group["patients"]}
        rows.append(row)
    return rows


def _equal_area_text(table: pd.DataFrame, labels: tuple[str, ...]) -> str:
    """Return what AUROC at equal area compares and rests on, and which patches are in no number."""
    rows = table.sort_values("equal_area_partnered").to_dict("records")
    text = f"At equal area: AUROC among {compared_text(*table[['equal_area_caliper', 'equal_area_floor']].mean())}."
    if rows[0]["equal_area_partnered"] < LEAST_PARTNERED:
        text += f" Only {rows[0]['equal_area_partnered']:.0%} of {labels[1]} patches have such a partner."
    left_out = [int(table[f"left_out_{y}"].max()) for y in (0, 1)]
    if any(left_out):
        names = " and ".join(f"{n} {name}" for n, name in zip(left_out, labels, strict=True))
        text += f" In no number, as blank or hardly scanned: {names}."
    return text


def _about(work: Path, name: str) -> dict[str, Any]:
    """Return the settings that a run is compared by; a bundle from elsewhere has none and is its own method."""
    raw = read_config(WorkFolder(work).run(name))
    composed = raw.get("composing", {}).get("share") or raw.get("intervene")  # the latter of runs of 0.1.0
    method, mask = called_method(raw, name), _MASKS.get(raw.get("mask", "none"), "masked")
    trained = ", ".join(filter(None, [method, mask, "composed patches" if composed else ""]))
    return {
        "method": f"chosen: {' or '.join(chosen_heads(work, name)) or 'unknown'}" if raw.get("choose") else method,
        "row": raw.get("row_name") or method,
        "title": "plain training" if trained == "erm" else trained,
        "seed": int(raw.get("seed", 0)),
        "is_default": bool(raw.get("choose")) or method == "auto",  # of `train`: frozen, by steps
        "is_plain": trained == method,
        **budget_of(work, name, raw),
        "trained_threshold": float("nan") if raw.get("bins") else raw.get("threshold", float("nan")),
        "trained_attribute": training_label(raw),
    }


def _text_row(row: pd.Series[Any]) -> str:
    """Return one run's line of the text table, after its tau."""

    def text(name: str, form: str = ".1f", scale: float = 100) -> str:
        return f"{scale * row[name]:{form}}" if np.isfinite(row.get(name, np.nan)) else "-"

    interval = f"{text('wga')} [{text('wga_low')}, {text('wga_high')}]"
    ends = (text(f"equal_area{end}", ".3f", 1) for end in ("", "_low", "_high"))
    at_equal_area = "{} [{}, {}]".format(*ends)
    groups = [name for name in row.index if re.fullmatch(r"accuracy_\d+", str(name)) and np.isfinite(row[name])]
    accuracies = " ".join(f"{text(name):>5}" for name in groups)
    measures = " ".join(f"{text(name):>5}" for name in ("wga_at_zero", "gba", "average"))
    return (
        f"{row['run']:<26} {interval:<22} {measures} {text('auroc', '.3f', 1):>6} {at_equal_area:<22} "
        f"{accuracies:<24} {text('trials', '.0f', 1):>6} {text('search_steps', '.0f', 1):>7}"
    )
