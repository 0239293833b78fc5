"""Encode a slide for the browser: facts and the patches to look at first as JSON, cells and all patches as bytes."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from pathopatch.core.errors import InputMissingError
from pathopatch.heatmaps import FLAGS
from pathopatch.heatmaps.colors import MAP_OPACITY, ground_of, page_colors
from pathopatch.heatmaps.facts import TISSUE
from pathopatch.review.reviewed_slide import Patches, ReviewedSlide
from pathopatch.review.tiles import TILE_PX, max_level
from pathopatch.slides.composite import COLOR_NAMES, channel_colors

KINDS = (
    "near-threshold", "against-area", "disagreement", "label-disagreement", "flagged",
)  # fmt: skip
"""The reasons; see `patches_to_look_at`."""

_JAVASCRIPT_TYPES = {"f4": "float32", "u4": "uint32", "u2": "uint16", "i1": "int8"}
_ALIGNED_BYTES = 4  # a Float32Array over a buffer starts at a multiple of 4 bytes
_COPIED_FACTS = (
    "size_px", "bounds_px", "mpp", "channels", "intensity_windows", "cell_px", "cell_um", "cells", "patch_px",
    "stride_px", "class_names", "background", "decision_probability", "decision_threshold", "temperature", "counts",
    "summary", "warnings",
)  # fmt: skip


def browser_facts(slide: ReviewedSlide) -> dict[str, Any]:
    """Return what the page shows of a slide, and the layout of its `slide_values`, as JSON values without NaN."""
    patches, (width, height), facts = slide.patches, slide.size, dict(slide.facts)
    why_no_slide, other = slide.why_no_pixels(), slide.beside
    model, other_model = slide.models
    spread = ["spread"] if slide.has_spread else []
    difference = [] if other is None else ["difference"]
    limits, has_no_answer = slide.facts["stamp"]["settings"], slide.facts["counts"].get("too_little_tissue")
    return {
        "slide_id": slide.slide_id,
        "patient_id": slide.patient_id,
        **{name: facts[name] for name in _COPIED_FACTS},
        "leakage": slide.facts.get("leakage", ""),  # predictions of an earlier version do not say it
        "is_rgb": slide.is_rgb,
        "channel_colors": [
            {"name": COLOR_NAMES[color], "css": "#" + "".join(f"{255 * part:02x}" for part in color)}
            for color in channel_colors(len(slide.channels))
        ],
        "colors": page_colors(ground_of(slide.facts["background"])),
        "heat_opacity": MAP_OPACITY,
        "span_px": slide.grid.span_px,
        "flags": list(FLAGS),
        "fingerprint": slide.fingerprint,
        "model": model,
        "has_slide": why_no_slide is None,
        "has_tissue": (slide.folder / TISSUE).is_file(),
        "why_no_slide": why_no_slide,
        "tile": {"size": TILE_PX, "max_level": max_level(slide.size), "width": width, "height": height},
        "tau": patches.tau,
        "group_of": patches.group_of,
        "fields": ["probability", "tissue_fraction", *spread, "group", *difference],
        # A cell without a value, but with so much tissue, had too little for the model; None if there is none.
        "no_answer_from": {"tissue": limits["min_tissue"], "scanned": limits["min_scanned"]} if has_no_answer else None,
        "layout": _layout(_arrays(slide)),
        "beside": None
        if other is None
        else {
            "decision_probability": other.facts["decision_probability"],
            "fingerprint": other.fingerprint,
            "model": other_model,
        },
        "why_no_beside": slide.why_no_beside,
    }


def slide_values(slide: ReviewedSlide) -> bytes:
    """Return the arrays of a slide's cells and patches, little endian, each from a multiple of 4 bytes on.

    Per cell, row by row, equal to ``heatmap.ome.tif`` bit by bit, NaN where there is none: cell_probability,
    cell_tissue, of an ensemble cell_spread, of a slide not scanned everywhere cell_scanned, with another run
    cell_beside. Per patch, in the order of the table: patch_cell (row * nx + column), patch_probability (see
    `round_on_decided_side`), patch_tissue, patch_flags (bit i for the i-th of `FLAGS`), patch_label and patch_group
    (-1: unknown), of an ensemble patch_spread, with another run patch_beside. `browser_facts` has the layout.
    """
    parts = []
    for array in _arrays(slide).values():
        raw = array.tobytes()
        parts.append(raw + bytes(-len(raw) % _ALIGNED_BYTES))
    return b"".join(parts)


def patch_facts(slide: ReviewedSlide, x: int, y: int) -> dict[str, Any]:
    """Return the facts of the patch with origin (x, y), level-0 px; None where something is unknown.

    The columns of the table; is_tumour; label and group; x_um, y_um, width_um of its place on the slide; beside, the
    other run's probability; model, the model's fingerprint.
    """
    row = slide.patch_at(x, y)
    patches = slide.patches
    mpp = float(slide.facts["mpp"])
    return {
        **{str(name): _json_value(value) for name, value in slide.table.iloc[row].items()},
        "is_tumour": bool(patches.is_tumour[row]),
        **_joined(patches, row),
        "x_um": x * mpp,
        "y_um": y * mpp,
        "width_um": slide.grid.extent * mpp,
        "model": slide.models[0]["fingerprint"],
    }


def available_kinds(slide: ReviewedSlide) -> list[str]:
    """Return the reasons that this slide has data for: another run's predictions, or labels."""
    patches = slide.patches
    is_absent = {
        "disagreement": patches.beside is None or not np.isfinite(patches.beside).any(),
        "label-disagreement": not (patches.label >= 0).any(),
    }
    return [kind for kind in KINDS if not is_absent.get(kind, False)]


