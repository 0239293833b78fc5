"""Answers how a comparison of runs reads on a terminal."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from pathopatch.core.artefacts import read_table
from pathopatch.core.errors import InputMissingError
from pathopatch.core.work_folder import WorkFolder
from pathopatch.evaluation.compute_cost import unequal
from pathopatch.groups import bins_attributes, threshold_attributes


def comparison_table(work: Path) -> str:
    """Return ``comparison.csv`` in short, as a text table for a terminal.

    Parameters
    ----------
    work : Path
        Work folder in which `compare` has been run.

    Raises
    ------
    InputMissingError
        There is no comparison, or no groups.
    """
    path = WorkFolder(work).comparison
    if not path.is_file():
        raise InputMissingError("no comparison.csv", place=str(work), remedy="run `pathopatch evaluate` first")
    text = ("run", "method", "reference", "attribute", "trained_attribute", "sweep", "search")
    table = pd.read_csv(path, keep_default_na=True, dtype=dict.fromkeys(text, str))
    groups = read_table(WorkFolder(work).groups)
    first = threshold_attributes(groups)[0]
    if first.is_patch_attribute:  # all thresholds give the same groups
        table = table[table["threshold"] == table["threshold"].min()]
    lines = [
        f"Split {table['split'].iloc[0]}, in percent; smallest group n = {table['smallest_group_n'].min()}",
        f"  {'tau':<5}{'run':<26} {'WGA [95 % interval]':<22} {'GBA':>5} {'avg':>5} {'AUROC':>6}  "
        f"{'groups from 0':<24} {'WGA gain':>8} {'trials':>6} {'steps':>7}",
    ]
    for attribute, part in table.groupby("attribute", sort=False):  # as they are sorted: thresholds, then bins
        tau = "own" if first.is_patch_attribute else str(attribute).split(" ")[0]
        lines += [_text_row(f"{tau:<5}", row) for _, row in part.iterrows()]
        lines.append("")
    lines += _sweep_lines(table)
    said = unequal(table["search"].fillna("").tolist(), table["reference"].fillna("").tolist())
    lines.append(f"Trials and steps: all that the search of a run took. {said}".rstrip())
    meaning = "own, the patches' own attribute" if first.is_patch_attribute else "tissue threshold"
    named = "; ".join(f"{number} {name}" for number, name in enumerate(first.group_names))
    lines.append(f"tau: {meaning}. Groups: {named}.")
    for bins in () if first.is_patch_attribute else bins_attributes(groups):  # whose rows are left out above
        told = "; ".join(f"{number} {name}" for number, name in enumerate(bins.group_names))
        lines.append(f"Groups by bins: {told}.")
    return "\n".join(lines)


def _sweep_lines(table: pd.DataFrame) -> list[str]:
    """Return what the sweep says of each run, once a run."""
    if "sweep" not in table or table["sweep"].fillna("").eq("").all():
        return []
    once = table.drop_duplicates("run")
    said = [f"  {row['run']:<26} {row['sweep']}" for _, row in once.iterrows()]
    return [
        "Over all tissue thresholds at which every group is large enough, gain against the same ERM run:",
        *said,
        "",
    ]


def _text_row(tau: str, row: pd.Series[Any]) -> str:
    """Return one run's line of the text table."""

    def percent(name: str) -> str:
        return f"{100 * row[name]:.1f}" if np.isfinite(row[name]) else "-"

    interval = f"{percent('wga')} [{percent('wga_low')}, {percent('wga_high')}]"
    numbers = [name for name in row.index if re.fullmatch(r"accuracy_\d+", str(name)) and np.isfinite(row[name])]
    accuracies = " ".join(f"{percent(name):>5}" for name in numbers)
    gain = f"{100 * row['gain_wga']:+.1f}" if np.isfinite(row["gain_wga"]) else "-"
    area = f"{row['auroc']:.3f}" if np.isfinite(row["auroc"]) else "-"
    return (
        f"  {tau}{row['run']:<26} {interval:<22} {percent('gba'):>5} {percent('average'):>5} {area:>6}  "
        f"{accuracies:<24} {gain:>8} {_count(row['trials']):>6} {_count(row['search_steps']):>7}"
    )


def _count(value: float) -> str:
    """Return a whole number as text; a dash where it is not known."""
    return f"{value:.0f}" if np.isfinite(value) else "-"
