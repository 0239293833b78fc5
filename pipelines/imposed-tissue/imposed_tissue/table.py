"""Make the tables of the study, with each requirement and its result."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from imposed_tissue.cells import CEILING
from imposed_tissue.settings import ImposedConfig

BEGIN, END = "<!-- tables: begin -->", "<!-- tables: end -->"
PLAIN = ("erm", "erm-balanced")
"""Methods that debiased ones are compared with."""
_KEPT = (
    "key",
    "polarity",
    "seed",
    "method",
    "steps",
    "picked_step",
    "decision_threshold",
    "val_wga",
    "last_val_wga",
    "auroc",
    "seconds",
)


def ordered(table: pd.DataFrame, config: ImposedConfig) -> pd.DataFrame:
    """Return the runs, rows as `flat` makes them, in the order of the configuration."""
    rank = {name: place for place, name in enumerate((*config.methods, CEILING))}
    keys = table["method"].map(rank), -table["cuts"].str.count(","), table["cuts"]
    order = np.lexsort((table["seed"], keys[2], keys[1], table["steps"], keys[0], table["polarity"]))
    return table.iloc[order].reset_index(drop=True)


def flat(row: dict[str, Any], config: ImposedConfig) -> dict[str, Any]:
    """Return the numbers of a run, as `cells.run` returns it, by the names of columns; shares in percent."""
    columns = {name: row[name] for name in _KEPT} | {"cuts": ",".join(f"{cut:g}" for cut in row["cuts"])}
    for threshold in config.thresholds:
        for name in (f"wga@{threshold:g}", f"gba@{threshold:g}"):
            columns |= {name: 100 * row[name], f"{name}_at_zero": 100 * row[f"{name}_at_zero"]}
        columns |= {f"group {g}@{threshold:g}": 100 * value for g, value in enumerate(row[f"groups@{threshold:g}"])}
    columns |= {"val_wga": 100 * row["val_wga"], "last_val_wga": 100 * row["last_val_wga"]}
    return {name: round(value, 4) if isinstance(value, float) else value for name, value in columns.items()}


def tables(table: pd.DataFrame, checks: pd.DataFrame, config: ImposedConfig) -> str:
    """Return all tables of the README as Markdown.

    Parameters
    ----------
    table : DataFrame
        As `ordered` returns it.
    checks : DataFrame
        The leak controls: a row a cohort and suspect.
    config : ImposedConfig
        The study.
    """
    parts: list[str] = []
    for polarity in config.polarities:
        of_one = table[table["polarity"] == polarity]
        if len(of_one):
            parts += [
                f"### {polarity.capitalize()} ground",
                "",
                *_methods(of_one, config),
                "",
                *_lengths(of_one, config),
            ]
            parts += ["", *_demands(of_one, config), ""]
    return "\n".join([*parts, "### Leak controls", "", *_controls(checks)])


def _methods(table: pd.DataFrame, config: ImposedConfig) -> Iterator[str]:
    """Yield one row per method and attribute: mean and standard deviation over the seeds."""
    judged = config.thresholds
    head = [f"WGA at {t:g}" for t in judged] + [f"GBA at {judged[0]:g}", f"WGA at {judged[0]:g}, threshold 0"]
    yield "| method | trained by | " + " | ".join([*head, "lowest seed", "on validation: picked, last"]) + " |"
    yield "|---" * (len(head) + 4) + "|"
    main = table[table["steps"] == config.train.steps]
    for (name, cuts), part in main.groupby(["method", "cuts"], sort=False):
        first = f"wga@{judged[0]:g}"
        cells = [_mean(part[f"wga@{t:g}"]) for t in judged] + [_mean(part[f"gba@{judged[0]:g}"])]
        cells += [_mean(part[f"{first}_at_zero"]), f"{part[first].min():.1f}"]
        cells += [f"{part['val_wga'].mean():.1f}, {part['last_val_wga'].mean():.1f}"]
        yield f"| {name} | {cuts} | " + " | ".join(cells) + " |"


def _lengths(table: pd.DataFrame, config: ImposedConfig) -> Iterator[str]:
    """Yield the WGA of erm by training length."""
    name, first = PLAIN[0], f"wga@{config.thresholds[0]:g}"
    lengths = [
        f"{steps:,} steps {_mean(part[first])}" for steps, part in table[table["method"] == name].groupby("steps")
    ]
    yield f"{name}, WGA at {config.thresholds[0]:g} by length: {'; '.join(lengths)}."


def _demands(table: pd.DataFrame, config: ImposedConfig) -> Iterator[str]:
    """Yield each requirement with its result."""
    first = f"wga@{config.thresholds[0]:g}"
    by_one = table[(table["cuts"] == f"{config.thresholds[0]:g}") & (table["steps"] == config.train.steps)]
    debiased = by_one[~by_one["method"].isin([*PLAIN, CEILING])]
    if debiased.empty:
        return
    mean = debiased.groupby("method")[first].mean()
    best = str(mean.idxmax())
    plain = table[table["method"].isin(PLAIN)].groupby(["method", "steps"])[first].mean()
    lowest = debiased.loc[debiased["method"] == best, first].min()
    yield (
        f"- Best debiased method: {best}, {mean[best]:.1f} (82 or more), lowest seed {lowest:.1f} (75 or more), "
        f"{mean[best] - plain.max():+.1f} over {plain.idxmax()[0]} at {plain.idxmax()[1]:,} steps, the best plain one "
        "(15 or more)."
    )
    if "gerne" in mean:
        yield f"- gerne: {mean['gerne'] - mean[best]:+.1f} from the best (within 3)."
    tuned = mean.drop("gerne-auto", errors="ignore")
    if "gerne-auto" in mean and len(tuned):
        gap = mean["gerne-auto"] - tuned.max()
        yield f"- gerne-auto: {gap:+.1f} from the best of the others, {tuned.idxmax()} (within 2)."
    yield from _of_bins(table, config)


def _of_bins(table: pd.DataFrame, config: ImposedConfig) -> Iterator[str]:
    """Yield the difference between the thresholds for each way of training."""
    names = [f"wga@{t:g}" for t in config.thresholds]
    for cuts, part in table[~table["method"].isin([*PLAIN, CEILING])].groupby("cuts"):
        mean = part.groupby("method")[names].mean()
        gap = mean[names[-1]] - mean[names[0]]
        gaps = ", ".join(f"{name} {value:+.1f}" for name, value in gap.items())
        yield f"- Trained by {cuts}, WGA at {config.thresholds[-1]:g} less that at {config.thresholds[0]:g}: {gaps}."


def _controls(checks: pd.DataFrame) -> Iterator[str]:
    """Yield the leak controls, one row per cohort."""
    yield "AUROC of the class on the test split, 95 % interval over source tiles."
    yield ""
    names = checks["suspect"].unique().tolist()
    yield "| cohort | " + " | ".join(names) + " |"
    yield "|---" * (len(names) + 1) + "|"
    for (polarity, seed), part in checks.groupby(["polarity", "seed"]):
        of_name = part.set_index("suspect").loc[names]
        cells = [f"{row.auroc:.3f} ({row.low:.3f} to {row.high:.3f})" for row in of_name.itertuples()]
        yield f"| {polarity}, seed {seed} | " + " | ".join(cells) + " |"


def _mean(values: pd.Series) -> str:
    spread = f" ± {values.std(ddof=1):.1f}" if len(values) > 1 else ""
    return f"{values.mean():.1f}{spread}"


def fill(readme: Path, text: str) -> None:
    """Write the tables between the markers of a file."""
    old = readme.read_text(encoding="utf-8")
    head, rest = old.split(BEGIN)
    _, tail = rest.split(END)
    readme.write_text(f"{head}{BEGIN}\n{text}\n{END}{tail}", encoding="utf-8")
