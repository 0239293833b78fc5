"""What does the browser get of a slide's patches and cells? Facts as plain values, numbers as one run of bytes."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from pathopatch.heatmaps.flags import FLAGS
from pathopatch.patches.picture import COLOR_NAMES, channel_colors
from pathopatch.review.slide import ReviewedSlide
from pathopatch.review.tiles import TILE_PX, max_level

_TYPES = {"f4": "float32", "u4": "uint32", "u2": "uint16", "i1": "int8"}
_ALIGNED = 4  # bytes: where an array begins


def facts(slide: ReviewedSlide) -> dict[str, Any]:
    """Return what a page says of a slide, and how its `values` are laid out; plain values for JSON, no NaN.

    Parameters
    ----------
    slide : ReviewedSlide
        An open slide.

    Raises
    ------
    InputMissingError, InputCorruptError, StaleArtefactError
        The predictions or the map are missing, damaged or of another schema.
    """
    known, patches = slide.facts, slide.patches
    width, height = slide.size
    reason, other = slide.why_no_pixels(), slide.beside
    return {
        "slide_id": slide.slide_id,
        "patient_id": slide.patient_id,
        **{name: known[name] for name in ("size_px", "bounds_px", "mpp", "channels", "intensity_windows", "cell_px")},
        "is_rgb": slide.is_rgb,
        "channel_colors": [_color(each) for each in channel_colors(len(slide.channels))],
        **{name: known[name] for name in ("cell_um", "cells", "patch_px", "stride_px", "class_names", "background")},
        "span_px": slide.grid.span_px,
        **{name: known[name] for name in ("decision_probability", "decision_threshold", "temperature")},
        **{name: known[name] for name in ("counts", "summary", "warnings")},
        "flags": list(FLAGS),
        "fingerprint": slide.fingerprint,
        "model": _model(slide),
        "has_slide": reason is None,
        "why_no_slide": reason,
        "tile": {"size": TILE_PX, "max_level": max_level(slide.size), "width": width, "height": height},
        "tau": patches.tau,
        "group_of": patches.group_of,
        "fields": _fields(slide),
        "layout": _layout(_arrays(slide)),
        "beside": None if other is None else _beside(other),
        "why_no_beside": slide.why_no_beside,
    }


def values(slide: ReviewedSlide) -> bytes:
    """Return the numbers of a slide's cells and patches, little endian, each array from a multiple of 4 bytes on.

    Parameters
    ----------
    slide : ReviewedSlide
        An open slide.

    Returns
    -------
    bytes
        Per cell, row by row, as in ``heatmap.ome.tif`` to the bit, NaN where there is none: cell_probability,
        cell_tissue, of an ensemble cell_spread, with a run beside cell_beside. Per patch, in the order of the table:
        patch_cell (row * nx + column), patch_probability (float32, on the side of the decision probability on which the
        model decided), patch_tissue, patch_flags (bit i for the i-th of `FLAGS`), patch_label and patch_group (-1:
        not known), of an ensemble patch_spread, with a run beside patch_beside. `facts` has the layout.
    """
    parts = []
    for array in _arrays(slide).values():
        raw = array.tobytes()
        parts.append(raw + bytes(-len(raw) % _ALIGNED))
    return b"".join(parts)


def patch(slide: ReviewedSlide, x: int, y: int) -> dict[str, Any]:
    """Return one patch's row of the table as it stands, None where a cell is empty, and what is known beside.

    Parameters
    ----------
    slide : ReviewedSlide
        An open slide.
    x, y : int
        Its origin, level-0 px.

    Returns
    -------
    dict
        The columns of the table; is_tumour; label and group, None where not known; x_um, y_um, width_um of its place
        on the slide; beside, the other run's probability; model, the model's fingerprint.

    Raises
    ------
    InputMissingError
        No patch was predicted there.
    """
    index = slide.patch_at(x, y)
    patches = slide.patches
    row = {str(name): _plain(value) for name, value in slide.table.iloc[index].items()}
    mpp = float(slide.facts["mpp"])
    return {
        **row,
        "is_tumour": bool(patches.is_tumour[index]),
        "label": _or_none(int(patches.label[index])),
        "group": _or_none(int(patches.group[index])),
        "x_um": x * mpp,
        "y_um": y * mpp,
        "width_um": slide.grid.extent * mpp,
        "beside": None if patches.beside is None else _plain(patches.beside[index]),
        "model": slide.model_fingerprint,
    }


def _color(color: tuple[int, int, int]) -> dict[str, str]:
    """Return a channel's colour by its name and as style sheets have it."""
    return {"name": COLOR_NAMES[color], "css": "#" + "".join(f"{255 * part:02x}" for part in color)}


