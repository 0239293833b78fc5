"""Read slides in TIFF files of any sample type: single channels, stacks, and pyramids.

Files that OpenSlide reads better go to it, see `pathopatch.slides.open`.
"""

from __future__ import annotations

import re
import xml.etree.ElementTree as ET
from itertools import takewhile
from pathlib import Path
from typing import Any, Unpack, cast

import numpy as np
from numpy.typing import NDArray

from pathopatch.slides.axes import Choice, Plane, chosen_planes, image_note, page_of
from pathopatch.slides.integrity import checked_tiff, unsupported
from pathopatch.slides.resample import (
    MIRRORED_ACROSS,
    MIRRORED_DOWN,
    ORIENTATION_TAG,
    Pixels,
    is_same_field,
    nominal_downsample,
    opacity_of,
    orientation_of,
    upright,
)
from pathopatch.slides.resolution import ALPHA_NOTE, DTYPES, RGB, Level, SlideFacts, ome_pixels, tiff_resolution
from pathopatch.slides.segments import PageReader, TileCache
from pathopatch.slides.slide import Slide, SlideOptions

_ALL_PLANES = Choice()
_PHOTOMETRICS = {1: "minisblack", 2: "rgb", 6: "ycbcr"}
_APERIO_YCBCR = 33003  # in Aperio's files only: Bio-Formats writes RGB under this number
_SHADE = 257  # of a table's 65,535: tables are written from 8 bits, as multiples of 256 or of 257
_ASSOCIATED, _UNASSOCIATED = 1, 2  # kinds of alpha: the colours are multiplied by it, or are not
_POSITION = re.compile(r"^(?:[czt]:\d+/\d+\s*)+(?:-\s*)?")  # "c:1/3 z:2/9 - ", as Bio-Formats begins a label
_IMAGE_SUFFIXES = (".tif", ".tiff", ".png", ".jpg", ".jpeg", ".bmp", ".gif", ".dcm", ".lsm", ".czi", ".nd2", ".lif")
_YCBCR_COMPRESSIONS = (6, 7)  # the JPEG decoder returns RGB; elsewhere YCbCr would come out as it is


