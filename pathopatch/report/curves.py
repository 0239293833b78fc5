"""Answers how the training runs went: validation accuracy and loss over the steps, as PNG bytes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.ticker import PercentFormatter

from pathopatch.report.plots import dress, new_figure, png

_LINES = (("val_gba", "GBA", "#0072B2", "-"), ("val_wga", "WGA", "#D55E00", "-"))


def training_histories(panels: Mapping[tuple[str, str], Sequence[pd.DataFrame]]) -> bytes:
    """Return validation accuracies and, beneath them, the training loss; a column a method, a line a seed.

    Parameters
    ----------
    panels : mapping of (threshold, method) to sequence of DataFrame
        Histories of the seeds: step, and as far as there are any phase, loss, val_wga, val_gba. Steps of a second
        phase follow those of the first. Methods stand in the order in which they come.
    """
    thresholds = list(dict.fromkeys(threshold for threshold, _ in panels))
    methods = list(dict.fromkeys(method for _, method in panels))
    figure = new_figure(10.0 if len(methods) > 1 else 5.0, 0.4 + 3.3 * len(thresholds))
    grid = figure.subplots(
        2 * len(thresholds), len(methods), squeeze=False, sharex="col", height_ratios=[3, 2] * len(thresholds)
    )
    for row, threshold in enumerate(thresholds):
        for column, method in enumerate(methods):
            upper, lower = grid[2 * row, column], grid[2 * row + 1, column]
            histories = panels.get((threshold, method), ())
            for axes in (upper, lower):
                axes.set_visible(bool(histories))
            told = f"threshold {threshold}" if threshold[:1].isdigit() else threshold
            _accuracies(
                upper,
                f"{method}, {told}",
                histories,
                is_first=column == 0,
            )
            _losses(lower, histories, is_first=column == 0)
    return png(figure)


def _accuracies(axes: Axes, title: str, histories: Sequence[pd.DataFrame], *, is_first: bool) -> None:
    """Draw the validation accuracies of one method."""
    dress(axes, title=title, y="validation" if is_first else "")
    axes.set_title(axes.get_title(loc="left"), loc="left", fontsize=9)
    for history in histories:
        for name, said, color, style in _LINES:
            if name in history and history[name].notna().any():
                axes.plot(_steps(history), history[name], color=color, linestyle=style, linewidth=1.5, label=said)
    axes.set_ylim(-0.03, 1.03)
    axes.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    handles, names = axes.get_legend_handles_labels()
    once = dict(zip(names, handles, strict=True))
    if once:
        axes.legend(once.values(), once.keys(), fontsize=8, frameon=False, loc="lower right")


def _losses(axes: Axes, histories: Sequence[pd.DataFrame], *, is_first: bool) -> None:
    """Draw the training loss of one method."""
    dress(axes, x="step", y="loss" if is_first else "")
    for history in histories:
        if "loss" in history and history["loss"].notna().any():
            axes.plot(_steps(history), history["loss"], color="#1b1f23", linewidth=1.2)
    axes.tick_params(labelbottom=True)


def _steps(history: pd.DataFrame) -> pd.Series[float]:
    """Return the step of each row, phases one after the other."""
    step = history["step"].astype(float)
    if "phase" not in history:
        return step
    last = step.groupby(history["phase"]).max()  # phases differ in length
    return step + history["phase"].map(last.cumsum().shift(fill_value=0.0))
