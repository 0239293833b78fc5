"""Draw what the answer of a study looks like: a slide with both models' maps.

Which slide is shown does not depend on who is right, or the picture would flatter a model.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patheffects import withStroke
from numpy.typing import NDArray

from pathopatch.groups import TissueThreshold
from pathopatch.groups.attribute import LABEL_NAMES
from pathopatch.heatmaps.colors import LEGEND_TISSUE, blended, ground_of
from pathopatch.heatmaps.overlay import blend
from pathopatch.patches.picture import outlined
from pathopatch.patches.store import PatchStore
from pathopatch.report.collect import Study
from pathopatch.report.plots import INK, MUTED, new_figure, png
from pathopatch.slides.background import Polarity
from pathopatch.slides.composite import COLOR_NAMES, Picture, channel_colors, compose, shrunk

_WIDTH_IN, _HEIGHT_IN = 15.0, 6.3
_TITLE_PT, _TEXT_PT = 13, 10.5
_OVERVIEW_PX = 1500  # longest side; a panel has fewer
_MARK_PT, _PANEL_PT = 9, 300.0  # largest size of a mark, and the width of a panel, which the marks of a row share
_ALARM, _MISSED = "#FF3B30", "#FFFFFF"  # both stand out from the map and from dark glass
_RIM = withStroke(linewidth=4, foreground="black")  # and the rim from paper
_MARK: dict[str, Any] = {"markeredgewidth": 2.2, "fillstyle": "none", "path_effects": [_RIM]}


def answer_picture(study: Study, runs: Mapping[str, str]) -> dict[str, Any]:
    """Return a picture of two runs, by title, on a slide as ``png``, its ``file``, and what its caption needs.

    It is of the slide of the split with the most labelled patches. Empty where one of the runs is missing, or no
    slide of the split has an overview and a grid without overlap.
    """
    attribute = study.attribute
    if len(runs) < 2 or not isinstance(attribute, TissueThreshold) or attribute.label_names != LABEL_NAMES:
        return {}
    calls = {title: _calls(study, run) for title, run in runs.items()}
    counts = next(iter(calls.values()))["slide_id"].value_counts()
    for slide in sorted(counts.index, key=lambda name: (-counts[name], name)):
        if slide not in study.stores:
            continue
        store = PatchStore(study.stores[slide])
        if not store.has_overview or store.attributes["stride_px"] < store.attributes["patch_px"]:
            continue
        placed = {}
        for title, table in calls.items():
            own = table[table["slide_id"] == slide]
            x, y = store.origins[store.rows(own.index.tolist())].T
            placed[title] = own.assign(x=x, y=y)
        png = repair_picture(
            store,
            placed,
            threshold=attribute.tau,
            title=f"Slide {slide}",
            caption=f"Much tissue: {attribute.tau:g} of the patch or more.",
        )
        return {"file": "answer.png", "png": png, "slide": slide, "n": int(counts[slide]), "titles": list(runs)}
    return {}


def _calls(study: Study, run: str) -> pd.DataFrame:
    """Return a run's predictions on the split by patch: slide_id, label, tissue_fraction, probability, is_called."""
    assert study.groups is not None  # there is a comparison, so there are groups
    table = study.predictions[run]
    table = table[table["split"] == study.split].set_index("patch_id")
    slide_of = study.groups.set_index("patch_id")["slide_id"]
    is_called = table["logit"] > study.evaluations[run]["decision_threshold"]
    return table.assign(slide_id=slide_of.reindex(table.index), is_called=is_called)


def error_lines(calls: pd.DataFrame, threshold: float) -> tuple[str, str]:
    """Count false alarms and missed tumour, as two lines of text.

    `calls` has label (1 for tumour), tissue_fraction and is_called (tumour); from `threshold` on a patch holds much
    tissue.
    """
    is_tumour, is_full = calls["label"] == 1, calls["tissue_fraction"] >= threshold
    is_wrong = is_tumour != calls["is_called"]

    def share(is_meant: pd.Series[bool]) -> str:
        return f"{int((is_wrong & is_meant).sum())} of {int(is_meant.sum())}"

    return (
        f"false alarms: {share(~is_tumour)} healthy ({share(~is_tumour & is_full)} with much tissue)",
        f"missed: {share(is_tumour)} tumour ({share(is_tumour & ~is_full)} with little tissue)",
    )