class TiffSlide(Slide):
    """A slide in a TIFF file, read with tifffile's metadata and imagecodecs' decoders.

    A file of several pages needs a choice, unless its metadata call them channels or `channels` names all planes.
    """

    def __init__(self, path: Path, *, choice: Choice = _ALL_PLANES, **options: Unpack[SlideOptions]) -> None:
        self._path = path
        with checked_tiff(path) as tiff:
            channels = options.get("channels")
            named = 1 if choice.plane is not None or channels is None else len(channels)
            planes = chosen_planes(tiff, path, choice, named=named)
            for plane in planes:
                _require_readable(plane.series.keyframe, path)
            planes, alpha = _without_alpha(planes, path, named)
            self._orientation = _orientation(planes, path)
            self._is_premultiplied = alpha is not None and int(alpha.series.keyframe.extrasamples[0]) == _ASSOCIATED
            self._has_alpha = alpha is not None
            sizes = _level_sizes(planes, is_turned=self._orientation != 1)
            self._cache = TileCache(path)
            readers: dict[tuple[int, int, int], PageReader] = {}
            self._sources: list[list[tuple[PageReader, int]]] = []  # per level, per channel
            self._readers_of: dict[int, list[tuple[PageReader, list[tuple[int, int]], bool]]] = {}
            for level in range(len(sizes)):
                level_sources = []
                for plane in planes if alpha is None else [*planes, alpha]:
                    # Planes of one page share its reader, so that each tile is decoded once for all of them.
                    key = (level, id(plane.series), plane.index)
                    if key not in readers:
                        pages = plane.series.levels[level]
                        readers[key] = PageReader(page_of(pages, plane.index), path, self._cache, key)
                    level_sources.append((readers[key], plane.sample))
                self._sources.append(level_sources)
            first = planes[0].series.keyframe
            description = tiff.pages[0].description
            # From orientation 5 on rows and columns change places.
            shown = [size[::-1] for size in sizes] if self._orientation > 4 else sizes
            image = next(i for i, series in enumerate(tiff.series) if series is planes[0].series)
            notes = [] if alpha is None else [ALPHA_NOTE]
            # One that takes the largest of several images for the slide says so.
            if len(tiff.series) > 1 and (note := image_note(tiff, planes, choice)):
                notes.insert(0, note)
            facts = SlideFacts(
                channels=_names(planes, tiff, image),
                dtype=first.dtype.newbyteorder("="),
                levels=tuple(Level(*size, nominal_downsample(shown[0], size)) for size in shown),
                resolution=tiff_resolution(first, description=description, imagej=tiff.imagej_metadata, image=image),
                paths=(path,),
                notes=tuple(notes),
            )
        arguments = {"path": path, "choice": choice}
        super().__init__(facts, arguments, **options)

    def _read_level(
        self, left: int, top: int, width: int, height: int, level: int
    ) -> tuple[Pixels, NDArray[np.uint8] | None]:
        if self._orientation != 1:
            left, top, width, height = self._stored(left, top, width, height, level)
        pixels, opacity = self._read_stored(left, top, width, height, level)
        if self._has_alpha:
            alpha = pixels[-1]
            opacity = None if alpha.min() == np.iinfo(cast(Any, alpha.dtype)).max else opacity_of(alpha)
            pixels = _unmultiplied(pixels[:-1], alpha) if self._is_premultiplied else pixels[:-1]
        if self._orientation != 1:
            pixels = np.ascontiguousarray(upright(pixels, self._orientation))
            if opacity is not None:
                cover: Any = upright(opacity if opacity.ndim == 3 else opacity[None], self._orientation)
                opacity = cover if opacity.ndim == 3 else cover[0]
        return pixels, opacity

    def _stored(self, left: int, top: int, width: int, height: int, level: int) -> tuple[int, int, int, int]:
        """Return where a rectangle of a level, as shown, stands in the file: its corner and size."""
        box = self.levels[level]
        if self._orientation in MIRRORED_ACROSS:
            left = box.width - left - width
        if self._orientation in MIRRORED_DOWN:
            top = box.height - top - height
        return (top, left, height, width) if self._orientation > 4 else (left, top, width, height)

    def _read_stored(
        self, left: int, top: int, width: int, height: int, level: int
    ) -> tuple[Pixels, NDArray[np.uint8] | None]:
        """Return a rectangle as it stands in the file, alpha as its last plane."""
        # Each page's reader, its (channel, sample) pairs, and whether these are all its samples in order. Kept for each
        # level: working it out takes as long as reading a small region.
        if level not in self._readers_of:
            sources = self._sources[level]
            self._readers_of[level] = []
            for reader in dict.fromkeys(reader for reader, _ in sources):
                pairs = [(i, sample) for i, (other, sample) in enumerate(sources) if other is reader]
                is_everything = pairs == [(i, i) for i in range(reader.samples)]
                self._readers_of[level].append((reader, pairs, is_everything))
        readers = self._readers_of[level]
        first, is_everything = readers[0][0], len(readers) == 1 and readers[0][2]
        tile = first.whole_tile(left, top, width, height) if is_everything else None
        if tile is not None:
            return tile, None
        shape = len(self._sources[level]), height, width
        is_interleaved = is_everything and first.is_interleaved
        # Channels that alternate in the file alternate in memory too.
        if is_interleaved:
            out: Pixels = np.empty((height, width, shape[0]), self.dtype).transpose(2, 0, 1)
        else:
            out = np.empty(shape, self.dtype)
        opacity: NDArray[np.uint8] | None = None
        for reader, pairs, _ in readers:
            holes = reader.read_into(out, None if is_everything else pairs, left, top)
            # A tile that was never written is clear. One of a single channel leaves the others opaque.
            for y, x in holes:
                opacity = np.full(out.shape, 255, np.uint8) if opacity is None else opacity
                opacity[[i for i, _ in pairs], y, x] = 0
        return out, opacity

    def close(self) -> None:
        """Let go of the files; a later read opens them again."""
        self._cache.close()


