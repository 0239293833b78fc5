"""Answers what the searches tried and found: a row a trial, and validation accuracy against s or the learning rate."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.ticker import LogLocator, MaxNLocator, NullLocator, PercentFormatter, StrMethodFormatter

from pathopatch.report.collect import Study
from pathopatch.report.findings import in_order
from pathopatch.report.markup import Html, between, paragraph, percent, picture, table, tag
from pathopatch.report.plots import dress, new_figure, png

_SERIES = (("gba", "GBA", "#0072B2", "s"), ("wga", "WGA", "#D55E00", "o"))
_SETTINGS = ("learning_rate", "weight_decay", "c", "beta", "s", "t", "biased_lr_scale")
_OF_EXTRAPOLATION = ("c", "beta")
_COLUMNS = 3
_SHIFT = 0.006  # of the axis, so that intervals of WGA and GBA do not hide each other


def searches_section(study: Study, pictures: dict[str, bytes]) -> Html:
    """Return the trials of each searched run, and the picture of what they say of s."""
    if not study.trials and study.folds is not None:
        return paragraph("Each fold was trained, and searched if at all, by itself: see folds/.", kind="absent")
    if not study.trials:
        return paragraph("No run was searched: each was trained once with the settings given.", kind="absent")
    runs = _in_order(study)
    pictures["searches.png"] = accuracy_by_s({run: study.trials[run] for run in runs})
    return tag(
        "div",
        paragraph(
            "Trials are compared by validation alone; the test split has no part in it. s = c (beta + 1) says how far "
            "the groups' shares are moved: 0 is class-balanced ERM, 1 all groups alike, above 1 the minority leads. "
            "Where intervals of neighbouring s overlap widely, validation does not tell them apart."
        ),
        picture(
            "searches.png",
            f"Validation worst-group and group-balanced accuracy of each trial of {len(runs)} searches, against s "
            "where it is searched, else against the learning rate; the same numbers are in the tables below.",
            "Orange dots: worst-group accuracy (WGA), blue squares: group-balanced accuracy (GBA), at decision "
            "threshold 0, with 95 % intervals by bootstrap over patients. Filled: the trial that won. Crosses: "
            "what a pruned trial had reached of what trials are compared by.",
        ),
        *(_trial_table(run, study.trials[run]) for run in runs),
    )


def _in_order(study: Study) -> list[str]:
    """Return the searched runs by threshold, method and seed."""
    rows = pd.DataFrame({"run": list(study.trials)}, dtype=str)
    for name in ("threshold", "method", "seed"):
        rows[name] = [study.configs.get(run, {}).get(name) for run in rows["run"]]
    return [str(run) for run in in_order(rows, "threshold")["run"]]


def _trial_table(run: str, trials: pd.DataFrame) -> Html:
    """Return a run's trials; the winner in bold."""
    names = [name for name in _SETTINGS if name in trials and (name not in _OF_EXTRAPOLATION or _has(trials, "s"))]
    names = [name for name in names if _has(trials, name)]
    body = []
    for row in trials.to_dict("records"):
        number: Html | str = str(row["trial"])
        cells: list[Html | str] = [tag("strong", f"{number} (won)") if row["won"] else number]
        cells += ["–" if pd.isna(row[name]) else f"{row[name]:.3g}" for name in names]
        cells += [_share(row, name) for name in ("wga", "gba")]
        cells += [str(row["steps"]), str(row["state"])]
        body.append(tuple(cells))
    steps, pruned = int(trials["steps"].sum()), int((trials["state"] == "pruned").sum())
    told = f", {pruned} pruned" if pruned else ""
    caption = f"{run}: {len(trials)} trials{told}, {steps} training steps in all; validation, percent."
    header = ("trial", *(name.replace("_", " ") for name in names), "WGA", "GBA", "steps", "state")
    return table(caption, header, body)


def _has(trials: pd.DataFrame, name: str) -> bool:
    """Return whether any trial has a value of this name."""
    return name in trials and bool(trials[name].notna().any())


def _share(row: dict[Any, Any], name: str) -> Html | str:
    """Return a share in percent with its interval; a dash where the trial did not end."""
    if pd.isna(row[name]):
        return "–"
    return between(percent(row[name]), percent(row[f"{name}_low"]), percent(row[f"{name}_high"]))


def accuracy_by_s(searches: Mapping[str, pd.DataFrame]) -> bytes:
    """Return validation WGA and GBA of each trial with their intervals, a panel a search, as PNG.

    Parameters
    ----------
    searches : mapping of str to DataFrame
        Run -> its ``trials.csv``. Trials are drawn at their s; those of a search without s at their learning rate.
    """
    columns = min(_COLUMNS, len(searches))
    rows = -(-len(searches) // columns)
    figure = new_figure(10.0 if columns > 1 else 5.5, 0.3 + 2.9 * rows)
    panels = figure.subplots(rows, columns, squeeze=False, sharey=True).ravel()
    for axes in panels[len(searches) :]:
        axes.set_visible(False)
    for number, (axes, (run, trials)) in enumerate(zip(panels, searches.items(), strict=False)):
        _panel(axes, run, trials, is_first=number % columns == 0)
    return png(figure)


def _panel(axes: Axes, run: str, trials: pd.DataFrame, *, is_first: bool) -> None:
    """Draw one search."""
    by_s = _has(trials, "s")
    x_name = "s" if by_s else "learning_rate"
    dress(
        axes,
        title=run,
        x="s = c (beta + 1)" if by_s else "learning rate (no s in this method)",
        y="validation" if is_first else "",
    )
    axes.set_title(axes.get_title(loc="left"), loc="left", fontsize=9)
    if not by_s:
        axes.set_xscale("log")
        axes.xaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
        axes.xaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
        axes.xaxis.set_minor_locator(NullLocator())
    ended = trials[trials["state"] == "complete"]
    for index, (name, said, color, marker) in enumerate(_SERIES):
        x = _beside(ended[x_name].to_numpy(dtype=float), index, is_log=not by_s)
        y = ended[name].to_numpy(dtype=float)
        low, high = (ended[f"{name}_{end}"].to_numpy(dtype=float) for end in ("low", "high"))
        axes.vlines(x, low, high, color=color, linewidth=1.3, alpha=0.55)
        won = ended["won"].to_numpy(dtype=bool)
        for mask, face in ((~won, "white"), (won, color)):
            axes.plot(
                x[mask], y[mask], marker, color=color, markerfacecolor=face, markersize=6.5, markeredgewidth=1.4,
                label=said if face != "white" or not won.any() else None,
            )  # fmt: skip
    pruned = trials[trials["state"] == "pruned"]
    if len(pruned):
        axes.plot(pruned[x_name], pruned["value"], "x", color="#4a5158", markersize=6, label="pruned")
    if by_s:
        axes.axvline(1, color="#9aa1a8", linewidth=1, linestyle=(0, (4, 3)), zorder=0)
        axes.xaxis.set_major_locator(MaxNLocator(6))
    axes.set_ylim(-0.03, 1.03)
    axes.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    axes.legend(fontsize=8, frameon=False, loc="lower right")


def _beside(x: np.ndarray[Any, Any], index: int, *, is_log: bool) -> np.ndarray[Any, Any]:
    """Return places moved a little to the left for the first series, to the right for the second."""
    side = 2 * index - 1
    if is_log:
        return np.asarray(x * (1 + side * 5 * _SHIFT))
    spread = max(float(np.ptp(x)) if len(x) else 0.0, 0.5)
    return np.asarray(x + side * _SHIFT * spread)