def patches_to_look_at(slide: ReviewedSlide, kind: str, limit: int = 24) -> list[dict[str, Any]]:
    """Return at most `limit` patches that most deserve a look, the first one most; equals row by row.

    ``near-threshold``: the probability is near the decision. ``against-area``: the prediction contradicts the tissue
    area (below, or not below, the groups' threshold), of either kind in turn. ``disagreement``: the other run
    gives another probability. ``label-disagreement``: the prediction contradicts the label. ``flagged``: the most
    flags, then the nearest to the decision. Contradictions are ordered by the model's certainty. Raises
    InputMissingError for a kind without data.
    """
    if kind not in (kinds := available_kinds(slide)):
        raise InputMissingError(f"no gallery {kind!r}", place=slide.slide_id, remedy=f"choose of {', '.join(kinds)}")
    patches = slide.patches
    is_candidate, rank = _ranked(patches, kind, slide.facts["decision_probability"])
    candidates = np.flatnonzero(is_candidate)
    order = np.lexsort((patches.x[candidates], patches.y[candidates], -rank[candidates]))
    return [
        {
            "x": int(patches.x[row]),
            "y": int(patches.y[row]),
            "probability": float(patches.probability[row]),
            "tissue_fraction": float(patches.tissue_fraction[row]),
            "flags": [name for bit, name in enumerate(FLAGS) if patches.flags[row] >> bit & 1],
            **_joined(patches, row),
        }
        for row in candidates[order][: max(0, limit)].tolist()
    ]


def _ranked(patches: Patches, kind: str, decision_probability: float) -> tuple[NDArray[np.bool_], NDArray[np.float64]]:
    """Return which patches are of a kind, (M,), and their rank, (M,): the highest comes first."""
    margin = np.abs(patches.probability - decision_probability)
    is_large = patches.tissue_fraction >= patches.tau
    if kind == "near-threshold":
        return np.ones(len(patches), np.bool_), -margin
    if kind == "against-area":
        # Much tissue called tumour, or little called non-tumour, may be the shortcut at work. These two cannot be.
        place = np.full(len(patches), np.nan)
        for label in (True, False):
            rows = np.flatnonzero((patches.is_tumour == label) & (is_large != label))
            place[rows[np.argsort(-margin[rows], kind="stable")]] = np.arange(len(rows))
        return ~np.isnan(place), -place
    if kind == "label-disagreement":
        return (patches.label >= 0) & ((patches.label == 1) != patches.is_tumour), margin
    if kind == "flagged":
        # A margin is below 1, so that its term never outweighs a flag.
        return patches.flags > 0, np.bitwise_count(patches.flags) + (1 - margin) / 2
    assert patches.beside is not None  # else `available_kinds` has no "disagreement"
    gap = np.abs(patches.probability - patches.beside)
    return gap > 0, np.nan_to_num(gap)


