"""Attributes and codecs of the OME-Zarr images that are written for other viewers: version 0.5, on Zarr v3."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from zarr.codecs import BloscCodec, ZstdCodec

OME_VERSION = "0.5"
_COLOURS = {"R": "FF0000", "G": "00FF00", "B": "0000FF"}


def multiscales(
    name: str,
    axes: Sequence[str],
    levels: Sequence[tuple[float, float]],
    um_per_px: tuple[float, float],
    *,
    over_um: tuple[float, float] | None = None,
) -> list[dict[str, Any]]:
    """Return OME-Zarr's description of a pyramid.

    The `axes` are of ``c``, ``y``, ``x``, the last two y and x; `levels` holds each level's downsample (x, y), and
    `um_per_px` is (x, y) of the first. The origin is the centre of the first pixel; with `over_um`, (x, y) um per px of
    another image over which this one lies with the same corner, it is the centre of that one's.
    """
    first = [1.0] * (len(axes) - 2)
    origin_x, origin_y = um_per_px if over_um is None else over_um
    datasets = []
    for index, (x, y) in enumerate(levels):
        # OME-Zarr places the centre of a pixel, not its corner: a coarser level begins half a pixel further in.
        um_x, um_y = x * um_per_px[0], y * um_per_px[1]
        shift_um = [(um_y - origin_y) / 2, (um_x - origin_x) / 2]
        transforms = [
            {"type": "scale", "scale": [*first, um_y, um_x]},
            {"type": "translation", "translation": [*(0.0 for _ in first), *shift_um]},
        ]
        datasets.append({"path": str(index), "coordinateTransformations": transforms})
    described_axes = [
        {"name": axis, "type": "channel"} if axis == "c" else {"name": axis, "type": "space", "unit": "micrometer"}
        for axis in axes
    ]
    return [{"name": name, "axes": described_axes, "datasets": datasets}]


def image_attributes(
    pyramid: list[dict[str, Any]], channels: Sequence[str], windows: NDArray[np.float64]
) -> dict[str, Any]:
    """Return the attributes of an image's group, from `multiscales` and the names of the channels.

    Viewers show the `windows`, shape (C, 2), as black and as full.
    """
    shown_channels = [
        {
            "label": name,
            "color": _COLOURS.get(name, "FFFFFF"),
            "active": True,
            "window": {"start": low, "end": high, "min": low, "max": high},
        }
        for name, (low, high) in zip(channels, windows.tolist(), strict=True)
    ]
    return {"ome": {"version": OME_VERSION, "multiscales": pyramid, "omero": {"channels": shown_channels}}}


def compressor(dtype: np.dtype[np.generic]) -> ZstdCodec | BloscCodec:
    """Return the codec that fits a sample type."""
    if dtype.itemsize == 1:
        return ZstdCodec(level=1)
    # The high bytes of neighbouring pixels are mostly equal, so shuffled bits compress well.
    return BloscCodec(cname="lz4", clevel=5, shuffle="bitshuffle", typesize=dtype.itemsize)
