"""Find the planes of a TIFF that are the channels of a slide: by its axes, by names, or by a choice."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from pathopatch.slides.integrity import corrupt, unsupported
from pathopatch.slides.resolution import ome_pixels
from pathopatch.slides.slide_paths import Fragment

_REGION_SHARE = 0.1  # of the largest image's pixels; a label or macro image has fewer
_SCANNER_FLAGS = ("svs", "ndpi", "scn", "bif", "qpi", "philips", "avs", "sis")


@dataclass(frozen=True)
class Plane:
    """One channel of a file."""

    series: Any  # tifffile.TiffPageSeries, the image that it belongs to
    index: int  # of its full-resolution page in the series
    sample: int  # of the page's pixels
    channel: int  # its number among the file's channels


@dataclass(frozen=True)
class _RunPage:
    """A page without a directory of its own, as in ImageJ's stacks above 4 GB: one run of pixels from the first on."""

    keyframe: Any
    index: int
    dataoffsets: tuple[int, ...]
    databytecounts: tuple[int, ...]
    jpegtables: None = None
    is_contiguous: bool = True


def page_of(series: Any, index: int) -> Any:
    """Return a page of a series, or of one of its levels; refuse one that is not in the file."""
    path = Path(series.keyframe.parent.filehandle.path)
    if not series.is_truncated:
        if (page := series[index]) is not None:
            return page
        remedy = "write all channels into one file, or name one file per channel"
        raise unsupported(path, f"page {index} is not in this file", remedy)
    # tifffile calls a series truncated if it has fewer pages than its description counts.
    frame = series.keyframe
    if not frame.is_contiguous or frame.is_tiled or frame.predictor != 1:
        raise unsupported(path, f"{_described(series)}, but a single page", "write each plane as a page of its own")
    offset = int(frame.dataoffsets[0]) + index * int(frame.nbytes)
    if offset + frame.nbytes > frame.parent.filehandle.size:
        raise corrupt(path, f"truncated: plane {index} ends past byte {frame.parent.filehandle.size}")
    return _RunPage(frame, index, (offset,), (int(frame.nbytes),))


def chosen_planes(tiff: Any, path: Path, choice: Fragment, *, named: int) -> list[Plane]:
    """Return the planes that a slide consists of, in the order of its channels.

    `named` is the number of planes that the caller has names for, 1 if there are none. Choices that do not exist, and
    files with an axis that nothing explains, are refused.
    """
    main = tiff.series[0] if len(tiff.series) == 1 else _main_image(tiff, path, choice)
    frame, sizes = main.keyframe, dict(zip(main.axes, main.shape, strict=True))
    size = frame.imagelength, frame.imagewidth
    # Of an array that was written with its channels last, the pages are rows of the image.
    if (sizes.get("Y", size[0]), sizes.get("X", size[1])) != size:
        raise unsupported(
            path,
            f"{_described(main)}, but each page holds {size[1]} x {size[0]} px: its pages are rows, not images",
            "write it with the axes CYX, one page a channel",
        )
    # Of an ImageJ file that was cut short, tifffile takes the first image for all.
    stated, present = int((tiff.imagej_metadata or {}).get("images", 1)), sum(map(_count, tiff.series))
    if stated > present:
        raise corrupt(path, f"truncated: its description counts {stated} images, the file holds {present}")
    positions = {axis: value for axis, value in (("Z", choice.z), ("T", choice.t)) if value is not None}
    pages = [(main, 0)]
    if choice.page is not None:
        pages = _pages(tiff)
        if positions:
            raise unsupported(path, "a page is chosen, and a position on an axis too", "choose one of them")
        _require(path, "page", choice.page, len(pages))
        pages = pages[choice.page : choice.page + 1]
    elif positions or _count(main) > 1:
        pages = _implied_pages(main, path, len(_pages(tiff)), positions, 0 if choice.plane is not None else named)
    planes = []
    for position, (series, index) in enumerate(pages):
        samples = int(page_of(series, index).keyframe.samplesperpixel)
        number = _position(series, index).get("C", position) * samples
        planes += [Plane(series, index, sample, number + sample) for sample in range(samples)]
    if choice.plane is not None:
        _require(path, "plane", choice.plane, len(planes))
        planes = planes[choice.plane : choice.plane + 1]
    return planes


def image_note(tiff: Any, planes: list[Plane], choice: Fragment) -> str:
    """Return a note that the largest of several images was taken for the slide; empty where that needs none."""
    taken = planes[0].series
    others = [image for image in _images(tiff) if image is not taken]
    if choice.page is not None or not others:
        return ""
    return (
        f"{1 + len(others)} images in one file: the largest, {_sized(taken)}, is taken for the slide, not "
        f"{', '.join(map(_sized, others))}; #page=0 to #page={len(_pages(tiff)) - 1} chooses another"
    )