def _model(slide: ReviewedSlide) -> dict[str, Any]:
    return {"name": slide.name, "method": slide.facts.get("method"), "fingerprint": slide.model_fingerprint}


def _beside(other: ReviewedSlide) -> dict[str, Any]:
    return {
        "name": other.name,
        "decision_probability": other.facts["decision_probability"],
        "fingerprint": other.fingerprint,
        "model": _model(other),
    }


def _fields(slide: ReviewedSlide) -> list[str]:
    """Return by what the patches can be coloured."""
    more = {"spread": slide.has_spread, "group": True, "difference": slide.beside is not None}
    return ["probability", "tissue_fraction", *(name for name, is_there in more.items() if is_there)]


def _arrays(slide: ReviewedSlide) -> dict[str, NDArray[Any]]:
    """Return the arrays of `values` in their order."""
    cells, patches = slide.heatmap, slide.patches
    of_cells = {"cell_probability": "probability", "cell_tissue": "tissue_fraction", "cell_spread": "spread"}
    found: dict[str, NDArray[Any]] = {
        name: cells.levels[0][cells.channels.index(channel)].astype("<f4", copy=False).ravel()
        for name, channel in of_cells.items()
        if channel in cells.channels
    }
    if slide.beside is not None:
        found["cell_beside"] = cells_beside(slide, slide.beside).astype("<f4", copy=False).ravel()
    found |= {
        "patch_cell": patches.cell.astype("<u4"),
        "patch_probability": decided(patches.probability, patches.is_tumour, slide.facts["decision_probability"]),
        "patch_tissue": patches.tissue_fraction.astype("<f4"),
        "patch_flags": patches.flags.astype("<u2"),
        "patch_label": patches.label.astype("<i1"),
        "patch_group": patches.group.astype("<i1"),
    }
    if slide.has_spread:
        found["patch_spread"] = patches.spread.astype("<f4")
    if patches.beside is not None:
        found["patch_beside"] = patches.beside.astype("<f4")
    return found


def decided(
    probability: NDArray[np.float64], is_tumour: NDArray[np.bool_], decision_probability: float
) -> NDArray[np.float32]:
    """Return probabilities in float32, those called tumour above the decision probability, all others not above.

    Rounding, here and in the sigmoid, would put patches that lie close to the threshold on its other side.

    Parameters
    ----------
    probability : ndarray of float64, shape (M,)
        In [0, 1].
    is_tumour : ndarray of bool, shape (M,)
        What was decided by the logit.
    decision_probability : float
        The threshold, in (0, 1), as it is compared with in float64.

    Returns
    -------
    ndarray of float32, shape (M,)
    """
    nearest = np.float32(decision_probability)
    above = nearest if float(nearest) > decision_probability else np.nextafter(nearest, np.float32(np.inf))
    below = np.nextafter(above, np.float32(-np.inf))
    rounded = probability.astype("<f4")
    return np.asarray(np.where(is_tumour, np.maximum(rounded, above), np.minimum(rounded, below)), "<f4")


def cells_beside(slide: ReviewedSlide, other: ReviewedSlide) -> NDArray[np.float32]:
    """Return the other run's map on this run's cells, (ny, nx): its own values, of the cell under each cell's middle.

    Parameters
    ----------
    slide, other : ReviewedSlide
        One slide by two models; where their cells are the same, so is the map, to the bit.
    """
    cells: NDArray[np.float32] = other.heatmap.levels[0][0]
    (nx, ny), stride, theirs = slide.facts["cells"], slide.grid.stride, other.grid.stride
    if cells.shape == (ny, nx) and stride == theirs:
        return cells
    row, column = (
        np.minimum(((np.arange(count) + 0.5) * stride / theirs).astype(np.int64), length - 1)
        for count, length in zip((ny, nx), cells.shape, strict=True)
    )
    return np.asarray(cells[row[:, None], column[None, :]], np.float32)


def _layout(arrays: dict[str, NDArray[Any]]) -> list[dict[str, Any]]:
    """Return name, type, length and offset in bytes of each array."""
    found, offset = [], 0
    for name, array in arrays.items():
        found.append({"name": name, "type": _TYPES[array.dtype.str[1:]], "length": len(array), "offset": offset})
        offset += -(-array.nbytes // _ALIGNED) * _ALIGNED
    return found


def _plain(value: Any) -> Any:
    """Return a table's cell as JSON knows it."""
    if pd.isna(value):
        return None
    plain = value.item() if hasattr(value, "item") else value
    return None if isinstance(plain, float) and not math.isfinite(plain) else plain


def _or_none(number: int) -> int | None:
    return None if number < 0 else number
