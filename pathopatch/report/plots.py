"""Draw the plots of the report: tissue by label, reliability, response to the area, worst groups.

Groups have Okabe-Ito colours (blue non-tumour, orange and red tumour; the darker one has much tissue) and always their
number beside the colour. Equal tables give equal bytes: no dates, no global state.
"""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
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

from pathopatch.core.text import pluralize
from pathopatch.groups import threshold_attributes
from pathopatch.groups.attribute import LABEL_NAMES
from pathopatch.heatmaps.colors import GROUP_COLORS

LABEL_COLORS = ("#0072B2", "#D55E00")
INK, MUTED = "#1b1f23", "#4a5158"
WIDTH_IN = 10.0
FAINT, _GRID = "#9aa1a8", "#dfe3e6"
# Little and much tissue come first; an attribute of the patches' own may have more values. They have Okabe-Ito colours
# of their own (purple little, green much) and differ in their marks too.
_VALUE_STYLES = (
    ("#CC79A7", "#009E73", "#56B4E9", "#D55E00", "#E69F00", "#0072B2", MUTED),
    ("o", "s", "^", "D", "v", "P", "X"),
)
_FEW = 10  # patches in a bin of a reliability diagram; with fewer its mark is hollow
DASHED = (0, (4, 3))
# The font that comes with matplotlib, so that pictures are the same everywhere.
_FONT = "DejaVu Sans"
_DPI = 144


