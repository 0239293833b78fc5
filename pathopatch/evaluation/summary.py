"""Summarise runs for a paper: each row over its seeds, and every two rows compared, as CSV, Markdown and LaTeX.

Intervals over patients are those of each run, and the spread over seeds is added: see `over_repetitions`. Differences
of two rows are paired by patient and by seed.
"""

from __future__ import annotations

import csv
import subprocess
import sys
import textwrap
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from pathopatch.core.artefacts import fingerprint, read_table
from pathopatch.core.config import LINEAR_HEAD, EvaluateConfig
from pathopatch.core.csv_table import csv_text
from pathopatch.core.files import write_bytes
from pathopatch.core.patients import BLOCK, SPLITS
from pathopatch.core.text import pluralize
from pathopatch.core.version import __version__
from pathopatch.core.work_folder import WorkFolder
from pathopatch.debias.methods import extrapolates
from pathopatch.evaluation.group_scores import (
    answers,
    is_right,
    smallest_group,
    too_few_of,
    too_few_seeds,
    with_ends,
)
from pathopatch.evaluation.predicting import stored_predictions
from pathopatch.evaluation.reference import OUTCOMES, Measured, difference, measured_runs, outcome_of
from pathopatch.evaluation.run_settings import ASSIGNMENT, head_text, read_config, row_name, run_records, run_settings
from pathopatch.groups import GroupingAttribute, bins_attributes, threshold_attributes, unit_noun, units_of
from pathopatch.groups.attribute import label_names
from pathopatch.metrics.bootstrap import LEAST_SEEDS
from pathopatch.metrics.equal_area import compared_text, tells_area
from pathopatch.metrics.intervals import NO_INTERVAL, over_repetitions, p_of_interval

SUMMARY, PAIRS = "summary", "summary_pairs"
_SETTING = ["trained_attribute", "attribute", "name", "settings_key"]
_PLAIN = ("wga_at_zero", "gba", "auroc", "equal_area_even", "equal_area_caliper", "equal_area_floor")

_RANGES = {
    "learning_rates": "learning rate", "weight_decays": "weight decay", "penalties": "penalty of linear heads",
}  # fmt: skip
_VALUES = {"c_values": "c", "s_values": "c (beta + 1)"}
ALPHA = 0.05
_NOTE = (
    "Accuracies in percent. WGA: worst-group accuracy at the threshold that validation chose, mean and sd over seeds "
    "(or assignments), with its 95 % interval over {unit}s and seeds; of one over {unit}s alone. At equal area: AUROC, "
    "with the same interval, among {pairs}; -: none, {why}. Smallest group: its patches and {unit}s in the test split; "
    "nothing can be claimed of a row marked *."
)
_SELECTED = {"wga": "worst-group accuracy", "gba": "group-balanced accuracy", "equal_area": "AUROC at equal area"}
_INVARIANCE = (
    "Heads with invariance pay for the second moment of what setting the tissue area of training patches does to their "
    "answers, as in nuisance attribute projection (Solomonoff 2005), within-class covariance normalisation (Hatch "
    "2006) and NCM (arXiv 2505.24843); new is that the nuisance is set."
)
_PACKAGES = ("numpy", "torch", "timm", "scikit-image", "openslide-python")


