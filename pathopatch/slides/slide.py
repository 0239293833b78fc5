"""Read an open slide at any place and scale: the interface of all file formats."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cached_property, partial
from typing import TYPE_CHECKING, Any, NamedTuple, cast

import numpy as np

from pathopatch.core.artefacts import fingerprint, fingerprint_file
from pathopatch.core.config import MPP_TOLERANCE
from pathopatch.core.errors import InputUnsupportedError
from pathopatch.slides.background import Background, Polarities, background_text, guess_polarities
from pathopatch.slides.composite import compose
from pathopatch.slides.resample import (
    EXACT_READ_FACTOR,
    SAME_FACTOR,
    Pixels,
    level_for,
    planes,
    shrink,
    shrink_in_bands,
)
from pathopatch.slides.slide_file import SlideFile
from pathopatch.slides.slide_paths import split_fragment
from pathopatch.slides.unscanned import ClearPixels, Unscanned, find_unscanned

if TYPE_CHECKING:
    from PIL.Image import Image

_GUESS_PX = 512  # longest side of the overview that the background is guessed from
_WHOLE_PATCH_BYTES = 512 * 2**20  # a patch that covers more source than this is read in bands
_OPAQUE = 127  # opacity as one more plane of the slide's type: the largest value that every type of pixels holds
_PROBES, _PROBE_PX = 6, 32  # samples of pixels per axis in a fingerprint, and their side
_LOW, _HIGH = 1.0, 99.9  # percentiles drawn black and full: of a slide with little tissue it is the brightest pixels


class _SmallOverview(NamedTuple):
    """Polarities, and the (least, largest) value of each channel, on a small overview."""

    polarities: Polarities
    extremes: list[tuple[float, float]]


class Slide(SlideFile):
    """An open slide; see `SlideFile` for its attributes.

    Points are (x, y) in level-0 pixels from the top-left corner of the whole slide; pixels are (C, H, W) in the
    source's type. Pixels outside the slide, and those never scanned, have the background value.
    """

    @property
    def polarities(self) -> Polarities:
        """Whether each channel is dark or bright where there is no tissue; guessed from the overview unless given."""
        if None in self._stated:
            guessed = self._small_overview.polarities
            self._stated = tuple(one or other for one, other in zip(self._stated, guessed, strict=True))
        return cast(Polarities, self._stated)

    @property
    def background(self) -> Background:
        """The polarities as a text: ``dark``, ``bright``, or ``CARS=dark,HE=bright`` where channels differ."""
        return background_text(self.channels, self.polarities)

    @property
    def background_values(self) -> Pixels:
        """Value of each channel outside the slide, see `values_of`."""
        return self.values_of(self.polarities)

    @cached_property
    def fingerprint(self) -> str:
        """Fingerprint of the files, of the pages or planes chosen of them, of what is stated, and of some pixels."""
        digest = hashlib.sha256()
        # The fingerprint of a large file has samples of its bytes only, so some pixels are read too.
        for y in np.linspace(0, self.size[1], _PROBES, endpoint=False).astype(int).tolist():
            for x in np.linspace(0, self.size[0], _PROBES, endpoint=False).astype(int).tolist():
                digest.update(np.ascontiguousarray(self.read_region(x, y, _PROBE_PX, _PROBE_PX)).tobytes())
        # Without the path: a moved slide is the same one, but two pages of one file are two slides.
        sources = self.source if isinstance(self.source, dict) else {"": self.source}
        pixels = {
            "files": [fingerprint_file(path) for path in self.paths],
            "chosen": {name: str(replace(split_fragment(source), path="")) for name, source in sources.items()},
            "channels": self.channels,
            "mpp": self.mpp,
            "background": self.background,
            "probes": digest.hexdigest(),
        }
        return fingerprint(pixels)

    def values_of(self, polarities: Polarities) -> Pixels:
        """Return the value of each channel, (C,) in the source's type, outside tissue.

        Bright is an integer type's largest value, dark is 0. A floating-point type has no white, and values below 0 no
        black: the overview's extremes take their place.
        """
        values: list[int | float] = []
        for channel, polarity in enumerate(polarities):
            if polarity == "bright" and self.dtype.kind in "iu":
                values.append(int(np.iinfo(cast(Any, self.dtype)).max))
            elif self.dtype.kind == "u":
                values.append(0)
            else:
                low, high = self._small_overview.extremes[channel]
                values.append(high if polarity == "bright" else min(low, 0.0))
        return np.array(values, self.dtype)

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
            Source type. Channels may alternate in memory, as decoders write them: `pathopatch.slides.resample.planes`
            takes them apart.

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
        level = level_for([box.downsample for box in self.levels], downsample, exact_factor=exact_factor)
        scale, box = self.levels[level].downsample, self.levels[level]
        factor = downsample / scale
        is_same_scale = abs(factor - 1) <= SAME_FACTOR
        left, top = math.floor(x / scale + 0.5), math.floor(y / scale + 0.5)
        side = patch_px if is_same_scale else math.ceil(patch_px * factor - 1e-6)
        # At level 0 and its own scale every pixel is either on the slide or off it. Otherwise a pixel may lie on the
        # slide in part, or be missing from the level, whose size was rounded down.
        may_be_partial = level > 0 or not is_same_scale
        is_over_edge = left + side > box.width or top + side > box.height
        is_on_slide = 0 <= x < self.size[0] and 0 <= y < self.size[1]
        if may_be_partial and is_over_edge and factor >= 1 - SAME_FACTOR and is_on_slide:
            return self._read_over_edge(x, y, patch_px, downsample, level)
        if is_same_scale:
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

    def thumbnail(self, max_px: int = 512) -> Image:
        """Return the whole slide as a small picture, which notebooks show.

        Brightfield colour is as recorded. Other channels have fixed colours, between the 1st and the 99.9th percentile
        of the slide's intensities.

        Parameters
        ----------
        max_px : int
            Longest side, px; smaller slides keep their size.

        Raises
        ------
        InputCorruptError
            The file cannot be decoded.
        InputUnsupportedError
            `max_px` is below 1.

        Examples
        --------
        >>> with pathopatch.open_slide("slide.svs") as slide:  # doctest: +SKIP
        ...     slide.thumbnail(1024).save("slide.png")
        """
        if max_px < 1:
            raise InputUnsupportedError(f"a thumbnail of {max_px} px", place="max_px", remedy="ask for at least 1 px")
        overview, _, _ = self.read_overview(max_px)
        return _picture(overview, self.polarities, is_rgb=self.is_rgb)

    def __repr__(self) -> str:
        width, height = self.size
        scale = f"{self.mpp:.4g} um/px" if self.has_mpp else "um/px unknown"
        channels = ", ".join(self.channels)
        return f"<{type(self).__name__} {self._file_names!r}: {width} x {height} px, {scale}, {channels}>"

    @property
    def _file_names(self) -> str:
        return ", ".join(path.name for path in self.paths)

    def read_scanned_overview(self, max_px: int = 4096) -> tuple[Pixels, Unscanned, float, float]:
        """Return the overview with what of it was never scanned; arguments and errors as `read_overview`.

        A pixel was scanned if all channels were there: at least half of it is opaque, and it is no fill, see
        `pathopatch.slides.unscanned`.
        """
        clear = ClearPixels()
        pixels, scale_x, scale_y = self._overview(max_px, partial(self._blended, clear=clear), len(self.channels))
        unscanned = self._unscanned(pixels)
        if clear.opaque is not None:
            unscanned = replace(unscanned, mask=unscanned.mask | clear.mask(pixels.shape[1:]))
        # Patches are read from another level, of which other parts may be absent.
        for level, box in enumerate(self.levels):
            edges = [np.arange(n + 1) * px / n for n, px in zip(pixels.shape[1:], (box.height, box.width), strict=True)]
            spans = [np.stack([edge[:-1].astype(int), np.ceil(edge[1:]).astype(int) - 1], axis=1) for edge in edges]
            unscanned = replace(unscanned, mask=unscanned.mask | self._is_absent(level, *spans))
        return pixels, unscanned, scale_x, scale_y

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
            out[:, y0 - top : y1 - top, x0 - left : x1 - left] = self._blended(x0, y0, x1 - x0, y1 - y0, level)
        return out

    def _read_over_edge(self, x: int, y: int, patch_px: int, downsample: float, level: int) -> Pixels:
        """Return a patch that begins on the slide and reaches past it: means of what is inside, then background."""
        box = self.levels[level]
        factor = max(1.0, downsample / box.downsample)
        # Where a level lacks the slide's last pixels, its own last ones take their place.
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
        # A pixel counts as inside if its middle is; the first always does, since the patch begins on the slide.
        rest = self.size[0] - x, self.size[1] - y
        across, down = (max(1, math.floor(length / downsample + 0.5)) for length in rest)
        patch[:, down:] = self.background_values[:, None, None]
        patch[:, :, across:] = self.background_values[:, None, None]
        return patch

    def _blended(
        self, left: int, top: int, width: int, height: int, level: int, clear: ClearPixels | None = None
    ) -> Pixels:
        """Return pixels inside a level, mixed with the background value by their opacity; note the clear ones."""
        pixels, opacity = self._read_level(left, top, width, height, level)
        if opacity is None:
            return pixels
        if clear is not None:
            clear.add(opacity, top, self.levels[level].height)
        share = opacity.astype(np.float32) / 255
        fill = self.background_values.astype(np.float64)[:, None, None]
        mixed = pixels.astype(np.float64) * share + fill * (1 - share)
        return np.asarray((np.rint(mixed) if self.dtype.kind in "iu" else mixed).astype(self.dtype))

    def _with_opacity(self, left: int, top: int, width: int, height: int, level: int) -> list[Pixels]:
        """Return the planes inside a level and, as one more, their opacity from 0 to `_OPAQUE`; nothing is mixed."""
        pixels, opacity = self._read_level(left, top, width, height, level)
        if opacity is None:
            return [*planes(pixels), np.broadcast_to(np.array(_OPAQUE, self.dtype), (height, width))]
        # A pixel is as opaque as the channel that is least so.
        least = opacity.min(axis=0) if opacity.ndim == 3 else opacity
        return [*planes(pixels), (least // 2).astype(self.dtype)]

    def _overview(
        self, max_px: int, read: Callable[..., Pixels | list[Pixels]], count: int
    ) -> tuple[Pixels, float, float]:
        """Return the overview of what a function reads of a level, `count` planes, and its scales."""
        width, height = self.size
        shrinkage = max(1.0, max(width, height) / max_px)
        w, h = max(1, round(width / shrinkage)), max(1, round(height / shrinkage))
        scale_x, scale_y = width / w, height / h
        level = level_for([box.downsample for box in self.levels], min(scale_x, scale_y))
        box = self.levels[level]
        pixels = shrink_in_bands(
            lambda top, rows: read(0, top, box.width, rows, level),
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
            # Pixels that are not finite are refused when the slide is analysed.
            if not part.size or (part.dtype.kind == "f" and not np.isfinite(part).all()):
                continue
            of_file = find_unscanned(part, is_colour=self.is_colour)
            mask[rows, columns] |= of_file.mask
            doubtful_share = max(doubtful_share, of_file.doubtful_share)
        return Unscanned(mask=mask, doubtful_share=doubtful_share)

    def _covered(self, channels: Sequence[int], height: int, width: int) -> tuple[slice, slice]:
        """Return the rows and columns of an image of the whole slide at which channels of one file have pixels."""
        return slice(0, height), slice(0, width)

    @cached_property
    def _small_overview(self) -> _SmallOverview:
        # Not by `_blended`, which needs the background values that are guessed here.
        overview, _, _ = self._overview(_GUESS_PX, self._with_opacity, len(self.channels) + 1)
        overview, opacity = overview[:-1], overview[-1]
        valid = np.asarray((opacity >= _OPAQUE) & ~self._unscanned(overview).mask)
        values = overview[:, valid].astype(np.float64)
        values = np.where(np.isfinite(values), values, np.nan)
        extremes = [(0.0, 0.0)] * len(values)
        if values.size and not np.isnan(values).all(axis=1).any():
            extremes = list(zip(np.nanmin(values, axis=1).tolist(), np.nanmax(values, axis=1).tolist(), strict=True))
        polarities = guess_polarities(overview, is_colour=self.is_colour, valid=valid)
        return _SmallOverview(polarities, extremes)


def _picture(overview: Pixels, polarities: Polarities, *, is_rgb: bool) -> Image:
    """Return an overview (C, h, w) as a picture; see `Slide.thumbnail`."""
    from PIL import Image

    windows = np.zeros((len(overview), 2))
    for row, plane, polarity in zip(windows, overview, polarities, strict=True):
        values = plane[np.isfinite(plane)].astype(np.float64)
        # Percentiles of all finite pixels: tissue is not sought for a picture. Colour needs none.
        if values.size and not is_rgb:
            row[:] = np.percentile(values, (100 - _HIGH, 100 - _LOW) if polarity == "bright" else (_LOW, _HIGH))
    # What is no number has no colour: black.
    return Image.fromarray(compose(np.nan_to_num(overview, posinf=0, neginf=0), windows, is_rgb=is_rgb))
