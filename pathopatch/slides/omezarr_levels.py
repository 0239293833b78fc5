"""How large is a pixel of each level of an OME-Zarr image, and which levels show the same field? By scales."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from pathlib import Path
from typing import Any

from pathopatch.slides.omezarr_arrays import ZarrArray
from pathopatch.slides.omezarr_json import corrupt
from pathopatch.slides.resample import nominal_downsample
from pathopatch.slides.resolution import UNSTATED, Level, Resolution, axis_resolution

_SIZE_SLACK_PX = 1.0  # writers drop or add the odd pixel of a halved side


def level_scale(
    folder: Path, multiscale: dict[str, Any], dataset: dict[str, Any], axes: int
) -> tuple[float, ...] | None:
    """Return a level's size of a pixel along each axis, in the axes' units; None if it is not stated."""
    found: list[tuple[float, ...]] = []
    for source in (dataset, multiscale):
        for transform in source.get("coordinateTransformations") or []:
            if not isinstance(transform, dict) or transform.get("type") != "scale":
                continue
            values = transform.get("scale")
            if not isinstance(values, list) or len(values) != axes or not all(_is_number(value) for value in values):
                raise corrupt(folder, f"a scale of {values!r} for {axes} axes")
            found.append(tuple(float(value) for value in values))
    if not found:
        return None
    return tuple(prod(each) for each in zip(*found, strict=True))


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def levels_of_field(
    names: Sequence[str], arrays: Sequence[ZarrArray], scales: Sequence[tuple[float, ...] | None]
) -> tuple[tuple[Level, ...], list[int]]:
    """Return the levels that show the same field as the first, and which of the arrays they are."""
    y, x = names.index("y"), names.index("x")
    rest = [axis for axis in range(len(names)) if axis not in (y, x)]
    first = arrays[0]
    size = first.shape[x], first.shape[y]
    levels, kept = [Level(*size, 1.0)], [0]
    for index, array in enumerate(arrays[1:], start=1):
        is_same_kind = array.dtype == first.dtype and len(array.shape) == len(first.shape)
        if not is_same_kind or any(array.shape[axis] != first.shape[axis] for axis in rest):
            break
        smaller = array.shape[x], array.shape[y]
        downsample = _stated_downsample(scales[0], scales[index], size, smaller, (x, y))
        if downsample is None:
            quotients = [whole / part for whole, part in zip(size, smaller, strict=True)]
            if abs(quotients[0] - quotients[1]) > (0.02 + 1 / min(smaller)) * max(quotients):
                break
            downsample = nominal_downsample(size, smaller)
        if downsample < levels[-1].downsample:
            break
        levels.append(Level(*smaller, downsample))
        kept.append(index)
    return tuple(levels), kept


def _stated_downsample(
    first: tuple[float, ...] | None,
    other: tuple[float, ...] | None,
    size: tuple[int, int],
    smaller: tuple[int, int],
    places: tuple[int, int],
) -> float | None:
    """Return the downsample that the scales state, if the sizes bear it out within a pixel; None otherwise."""
    if first is None or other is None or min(first[place] for place in places) <= 0:
        return None
    ratios = [other[place] / first[place] for place in places]
    for ratio, whole, part in zip(ratios, size, smaller, strict=True):
        if not ratio > 0 or abs(whole / ratio - part) > _SIZE_SLACK_PX:
            return None
    return sum(ratios) / 2


def level_resolution(
    names: Sequence[str], axes: Sequence[dict[str, Any]], scale: tuple[float, ...] | None
) -> Resolution:
    """Return the um per pixel that a level's scale states."""
    if scale is None:
        return UNSTATED
    y, x = names.index("y"), names.index("x")
    units = [axes[place].get("unit") for place in (x, y)]
    return axis_resolution(scale[x], scale[y], units[0], units[1], source="the OME-Zarr scale")