@dataclass(frozen=True, eq=False)
class Summary:
    """Runs of one setting, over seeds: accuracies in [0, 1].

    `rows` has attribute, name, seeds, patients and their effective number; n, patients and the effective number of the
    smallest group (``n_smallest``, ...), and too_few, why nothing is claimed; wga, wga_sd, wga_lowest,
    wga_low, wga_high, wga_at_zero; equal_area with its ends, its even mean and its floor; gba, sensitivity,
    specificity, answered and auroc: means over seeds. Where ``unit`` is block, what is counted as patients are blocks.

    `pairs` has every two rows: attribute, name, less (the other row), seeds that both have, wga and equal_area (the
    differences) with their ends; p of WGA; outcome of the row with the higher WGA, see `outcome_of`; is_shown: whether
    it is one; too_few: why nothing is claimed; and holds_by_holm: whether it is shown by Holm's correction for all
    pairs of the attribute too. `methods` is a paragraph on what was run.
    """

    rows: pd.DataFrame
    pairs: pd.DataFrame
    methods: str

    def write(self, folder: Path) -> None:
        """Write ``summary.csv``, ``summary.md``, ``summary.tex`` and ``summary_pairs.csv``."""
        text = f"{_markdown(self.rows, self.pairs)}\n## Methods\n\n{self.methods}\n"
        texts = {f"{SUMMARY}.csv": csv_text(self.rows), f"{PAIRS}.csv": csv_text(self.pairs), f"{SUMMARY}.md": text}
        for name, text in (texts | {f"{SUMMARY}.tex": _latex(self.rows)}).items():
            write_bytes(folder / name, text.encode())


def summarise_runs(work: Path, table: pd.DataFrame, *, config: EvaluateConfig) -> Summary:
    """Return a row for each setting at the attribute that it was trained by, and a row for every two of them.

    `table` is what `comparison` returned.
    """
    groups = read_table(WorkFolder(work).groups)
    attributes: dict[str, GroupingAttribute] = {
        by.label: by for by in (*threshold_attributes(groups), *bins_attributes(groups))
    }
    kept = table[(table["rerun_of"] == "") & (table["attribute"].isin(attributes))]
    own = kept[(kept["attribute"] == kept["trained_attribute"]) | (kept["trained_attribute"] == "")]
    measured = measured_runs(work, own, groups, config)
    rows: list[dict[str, Any]] = []
    pairs: list[pd.DataFrame] = []
    shown = own[["run", "method", "variant"]].itertuples(index=False)
    names = [row_name(read_config(WorkFolder(work).run(run)), method, variant) for run, method, variant in shown]
    for label, of_attribute in own.assign(name=names).groupby("attribute", sort=False):
        settings: dict[str, dict[int, Measured]] = {}
        few: dict[str, str] = {}
        for (_, _, name, _), runs in of_attribute.groupby(_SETTING, sort=False):
            numbers = _numbers(work, runs.sort_values("seed"), attributes[str(label)])
            row = {"attribute": label, "name": name, **numbers}
            rows.append(row)
            seeds = zip(runs["seed"].astype(int), runs["run"], strict=True)
            settings[str(name)] = {seed: measured[run, str(label)] for seed, run in seeds}
            few[str(name)] = numbers["too_few"]
        compared = pd.DataFrame(
            {
                "attribute": label,
                "name": name,
                "less": other,
                **_pair(settings[name], settings[other], few[name] or few[other]),
            }
            for other, name in combinations(settings, 2)
        )
        pairs += [compared.assign(holds_by_holm=_holds_by_holm(compared))] if len(compared) else []
    return Summary(
        pd.DataFrame(rows), pd.concat(pairs) if pairs else pd.DataFrame(), methods_text(work, table, config=config)
    )


def _numbers(work: Path, runs: pd.DataFrame, by: GroupingAttribute) -> dict[str, Any]:
    """Return the row of one setting from its runs, in the order of their seeds."""
    measures = []
    for run in runs.to_dict("records"):
        predictions = stored_predictions(work, run["run"], run["split"])
        grouped = predictions[by.groups_in(predictions) >= 0]
        right, label = is_right(grouped, run["decision_threshold"]), grouped["label"].to_numpy()
        sides = {"sensitivity": right[label == 1].mean(), "specificity": right[label == 0].mean()}
        measures.append({**{name: run[name] for name in _PLAIN}, **sides, "answered": answers(grouped).mean()})
    row, wga = runs.iloc[0].to_dict(), runs["wga"].to_numpy(np.float64)  # sizes are those of every seed
    few = next((f"{reason} in {place}" for place, reason in too_few_of(row).items()), "")
    measured: dict[str, float] = {}
    if tells_area(row["equal_area_floor"]):  # a value that may be area is not shown
        runs = runs.assign(equal_area=np.nan)
    for name in ("wga", "equal_area"):
        ends = runs[[f"{name}_low", f"{name}_high"]].to_numpy(np.float64)
        measured |= with_ends(name, *over_repetitions(runs[name].to_numpy(np.float64), ends))
    return {
        "seeds": len(runs),
        **{name: row[name] for name in ("unit", "patients", "effective_patients")},
        **smallest_group(row),
        "too_few": few,
        **measured,
        "wga_sd": float(wga.std(ddof=1)) if len(wga) > 1 else float("nan"),
        "wga_lowest": float(wga.min()),
        **pd.DataFrame(measures).mean(),
    }


