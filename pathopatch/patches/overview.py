"""How a slide's overview is kept, so that other programs open it too.

As an OME-Zarr 0.5 image, a pyramid of all channels, with the tissue mask as its label image.
"""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np
import zarr
from numpy.typing import NDArray

from pathopatch.slides.omezarr_attributes import Version, compressor, image_attributes, multiscales
from pathopatch.slides.resample import resized

_CHUNK_PX = 512
_SMALLEST_LEVEL_PX = 512
_OME_VERSION: Version = "0.5"
_LABEL_COLORS = {"tissue": [0, 160, 90, 128], "unscanned": [128, 128, 128, 200]}


def write_overview(
    group: zarr.Group,
    overview: NDArray[np.generic],
    tissue: NDArray[np.uint8],
    *,
    unscanned: NDArray[np.uint8] | None = None,
    channels: Sequence[str],
    um_per_px: tuple[float, float],
    windows: NDArray[np.float64],
) -> None:
    """Write ``overview`` and its label images ``tissue`` and, where something was not scanned, ``unscanned``.

    Parameters
    ----------
    group : zarr.Group
        The store.
    overview : ndarray, shape (C, h, w)
        The whole slide, small, source units.
    tissue : ndarray of uint8, shape (h, w)
        1 is tissue.
    unscanned : ndarray of uint8, shape (h, w), optional
        1 was never scanned; all was if not given.
    channels : sequence of str
        Names.
    um_per_px : tuple of float
        (x, y) micrometres per overview px.
    windows : ndarray of float64, shape (C, 2)
        Intensities that a viewer shows as black and full.
    """
    image = group.create_group("overview")
    levels = _write_pyramid(image, overview, cv2.INTER_AREA)
    pyramid = multiscales("overview", ("c", "y", "x"), levels, um_per_px)
    image.attrs.update(image_attributes(pyramid, channels, windows, version=_OME_VERSION))
    labels = image.create_group("labels")
    masks = {"tissue": tissue} | ({} if unscanned is None else {"unscanned": unscanned})
    labels.attrs["ome"] = {"version": _OME_VERSION, "labels": list(masks)}
    for name, mask in masks.items():
        label = labels.create_group(name)
        levels = _write_pyramid(label, mask[None], cv2.INTER_NEAREST, drop_channel=True)
        label.attrs["ome"] = {
            "version": _OME_VERSION,
            "multiscales": multiscales(name, ("y", "x"), levels, um_per_px),
            "image-label": {
                "colors": [{"label-value": 1, "rgba": _LABEL_COLORS[name]}],
                "source": {"image": "../../"},
            },
        }


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
        pixels = resized(pixels, size, interpolation=interpolation)
