"""Write a heatmap as an OME-TIFF that Bio-Formats and tifffile read, and read it back.

float32, one plane per channel, a pyramid in SubIFDs, pixel size in um.
"""

from __future__ import annotations

import hashlib
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import tifffile
from numpy.typing import NDArray

from pathopatch.core.errors import InputCorruptError, InputMissingError
from pathopatch.heatmaps.stitch import halved

CHANNELS = ("probability", "tissue_fraction", "coverage")
WITH_SPREAD = (*CHANNELS, "spread")
"""Channels of an ensemble: the probability is its mean, the spread the standard deviation over its members."""

_TILE_PX = 256
_SMALLEST_LEVEL_PX = 64  # a map whose longest side is at most this needs no coarser level
_OME = "{http://www.openmicroscopy.org/Schemas/OME/2016-06}"


@dataclass(frozen=True, kw_only=True)
class HeatmapFile:
    """Content of an OME-TIFF heatmap."""

    levels: tuple[NDArray[np.float32], ...]  # (C, ny, nx) each, finest first; NaN where nothing was predicted
    channels: tuple[str, ...]
    cell_um: float  # side of a cell of the finest level, um
    name: str


def pyramid(cells: NDArray[np.float32]) -> list[NDArray[np.float32]]:
    """Return a map (C, ny, nx) and its halved copies, finest first, until the longest side is at most 64 cells."""
    levels = [cells]
    while max(levels[-1].shape[1:]) > _SMALLEST_LEVEL_PX:
        levels.append(halved(levels[-1]))
    return levels


def write_ome_tiff(
    path: Path,
    cells: NDArray[np.float32],
    *,
    cell_um: float,
    channels: Sequence[str] = CHANNELS,
    name: str = "heatmap",
) -> None:
    """Write a map (C, ny, nx) as a pyramidal OME-TIFF; equal arguments give equal bytes.

    Cell (0, 0) starts at level-0 (0, 0) of the slide and has a side of `cell_um`; NaN where nothing was predicted.
    """
    levels = pyramid(np.ascontiguousarray(cells, np.float32))
    # A UUID of the content and no dates, so that equal maps give equal bytes.
    digest = hashlib.sha256(levels[0].tobytes()).hexdigest()
    identity = uuid.uuid5(uuid.NAMESPACE_URL, f"pathopatch:{name}:{cell_um!r}:{levels[0].shape}:{digest}")
    metadata = {
        "axes": "CYX",
        "Creator": "pathopatch",
        "UUID": str(identity),
        "Name": name,
        "PhysicalSizeX": cell_um,
        "PhysicalSizeXUnit": "µm",
        "PhysicalSizeY": cell_um,
        "PhysicalSizeYUnit": "µm",
        "Channel": {"Name": list(channels)},
    }
    settings: dict[str, Any] = {
        "tile": (_TILE_PX, _TILE_PX),
        "compression": "zlib",
        "photometric": "minisblack",
        "software": "pathopatch",
    }
    with tifffile.TiffWriter(path, bigtiff=True, ome=True) as writer:
        writer.write(levels[0], subifds=len(levels) - 1, metadata=metadata, **settings)
        for level in levels[1:]:
            writer.write(level, subfiletype=1, **settings)


def read_ome_tiff(path: Path) -> HeatmapFile:
    """Return a heatmap that `write_ome_tiff` wrote, after checking that it is complete.

    Raises
    ------
    InputMissingError
        There is no such file.
    InputCorruptError
        It is truncated, or type, names, pixel size or pyramid are not those of a heatmap.
    """
    if not path.is_file():
        raise InputMissingError(f"no heatmap {path.name}", place=str(path), remedy="run predict for this slide")
    try:
        with tifffile.TiffFile(path) as file:
            # Every level is decoded, so that a file truncated anywhere fails here.
            root = ElementTree.fromstring(file.ome_metadata or "<none/>")
            levels = tuple(level.asarray() for level in file.series[0].levels)
    except (tifffile.TiffFileError, ElementTree.ParseError, ValueError, IndexError, RuntimeError, OSError) as error:
        raise _corrupt(path, f"not a readable OME-TIFF: {error}") from error
    image, pixels = root.find(f"{_OME}Image"), root.find(f"{_OME}Image/{_OME}Pixels")
    if image is None or pixels is None:
        raise _corrupt(path, "no OME image description")
    names = tuple(channel.get("Name", "") for channel in pixels.findall(f"{_OME}Channel"))
    size = tuple(float(pixels.get(f"PhysicalSize{axis}", "nan")) for axis in "XY")
    # A single channel comes back without its axis.
    levels = tuple(level if level.ndim == 3 else level[None] for level in levels)
    _check_content(path, levels, names, size)
    return HeatmapFile(levels=levels, channels=names, cell_um=size[0], name=image.get("Name", ""))


def _check_content(
    path: Path, levels: tuple[NDArray[np.float32], ...], names: tuple[str, ...], size: tuple[float, ...]
) -> None:
    """Refuse levels that do not halve, names that do not match the planes, and pixels without a size."""
    if levels[0].dtype != np.float32:
        raise _corrupt(path, f"pixels are {levels[0].dtype}, expected float32")
    if len(names) != len(levels[0]) or not all(names):
        raise _corrupt(path, f"{len(levels[0])} planes but channel names {names}")
    if not size[0] > 0 or size[0] != size[1]:
        raise _corrupt(path, f"pixel size {size} um")
    expected = [level.shape for level in pyramid(levels[0])]
    if [level.shape for level in levels] != expected:
        raise _corrupt(path, f"levels {[level.shape for level in levels]}, expected {expected}")


def _corrupt(path: Path, message: str) -> InputCorruptError:
    return InputCorruptError(message, place=str(path), remedy="predict this slide again with --force")