def _pair(row: Mapping[int, Measured], other: Mapping[int, Measured], few: str) -> dict[str, Any]:
    """Return two rows compared, each by seed, and why nothing is claimed of them."""
    found = difference(row, other)
    reason = few or too_few_seeds(found["seeds"])
    outcome = "too few" if reason else outcome_of(difference(other, row) if found["wga"] < 0 else found)
    p = p_of_interval(*(found[f"wga{end}"] for end in ("", "_low", "_high")))
    return {
        **found,
        "p": float("nan") if reason else p,
        "outcome": outcome,
        "is_shown": outcome in ("better", "evener", "traded"),
        "too_few": reason,
    }


def _holds_by_holm(pairs: pd.DataFrame) -> pd.Series[bool]:
    """Return which shown differences of one attribute stay so when all its pairs are tested at 5 % together."""
    p = pairs.loc[pairs["p"].notna(), "p"].sort_values()
    # Holm: the smallest p of m is compared with .05 / m, the next with .05 / (m - 1), up to the first that fails.
    holds = (p * np.arange(len(p), 0, -1) <= ALPHA).cummin()
    return pairs["is_shown"] & holds.reindex(pairs.index, fill_value=False)


def _markdown(rows: pd.DataFrame, pairs: pd.DataFrame) -> str:
    lines = [
        _note(rows),
        "",
        "| groups by | row | seeds | smallest group | WGA | 95 % interval | lowest | WGA at threshold 0 | GBA "
        "| sensitivity, specificity | AUROC | at equal area | answered |",
        "|---" * 13 + "|",
    ]
    for row in rows.to_dict("records"):
        sides = f"{_percent(row['sensitivity'])}, {_percent(row['specificity'])}"
        low, high = _percent(row["wga_low"]), _percent(row["wga_high"])
        lines.append(
            f"| {row['attribute']} | {row['name']} | {row['seeds']} | {_smallest(row)} "
            f"| {_wga(row, ' ± ')} | {low} to {high} "
            f"| {_percent(row['wga_lowest'])} | {_percent(row['wga_at_zero'])} | {_percent(row['gba'])} | {sides} "
            f"| {_rank(row['auroc'])} | {_at_equal_area(row)} | {_percent(row['answered'])} |"
        )
    if len(pairs):
        tested = int(pairs["p"].notna().sum())
        if tested:
            lines += [
                "",
                f"Of {pluralize(tested, 'interval')} between two rows, {ALPHA * tested:.1f} would exclude 0 by chance "
                "were all rows equal. Differences marked † hold by Holm's correction for all of one attribute. Of the "
                f"higher row: {OUTCOMES}",
            ]
        titles = "| groups by | row | less | seeds | WGA | 95 % interval | AUROC at equal area, 95 % interval |"
        lines += ["", titles, "|---" * 7 + "|"]
    for pair in pairs.to_dict("records"):
        value, low, high = (100 * pair[name] for name in ("wga", "wga_low", "wga_high"))
        higher = pair["name"] if value >= 0 else pair["less"]
        shown = " †" * pair["holds_by_holm"] + f" ({higher}: {pair['outcome']})"
        if not pair["is_shown"]:
            shown = f" ({pair['too_few'] or 'no difference is shown'})"
        lines.append(
            f"| {pair['attribute']} | {pair['name']} | {pair['less']} | {pair['seeds']} | {value:+.1f} "
            f"| {'-' if np.isnan(low) else f'{low:+.1f} to {high:+.1f}'}{shown} | {_at_equal_area(pair, '+.3f')} |"
        )
    return "\n".join([*lines, ""])


