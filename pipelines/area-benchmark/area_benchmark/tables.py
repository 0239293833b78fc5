"""Make the tables of the benchmark."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd

BEGIN, END = "<!-- tables: begin -->", "<!-- tables: end -->"
_SAME = ["ground", "case", "row"]
_COHORT = ["polarity", "seed"]
_RESAMPLES = 10_000
ELIGIBLE = ("masked erm", "interior erm", "default")
"""Frozen rows that every case of every ground has."""
DEFAULT = "default"
"""The row that `train` takes."""


def tables(table: pd.DataFrame, *, cut: float) -> str:
    """Return all tables as Markdown; `table` has the rows that `cells.run` returned, `cut` forms the groups."""
    parts: list[str] = []
    for ground, part in table.groupby("ground", sort=False):
        parts += [f"### {str(ground).capitalize()}", "", *_measures(part, f"@{cut:g}"), "", *_certificates(part), ""]
        parts += [*_differences(part, f"@{cut:g}"), ""]
    return "\n".join(parts).rstrip()


def natural_tables(table: pd.DataFrame) -> str:
    """Return the tables on natural tissue; `table` has the rows that `cells.run_natural` returned."""
    parts: list[str] = []
    for ground, part in table.groupby("ground", sort=False) if len(table) else ():
        own = part.assign(polarity="")
        title = f"### {str(ground).capitalize()}, groups at {own['threshold'].iloc[0]:g}"
        parts += [title, "", *_measures(own), "", *_halves(own), "", *_differences(own), ""]
    return "\n".join(parts).rstrip()


def frozen_tables(table: pd.DataFrame) -> str:
    """Return the table of each ground's frozen rows; `table` has the rows of `frozen.run_frozen`."""
    parts: list[str] = []
    for ground, part in table.groupby("ground", sort=False) if len(table) else ():
        parts += [f"### {str(ground).capitalize()}, frozen", "", *_frozen_measures(part), ""]
    return "\n".join([*parts, *_choices(table)]).rstrip()


def choose_rows(table: pd.DataFrame) -> tuple[str, dict[str, str]]:
    """Return the row that all grounds choose, and for each ground that of the other ones, by the rule of README.md."""
    scored = table.assign(score=(table["wga"] + 100 * table["equal_area"]) / 2)
    scored = scored[scored["row"].isin(ELIGIBLE) & (scored["ground"] != "idc")]  # without validation nothing is chosen
    by_case = scored.groupby(_SAME, sort=False)["score"].mean().unstack("row")
    by_ground = by_case.groupby("ground", sort=False).mean()
    others = {str(ground): str(by_ground.drop(ground).mean().idxmax()) for ground in by_ground.index}
    return str(by_ground.mean().idxmax()), others


def _choices(table: pd.DataFrame) -> Iterator[str]:
    """Yield what each ground has by the row that all choose, and by that of the other grounds."""
    if table["ground"].nunique() < 3:
        return
    best, others = choose_rows(table)
    text = f"Over all grounds the rule chooses *{best}*."
    text += "" if best == DEFAULT else f" The default is *{DEFAULT}*: the text says why."
    yield from ("### The rule of choice", "", text, "")
    yield "| ground | default: WGA | equal area | the other grounds choose | WGA | equal area | erm: WGA | equal area |"
    yield "|---" * 8 + "|"
    by_case = table.groupby(_SAME, sort=False)[["wga", "equal_area"]].mean()
    of = by_case.groupby(["ground", "row"], sort=False).mean()
    for ground, other in others.items():
        found = (of.reindex([(ground, row)]).iloc[0] for row in (DEFAULT, other, "erm"))
        cells = [f"{_known(own['wga'], '.1f')} | {_known(own['equal_area'], '.3f')}" for own in found]
        yield f"| {ground} | {cells[0]} | {other} | {cells[1]} | {cells[2]} |"


def _frozen_measures(table: pd.DataFrame) -> Iterator[str]:
    yield "| case | row | runs | WGA | lowest | GBA | AUROC | equal area | images, in folds | of all folds | chosen |"
    yield "|---" * 11 + "|"
    for (_, case, row), part in table.groupby(_SAME, sort=False):
        heads = part["chosen"].str.split("; ").explode().str.rsplit(" ", n=1).str[0].value_counts()
        images = " | ".join(_known(part[name].mean(), ".3f") for name in ("images", "images_pooled"))
        yield (
            f"| {case} | {row} | {len(part)} | {_mean(part['wga'])} | {part['wga'].min():.1f} | {_mean(part['gba'])} "
            f"| {part['auroc'].mean():.3f} | {part['equal_area'].mean():.3f} | {images} "
            f"| {', '.join(f'{name} {count}' for name, count in heads.items())} |"
        )