def _pages(tiff: Any) -> list[tuple[Any, int]]:
    """Return (series, index in it) of each full-resolution page, in the order of the file."""
    # A scanner's file counts only its main image: the others are label, macro and thumbnail.
    numbered = []
    for number, series in enumerate(tiff.series[:1] if _is_scan(tiff) else tiff.series):
        for index in range(_count(series)):
            page = None if series.is_truncated else series[index]
            numbered.append((series.keyframe.index if page is None else page.index, number, series, index))
    return [(series, index) for _, _, series, index in sorted(numbered, key=lambda item: (item[0], item[1], item[3]))]


def _images(tiff: Any) -> list[Any]:
    """Return the images of a file that may be the slide; a scanner's file has one, its first."""
    first, *others = tiff.series
    return [first] if _is_scan(tiff) else [first, *(image for image in others if not image.keyframe.is_reduced)]


def _main_image(tiff: Any, path: Path, choice: Fragment) -> Any:
    """Return the largest image of a file; refuse several that may be the slide, unless a page is chosen."""
    images = _images(tiff)
    areas = [image.keyframe.imagewidth * image.keyframe.imagelength for image in images]
    largest = areas.index(max(areas))
    pixels = [
        ome_pixels(tiff.pages[0].description, tiff.series.index(image)) if tiff.is_ome else None for image in images
    ]
    sides = [None if element is None else element.get("PhysicalSizeX") for element in pixels]
    # A label or a macro image is smaller than the slide and states another scale. An image as large, or a sizeable one
    # of the same scale, may be a second region of tissue.
    rivals = [
        image
        for image, area, side in zip(images, areas, sides, strict=True)
        if image is not images[largest]
        and (area == areas[largest] or (side == sides[largest] is not None and area > _REGION_SHARE * areas[largest]))
    ]
    if rivals and choice.page is None:
        last = len(_pages(tiff)) - 1
        raise unsupported(
            path,
            f"{len(images)} images in one file ({', '.join(map(_sized, images))}), and nothing says which is the slide",
            f"choose one page with #page=0 to #page={last}, or write each image into a file of its own",
        )
    return images[largest]


def _sized(series: Any) -> str:
    return f"{series.keyframe.imagewidth} x {series.keyframe.imagelength} px"


def _is_scan(tiff: Any) -> bool:
    """Return whether a file is a scanner's, whose further images are label, macro and thumbnail."""
    return any(getattr(tiff, f"is_{flag}") for flag in _SCANNER_FLAGS)


def _implied_pages(
    first: Any, path: Path, page_count: int, positions: dict[str, int], named: int
) -> list[tuple[Any, int]]:
    """Return the pages of a file with several, if each is sure to be a channel, or a plane is chosen (`named` is 0)."""
    sizes = _outer_axes(first)
    for axis, value in positions.items():
        if axis not in sizes:
            raise unsupported(path, f"{_described(first)}: no axis {axis}", f"leave #{axis.lower()}= out")
        _require(path, axis.lower(), value, sizes[axis])
    chosen = [(first, i) for i in range(_count(first)) if positions.items() <= _position(first, i).items()]
    open_axes = {axis: n for axis, n in sizes.items() if n > 1 and axis != "C" and axis not in positions}
    # Pages are channels if an axis C says so, or if the choice leaves nothing else open.
    is_stated = not open_axes and (sizes.get("C", 1) > 1 or bool(positions))
    samples = page_of(first, 0).keyframe.samplesperpixel
    if is_stated or named in (0, len(chosen) * samples):
        return chosen
    open_positions = [f"#{axis.lower()}=0 to #{axis.lower()}={n - 1}" for axis, n in open_axes.items() if axis in "ZT"]
    remedies = [f"choose one with {' and '.join(open_positions)}"] if len(open_positions) == len(open_axes) > 0 else []
    remedies.append(f"choose one page with #page=0 to #page={page_count - 1}")
    raise unsupported(
        path,
        f"{page_count} pages ({_described(first)}), which do not say that they are channels",
        f"{'; or '.join(remedies)}; or name all planes in the column channels of a manifest",
    )


def _outer_axes(series: Any) -> dict[str, int]:
    """Return the axes that run over pages, and their lengths, outermost first."""
    inner = series.keyframe.axes
    count = len(series.axes) - len(inner)
    if count < 0 or len(set(series.axes[:count])) < count:
        return {} if count <= 0 else {"Q": math.prod(series.shape[:count])}
    return dict(zip(series.axes[:count], series.shape[:count], strict=True))


def _count(series: Any) -> int:
    """Return the number of full-resolution pages."""
    return math.prod(_outer_axes(series).values()) if series.is_truncated else len(series)


def _position(series: Any, index: int) -> dict[str, int]:
    """Return the position of a page on each outer axis; nothing where axes and pages do not fit."""
    sizes = _outer_axes(series)
    if math.prod(sizes.values()) != _count(series):
        return {}
    return dict(zip(sizes, (int(i) for i in np.unravel_index(index, tuple(sizes.values()))), strict=True))


def _described(series: Any) -> str:
    return f"axes {series.axes}, shape {tuple(int(n) for n in series.shape)}"


def _require(path: Path, what: str, value: int, count: int) -> None:
    """Refuse a choice beyond what there is."""
    if value >= count:
        raise unsupported(path, f"there is no {what} {value}", f"choose 0 to {count - 1}")