def _note(rows: pd.DataFrame) -> str:
    unit = rows["unit"].iloc[0] if len(rows) else "patient"
    of_rows = (compared_text(row["equal_area_caliper"], row["equal_area_floor"]) for row in rows.to_dict("records"))
    return _NOTE.format(unit=unit, pairs="; or ".join(dict.fromkeys(of_rows)), why=NO_INTERVAL.format(unit=unit))


def _latex(rows: pd.DataFrame) -> str:
    """Return a table for LaTeX with the package booktabs."""
    note = textwrap.wrap(rf"\usepackage{{booktabs}}. {_note(rows)}", 110)
    lines = [
        *(f"% {line}" for line in note),
        r"\begin{tabular}{lrrrrrrr}",
        r"\toprule",
        r"Row & Smallest group & WGA & 95\,\% interval & WGA at 0 & GBA & AUROC & At equal area \\",
    ]
    for label, part in rows.groupby("attribute", sort=False) if len(rows) else ():
        lines += [r"\midrule", rf"\multicolumn{{8}}{{l}}{{Groups by {_escaped(str(label))}}} \\"]
        for row in part.to_dict("records"):
            cells = [
                _escaped(row["name"]),
                _smallest(row),
                _wga(row, r" $\pm$ "),
                f"{_percent(row['wga_low'])}--{_percent(row['wga_high'])}",
                *(_percent(row[name]) for name in ("wga_at_zero", "gba")),
                _rank(row["auroc"]),
                _at_equal_area(row),
            ]
            lines.append(" & ".join(cells) + r" \\")
    return "\n".join([*lines, r"\bottomrule", r"\end{tabular}", ""])


def _escaped(text: str) -> str:
    return "".join(f"\\{sign}" if sign in "&%$#_{}" else sign for sign in text)


def _smallest(row: Mapping[Any, Any]) -> str:
    return f"{row['n_smallest']}, {row['patients_smallest']}{'*' if row['too_few'] else ''}"


def _wga(row: dict[Any, Any], between: str) -> str:
    return _percent(row["wga"]) + (f"{between}{100 * row['wga_sd']:.1f}" if np.isfinite(row["wga_sd"]) else "")


def _at_equal_area(row: Mapping[Any, Any], form: str = ".3f") -> str:
    low, high = (_rank(row[f"equal_area_{end}"], form) for end in ("low", "high"))
    return f"{_rank(row['equal_area'], form)} [{low}, {high}]"


def _rank(value: float, form: str = ".3f") -> str:
    return f"{value:{form}}" if np.isfinite(value) else "-"


def _percent(value: float) -> str:
    return f"{100 * value:.1f}" if np.isfinite(value) else "-"


