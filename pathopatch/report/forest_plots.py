"""Draw numbers with their 95 % intervals in rows, as PNG bytes: accuracies by group, and the audit."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter

from pathopatch.core.text import capitalize_first, pluralize
from pathopatch.evaluation.group_scores import too_few_of
from pathopatch.groups import GroupingAttribute
from pathopatch.groups.attribute import LABEL_NAMES
from pathopatch.groups.audit import distinct_results
from pathopatch.report.plots import (
    FAINT,
    INK,
    MUTED,
    WIDTH_IN,
    group_colors,
    name_rows,
    new_figure,
    percent_axis,
    png,
    style_axes,
)

_BAND = "#e9ecee"


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
    """Draw WGA of each row of a summary over its seeds, with its interval, a panel for each attribute.

    `rows` are those of `pathopatch.evaluation.summary.Summary`. The axis begins at the lowest interval.
    """
    parts = list(rows.groupby("attribute", sort=False))
    heights = [len(part) + 1.6 for _, part in parts]
    figure, panels = new_figure(
        6.3, 0.35 + 0.3 * sum(heights), len(parts), 1, sharex=True, gridspec_kw={"height_ratios": heights}
    )
    known = rows[["wga", "wga_low", "wga_lowest"]].to_numpy(np.float64)
    lowest = float(known[np.isfinite(known)].min(initial=1.0))
    for axes, (label, part) in zip(panels[:, 0], parts, strict=True):
        marks = []
        for place, row in enumerate(part.to_dict("records")):
            is_few = bool(row["too_few"])
            text = f"{100 * row['wga']:.1f}" + ("*" if is_few else "")
            marks.append(Mark(place, row["wga"], row["wga_low"], row["wga_high"], FAINT if is_few else INK, text=text))
        draw_marks(axes, marks, text_at=1.02)
        first, last = part["seeds"].min(), part["seeds"].max()
        seeds = pluralize(first, "seed") if first == last else f"{first} to {last} seeds"
        style_axes(axes, title=f"groups by {label}, {seeds}", title_pt=9)
        axes.set_xlim(min(lowest - 0.02, 0.9), 1.12)
        axes.xaxis.set_major_formatter(PercentFormatter(1, decimals=0, symbol=""))
        axes.set_xticks([tick for tick in axes.get_xticks() if axes.get_xlim()[0] <= tick <= 1 + 1e-9])
        name_rows(axes, part["name"].tolist())
    panels[-1, 0].set_xlabel("worst-group accuracy, %, and 95 % interval", fontsize=9, color=INK)
    return figure


def shortcut_strength(audit: Mapping[str, Any]) -> bytes:
    """Draw `pathopatch.groups.audit`: the AUROC of the tissue alone per split, and alpha's gap between the labels."""
    figure, ((left, right),) = new_figure(WIDTH_IN, shortcut_height_in(audit), 1, 2)
    draw_shortcut(left, right, audit)
    return png(figure)


def shortcut_height_in(audit: Mapping[str, Any]) -> float:
    """Return the height of the figure of `draw_shortcut`, inches."""
    return 1.6 + 0.42 * max(3, len(distinct_results(audit)))


def draw_shortcut(left: Axes, right: Axes, audit: Mapping[str, Any]) -> None:
    """Draw an audit: at the left the AUROC, a row per split; at the right the gap over thresholds, of one split."""
    labels = audit.get("label_names", LABEL_NAMES)
    is_own = "attribute_only" in audit
    alone, least_effect = distinct_results(audit), audit["verdict"]["least_effect"]
    _draw_auroc(left, alone, least_effect, f"{'Own attribute' if is_own else 'Tissue fraction'} alone")
    split, steps = next(iter(audit["sweep"].items()))
    # A split of one label has no gap between labels.
    if measured := [step for step in steps if step["gap"] is not None]:
        at = [step["threshold"] for step in measured]
        if measured[0]["gap_low"] is not None:
            band = np.array([[step["gap_low"], step["gap_high"]] for step in measured]).T
            right.fill_between(at, *band, color=INK, alpha=0.16, linewidth=0)
        right.plot(at, [step["gap"] for step in measured], color=INK, linewidth=2)
    right.axhline(0, color=MUTED, linewidth=1)
    style_axes(
        right,
        title=f"{capitalize_first(labels[1])} minus {labels[0]}, {split}",
        x="tissue threshold",
        y="difference of shares, points",
        xlim=(0, 1),
        ylim=(-1.03, 1.03),
    )
    percent_axis(right, symbol="")


def _draw_auroc(axes: Axes, alone: Mapping[str, Mapping[str, Any]], least_effect: float, title: str) -> None:
    axes.axvspan(0.5 - least_effect, 0.5 + least_effect, color=_BAND, zorder=0, linewidth=0)
    axes.axvline(0.5, color=MUTED, linewidth=1)
    marks = []
    for place, row in enumerate(alone.values()):
        auroc, low, high = row["auroc"], row["auroc_low"], row["auroc_high"]
        text = "" if auroc is None else f"{auroc:.2f}" + ("" if low is None else f" [{low:.2f}, {high:.2f}]")
        marks.append(Mark(place, auroc, low, high, text=text))
    draw_marks(axes, marks, unknown="one label only")
    # The axis ends at 1; the numbers are beyond it.
    style_axes(axes, title=title, x="AUROC for the label (shaded: too weak to count)", xlim=(0, 1.6))
    axes.set_xticks(np.linspace(0, 1, 5))
    names = [
        f"{split}: {pluralize(row['n'], 'patch')},\n{pluralize(row['patients'], 'patient')}"
        for split, row in alone.items()
    ]
    name_rows(axes, names)
