"""How a slide's overview is kept, so that other programs open it too.

As an OME-Zarr 0.5 image, a pyramid of all channels, with the tissue mask as its label image.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import cv2
import numpy as np
import zarr
from numpy.typing import NDArray
from zarr.codecs import BloscCodec, ZstdCodec

_CHUNK_PX = 512
_SMALLEST_LEVEL_PX = 512
_OME_VERSION = "0.5"
_COLOURS = {"R": "FF0000", "G": "00FF00", "B": "0000FF"}


def write_overview(
    group: zarr.Group,
    overview: NDArray[np.generic],
    tissue: NDArray[np.uint8],
    *,
    channels: Sequence[str],
    um_per_px: tuple[float, float],
    windows: NDArray[np.float64],
) -> None:
    """Write ``overview`` and ``overview/labels/tissue`` into a store.

    Parameters
    ----------
    group : zarr.Group
        The store.
    overview : ndarray, shape (C, h, w)
        The whole slide, small, source units.
    tissue : ndarray of uint8, shape (h, w)
        1 is tissue.
    channels : sequence of str
        Names.
    um_per_px : tuple of float
        (x, y) micrometres per overview px.
    windows : ndarray of float64, shape (C, 2)
        Intensities that a viewer shows as black and full.
    """
    image = group.create_group("overview")
    levels = _write_pyramid(image, overview, cv2.INTER_AREA)
    shown: list[Any] = [
        {
            "label": name,
            "color": _COLOURS.get(name, "FFFFFF"),
            "active": True,
            "window": {"start": low, "end": high, "min": low, "max": high},
        }
        for name, (low, high) in zip(channels, windows.tolist(), strict=True)
    ]
    multiscales = _multiscales("overview", ("c", "y", "x"), levels, um_per_px)
    image.attrs["ome"] = {
        "version": _OME_VERSION,
        "multiscales": multiscales,
        "omero": {"channels": shown},
    }
    labels = image.create_group("labels")
    labels.attrs["ome"] = {"version": _OME_VERSION, "labels": ["tissue"]}
    mask = labels.create_group("tissue")
    levels = _write_pyramid(mask, tissue[None], cv2.INTER_NEAREST, drop_channel=True)
    mask.attrs["ome"] = {
        "version": _OME_VERSION,
        "multiscales": _multiscales("tissue", ("y", "x"), levels, um_per_px),
        "image-label": {
            "colors": [{"label-value": 1, "rgba": [0, 160, 90, 128]}],
            "source": {"image": "../../"},
        },
    }


def compressor(dtype: np.dtype[np.generic]) -> ZstdCodec | BloscCodec:
    """Return the codec that fits a type: bits are shuffled where high bytes are mostly equal."""
    if dtype.itemsize == 1:
        return ZstdCodec(level=1)
    return BloscCodec(cname="lz4", clevel=5, shuffle="bitshuffle", typesize=dtype.itemsize)


def write_array(
    group: zarr.Group,
    name: str,
    values: NDArray[np.generic],
    *,
    chunks: tuple[int, ...],
    names: Sequence[str],
) -> None:
    """Write a small array whole."""
    array = group.create_array(
        name,
        shape=values.shape,
        chunks=tuple(max(1, side) for side in chunks),
        dtype=values.dtype,
        compressors=[compressor(values.dtype)],
        fill_value=0,
        dimension_names=names,
    )
    array[...] = values


def _write_pyramid(
    group: zarr.Group, pixels: NDArray[np.generic], interpolation: int, *, drop_channel: bool = False
) -> list[tuple[float, float]]:
    """Write (C, h, w) at full size and halved until small; return each level's downsample (x, y)."""
    height, width = pixels.shape[1:]
    found: list[tuple[float, float]] = []
    while True:
        h, w = pixels.shape[1:]
        values = pixels[0] if drop_channel else pixels
        chunks = (min(h, _CHUNK_PX), min(w, _CHUNK_PX))
        names = ("y", "x") if drop_channel else ("c", "y", "x")
        write_array(group, str(len(found)), values, chunks=chunks if drop_channel else (1, *chunks), names=names)
        found.append((width / w, height / h))
        if max(h, w) <= _SMALLEST_LEVEL_PX:
            return found
        size = (max(1, w // 2), max(1, h // 2))
        pixels = np.stack([cv2.resize(plane, size, interpolation=interpolation) for plane in pixels])


def _multiscales(
    name: str, axes: Sequence[str], levels: Sequence[tuple[float, float]], um_per_px: tuple[float, float]
) -> list[dict[str, Any]]:
    """Return OME-Zarr's description of a pyramid. The centre of a level's first pixel is shifted by half a pixel."""
    first = [1.0] * (len(axes) - 2)
    datasets = []
    for index, (x, y) in enumerate(levels):
        um_x, um_y = x * um_per_px[0], y * um_per_px[1]
        shift = [(um_y - um_per_px[1]) / 2, (um_x - um_per_px[0]) / 2]
        transforms = [
            {"type": "scale", "scale": [*first, um_y, um_x]},
            {"type": "translation", "translation": [*(0.0 for _ in first), *shift]},
        ]
        datasets.append({"path": str(index), "coordinateTransformations": transforms})
    described = [
        {"name": axis, "type": "channel"} if axis == "c" else {"name": axis, "type": "space", "unit": "micrometer"}
        for axis in axes
    ]
    return [{"name": name, "axes": described, "datasets": datasets}]