def methods_text(work: Path, table: pd.DataFrame, *, config: EvaluateConfig) -> str:
    """Return a paragraph on the runs of a comparison; what is not known, as of foreign bundles, is left out.

    `table` is what `comparison` returned.
    """
    table = table[table["rerun_of"] == ""]  # equal fits are one
    known = {name: found for name in table["run"].unique() if "select" in (found := run_settings(work, name))}
    settings = {name: {**found, "records": run_records(work, name)} for name, found in known.items()}
    groups = read_table(WorkFolder(work).groups)
    every, variants = list(settings.values()), dict(zip(table["run"], table["variant"], strict=True))
    folds = groups["fold"].nunique() if "fold" in groups else 1
    sentences = [_data(groups), _grouping(groups, table), *_training(every, folds)]
    sentences += _rows_text(work, settings, variants)
    sentences += [_INVARIANCE] * any(map(_has_invariance, every))
    sentences += _search(every)
    if every:
        sentences.append(_rule(every, str(table["split"].iloc[0])))
    pairs = table[["equal_area_caliper", "equal_area_floor"]].mean().tolist()  # over repetitions, as in the table
    seeds = ", Student's t over seeds" if table["seed"].nunique() > 1 else ""
    if seeds and every and all(ASSIGNMENT in each for each in every):
        seeds += f": repetitions are other assignments of {unit_noun(groups)}s to folds, of which the first is above"
    of_ranks = f"with the spread of AUROCs from {config.bootstrap:,} draws" if config.bootstrap else "none of AUROCs"
    sentences += [
        f"AUROC at equal area:{' within a fold,' * (folds > 1)} among {compared_text(*pairs)}.",
        f"Intervals are 95 %, over {unit_noun(groups)}s: score intervals, {of_ranks}{seeds}. "
        f"Those of differences, by Student's t and the draws, take at least {LEAST_SEEDS} seeds. {OUTCOMES}",
    ]
    return " ".join([*sentences, software_text()])


def _data(groups: pd.DataFrame) -> str:
    labelled = groups[groups["label"] >= 0]
    grouped = labelled[threshold_attributes(groups)[0].groups_in(labelled) >= 0]
    by = "fold" if "fold" in groups else "split"
    names = [str(fold) for fold in sorted(set(groups["fold"]))] if by == "fold" else SPLITS
    title = "fold {}:" if by == "fold" else "{}"
    parts = [
        f"{title.format(name)} {len(rows):,} of {pluralize(rows['patient_id'].nunique(), 'patient')}"
        + (f" in {pluralize(units_of(rows).nunique(), 'block')}" if BLOCK in rows else "")
        for name in names
        if len(rows := grouped[grouped[by].astype(str) == name])
    ]
    place_of = sorted(set(zip(groups["patient_id"].astype(str), groups[by].astype(str), strict=True)))
    left_out = (
        f"{n:,} {name}"
        for y, name in enumerate(label_names(groups))
        if (n := int((labelled["label"] == y).sum() - (grouped["label"] == y).sum()))
    )
    text = f"{len(grouped):,} patches labelled {' or '.join(label_names(groups))}"
    text += f" (left out, as blank or hardly scanned: {more})" if (more := " and ".join(left_out)) else ""
    mark, noun = fingerprint(place_of)[:12], unit_noun(groups)
    if by == "split":
        return f"{text} were split by {noun} (hash {mark}): {', '.join(parts)}."
    return (
        f"{text} were divided by {noun} into {len(parts)} folds (hash {mark}): {', '.join(parts)}. Each fold tests "
        "once, the next one is for validation and the others for training; the test answers of all folds are judged "
        "together, each less the decision threshold of its network."
    )


def _grouping(groups: pd.DataFrame, table: pd.DataFrame) -> str:
    first = threshold_attributes(groups)[0]
    if first.is_patch_attribute:
        return f"Groups are label and {first.description}: {', '.join(first.group_names)}."
    return f"Groups are label and tissue fraction, at {' and '.join(dict.fromkeys(table['attribute'].astype(str)))}."


