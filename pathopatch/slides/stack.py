"""Combine channels into one slide: a file for each channel, or channels moved onto each other."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Unpack

import numpy as np
from numpy.typing import NDArray

from pathopatch.core.config import MPP_TOLERANCE
from pathopatch.core.errors import ChannelMismatchError, ModalityMismatchError
from pathopatch.slides.background import Background
from pathopatch.slides.resample import PixelsAndOpacity
from pathopatch.slides.resolution import SlideFacts
from pathopatch.slides.slide import Slide
from pathopatch.slides.slide_file import SlideOptions


class ChannelStack(Slide):
    """Co-registered slides of one channel each, read as one; slides of other size, type or mpp are refused."""

    def __init__(self, slides: Mapping[str, Slide], **options: Unpack[SlideOptions]) -> None:
        for name, slide in slides.items():
            if len(slide.channels) != 1:
                raise ChannelMismatchError(
                    f"{name} should be one channel, the file has {len(slide.channels)}: {', '.join(slide.channels)}",
                    place=str(slide.paths[0]),
                    remedy="choose one plane: append #plane=0 (or #page=0&plane=0) to the path",
                )
        self._slides = dict(slides)
        names, parts = tuple(slides), tuple(slides.values())
        for name, part in zip(names[1:], parts[1:], strict=True):
            _require_same_grid(names[0], parts[0], name, part, compare_mpp=options.get("mpp") is None)
        with_mpp = [part for part in parts if part.has_mpp]
        if (stated := options.get("mpp")) is not None:  # the file that contradicts it most is the one to be noted
            with_mpp.sort(key=lambda part: -abs(part.mpp - stated))
        # The levels of each part, for each size that all have; of two levels of one size the finer, which comes first.
        sizes = [[(level.width, level.height) for level in part.levels] for part in parts]
        shared = [size for size in dict.fromkeys(sizes[0]) if all(size in of_part for of_part in sizes)]
        self._level_of = [tuple(of_part.index(size) for of_part in sizes) for size in shared]
        paths = tuple(dict.fromkeys(path for part in parts for path in part.paths))
        facts = SlideFacts(
            channels=names,
            dtype=parts[0].dtype,
            levels=tuple(parts[0].levels[indices[0]] for indices in self._level_of),
            resolution=(with_mpp or parts)[0].facts.resolution,
            paths=paths,
            bounds=parts[0].bounds,
            notes=tuple(dict.fromkeys(note for part in parts for note in part.notes)),
            icc=", ".join(dict.fromkeys(part.facts.icc for part in parts if part.facts.icc)),
            file_of=tuple(paths.index(part.paths[0]) for part in parts),
        )
        files = tuple(file for part in parts for file in part._files)
        super().__init__(facts, {"slides": self._slides}, files=files, **options)

    @property
    def source(self) -> dict[str, str]:
        """Absolute path with its fragment of each channel."""
        return {name: str(part.source) for name, part in self._slides.items()}

    def _read_level(self, left: int, top: int, width: int, height: int, level: int) -> PixelsAndOpacity:
        parts = [
            part._read_level(left, top, width, height, index)
            for part, index in zip(self._slides.values(), self._level_of[level], strict=True)
        ]
        pixels = np.concatenate([plane for plane, _ in parts])
        if all(opacity is None for _, opacity in parts):
            return pixels, None
        opaque = np.full((1, height, width), 255, np.uint8)
        covers = [opaque if opacity is None else np.broadcast_to(opacity, opaque.shape) for _, opacity in parts]
        return pixels, np.concatenate(covers)

    def _is_absent(self, level: int, rows: NDArray[np.int64], columns: NDArray[np.int64]) -> NDArray[np.bool_]:
        parts = zip(self._slides.values(), self._level_of[level], strict=True)
        return np.asarray(np.any([part._is_absent(index, rows, columns) for part, index in parts], axis=0), np.bool_)

    def close(self) -> None:
        """Let go of the files; a later read opens them again."""
        for slide in self._slides.values():
            slide.close()


def _require_same_grid(name: str, one: Slide, other_name: str, other: Slide, *, compare_mpp: bool) -> None:
    """Refuse two channels that do not lie on one grid."""
    differences = []
    if one.size != other.size:
        differences.append(f"size {'x'.join(map(str, one.size))} against {'x'.join(map(str, other.size))}")
    if one.dtype != other.dtype:
        differences.append(f"type {one.dtype.name} against {other.dtype.name}")
    is_mpp_compared = compare_mpp and one.has_mpp and other.has_mpp
    if is_mpp_compared and abs(one.mpp - other.mpp) > MPP_TOLERANCE * max(one.mpp, other.mpp):
        differences.append(f"mpp {one.mpp:g} against {other.mpp:g}")
    if differences:
        raise ModalityMismatchError(
            f"{name} and {other_name} differ: {'; '.join(differences)}",
            place=f"{one.paths[0]}, {other.paths[0]}",
            remedy="register and resample the files to one grid, or name those that belong together in a manifest",
        )


Offsets = tuple[tuple[int, int], ...]
"""Whole level-0 px (x, y) for each channel: its pixel (u, v) is read from (u + x, v + y)."""


def aligned(slide: Slide, offsets: Offsets, background: Background | None = None) -> Slide:
    """Return a slide whose channels lie on each other; the slide itself if all `offsets`, one a channel, are 0.

    The `background` fills what comes from outside; default: the slide's own.
    """
    if not any(x or y for x, y in offsets):
        return slide
    return AlignedSlide(slide=slide, offsets=offsets, background=background or slide.background)


class AlignedSlide(Slide):
    """A slide each of whose channels is read from a place of its own, see `aligned`."""

    def __init__(self, *, slide: Slide, offsets: Offsets, **options: Unpack[SlideOptions]) -> None:
        self._slide, self._offsets = slide, offsets
        super().__init__(slide.facts, {"slide": slide, "offsets": offsets}, files=slide._files, **options)

    def _read_level(self, left: int, top: int, width: int, height: int, level: int) -> PixelsAndOpacity:
        box = self.levels[level]
        # At coarser levels the offset is rounded to the level's pixels, as the corner of a region is.
        moves = [(round(x / box.downsample), round(y / box.downsample)) for x, y in self._offsets]
        moves_x, moves_y = zip(*moves, strict=True)
        # One read covers all channels: a tile that holds several of them is decoded once.
        x0, x1 = (min(max(left + n, 0), box.width) for n in (min(moves_x), width + max(moves_x)))
        y0, y1 = (min(max(top + n, 0), box.height) for n in (min(moves_y), height + max(moves_y)))
        out = np.zeros((len(moves), height, width), self.dtype)
        cover = np.zeros((len(moves), height, width), np.uint8)
        if x0 >= x1 or y0 >= y1:
            return out, cover
        pixels, opacity = self._slide._read_level(x0, y0, x1 - x0, y1 - y0, level)
        shown = np.broadcast_to(np.uint8(255) if opacity is None else opacity, pixels.shape)
        for channel, (x, y) in enumerate(moves):
            columns, rows = _overlap(left + x, width, x0, x1), _overlap(top + y, height, y0, y1)
            out[channel, rows[0], columns[0]] = pixels[channel, rows[1], columns[1]]
            cover[channel, rows[0], columns[0]] = shown[channel, rows[1], columns[1]]
        return out, None if cover.min(initial=255) == 255 else cover

    def _is_absent(self, level: int, rows: NDArray[np.int64], columns: NDArray[np.int64]) -> NDArray[np.bool_]:
        # Shifts are small against chunks.
        return self._slide._is_absent(level, rows, columns)

    def _covered(self, channels: Sequence[int], height: int, width: int) -> tuple[slice, slice]:
        """Return the rows and columns of an image of the whole slide at which all these channels have pixels."""
        # A fill is known by touching the border of its file, which lies inside the slide for a moved channel.
        across, down = zip(*(self._offsets[channel] for channel in channels), strict=True)
        return _common_part(down, height, self.size[1]), _common_part(across, width, self.size[0])

    def close(self) -> None:
        """Let go of the files; a later read opens them again."""
        self._slide.close()


def _common_part(offsets: Sequence[int], length: int, full_px: int) -> slice:
    """Return what of an axis of an overview all channels cover; offsets and full length in level-0 px."""
    first, last = max(0, -min(offsets)), full_px - max(0, max(offsets))
    return slice(math.ceil(first * length / full_px), max(0, math.floor(last * length / full_px)))


def _overlap(start: int, length: int, low: int, high: int) -> tuple[slice, slice]:
    """Return which part of a run lies between two edges: in the run, and counted from the lower edge."""
    first, last = min(max(start, low), high), min(max(start + length, low), high)
    return slice(first - start, last - start), slice(first - low, last - low)
