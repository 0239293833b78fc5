"""Describe an open slide, and read its levels as stored: the base that each adapter of a file format implements."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Self, TypedDict

import numpy as np
from numpy.typing import NDArray

from pathopatch.core.artefacts import changed
from pathopatch.core.config import mpp_agrees
from pathopatch.core.errors import ChannelMismatchError, MppMissingError
from pathopatch.slides.background import Background, Polarity, parse_background
from pathopatch.slides.integrity import OpenedFile, unsupported
from pathopatch.slides.resample import PixelsAndOpacity
from pathopatch.slides.resolution import RGB, SlideFacts, resolution
from pathopatch.slides.slide_paths import WHOLE_FILE


class SlideOptions(TypedDict, total=False):
    """Options of every adapter: values in place of the file's facts and of the guessed background."""

    mpp: float | None  # um per level-0 px
    channels: tuple[str, ...] | None  # names of the planes
    background: Background | None  # ``dark``, ``bright`` or ``CARS=dark,HE=bright``


class SlideFile(ABC):
    """An open slide as its file states it; a context manager that pickles by opening its files again.

    An adapter gives its `facts`, the keyword `arguments` that make it again, and all `files` that are read, from before
    the first byte was. Its options are those of `open_slide`.

    Attributes
    ----------
    facts : SlideFacts
        Known without reading pixels; names and mpp that the caller gave replace the file's.
    channels : tuple of str
        Names of the channels, in the order of the pixels.
    dtype : dtype
        Type of the pixels, as in the file (native byte order).
    levels : tuple of Level
        Resolutions that the file holds, finest first.
    size : (int, int)
        Width and height, level-0 px.
    bounds : (int, int, int, int)
        (x, y, width, height) of the scanned part, level-0 px; the whole slide if the file names none.
    notes : tuple of str
        Choices and assumptions made in reading the files, for a person to check; mostly none.
    paths : tuple of Path
        Files that the pixels come from, without fragments, each once.
    file_of : tuple of int
        Index of the file that each channel comes from: planes of one file were scanned together.
    has_mpp, is_colour, is_rgb : bool
        Micrometres per pixel are known; the channels are red, green and blue of one image; they are so in uint8.
    """

    def __init__(
        self,
        facts: SlideFacts,
        arguments: Mapping[str, Any],
        *,
        mpp: float | None = None,
        channels: tuple[str, ...] | None = None,
        background: Background | None = None,
        files: tuple[OpenedFile, ...] = (),
    ) -> None:
        self._files = files
        self._arguments = {**arguments, "mpp": mpp, "channels": channels, "background": background}
        self.paths = facts.paths
        if channels is not None and (len(channels) != len(facts.channels) or len(set(channels)) != len(channels)):
            raise ChannelMismatchError(
                f"{len(channels)} channel names {', '.join(channels)} for {len(facts.channels)} planes "
                f"({', '.join(facts.channels)})",
                place=", ".join(map(str, facts.paths)),
                remedy="give one name per plane, each once, or choose one plane with #plane=",
            )
        self.channels = facts.channels if channels is None else tuple(channels)
        self._resolution = facts.resolution if mpp is None else resolution(mpp, mpp, source="the value given")
        self.has_mpp = self._resolution.mpp is not None
        if mpp is not None:
            _ = self.mpp  # refuses one that makes no sense
        self.dtype, self.levels, self.notes = facts.dtype, facts.levels, facts.notes
        file_mpp = facts.resolution.mpp
        if mpp is not None and file_mpp is not None and not mpp_agrees(mpp, file_mpp):
            self.notes = (*self.notes, f"um/px: {mpp:g} is stated and counts, though the file says {file_mpp:g}")
        self.size = facts.levels[0].width, facts.levels[0].height
        self.bounds = facts.known_bounds
        self.file_of = facts.file_of or (0,) * len(self.channels)
        self.is_colour = self.channels == RGB and len(set(self.file_of)) == 1
        self.facts = replace(
            facts, channels=self.channels, resolution=self._resolution, bounds=self.bounds, notes=self.notes
        )
        self.is_rgb = self.facts.is_rgb
        self._background = background
        self._stated: tuple[Polarity | None, ...] = (None,) * len(self.channels)
        if background is not None:
            self._stated = parse_background(background, self.channels, place=str(facts.paths[0]))

    @property
    def source(self) -> str | dict[str, str]:
        """Absolute path with its fragment, or one per channel name: `open_slide` opens this slide again from it."""
        choice = self._arguments.get("choice", WHOLE_FILE)
        chosen = [f"{name}={number}" for name, number in vars(choice).items() if name != "path" and number is not None]
        return f"{self.paths[0].absolute()}{'#' if chosen else ''}{'&'.join(chosen)}"

    @property
    def mpp(self) -> float:
        """Micrometres per level-0 pixel.

        Raises
        ------
        MppMissingError
            Neither the file nor the caller states them, or the value makes no sense.
        """
        if self._resolution.mpp is None:
            raise MppMissingError(
                f"micrometres per pixel are unknown: {self._resolution.reason}",
                place=", ".join(map(str, self.paths)),
                remedy="give --slide-mpp to tile, predict, check or info; in a manifest fill the column mpp",
            )
        return self._resolution.mpp

    def add_note(self, text: str) -> None:
        """Add to `notes`, of this slide and of those made of it from now on."""
        self.notes = (*self.notes, text)
        self.facts = replace(self.facts, notes=self.notes)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def __reduce__(self) -> tuple[Any, ...]:
        # File handles cannot be sent to another process: it gets the arguments and opens the file itself.
        return _open_again, (type(self), self._arguments, self._files)

    def require_unchanged(self) -> None:
        """Raise InputChangedError if files were overwritten, replaced, extended or cut since they were opened."""
        for file in self._files:
            file.require_unchanged()

    @abstractmethod
    def _read_level(self, left: int, top: int, width: int, height: int, level: int) -> PixelsAndOpacity:
        """Return pixels (C, H, W) of a rectangle inside a level, in its px, and their opacity."""

    def _is_absent(self, level: int, rows: NDArray[np.int64], columns: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Return which rectangles of a level hold pixels that are stored nowhere, in some channel, (R, C).

        `rows`, (R, 2), and `columns`, (C, 2), are their first and last pixels.
        """
        return np.zeros((len(rows), len(columns)), np.bool_)

    @abstractmethod
    def close(self) -> None:
        """Let go of the files; a later read opens them again."""


def _open_again(kind: type[SlideFile], arguments: Mapping[str, Any], files: tuple[OpenedFile, ...]) -> SlideFile:
    """Return a slide in another process than the one that opened it first."""
    slide = kind(**arguments)
    if slide._files != files:
        slide.close()
        raise changed(slide.paths[0])
    return slide


def plane_slice(path: Path, names: Sequence[str], plane: int | None) -> slice:
    """Return which of a file's planes are read: all, or the chosen one; refuse one that is not there."""
    if plane is None:
        return slice(0, len(names))
    if not 0 <= plane < len(names):
        raise unsupported(path, f"there is no plane {plane}", f"choose 0 to {len(names) - 1} ({', '.join(names)})")
    return slice(plane, plane + 1)
