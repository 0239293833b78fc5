"""Slides in TIFF files of any sample type: single channels, stacks, and pyramids that OpenSlide does not read."""

from __future__ import annotations

from collections.abc import Callable
from itertools import takewhile
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pathopatch.slides.axes import Choice, Plane, chosen_planes, page_of, unsupported
from pathopatch.slides.background import Background
from pathopatch.slides.facts import DTYPES, RGB, Level, SlideFacts
from pathopatch.slides.integrity import checked_tiff
from pathopatch.slides.planes import Pixels, interleaved
from pathopatch.slides.resample import nominal_downsample
from pathopatch.slides.resolution import ome_pixels, tiff_resolution
from pathopatch.slides.segments import PageReader, TileCache
from pathopatch.slides.slide import Slide

EVERYTHING = Choice()
"""No choice: all planes."""

_PHOTOMETRICS = {1: "minisblack", 2: "rgb", 6: "ycbcr"}
_APERIO_YCBCR = 33003  # in Aperio's files only: Bio-Formats writes RGB under this number
_YCBCR_COMPRESSIONS = (6, 7)  # the JPEG decoder returns RGB; elsewhere YCbCr would come out as it is


class TiffSlide(Slide):
    """A slide in a TIFF file, read with tifffile's metadata and imagecodecs' decoders.

    Parameters
    ----------
    path : Path
        The file.
    choice : Choice
        Which page, plane, or position on the axes Z and T. A file with several pages needs a choice, unless its
        metadata call the pages channels or `channels` names every plane.
    mpp, channels, background
        See `Slide`.

    Raises
    ------
    InputCorruptError
        It is truncated or its structure cannot be read.
    InputTooLargeError
        It claims more pixels than its bytes could hold.
    InputUnsupportedError
        Its sample type, colour space or compression is not read, or there is no such page, plane or position, or
        an axis of it is not explained.
    """

    def __init__(
        self,
        path: Path,
        *,
        choice: Choice = EVERYTHING,
        mpp: float | None = None,
        channels: tuple[str, ...] | None = None,
        background: Background | None = None,
    ) -> None:
        self._path = path
        with checked_tiff(path) as tiff:
            named = 1 if choice.plane is not None or channels is None else len(channels)
            planes = chosen_planes(tiff, path, choice, named=named)
            for each in planes:
                _require_readable(each.series.keyframe, path)
            _refuse_alpha(planes, path, named)
            sizes = _level_sizes(planes)
            self._cache = TileCache(path)
            readers: dict[tuple[int, int, int], PageReader] = {}
            self._sources: list[list[tuple[PageReader, int]]] = []  # per level, per channel
            self._readers_of: dict[int, list[tuple[PageReader, list[tuple[int, int]], bool]]] = {}
            for level in range(len(sizes)):
                row = []
                for each in planes:
                    key = (level, id(each.series), each.index)
                    if key not in readers:
                        pages = each.series.levels[level]
                        readers[key] = PageReader(page_of(pages, each.index), path, self._cache, key)
                    row.append((readers[key], each.sample))
                self._sources.append(row)
            first = planes[0].series.keyframe
            description = tiff.pages[0].description
            image = next(i for i, series in enumerate(tiff.series) if series is planes[0].series)
            facts = SlideFacts(
                channels=_names(planes, description, image),
                dtype=first.dtype.newbyteorder("="),
                levels=tuple(Level(*size, nominal_downsample(sizes[0], size)) for size in sizes),
                resolution=tiff_resolution(first, description=description, imagej=tiff.imagej_metadata, image=image),
                paths=(path,),
            )
        arguments = {"path": path, "choice": choice}
        super().__init__(facts, arguments, mpp=mpp, channels=channels, background=background)

    def _read_level(
        self, left: int, top: int, width: int, height: int, level: int
    ) -> tuple[Pixels, NDArray[np.uint8] | None]:
        readers = self._readers(level)
        first, is_everything = readers[0][0], len(readers) == 1 and readers[0][2]
        tile = first.whole_tile(left, top, width, height) if is_everything else None
        if tile is not None:
            return tile, None
        shape = len(self._sources[level]), height, width
        is_interleaved = is_everything and first.is_interleaved
        out = interleaved(shape, self.dtype) if is_interleaved else np.empty(shape, self.dtype)
        opacity: NDArray[np.uint8] | None = None
        for reader, wanted, _ in readers:
            holes = reader.read_into(out, None if is_everything else wanted, left, top)
            for y, x in holes:  # an empty tile of one channel says nothing of the others
                opacity = np.full(out.shape, 255, np.uint8) if opacity is None else opacity
                opacity[[i for i, _ in wanted], y, x] = 0
        return out, opacity

    def _readers(self, level: int) -> list[tuple[PageReader, list[tuple[int, int]], bool]]:
        """Return each page's reader, which (channel, sample) it gives, and whether these are all its samples in order.

        Worked out once a level: it takes as long as a small region.
        """
        if level not in self._readers_of:
            sources = self._sources[level]
            found = []
            for reader in dict.fromkeys(reader for reader, _ in sources):
                wanted = [(i, s) for i, (each, s) in enumerate(sources) if each is reader]
                found.append((reader, wanted, wanted == [(i, i) for i in range(reader.samples)]))
            self._readers_of[level] = found
        return self._readers_of[level]

    def _close(self) -> None:
        self._cache.close()


