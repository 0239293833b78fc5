"""Metadata of an OME-Zarr image, version 0.4 (Zarr v2) or 0.5 (Zarr v3): axes, levels, scales, channel names.

No pixel is read, and each number is checked before anything is allocated for it. What is written is 0.5 on Zarr v3.
"""

# Why not ome-zarr-models: it refuses channels on the last axis and arrays of 0.5 without dimension names, which are
# read here. It accepts shapes and chunks that no memory holds, and codecs that tensorstore does not decode.

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pathopatch.core.errors import InputMissingError, PathopatchError
from pathopatch.slides.integrity import DECODING_ERRORS, corrupt, too_large, unsupported
from pathopatch.slides.resample import is_same_field, nominal_downsample
from pathopatch.slides.resolution import DTYPES, UNSTATED, Level, Resolution, resolution, um_per

OME_VERSION = "0.5"  # of images that are written
_COLOURS = {"R": "FF0000", "G": "00FF00", "B": "0000FF"}
_MAX_CHUNK_BYTES = 2**30  # one chunk is decoded as a whole
_MAX_COMPRESSION = 100_000  # bytes of pixels per byte on disk
_HARMLESS_BYTES = 2**30  # blank chunks need not be stored, so a small empty image may have next to no bytes
_SIZE_SLACK_PX = 1.0  # writers drop or add the odd pixel of a halved side
_TRANSFORMS = "coordinateTransformations"
_SCALE = "the OME-Zarr scale"
_CODECS = (
    {"blosc", "bz2", "gzip", "zlib", "zstd"},
    {"blosc", "bytes", "crc32c", "gzip", "sharding_indexed", "transpose", "zstd"},
)
"""Codecs that tensorstore decodes, of Zarr v2 and v3."""


@dataclass(frozen=True)
class ZarrArray:
    """One level's array."""

    folder: Path
    driver: str  # tensorstore's name of the format: zarr (v2) or zarr3
    shape: tuple[int, ...]  # along the image's axes
    chunks: tuple[int, ...]  # of a sharded array, those inside the shards
    stored: tuple[int, ...]  # along them, the pixels of one file: of a sharded array those of a shard
    dtype: np.dtype[np.generic]  # native byte order


@dataclass(frozen=True)
class ImageMetadata:
    """An image as its metadata describe it."""

    axes: tuple[str, ...]  # in order; y and x are among them, c may be, all others have length 1
    arrays: tuple[ZarrArray, ...]  # one a level, finest first
    levels: tuple[Level, ...]
    resolution: Resolution
    channels: tuple[str, ...]  # one name per plane along c


def read_image_metadata(folder: Path) -> ImageMetadata:
    """Return the metadata of the OME-Zarr image in a folder; of a collection, its single image."""
    ome = _ome_attributes(folder)
    image_folder = _single_image(folder, ome)
    if image_folder != folder:
        folder, ome = image_folder, _ome_attributes(image_folder)
    multiscales = _list(ome, "multiscales", folder)
    if len(multiscales) != 1:
        raise unsupported(folder, f"{len(multiscales)} multiscale images in one group", "write one image per group")
    (multiscale,) = multiscales
    if not isinstance(multiscale, dict):
        raise corrupt(folder, "its multiscales are not objects")
    axes = _list(multiscale, "axes", folder)
    if not all(isinstance(axis, dict) and isinstance(axis.get("name"), str) for axis in axes):
        raise corrupt(folder, f"its axes are {axes!r}")
    names = tuple(str(axis["name"]) for axis in axes)
    datasets = _list(multiscale, "datasets", folder)
    if not datasets:
        raise corrupt(folder, "it lists no level")
    arrays = tuple(_read_array(folder, dataset) for dataset in datasets)
    _check_axes(folder, names, arrays[0].shape)
    scales = [_level_scale(folder, multiscale, dataset, len(names)) for dataset in datasets]
    levels = _levels_of_one_field(names, arrays, scales)
    return ImageMetadata(
        axes=names,
        arrays=arrays[: len(levels)],
        levels=levels,
        resolution=_resolution(names, axes, scales[0]),
        channels=_channel_names(ome, arrays[0].shape[names.index("c")] if "c" in names else 1),
    )


