"""OME-Zarr images made on the spot, whose every pixel is known; written by zarr-python alone."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import zarr


def write_omezarr(
    path: Path,
    levels: Sequence[np.ndarray],
    *,
    version: str = "0.5",
    axes: str = "cyx",
    um: tuple[float, float] | None = (0.5, 0.5),
    unit: str | None = "micrometer",
    labels: Sequence[str] = (),
    chunk_px: int = 64,
    shards: bool = False,
    **attributes: Any,
) -> Path:
    """Write levels (C, h, w), or of any axes, each half the size of the one before; `um` is (x, y) in the unit."""
    group = zarr.create_group(path, zarr_format=2 if version == "0.4" else 3)
    kinds = {"c": "channel", "t": "time"}
    units = {a: {"unit": unit} for a in "yx" if unit}
    described = [{"name": a, "type": kinds.get(a, "space"), **units.get(a, {})} for a in axes]
    datasets = []
    for index, pixels in enumerate(levels):
        chunks = tuple(min(chunk_px, n) if a in "yx" else 1 for a, n in zip(axes, pixels.shape, strict=True))
        whole = tuple(-(-n // c) * c for n, c in zip(pixels.shape, chunks, strict=True))
        options: dict[str, Any] = {"shards": whole} if shards else {}
        if version == "0.4":
            options["chunk_key_encoding"] = {"name": "v2", "separator": "/"}
        group.create_array(str(index), shape=pixels.shape, chunks=chunks, dtype=pixels.dtype, fill_value=0, **options)
        array: Any = group[str(index)]
        array[...] = pixels
        datasets.append({"path": str(index), "coordinateTransformations": _scale(axes, um, 2**index)})
    multiscale: dict[str, Any] = {"name": "made", "axes": described, "datasets": datasets}
    omero = {"omero": {"channels": [{"label": name, "color": "FFFFFF"} for name in labels]}} if labels else {}
    if version == "0.4":
        group.attrs.put({"multiscales": [{**multiscale, "version": "0.4"}], **omero, **attributes})
    else:
        group.attrs.put({"ome": {"version": version, "multiscales": [multiscale], **omero, **attributes}})
    return path


def _scale(axes: str, um: tuple[float, float] | None, factor: int) -> list[dict[str, Any]]:
    if um is None:
        return [{"type": "scale", "scale": [float(factor) if a in "yx" else 1.0 for a in axes]}]
    by_axis = {"x": um[0] * factor, "y": um[1] * factor}
    return [{"type": "scale", "scale": [by_axis.get(a, 1.0) for a in axes]}]


def chunk_files(path: Path) -> list[Path]:
    """The files that hold pixels, sorted."""
    metadata = {"zarr.json", ".zarray", ".zattrs", ".zgroup", ".zmetadata"}
    return sorted(file for file in path.rglob("*") if file.is_file() and file.name not in metadata)
