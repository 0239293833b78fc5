"""What does an OME-Zarr folder say of its image? Axes, levels, scales and channel names; no pixel is read.

Versions 0.4 (Zarr v2) and 0.5 (Zarr v3).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pathopatch.core.errors import InputMissingError
from pathopatch.slides.omezarr_arrays import ZarrArray, read_array
from pathopatch.slides.omezarr_json import corrupt, read_list, read_object, unsupported
from pathopatch.slides.omezarr_levels import level_resolution, level_scale, levels_of_field
from pathopatch.slides.resolution import Level, Resolution


@dataclass(frozen=True)
class ImageFacts:
    """An image as its metadata describe it.

    Parameters
    ----------
    axes : tuple of str
        Names in order; ``y`` and ``x`` are among them, ``c`` may be, all others have length 1.
    arrays : tuple of ZarrArray
        One a level, finest first.
    levels : tuple of Level
        Their sizes.
    resolution : Resolution
        Of level 0.
    channels : tuple of str
        One name per plane along ``c``.
    """

    axes: tuple[str, ...]
    arrays: tuple[ZarrArray, ...]
    levels: tuple[Level, ...]
    resolution: Resolution
    channels: tuple[str, ...]


def read_image(folder: Path) -> ImageFacts:
    """Return what the metadata of an OME-Zarr image say.

    Parameters
    ----------
    folder : Path
        The image's group. A collection that holds a single image stands for that image.

    Raises
    ------
    InputMissingError
        The folder holds no Zarr group.
    InputCorruptError
        Metadata cannot be read, contradict each other, or name a level that is not there.
    InputTooLargeError
        A level claims more pixels than its bytes could hold, or chunks that do not fit into memory.
    InputUnsupportedError
        It is another version, several images, a plate, or its axes or sample type are not read.
    """
    attributes = _ome(folder)
    chosen = _single_image(folder, attributes)
    if chosen != folder:
        folder, attributes = chosen, _ome(chosen)
    multiscale = _only_multiscale(folder, attributes)
    axes = read_list(multiscale, "axes", folder)
    if not all(isinstance(axis, dict) and isinstance(axis.get("name"), str) for axis in axes):
        raise corrupt(folder, f"its axes are {axes!r}")
    names = tuple(str(axis["name"]) for axis in axes)
    datasets = read_list(multiscale, "datasets", folder)
    if not datasets:
        raise corrupt(folder, "it lists no level")
    arrays = tuple(read_array(folder, dataset) for dataset in datasets)
    _check_axes(folder, names, arrays[0].shape)
    scales = [level_scale(folder, multiscale, dataset, len(names)) for dataset in datasets]
    levels, kept = levels_of_field(names, arrays, scales)
    return ImageFacts(
        axes=names,
        arrays=tuple(arrays[index] for index in kept),
        levels=levels,
        resolution=level_resolution(names, axes, scales[0]),
        channels=_channel_names(attributes, arrays[0].shape[names.index("c")] if "c" in names else 1),
    )


def _ome(folder: Path) -> dict[str, Any]:
    """Return a group's OME metadata, of either version, with the version they are of."""
    if (folder / "zarr.json").is_file():
        found = read_object(folder / "zarr.json")
        if found.get("node_type") == "array":
            raise unsupported(folder, "it is one array, not an image", f"name the image's folder: {folder.parent}")
        attributes = found.get("attributes")
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
        ome = read_object(folder / ".zattrs")
        for entry in read_list(ome, "multiscales", folder) if ome.get("multiscales") else []:
            version = str(entry.get("version", "0.4")) if isinstance(entry, dict) else "missing"
            if version != "0.4":
                raise unsupported(folder, f"OME-Zarr version {version} on Zarr v2", "convert it to version 0.4 or 0.5")
        return ome
    raise InputMissingError(
        "a folder without zarr.json or .zattrs", place=str(folder), remedy="name a file, or an OME-Zarr image's folder"
    )


def _single_image(folder: Path, ome: dict[str, Any]) -> Path:
    """Return the folder of the image; refuse collections in which it is not clear which one is meant."""
    if "plate" in ome or "well" in ome:
        kind = "plate" if "plate" in ome else "well"
        remedy = f"name one field's folder, such as {folder / ('A/1/0' if kind == 'plate' else '0')}"
        raise unsupported(folder, f"a {kind} of many images", remedy)
    if "multiscales" in ome:
        return folder
    if "bioformats2raw.layout" not in ome:
        raise unsupported(folder, "no image in this group", "name the folder of an OME-Zarr image")
    images = sorted((path for path in folder.iterdir() if path.name.isdigit()), key=lambda path: int(path.name))
    if len(images) == 1:
        return images[0]
    said = ", ".join(path.name for path in images) or "none"
    raise unsupported(
        folder, f"{len(images)} images: {said}", f"name the folder of one of them, such as {folder / '0'}"
    )


def _only_multiscale(folder: Path, ome: dict[str, Any]) -> dict[str, Any]:
    """Return the description of the one pyramid."""
    found = read_list(ome, "multiscales", folder)
    if len(found) != 1:
        raise unsupported(folder, f"{len(found)} multiscale images in one group", "write one image per group")
    if not isinstance(found[0], dict):
        raise corrupt(folder, "its multiscales are not objects")
    return found[0]


def _check_axes(folder: Path, names: Sequence[str], shape: Sequence[int]) -> None:
    """Refuse axes that are not one plane of channels; the message prints them."""
    said = ", ".join(f"{name}={n}" for name, n in zip(names, shape, strict=False))
    if len(names) != len(shape):
        raise corrupt(folder, f"{len(names)} axes ({', '.join(names)}) for an array of {len(shape)} dimensions")
    if sorted(name for name in names if name in "yx") != ["x", "y"] or len(set(names)) != len(names):
        raise unsupported(folder, f"axes {said}", "write an image with one axis y and one axis x")
    if extra := [name for name, n in zip(names, shape, strict=True) if name not in ("c", "y", "x") and n != 1]:
        raise unsupported(
            folder, f"axes {said}: {', '.join(extra)} longer than 1", "write one section of one time point"
        )


def _channel_names(ome: dict[str, Any], count: int) -> tuple[str, ...]:
    """Return the labels that the image carries for a viewer, if they name each plane; else C0, C1 and so on."""
    omero = ome.get("omero")
    channels = omero.get("channels") if isinstance(omero, dict) else None
    if isinstance(channels, list):
        labels = [str(each.get("label") or "") if isinstance(each, dict) else "" for each in channels]
        if len(labels) == count and all(labels) and len(set(labels)) == count:
            return tuple(labels)
    return tuple(f"C{index}" for index in range(count))