def _ome_attributes(folder: Path) -> dict[str, Any]:
    """Return a group's OME attributes; both versions hold them under the same keys."""
    if (folder / "zarr.json").is_file():
        metadata = _read_object(folder / "zarr.json")
        if metadata.get("node_type") == "array":
            raise unsupported(folder, "it is one array, not an image", f"name the image's folder: {folder.parent}")
        attributes = metadata.get("attributes")
        ome = attributes.get("ome") if isinstance(attributes, dict) else None
        if not isinstance(ome, dict):
            if (folder / "overview" / "zarr.json").is_file():
                raise unsupported(folder, "it is a store of patches", f"name its overview: {folder / 'overview'}")
            raise unsupported(folder, "a Zarr group without OME metadata", "name the folder of an OME-Zarr image")
        version = str(ome.get("version", "missing"))
        if version != "0.5":
            raise unsupported(folder, f"OME-Zarr version {version} on Zarr v3", "convert it to version 0.5")
        return ome
    if (folder / ".zattrs").is_file():
        ome = _read_object(folder / ".zattrs")
        for entry in _list(ome, "multiscales", folder) if ome.get("multiscales") else []:
            # Version 0.4 only recommends to state the version.
            version = str(entry.get("version", "0.4")) if isinstance(entry, dict) else "missing"
            if version != "0.4":
                raise unsupported(folder, f"OME-Zarr version {version} on Zarr v2", "convert it to version 0.4 or 0.5")
        return ome
    raise InputMissingError(
        "a folder without zarr.json or .zattrs", place=str(folder), remedy="name a file, or an OME-Zarr image's folder"
    )


def _single_image(folder: Path, ome: dict[str, Any]) -> Path:
    """Return the folder of the image; refuse a collection of several."""
    for kind, field in (("plate", "A/1/0"), ("well", "0")):
        if kind in ome:
            raise unsupported(folder, f"a {kind} of many images", f"name one field's folder, such as {folder / field}")
    if "multiscales" in ome:
        return folder
    if "bioformats2raw.layout" not in ome:
        raise unsupported(folder, "no image in this group", "name the folder of an OME-Zarr image")
    images = sorted((path for path in folder.iterdir() if path.name.isdigit()), key=lambda path: int(path.name))
    if len(images) == 1:
        return images[0]
    names = ", ".join(path.name for path in images) or "none"
    remedy = f"name the folder of one of them, such as {folder / '0'}"
    raise unsupported(folder, f"{len(images)} images: {names}", remedy)


def _check_axes(folder: Path, names: Sequence[str], shape: Sequence[int]) -> None:
    """Refuse axes that are not one plane of channels; the message prints them."""
    lengths = ", ".join(f"{name}={n}" for name, n in zip(names, shape, strict=False))
    if len(names) != len(shape):
        raise corrupt(folder, f"{len(names)} axes ({', '.join(names)}) for an array of {len(shape)} dimensions")
    if sorted(name for name in names if name in "yx") != ["x", "y"] or len(set(names)) != len(names):
        raise unsupported(folder, f"axes {lengths}", "write an image with one axis y and one axis x")
    if extra := [name for name, n in zip(names, shape, strict=True) if name not in ("c", "y", "x") and n != 1]:
        what = f"axes {lengths}: {', '.join(extra)} longer than 1"
        raise unsupported(folder, what, "write one section of one time point")


def _channel_names(ome: dict[str, Any], count: int) -> tuple[str, ...]:
    """Return the labels that viewers show, if they name each plane; else C0, C1 and so on."""
    omero = ome.get("omero")
    channels = omero.get("channels") if isinstance(omero, dict) else None
    if isinstance(channels, list):
        labels = [str(entry.get("label") or "") if isinstance(entry, dict) else "" for entry in channels]
        if len(labels) == count and all(labels) and len(set(labels)) == count:
            return tuple(labels)
    return tuple(f"C{index}" for index in range(count))