def _require_readable(page: Any, path: Path) -> None:
    """Refuse a page of a kind that is not read.

    Raises
    ------
    InputUnsupportedError
        Its sample type, colour space or compression is not read.
    """
    allowed = ", ".join(dtype.name for dtype in DTYPES)
    if page.dtype is None or page.dtype.newbyteorder("=") not in DTYPES:
        kind = f"{page.bitspersample}-bit, sample format {int(page.sampleformat)}"
        raise unsupported(path, f"samples are {kind}", f"convert them to one of {allowed}")
    is_ycbcr = int(page.photometric) == 6
    if int(page.photometric) not in _PHOTOMETRICS or (is_ycbcr and int(page.compression) not in _YCBCR_COMPRESSIONS):
        raise unsupported(
            path,
            f"photometric interpretation {int(page.photometric)}",
            "convert it to RGB or to grey with black as zero",
        )
    if int(page.compression) == _APERIO_YCBCR and page.parent.is_svs and page.samplesperpixel == 3:
        raise unsupported(
            path,
            "JPEG 2000 in YCbCr without conversion",
            "leave #page= out: OpenSlide reads the slide, and converts it",
        )
    if page.imagedepth > 1:
        raise unsupported(path, "volumes in one page", "write one page per section")


def _refuse_alpha(planes: list[Plane], path: Path, named: int) -> None:
    """Refuse a fourth sample beside uint8 red, green and blue: opacity, or a channel that a writer called so.

    Raises
    ------
    InputUnsupportedError
        There is one, and neither are all planes named nor one chosen.
    """
    page = planes[0].series.keyframe
    is_colour = int(page.photometric) in (2, 6) and page.dtype == np.uint8
    if is_colour and page.samplesperpixel > len(RGB) and len(planes) not in (1, named):
        raise unsupported(
            path,
            f"{page.samplesperpixel} samples a pixel, of which three are red, green and blue: alpha, or channels",
            "save it as RGB without alpha; or, if all are channels, name each in the column channels",
        )


def _level_sizes(planes: list[Plane]) -> list[tuple[int, int]]:
    """Return (width, height) of level 0 and of the levels below it that show the same field in every plane.

    A level of another sample type ends the chain: its values would mean something else.
    """
    chains = [
        [(int(page.imagewidth), int(page.imagelength)) for page in takewhile(_alike(planes[0]), _keyframes(each))]
        for each in planes
    ]
    sizes = [chains[0][0]]
    for rank, size in enumerate(chains[0][1:], start=1):
        quotient_x, quotient_y = sizes[0][0] / size[0], sizes[0][1] / size[1]
        slack = 0.02 + 1 / min(size)  # sizes are rounded to whole pixels
        is_same_field = abs(quotient_x - quotient_y) <= slack * max(quotient_x, quotient_y)
        is_shared = all(len(chain) > rank and chain[rank] == size for chain in chains)
        if not (is_same_field and is_shared and size[0] <= sizes[-1][0]):
            break
        sizes.append(size)
    return sizes


def _alike(plane: Plane) -> Callable[[Any], bool]:
    """Return what tells whether a page has the sample type, and the number of samples, of a plane's."""
    frame = plane.series.keyframe
    return lambda page: (page.dtype, page.samplesperpixel) == (frame.dtype, frame.samplesperpixel)


def _keyframes(plane: Plane) -> list[Any]:
    """Return the page of each level that tells its size."""
    return [level.keyframe for level in plane.series.levels]


def _names(planes: list[Plane], description: str, image: int) -> tuple[str, ...]:
    """Return the channel names: OME's, R, G, B for three uint8 colour samples, else C0, C1 and so on."""
    keyframe = planes[0].series.keyframe
    is_one_page = len({(id(plane.series), plane.index) for plane in planes}) == 1
    is_colour = int(keyframe.photometric) in (2, 6) and keyframe.dtype == np.uint8
    if is_colour and is_one_page and keyframe.samplesperpixel in (3, 4):
        return tuple((*RGB, "A")[plane.sample] for plane in planes)
    size = int(keyframe.imagewidth), int(keyframe.imagelength)
    if description.lstrip().startswith("<") and (pixels := ome_pixels(description, image, size=size)) is not None:
        names = [channel.get("Name") or "" for channel in pixels.findall("{*}Channel")]
        is_named = max(plane.channel for plane in planes) < len(names)
        found = tuple(names[plane.channel] for plane in planes) if is_named else ()
        if found and all(found) and len(set(found)) == len(found):
            return found
    return tuple(f"C{plane.channel}" for plane in planes)
