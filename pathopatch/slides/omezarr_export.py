"""Write OME-Zarr images for other viewers: their attributes and codecs, and a whole slide as a pyramid."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Literal

import numpy as np
import zarr
from numcodecs import Blosc
from numpy.typing import NDArray
from zarr.codecs import BloscCodec, ZstdCodec

from pathopatch.core.artefacts import Stamp, artefact, fingerprint, fingerprint_file
from pathopatch.core.errors import InputUnsupportedError
from pathopatch.core.files import atomic_path
from pathopatch.slides.resample import Pixels
from pathopatch.slides.slide import Slide

Version = Literal["0.4", "0.5"]
"""OME-Zarr 0.4 stands on Zarr v2, 0.5 on Zarr v3."""

_TILE_PX = 1024  # a shard of 0.5, a chunk of 0.4
_CHUNK_PX = 512  # inside a shard
_TILE_BYTES = 256 * 2**20  # a tile's sums at most
_SMALLEST_LEVEL_PX = 512  # an image whose longest side is at most this needs no coarser level
_OURS = "pathopatch"
_COLOURS = {"R": "FF0000", "G": "00FF00", "B": "0000FF"}


def export_ome_zarr(
    slide: Slide,
    path: Path,
    *,
    version: Version,
    name: str,
    windows: NDArray[np.float64],
    force: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> bool:
    """Write a slide as an OME-Zarr pyramid, through a temporary name; return False if it was there already.

    Every pixel of a level is the exact mean of the level-0 area that it covers. Memory does not grow with the slide.

    Parameters
    ----------
    slide : Slide
        An open slide.
    path : Path
        The folder to write.
    version : {"0.4", "0.5"}
        Of OME-Zarr.
    name : str
        Of the image.
    windows : ndarray of float64, shape (C, 2)
        Intensities that a viewer shows as black and as full.
    force : bool
        Redo an export of something else.
    progress : callable, optional
        Called with (tiles done, tiles in all).

    Raises
    ------
    MppMissingError
        The slide's mpp is unknown.
    StaleArtefactError
        An export of another slide, version or package stands there, and `force` is off.
    InputUnsupportedError
        Something that this function did not write stands there, or the slide itself does.
    InputCorruptError, DiskFullError
        The slide cannot be decoded, or no space was left.
    """
    sources = slide.source.values() if isinstance(slide.source, dict) else [slide.source]
    settings = {
        "version": version,
        "name": name,
        "channels": slide.channels,
        "mpp": slide.mpp,
        "background": slide.background,
        "windows": windows.tolist(),
    }
    inputs = {f"slide {index}": fingerprint_file(part) for index, part in enumerate(slide.paths)}
    # With what is chosen of each file: two pages of one file are two slides.
    inputs["parts"] = fingerprint([Path(source).name for source in sources])
    stamp = Stamp(stage="export ome-zarr", settings=settings, inputs=inputs)
    existing = _stamp_of_export(slide, path)
    with artefact(path, stamp=stamp, force=force, existing=[existing]) as made:
        if made.is_current:
            return False
        with atomic_path(path) as temporary:
            group = zarr.create_group(temporary, zarr_format=2 if version == "0.4" else 3)
            pyramid = _Pyramid(slide, group, version, progress)
            pyramid.write()
            factors = [(float(n), float(n)) for n in pyramid.downsamples]
            (image,) = multiscales(name, ("c", "y", "x"), factors, (slide.mpp, slide.mpp))
            attributes = image_attributes([{**image, "type": "mean"}], slide.channels, windows, version=version)
            group.attrs.put({**attributes, _OURS: {"stamp": stamp.to_dict()}})
    return True


def _stamp_of_export(slide: Slide, path: Path) -> Stamp | None:
    """Return the stamp of the export that stands at a path; refuse to touch anything else."""
    place = path.resolve()
    # Replacing the folder would delete the slide that is being read.
    if any(place == part.resolve() or place in part.resolve().parents for part in slide.paths):
        raise InputUnsupportedError("the slide itself stands there", place=str(path), remedy="choose another folder")
    if not path.exists():
        return None
    ours: Any = None
    with suppress(FileNotFoundError, ValueError, KeyError):
        ours = zarr.open_group(path, mode="r").attrs.get(_OURS)
    if not isinstance(ours, dict) or "stamp" not in ours:
        what = "something that is no export stands there"
        raise InputUnsupportedError(what, place=str(path), remedy="choose another folder")
    return Stamp.from_dict(ours["stamp"])


class _Pyramid:
    """The arrays of all levels while they are written."""

    def __init__(
        self, slide: Slide, group: zarr.Group, version: Version, progress: Callable[[int, int], None] | None
    ) -> None:
        self.slide, self.progress = slide, progress
        halvings = max(0, math.ceil(math.log2(max(slide.size) / _SMALLEST_LEVEL_PX)))
        self.downsamples = [2**level for level in range(halvings + 1)]
        self.tile_px, self.sum_dtype = _TILE_PX, _sum_dtype(slide.dtype, self.downsamples[-1])
        pixel_bytes = len(slide.channels) * self.sum_dtype.itemsize
        while pixel_bytes * self.tile_px**2 > _TILE_BYTES and self.tile_px > _CHUNK_PX:
            self.tile_px //= 2
        self.arrays = [
            _create(group, str(level), (len(slide.channels), *self.size(level)), slide.dtype, version, self.tile_px)
            for level in range(len(self.downsamples))
        ]
        self.tiles, self.done = math.prod(-(-side // self.tile_px) for side in slide.size), 0

    def size(self, level: int) -> tuple[int, int]:
        """Return height and width of a level, px; the last pixel may overhang."""
        width, height = self.slide.size
        return -(-height // self.downsamples[level]), -(-width // self.downsamples[level])

    def write(self) -> None:
        """Write all levels, tile by tile of the coarsest."""
        top = len(self.downsamples) - 1
        height, width = self.size(top)
        for row in range(-(-height // self.tile_px)):
            for column in range(-(-width // self.tile_px)):
                self._write_tile(top, row, column)

    def _write_tile(self, level: int, row: int, column: int) -> NDArray[Any]:
        """Write one tile of a level and all below it; return the sums of level-0 pixels in each of its pixels."""
        height, width = self.size(level)
        top, left = row * self.tile_px, column * self.tile_px
        bottom, right = min(top + self.tile_px, height), min(left + self.tile_px, width)
        area = np.s_[:, top:bottom, left:right]
        if level == 0:
            pixels = self.slide.read_region(left, top, right - left, bottom - top)
            self.arrays[0][area] = pixels
            self.done += 1
            if self.progress is not None:
                self.progress(self.done, self.tiles)
            return pixels.astype(self.sum_dtype)
        # Four finer tiles come before their parent, so that every shard is written once and whole. Sums and not means
        # are handed up: a mean of rounded means would be off, and odd edges would weigh too much.
        sums = np.zeros((len(self.slide.channels), bottom - top, right - left), self.sum_dtype)
        half = self.tile_px // 2
        for down in range(2):
            for across in range(2):
                part = sums[:, down * half : (down + 1) * half, across * half : (across + 1) * half]
                if part.size:
                    part[:] = _paired(self._write_tile(level - 1, 2 * row + down, 2 * column + across))
        # How many level-0 rows and columns each row and column of the level covers.
        step = self.downsamples[level]
        rows, columns = (
            np.minimum(np.arange(first + 1, last + 1) * step, whole) - np.arange(first, last) * step
            for first, last, whole in ((top, bottom, self.slide.size[1]), (left, right, self.slide.size[0]))
        )
        self.arrays[level][area] = _mean(sums, rows[:, None] * columns, self.slide.dtype)
        return sums


def _create(
    group: zarr.Group, name: str, shape: tuple[int, ...], dtype: np.dtype[np.generic], version: Version, tile_px: int
) -> Any:
    """Return a new array: chunks in shards for 0.5, a file per chunk for 0.4."""
    layout: dict[str, Any]
    if version == "0.4":
        layout = {
            "chunks": (1, tile_px, tile_px),
            "compressors": [compressor_v2(dtype)],
            "chunk_key_encoding": {"name": "v2", "separator": "/"},
        }
    else:
        layout = {
            "chunks": (1, _CHUNK_PX, _CHUNK_PX),
            "shards": (shape[0], tile_px, tile_px),
            "compressors": [compressor(dtype)],
            "dimension_names": ("c", "y", "x"),
        }
    return group.create_array(name, shape=shape, dtype=dtype, fill_value=0, **layout)


def _sum_dtype(dtype: np.dtype[np.generic], downsample: int) -> np.dtype[Any]:
    """Return the smallest type that holds the sum over the coarsest pixel exactly (floats: as float64)."""
    if dtype.kind == "f":
        return np.dtype(np.float64)
    limits = np.iinfo(str(dtype))
    largest = max(limits.max, -limits.min) * downsample**2
    small, large = (np.int32, np.int64) if limits.min < 0 else (np.uint32, np.uint64)
    return np.dtype(small if largest <= np.iinfo(small).max else large)


def _paired(sums: NDArray[Any]) -> NDArray[Any]:
    """Return the sums over blocks of 2 x 2; the odd last row or column stands alone."""
    _, height, width = sums.shape
    if height % 2 or width % 2:
        sums = np.pad(sums, ((0, 0), (0, height % 2), (0, width % 2)))
    down = sums[:, 0::2] + sums[:, 1::2]
    return np.asarray(down[:, :, 0::2] + down[:, :, 1::2])


def _mean(sums: NDArray[Any], counts: NDArray[np.int64], dtype: np.dtype[np.generic]) -> Pixels:
    """Return sums divided by counts, rounded where the type is an integer one."""
    out = np.empty(sums.shape, dtype)
    # Channel by channel, so that only one plane of float64 is in memory.
    for channel, plane in zip(out, sums, strict=True):
        mean = plane / counts
        channel[:] = np.rint(mean) if dtype.kind in "iu" else mean
    return out


def multiscales(
    name: str,
    axes: Sequence[str],
    levels: Sequence[tuple[float, float]],
    um_per_px: tuple[float, float],
    *,
    over_um: tuple[float, float] | None = None,
) -> list[dict[str, Any]]:
    """Return OME-Zarr's description of a pyramid.

    Parameters
    ----------
    name : str
        Of the image.
    axes : sequence of str
        Of ``c``, ``y``, ``x``; the last two are y and x.
    levels : sequence of (float, float)
        Downsample of each level, (x, y).
    um_per_px : (float, float)
        (x, y) micrometres per px of the first level.
    over_um : (float, float), optional
        The same of another image, over which this one lies with the same corner: the centre of that one's first pixel
        is the origin. If not given, the origin is the centre of this one's.
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
    pyramid: list[dict[str, Any]], channels: Sequence[str], windows: NDArray[np.float64], *, version: Version
) -> dict[str, Any]:
    """Return the attributes of an image's group.

    Parameters
    ----------
    pyramid : list of dict
        From `multiscales`.
    channels : sequence of str
        Names.
    windows : ndarray of float64, shape (C, 2)
        Intensities that a viewer shows as black and as full.
    version : {"0.4", "0.5"}
        Of OME-Zarr.
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
    omero = {"channels": shown_channels}
    if version == "0.4":
        return {"multiscales": [{**image, "version": version} for image in pyramid], "omero": omero}
    return {"ome": {"version": version, "multiscales": pyramid, "omero": omero}}


def compressor(dtype: np.dtype[np.generic]) -> ZstdCodec | BloscCodec:
    """Return the Zarr v3 codec that fits a sample type."""
    if dtype.itemsize == 1:
        return ZstdCodec(level=1)
    # The high bytes of neighbouring pixels are mostly equal, so shuffled bits compress well.
    return BloscCodec(cname="lz4", clevel=5, shuffle="bitshuffle", typesize=dtype.itemsize)


def compressor_v2(dtype: np.dtype[np.generic]) -> Blosc:
    """Return the Zarr v2 codec of the same kind."""
    # Every reader of Zarr v2 knows the container Blosc; plain zstd is newer.
    if dtype.itemsize == 1:
        return Blosc(cname="zstd", clevel=1, shuffle=Blosc.NOSHUFFLE)
    return Blosc(cname="lz4", clevel=5, shuffle=Blosc.BITSHUFFLE)