def _training(settings: Sequence[Mapping[str, Any]], folds: int) -> list[str]:
    if not settings:
        return []
    frozen = [each for each in settings if each.get("frozen")]
    solved = [each for each in settings if each.get("architecture") == LINEAR_HEAD]
    learnt = [each for each in settings if each not in frozen and each not in solved]

    def values(name: str, of: Sequence[Mapping[str, Any]] = settings) -> str:
        return " or ".join(dict.fromkeys(f"{each[name]}" for each in of if name in each))

    searched = any(each.get("search") for each in settings)
    parts = []
    if frozen:
        turns = f", by {values('inner_folds', frozen)} inner folds of training and validation, solved on both"
        is_fixed = all(each.get("select") == "last" for each in frozen)
        penalty = values("weight_decay", frozen) if is_fixed else f"chosen on validation{turns * (folds > 1)}"
        parts.append(
            f"linear heads on frozen networks ({values('architecture', frozen)}, patches at "
            f"{values('input_px', frozen)} px) were solved exactly, their L2 penalty {penalty}"
        )
    if solved:
        penalty = "" if searched else f" with an L2 penalty of {values('weight_decay', solved)}"
        parts.append(f"linear heads on features were solved exactly{penalty}")
    if learnt:
        rates = f", learning rate {values('learning_rate', learnt)}, weight decay {values('weight_decay', learnt)}"
        averaged = ", the weights averaged over steps" if any(each.get("average_weights") for each in learnt) else ""
        parts.append(
            f"networks ({values('architecture', learnt)}, patches at {values('input_px', learnt)} px) learnt for "
            f"{values('steps', learnt)} steps, {values('batch_per_class', learnt)} patches of each class a step, by "
            f"{values('optimizer', learnt)}{'' if searched else rates}{averaged}"
        )
    runs = pluralize(len(settings), "run")
    runs += f" in each of {folds} folds, {folds * len(settings)} networks" if folds > 1 else ""
    text = "; ".join([*parts, f"{runs}, seeds: {values('seed').replace(' or ', ', ')}."])
    return [text[0].upper() + text[1:]]


def _rows_text(work: Path, settings: Mapping[str, Mapping[str, Any]], variants: Mapping[str, str]) -> list[str]:
    """Return what each row is, where its name does not tell it all; `variants` are those of a comparison, by run."""
    runs_of: dict[str, list[str]] = {}
    for run, each in settings.items():
        name = row_name(read_config(WorkFolder(work).run(run)), str(each["method"]), variants[run])
        runs_of.setdefault(name, []).append(run)
    rows = []
    for name, runs in runs_of.items():
        each = settings[runs[0]]
        records = [record for run in runs for record in settings[run]["records"]]
        own = _chosen_text(records) if each.get("choose") else str(each["method"]) * (name != each["method"])
        mask = "the tissue mask beside the pixels" * (each.get("mask") == "normalise")
        about = ", ".join(filter(None, [own, mask, _crops_text(records)]))
        rows.append(name + (f" ({about})" if about else ""))
    return [f"Rows: {'; '.join(rows)}."] if rows else []


def _has_invariance(settings: Mapping[str, Any]) -> bool:
    chosen = (record.get("chosen", {}) for record in settings["records"])
    return any(head.get("invariance") for head in (settings, *chosen))


def _chosen_text(records: Sequence[Mapping[str, Any]]) -> str:
    found: Counter[tuple[str, int]] = Counter()
    for record in records:
        rows = csv.DictReader((record["folder"] / "history.csv").read_text().splitlines())
        stood = len({(row["mask"], row["method"]) for row in rows})  # none where nothing selects
        found[head_text(record["chosen"]), stood] += 1
    return "; ".join(
        f"{head} {pluralize(n, 'time')}, "
        + (f"chosen by validation of {stood} candidates" if stood > 1 else "the only candidate, so nothing was chosen")
        for (head, stood), n in found.items()
    )


def _crops_text(records: Sequence[Mapping[str, Any]]) -> str:
    crops = [record["crops"] for record in records if "crops" in record]
    if not crops:
        return ""
    sides = " or ".join(str(side) for side in sorted({each["crop_px"] for each in crops}))
    train, val = (max(each["without"][split] for each in crops) for split in ("train", "val"))
    return (
        f"crops of {sides} px that lie wholly in tissue, the mean of up to 8 in prediction; without one, up to "
        f"{pluralize(train, 'training patch')} left out and {pluralize(val, 'validation patch')} counted as wrong"
    )