def _level_scale(
    folder: Path, multiscale: dict[str, Any], dataset: dict[str, Any], axis_count: int
) -> tuple[float, ...] | None:
    """Return a level's size of a pixel along each axis, in the axes' units; None if it is not stated."""
    scales: list[list[float]] = []
    # A scale of the whole image applies after that of the level, so both are multiplied.
    transforms = [*(dataset.get(_TRANSFORMS) or []), *(multiscale.get(_TRANSFORMS) or [])]
    for transform in transforms:
        if isinstance(transform, dict) and transform.get("type") == "scale":
            values: Any = transform.get("scale")
            # JSON's true and false are integers to Python.
            is_numbers = isinstance(values, list) and all(type(value) in (int, float) for value in values)
            if not is_numbers or len(values) != axis_count:
                raise corrupt(folder, f"a scale of {values!r} for {axis_count} axes")
            scales.append([float(value) for value in values])
    return tuple(prod(factors) for factors in zip(*scales, strict=True)) if scales else None


def _levels_of_one_field(
    names: Sequence[str], arrays: Sequence[ZarrArray], scales: Sequence[tuple[float, ...] | None]
) -> tuple[Level, ...]:
    """Return the levels that show the same field as the first, up to the first array that does not."""
    y, x = names.index("y"), names.index("x")
    other_axes = [axis for axis in range(len(names)) if axis not in (y, x)]
    first = arrays[0]
    size = first.shape[x], first.shape[y]
    levels = [Level(*size, 1.0)]
    # What follows the first array that does not fit would have another meaning.
    for array, scale in zip(arrays[1:], scales[1:], strict=True):
        is_same_kind = array.dtype == first.dtype and len(array.shape) == len(first.shape)
        if not is_same_kind or any(array.shape[axis] != first.shape[axis] for axis in other_axes):
            break
        level_size = array.shape[x], array.shape[y]
        downsample = _stated_downsample(scales[0], scale, size, level_size, (x, y))
        if downsample is None:
            if not is_same_field(size, level_size):
                break
            downsample = nominal_downsample(size, level_size)
        if downsample < levels[-1].downsample:
            break
        levels.append(Level(*level_size, downsample))
    return tuple(levels)


def _stated_downsample(
    first: tuple[float, ...] | None,
    other: tuple[float, ...] | None,
    size: tuple[int, int],
    level_size: tuple[int, int],
    places: tuple[int, int],
) -> float | None:
    """Return the downsample that the scales state; None where the sizes contradict it by over a pixel."""
    if first is None or other is None or min(first[place] for place in places) <= 0:
        return None
    ratios = [other[place] / first[place] for place in places]
    for ratio, whole, part in zip(ratios, size, level_size, strict=True):
        if not ratio > 0 or abs(whole / ratio - part) > _SIZE_SLACK_PX:
            return None
    return sum(ratios) / 2


def _resolution(names: Sequence[str], axes: Sequence[dict[str, Any]], scale: tuple[float, ...] | None) -> Resolution:
    """Return the resolution that a level's scale states, in the units of the axes."""
    if scale is None:
        return UNSTATED
    um = []
    for axis in "xy":
        value, unit = scale[names.index(axis)], axes[names.index(axis)].get("unit")
        # The format does not require a unit; a bare number states no length.
        if unit is None:
            return Resolution(None, f"{_SCALE} gives {value:g} without a unit")
        um_per_unit = um_per(str(unit))
        if um_per_unit is None:
            return Resolution(None, f"{_SCALE} is in the unit {unit!r}, which is not one of length")
        um.append(value * um_per_unit)
    return resolution(um[0], um[1], source=_SCALE)