def _require_readable(page: Any, path: Path) -> None:
    """Refuse a page whose sample type, colour space or compression is not read."""
    allowed = ", ".join(dtype.name for dtype in DTYPES)
    if page.dtype is None or page.dtype.newbyteorder("=") not in DTYPES:
        kind = f"{page.bitspersample}-bit, sample format {int(page.sampleformat)}"
        raise unsupported(path, f"samples are {kind}", f"convert them to one of {allowed}")
    is_ycbcr, is_palette = int(page.photometric) == 6, int(page.photometric) == 3
    if is_palette and not _is_ramp(page.colormap):
        raise unsupported(
            path,
            "photometric interpretation 3, a table of colours that are not the shades of one",
            'save it as RGB: in Fiji, "Image > Type > RGB Color"; or as grey values: "Image > Lookup Tables > Grays"',
        )
    is_read = is_palette or int(page.photometric) in _PHOTOMETRICS
    if not is_read or (is_ycbcr and int(page.compression) not in _YCBCR_COMPRESSIONS):
        raise unsupported(
            path,
            f"photometric interpretation {int(page.photometric)}",
            'convert it to RGB, in Fiji "Image > Type > RGB Color", or to grey with black as zero',
        )
    if int(page.compression) == _APERIO_YCBCR and page.parent.is_svs and page.samplesperpixel == 3:
        raise unsupported(
            path,
            "JPEG 2000 in YCbCr without conversion",
            "leave #page= out: OpenSlide reads the slide, and converts it",
        )
    if page.imagedepth > 1:
        raise unsupported(path, "volumes in one page", "write one page per section")


def _is_ramp(table: NDArray[np.uint16] | None) -> bool:
    """Return whether a table of colours, (3, N), rises evenly from black to one colour: the index is an intensity."""
    if table is None or table.size == 0 or not table.any():
        return False
    shades = table[:, -1:] * np.linspace(0, 1, table.shape[1])
    return bool(np.abs(table - shades).max() <= _SHADE)


def _without_alpha(planes: list[Plane], path: Path, named: int) -> tuple[list[Plane], Plane | None]:
    """Return the planes of colour or grey, and that of opacity, if the file says that there is one.

    uint8 colour with further samples of unknown meaning is refused.
    """
    page = planes[0].series.keyframe
    is_colour = int(page.photometric) in (2, 6)
    count = len(RGB) if is_colour else 1
    # One plane was chosen, or all were named: then alpha is a channel like the others.
    if len(planes) in (1, named) or page.samplesperpixel == count:
        return planes, None
    kinds = [int(kind) for kind in page.extrasamples]
    is_one_page = len(planes) == page.samplesperpixel == count + 1
    if is_one_page and kinds in ([_ASSOCIATED], [_UNASSOCIATED]) and page.dtype.kind == "u":
        return planes[:count], planes[count]
    if is_colour and page.dtype == np.uint8:
        raise unsupported(
            path,
            f"{page.samplesperpixel} samples a pixel, of which three are red, green and blue: alpha, or channels",
            "save it as RGB without alpha; or, if all are channels, name each in the column channels",
        )
    return planes, None


def _unmultiplied(pixels: Pixels, alpha: Pixels) -> Pixels:
    """Return colours (C, H, W) that were stored as their product with alpha (H, W)."""
    full = np.iinfo(cast(Any, alpha.dtype)).max
    share = np.maximum(alpha, 1).astype(np.float64) / full
    colours: NDArray[np.float64] = np.rint(pixels.astype(np.float64) / share)
    return np.clip(colours, 0, full).astype(pixels.dtype)


def _orientation(planes: list[Plane], path: Path) -> int:
    """Return by its TIFF number how the stored rows and columns are shown; refuse planes that differ in it."""
    orientations = {orientation_of(plane.series.keyframe.tags.valueof(ORIENTATION_TAG)) for plane in planes}
    if len(orientations) > 1:
        raise unsupported(path, f"planes of orientations {sorted(orientations)}", "write them again in one orientation")
    return orientations.pop()


