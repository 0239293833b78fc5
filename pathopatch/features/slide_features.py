"""Features of one slide's patches, with their places, scale and encoder."""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from pathopatch.core.config import mpp_agrees
from pathopatch.core.errors import InputUnsupportedError, MppMissingError

_SKETCH = 64
_SAME_SHARE = 0.75  # of the marks: slides also share rows of pure white or black


@dataclass(frozen=True, kw_only=True)
class Encoder:
    """The encoder of a set of features. Facts that its files do not state are None: they are never guessed.

    A name is not a representation: two tools write other vectors under the name of one encoder, with another pooling
    or input size.
    """

    dim: int  # values per patch
    name: str | None = None  # as the tool calls it
    input_px: int | None = None  # side that patches were resampled to

    def to_dict(self) -> dict[str, Any]:
        """Return what is known, as plain values."""
        return {name: value for name, value in vars(self).items() if value is not None}


@dataclass(frozen=True, kw_only=True, eq=False)
class SlideFeatures:
    """Features of N patches of a slide, in the order of their file; those of STAMP by y, then x. N may be 0."""

    slide_id: str
    features: NDArray[Any]  # float16 or float32, (N, D)
    encoder: Encoder
    path: Path  # the file with the features
    companions: tuple[Path, ...] = ()  # the other files that were read, such as those of the coordinates
    # (N,): top-left corner of each patch, in `unit`, from the corner of the scan
    x: NDArray[np.float64] | None = None  # None: the file has no coordinates
    y: NDArray[np.float64] | None = None
    side: float | None = None  # of a patch, in `unit`; None where the file does not state it
    unit: Literal["px", "um"] = "px"  # level-0 pixels, or micrometres where the file has no level-0 scale
    mpp: float | None = None  # level-0 um/px
    tissue_fraction: NDArray[np.float32] | None = None  # (N,), where the tool stored it
    size_px: tuple[int, int] | None = None  # level-0 width and height of the slide
    notes: tuple[str, ...] = ()  # what a reader of results must know, such as which patches the tool had left out

    def __len__(self) -> int:
        return len(self.features)

    def require_size(self, size: tuple[int, int], *, place: str) -> None:
        """Refuse a slide of another level-0 (width, height) than the one of which these features state to be."""
        if self.size_px is not None and tuple(self.size_px) != tuple(size):
            (width, height), (own_width, own_height) = size, self.size_px
            raise InputUnsupportedError(
                f"the slide has {width} x {height} px, and the features of {self.slide_id} are of a slide of "
                f"{own_width} x {own_height} px",
                place=place,
                remedy="give the slide that these features were made of",
            )

    def in_level0_px(self, mpp: float | None = None) -> SlideFeatures:
        """Return them with `x`, `y` and `side` in level-0 pixels.

        `mpp` is the slide's level-0 um/px, which is used only where the file has none of its own; a note says so where
        they differ. MppMissingError if the coordinates are micrometres, and there is none.
        """
        if self.mpp and mpp and not mpp_agrees(self.mpp, mpp):
            both = f"um/px: {self.mpp:g} of the feature file counts for the patches, though the slide has {mpp:g}"
            return replace(self, notes=(*self.notes, both)).in_level0_px()
        scale = self.mpp or mpp
        if self.unit == "px":
            return replace(self, mpp=scale)
        if scale is None and self.x is not None:
            raise MppMissingError(
                f"the coordinates of {self.slide_id} are micrometres",
                place=str(self.path),
                remedy="name the folder of the slides, or state um/px of level 0",
            )
        side = self.side / scale if self.side is not None and scale is not None else None
        if self.x is None or self.y is None or scale is None:
            return replace(self, side=side, unit="px", mpp=scale)
        px_per_um = 1 / scale
        return replace(self, x=self.x * px_per_um, y=self.y * px_per_um, side=side, unit="px", mpp=scale)


def row_sketch(features: NDArray[Any]) -> frozenset[str]:
    """Return marks of up to 64 of the rows of a slide's features (N, D), whatever their order, file and precision.

    Empty where all rows are equal, as of glass alone; compared by `same_rows`.

    References
    ----------
    Broder, On the resemblance and containment of documents, SEQUENCES 1997.
    """
    # As float16, since one tool stores what another one rounds.
    with np.errstate(over="ignore"):
        rows = np.ascontiguousarray(features, np.float16)
    marks = {hashlib.blake2b(row, digest_size=8).hexdigest() for row in rows}
    return frozenset(sorted(marks)[:_SKETCH]) if len(marks) > 1 else frozenset()


def same_rows(sketches: Sequence[frozenset[str]]) -> Iterator[tuple[int, int]]:
    """Yield the places (i, j), i < j, of slides with next to the same rows; of several the first with each other."""
    first_with: dict[str, int] = {}
    for second, marks in enumerate(sketches):
        shared: dict[int, int] = defaultdict(int)
        for mark in marks:
            if (first := first_with.setdefault(mark, second)) != second:
                shared[first] += 1
        for first, count in sorted(shared.items()):
            if count > 1 and count >= _SAME_SHARE * min(len(sketches[first]), len(marks)):
                yield first, second
