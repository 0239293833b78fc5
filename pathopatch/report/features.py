"""Show a cohort of features: the section of the report on what they are, and whose neighbours they put together."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pathopatch.report.collect import Study
from pathopatch.report.plots import INK, MUTED, WIDTH_IN, new_figure, png, style_axes

_ENCODER_FACTS = {
    "name": "Encoder",
    "dim": "Values per patch",
    "pooling": "Pooling",
    "input_px": "Input side, px",
    "crop": "Crop",
    "precision": "Precision",
}


def features(study: Study) -> dict[str, Any]:
    """Return layout, encoder and notes of a cohort of features, and its robustness indices; empty for slides."""
    cohort, indices = study.features, study.robustness
    if cohort is None:
        return {}
    known = {"name": "not named in its files", **cohort["encoder"]}
    has_indices = indices is not None and indices["ri"] is not None
    return {
        "layout": cohort["layout"],
        "facts": [(text, known[name]) for name, text in _ENCODER_FACTS.items() if name in known],
        "notes": cohort["notes"],
        "indices": indices,
        "has_indices": has_indices,
        "by": "attribute" if indices is not None and indices["confounder"] == "attribute" else "amount of tissue",
        "pictures": {"robustness.png": index_by_neighbours(indices)} if has_indices and indices is not None else {},
    }


def index_by_neighbours(indices: Mapping[str, Any]) -> bytes:
    """Draw RI over the number of neighbours; the mark is the number that it is stated at, with its interval."""
    figure, ((axes,),) = new_figure(0.6 * WIDTH_IN, 3.0)
    curve = {int(k): value for k, value in indices["curve"].items() if value is not None}
    axes.plot(list(curve), list(curve.values()), color=INK, linewidth=1.8)
    if indices["ri_low"] is not None:
        axes.vlines(indices["k"], indices["ri_low"], indices["ri_high"], color=INK, linewidth=2.4)
    axes.plot(indices["k"], indices["ri"], "o", color=INK, markersize=7.5, markeredgecolor="white")
    if indices["ri_random"] is not None:
        axes.axhline(indices["ri_random"], color=MUTED, linewidth=1, linestyle=(0, (4, 3)))
    axes.set_xscale("log")
    ticks = [k for k in (1, 3, 5, 9, 21, 61, 201) if k in curve]
    axes.set_xticks(ticks, [str(k) for k in ticks])
    axes.minorticks_off()
    style_axes(axes, title="Robustness index", x="nearest neighbours k", y="RI", ylim=(-0.03, 1.03))
    return png(figure)