def _level_sizes(planes: list[Plane], *, is_turned: bool) -> list[tuple[int, int]]:
    """Return the stored (width, height) of level 0 and of the levels that show the same field in every plane."""
    first = planes[0].series.keyframe
    # A level of another sample type ends the chain: its values would mean something else.
    sample_type = first.dtype, first.samplesperpixel
    chains = [
        [
            (int(page.imagewidth), int(page.imagelength))
            for page in takewhile(
                lambda page: (page.dtype, page.samplesperpixel) == sample_type,
                (level.keyframe for level in plane.series.levels),
            )
        ]
        for plane in planes
    ]
    sizes = [chains[0][0]]
    for rank, size in enumerate(chains[0][1:], start=1):
        is_shared = all(len(chain) > rank and chain[rank] == size for chain in chains)
        # On a turned slide a dropped odd pixel would be the first: the others would no longer begin at the corner.
        is_aligned = not is_turned or (sizes[0][0] % size[0] == 0 and sizes[0][1] % size[1] == 0)
        if not (is_same_field(sizes[0], size) and is_shared and is_aligned and size[0] <= sizes[-1][0]):
            break
        sizes.append(size)
    return sizes


def _names(planes: list[Plane], tiff: Any, image: int) -> tuple[str, ...]:
    """Return the channel names: the file's own, R, G, B for three uint8 colour samples, else C0, C1 and so on."""
    keyframe = planes[0].series.keyframe
    is_one_page = len({(id(plane.series), plane.index) for plane in planes}) == 1
    is_colour = int(keyframe.photometric) in (2, 6) and keyframe.dtype == np.uint8
    if is_colour and is_one_page and keyframe.samplesperpixel in (3, 4):
        return tuple((*RGB, "A")[plane.sample] for plane in planes)
    for names in (_ome_names(planes, tiff, image), _qpi_names(planes, tiff), _imagej_names(planes, tiff)):
        if names and all(names) and len(set(names)) == len(names):
            return tuple(names)
    return tuple(f"C{plane.channel}" for plane in planes)


def _ome_names(planes: list[Plane], tiff: Any, image: int) -> list[str]:
    """Return the names of the planes in OME-XML; nothing where it does not name them all."""
    description, keyframe = tiff.pages[0].description, planes[0].series.keyframe
    size = int(keyframe.imagewidth), int(keyframe.imagelength)
    pixels = ome_pixels(description, image, size=size) if description.lstrip().startswith("<") else None
    names = [] if pixels is None else [each.get("Name") or "" for each in pixels.findall("{*}Channel")]
    return [names[plane.channel] for plane in planes] if max(plane.channel for plane in planes) < len(names) else []


def _qpi_names(planes: list[Plane], tiff: Any) -> list[str]:
    """Return the name in each page of a PerkinElmer or Akoya file: its biomarker, else its fluorophore."""
    if not tiff.is_qpi or int(planes[0].series.keyframe.samplesperpixel) != 1:
        return []
    names = []
    for plane in planes:
        description = page_of(plane.series, plane.index).aspage().description
        try:
            # A description that defines entities could expand without bounds.
            root = ET.fromstring("" if "<!ENTITY" in description else description)
        except ET.ParseError:
            return []
        names.append((root.findtext("Biomarker") or root.findtext("Name") or "").strip())
    return names


def _imagej_names(planes: list[Plane], tiff: Any) -> list[str]:
    """Return the slice labels that ImageJ wrote; nothing where there are none, or they name files."""
    labels = (tiff.imagej_metadata or {}).get("Labels", [])
    series = planes[0].series
    is_labelled = len(labels) > max(plane.index for plane in planes) and series is tiff.series[0]
    if not is_labelled or int(series.keyframe.samplesperpixel) != 1:
        return []
    # After the first line DICOM's details may follow.
    lines = [str(labels[plane.index]).strip().partition("\n")[0] for plane in planes]
    names = [_POSITION.sub("", line).strip() for line in lines]
    return [] if any(Path(name).suffix.lower() in _IMAGE_SUFFIXES for name in names) else names
