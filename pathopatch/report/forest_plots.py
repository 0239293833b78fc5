"""Draw numbers with their 95 % intervals in rows, as PNG bytes: accuracies, the audit, use of tissue and channels."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from pathopatch.core.text import capitalize_first, pluralize
from pathopatch.evaluation.group_scores import too_few
from pathopatch.groups import GroupingAttribute
from pathopatch.groups.attribute import LABEL_NAMES
from pathopatch.report.plots import (
    BY_TISSUE,
    DASHED,
    FAINT,
    INK,
    LABEL_COLORS,
    MUTED,
    WIDTH_IN,
    escape_formula,
    group_colors,
    name_rows,
    new_figure,
    percent_axis,
    png,
    style_axes,
)

_LABEL_MARKS = ("o", "s")
_BAND = "#e9ecee"
_MEASURES = (("wga", "WGA", "#D55E00", "o"), ("gba", "GBA", "#0072B2", "s"), ("auroc", "AUROC", INK, "D"))


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


def group_accuracies(rows: pd.DataFrame, *, attribute: GroupingAttribute = BY_TISSUE) -> bytes:
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
            is_few = any(too_few(row[f"n_{group}"], row[f"patients_{group}"]) for group in groups)
            value, low, high = (row[f"{name}{end}"] for end in ("", "_low", "_high"))
            marks.append(Mark(place, value, low, high, FAINT if is_few else color, text=f"{100 * value:.0f}"))
        draw_marks(axes, marks, text_at=1.12, unknown="no patches")
        style_axes(axes, title=title, title_pt=9)
        for first, end in shaded:
            axes.axhspan(first - 0.5, end - 0.5, color="#f3f5f6", zorder=0, linewidth=0)
        axes.set_xlim(-0.05, 1.36)
        axes.set_xticks([0, 0.5, 1], ["0", "50", "100 %"])
        axes.grid(visible=False, axis="y")
    name_rows(panels[0], rows["run"].tolist(), margin=0.6)
    return png(figure)


def shortcut_strength(
    alone: Mapping[str, Mapping[str, Any]],
    sweep: Mapping[str, Sequence[Mapping[str, Any]]],
    *,
    least_effect: float,
    title: str = "Tissue fraction alone",
    labels: Sequence[str] = LABEL_NAMES,
) -> bytes:
    """Draw the AUROC of the tissue fraction alone per split, and alpha's gap between the labels per threshold.

    `alone` is split -> ``auroc``, ``auroc_low``, ``auroc_high``, ``n``, ``patients``. `sweep` is split -> steps of
    ``threshold``, ``gap``, ``gap_low``, ``gap_high``; its first split is drawn. An AUROC within `least_effect` of 0.5
    counts as no shortcut.
    """
    figure, ((left, right),) = new_figure(WIDTH_IN, shortcut_height_in(alone), 1, 2)
    draw_auroc(left, alone, least_effect=least_effect, title=title)
    draw_gap(right, sweep, labels=labels)
    return png(figure)


def shortcut_height_in(alone: Mapping[str, Mapping[str, Any]]) -> float:
    """Return the height of the figure that `draw_auroc` and `draw_gap` share, inches."""
    return 1.6 + 0.42 * max(3, len(alone))


def draw_auroc(axes: Axes, alone: Mapping[str, Mapping[str, Any]], *, least_effect: float, title: str) -> None:
    """Draw the AUROC of the tissue fraction alone, a row per split; arguments as of `shortcut_strength`."""
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
    name_rows(axes, names, margin=0.6)


def draw_gap(axes: Axes, sweep: Mapping[str, Sequence[Mapping[str, Any]]], *, labels: Sequence[str]) -> None:
    """Draw alpha's gap between the labels per threshold, of the first split; arguments as of `shortcut_strength`."""
    split, steps = next(iter(sweep.items()))
    # A split of one label has no gap between labels.
    measured = [step for step in steps if step["gap"] is not None]
    if measured:
        at = [step["threshold"] for step in measured]
        if measured[0]["gap_low"] is not None:
            band = np.array([[step["gap_low"], step["gap_high"]] for step in measured]).T
            axes.fill_between(at, *band, color=INK, alpha=0.16, linewidth=0)
        axes.plot(at, [step["gap"] for step in measured], color=INK, linewidth=2)
    axes.axhline(0, color=MUTED, linewidth=1)
    style_axes(
        axes,
        title=f"{capitalize_first(labels[1])} minus {labels[0]}, {split}",
        x="tissue threshold",
        y="difference of shares, points",
        xlim=(0, 1),
        ylim=(-1.03, 1.03),
    )
    percent_axis(axes, symbol="")


