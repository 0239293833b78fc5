"""Slides whose channels lie in one file each."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from pathopatch.core.errors import ChannelMismatchError, ModalityMismatchError
from pathopatch.slides.background import Background
from pathopatch.slides.planes import Pixels
from pathopatch.slides.resolution import MPP_TOLERANCE, UNSTATED, Level, Resolution, SlideFacts
from pathopatch.slides.slide import Slide


class ChannelStack(Slide):
    """Co-registered slides of one channel each, read as one.

    Parameters
    ----------
    slides : mapping of str to Slide
        The slide behind each channel name, in order; each has one channel.
    mpp, channels, background
        See `Slide`; a given `mpp` stands in place of what all the files say.

    Raises
    ------
    ChannelMismatchError
        A slide has more than one channel.
    ModalityMismatchError
        The slides differ in size, type or mpp; nothing is cropped.
    """

    def __init__(
        self,
        slides: Mapping[str, Slide],
        *,
        mpp: float | None = None,
        channels: tuple[str, ...] | None = None,
        background: Background | None = None,
    ) -> None:
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
            _same(names[0], parts[0], name, part, compare_mpp=mpp is None)
        known = [part for part in parts if part.has_mpp]
        unknown = UNSTATED if not parts else parts[0]._resolution
        self._level_of = _common_levels(parts)
        facts = SlideFacts(
            channels=names,
            dtype=parts[0].dtype,
            levels=tuple(_levels_of(parts[0], self._level_of)),
            resolution=Resolution(known[0].mpp) if known else unknown,
            paths=tuple(dict.fromkeys(path for part in parts for path in part.paths)),
            bounds=parts[0].bounds,
            notes=tuple(dict.fromkeys(note for part in parts for note in part.notes)),
        )
        super().__init__(facts, {"slides": self._slides}, mpp=mpp, channels=channels, background=background)

    @property
    def file_of(self) -> tuple[int, ...]:
        """Number of the file that each channel comes from, in the order of `paths`."""
        return tuple(self.paths.index(part.paths[0]) for part in self._slides.values())

    @property
    def source(self) -> dict[str, str]:
        """Absolute path with its fragment of each channel."""
        return {name: str(part.source) for name, part in self._slides.items()}

    def _read_level(
        self, left: int, top: int, width: int, height: int, level: int
    ) -> tuple[Pixels, NDArray[np.uint8] | None]:
        read = [
            part._read_level(left, top, width, height, index)
            for part, index in zip(self._slides.values(), self._level_of[level], strict=True)
        ]
        pixels = np.concatenate([plane for plane, _ in read])
        if all(opacity is None for _, opacity in read):
            return pixels, None
        opaque = np.full((1, height, width), 255, np.uint8)
        covers = [opaque if opacity is None else np.broadcast_to(opacity, opaque.shape) for _, opacity in read]
        return pixels, np.concatenate(covers)

    def _close(self) -> None:
        for slide in self._slides.values():
            slide.close()


def _same(name: str, one: Slide, other_name: str, other: Slide, *, compare_mpp: bool) -> None:
    """Refuse two channels that do not lie on one grid."""
    differences = []
    if one.size != other.size:
        differences.append(("size", "x".join(map(str, one.size)), "x".join(map(str, other.size))))
    if one.dtype != other.dtype:
        differences.append(("type", one.dtype.name, other.dtype.name))
    if compare_mpp and one.has_mpp and other.has_mpp:
        gap = abs(one.mpp - other.mpp)
        if gap > MPP_TOLERANCE * max(one.mpp, other.mpp):
            differences.append(("mpp", f"{one.mpp:g}", f"{other.mpp:g}"))
    if differences:
        said = "; ".join(f"{what} {a} against {b}" for what, a, b in differences)
        raise ModalityMismatchError(
            f"{name} and {other_name} differ: {said}",
            place=f"{one.paths[0]}, {other.paths[0]}",
            remedy="register and resample the files to one grid, or correct the manifest",
        )


def _common_levels(parts: tuple[Slide, ...]) -> list[tuple[int, ...]]:
    """Return, for each size that all slides have as a level, the level's index in each."""
    indices = [
        {(level.width, level.height): i for i, level in reversed(list(enumerate(part.levels)))} for part in parts
    ]
    sizes = [(level.width, level.height) for level in parts[0].levels]
    shared = [size for size in dict.fromkeys(sizes) if all(size in index for index in indices)]
    return [tuple(index[size] for index in indices) for size in shared]


def _levels_of(first: Slide, level_of: list[tuple[int, ...]]) -> list[Level]:
    return [first.levels[indices[0]] for indices in level_of]
