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
from tifffile import TiffPage

from pathopatch.slides.axes import Plane, chosen_planes, image_note, page_of
from pathopatch.slides.integrity import OpenedFile, checked_tiff, unsupported
from pathopatch.slides.resample import (
    MIRRORED_ACROSS,
    MIRRORED_DOWN,
    ORIENTATION_TAG,
    Pixels,
    PixelsAndOpacity,
    is_same_field,
    nominal_downsample,
    opacity_of,
    orientation_of,
    upright,
)
from pathopatch.slides.resolution import (
    ALPHA_NOTE,
    DTYPES,
    ICC_TAG,
    RGB,
    Level,
    SlideFacts,
    icc_name,
    ome_pixels,
    tiff_resolution,
)
from pathopatch.slides.segments import PageReader, TileCache
from pathopatch.slides.slide import Slide
from pathopatch.slides.slide_file import SlideOptions
from pathopatch.slides.slide_paths import WHOLE_FILE, Fragment

_PHOTOMETRICS = (1, 2, 3, 6)  # grey, RGB, a table of colours, YCbCr
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

    def __init__(self, path: Path, *, choice: Fragment = WHOLE_FILE, **options: Unpack[SlideOptions]) -> None:
        self._path = path
        opened = OpenedFile.of(path)
        with checked_tiff(path) as tiff:
            opened.require_unchanged(tiff.filehandle.fileno())
            channels = options.get("channels")
            named = 1 if choice.plane is not None or channels is None else len(channels)
            planes = chosen_planes(tiff, path, choice, named=named)
            for plane in planes:
                _require_readable(plane.series.keyframe, path)
            planes, alpha = _without_alpha(planes, path, named)
            pages = [page_of(plane.series, plane.index) for plane in planes]  # frames have the keyframe's tags
            tags = [page.tags if isinstance(page, TiffPage) else page.keyframe.tags for page in pages]
            orientations = {orientation_of(own.valueof(ORIENTATION_TAG)) for own in tags}
            if len(orientations) > 1:
                what = f"planes of orientations {sorted(map(int, orientations))}"
                raise unsupported(path, what, "write them again in one orientation")
            (self._orientation,) = orientations
            self._has_alpha = alpha is not None
            self._is_premultiplied = alpha is not None and int(alpha.series.keyframe.extrasamples[0]) == _ASSOCIATED
            sizes = _level_sizes(planes, is_turned=self._orientation != 1)
            self._cache = TileCache(opened)
            # Of each level each page's reader and its (channel, sample) pairs: planes of one page share its reader, so
            # that each tile is decoded once for all of them.
            self._readers: list[list[tuple[PageReader, list[tuple[int, int]]]]] = []
            for level in range(len(sizes)):
                by_page: dict[tuple[int, int, int], tuple[PageReader, list[tuple[int, int]]]] = {}
                for number, plane in enumerate(planes if alpha is None else [*planes, alpha]):
                    key = (level, id(plane.series), plane.index)
                    if key not in by_page:
                        page = page_of(plane.series.levels[level], plane.index)
                        by_page[key] = PageReader(page, path, self._cache, key), []
                    by_page[key][1].append((number, plane.sample))
                self._readers.append(list(by_page.values()))
            self._count = len(planes) + self._has_alpha
            (reader, pairs), *others = self._readers[0]
            self._is_one_page = not others and pairs == [(i, i) for i in range(reader.samples)]
            first = planes[0].series.keyframe
            # From orientation 5 on rows and columns change places.
            shown = [size[::-1] for size in sizes] if self._orientation > 4 else sizes
            image = next(i for i, series in enumerate(tiff.series) if series is planes[0].series)
            note = image_note(tiff, planes, choice) if len(tiff.series) > 1 else ""
            facts = SlideFacts(
                channels=_names(planes, tiff, image),
                dtype=first.dtype.newbyteorder("="),
                levels=tuple(Level(*size, nominal_downsample(shown[0], size)) for size in shown),
                resolution=tiff_resolution(
                    first, description=tiff.pages[0].description, imagej=tiff.imagej_metadata, image=image
                ),
                paths=(path,),
                notes=tuple(filter(None, (note, "" if alpha is None else ALPHA_NOTE))),
                icc=icc_name(first.tags.valueof(ICC_TAG)),
            )
        super().__init__(facts, {"path": path, "choice": choice}, files=(opened,), **options)

    def _read_level(self, left: int, top: int, width: int, height: int, level: int) -> PixelsAndOpacity:
        box = self.levels[level]
        # Where the rectangle, as shown, lies in the file.
        if self._orientation in MIRRORED_ACROSS:
            left = box.width - left - width
        if self._orientation in MIRRORED_DOWN:
            top = box.height - top - height
        if self._orientation > 4:
            left, top, width, height = top, left, height, width
        readers = self._readers[level]
        first = readers[0][0]
        opacity: NDArray[np.uint8] | None = None
        out = first.whole_tile(left, top, width, height) if self._is_one_page else None
        if out is None:
            # Channels that alternate in the file alternate in memory too.
            if self._is_one_page and first.is_interleaved:
                out = np.empty((height, width, self._count), self.dtype).transpose(2, 0, 1)
            else:
                out = np.empty((self._count, height, width), self.dtype)
            for reader, pairs in readers:
                # A tile that was never written is clear. One of a single channel leaves the others opaque.
                for y, x in reader.read_into(out, None if self._is_one_page else pairs, left, top):
                    opacity = np.full(out.shape, 255, np.uint8) if opacity is None else opacity
                    opacity[[i for i, _ in pairs], y, x] = 0
        pixels: Pixels = out
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

    def close(self) -> None:
        """Let go of the files; a later read opens them again."""
        self._cache.close()