def before_and_now(earlier: pd.DataFrame, now: pd.DataFrame) -> str:
    """Return a table of earlier results beside those of the same rows of `now`, whose accuracy is ``wga``."""
    found = now.groupby(_SAME, sort=False)["wga"]
    lines = ["| ground | conflicting | row | before | cohorts | now | cohorts |", "|---" * 7 + "|"]
    for row in earlier.itertuples():
        name = row.ground, row.case, row.row
        if name in found.groups:
            before = f"{row.wga:.1f}" + (f" ± {row.sd:.1f}" if row.cohorts > 1 else "")
            part = found.get_group(name)
            lines.append(f"| {' | '.join(name)} | {before} | {row.cohorts} | {_mean(part)} | {len(part)} |")
    return "\n".join(["### Before and now", "", *lines])


def _halves(table: pd.DataFrame) -> Iterator[str]:
    yield "| case | row | half of the tissue cut |"
    yield "|---" * 3 + "|"
    for (_, case, row), part in table.groupby(_SAME, sort=False):
        low, high = part["half_low"].min(), part["half_high"].max()
        ends = f" ({low:+.3f} to {high:+.3f})" if np.isfinite(low) else ""  # of one patient there is none
        if part["half"].notna().any():
            yield f"| {case} | {row} | {part['half'].mean():+.3f}{ends} |"


def _measures(table: pd.DataFrame, at: str = "") -> Iterator[str]:
    names = [f"wga{at}", f"wga{at}_at_zero", f"gba{at}"]
    yield "| conflicting | row | cohorts | WGA | lowest | WGA at threshold 0 | GBA | AUROC, little and much tissue " + (
        "| shift | spread | answered | WGA, no answer wrong | step, ms | a patch, ms |"
    )
    yield "|---" * 14 + "|"
    for (_, case, row), part in table.groupby(_SAME, sort=False):
        wga, at_zero, gba = (_mean(part[name]) for name in names)
        within = f"{part['auroc_little'].mean():.3f}, {part['auroc_much'].mean():.3f}"
        yield (
            f"| {case} | {row} | {len(part)} | {wga} | {part[names[0]].min():.1f} | {at_zero} | {gba} | {within} "
            f"| {part['shift'].mean():+.3f} | {part['spread'].mean():+.3f} | {part['answered'].mean():.1f} "
            f"| {_mean(part[f'{names[0]}_no_answer_wrong'])} | {_known(part['step_ms'].median(), '.1f')} "
            f"| {_known(part['predict_ms'].median(), '.2f')} |"
        )


def _certificates(table: pd.DataFrame) -> Iterator[str]:
    """Yield the moves of the logit, in class gaps: the mean over cohorts, and the widest interval of any."""
    yield "| conflicting | row | half of the tissue cut | twice as much uncovered |"
    yield "|---" * 4 + "|"
    for (_, case, row), part in table.groupby(_SAME, sort=False):
        cells = [
            f"{part[name].mean():+.3f} ({part[f'{name}_low'].min():+.3f} to {part[f'{name}_high'].max():+.3f})"
            for name in ("half", "double")
        ]
        yield f"| {case} | {row} | {' | '.join(cells)} |"


def _differences(table: pd.DataFrame, at: str = "") -> Iterator[str]:
    """Yield the paired differences of any two rows on the same cohorts, with 95 % intervals over cohorts."""
    yield "| conflicting | row | less | cohorts | WGA | 95 % interval | lowest |"
    yield "|---" * 7 + "|"
    for case, part in table.groupby("case", sort=False):
        wide = part.pivot_table(index=_COHORT, columns="row", values=f"wga{at}", sort=False)
        names = list(dict.fromkeys(part["row"]))
        for number, name in enumerate(names):
            for other in names[:number]:
                less = (wide[name] - wide[other]).dropna().to_numpy()
                if len(less) > 1:
                    low, high = interval(less)
                    yield (
                        f"| {case} | {name} | {other} | {len(less)} | {less.mean():+.1f} | {low:+.1f} to {high:+.1f} "
                        f"| {less.min():+.1f} |"
                    )


def interval(values: np.ndarray) -> tuple[float, float]:
    """Return the 95 % interval of the mean of numbers (n,), by resampling them."""
    draws = np.random.default_rng(0).choice(values, (_RESAMPLES, len(values))).mean(axis=1)
    low, high = np.quantile(draws, (0.025, 0.975)).tolist()
    return low, high


def _known(value: float, form: str) -> str:
    return f"{value:{form}}" if np.isfinite(value) else "-"


def _mean(values: pd.Series) -> str:
    spread = f" ± {values.std(ddof=1):.1f}" if len(values) > 1 else ""
    return f"{values.mean():.1f}{spread}"


def fill(readme: Path, text: str) -> None:
    """Write the tables between the markers of a file."""
    head, rest = readme.read_text(encoding="utf-8").split(BEGIN)
    readme.write_text(f"{head}{BEGIN}\n{text}\n{END}{rest.split(END)[1]}", encoding="utf-8")
