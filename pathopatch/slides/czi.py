"""Read Zeiss CZI files by pylibCZIrw: brightfield and fluorescence, mosaics and pyramids."""

from __future__ import annotations

import os
import xml.etree.ElementTree as ET
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Unpack

import numpy as np
from numpy.typing import NDArray

from pathopatch.core.errors import PathopatchError
from pathopatch.slides.integrity import DECODING_ERRORS, OpenedFile, corrupt, unsupported
from pathopatch.slides.resample import PixelsAndOpacity
from pathopatch.slides.resolution import RGB, UNSTATED, Level, Resolution, SlideFacts, resolution
from pathopatch.slides.slide import Slide
from pathopatch.slides.slide_file import SlideOptions, plane_slice
from pathopatch.slides.slide_paths import WHOLE_FILE, Fragment

_DTYPES = {"Gray8": "uint8", "Gray16": "uint16", "Gray32Float": "float32", "Bgr24": "uint8", "Bgr48": "uint16"}
_COLOURS = ("Bgr24", "Bgr48")
_CACHE_BYTES = 256 * 2**20  # decoded blocks that libCZI keeps: a row of patches decodes each once
_SAME_ZOOM = 0.02  # blocks of a pyramid are rounded to whole pixels
CZI_SIGNATURE = b"ZISRAWFILE"
"""First bytes of a CZI file."""
_EXPORT = 'or export an OME-TIFF in ZEN ("Processing > OME TIFF-Export")'


@dataclass(frozen=True)
class _Contents:
    """Facts of a file, as far as it is read."""

    corner: tuple[int, int]  # left and top edge of the slide among the file's coordinates
    position: dict[str, int]  # of the chosen plane on the axes Z and T, as the file counts
    types: list[str]  # pixel type of each channel, by the library's names
    channels: tuple[int, ...]  # the file's numbers of the channels
    blocks: NDArray[np.int64]  # (N, 5): channel, left, top, right, bottom edge of each block of full resolution
    downsamples: tuple[int, ...]  # of each level
    size: tuple[int, int]  # width and height, px


