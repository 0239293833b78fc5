"""Make the tables of the study, with the paired differences from resampling."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from imposed_tissue.cells import cells_of
from imposed_tissue.settings import ImposedConfig

BEGIN, END = "<!-- tables: begin -->", "<!-- tables: end -->"
REFERENCE = "resample"
"""Method that the others are compared with, seed by seed."""
_KEPT = (
    "key",
    "polarity",
    "seed",
    "method",
    "steps",
    "conflicting",
    "is_val_biased",
    "picked_step",
    "decision_threshold",
    "val_wga",
    "last_val_wga",
    "auroc",
    "seconds",
)
_SAME_RUN = ["conflicting", "is_val_biased", "cuts", "steps", "method"]  # what seeds and polarities share


def ordered(table: pd.DataFrame, config: ImposedConfig) -> pd.DataFrame:
    """Return the runs, rows as `flat` makes them, in the order of the configuration."""
    place = {cell.key(config): number for number, cell in enumerate(cells_of(config))}
    return table.iloc[np.argsort(table["key"].map(place), kind="stable")].reset_index(drop=True)


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
            parts += [f"### {polarity.capitalize()} ground", "", *_methods(of_one, config), ""]
    parts += [f"### Less {REFERENCE}, seed by seed", "", *_differences(table, config), ""]
    return "\n".join([*parts, "### Leak controls", "", *_controls(checks)])


def _methods(table: pd.DataFrame, config: ImposedConfig) -> Iterator[str]:
    """Yield one row per method: mean and standard deviation over the seeds."""
    judged = config.thresholds
    head = [f"WGA at {t:g}" for t in judged] + [f"GBA at {judged[0]:g}", f"WGA at {judged[0]:g}, threshold 0"]
    head += ["lowest seed", "on validation: picked, last"]
    yield "| conflicting | method | trained by | seeds | " + " | ".join(head) + " |"
    yield "|---" * (len(head) + 4) + "|"
    for (conflicting, is_val_biased, cuts, steps, name), part in table.groupby(_SAME_RUN, sort=False):
        first = f"wga@{judged[0]:g}"
        cells = [_mean(part[f"wga@{t:g}"]) for t in judged] + [_mean(part[f"gba@{judged[0]:g}"])]
        cells += [_mean(part[f"{first}_at_zero"]), f"{part[first].min():.1f}"]
        cells += [f"{part['val_wga'].mean():.1f}, {part['last_val_wga'].mean():.1f}"]
        count = f"{conflicting}, none in validation" if is_val_biased else f"{conflicting}"
        length = "" if steps == config.train.steps else f", {steps:,} steps"
        yield f"| {count} | {name}{length} | {cuts} | {len(part)} | " + " | ".join(cells) + " |"


def _differences(table: pd.DataFrame, config: ImposedConfig) -> Iterator[str]:
    """Yield the differences between each method and resampling on the same cohorts."""
    first = config.thresholds[0]
    names = [f"wga@{first:g}", f"gba@{first:g}", f"wga@{first:g}_at_zero"]
    cohorts = ["polarity", "seed"]
    yield f"| conflicting | method | cohorts | WGA at {first:g} | lowest | GBA at {first:g} | WGA, threshold 0 |"
    yield "|---" * 7 + "|"
    table = table[(table["steps"] == config.train.steps) & (table["cuts"] == f"{first:g}") & ~table["is_val_biased"]]
    for conflicting, part in table.groupby("conflicting", sort=False):
        reference = part[part["method"] == REFERENCE].set_index(cohorts)[names]
        for name, runs in part[part["method"] != REFERENCE].groupby("method", sort=False):
            less = (runs.set_index(cohorts)[names] - reference).dropna()
            if less.empty:
                continue
            wga, gba, at_zero = (_mean(less[column], sign="+") for column in names)
            yield f"| {conflicting} | {name} | {len(less)} | {wga} | {less[names[0]].min():+.1f} | {gba} | {at_zero} |"


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


def _mean(values: pd.Series, *, sign: str = "") -> str:
    spread = f" ± {values.std(ddof=1):.1f}" if len(values) > 1 else ""
    return f"{values.mean():{sign}.1f}{spread}"


def fill(readme: Path, text: str) -> None:
    """Write the tables between the markers of a file."""
    old = readme.read_text(encoding="utf-8")
    head, rest = old.split(BEGIN)
    _, tail = rest.split(END)
    readme.write_text(f"{head}{BEGIN}\n{text}\n{END}{tail}", encoding="utf-8")
