"""Read a slide although parts of it cannot be decoded, or are absent; they become background, and their places kept."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import replace
from itertools import product
from typing import Unpack

import numpy as np
from numpy.typing import NDArray

from pathopatch.core.errors import InputCorruptError
from pathopatch.slides.resample import PixelsAndOpacity, rectangle_counts
from pathopatch.slides.slide import Slide
from pathopatch.slides.slide_file import SlideOptions

_SQUARE_PX = 64  # side of the squares, px of a level, to which damage is narrowed down


def tolerant(slide: Slide, share: float) -> Slide:
    """Return a slide that is read although parts of it cannot be decoded; one that is tolerant already stays as it is.

    Reading raises InputCorruptError as soon as more than this share, in (0, 1], is lost; see `TolerantSlide`.
    """
    return slide if isinstance(slide, TolerantSlide) else TolerantSlide(slide=slide, share=share)


class TolerantSlide(Slide):
    """A slide whose pixels are background where they cannot be decoded.

    A region that fails is read again in squares of 64 px of its level. Squares that still fail are lost, for all
    channels, as are those that lie in absent chunks; at most the share of them, in (0, 1], may be lost of each level.
    """

    def __init__(self, *, slide: Slide, share: float, **options: Unpack[SlideOptions]) -> None:
        self._slide, self._share = slide, share
        self._lost: dict[int, NDArray[np.bool_]] = {}  # by level that was read: which squares (rows, columns)
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
        for level, lost in self._lost.items():
            side = _SQUARE_PX * self.levels[level].downsample
            first = np.floor(origins / side).astype(np.int64)  # column and row of the first square
            after = np.ceil((origins + extent) / side).astype(np.int64)
            (x0, y0), (x1, y1) = (np.clip(place, 0, lost.shape[::-1]).T for place in (first, after))
            is_lost |= rectangle_counts(lost, (y0, x0), (y1, x1)) > 0
        return is_lost

    def _read_level(self, left: int, top: int, width: int, height: int, level: int) -> PixelsAndOpacity:
        lost = self._lost_squares(level)
        with suppress(InputCorruptError):
            return self._slide._read_level(left, top, width, height, level)
        # Squares of fixed places, not of the region: neighbouring patches lose the same pixels in any order of reading.
        pixels = np.zeros((len(self.channels), height, width), self.dtype)
        opacity = np.zeros(pixels.shape, np.uint8)
        rows, columns = (
            range(first // _SQUARE_PX, -(-(first + px) // _SQUARE_PX)) for first, px in ((top, height), (left, width))
        )
        for row, column in product(rows, columns):
            if lost[row, column]:  # it would only fail again
                continue
            y0, y1 = max(row * _SQUARE_PX, top), min((row + 1) * _SQUARE_PX, top + height)
            x0, x1 = max(column * _SQUARE_PX, left), min((column + 1) * _SQUARE_PX, left + width)
            try:
                part, cover = self._slide._read_level(x0, y0, x1 - x0, y1 - y0, level)
            except InputCorruptError as error:
                lost[row, column] = True
                self._require_share(level, error.message, error.place)
                continue
            place = slice(None), slice(y0 - top, y1 - top), slice(x0 - left, x1 - left)
            pixels[place] = part
            opacity[place] = 255 if cover is None else cover
        return pixels, opacity

    def _lost_squares(self, level: int) -> NDArray[np.bool_]:
        """Return which squares of a level are lost, (rows, columns): at first those of absent chunks."""
        if level not in self._lost:
            box = self.levels[level]
            starts = [np.arange(0, px, _SQUARE_PX) for px in (box.height, box.width)]
            spans = [
                np.stack([start, np.minimum(start + _SQUARE_PX, px) - 1], axis=1)
                for start, px in zip(starts, (box.height, box.width), strict=True)
            ]
            lost = self._slide._is_absent(level, *spans)
            self._lost[level] = lost
            self._require_share(level, "chunks are absent", str(self.paths[0]))
        return self._lost[level]

    def _require_share(self, level: int, reason: str, place: str) -> None:
        """Raise InputCorruptError if more of a level is lost than may be."""
        if self._lost[level].mean() > self._share:
            raise InputCorruptError(
                f"more than {self._share:.2%} of level {level} cannot be decoded: {reason}",
                place=place,
                remedy="copy it again from its source",
            )

    def _is_absent(self, level: int, rows: NDArray[np.int64], columns: NDArray[np.int64]) -> NDArray[np.bool_]:
        return self._slide._is_absent(level, rows, columns)

    def close(self) -> None:
        """Let go of the files; a later read opens them again."""
        self._slide.close()
