"""Answers how the audit looks: the shortcut before training, and what models make of tissue and channels, as PNG bytes.

Amounts of tissue have Okabe-Ito colours of their own (purple little, green much) and differ in their marks too. What is
drawn with a line has its 95 % interval by patient.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import PercentFormatter

from pathopatch.core.text import pluralize
from pathopatch.groups import GroupingAttribute
from pathopatch.groups.attribute import LABEL_NAMES
from pathopatch.groups.expected import SMALL_CELL
from pathopatch.report.markup import capital
from pathopatch.report.plots import BY_TISSUE, GROUP_COLORS, LABEL_COLORS, dress, group_colors, new_figure, plain, png

TISSUE_COLORS = ("#CC79A7", "#009E73")
_TISSUE_MARKS = ("o", "s")
_MORE_COLORS = (*TISSUE_COLORS, "#56B4E9", "#D55E00", "#E69F00", "#0072B2", "#4a5158")
_MORE_MARKS = (*_TISSUE_MARKS, "^", "D", "v", "P", "X")
_GROUP_MARKS = ("o", "s", "^", "D")
_INK, _MUTED, _BAND = "#1b1f23", "#4a5158", "#e9ecee"
_FEW = 10  # patches in a bin, below which its mark is hollow
_MEASURES = (("wga", "WGA"), ("gba", "GBA"), ("auroc", "AUROC"))
_MEASURE_MARKS = ("o", "s", "D")


def shortcut_strength(
    alone: Mapping[str, Mapping[str, Any]],
    sweep: Mapping[str, Sequence[Mapping[str, Any]]],
    *,
    least_effect: float,
    title: str = "Tissue fraction alone",
    labels: Sequence[str] = LABEL_NAMES,
) -> bytes:
    """Return the AUROC of the tissue fraction alone per split, and alpha's gap between the labels per threshold.

    Parameters
    ----------
    alone : mapping
        Split -> ``auroc``, ``auroc_low``, ``auroc_high``, ``n``, ``patients``.
    sweep : mapping
        Split -> steps of ``threshold``, ``gap``, ``gap_low``, ``gap_high``; the first split is drawn.
    least_effect : float
        Distance from 0.5 within which an AUROC is no shortcut; shaded.
    title : str
        What is held against the label.
    labels : sequence of str
        What label 0 and label 1 are called.
    """
    figure = new_figure(10.0, 1.6 + 0.42 * max(3, len(alone)))
    left, right = figure.subplots(1, 2, width_ratios=[1, 1])
    left.axvspan(0.5 - least_effect, 0.5 + least_effect, color=_BAND, zorder=0, linewidth=0)
    left.axvline(0.5, color=_MUTED, linewidth=1)
    for place, told in enumerate(alone.values()):
        if told["auroc"] is None:
            left.text(0.5, place, " one label only", va="center", fontsize=8.5, color=_MUTED)
            continue
        if told["auroc_low"] is not None:
            left.hlines(place, told["auroc_low"], told["auroc_high"], color=_INK, linewidth=2.4)
        left.plot(told["auroc"], place, "o", color=_INK, markersize=7.5, markeredgecolor="white")
        ends = "" if told["auroc_low"] is None else f" [{told['auroc_low']:.2f}, {told['auroc_high']:.2f}]"
        left.text(1.04, place, f"{told['auroc']:.2f}{ends}", va="center", fontsize=8.5, color=_INK)
    dress(left, title=title, x="AUROC for the label (shaded: too weak to count)")
    left.set_xlim(0, 1.6)
    left.set_xticks(np.linspace(0, 1, 5))
    names = [
        plain(f"{split}: {pluralize(told['n'], 'patch')},\n{pluralize(told['patients'], 'patient')}")
        for split, told in alone.items()
    ]
    left.set_yticks(range(len(alone)), names)
    left.tick_params(axis="y", labelcolor=_INK)
    left.set_ylim(len(alone) - 0.4, -0.6)
    left.grid(visible=False, axis="y")
    split, steps = next(iter(sweep.items()))
    known = [step for step in steps if step["gap"] is not None]
    if known:
        at = [step["threshold"] for step in known]
        if known[0]["gap_low"] is not None:
            band = np.array([[step["gap_low"], step["gap_high"]] for step in known]).T
            right.fill_between(at, *band, color=_INK, alpha=0.16, linewidth=0)
        right.plot(at, [step["gap"] for step in known], color=_INK, linewidth=2)
    right.axhline(0, color=_MUTED, linewidth=1)
    dress(
        right,
        title=f"{capital(labels[1])} minus {labels[0]}, {split}",
        x="tissue threshold",
        y="difference of shares, points",
    )
    right.set_xlim(0, 1)
    right.set_ylim(-1.03, 1.03)
    right.yaxis.set_major_formatter(PercentFormatter(1, decimals=0, symbol=""))
    return png(figure)


def sweep_counts(sweep: Mapping[str, Sequence[Mapping[str, Any]]]) -> bytes:
    """Return the number of patches in each of the four groups for every tissue threshold, a panel a split.

    Parameters
    ----------
    sweep : mapping
        Split -> steps of ``threshold`` and ``counts`` (2 x 2).
    """
    figure = new_figure(10.0, 3.4)
    panels = figure.subplots(1, len(sweep), sharey=True, squeeze=False)[0]
    most = max(max(map(max, row["counts"])) for steps in sweep.values() for row in steps)
    for axes, (split, rows) in zip(panels, sweep.items(), strict=True):
        at = [row["threshold"] for row in rows]
        for group, (color, mark) in enumerate(zip(GROUP_COLORS, _GROUP_MARKS, strict=True)):
            n = [row["counts"][group // 2][group % 2] for row in rows]
            name = f"{group} {BY_TISSUE.group_names[group]}"
            axes.plot(at, n, color=color, marker=mark, markersize=4, linewidth=1.6, label=name)
        axes.axhline(SMALL_CELL, color=_INK, linewidth=1, linestyle=(0, (4, 3)))
        axes.set_yscale("symlog", linthresh=10)
        dress(axes, title=split, x="tissue threshold", y="patches (log scale)" if axes is panels[0] else "")
        axes.set_xlim(0, 1)
        axes.set_ylim(0, 1.6 * max(most, 100))
        axes.yaxis.set_major_formatter("{x:.0f}")
        axes.text(0.99, SMALL_CELL, f"{SMALL_CELL}", fontsize=8, ha="right", va="bottom", color=_INK)
    handles, names = panels[0].get_legend_handles_labels()
    figure.legend(handles, names, fontsize=8.5, frameon=False, loc="outside lower center", ncols=4)
    return png(figure)


def expected_intervals(cells: Mapping[str, Mapping[str, Any]], *, attribute: GroupingAttribute) -> bytes:
    """Return what would be measured of each cell and of WGA if every cell truly had one accuracy; a panel a case.

    Parameters
    ----------
    cells : mapping
        Title -> what `pathopatch.groups.expected.expected` returns.
    attribute : GroupingAttribute
        What the groups are called.
    """
    n_groups = len(attribute.group_names)
    figure = new_figure(10.0, 1.3 + 0.3 * (n_groups + 1))
    panels = figure.subplots(1, len(cells), sharey=True, squeeze=False)[0]
    colors = group_colors(n_groups)
    for axes, (title, told) in zip(panels, cells.items(), strict=True):
        true = told["accuracy"]
        axes.axvline(true, color=_MUTED, linewidth=1, linestyle=(0, (4, 3)))
        for place, cell in enumerate(told["cells"]):
            if cell["half_width"] is None:
                axes.text(0.5, place, "no patches", va="center", ha="center", fontsize=8.5, color=_MUTED)
                continue
            ends = max(0, true - cell["half_width"]), min(1, true + cell["half_width"])
            axes.hlines(place, *ends, color=colors[place], linewidth=3)
            axes.plot(true, place, "o", color=colors[place], markersize=6.5, markeredgecolor="white")
            people = pluralize(cell["patients"], "patient")
            axes.text(1.04, place, f"n = {cell['n']}, {people}", va="center", fontsize=8, color=_INK)
        wga = told["wga"]
        if wga["mean"] is not None:
            axes.hlines(n_groups, wga["low"], wga["high"], color=_INK, linewidth=3)
            axes.plot(wga["mean"], n_groups, "o", color=_INK, markersize=6.5, markeredgecolor="white")
            axes.text(1.04, n_groups, f"{-100 * wga['bias']:.0f} points too low", va="center", fontsize=8, color=_INK)
        dress(axes, title=title, x=f"accuracy one would measure, were every group right at {100 * true:.0f} % (dashed)")
        axes.set_xlim(0, 1.62)
        axes.set_xticks(
            np.linspace(0, 1, 6), [f"{share} %" if share == 100 else f"{share}" for share in range(0, 101, 20)]
        )
        axes.set_yticks(
            range(n_groups + 1), [*(plain(f"{g} {name}") for g, name in enumerate(attribute.group_names)), "WGA"]
        )
        axes.tick_params(axis="y", labelcolor=_INK)
        axes.set_ylim(n_groups + 0.6, -0.6)
        axes.grid(visible=False, axis="y")
    return png(figure)


def dependence(rows: Sequence[Mapping[str, Any]], *, labels: Sequence[str] = LABEL_NAMES) -> bytes:
    """Return slope and rank correlation of the probability over the tissue fraction, a row a run, a colour a label.

    Parameters
    ----------
    rows : sequence of mapping
        A run and label each: run, label, slope, spearman, each with ``_low`` and ``_high``.
    labels : sequence of str
        What label 0 and label 1 are called.
    """
    runs = list(dict.fromkeys(row["run"] for row in rows))
    figure = new_figure(10.0, 1.4 + 0.42 * len(runs))
    panels = figure.subplots(1, 2, sharey=True)
    titles = ("change of probability from no tissue to all", "rank correlation (Spearman)")
    for axes, measure, title in zip(panels, ("slope", "spearman"), titles, strict=True):
        axes.axvline(0, color=_MUTED, linewidth=1)
        for row in rows:
            place = runs.index(row["run"]) + (row["label"] - 0.5) * 0.34
            _with_interval(
                axes, place, row, measure, color=LABEL_COLORS[row["label"]], mark=_TISSUE_MARKS[row["label"]]
            )
        dress(axes, x=title)
        axes.set_xlim(-1.05, 1.05)
        axes.grid(visible=False, axis="y")
    for label in (0, 1):
        panels[0].plot(
            [], [], _TISSUE_MARKS[label], color=LABEL_COLORS[label], label=plain(f"within {label} {labels[label]}")
        )
    figure.legend(fontsize=8.5, frameon=False, loc="outside upper left", ncols=2)
    _name_rows(panels[0], runs)
    return png(figure)


def ablation(rows: Sequence[Mapping[str, Any]]) -> bytes:
    """Return what is lost of WGA, GBA and AUROC without each channel: a panel a channel, a row a run.

    Parameters
    ----------
    rows : sequence of mapping
        A run and channel each: run, channel, and ``wga_lost``, ``gba_lost``, ``auroc_lost`` with intervals.
    """
    runs = list(dict.fromkeys(row["run"] for row in rows))
    channels = list(dict.fromkeys(row["channel"] for row in rows))
    figure = new_figure(10.0, 1.4 + 0.5 * len(runs))
    panels = figure.subplots(1, len(channels), sharey=True, sharex=True, squeeze=False)[0]
    colors = ("#D55E00", "#0072B2", _INK)
    for axes, channel in zip(panels, channels, strict=True):
        axes.axvline(0, color=_MUTED, linewidth=1)
        for row in (row for row in rows if row["channel"] == channel):
            for number, (measure, _) in enumerate(_MEASURES):
                place = runs.index(row["run"]) + (number - 1) * 0.26
                _with_interval(
                    axes, place, row, f"{measure}_lost", color=colors[number], mark=_MEASURE_MARKS[number], scale=100
                )
        dress(axes, title=f"without {channel}", x="lost, points")
        axes.grid(visible=False, axis="y")
    for number, (_, name) in enumerate(_MEASURES):
        panels[0].plot([], [], _MEASURE_MARKS[number], color=colors[number], label=name)
    figure.legend(fontsize=8.5, frameon=False, loc="outside upper left", ncols=3)
    _name_rows(panels[0], runs)
    return png(figure)


def reliability(
    runs: Mapping[str, Sequence[Mapping[str, Any]]], *, names: Sequence[str], tumor: str = LABEL_NAMES[1]
) -> bytes:
    """Return reliability diagrams, a column a run: share of tumour against probability, and patches in each bin.

    Parameters
    ----------
    runs : mapping of str to sequence of mapping
        Run -> for each amount of tissue what `pathopatch.evaluation.calibration.reliability` returns.
    names : sequence of str
        Of the amounts of tissue, or the A values of the patches' own attribute.
    tumor : str
        What label 1 is called.
    """
    figure = new_figure(10.0 if len(runs) > 1 else 6.0, 5.0)
    panels = figure.subplots(2, len(runs), sharex=True, sharey="row", squeeze=False, height_ratios=[3, 1])
    for column, (run, told) in enumerate(runs.items()):
        upper, lower = panels[:, column]
        upper.plot([0, 1], [0, 1], color=_MUTED, linewidth=1, linestyle=(0, (4, 3)))
        for number, each in enumerate(told):
            rows = [row for row in each["bins"] if row["n"]]
            _reliability_line(upper, rows, number)
            edges = [row["low"] for row in each["bins"]] + [1.0]
            lower.stairs([row["n"] for row in each["bins"]], edges, color=_look(number)[0], linewidth=1.6)
        dress(upper, title=plain(run), y=f"share that is {tumor}" if column == 0 else "")
        upper.set_title(upper.get_title(loc="left"), loc="left", fontsize=9, color=_INK)
        told_errors = "\n".join(
            f"{name}: error {100 * each['ece']:.0f} % ({100 * each['ece_if_calibrated']:.0f} % by chance)"
            for name, each in zip(names, told, strict=True)
            if each["n"]
        )
        upper.text(0.02, 1.06, plain(told_errors), fontsize=7.5, va="bottom", color=_INK)
        upper.set_ylim(-0.03, 1.1 + 0.08 * len(names))
        upper.set_yticks(np.linspace(0, 1, 6))
        dress(lower, x=f"predicted probability of {tumor}", y="patches" if column == 0 else "")
        lower.set_xlim(0, 1)
        for axes in (upper, lower):
            axes.yaxis.set_major_formatter(PercentFormatter(1, decimals=0) if axes is upper else "{x:.0f}")
    for number, name in enumerate(names):
        color, mark = _look(number)
        panels[0, 0].plot([], [], marker=mark, color=color, label=plain(name), linewidth=1.6)
    figure.legend(fontsize=8.5, frameon=False, loc="outside upper left", ncols=min(len(names), 4))
    return png(figure)


def _look(number: int) -> tuple[str, str]:
    """Return colour and mark of one value of the attribute; those of the first two are of little and much tissue."""
    return _MORE_COLORS[number % len(_MORE_COLORS)], _MORE_MARKS[number % len(_MORE_MARKS)]


def _reliability_line(axes: Axes, rows: Sequence[Mapping[str, Any]], number: int) -> None:
    """Draw the share of tumour over the probability for one amount of tissue; bins of few patches are hollow."""
    if not rows:
        return
    color, mark = _look(number)
    x = [row["mean_probability"] for row in rows]
    y = [row["tumor_share"] for row in rows]
    axes.plot(x, y, color=color, linewidth=1.4)
    for row in rows:
        low, high = row["tumor_share_low"], row["tumor_share_high"]
        if low is not None and np.isfinite(low):
            axes.vlines(row["mean_probability"], low, high, color=color, linewidth=1.2, alpha=0.7)
        face = color if row["n"] >= _FEW else "white"
        axes.plot(row["mean_probability"], row["tumor_share"], mark, color=color, markerfacecolor=face, markersize=5.5)


def _with_interval(
    axes: Axes, place: float, row: Mapping[str, Any], name: str, *, color: str, mark: str, scale: float = 1
) -> None:
    """Draw one number with its interval, as far as they are known."""
    value, low, high = (row[f"{name}{end}"] for end in ("", "_low", "_high"))
    if value is None or not np.isfinite(value):
        return
    if low is not None and np.isfinite(low):
        axes.hlines(place, scale * low, scale * high, color=color, linewidth=2)
    axes.plot(scale * value, place, mark, color=color, markersize=6, markeredgecolor="white", markeredgewidth=0.7)


def _name_rows(axes: Axes, runs: Sequence[str]) -> None:
    """Name the rows of a panel by run."""
    axes.set_yticks(range(len(runs)), [plain(run) for run in runs])
    axes.tick_params(axis="y", labelcolor=_INK)
    axes.set_ylim(len(runs) - 0.45, -0.55)
