"""Answers how the numbers look: every picture of the report but the training curves, as PNG bytes.

Groups have Okabe-Ito colours (blue non-tumour, orange and red tumour; the darker one has much tissue) and always their
number beside the colour. Probabilities are viridis. Equal tables give equal bytes: no dates, no global state.
"""

from __future__ import annotations

import io
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, PercentFormatter
from numpy.typing import NDArray

from pathopatch.evaluation.audit import rank_correlation, slope
from pathopatch.groups import GroupingAttribute, TissueThreshold, threshold_attributes
from pathopatch.groups.attribute import LABEL_NAMES

GROUP_COLORS = ("#56B4E9", "#0072B2", "#E69F00", "#D55E00")
LABEL_COLORS = ("#0072B2", "#D55E00")
BY_TISSUE = TissueThreshold(0.25)
_INK, _MUTED, _GRID = "#1b1f23", "#4a5158", "#dfe3e6"
_FONT = "DejaVu Sans"  # comes with matplotlib, so that pictures are the same everywhere
_DPI = 144
_WIDTH_IN = 10.0
_MOST_POINTS = 1500  # in one scatter panel


def group_colors(count: int) -> tuple[str, ...]:
    """Return a colour for each group; of more than four, from light to dark within each label."""
    if count == len(GROUP_COLORS):
        return GROUP_COLORS
    light_to_dark = np.linspace(0.3, 0.9, count // 2)
    return tuple(to_hex(colormaps[name](shade)) for name in ("Blues", "Oranges") for shade in light_to_dark)


def plain(text: object) -> str:
    """Return a text that matplotlib draws as it is: a dollar sign starts no formula."""
    return str(text).replace("$", r"\$")


def new_figure(width_in: float, height_in: float) -> Figure:
    """Return an empty white figure that belongs to no global state."""
    figure = Figure(figsize=(width_in, height_in), dpi=_DPI, facecolor="white", layout="constrained")
    figure.set_layout_engine("constrained", h_pad=0.09, w_pad=0.06)
    FigureCanvasAgg(figure)
    return figure


def png(figure: Figure) -> bytes:
    """Return a figure as PNG without date or program name."""
    stream = io.BytesIO()
    figure.savefig(stream, format="png", dpi=_DPI, metadata={"Software": None})
    return stream.getvalue()


def dress(axes: Axes, *, title: str = "", x: str = "", y: str = "") -> None:
    """Give a panel the report's look: quiet grid, no box, one font."""
    axes.set_title(plain(title), fontsize=10, color=_INK, loc="left", fontfamily=_FONT)
    axes.set_xlabel(plain(x), fontsize=9, color=_INK, fontfamily=_FONT)
    axes.set_ylabel(plain(y), fontsize=9, color=_INK, fontfamily=_FONT)
    axes.tick_params(labelsize=8.5, colors=_MUTED, length=0, labelfontfamily=_FONT)
    axes.grid(visible=True, color=_GRID, linewidth=0.7)
    axes.set_axisbelow(True)
    for side, spine in axes.spines.items():
        spine.set_visible(side == "bottom")
        spine.set_color("#9aa1a8")


def fraction_by_label(
    groups: pd.DataFrame, thresholds: Sequence[float], splits: Sequence[str], *, labels: Sequence[str] = LABEL_NAMES
) -> bytes:
    """Return histograms of the tissue fraction by label, one panel a split; each label's bars sum to 100 %.

    Parameters
    ----------
    groups : DataFrame
        The groups table; only patches with a group are drawn.
    thresholds : sequence of float
        Marked by dashed lines; none where tissue forms no groups.
    splits : sequence of str
        Panels, from left to right.
    labels : sequence of str
        What label 0 and label 1 are called.
    """
    figure = new_figure(_WIDTH_IN, 2.9)
    panels = figure.subplots(1, len(splits), sharey=True, squeeze=False)[0]
    has_group = threshold_attributes(groups)[0].groups_in(groups) >= 0  # blank patches have none
    edges = np.linspace(0, 1, 21)
    for axes, split in zip(panels, splits, strict=True):
        part = groups[(groups["split"] == split) & has_group]
        for label in (0, 1):
            values = part.loc[part["label"] == label, "tissue_fraction"].to_numpy(dtype=float)
            if not len(values):
                continue
            share = np.histogram(values, bins=edges)[0] / len(values)
            axes.stairs(share, edges, fill=True, alpha=0.28, color=LABEL_COLORS[label])
            name = plain(f"{label} {labels[label]}, n = {len(values)}")
            axes.stairs(share, edges, color=LABEL_COLORS[label], linewidth=1.8, label=name)
        for threshold in thresholds:
            axes.axvline(threshold, color=_INK, linewidth=1, linestyle=(0, (4, 3)))
            axes.text(
                threshold,
                1.0,
                f" {threshold:g}",
                transform=axes.get_xaxis_transform(),
                fontsize=8,
                va="top",
                color=_INK,
            )
        dress(axes, title=split, x="tissue fraction", y="share of the label's patches" if axes is panels[0] else "")
        axes.set_xlim(0, 1)
        axes.yaxis.set_major_locator(MaxNLocator(4, steps=[1, 2, 5, 10]))
        axes.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
        if axes.get_legend_handles_labels()[0]:
            axes.legend(fontsize=8, frameon=False, loc="upper center", bbox_to_anchor=(0.5, -0.22))
    return png(figure)


def group_counts(
    counts: Mapping[str, Mapping[str, Any]], splits: Sequence[str], *, attribute: GroupingAttribute = BY_TISSUE
) -> bytes:
    """Return the number of patches in each group as bars, one row of panels a threshold, one column a split.

    Parameters
    ----------
    counts : mapping
        Threshold -> split -> ``counts``, the 2 x A numbers (rows label, columns attribute).
    splits : sequence of str
        Columns.
    attribute : GroupingAttribute
        What the groups are called.
    """
    thresholds = sorted(counts, key=float)
    names = [plain(f"{number}  {name}") for number, name in enumerate(attribute.group_names)]
    figure = new_figure(_WIDTH_IN, 0.5 + (0.45 + 0.3 * len(names)) * len(thresholds))
    panels = figure.subplots(len(thresholds), len(splits), sharey=True, squeeze=False)
    for row, threshold in zip(panels, thresholds, strict=True):
        for axes, split in zip(row, splits, strict=True):
            n = np.asarray(counts[threshold][split]["counts"]).reshape(-1)
            axes.barh(range(len(names)), n, color=group_colors(len(names)), height=0.66)
            for place, value in enumerate(n.tolist()):
                axes.text(value + 0.02 * max(n.max(), 1), place, f"{value}", va="center", fontsize=9, color=_INK)
            title = split if attribute.is_patch_attribute else f"{split}, threshold {threshold}"
            dress(axes, title=title, x="patches" if row is panels[-1] else "")
            axes.set_xlim(0, max(n.max(), 1) * 1.2)
            axes.set_yticks(range(len(names)), names)
            axes.tick_params(axis="y", labelcolor=_INK)
            axes.set_ylim(len(names) - 0.4, -0.6)
            axes.grid(visible=False, axis="y")
    return png(figure)


def group_accuracies(rows: pd.DataFrame, *, attribute: GroupingAttribute = BY_TISSUE) -> bytes:
    """Return a forest plot: a row per run, a column per group and one for WGA; dots with their 95 % intervals.

    Parameters
    ----------
    rows : DataFrame
        Rows of a comparison at one threshold, in the order to be drawn.
    attribute : GroupingAttribute
        What the groups are called.
    """
    names = attribute.group_names
    figure = new_figure(_WIDTH_IN * max(1.0, len(names) / 5), 1.15 + 0.36 * len(rows))
    panels = figure.subplots(1, len(names) + 1, sharey=True)
    columns = [
        (f"accuracy_{g}", f"{g}  {name.replace(', ', chr(10), 1)}", color)
        for g, (name, color) in enumerate(zip(names, group_colors(len(names)), strict=True))
    ]
    columns.append(("wga", "WGA\nthe lowest of them", _INK))
    for axes, (name, title, color) in zip(panels, columns, strict=True):
        for place, row in enumerate(rows.to_dict("records")):
            value, low, high = (float(row[f"{name}{end}"]) for end in ("", "_low", "_high"))
            if np.isnan(value):
                axes.text(0.5, place, "no patches", va="center", ha="center", fontsize=8, color=_MUTED)
                continue
            if not np.isnan(low):
                axes.hlines(place, low, high, color=color, linewidth=2.4)
            axes.plot(value, place, "o", color=color, markersize=7, markeredgecolor="white", markeredgewidth=0.8)
            axes.text(1.12, place, f"{100 * value:.0f}", va="center", ha="left", fontsize=8.5, color=_INK)
        dress(axes, title=title)
        axes.set_title(axes.get_title(loc="left"), loc="left", fontsize=9, color=_INK)
        for start in _every_other_method(rows["method"].tolist()):
            axes.axhspan(start[0] - 0.5, start[1] - 0.5, color="#f3f5f6", zorder=0, linewidth=0)
        axes.set_xlim(-0.05, 1.36)
        axes.set_xticks([0, 0.5, 1], ["0", "50", "100 %"])
        axes.grid(visible=False, axis="y")
    panels[0].set_yticks(range(len(rows)), [plain(name) for name in rows["run"]])
    panels[0].tick_params(axis="y", labelcolor=_INK)
    panels[0].set_ylim(len(rows) - 0.4, -0.6)
    return png(figure)


def _every_other_method(methods: list[str]) -> list[tuple[int, int]]:
    """Return first and last row + 1 of every other method, to be shaded so that a method's seeds stand together."""
    starts = [place for place, name in enumerate(methods) if place == 0 or name != methods[place - 1]]
    return list(zip(starts, [*starts[1:], len(methods)], strict=True))[1::2]


def probability_by_fraction(predictions: Mapping[str, pd.DataFrame], *, labels: Sequence[str] = LABEL_NAMES) -> bytes:
    """Return the predicted probability against the tissue fraction within each class, one column a run.

    Parameters
    ----------
    predictions : mapping of str to DataFrame
        Run -> its predictions on one split: label, tissue_fraction, probability.
    labels : sequence of str
        What label 0 and label 1 are called.
    """
    figure = new_figure(_WIDTH_IN, 5.2)
    panels = figure.subplots(2, len(predictions), sharex=True, sharey=True, squeeze=False)
    for column, (run, table) in enumerate(predictions.items()):
        for label in (0, 1):
            axes = panels[label, column]
            part = table[table["label"] == label].sort_values("patch_id")
            fraction, probability = part["tissue_fraction"].to_numpy(float), part["probability"].to_numpy(float)
            _scatter(axes, fraction, probability)
            told = (
                f"slope {slope(fraction, probability):+.2f}, rank correlation "
                f"{rank_correlation(fraction, probability):+.2f}"
            )
            title = f"{run}\n{labels[label]}: {told}" if label == 0 else f"{labels[label]}: {told}"
            dress(
                axes,
                title=title,
                x="tissue fraction" if label else "",
                y=f"probability of {labels[1]}" if column == 0 else "",
            )
            axes.set_title(axes.get_title(loc="left"), loc="left", fontsize=9, color=_INK)
            axes.set_xlim(0, 1)
            axes.set_ylim(-0.03, 1.03)
    return png(figure)


def _scatter(axes: Axes, fraction: NDArray[np.float64], probability: NDArray[np.float64]) -> None:
    """Draw patches, their least-squares line and the mean of each tenth of the fraction."""
    shown = np.linspace(0, len(fraction) - 1, min(len(fraction), _MOST_POINTS)).astype(int)
    axes.scatter(
        fraction[shown],
        probability[shown],
        c=probability[shown],
        cmap="viridis",
        vmin=0,
        vmax=1,
        s=9,
        linewidths=0.2,
        edgecolors="#444444",
        alpha=0.7,
    )
    incline = slope(fraction, probability)
    if np.isfinite(incline):
        ends = np.array([fraction.min(), fraction.max()])
        axes.plot(ends, probability.mean() + incline * (ends - fraction.mean()), color="white", linewidth=4.5)
        axes.plot(ends, probability.mean() + incline * (ends - fraction.mean()), color=_INK, linewidth=2)
    tenth = np.minimum((fraction * 10).astype(int), 9)
    means = [(np.mean(fraction[tenth == t]), np.mean(probability[tenth == t])) for t in np.unique(tenth)]
    if means:
        x, y = np.array(means).T
        axes.plot(x, y, "D", color="white", markeredgecolor=_INK, markersize=5, markeredgewidth=1.2)


def alpha_sweep(sweep: Mapping[str, Iterable[Mapping[str, Any]]], *, labels: Sequence[str] = LABEL_NAMES) -> bytes:
    """Return the share of patches with much tissue within each label, for every threshold.

    Parameters
    ----------
    sweep : mapping
        Split -> list of ``threshold`` and ``alpha`` (2 x 2, rows label; None for a label without patches).
    labels : sequence of str
        What label 0 and label 1 are called.
    """
    figure = new_figure(_WIDTH_IN, 2.7)
    panels = figure.subplots(1, len(sweep), sharey=True, squeeze=False)[0]
    for axes, (split, steps) in zip(panels, sweep.items(), strict=True):
        for label in (0, 1):
            points = [(step["threshold"], step["alpha"][label][1]) for step in steps if step["alpha"][label]]
            if points:
                x, y = np.array(points).T
                axes.plot(x, y, color=LABEL_COLORS[label], linewidth=2, label=plain(f"{label} {labels[label]}"))
        dress(axes, title=split, x="tissue threshold", y="share with much tissue" if axes is panels[0] else "")
        axes.set_xlim(0, 1)
        axes.set_ylim(0, 1.05)
        axes.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
        axes.legend(fontsize=8.5, frameon=False, loc="upper right")
    return png(figure)