class CziSlide(Slide):
    """A slide in a CZI file: the box around all scenes; pixels that no block covers were not scanned.

    A position on the axes Z and T must be chosen where there are several; a file has no pages.
    """

    def __init__(self, path: Path, *, choice: Fragment = WHOLE_FILE, **options: Unpack[SlideOptions]) -> None:
        self._path = path
        self._files = (OpenedFile.of(path),)
        self._handle: Any = None
        self._pid = -1
        if choice.page is not None:
            raise unsupported(path, f"{path.name} has no pages to choose from", "leave #page= out")
        try:
            reader = self._open()
            self._contents = _contents(reader, path, choice)
            described = ET.fromstring(reader.raw_metadata)
        except PathopatchError:
            raise
        except DECODING_ERRORS as error:
            raise corrupt(path, f"its structure cannot be read: {error}") from error
        self._is_colour = self._contents.types[0] in _COLOURS
        names = RGB if self._is_colour else _names(described, self._contents.channels)
        self._planes = plane_slice(path, names, choice.plane)
        width, height = self._contents.size
        facts = SlideFacts(
            channels=names[self._planes],
            dtype=np.dtype(_DTYPES[self._contents.types[0]]),
            levels=tuple(Level(width // step, height // step, float(step)) for step in self._contents.downsamples),
            resolution=_resolution(described),
            paths=(path,),
        )
        super().__init__(facts, {"path": path, "choice": choice}, files=self._files, **options)

    def _open(self) -> Any:
        """Return this process's handle; one of another process must not be shared."""
        if self._handle is None or self._pid != os.getpid():
            try:
                from pylibCZIrw import czi
            except ImportError as error:
                what = "a CZI file, and pylibCZIrw is not installed"
                raise unsupported(self._path, what, f"pip install pylibCZIrw, {_EXPORT}") from error
            cache = czi.CacheOptions(type=czi.CacheType.Standard, max_memory_usage=_CACHE_BYTES)
            self._handle, self._pid = czi.CziReader(str(self._path), cache_options=cache), os.getpid()
            self.require_unchanged()
        return self._handle

    def close(self) -> None:
        """Let go of the files; a later read opens them again."""
        if self._handle is not None and self._pid == os.getpid():
            self._handle.close()
        self._handle = None

    def _read_level(self, left: int, top: int, width: int, height: int, level: int) -> PixelsAndOpacity:
        step = self._contents.downsamples[level]
        x, y = self._contents.corner
        box = x + left * step, y + top * step, width * step, height * step
        numbers = self._contents.channels
        # Colour is one channel of the file, with three samples a pixel.
        file_channels = numbers[:1] if self._is_colour else numbers[self._planes]
        try:
            images = [
                np.asarray(self._open().read(roi=box, plane={"C": number, **self._contents.position}, zoom=1 / step))
                for number in file_channels
            ]
            for image in images:
                if image.shape[:2] != (height, width):
                    raise ValueError(f"{image.shape[1]} x {image.shape[0]} px were read instead of {width} x {height}")
        except PathopatchError:
            raise
        except DECODING_ERRORS as error:
            self.close()
            place = f"({left * step}, {top * step})"
            raise corrupt(self._path, f"level {level} cannot be decoded at {place}: {error}") from error
        covers = [_cover(self._contents.blocks, number, box, step) for number in file_channels]
        if self._is_colour:
            # Stored as blue, green, red.
            mixed = images[0][:, :, ::-1].transpose(2, 0, 1)
            pixels = np.ascontiguousarray(mixed[self._planes])
            return pixels, None if covers[0].all() else covers[0]
        pixels = np.stack([image[:, :, 0] for image in images])
        return pixels, None if all(cover.all() for cover in covers) else np.stack(covers)


def _contents(reader: Any, path: Path, choice: Fragment) -> _Contents:
    """Return what a file holds at the chosen position."""
    ranges = {axis: (int(low), int(high)) for axis, (low, high) in reader.total_bounding_box.items()}
    position = _position(ranges, path, choice)
    low, high = ranges.get("C", (0, 1))
    channels = tuple(range(low, high))
    types = [str(reader.get_channel_pixel_type(number)) for number in channels]
    if len(set(types)) > 1 or types[0] not in _DTYPES or (types[0] in _COLOURS and len(types) > 1):
        raise unsupported(
            path,
            f"channels of the pixel types {', '.join(types)}",
            f"read are one of {', '.join(_COLOURS)}, or any number of one of "
            f"{', '.join(name for name in _DTYPES if name not in _COLOURS)}: split the channels in ZEN, {_EXPORT}",
        )
    blocks: list[tuple[int, ...]] = []
    zooms: set[float] = set()

    def note(_: int, info: Any) -> bool:
        place = info.coordinate.to_dict()
        if all(place.get(axis, value) == value for axis, value in position.items()):
            zooms.add(round(float(info.get_zoom()), 4))
            box = info.logicalRect
            if info.get_zoom() > 1 - _SAME_ZOOM:
                blocks.append((int(place.get("C", low)), box.x, box.y, box.x + box.w, box.y + box.h))
        return True

    reader.enumerate_subblocks(note)
    corner = ranges["X"][0], ranges["Y"][0]
    size = ranges["X"][1] - corner[0], ranges["Y"][1] - corner[1]
    return _Contents(
        corner=corner,
        position=position,
        types=types,
        channels=channels,
        blocks=np.array(blocks, np.int64).reshape(-1, 5),
        downsamples=_downsamples(zooms, size),
        size=size,
    )


def _position(ranges: dict[str, tuple[int, int]], path: Path, choice: Fragment) -> dict[str, int]:
    """Return the position on the axes Z and T; refuse several on other axes, but channels, scenes and mosaics."""
    position = {}
    for axis, (low, high) in ranges.items():
        count, chosen = high - low, {"Z": choice.z, "T": choice.t}.get(axis)
        if axis in "ZT":
            name = axis.lower()
            if chosen is None and count > 1:
                what = f"{count} positions on the axis {axis}, and nothing says which is the slide"
                raise unsupported(path, what, f"choose one with #{name}=0 to #{name}={count - 1}")
            if chosen is not None and chosen >= count:
                raise unsupported(path, f"there is no {name} {chosen}", f"choose 0 to {count - 1}")
            position[axis] = low + (chosen or 0)
        elif axis not in "CXYSM" and count > 1:
            raise unsupported(path, f"{count} positions on the axis {axis}", f"split the file by it in ZEN, {_EXPORT}")
    return position


def _downsamples(zooms: set[float], size: tuple[int, int]) -> tuple[int, ...]:
    """Return the downsamples, powers of 2, that the file holds blocks of."""
    # For any other the library would skip pixels, not average them.
    downsamples = [1]
    while min(size) >= 2 * downsamples[-1] and any(abs(zoom * 2 * downsamples[-1] - 1) <= _SAME_ZOOM for zoom in zooms):
        downsamples.append(2 * downsamples[-1])
    return tuple(downsamples)


def _cover(blocks: NDArray[np.int64], channel: int, box: tuple[int, int, int, int], step: int) -> NDArray[np.uint8]:
    """Return the opacity (H, W) of a rectangle (left, top, width, height; px of the file): 255 where a block is."""
    left, top, width, height = box
    cover = np.zeros((height // step, width // step), np.uint8)
    edges = blocks[blocks[:, 0] == channel, 1:] - [left, top, left, top]
    inside = (edges[:, :2] < [width, height]).all(axis=1) & (edges[:, 2:] > 0).all(axis=1)
    for x0, y0, x1, y1 in np.maximum((edges[inside] + step // 2) // step, 0).tolist():
        cover[y0:y1, x0:x1] = 255
    return cover


def _names(described: ET.Element, channels: tuple[int, ...]) -> tuple[str, ...]:
    """Return the channels' names in the metadata, if they name each once; else C0, C1 and so on."""
    elements = described.findall(".//Information/Image/Dimensions/Channels/Channel")
    names = tuple((element.get("Name") or "").strip() for element in elements)
    is_named = len(names) == len(channels) == len(set(names)) and all(names)
    return names if is_named else tuple(f"C{number}" for number in range(len(channels)))


def _resolution(described: ET.Element) -> Resolution:
    """Return the resolution that the metadata state, in metres."""
    texts = [described.findtext(f".//Scaling/Items/Distance[@Id='{axis}']/Value") for axis in "XY"]
    try:
        metres = [float(text or 0) for text in texts]
    except ValueError:
        return Resolution(None, f"the scaling is not a number: {texts}")
    # A writer that knows no scale writes 0.
    return resolution(metres[0] * 1e6, metres[1] * 1e6, source="the scaling") if all(metres) else UNSTATED
