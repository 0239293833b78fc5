"""Draw the accuracy of each run on each group, as PNG bytes."""

from __future__ import annotations

import numpy as np
import pandas as pd

from pathopatch.evaluation.sample_size import too_few
from pathopatch.groups import GroupingAttribute
from pathopatch.report.plots import (
    BY_TISSUE,
    INK,
    MUTED,
    WIDTH_IN,
    group_colors,
    name_rows,
    new_figure,
    png,
    style_axes,
)

_FEW = "#9aa1a8"  # of what rests on too few patches or patients


def group_accuracies(rows: pd.DataFrame, *, attribute: GroupingAttribute = BY_TISSUE) -> bytes:
    """Draw a forest plot: a row per run of a comparison, a column per group and one for WGA, with 95 % intervals.

    What rests on too few patches or patients is grey; of WGA that is decided by the smallest group.
    """
    names = attribute.group_names
    width_in, height_in = WIDTH_IN * max(1.0, len(names) / 5), 1.15 + 0.36 * len(rows)
    figure, (panels,) = new_figure(width_in, height_in, 1, len(names) + 1, sharey=True)
    columns = [
        (f"accuracy_{g}", f"{g}  {name.replace(', ', chr(10), 1)}", color)
        for g, (name, color) in enumerate(zip(names, group_colors(len(names)), strict=True))
    ]
    columns.append(("wga", "WGA\nthe lowest of them", INK))
    # Every other method is shaded, so that the seeds of one method stand together.
    methods = rows["method"].tolist()
    starts = [place for place, name in enumerate(methods) if place == 0 or name != methods[place - 1]]
    shaded = list(zip(starts, [*starts[1:], len(methods)], strict=True))[1::2]
    for axes, (name, title, color) in zip(panels, columns, strict=True):
        for place, row in enumerate(rows.to_dict("records")):
            value, low, high = (float(row[f"{name}{end}"]) for end in ("", "_low", "_high"))
            groups = range(len(names)) if name == "wga" else [int(name.removeprefix("accuracy_"))]
            is_few = any(too_few(row[f"n_{group}"], row[f"patients_{group}"]) for group in groups)
            shade = _FEW if is_few else color
            if np.isnan(value):
                axes.text(0.5, place, "no patches", va="center", ha="center", fontsize=8, color=MUTED)
                continue
            if not np.isnan(low):
                axes.hlines(place, low, high, color=shade, linewidth=2.4)
            axes.plot(value, place, "o", color=shade, markersize=7, markeredgecolor="white", markeredgewidth=0.8)
            ink = MUTED if is_few else INK
            axes.text(1.12, place, f"{100 * value:.0f}", va="center", ha="left", fontsize=8.5, color=ink)
        style_axes(axes, title=title, title_pt=9)
        for first, end in shaded:
            axes.axhspan(first - 0.5, end - 0.5, color="#f3f5f6", zorder=0, linewidth=0)
        axes.set_xlim(-0.05, 1.36)
        axes.set_xticks([0, 0.5, 1], ["0", "50", "100 %"])
        axes.grid(visible=False, axis="y")
    name_rows(panels[0], rows["run"].tolist(), margin=0.6)
    return png(figure)
