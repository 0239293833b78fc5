"""Write a heatmap as an image pyramid, OME-TIFF (Bio-Formats, tifffile) or OME-Zarr 0.5.

Both hold float32 channels, NaN where nothing was predicted.
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
from pathopatch.core.files import write_json
from pathopatch.heatmaps.stitch import halved

CHANNELS = ("probability", "tissue_fraction")
"""Channels of every heatmap.

An ensemble adds ``spread``, the standard deviation over its members, whose mean is the probability; a slide that was
not scanned everywhere adds ``scanned_fraction``, of whose pixels the tissue fraction is a share.
"""

_TILE_PX, _CHUNK_PX = 256, 512
_SMALLEST_LEVEL_PX = 64  # a map whose longest side is at most this needs no coarser level
_OME = "{http://www.openmicroscopy.org/Schemas/OME/2016-06}"
_AXES = ("c", "y", "x")


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
    InputMissingError, InputCorruptError
        There is no such file; or it is truncated, or type, names, pixel size or pyramid are not those of a heatmap.
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
    is_halved = [level.shape for level in levels] == [level.shape for level in pyramid(levels[0])]
    is_named = len(names) == len(levels[0]) and all(names)
    if levels[0].dtype != np.float32 or not is_named or not 0 < size[0] == size[1] or not is_halved:
        raise _corrupt(path, "type, names of channels, pixel size or levels are not those of a heatmap")
    return HeatmapFile(levels=levels, channels=names, cell_um=size[0], name=image.get("Name", ""))


def _corrupt(path: Path, message: str) -> InputCorruptError:
    return InputCorruptError(message, place=str(path), remedy="predict this slide again with --force")


def write_ome_zarr(
    path: Path,
    cells: NDArray[np.float32],
    *,
    cell_um: float,
    over_um: tuple[float, float],
    channels: Sequence[str] = CHANNELS,
    name: str = "heatmap",
) -> None:
    """Write a map (C, ny, nx) as an OME-Zarr image with the levels of the OME-TIFF; equal arguments give equal bytes.

    Cell (0, 0) starts at level-0 (0, 0) of the slide and has a side of `cell_um`. `over_um` is (x, y) um per px of the
    image below the map. Viewers show the first channel, from 0 to 1; the others can be switched on.
    """
    from pathopatch.slides.omezarr_metadata import image_attributes, multiscales

    levels = pyramid(np.ascontiguousarray(cells, np.float32))
    for number, level in enumerate(levels):
        _write_level(path / str(number), level)
    factors = [(2.0**number, 2.0**number) for number in range(len(levels))]
    # OME-Zarr places an image by the centre of its first pixel. A cell is far larger than a pixel of the overview, so
    # `over_um` gives the shift that brings the two images' corners together.
    image = multiscales(name, _AXES, factors, (cell_um, cell_um), over_um=over_um)
    windows = np.array([[0.0, 1.0]] * len(channels))
    attributes = image_attributes(image, channels, windows)
    for hidden in attributes["ome"]["omero"]["channels"][1:]:
        hidden["active"] = False
    write_json(path / "zarr.json", {"attributes": attributes, "zarr_format": 3, "node_type": "group"})


def _write_level(path: Path, cells: NDArray[np.float32]) -> None:
    """Write a level (C, ny, nx) as an array of Zarr v3, with checksums."""
    import tensorstore as ts  # here: it takes a while, and the review page needs none; zarr takes four times as long

    chunks = [1, *(min(side, _CHUNK_PX) for side in cells.shape[1:])]
    blosc = {"cname": "lz4", "clevel": 5, "shuffle": "bitshuffle", "typesize": 4, "blocksize": 0}
    metadata = {
        "shape": cells.shape,
        "data_type": "float32",
        "chunk_grid": {"name": "regular", "configuration": {"chunk_shape": chunks}},
        "codecs": [
            {"name": "bytes", "configuration": {"endian": "little"}},
            {"name": "blosc", "configuration": blosc},
            {"name": "crc32c"},
        ],
        "fill_value": 0,
        "dimension_names": _AXES,
    }
    store = {"driver": "file", "path": f"{path.resolve()}/"}
    spec = {"driver": "zarr3", "kvstore": store, "metadata": metadata, "store_data_equal_to_fill_value": True}
    ts.open(spec, create=True).result().write(cells).result()
