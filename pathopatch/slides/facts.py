"""What does an adapter find in a slide's file before any pixel is read? Channels, sample type, levels, resolution."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from pathopatch.core.errors import ChannelMismatchError
from pathopatch.slides.resolution import Resolution

RGB = ("R", "G", "B")
DTYPES = tuple(np.dtype(name) for name in ("uint8", "uint16", "int8", "int16", "float32", "float64"))
"""Sample types that a slide may have."""
ALPHA_NOTE = "the alpha sample is taken as opacity; if it is a channel, name all samples in the column channels"


@dataclass(frozen=True)
class Level:
    """One resolution of a slide.

    Parameters
    ----------
    width, height : int
        Size, px of this level.
    downsample : float
        Level-0 px per px of this level.
    """

    width: int
    height: int
    downsample: float


@dataclass(frozen=True)
class SlideFacts:
    """What an adapter finds in its file before any pixel is read."""

    channels: tuple[str, ...]
    dtype: np.dtype[np.generic]
    levels: tuple[Level, ...]
    resolution: Resolution
    paths: tuple[Path, ...]
    bounds: tuple[int, int, int, int] | None = None  # x, y, width, height, level-0 px
    notes: tuple[str, ...] = ()  # what was chosen or assumed in reading the file, for a person to check

    def renamed(self, channels: tuple[str, ...] | None) -> tuple[str, ...]:
        """Return the names that were asked for, or the file's own.

        Raises
        ------
        ChannelMismatchError
            Their number differs, or one stands twice.
        """
        if channels is None:
            return self.channels
        if len(channels) != len(self.channels) or len(set(channels)) != len(channels):
            raise ChannelMismatchError(
                f"{len(channels)} channel names {', '.join(channels)} for {len(self.channels)} planes "
                f"({', '.join(self.channels)})",
                place=", ".join(str(path) for path in self.paths),
                remedy="give one name per plane, each once, or choose one plane with #plane=",
            )
        return tuple(channels)
