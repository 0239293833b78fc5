"""Draw numbers with their 95 % intervals in rows: accuracies by group, and rows over seeds."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter

from pathopatch.core.text import pluralize
from pathopatch.evaluation.group_scores import too_few_of
from pathopatch.groups import GroupingAttribute
from pathopatch.report.plots import (
    FAINT,
    INK,
    MUTED,
    WIDTH_IN,
    group_colors,
    name_rows,
    new_figure,
    png,
    style_axes,
)


class Mark(NamedTuple):
    """A number in a row of a plot; None or NaN where it, or its interval, is not known."""

    place: float  # of the row, from the top
    value: float | None
    low: float | None = None
    high: float | None = None
    color: str = INK
    mark: str = "o"
    text: str = ""  # at the right


def draw_marks(axes: Axes, marks: Iterable[Mark], *, text_at: float = 1.04, unknown: str = "") -> None:
    """Draw numbers as marks and their intervals as lines; `unknown` is the text for an unknown number."""
    for place, value, low, high, color, mark, text in marks:
        if value is None or not np.isfinite(value):
            axes.text(0.5, place, unknown, va="center", ha="center", fontsize=8.5, color=MUTED)
            continue
        if low is not None and high is not None and np.isfinite(low):
            axes.hlines(place, low, high, color=color, linewidth=2.4)
        axes.plot(value, place, mark, color=color, markersize=6.5, markeredgecolor="white", markeredgewidth=0.8)
        axes.text(text_at, place, text, va="center", fontsize=8.5, color=MUTED if color == FAINT else INK)


def group_accuracies(rows: pd.DataFrame, *, attribute: GroupingAttribute) -> bytes:
    """Draw a row per run of a comparison, a column per group and one for WGA.

    What rests on too few patches or patients is grey; of WGA that is decided by the smallest group.
    """
    names = attribute.group_names
    width_in, height_in = WIDTH_IN * max(1.0, len(names) / 5), 1.15 + 0.36 * len(rows)
    figure, (panels,) = new_figure(width_in, height_in, 1, len(names) + 1, sharey=True)
    columns = [
        (f"accuracy_{g}", f"{g}  {name.replace(', ', chr(10), 1)}", color, [g])
        for g, (name, color) in enumerate(zip(names, group_colors(len(names)), strict=True))
    ]
    columns.append(("wga", "WGA\nthe lowest of them", INK, list(range(len(names)))))
    # Every other method is shaded, so that the seeds of one method are seen as one block.
    methods = rows["method"].tolist()
    starts = [place for place, name in enumerate(methods) if place == 0 or name != methods[place - 1]]
    shaded = list(zip(starts, [*starts[1:], len(methods)], strict=True))[1::2]
    for axes, (name, title, color, groups) in zip(panels, columns, strict=True):
        marks = []
        for place, row in enumerate(rows.to_dict("records")):
            is_few = any(f"group {group}" in too_few_of(row) for group in groups)
            value, low, high = (row[f"{name}{end}"] for end in ("", "_low", "_high"))
            marks.append(Mark(place, value, low, high, FAINT if is_few else color, text=f"{100 * value:.0f}"))
        draw_marks(axes, marks, text_at=1.12, unknown="no patches")
        style_axes(axes, title=title, title_pt=9)
        for first, end in shaded:
            axes.axhspan(first - 0.5, end - 0.5, color="#f3f5f6", zorder=0, linewidth=0)
        axes.set_xlim(-0.05, 1.36)
        axes.set_xticks([0, 0.5, 1], ["0", "50", "100 %"])
        axes.grid(visible=False, axis="y")
    name_rows(panels[0], rows["run"].tolist())
    return png(figure)


def worst_groups(rows: pd.DataFrame) -> Figure:
    """Draw WGA and AUROC at equal area of each row of a summary, with their intervals, two panels for each attribute.

    `rows` are those of `pathopatch.evaluation.summary.Summary`. An axis begins at its lowest interval.
    """
    parts = list(rows.groupby("attribute", sort=False))
    heights = [len(part) + 1.6 for _, part in parts]
    figure, panels = new_figure(
        9.0, 0.35 + 0.3 * sum(heights), len(parts), 2, sharex="col", gridspec_kw={"height_ratios": heights}
    )
    titles = {"wga": "worst-group accuracy, %, and 95 % interval", "equal_area": "AUROC at equal area"}
    for column, (measure, title) in zip(panels.T, titles.items(), strict=True):
        known = rows[[measure, f"{measure}_low"]].to_numpy(np.float64)
        lowest = float(known[np.isfinite(known)].min(initial=1.0))
        scale, digits = (100, 1) if measure == "wga" else (1, 3)
        for axes, (label, part) in zip(column, parts, strict=True):
            marks = []
            for place, row in enumerate(part.to_dict("records")):
                is_few = bool(row["too_few"])
                value, low, high = (row[f"{measure}{end}"] for end in ("", "_low", "_high"))
                text = f"{scale * value:.{digits}f}" + ("*" if is_few else "")
                marks.append(Mark(place, value, low, high, FAINT if is_few else INK, text=text))
            draw_marks(axes, marks, text_at=1.02)
            first, last = part["seeds"].min(), part["seeds"].max()
            seeds = pluralize(first, "seed") if first == last else f"{first} to {last} seeds"
            style_axes(axes, title=f"groups by {label}, {seeds}" if measure == "wga" else "", title_pt=9)
            axes.set_xlim(min(lowest - 0.02, 0.9), 1.12)
            if measure == "wga":
                axes.xaxis.set_major_formatter(PercentFormatter(1, decimals=0, symbol=""))
            axes.set_xticks([tick for tick in axes.get_xticks() if axes.get_xlim()[0] <= tick <= 1 + 1e-9])
            name_rows(axes, part["name"].tolist() if measure == "wga" else [""] * len(part))
        column[-1].set_xlabel(title, fontsize=9, color=INK)
    return figure