def group_colors(n: int) -> tuple[str, ...]:
    """Return a colour for each group; for more than four, from light to dark within each label."""
    if n == len(GROUP_COLORS):
        return GROUP_COLORS
    light_to_dark = np.linspace(0.3, 0.9, n // 2)
    return tuple(to_hex(colormaps[name](shade)) for name in ("Blues", "Oranges") for shade in light_to_dark)


def escape_formula(text: object) -> str:
    r"""Return a text that matplotlib draws as it is: without ``\``, a dollar sign starts a formula."""
    return str(text).replace("$", r"\$")


def new_figure(
    width_in: float, height_in: float, n_rows: int = 1, n_columns: int = 1, **options: Any
) -> tuple[Figure, NDArray[Any]]:
    """Return a white figure outside pyplot's global state, and its panels (n_rows, n_columns)."""
    figure = Figure(figsize=(width_in, height_in), dpi=_DPI, facecolor="white", layout="constrained")
    figure.set_layout_engine("constrained", h_pad=0.09, w_pad=0.06)
    FigureCanvasAgg(figure)
    return figure, figure.subplots(n_rows, n_columns, squeeze=False, **options)


def png(figure: Figure) -> bytes:
    """Return a figure as PNG without date or program name."""
    return _saved(figure, "png", {"Software": None})


def pdf(figure: Figure) -> bytes:
    """Return a figure as PDF without date or program name."""
    return _saved(figure, "pdf", {"CreationDate": None, "Producer": None, "Creator": None})


def _saved(figure: Figure, form: str, metadata: Mapping[str, str | None]) -> bytes:
    stream = io.BytesIO()
    figure.savefig(stream, format=form, dpi=_DPI, metadata=dict(metadata))
    return stream.getvalue()


def style_axes(axes: Axes, *, title: str = "", x: str = "", y: str = "", title_pt: float = 10, **limits: Any) -> None:
    """Give a panel the report's look: quiet grid, no box, one font. `limits` are ``xlim`` and ``ylim``."""
    axes.set_title(escape_formula(title), fontsize=title_pt, color=INK, loc="left", fontfamily=_FONT)
    axes.set_xlabel(escape_formula(x), fontsize=9, color=INK, fontfamily=_FONT)
    axes.set_ylabel(escape_formula(y), fontsize=9, color=INK, fontfamily=_FONT)
    axes.tick_params(labelsize=8.5, colors=MUTED, length=0, labelfontfamily=_FONT)
    axes.grid(visible=True, color=_GRID, linewidth=0.7)
    axes.set_axisbelow(True)
    for side, spine in axes.spines.items():
        spine.set_visible(side == "bottom")
        spine.set_color(FAINT)
    axes.set(**limits)


def name_rows(axes: Axes, names: Sequence[str]) -> None:
    """Name the rows 0, 1, … of a panel from top to bottom, with some room above and below."""
    axes.set_yticks(range(len(names)), [escape_formula(name) for name in names])
    axes.tick_params(axis="y", labelcolor=INK)
    axes.set_ylim(len(names) - 0.4, -0.6)
    axes.grid(visible=False, axis="y")


def percent_axis(axes: Axes, *, symbol: str = "%") -> None:
    """Label the y axis of shares in percent."""
    axes.yaxis.set_major_formatter(PercentFormatter(1, decimals=0, symbol=symbol))


def fraction_by_label(
    groups: pd.DataFrame, thresholds: Sequence[float], splits: Sequence[str], *, labels: Sequence[str] = LABEL_NAMES
) -> bytes:
    """Draw histograms of the tissue fraction by label, a panel per split; each label's bars sum to 100 %."""
    figure, (panels,) = new_figure(WIDTH_IN, 2.9, 1, len(splits), sharey=True)
    # Blank patches have group -1 at every threshold, so the first one will do.
    has_group = threshold_attributes(groups)[0].groups_in(groups) >= 0
    edges = np.linspace(0, 1, 21)
    for axes, split in zip(panels, splits, strict=True):
        part = groups[(groups["split"] == split) & has_group]
        for label, color in enumerate(LABEL_COLORS):
            values = part.loc[part["label"] == label, "tissue_fraction"].to_numpy(dtype=float)
            if not len(values):
                continue
            share = np.histogram(values, bins=edges)[0] / len(values)
            name = escape_formula(f"{label} {labels[label]}, n = {len(values)}")
            axes.stairs(share, edges, fill=True, alpha=0.28, color=color)
            axes.stairs(share, edges, color=color, linewidth=1.8, label=name)
        for threshold in thresholds:
            axes.axvline(threshold, color=INK, linewidth=1, linestyle=DASHED)
            top = axes.get_xaxis_transform()
            axes.text(threshold, 1.0, f" {threshold:g}", transform=top, fontsize=8, va="top", color=INK)
        y = "share of the label's patches" if axes is panels[0] else ""
        style_axes(axes, title=split, x="tissue fraction", y=y, xlim=(0, 1))
        axes.yaxis.set_major_locator(MaxNLocator(4, steps=[1, 2, 5, 10]))
        percent_axis(axes)
        if axes.get_legend_handles_labels()[0]:
            axes.legend(fontsize=8, frameon=False, loc="upper center", bbox_to_anchor=(0.5, -0.22))
    return png(figure)


def reliability_plot(
    runs: Mapping[str, Sequence[Sequence[Mapping[str, Any]]]], *, names: Sequence[str], tumor: str = LABEL_NAMES[1]
) -> bytes:
    """Draw reliability diagrams, a column per run: share of tumour against probability, and patches in each bin.

    `runs` is run -> result of `pathopatch.evaluation.calibration.reliability_by_attribute`; `names` are the values of
    the attribute.
    """
    width_in = WIDTH_IN if len(runs) > 1 else 6.0
    figure, panels = new_figure(width_in, 5.0, 2, len(runs), sharex=True, sharey="row", height_ratios=[3, 1])
    for column, (run, by_attribute) in enumerate(runs.items()):
        upper, lower = panels[:, column]
        upper.plot([0, 1], [0, 1], color=MUTED, linewidth=1, linestyle=DASHED)
        for number, curve in enumerate(by_attribute):
            color, mark = (style[number % len(style)] for style in _VALUE_STYLES)
            if bins := [row for row in curve if row["n"]]:
                names_of_values = ("mean_probability", "tumor_share", "tumor_share_low", "tumor_share_high")
                x, y, low, high = (np.array([row[name] for row in bins], np.float64) for name in names_of_values)
                faces = [color if row["n"] >= _FEW else "white" for row in bins]
                upper.plot(x, y, color=color, linewidth=1.4)
                upper.vlines(x, low, high, color=color, linewidth=1.2, alpha=0.7)
                upper.scatter(x, y, s=30, marker=mark, edgecolors=color, facecolors=faces, zorder=3)
            edges = [row["low"] for row in curve] + [1.0]
            lower.stairs([row["n"] for row in curve], edges, color=color, linewidth=1.6)
        style_axes(upper, title=run, y="" if column else f"share that is {tumor}", title_pt=9)
        upper.set_ylim(-0.03, 1.03)
        upper.set_yticks(np.linspace(0, 1, 6))
        percent_axis(upper)
        style_axes(lower, x=f"predicted probability of {tumor}", y="" if column else "patches")
        lower.set_xlim(0, 1)
        lower.yaxis.set_major_formatter("{x:.0f}")
    for number, name in enumerate(names):
        color, mark = (style[number % len(style)] for style in _VALUE_STYLES)
        panels[0, 0].plot([], [], marker=mark, color=color, label=escape_formula(name), linewidth=1.6)
    figure.legend(fontsize=8.5, frameon=False, loc="outside upper left", ncols=min(len(names), 4))
    return png(figure)


def response_curve(result: Mapping[str, Any]) -> bytes:
    """Draw the mean margin over the area with its interval, and the share of patches that are called tumour, as PNG."""
    figure, ((left, right),) = new_figure(8.0, 2.9, 1, 2)
    area = [point["area"] for point in result["curve"]]
    _draw_logit(left, result["curve"], title="mean logit, 0 is the decision")
    right.plot(
        area, [point["positive"] for point in result["curve"]], "o-", color=LABEL_COLORS[1], linewidth=2, clip_on=False
    )
    style_axes(right, title="patches that are called tumour", x="tissue area that is set", xlim=(0, 1), ylim=(0, 1))
    percent_axis(right)
    return png(figure)


def response_curves(results: Mapping[str, Mapping[str, Any]]) -> bytes:
    """Draw the mean logit of models over the area that is set, by class where labels are known, a panel each, as PNG.

    `results` are by the name of the model. Panels have axes of their own: logits of two models have no common scale.
    """
    figure, (panels,) = new_figure(WIDTH_IN, 2.9, 1, len(results))
    for axes, (name, result) in zip(panels, results.items(), strict=True):
        _draw_logit(axes, result["curve"], title=name)
    panels[0].set_ylabel("mean logit, 0 is the decision", fontsize=9, color=INK)
    return png(figure)


def _draw_logit(axes: Axes, curve: Sequence[Mapping[str, Any]], *, title: str) -> None:
    area = [point["area"] for point in curve]
    axes.axhline(0, color=MUTED, linewidth=1)
    classes = list(zip(*(point.get("by_class", ()) for point in curve), strict=True))
    lines = classes or [tuple(point["margin"] for point in curve)]
    for number, line in enumerate(lines):
        color = LABEL_COLORS[number] if classes else INK
        value, low, high = ([point[name] for point in line] for name in ("value", "low", "high"))
        if all(end is not None and np.isfinite(end) for end in (*low, *high)):
            axes.fill_between(area, low, high, color=color, alpha=0.16, linewidth=0)
        axes.plot(area, value, "o-", color=color, linewidth=2, label=f"labelled {LABEL_NAMES[number]}")
    style_axes(axes, title=title, x="tissue area that is set", xlim=(0, 1))
    if classes:
        axes.legend(fontsize=8, frameon=False)


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
            for place, row in enumerate(part.to_dict("records")):
                value, low, high = (row[f"{measure}{end}"] for end in ("", "_low", "_high"))
                if not np.isfinite(value):
                    continue
                color, ink = (FAINT, MUTED) if row["too_few"] else (INK, INK)
                if np.isfinite(low):
                    axes.hlines(place, low, high, color=color, linewidth=2.4)
                axes.plot(value, place, "o", color=color, markersize=6.5, markeredgecolor="white", markeredgewidth=0.8)
                text = f"{scale * value:.{digits}f}" + ("*" if row["too_few"] else "")
                axes.text(1.02, place, text, va="center", fontsize=8.5, color=ink)
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