def _joined(patches: Patches, row: int) -> dict[str, Any]:
    """Return label, group and the other run's probability of a patch; None where unknown."""
    label, group = int(patches.label[row]), int(patches.group[row])
    return {
        "label": None if label < 0 else label,
        "group": None if group < 0 else group,
        "beside": None if patches.beside is None else _json_value(patches.beside[row]),
    }


def _arrays(slide: ReviewedSlide) -> dict[str, NDArray[Any]]:
    """Return the arrays of `slide_values` in their order."""
    cells, patches = slide.heatmap, slide.patches
    map_names = {
        "cell_probability": "probability",
        "cell_tissue": "tissue_fraction",
        "cell_spread": "spread",
        "cell_scanned": "scanned_fraction",
    }
    arrays: dict[str, NDArray[Any]] = {
        name: cells.levels[0][cells.channels.index(channel)].astype("<f4", copy=False).ravel()
        for name, channel in map_names.items()
        if channel in cells.channels
    }
    if slide.beside is not None:
        arrays["cell_beside"] = other_map_on_cells(slide, slide.beside).astype("<f4", copy=False).ravel()
    decision_probability = slide.facts["decision_probability"]
    arrays |= {
        "patch_cell": patches.cell.astype("<u4"),
        "patch_probability": round_on_decided_side(patches.probability, patches.is_tumour, decision_probability),
        "patch_tissue": patches.tissue_fraction.astype("<f4"),
        "patch_flags": patches.flags.astype("<u2"),
        "patch_label": patches.label.astype("<i1"),
        "patch_group": patches.group.astype("<i1"),
    }
    if slide.has_spread:
        arrays["patch_spread"] = patches.spread.astype("<f4")
    if patches.beside is not None:
        arrays["patch_beside"] = patches.beside.astype("<f4")
    return arrays


def round_on_decided_side(
    probability: NDArray[np.float64], is_tumour: NDArray[np.bool_], decision_probability: float
) -> NDArray[np.float32]:
    """Round probabilities (M,) to float32: those called tumour stay above the decision probability, all others not.

    The model decided by the logit. Rounding, here and in the sigmoid, would move patches that lie close to the
    threshold to its other side, and the page would count other tumour patches than the heatmap's facts.
    """
    nearest = np.float32(decision_probability)
    # The browser compares in float64, so `above` must exceed the threshold in float64 too.
    above = nearest if float(nearest) > decision_probability else np.nextafter(nearest, np.float32(np.inf))
    below = np.nextafter(above, np.float32(-np.inf))
    rounded = probability.astype("<f4")
    return np.asarray(np.where(is_tumour, np.maximum(rounded, above), np.minimum(rounded, below)), "<f4")


def other_map_on_cells(slide: ReviewedSlide, other: ReviewedSlide) -> NDArray[np.float32]:
    """Return the other run's map on this run's cells, (ny, nx): the value under the middle of each cell."""
    cells: NDArray[np.float32] = other.heatmap.levels[0][0]
    (nx, ny), stride, other_stride = slide.facts["cells"], slide.grid.stride, other.grid.stride
    if cells.shape == (ny, nx) and stride == other_stride:
        return cells
    # The last cell may overhang the slide, and its middle the other run's last cell.
    row, column = (
        np.minimum(((np.arange(count) + 0.5) * stride / other_stride).astype(np.int64), length - 1)
        for count, length in zip((ny, nx), cells.shape, strict=True)
    )
    return np.asarray(cells[row[:, None], column[None, :]], np.float32)


def _layout(arrays: dict[str, NDArray[Any]]) -> list[dict[str, Any]]:
    """Return name, type, length and offset in bytes of each array."""
    layout, offset = [], 0
    for name, array in arrays.items():
        type_name = _JAVASCRIPT_TYPES[array.dtype.str[1:]]
        layout.append({"name": name, "type": type_name, "length": len(array), "offset": offset})
        offset += -(-array.nbytes // _ALIGNED_BYTES) * _ALIGNED_BYTES
    return layout


def _json_value(value: Any) -> Any:
    """Return a table's cell as a JSON value; None for NaN, infinity and missing values."""
    if pd.isna(value):
        return None
    plain = value.item() if hasattr(value, "item") else value
    return None if isinstance(plain, float) and not math.isfinite(plain) else plain
