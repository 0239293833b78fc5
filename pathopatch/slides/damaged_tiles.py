"""Read a slide although parts of it cannot be decoded; they become background, and their places are kept."""

from __future__ import annotations

from dataclasses import replace
from typing import Unpack

import numpy as np
from numpy.typing import NDArray

from pathopatch.core.errors import InputCorruptError
from pathopatch.slides.resample import PixelsAndOpacity
from pathopatch.slides.slide import Slide
from pathopatch.slides.slide_file import SlideOptions

_SQUARE_PX = 64  # side of the squares, px of a level, to which damage is narrowed down
_Box = tuple[int, int, int, int]


def tolerant(slide: Slide, share: float) -> Slide:
    """Return a slide that is read although parts of it cannot be decoded; one that is tolerant already stays as it is.

    Reading raises InputCorruptError as soon as more than this share, in (0, 1], is lost; see `TolerantSlide`.
    """
    return slide if isinstance(slide, TolerantSlide) else TolerantSlide(slide=slide, share=share)


class TolerantSlide(Slide):
    """A slide whose pixels are background where they cannot be decoded.

    A region that fails is read again in halves, down to squares of 64 px of its level. Squares that still fail are
    lost, for all channels; at most the share of them, in (0, 1], may be lost of each level.
    """

    def __init__(self, *, slide: Slide, share: float, **options: Unpack[SlideOptions]) -> None:
        self._slide, self._share = slide, share
        self._lost: dict[int, set[tuple[int, int]]] = {}  # by level: (column, row) of squares
        options.setdefault("background", slide._background)
        # Squares are lost for all channels at once, so their files count as one.
        arguments = {"slide": slide, "share": share}
        super().__init__(replace(slide.facts, file_of=()), arguments, files=slide._files, **options)

    @property
    def source(self) -> str | dict[str, str]:
        """As of the slide itself: opened again, it tolerates nothing."""
        return self._slide.source

    def is_lost(self, origins: NDArray[np.int64], extent: float) -> NDArray[np.bool_]:
        """Return (N,) which patches overlap squares lost so far, at whatever level.

        `origins`, (N, 2), are their (x, y) corners and `extent` their side, level-0 px.
        """
        is_lost = np.zeros(len(origins), np.bool_)
        x, y = origins.T
        for level, squares in self._lost.items():
            side = _SQUARE_PX * self.levels[level].downsample
            for column, row in squares:
                across = (x < (column + 1) * side) & (x + extent > column * side)
                is_lost |= across & (y < (row + 1) * side) & (y + extent > row * side)
        return is_lost

    def _read_level(self, left: int, top: int, width: int, height: int, level: int) -> PixelsAndOpacity:
        whole = left, top, left + width, top + height
        try:
            return self._slide._read_level(left, top, width, height, level)
        except InputCorruptError as error:
            waiting = self._halves(whole, level, error)
        # Squares of fixed places, not of the region: neighbouring patches lose the same pixels in any order of reading.
        pixels = np.zeros((len(self.channels), height, width), self.dtype)
        opacity = np.zeros(pixels.shape, np.uint8)
        while waiting:
            box = x0, y0, x1, y1 = waiting.pop()
            try:
                part, cover = self._slide._read_level(x0, y0, x1 - x0, y1 - y0, level)
            except InputCorruptError as error:
                waiting += self._halves(box, level, error)
                continue
            place = slice(None), slice(y0 - top, y1 - top), slice(x0 - left, x1 - left)
            pixels[place] = part
            opacity[place] = 255 if cover is None else cover
        return pixels, opacity

    def _halves(self, box: _Box, level: int, error: InputCorruptError) -> list[_Box]:
        """Return the halves of a box that cannot be decoded, less those known to be lost; none of a single square."""
        x0, y0, x1, y1 = box
        columns, rows = range(x0 // _SQUARE_PX, -(-x1 // _SQUARE_PX)), range(y0 // _SQUARE_PX, -(-y1 // _SQUARE_PX))
        if len(columns) == len(rows) == 1:
            self._lose((columns[0], rows[0]), level, error)
            return []
        if len(columns) >= len(rows):
            middle = columns[len(columns) // 2] * _SQUARE_PX
            halves = [(x0, y0, middle, y1), (middle, y0, x1, y1)]
        else:
            middle = rows[len(rows) // 2] * _SQUARE_PX
            halves = [(x0, y0, x1, middle), (x0, middle, x1, y1)]
        return [half for half in halves if not self._is_known_lost(half, level)]

    def _is_known_lost(self, box: _Box, level: int) -> bool:
        """Return whether a rectangle lies within one lost square; it would only fail again."""
        x0, y0, x1, y1 = box
        square = x0 // _SQUARE_PX, y0 // _SQUARE_PX
        is_one = ((x1 - 1) // _SQUARE_PX, (y1 - 1) // _SQUARE_PX) == square
        return is_one and square in self._lost.get(level, ())

    def _lose(self, square: tuple[int, int], level: int, error: InputCorruptError) -> None:
        """Note that a square is lost; raise InputCorruptError if the slide has lost more than its share."""
        lost = self._lost.setdefault(level, set())
        lost.add(square)
        box = self.levels[level]
        if len(lost) > self._share * -(-box.width // _SQUARE_PX) * -(-box.height // _SQUARE_PX):
            raise InputCorruptError(
                f"more than {self._share:.2%} of level {level} cannot be decoded: {error.message}",
                place=error.place,
                remedy="copy it again from its source",
            ) from error

    def close(self) -> None:
        """Let go of the files; a later read opens them again."""
        self._slide.close()