def _require_readable(page: Any, path: Path) -> None:
    """Refuse a page whose sample type, colour space or compression is not read."""
    if page.dtype is None or page.dtype.newbyteorder("=") not in DTYPES:
        kind = f"{page.bitspersample}-bit, sample format {int(page.sampleformat)}"
        allowed = ", ".join(dtype.name for dtype in DTYPES)
        raise unsupported(path, f"samples are {kind}", f"convert them to one of {allowed}")
    photometric, compression = int(page.photometric), int(page.compression)
    if photometric == 3 and not _is_ramp(page.colormap):
        raise unsupported(
            path,
            "photometric interpretation 3, a table of colours that are not the shades of one",
            'save it as RGB: in Fiji, "Image > Type > RGB Color"; or as grey values: "Image > Lookup Tables > Grays"',
        )
    if photometric not in _PHOTOMETRICS or (photometric == 6 and compression not in _YCBCR_COMPRESSIONS):
        remedy = 'convert it to RGB, in Fiji "Image > Type > RGB Color", or to grey with black as zero'
        raise unsupported(path, f"photometric interpretation {photometric}", remedy)
    if compression == _APERIO_YCBCR and page.parent.is_svs and page.samplesperpixel == 3:
        remedy = "leave #page= out: OpenSlide reads the slide, and converts it"
        raise unsupported(path, "JPEG 2000 in YCbCr without conversion", remedy)
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
            "save it as RGB without alpha; or, if all are channels, name each in the column channels of a manifest",
        )
    return planes, None


def _unmultiplied(pixels: Pixels, alpha: Pixels) -> Pixels:
    """Return colours (C, H, W) that were stored as their product with alpha (H, W)."""
    full = np.iinfo(cast(Any, alpha.dtype)).max
    share = np.maximum(alpha, 1).astype(np.float64) / full
    colours: NDArray[np.float64] = np.rint(pixels.astype(np.float64) / share)
    return np.clip(colours, 0, full).astype(pixels.dtype)


def _level_sizes(planes: list[Plane], *, is_turned: bool) -> list[tuple[int, int]]:
    """Return the stored (width, height) of level 0 and of the levels that show the same field in every plane."""
    first = planes[0].series.keyframe
    # A level of another sample type ends the chain: its values would mean something else.
    sample_type = first.dtype, first.samplesperpixel
    chains = []
    for plane in planes:
        pages = (level.keyframe for level in plane.series.levels)
        alike = takewhile(lambda page: (page.dtype, page.samplesperpixel) == sample_type, pages)
        chains.append([(int(page.imagewidth), int(page.imagelength)) for page in alike])
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
    names = [] if pixels is None else [channel.get("Name") or "" for channel in pixels.findall("{*}Channel")]
    return [names[plane.channel] for plane in planes] if max(plane.channel for plane in planes) < len(names) else []


def _qpi_names(planes: list[Plane], tiff: Any) -> list[str]:
    """Return the name in each page of a PerkinElmer or Akoya file: its biomarker, else its fluorophore."""
    if not tiff.is_qpi or int(planes[0].series.keyframe.samplesperpixel) != 1:
        return []
    names = []
    for plane in planes:
        description = page_of(plane.series, plane.index).aspage().description
        try:
            root = ET.fromstring(description)
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