def expected_intervals(cells: Mapping[str, Mapping[str, Any]], *, attribute: GroupingAttribute) -> bytes:
    """Draw the accuracies that would be measured if every group truly had one accuracy; a panel per split.

    `cells` is split -> result of `pathopatch.groups.group_sizes.expected_intervals`.
    """
    names = [f"{g} {name}" for g, name in enumerate(attribute.group_names)]
    figure, (panels,) = new_figure(WIDTH_IN, 1.3 + 0.3 * (len(names) + 1), 1, len(cells), sharey=True)
    colors = group_colors(len(names))
    for axes, (title, expected) in zip(panels, cells.items(), strict=True):
        true, wga = expected["accuracy"], expected["wga"]
        axes.axvline(true, color=MUTED, linewidth=1, linestyle=DASHED)
        marks = []
        for place, cell in enumerate(expected["cells"]):
            half = cell["half_width"]
            # An accuracy ends at 0 and 1, whatever its half width.
            low, high = (None, None) if half is None else (max(0, true - half), min(1, true + half))
            text = f"n = {cell['n']}, {pluralize(cell['patients'], 'patient')}"
            marks.append(Mark(place, None if half is None else true, low, high, colors[place], text=text))
        if wga["mean"] is not None:
            text = f"{-100 * wga['bias']:.0f} points too low"
            marks.append(Mark(len(names), wga["mean"], wga["low"], wga["high"], text=text))
        draw_marks(axes, marks, unknown="no patches")
        style_axes(axes, title=title, x=f"measured accuracy; true: {100 * true:.0f} % (dashed)", xlim=(0, 1.62))
        ticks = [f"{share} %" if share == 100 else f"{share}" for share in range(0, 101, 20)]
        axes.set_xticks(np.linspace(0, 1, 6), ticks)
        name_rows(axes, [*names, "WGA"], margin=0.6)
    return png(figure)


def dependence(rows: Sequence[Mapping[Any, Any]], *, labels: Sequence[str] = LABEL_NAMES) -> bytes:
    """Draw slope and rank correlation of the probability over the tissue fraction, a row per run, a colour per label.

    Each of `rows` is of a run and label: run, label, slope and spearman, each with ``_low`` and ``_high``.
    """
    titles = {"slope": "change of probability from no tissue to all", "spearman": "rank correlation (Spearman)"}
    kinds = [(f"within {y} {labels[y]}", LABEL_COLORS[y], _LABEL_MARKS[y]) for y in (0, 1)]
    panels = {
        title: [(row["run"], row["label"], [row[f"{name}{end}"] for end in ("", "_low", "_high")]) for row in rows]
        for name, title in titles.items()
    }
    return _by_run(panels, kinds, step=0.34, xlim=(-1.05, 1.05))


def ablation(rows: Sequence[Mapping[str, Any]]) -> bytes:
    """Draw the loss of WGA, GBA and AUROC without each channel: a panel per channel, a row per run.

    Each of `rows` is of a run and channel: run, channel, and ``wga_lost``, ``gba_lost``, ``auroc_lost`` with intervals.
    """
    panels: dict[str, list[tuple[str, int, list[float]]]] = {}
    for row in rows:
        for kind, (name, *_) in enumerate(_MEASURES):
            known = [row[f"{name}_lost{end}"] for end in ("", "_low", "_high")]
            ends = [math.nan if value is None else 100 * value for value in known]
            panels.setdefault(f"lost without {row['channel']}, points", []).append((row["run"], kind, ends))
    return _by_run(panels, [measure[1:] for measure in _MEASURES], step=0.26)


def _by_run(
    panels: Mapping[str, Sequence[tuple[str, int, list[float]]]],
    kinds: Sequence[tuple[str, str, str]],
    *,
    step: float,
    **limits: Any,
) -> bytes:
    """Draw several kinds of numbers in the row of each run, a panel per title, with 0 marked.

    `panels` is title -> (run, number of the kind, [value, low, high]); `kinds` have name, colour and mark.
    """
    runs = list(dict.fromkeys(run for rows in panels.values() for run, *_ in rows))
    figure, (axes_in_row,) = new_figure(WIDTH_IN, 1.4 + 0.46 * len(runs), 1, len(panels), sharey=True, sharex=True)
    for axes, (title, rows) in zip(axes_in_row, panels.items(), strict=True):
        axes.axvline(0, color=MUTED, linewidth=1)
        middle = (len(kinds) - 1) / 2
        marks = [
            Mark(runs.index(run) + (kind - middle) * step, value, low, high, *kinds[kind][1:])
            for run, kind, (value, low, high) in rows
        ]
        draw_marks(axes, marks)
        style_axes(axes, x=title, **limits)
        axes.grid(visible=False, axis="y")
    for name, color, mark in kinds:
        axes_in_row[0].plot([], [], mark, color=color, label=escape_formula(name))
    figure.legend(fontsize=8.5, frameon=False, loc="outside upper left", ncols=len(kinds))
    name_rows(axes_in_row[0], runs, margin=0.55)
    return png(figure)
