"""Slides in TIFF files of any sample type: single channels, stacks, and pyramids that OpenSlide does not read."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pathopatch.errors import InputUnsupportedError
from pathopatch.slides.background import Background
from pathopatch.slides.integrity import checked_tiff
from pathopatch.slides.resample import Pixels, nominal_downsample
from pathopatch.slides.resolution import ome_pixels, tiff_resolution
from pathopatch.slides.segments import PageReader, TileCache
from pathopatch.slides.slide import DTYPES, RGB, Level, Slide, SlideFacts

_SCANNER_FLAGS = ("svs", "ndpi", "scn", "bif", "qpi", "philips", "avs", "sis")
_PHOTOMETRICS = {1: "minisblack", 2: "rgb", 6: "ycbcr"}
_YCBCR_COMPRESSIONS = (6, 7)  # the JPEG decoder returns RGB; elsewhere YCbCr would come out as it is


@dataclass(frozen=True)
class _Plane:
    """One channel of a file: which full-resolution page, which sample of its pixels."""

    series: Any
    index: int  # of the page in its series
    sample: int


class TiffSlide(Slide):
    """A slide in a TIFF file, read with tifffile's metadata and imagecodecs' decoders.

    Parameters
    ----------
    path : Path
        The file.
    page : int, optional
        Only this page, counted from 0 over the full-resolution pages. A file with several pages needs it, unless
        its metadata call the pages channels or `channels` names every plane.
    plane : int, optional
        Only this plane, counted from 0 over the planes of the page (or of all pages).
    mpp, channels, background
        See `Slide`.

    Raises
    ------
    InputCorruptError
        It is truncated or its structure cannot be read.
    InputTooLargeError
        It claims more pixels than its bytes could hold.
    InputUnsupportedError
        Its sample type, colour space or compression is not read, or there is no such page or plane.
    """

    def __init__(
        self,
        path: Path,
        *,
        page: int | None = None,
        plane: int | None = None,
        mpp: float | None = None,
        channels: tuple[str, ...] | None = None,
        background: Background | None = None,
    ) -> None:
        self._path = path
        with checked_tiff(path) as tiff:
            named = 1 if plane is not None or channels is None else len(channels)
            planes = _chosen_planes(tiff, path, page=page, plane=plane, named=named)
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
                        readers[key] = PageReader(_page(pages, each.index), path, self._cache, key)
                    row.append((readers[key], each.sample))
                self._sources.append(row)
            first = _page(planes[0].series, planes[0].index)
            description = tiff.pages[0].description
            facts = SlideFacts(
                channels=_names(planes, first, description, plane),
                dtype=first.dtype.newbyteorder("="),
                levels=tuple(Level(*size, nominal_downsample(sizes[0], size)) for size in sizes),
                resolution=tiff_resolution(first.keyframe, description=description, imagej=tiff.imagej_metadata),
                paths=(path,),
            )
        arguments = {"path": path, "page": page, "plane": plane}
        super().__init__(facts, arguments, mpp=mpp, channels=channels, background=background)

    def _read_level(
        self, left: int, top: int, width: int, height: int, level: int
    ) -> tuple[Pixels, NDArray[np.uint8] | None]:
        readers = self._readers(level)
        if len(readers) == 1 and readers[0][2]:
            tile = readers[0][0].whole_tile(left, top, width, height)
            if tile is not None:
                return tile, None
        out = np.empty((len(self._sources[level]), height, width), self.dtype)
        opacity: NDArray[np.uint8] | None = None
        for reader, wanted, _ in readers:
            holes = reader.read_into(out, wanted, left, top)
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


def _page(series: Any, index: int) -> Any:
    """Return a page of a series or of one of its levels.

    Raises
    ------
    InputUnsupportedError
        The page is in another file, or nowhere.
    """
    found = series[index]
    if found is None:
        raise _unsupported(
            Path(series.parent.filehandle.path),
            f"page {index} is not in this file",
            "write all channels into one file, or name one file per channel",
        )
    return found


def _pages(tiff: Any) -> list[tuple[Any, int]]:
    """Return (series, index in it) of each full-resolution page, in the order of the file.

    A scanner's file counts only its main image: the others are label, macro and thumbnail.
    """
    is_scan = any(getattr(tiff, f"is_{flag}") for flag in _SCANNER_FLAGS)
    series = tiff.series[:1] if is_scan else tiff.series
    found = [(each[i].index if each[i] is not None else i, s, each, i)
             for s, each in enumerate(series) for i in range(len(each))]  # fmt: skip
    return [(each, i) for _, _, each, i in sorted(found, key=lambda item: (item[0], item[1], item[3]))]


def _chosen_planes(tiff: Any, path: Path, *, page: int | None, plane: int | None, named: int) -> list[_Plane]:
    """Return the planes that a slide consists of.

    Raises
    ------
    InputUnsupportedError
        There is no such page or plane, pages are many and none is chosen, or the kind is not read.
    """
    pages = _pages(tiff)
    if page is not None:
        if page >= len(pages):
            raise _unsupported(path, f"there is no page {page}", f"choose 0 to {len(pages) - 1}")
        pages = pages[page : page + 1]
    elif not tiff.series[0].is_pyramidal and len(pages) > 1 or len(tiff.series[0]) > 1:
        pages = _implied_pages(tiff, path, pages, named, plane)
    else:
        pages = pages[:1]
    planes = [
        _Plane(series, index, sample)
        for series, index in pages
        for sample in range(_require_readable(_page(series, index).keyframe, path))
    ]
    if plane is not None:
        if plane >= len(planes):
            raise _unsupported(path, f"there is no plane {plane}", f"choose 0 to {len(planes) - 1}")
        planes = planes[plane : plane + 1]
    return planes


def _implied_pages(
    tiff: Any, path: Path, pages: list[tuple[Any, int]], named: int, plane: int | None
) -> list[tuple[Any, int]]:
    """Return the pages of a file with several, if it is clear that each is a channel."""
    first = tiff.series[0]
    sizes = dict(zip(first.axes, first.shape, strict=True))
    others = [n for axis, n in sizes.items() if axis not in "YXSC" and n > 1]
    if sizes.get("C", 1) > 1 and not others:
        return [(first, i) for i in range(len(first))]
    same = [(series, i) for series, i in pages if series is first]
    samples = _page(first, 0).keyframe.samplesperpixel
    if plane is not None or named == len(same) * samples:
        return same
    raise _unsupported(
        path,
        f"{len(pages)} pages (axes {first.axes}, shape {first.shape}), which do not say that they are channels",
        f"choose one with #page=0 to #page={len(pages) - 1}, or name all planes in the column channels",
    )


def _require_readable(page: Any, path: Path) -> int:
    """Return the number of samples per pixel of a page whose kind is read.

    Raises
    ------
    InputUnsupportedError
        Its sample type, colour space or compression is not read.
    """
    allowed = ", ".join(dtype.name for dtype in DTYPES)
    if page.dtype is None or page.dtype.newbyteorder("=") not in DTYPES:
        kind = f"{page.bitspersample}-bit, sample format {int(page.sampleformat)}"
        raise _unsupported(path, f"samples are {kind}", f"convert them to one of {allowed}")
    is_ycbcr = int(page.photometric) == 6
    if int(page.photometric) not in _PHOTOMETRICS or (is_ycbcr and int(page.compression) not in _YCBCR_COMPRESSIONS):
        raise _unsupported(
            path,
            f"photometric interpretation {int(page.photometric)}",
            "convert it to RGB or to grey with black as zero",
        )
    if page.imagedepth > 1:
        raise _unsupported(path, "volumes in one page", "write one page per section")
    return int(page.samplesperpixel)


def _level_sizes(planes: list[_Plane]) -> list[tuple[int, int]]:
    """Return (width, height) of level 0 and of the levels below it that show the same field in every plane."""
    chains = [[(int(page.imagewidth), int(page.imagelength)) for page in _keyframes(each)] for each in planes]
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


def _keyframes(plane: _Plane) -> list[Any]:
    """Return the page of each level that tells its size."""
    return [level.keyframe for level in plane.series.levels]


def _names(planes: list[_Plane], page: Any, description: str, plane: int | None) -> tuple[str, ...]:
    """Return the channel names: OME's, R, G, B for three uint8 colour samples, else C0, C1 and so on."""
    count = len(planes)
    first = plane or 0
    keyframe = page.keyframe
    is_colour = int(keyframe.photometric) in (2, 6) and keyframe.dtype == np.uint8
    if is_colour and keyframe.samplesperpixel in (3, 4) and first + count <= keyframe.samplesperpixel:
        return (*RGB, "A")[first : first + count]
    if description.lstrip().startswith("<") and (pixels := ome_pixels(description)) is not None:
        found = [channel.get("Name") or "" for channel in pixels.findall("{*}Channel")]
        if len(found) >= first + count and len(set(found)) == len(found) and all(found):
            return tuple(found[first : first + count])
    return tuple(f"C{index}" for index in range(first, first + count))


def _unsupported(path: Path, what: str, remedy: str) -> InputUnsupportedError:
    return InputUnsupportedError(what, place=str(path), remedy=remedy)