def _search(settings: Sequence[Mapping[str, Any]]) -> list[str]:
    searched = [each for each in settings if each.get("search")]
    if not searched:
        return []
    of_run = searched[0]
    trials = " or ".join(dict.fromkeys(str(each["tune.trials"]) for each in searched))
    heads = {each.get("architecture") == LINEAR_HEAD for each in searched}
    used = {"learning_rates", "weight_decays"} if False in heads else set()
    used |= {"penalties"} if True in heads else set()
    used |= {"c_values", "s_values"} if any(extrapolates(str(each["method"])) for each in searched) else set()
    ranges = [
        f"{words} {' to '.join(f'{end:g}' for end in of_run[f'tune.{name}'])}"
        for name, words in _RANGES.items()
        if name in used
    ]
    values = [
        f"{words} of {', '.join(f'{value:g}' for value in of_run[f'tune.{name}'])}"
        for name, words in _VALUES.items()
        if name in used
    ]
    share = "Each run" if len(searched) == len(settings) else f"{len(searched)} of {len(settings)} runs"
    return [
        f"{share} was searched by {pluralize(int(trials), 'trial') if trials.isdigit() else f'{trials} trials'}, the "
        f"first with the settings above or their defaults, the others drawn from {'; '.join(ranges + values)}."
    ]


def _rule(settings: Sequence[Mapping[str, Any]], split: str) -> str:
    selecting = [each for each in settings if each.get("search") or each["select"] != "last"]
    evaluations = dict.fromkeys(str(each["evaluations"]) for each in selecting if each["evaluations"] > 1)
    s = ", and of each s of gerne," * any(each.get("frozen") and each["method"] == "gerne" for each in selecting)
    compared = ["trials"] * any(each.get("search") for each in selecting)
    compared += [f"the heads of each penalty{s}"] * any(each.get("frozen") for each in selecting)
    compared += [f"{' or '.join(evaluations)} checkpoints of each network"] * bool(evaluations)
    select = dict.fromkeys(each["tune.objective"] if each.get("search") else each["select"] for each in selecting)
    by = " or ".join(_SELECTED[str(name)] for name in select)
    at = dict.fromkeys(_threshold_text(each, record) for each in settings for record in each["records"] or [{}])
    text = f"{' and '.join(compared)} were compared by {by}" if compared else "nothing was compared"
    return (
        f"{text[0].upper()}{text[1:]} on validation, at {' or '.join(at)}; {split} accuracies are at that threshold. "
        "Patches without an answer count as wrong."
    )


def _threshold_text(settings: Mapping[str, Any], record: Mapping[str, Any]) -> str:
    # It is not tuned either where validation lacks a group, or selects nothing.
    asked = {"is_threshold_tuned": settings["tune_threshold"]}
    if not record.get("validation", asked).get("is_threshold_tuned"):
        return "a decision threshold of 0"
    share = settings.get("sensitivity")
    found = "is best" if share is None else f"has a sensitivity of {100 * share:g} %"
    return f"the decision threshold that {found} there"


def software_text() -> str:
    """Return the package with its commit where it is a clone's, and what it rests on, with versions."""
    names = [f"{name} {version(name)}" for name in _PACKAGES if _has(name)]
    python = ".".join(map(str, sys.version_info[:3]))
    return f"Evaluated with pathopatch {__version__}{_commit()}, {', '.join(names)}, Python {python}."


def _has(name: str) -> bool:
    try:
        version(name)
    except ImportError:  # PackageNotFoundError is one
        return False
    return True


def _commit() -> str:
    root = Path(__file__).resolve().parents[2]
    if not (root / ".git").exists():
        return ""
    try:
        asked = ["git", "-C", str(root), "rev-parse", "HEAD"]
        found = subprocess.run(asked, capture_output=True, text=True, check=True, timeout=10)  # noqa: S603
    except (OSError, subprocess.SubprocessError):
        return ""
    return f" (commit {found.stdout.strip()[:12]})"
