"""Draw the audit as PNG bytes: the shortcut before training, and the models' use of tissue and channels.

Amounts of tissue have Okabe-Ito colours of their own (purple little, green much) and differ in their marks too. Lines
through marks are 95 % intervals by patient.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes

from pathopatch.core.text import capitalize_first, pluralize
from pathopatch.groups import GroupingAttribute
from pathopatch.groups.attribute import LABEL_NAMES
from pathopatch.groups.group_sizes import SMALL_CELL
from pathopatch.report.plots import (
    BY_TISSUE,
    GROUP_COLORS,
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

# Little and much tissue come first; an attribute of the patches' own may have more values.
_ATTRIBUTE_COLORS = ("#CC79A7", "#009E73", "#56B4E9", "#D55E00", "#E69F00", "#0072B2", MUTED)
_ATTRIBUTE_MARKS = ("o", "s", "^", "D", "v", "P", "X")
_LABEL_MARKS = ("o", "s")
_GROUP_MARKS = ("o", "s", "^", "D")
_BAND = "#e9ecee"
_DASHED = (0, (4, 3))
_FEW = 10  # patches in a bin; with fewer its mark is hollow
_MEASURES = (("wga", "WGA", "#D55E00", "o"), ("gba", "GBA", "#0072B2", "s"), ("auroc", "AUROC", INK, "D"))


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
    for place, row in enumerate(alone.values()):
        auroc, low, high = row["auroc"], row["auroc_low"], row["auroc_high"]
        if auroc is None:
            axes.text(0.5, place, " one label only", va="center", fontsize=8.5, color=MUTED)
            continue
        if low is not None:
            axes.hlines(place, low, high, color=INK, linewidth=2.4)
        axes.plot(auroc, place, "o", color=INK, markersize=7.5, markeredgecolor="white")
        ends = "" if low is None else f" [{low:.2f}, {high:.2f}]"
        axes.text(1.04, place, f"{auroc:.2f}{ends}", va="center", fontsize=8.5, color=INK)
    # The axis ends at 1; beyond it stand the numbers.
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


def sweep_counts(sweep: Mapping[str, Sequence[Mapping[str, Any]]]) -> bytes:
    """Draw the patches in each of the four groups over all tissue thresholds, a panel per split.

    `sweep` is split -> steps of ``threshold`` and ``counts`` (2 x 2).
    """
    figure, (panels,) = new_figure(WIDTH_IN, 3.4, 1, len(sweep), sharey=True)
    most = max(max(map(max, row["counts"])) for steps in sweep.values() for row in steps)
    for axes, (split, rows) in zip(panels, sweep.items(), strict=True):
        at = [row["threshold"] for row in rows]
        for group, (color, mark) in enumerate(zip(GROUP_COLORS, _GROUP_MARKS, strict=True)):
            n = [row["counts"][group // 2][group % 2] for row in rows]
            name = f"{group} {BY_TISSUE.group_names[group]}"
            axes.plot(at, n, color=color, marker=mark, markersize=4, linewidth=1.6, label=name)
        axes.axhline(SMALL_CELL, color=INK, linewidth=1, linestyle=_DASHED)
        # A group may be empty, which a plain log axis cannot show.
        axes.set_yscale("symlog", linthresh=10)
        y = "patches (log scale)" if axes is panels[0] else ""
        style_axes(axes, title=split, x="tissue threshold", y=y, xlim=(0, 1), ylim=(0, 1.6 * max(most, 100)))
        axes.yaxis.set_major_formatter("{x:.0f}")
        axes.text(0.99, SMALL_CELL, f"{SMALL_CELL}", fontsize=8, ha="right", va="bottom", color=INK)
    handles, names = panels[0].get_legend_handles_labels()
    figure.legend(handles, names, fontsize=8.5, frameon=False, loc="outside lower center", ncols=4)
    return png(figure)


def expected_intervals(cells: Mapping[str, Mapping[str, Any]], *, attribute: GroupingAttribute) -> bytes:
    """Draw the accuracies that would be measured if every group truly had one accuracy; a panel per split.

    `cells` is split -> result of `pathopatch.groups.group_sizes.expected_intervals`.
    """
    n_groups = len(attribute.group_names)
    figure, (panels,) = new_figure(WIDTH_IN, 1.3 + 0.3 * (n_groups + 1), 1, len(cells), sharey=True)
    colors = group_colors(n_groups)
    for axes, (title, expected) in zip(panels, cells.items(), strict=True):
        true = expected["accuracy"]
        axes.axvline(true, color=MUTED, linewidth=1, linestyle=_DASHED)
        for place, cell in enumerate(expected["cells"]):
            if cell["half_width"] is None:
                axes.text(0.5, place, "no patches", va="center", ha="center", fontsize=8.5, color=MUTED)
                continue
            # An accuracy ends at 0 and 1, whatever its half width.
            ends = max(0, true - cell["half_width"]), min(1, true + cell["half_width"])
            axes.hlines(place, *ends, color=colors[place], linewidth=3)
            axes.plot(true, place, "o", color=colors[place], markersize=6.5, markeredgecolor="white")
            people = pluralize(cell["patients"], "patient")
            axes.text(1.04, place, f"n = {cell['n']}, {people}", va="center", fontsize=8, color=INK)
        wga = expected["wga"]
        if wga["mean"] is not None:
            axes.hlines(n_groups, wga["low"], wga["high"], color=INK, linewidth=3)
            axes.plot(wga["mean"], n_groups, "o", color=INK, markersize=6.5, markeredgecolor="white")
            axes.text(1.04, n_groups, f"{-100 * wga['bias']:.0f} points too low", va="center", fontsize=8, color=INK)
        style_axes(axes, title=title, x=f"measured accuracy; true: {100 * true:.0f} % (dashed)", xlim=(0, 1.62))
        axes.set_xticks(
            np.linspace(0, 1, 6), [f"{share} %" if share == 100 else f"{share}" for share in range(0, 101, 20)]
        )
        name_rows(axes, [*(f"{g} {name}" for g, name in enumerate(attribute.group_names)), "WGA"], margin=0.6)
    return png(figure)


def dependence(rows: Sequence[Mapping[Any, Any]], *, labels: Sequence[str] = LABEL_NAMES) -> bytes:
    """Draw slope and rank correlation of the probability over the tissue fraction, a row per run, a colour per label.

    Each of `rows` is of a run and label: run, label, slope and spearman, each with ``_low`` and ``_high``.
    """
    runs = list(dict.fromkeys(row["run"] for row in rows))
    figure, (panels,) = new_figure(WIDTH_IN, 1.4 + 0.42 * len(runs), 1, 2, sharey=True)
    titles = ("change of probability from no tissue to all", "rank correlation (Spearman)")
    for axes, measure, title in zip(panels, ("slope", "spearman"), titles, strict=True):
        axes.axvline(0, color=MUTED, linewidth=1)
        for row in rows:
            label = row["label"]
            place = runs.index(row["run"]) + (label - 0.5) * 0.34
            _with_interval(axes, place, row, measure, color=LABEL_COLORS[label], mark=_LABEL_MARKS[label])
        style_axes(axes, x=title, xlim=(-1.05, 1.05))
        axes.grid(visible=False, axis="y")
    for label in (0, 1):
        name = escape_formula(f"within {label} {labels[label]}")
        panels[0].plot([], [], _LABEL_MARKS[label], color=LABEL_COLORS[label], label=name)
    figure.legend(fontsize=8.5, frameon=False, loc="outside upper left", ncols=2)
    name_rows(panels[0], runs, margin=0.55)
    return png(figure)


def ablation(rows: Sequence[Mapping[str, Any]]) -> bytes:
    """Draw the loss of WGA, GBA and AUROC without each channel: a panel per channel, a row per run.

    Each of `rows` is of a run and channel: run, channel, and ``wga_lost``, ``gba_lost``, ``auroc_lost`` with intervals.
    """
    runs = list(dict.fromkeys(row["run"] for row in rows))
    channels = list(dict.fromkeys(row["channel"] for row in rows))
    figure, (panels,) = new_figure(WIDTH_IN, 1.4 + 0.5 * len(runs), 1, len(channels), sharey=True, sharex=True)
    for axes, channel in zip(panels, channels, strict=True):
        axes.axvline(0, color=MUTED, linewidth=1)
        for row in (row for row in rows if row["channel"] == channel):
            for number, (measure, _, color, mark) in enumerate(_MEASURES):
                place = runs.index(row["run"]) + (number - 1) * 0.26
                _with_interval(axes, place, row, f"{measure}_lost", color=color, mark=mark, scale=100)
        style_axes(axes, title=f"without {channel}", x="lost, points")
        axes.grid(visible=False, axis="y")
    for _, name, color, mark in _MEASURES:
        panels[0].plot([], [], mark, color=color, label=name)
    figure.legend(fontsize=8.5, frameon=False, loc="outside upper left", ncols=3)
    name_rows(panels[0], runs, margin=0.55)
    return png(figure)


def reliability(
    runs: Mapping[str, Sequence[Mapping[str, Any]]], *, names: Sequence[str], tumor: str = LABEL_NAMES[1]
) -> bytes:
    """Draw reliability diagrams, a column per run: share of tumour against probability, and patches in each bin.

    `runs` is run -> result of `pathopatch.evaluation.calibration.reliability` for each value of the attribute; `names`
    are these values.
    """
    width_in = WIDTH_IN if len(runs) > 1 else 6.0
    figure, panels = new_figure(width_in, 5.0, 2, len(runs), sharex=True, sharey="row", height_ratios=[3, 1])
    for column, (run, by_attribute) in enumerate(runs.items()):
        upper, lower = panels[:, column]
        upper.plot([0, 1], [0, 1], color=MUTED, linewidth=1, linestyle=_DASHED)
        for number, curve in enumerate(by_attribute):
            color, mark = _attribute_style(number)
            _reliability_line(upper, [row for row in curve["bins"] if row["n"]], color=color, mark=mark)
            edges = [row["low"] for row in curve["bins"]] + [1.0]
            lower.stairs([row["n"] for row in curve["bins"]], edges, color=color, linewidth=1.6)
        style_axes(upper, title=run, y="" if column else f"share that is {tumor}", title_pt=9)
        errors = "\n".join(
            f"{name}: error {100 * curve['ece']:.0f} % ({100 * curve['ece_if_calibrated']:.0f} % by chance)"
            for name, curve in zip(names, by_attribute, strict=True)
            if curve["n"]
        )
        upper.text(0.02, 1.06, escape_formula(errors), fontsize=7.5, va="bottom", color=INK)
        # Above the diagram there is room for a line of text per value of the attribute.
        upper.set_ylim(-0.03, 1.1 + 0.08 * len(names))
        upper.set_yticks(np.linspace(0, 1, 6))
        percent_axis(upper)
        style_axes(lower, x=f"predicted probability of {tumor}", y="" if column else "patches")
        lower.set_xlim(0, 1)
        lower.yaxis.set_major_formatter("{x:.0f}")
    for number, name in enumerate(names):
        color, mark = _attribute_style(number)
        panels[0, 0].plot([], [], marker=mark, color=color, label=escape_formula(name), linewidth=1.6)
    figure.legend(fontsize=8.5, frameon=False, loc="outside upper left", ncols=min(len(names), 4))
    return png(figure)


def _attribute_style(number: int) -> tuple[str, str]:
    """Return colour and mark of one value of the attribute."""
    return _ATTRIBUTE_COLORS[number % len(_ATTRIBUTE_COLORS)], _ATTRIBUTE_MARKS[number % len(_ATTRIBUTE_MARKS)]


def _reliability_line(axes: Axes, bins: Sequence[Mapping[str, Any]], *, color: str, mark: str) -> None:
    """Draw the share of tumour over the probability; marks of bins with few patches are hollow."""
    if not bins:
        return
    x, y = ([row[name] for row in bins] for name in ("mean_probability", "tumor_share"))
    axes.plot(x, y, color=color, linewidth=1.4)
    for row in bins:
        low, high = row["tumor_share_low"], row["tumor_share_high"]
        if low is not None and np.isfinite(low):
            axes.vlines(row["mean_probability"], low, high, color=color, linewidth=1.2, alpha=0.7)
        face = color if row["n"] >= _FEW else "white"
        axes.plot(row["mean_probability"], row["tumor_share"], mark, color=color, markerfacecolor=face, markersize=5.5)


def _with_interval(
    axes: Axes, place: float, row: Mapping[Any, Any], name: str, *, color: str, mark: str, scale: float = 1
) -> None:
    """Draw one number with its interval, as far as they are known."""
    value, low, high = (row[f"{name}{end}"] for end in ("", "_low", "_high"))
    if value is None or not np.isfinite(value):
        return
    if low is not None and np.isfinite(low):
        axes.hlines(place, scale * low, scale * high, color=color, linewidth=2)
    axes.plot(scale * value, place, mark, color=color, markersize=6, markeredgecolor="white", markeredgewidth=0.7)
