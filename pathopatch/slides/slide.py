"""What a slide is to the rest of the package: channels of pixels in levels, whatever file they come from."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple, Self, cast

import numpy as np
from numpy.typing import NDArray

from pathopatch.core.errors import InputUnsupportedError, MppMissingError
from pathopatch.slides.background import (
    Background,
    Polarities,
    Polarity,
    background_text,
    guess_polarities,
    parse_background,
)
from pathopatch.slides.planes import Pixels, planes
from pathopatch.slides.resample import EXACT_READ_FACTOR, SAME_FACTOR, level_for, shrink, shrink_in_bands
from pathopatch.slides.resolution import MPP_TOLERANCE, RGB, Level, SlideFacts, resolution
from pathopatch.slides.unscanned import Unscanned, find_unscanned, with_edge

_GUESS_PX = 512  # longest side of the overview that the background is guessed from
_WHOLE_PATCH_BYTES = 512 * 2**20  # a patch that covers more source than this is read in bands


class _Glance(NamedTuple):
    """What a small overview looks like: polarities, and the (least, largest) value of each channel."""

    polarities: Polarities
    extremes: list[tuple[float, float]]


class _Cover:
    """Where a level is not opaque, noted band by band at a bounded size; nothing is held while all is opaque."""

    _LONGEST_PX = 8192

    def __init__(self) -> None:
        self._opaque: NDArray[np.bool_] | None = None
        self._step = 1

    def add(self, opacity: NDArray[np.uint8], top: int, height: int) -> None:
        """Note the opacity, (H, W) or (C, H, W), of a band of whole rows of a level so many rows high."""
        least = opacity.min(axis=0) if opacity.ndim == 3 else opacity
        if self._opaque is None:
            self._step = max(1, max(height, least.shape[1]) // self._LONGEST_PX)
            self._opaque = np.ones((-(-height // self._step), -(-least.shape[1] // self._step)), np.bool_)
        first = -top % self._step
        rows = least[first :: self._step, :: self._step] >= 128
        start = (top + first) // self._step
        self._opaque[start : start + len(rows)] = rows

    def is_clear(self, shape: tuple[int, ...]) -> NDArray[np.bool_] | None:
        """Return which pixels of an image of the level are not opaque, by their middles; None where all are."""
        if self._opaque is None:
            return None
        rows, columns = (
            np.minimum(((np.arange(n) + 0.5) * size / n).astype(int), size - 1)
            for n, size in zip(shape, self._opaque.shape, strict=True)
        )
        return ~self._opaque[np.ix_(rows, columns)]


class Slide(ABC):
    """An open slide; a context manager that pickles by opening its files again.

    Points are (x, y) in level-0 pixels from the top-left corner of the whole slide; pixels are (C, H, W) in the
    source's type. Pixels outside the slide, and those never scanned, have the background value.

    Parameters
    ----------
    facts : SlideFacts
        What the adapter found.
    arguments : mapping
        Keyword arguments that make the adapter again, for pickling.
    mpp : float, optional
        um per level-0 px, in place of what the file says.
    channels : tuple of str, optional
        Names of the planes, in place of the file's.
    background : str, optional
        ``dark``, ``bright`` or ``CARS=dark,HE=bright``, in place of the guess.

    Raises
    ------
    MppMissingError
        `mpp` is given and out of range.
    ChannelMismatchError
        The number of names differs from the number of planes.
    InputUnsupportedError
        `background` is no polarity, or names another channel.
    """

    def __init__(
        self,
        facts: SlideFacts,
        arguments: Mapping[str, Any],
        *,
        mpp: float | None = None,
        channels: tuple[str, ...] | None = None,
        background: Background | None = None,
    ) -> None:
        self._facts = facts
        self._channels = facts.renamed(channels)
        self._background = background
        self._stated: tuple[Polarity | None, ...] = (None,) * len(self._channels)
        if background is not None:
            self._stated = parse_background(background, self._channels, place=str(facts.paths[0]))
        self._resolution = facts.resolution
        self._arguments = {**arguments, "mpp": mpp, "channels": channels}
        if mpp is not None:
            self._resolution = resolution(mpp, mpp, source="the value given")
            if self._resolution.mpp is None:
                raise self._mpp_missing()

    @property
    def facts(self) -> SlideFacts:
        """What is known of it without reading pixels, names and scale given by the caller in place of the file's."""
        return replace(self._facts, channels=self.channels, resolution=self._resolution, bounds=self.bounds)

    @property
    def channels(self) -> tuple[str, ...]:
        """Names of the channels, in the order of the pixels."""
        return self._channels

    @property
    def dtype(self) -> np.dtype[np.generic]:
        """Type of the pixels, as in the file (native byte order)."""
        return self._facts.dtype

    @property
    def levels(self) -> tuple[Level, ...]:
        """Resolutions that the file holds, finest first."""
        return self._facts.levels

    @property
    def size(self) -> tuple[int, int]:
        """Width and height, level-0 px."""
        return self.levels[0].width, self.levels[0].height

    @property
    def bounds(self) -> tuple[int, int, int, int]:
        """(x, y, width, height) of the scanned part, level-0 px; the whole slide if the file names none."""
        return self._facts.bounds or (0, 0, *self.size)

    @property
    def notes(self) -> tuple[str, ...]:
        """What was chosen or assumed in reading the files, for a person to check; mostly nothing."""
        return self._facts.notes

    @property
    def paths(self) -> tuple[Path, ...]:
        """Files that the pixels come from, without fragments, each once."""
        return self._facts.paths

    @property
    def source(self) -> str | dict[str, str]:
        """Absolute path with its fragment, or one per channel name: what `open_slide` opens this slide from again."""
        holder = self._arguments.get("choice")  # a TIFF's; other adapters take the words themselves
        chosen = self._arguments if holder is None else vars(holder)
        words = [f"{name}={chosen[name]}" for name in ("page", "plane", "z", "t") if chosen.get(name) is not None]
        fragment = "&".join(words)
        return f"{self.paths[0].absolute()}{fragment and '#' + fragment}"

    @property
    def has_mpp(self) -> bool:
        """Whether micrometres per pixel are known."""
        return self._resolution.mpp is not None

    @property
    def mpp(self) -> float:
        """Micrometres per level-0 pixel.

        Raises
        ------
        MppMissingError
            Neither the file nor the caller states them, or the file's value makes no sense.
        """
        if self._resolution.mpp is None:
            raise self._mpp_missing()
        return self._resolution.mpp

    @property
    def is_colour(self) -> bool:
        """Whether the channels are red, green and blue of one image."""
        return self.channels == RGB and len(set(self.file_of)) == 1

    @property
    def is_rgb(self) -> bool:
        """Whether the channels are uint8 red, green and blue."""
        return self.channels == RGB and self.dtype == np.uint8

    @property
    def polarities(self) -> Polarities:
        """Whether each channel is dark or bright where there is no tissue; guessed from the overview unless given."""
        if None in self._stated:
            guessed = self._glance.polarities
            self._stated = tuple(one or other for one, other in zip(self._stated, guessed, strict=True))
        return cast(Polarities, self._stated)

    @property
    def background(self) -> Background:
        """The polarities as a text: ``dark``, ``bright``, or ``CARS=dark,HE=bright`` where channels differ."""
        return background_text(self.channels, self.polarities)

    @property
    def file_of(self) -> tuple[int, ...]:
        """Number of the file that each channel comes from: planes of one file were scanned together."""
        return (0,) * len(self.channels)

    @property
    def background_values(self) -> Pixels:
        """Value of each channel outside the slide, see `values_of`."""
        return self.values_of(self.polarities)

    def values_of(self, polarities: Polarities) -> Pixels:
        """Return the value of each channel that stands for no tissue.

        Parameters
        ----------
        polarities : tuple of {"dark", "bright"}, length C
            The largest value of an integer type is bright, 0 is dark. Where this says nothing, for floating point and
            below 0, it is the channel's largest or least value on the overview.

        Returns
        -------
        ndarray, shape (C,)
            Source type.
        """
        return np.array([self._value_of(*each) for each in enumerate(polarities)], self.dtype)

    def _value_of(self, channel: int, polarity: Polarity) -> int | float:
        if polarity == "bright" and self.dtype.kind in "iu":
            return int(np.iinfo(cast(Any, self.dtype)).max)
        if self.dtype.kind == "u":
            return 0
        low, high = self._glance.extremes[channel]
        return high if polarity == "bright" else min(low, 0.0)

    def read_region(self, x: int, y: int, width: int, height: int, *, level: int = 0) -> Pixels:
        """Return a rectangle of one level.

        Parameters
        ----------
        x, y : int
            Top-left corner, level-0 px; may lie outside the slide.
        width, height : int
            Size, px of the level.
        level : int
            Index into `levels`. The corner falls on the level's nearest pixel.

        Returns
        -------
        ndarray, shape (C, height, width)
            Source type; pixels outside the slide have the background value. Channels may alternate in memory, as
            decoders write them: `pathopatch.slides.planes` takes them apart.

        Raises
        ------
        InputCorruptError
            The file cannot be decoded there.
        InputUnsupportedError
            There is no such level, or the size is not positive.
        """
        if not 0 <= level < len(self.levels) or width < 1 or height < 1:
            raise InputUnsupportedError(
                f"a region of {width} x {height} px at level {level}",
                place=str(self.paths[0]),
                remedy=f"ask for at least 1 x 1 px of level 0 to {len(self.levels) - 1}",
            )
        downsample = self.levels[level].downsample
        left, top = math.floor(x / downsample + 0.5), math.floor(y / downsample + 0.5)
        return self._read_filled(left, top, width, height, level)

    def read_patch(
        self, x: int, y: int, patch_px: int, *, downsample: float, exact_factor: float = EXACT_READ_FACTOR
    ) -> Pixels:
        """Return a square at any resolution: each pixel the mean, per channel, of the area that it covers.

        Of a pixel that lies on the slide in part, that part counts if it is half of the pixel; else it is background.
        Read from the level that `level_for` gives; at that level's own downsample it is a plain crop.

        Parameters
        ----------
        x, y : int
            Top-left corner, level-0 px; at a coarser level it falls on that level's nearest pixel.
        patch_px : int
            Width and height, target px.
        downsample : float
            Level-0 px per target px, kept exactly; the area is ``[x, x + patch_px * downsample)``.
        exact_factor : float
            How many times finer than the target a level may be to be preferred to coarser ones, see `level_for`.

        Returns
        -------
        ndarray, shape (C, patch_px, patch_px)
            Source type.

        Raises
        ------
        InputUnsupportedError
            The slide is coarser than the target by more than 2 %.
        InputCorruptError
            The file cannot be decoded there.
        """
        if not downsample >= 1 / (1 + MPP_TOLERANCE):
            raise InputUnsupportedError(
                f"the slide is coarser than the target: {downsample:.4g} level-0 px per target px",
                place=str(self.paths[0]),
                remedy="choose a target mpp that is not below the slide's",
            )
        level = level_for([each.downsample for each in self.levels], downsample, exact_factor=exact_factor)
        scale, box = self.levels[level].downsample, self.levels[level]
        factor = downsample / scale
        is_same = abs(factor - 1) <= SAME_FACTOR
        left, top = math.floor(x / scale + 0.5), math.floor(y / scale + 0.5)
        side = patch_px if is_same else math.ceil(patch_px * factor - 1e-6)
        is_cut = level > 0 or not is_same  # a pixel may lie on the slide in part, or be missing from the level
        is_over = left + side > box.width or top + side > box.height
        if is_cut and is_over and factor >= 1 - SAME_FACTOR and 0 <= x < self.size[0] and 0 <= y < self.size[1]:
            return self._read_over_edge(x, y, patch_px, downsample, level)
        if is_same:
            return self._read_filled(left, top, side, side, level)
        if side * side * len(self.channels) * self.dtype.itemsize <= _WHOLE_PATCH_BYTES:
            return shrink(self._read_filled(left, top, side, side, level), patch_px, factor)
        return shrink_in_bands(
            lambda first, rows: self._read_filled(left, top + first, side, rows, level),
            source=(len(self.channels), side, side),
            dtype=self.dtype,
            target=(patch_px, patch_px),
            factors=(factor, factor),
        )

    def read_overview(self, max_px: int = 4096) -> tuple[Pixels, float, float]:
        """Return the whole slide at low resolution, area means per channel, read in bands of bounded memory.

        Parameters
        ----------
        max_px : int
            Longest side of the result, px; smaller slides keep their size.

        Returns
        -------
        overview : ndarray, shape (C, h, w)
            Source type.
        scale_x, scale_y : float
            Level-0 px per overview px, exactly ``width / w`` and ``height / h``.

        Raises
        ------
        InputCorruptError
            The file cannot be decoded.
        """
        return self._overview(max_px, self._blended, len(self.channels))

    def read_scanned_overview(self, max_px: int = 4096) -> tuple[Pixels, Unscanned, float, float]:
        """Return the overview with what of it was never scanned; arguments and errors as of `read_overview`.

        A pixel was scanned if all channels were there: at least half of it is opaque, and it is no fill, see
        `pathopatch.slides.unscanned`.
        """
        cover = _Cover()
        pixels, scale_x, scale_y = self._overview(max_px, self._blended, len(self.channels), cover)
        found = self._unscanned(pixels)
        is_clear = cover.is_clear(pixels.shape[1:])
        if is_clear is not None:
            found = replace(found, mask=found.mask | with_edge(is_clear))
        return pixels, found, scale_x, scale_y

    def close(self) -> None:
        """Let go of the files; a later read opens them again."""
        self._close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __reduce__(self) -> tuple[Any, ...]:
        return _reopen, (type(self), {**self._arguments, "background": self._background})

    @abstractmethod
    def _read_level(
        self, left: int, top: int, width: int, height: int, level: int
    ) -> tuple[Pixels, NDArray[np.uint8] | None]:
        """Return pixels (C, H, W) of a rectangle inside a level, in its px, and their opacity.

        The opacity is (H, W) or, where the channels differ, (C, H, W); None if all is opaque (255).
        """

    @abstractmethod
    def _close(self) -> None:
        """Let go of the files."""

    def _read_filled(self, left: int, top: int, width: int, height: int, level: int) -> Pixels:
        """Return a rectangle of a level, in its px, that may reach past its edges."""
        box = self.levels[level]
        if left >= 0 and top >= 0 and left + width <= box.width and top + height <= box.height:
            return self._blended(left, top, width, height, level)
        x0, x1 = max(left, 0), min(left + width, box.width)
        y0, y1 = max(top, 0), min(top + height, box.height)
        out = np.empty((len(self.channels), height, width), self.dtype)
        out[:] = self.background_values[:, None, None]
        if x0 < x1 and y0 < y1:
            inside = self._blended(x0, y0, x1 - x0, y1 - y0, level)
            out[:, y0 - top : y1 - top, x0 - left : x1 - left] = inside
        return out

    def _read_over_edge(self, x: int, y: int, patch_px: int, downsample: float, level: int) -> Pixels:
        """Return a patch that begins on the slide and reaches past it: means of what is inside, then background.

        A pixel counts as inside if its middle is, and the first always does; where a level lacks the slide's last
        pixels, its own last ones stand in for them.
        """
        box = self.levels[level]
        factor = max(1.0, downsample / box.downsample)
        left = min(math.floor(x / box.downsample + 0.5), box.width - 1)
        top = min(math.floor(y / box.downsample + 0.5), box.height - 1)
        side = math.ceil(patch_px * factor - 1e-6)
        width, height = min(side, box.width - left), min(side, box.height - top)
        patch = shrink_in_bands(
            lambda first, rows: self._blended(left, top + first, width, rows, level),
            source=(len(self.channels), height, width),
            dtype=self.dtype,
            target=(patch_px, patch_px),
            factors=(factor, factor),
        )
        rest = self.size[0] - x, self.size[1] - y
        across, down = (max(1, math.floor(length / downsample + 0.5)) for length in rest)
        patch[:, down:] = self.background_values[:, None, None]
        patch[:, :, across:] = self.background_values[:, None, None]
        return patch

    def _blended(self, left: int, top: int, width: int, height: int, level: int, cover: _Cover | None = None) -> Pixels:
        """Return pixels inside a level, those not opaque mixed with the background value; note what is not opaque."""
        pixels, opacity = self._read_level(left, top, width, height, level)
        if opacity is None:
            return pixels
        if cover is not None:
            cover.add(opacity, top, self.levels[level].height)
        return self._mixed(pixels, opacity)

    def _mixed(self, pixels: Pixels, opacity: NDArray[np.uint8]) -> Pixels:
        """Return pixels mixed with the background value by their opacity."""
        share = opacity.astype(np.float32) / 255
        mixed = pixels.astype(np.float64) * share + self.background_values.astype(np.float64)[:, None, None] * (
            1 - share
        )
        if self.dtype.kind in "iu":
            mixed = np.rint(mixed)
        return np.asarray(mixed.astype(self.dtype))

    def _with_cover(self, left: int, top: int, width: int, height: int, level: int) -> list[Pixels]:
        """Return the planes inside a level and, as one more, their opacity from 0 to `_opaque`; nothing is mixed."""
        pixels, opacity = self._read_level(left, top, width, height, level)
        return [*planes(pixels), self._cover(opacity, height, width)]

    @property
    def _opaque(self) -> int:
        """Value of a cover where all is opaque: the largest that every type of pixels holds."""
        return 127

    def _cover(self, opacity: NDArray[np.uint8] | None, height: int, width: int) -> Pixels:
        """Return an opacity as a plane; a pixel is as opaque as the channel that is least so."""
        if opacity is None:
            return np.broadcast_to(np.array(self._opaque, self.dtype), (height, width))
        return ((opacity.min(axis=0) if opacity.ndim == 3 else opacity) // 2).astype(self.dtype)

    def _overview(
        self, max_px: int, read: Callable[..., Pixels | list[Pixels]], count: int, *more: _Cover
    ) -> tuple[Pixels, float, float]:
        """Return the overview of what a function reads of a level, `count` planes, and its scales."""
        width, height = self.size
        shrinkage = max(1.0, max(width, height) / max_px)
        w, h = max(1, round(width / shrinkage)), max(1, round(height / shrinkage))
        scale_x, scale_y = width / w, height / h
        level = level_for([each.downsample for each in self.levels], min(scale_x, scale_y))
        box = self.levels[level]
        pixels = shrink_in_bands(
            lambda top, rows: read(0, top, box.width, rows, level, *more),
            source=(count, box.height, box.width),
            dtype=self.dtype,
            target=(h, w),
            factors=(max(1.0, scale_y / box.downsample), max(1.0, scale_x / box.downsample)),
        )
        return pixels, scale_x, scale_y

    def _unscanned(self, overview: Pixels) -> Unscanned:
        """Return what of an overview was never scanned, by file: a pixel that is missing in one of them is missing."""
        mask, doubtful_share = np.zeros(overview.shape[1:], np.bool_), 0.0
        for number in sorted(set(self.file_of)):
            channels = [channel for channel, file in enumerate(self.file_of) if file == number]
            rows, columns = self._covered(channels, *overview.shape[1:])
            part = overview[channels, rows, columns]
            if not part.size or (part.dtype.kind == "f" and not np.isfinite(part).all()):
                continue  # the latter is refused when it is analysed
            one = find_unscanned(part, is_colour=self.is_colour)
            mask[rows, columns] |= one.mask
            doubtful_share = max(doubtful_share, one.doubtful_share)
        return Unscanned(mask=mask, doubtful_share=doubtful_share)

    def _covered(self, channels: Sequence[int], height: int, width: int) -> tuple[slice, slice]:
        """Return the rows and columns of an image of the whole slide at which channels of one file have pixels."""
        return slice(0, height), slice(0, width)

    @cached_property
    def _glance(self) -> _Glance:
        """What a small overview looks like."""
        overview, _, _ = self._overview(_GUESS_PX, self._with_cover, len(self.channels) + 1)
        overview, cover = overview[:-1], overview[-1]
        valid = np.asarray((cover >= self._opaque) & ~self._unscanned(overview).mask)
        seen = overview[:, valid].astype(np.float64)
        seen = np.where(np.isfinite(seen), seen, np.nan)
        extremes = [(0.0, 0.0)] * len(seen)
        if seen.size and not np.isnan(seen).all(axis=1).any():
            extremes = list(zip(np.nanmin(seen, axis=1).tolist(), np.nanmax(seen, axis=1).tolist(), strict=True))
        return _Glance(guess_polarities(overview, is_colour=self.is_colour, valid=valid), extremes)

    def _mpp_missing(self) -> MppMissingError:
        return MppMissingError(
            f"micrometres per pixel are unknown: {self._resolution.reason}",
            place=", ".join(str(path) for path in self.paths),
            remedy="fill the manifest's column mpp, or give --slide-mpp",
        )


def _reopen(kind: type[Slide], arguments: dict[str, Any]) -> Slide:
    """Return a slide made again in this process."""
    return cast(Any, kind)(**arguments)  # type: ignore[no-any-return]
