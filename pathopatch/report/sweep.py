"""Answers whether a result holds at other tissue thresholds than the one that a model was trained at."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.colors import to_hex
from matplotlib.ticker import PercentFormatter

from pathopatch.groups import Attribute
from pathopatch.groups.threshold_sweep import SWEEP
from pathopatch.report.collect import Study
from pathopatch.report.findings import in_order
from pathopatch.report.markup import Html, paragraph, picture, table, tag
from pathopatch.report.plots import dress, new_figure, png

_COLUMNS = 2
_HALF_STEP = 0.025
_INK = "#1b1f23"


def sweep_section(study: Study, pictures: dict[str, bytes]) -> Html:
    """Return WGA against the threshold at which it is judged, for every training attribute, and each run in words."""
    if study.comparison is None or not study.sweeps:
        said = "No run has been judged over tissue thresholds"
        own = ": the groups are formed by the patches' own attribute" if study.attribute.is_patch_attribute else " yet"
        return paragraph(f"{said}{own}.", kind="absent")
    runs = in_order(study.comparison.drop_duplicates("run"), "trained_attribute")
    panels = panels_of(runs, study.sweeps)
    pictures["wga_sweep.png"] = wga_sweep(panels)
    small = sorted({note for each in study.sweeps.values() for note in _small(each)})
    split = str(runs["split"].iloc[0])
    return tag(
        "div",
        paragraph(
            "Each model keeps its decision threshold; only the cut between little and much tissue moves. A gain that "
            "is seen at the training threshold alone is a gain for that cut, not for the worst of the patches."
        ),
        picture(
            "wga_sweep.png",
            f"Worst-group accuracy on the {split} split against the tissue threshold at which it is judged, a line a "
            f"method, a panel for each of {', '.join(panels)}; the ranges are in the table below.",
            "Lines: mean over seeds; bands: lowest to highest seed. Dashed: the threshold, or the cuts of the bins, "
            "that the models were trained at. Grey: a group is too small to be measured there, so that the lines mean "
            "little.",
        ),
        table(
            "Worst-group accuracy and its gain over ERM, percent, over the thresholds at which every group is large "
            "enough.",
            ("run", "over the thresholds"),
            [(row["run"], row["sweep"] or "–") for row in runs.to_dict("records")],
            text_columns=2,
        ),
        paragraph(
            f"Too small: {'; '.join(small)}. " if small else "", "All numbers: sweep.csv beside each evaluation."
        ),
    )


def panels_of(runs: pd.DataFrame, sweeps: Mapping[str, pd.DataFrame]) -> dict[str, dict[str, list[pd.DataFrame]]]:
    """Return the sweeps of the seeds by what the runs were trained at and by method.

    Parameters
    ----------
    runs : DataFrame
        Rows of a comparison, one a run, in the order of the panels and lines.
    sweeps : mapping of str to DataFrame
        By run.
    """
    panels: dict[str, dict[str, list[pd.DataFrame]]] = {}
    for row in runs.to_dict("records"):
        if row["run"] in sweeps:
            trained = str(row["trained_attribute"]) or "another cohort"
            panels.setdefault(trained, {}).setdefault(str(row["method"]), []).append(sweeps[row["run"]])
    return panels


def wga_sweep(panels: Mapping[str, Mapping[str, Sequence[pd.DataFrame]]]) -> bytes:
    """Return WGA against the threshold at which it is judged; a panel a training attribute, a line a method.

    Parameters
    ----------
    panels : mapping
        Training attribute (``0.25``, ``bins 0.3,0.5``, ``rank``) -> method -> sweeps of its seeds.
    """
    methods = list(dict.fromkeys(name for lines in panels.values() for name in lines))
    colors = {name: _color(place, len(methods)) for place, name in enumerate(methods)}
    columns = min(len(panels), _COLUMNS)
    rows = -(-len(panels) // columns)
    figure = new_figure(5.0 * columns, 0.5 + 3.2 * rows)
    grid = figure.subplots(rows, columns, sharey=True, squeeze=False).reshape(-1)
    for axes in grid[len(panels) :]:
        axes.set_visible(False)
    for place, (axes, (trained, lines)) in enumerate(zip(grid, panels.items(), strict=False)):
        _panel(axes, lines, colors)
        attribute = Attribute.from_label(trained)
        for cut in attribute.edges if attribute else ():
            axes.axvline(cut, color=_INK, linewidth=1, linestyle=(0, (4, 3)))
        told = f"at threshold {trained}" if trained[:1].isdigit() else f"by {trained}"
        dress(axes, title=f"trained {told}", x="tissue threshold of the evaluation",
              y="" if place % columns else "worst-group accuracy")  # fmt: skip
        axes.set_xlim(SWEEP[0] - _HALF_STEP, SWEEP[-1] + _HALF_STEP)
        axes.set_ylim(-0.02, 1.02)
        axes.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    handles = {text: line for axes in grid for line, text in zip(*axes.get_legend_handles_labels(), strict=True)}
    figure.legend(handles.values(), handles.keys(), loc="outside lower center", ncols=5, fontsize=8.5, frameon=False)
    return png(figure)


def _panel(axes: Axes, lines: Mapping[str, Sequence[pd.DataFrame]], colors: Mapping[str, str]) -> None:
    """Draw the lines of one panel, and grey where a group of any of them is too small."""
    every = [each.set_index("threshold") for seeds in lines.values() for each in seeds]
    is_small = ~pd.concat([each["is_measured"].astype(bool) for each in every], axis=1).all(axis=1)
    for threshold in is_small[is_small].index:
        axes.axvspan(threshold - _HALF_STEP, threshold + _HALF_STEP, color="#e4e7ea", zorder=0, linewidth=0)
    for method, seeds in lines.items():
        values = pd.concat([each.set_index("threshold")["wga"] for each in seeds], axis=1)
        line, order = (
            ("--", 3) if "erm" in method else ("-", 2)
        )  # dashed and on top: where lines coincide both are seen
        style: dict[str, Any] = {"color": colors[method], "linestyle": line, "zorder": order}
        mean = values.mean(axis=1)
        axes.plot(mean.index, mean, linewidth=1, alpha=0.35, **style)
        axes.plot(mean.index, mean.where(~is_small), linewidth=2, label=method, **style)
        if len(seeds) > 1:
            low, high = (getattr(values, end)(axis=1).where(~is_small) for end in ("min", "max"))
            axes.fill_between(mean.index, low, high, color=colors[method], alpha=0.12, linewidth=0)


def _small(swept: pd.DataFrame) -> list[str]:
    """Return the thresholds at which a group is too small, with the groups, in words."""
    return [f"at {row['threshold']:g} {str(row['note']).removeprefix('too small: ')}"
            for row in swept.to_dict("records") if not row["is_measured"]]  # fmt: skip


def _color(place: int, count: int) -> str:
    """Return the colour of a line: Okabe-Ito for the first seven, a map's own beyond."""
    known = ("#4a5158", "#56B4E9", "#009E73", "#CC79A7", "#D55E00", "#E69F00", "#0072B2")
    if place < len(known):
        return known[place]
    return str(to_hex(colormaps["viridis"](place / count)))