def _read_array(folder: Path, dataset: Any) -> ZarrArray:
    """Return one level's array, checked."""
    path = dataset.get("path") if isinstance(dataset, dict) else None
    # A path from the file must not lead out of the image's folder.
    if not isinstance(path, str) or not (folder / path).resolve().is_relative_to(folder.resolve()):
        raise corrupt(folder, f"a level's path is {path!r}")
    from zarr.core.metadata import ArrayV2Metadata, ArrayV3Metadata  # here: what writes alone does without it

    place = folder / path
    is_v3 = (place / "zarr.json").is_file()
    if not is_v3 and not (place / ".zarray").is_file():
        raise corrupt(folder, f"level {path!r} is listed and not there")
    stated = _read_object(place / ("zarr.json" if is_v3 else ".zarray"))
    if filters := stated.get("filters"):
        raise unsupported(place, f"filters {filters!r}", "write the image without filters")
    metadata: ArrayV3Metadata | ArrayV2Metadata
    try:
        _require_known_codecs(place, stated, is_v3=is_v3)
        # Version 0.4 may state an empty list of filters, of which zarr-python warns.
        metadata = (
            ArrayV3Metadata.from_dict(stated) if is_v3 else ArrayV2Metadata.from_dict({**stated, "filters": None})
        )
        array = ZarrArray(
            place,
            "zarr3" if is_v3 else "zarr",
            metadata.shape,
            metadata.chunks,
            metadata.shards or metadata.chunks,
            metadata.dtype.to_native_dtype().newbyteorder("="),
        )
    except PathopatchError:
        raise
    except (*DECODING_ERRORS, AttributeError) as error:
        raise corrupt(place, f"its array's metadata cannot be read: {error!r}") from error
    sizes = array.shape, array.chunks, array.stored
    if len(set(map(len, sizes))) > 1 or min(chain(*sizes), default=0) < 1:
        raise corrupt(place, f"chunks {array.stored} for a shape {array.shape}")
    if array.dtype not in DTYPES:
        allowed = ", ".join(dtype.name for dtype in DTYPES)
        raise unsupported(place, f"samples are {array.dtype.name}", f"convert them to one of {allowed}")
    _check_claim(array)
    return array


def _require_known_codecs(place: Path, stated: dict[str, Any], *, is_v3: bool) -> None:
    """Refuse an array with codecs that are not read."""
    if is_v3:
        inner = [codec["configuration"]["codecs"] for codec in stated["codecs"] if codec["name"] == "sharding_indexed"]
        names = [codec["name"] for codec in chain(*inner, stated["codecs"])]
    else:
        names = [stated["compressor"]["id"]] if stated.get("compressor") else []
    if unknown := sorted(set(names) - _CODECS[is_v3]):
        allowed = ", ".join(sorted(_CODECS[is_v3]))
        raise unsupported(place, f"compressed by {', '.join(unknown)}", f"write it with codecs of {allowed}")


def _check_claim(array: ZarrArray) -> None:
    """Refuse an array that cannot be read in bounded memory, or that claims far more than is stored."""
    itemsize = array.dtype.itemsize
    claimed, chunk = prod(array.shape) * itemsize, prod(array.chunks) * itemsize
    shape = " x ".join(map(str, array.shape))
    if chunk > _MAX_CHUNK_BYTES:
        chunks = " x ".join(map(str, array.chunks))
        what = f"chunks of {chunks} px ({chunk} bytes) in an array of {shape} px"
        raise too_large(array.folder, what, "write it in chunks of at most 1 GiB")
    if claimed <= _HARMLESS_BYTES:
        return
    stored = 0
    # Stops as soon as enough bytes are seen: a slide may have one file per chunk.
    for _, file in files_below(array.folder):
        stored += file.stat().st_size
        if claimed <= _MAX_COMPRESSION * stored:
            return
    what = f"{shape} px ({claimed} bytes) are claimed by a folder of {stored} bytes"
    raise too_large(array.folder, what, "copy the folder again from its source, or leave it out")


def files_below(folder: Path, prefix: str = "") -> Iterator[tuple[str, os.DirEntry[str]]]:
    """Yield each file below a folder, with its path in it."""
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.is_dir():
                yield from files_below(Path(entry.path), f"{prefix}{entry.name}/")
            else:
                yield prefix + entry.name, entry


def _read_object(path: Path) -> dict[str, Any]:
    """Return a metadata file."""
    try:
        value = json.loads(path.read_text(encoding="utf-8-sig"))
    except (ValueError, RecursionError) as error:
        raise corrupt(path, f"not JSON: {error}") from error
    if not isinstance(value, dict):
        raise corrupt(path, "not a JSON object")
    return value


def _list(metadata: dict[str, Any], key: str, folder: Path) -> list[Any]:
    value = metadata.get(key)
    if not isinstance(value, list):
        raise corrupt(folder, f"its {key} are {value!r}")
    return value


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