def repair_picture(
    store: PatchStore, calls: Mapping[str, pd.DataFrame], *, threshold: float, title: str, caption: str
) -> bytes:
    """Return a PNG: the slide with its tumour outlined, then a panel for each model.

    Parameters
    ----------
    store : PatchStore
        The tiled slide, on a grid without overlap.
    calls : mapping of str to DataFrame
        By the panel's title: a row for each patch with x, y (level-0 px), probability, label, tissue_fraction and
        is_called; label and is_called say tumour.
    threshold : float
        Tissue fraction from which a patch holds much tissue.
    title, caption : str
        Above the slide, and one line below the panels.
    """
    is_rgb, channels = store.attributes["is_rgb"], store.attributes["channels"]
    slide = compose(shrunk(store.overview(), _OVERVIEW_PX), store.windows, is_rgb=is_rgb)
    scale = slide.shape[1] / store.attributes["size_px"][0]
    step_px = store.attributes["stride_px"] * store.attributes["downsample"]
    ground = ground_of(store.attributes["background"])
    figure, (panels,) = new_figure(_WIDTH_IN, _HEIGHT_IN, 1, 1 + len(calls))
    first = next(iter(calls.values()))
    tumour = _on_grid(store, first, first["label"] == 1, step_px)
    is_tumour = np.nan_to_num(tumour) > 0
    rows, columns = (np.arange(side) * n // side for side, n in zip(slide.shape[:2], is_tumour.shape, strict=True))
    _show(panels[0], outlined(slide, is_tumour[rows][:, columns]), title)
    names = () if is_rgb else zip(channels, channel_colors(len(channels)), strict=True)
    colors = ", ".join(f"{name} {COLOR_NAMES[color]}" for name, color in names)
    panels[0].set_xlabel(f"{colors}\noutlined: tumour".strip(), fontsize=_TEXT_PT, color=INK)
    mark_pt = min(_MARK_PT, 0.8 * _PANEL_PT / tumour.shape[1])
    for axes, (model, table) in zip(panels[1:], calls.items(), strict=True):
        probability = _on_grid(store, table, table["probability"], step_px)
        _show(axes, blend(slide, probability, (step_px * scale, step_px * scale), ground, store.tissue() > 0), model)
        _mark_errors(axes, table, scale, step_px, mark_pt)
        axes.set_xlabel("\n".join(error_lines(table, threshold)), fontsize=_TEXT_PT, color=INK)
    _add_keys(figure, panels[-1], ground)
    figure.supxlabel(f"{caption} Research use only.", fontsize=_TEXT_PT, color=MUTED)
    return png(figure)


def _on_grid(store: PatchStore, table: pd.DataFrame, values: pd.Series[Any], step_px: float) -> NDArray[np.float64]:
    """Return values of patches on the slide's grid (ny, nx); NaN where there is no patch in the table."""
    columns, rows = (np.rint(np.asarray(part) / step_px).astype(int) for part in store.origins.T)
    grid = np.full((rows.max() + 1, columns.max() + 1), np.nan)
    places = (np.rint(table[axis].to_numpy() / step_px).astype(int) for axis in ("y", "x"))
    grid[tuple(places)] = values.to_numpy(np.float64)
    return grid


def _show(axes: Axes, picture: Picture, title: str) -> None:
    axes.imshow(picture, interpolation="nearest")
    axes.set_title(title, fontsize=_TITLE_PT, color=INK, loc="left")
    axes.set_xticks([])
    axes.set_yticks([])


def _mark_errors(axes: Axes, table: pd.DataFrame, scale: float, step_px: float, mark_pt: float) -> None:
    """Mark false alarms by crosses and missed tumour by rings."""
    is_tumour = table["label"] == 1
    for is_error, marker, color in (
        (~is_tumour & table["is_called"], "x", _ALARM),
        (is_tumour & ~table["is_called"], "o", _MISSED),
    ):
        x, y = ((table.loc[is_error, axis] + step_px / 2) * scale for axis in ("x", "y"))
        axes.plot(x, y, marker, color=color, markersize=mark_pt, **_MARK)


def _add_keys(figure: Figure, axes: Axes, ground: Polarity) -> None:
    """Add the colour bar and the key of the marks."""
    shades = blended(np.array(LEGEND_TISSUE[ground]), np.linspace(0, 1, 256), ground)
    bar = figure.colorbar(ScalarMappable(cmap=ListedColormap(shades / 255)), ax=axes, shrink=0.8)
    bar.set_label("tumour probability", fontsize=_TEXT_PT, color=INK)
    marks = [
        Line2D([], [], linestyle="", marker=marker, color=color, label=label, markersize=_MARK_PT, **_MARK)
        for marker, color, label in (("x", _ALARM, "false alarm"), ("o", _MISSED, "missed tumour"))
    ]
    figure.legend(handles=marks, loc="upper right", ncols=2, fontsize=_TEXT_PT, frameon=False)
