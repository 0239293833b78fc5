"""Feature files of one tool and one encoder, a slide each, checked as they are read."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from pathopatch.core.artefacts import files_fingerprint
from pathopatch.core.errors import (
    DuplicateIdError,
    InputCorruptError,
    InputMissingError,
    InputUnsupportedError,
    NonFiniteError,
)
from pathopatch.features.slide_features import Encoder, SlideFeatures
from pathopatch.slides.slide_paths import SLIDE_SUFFIXES, slide_id_from_path

_SHOWN = 5  # rows named in a message
_BLOCK_VALUES = 2**18  # features checked at a time: the mask stays in the cache of a core


@dataclass(frozen=True, kw_only=True)
class FeatureFile:
    """Where one slide's features are."""

    slide_id: str
    path: Path
    group: str  # its set of features: a folder, or an encoder
    companions: tuple[Path, ...] = ()  # other files that are read for it, such as that of the coordinates
    table: Any = None  # the table that holds several slides, and the rows of this one

    def slide(
        self, features: NDArray[Any], encoder: Encoder, xy: NDArray[np.float64] | None, **known: Any
    ) -> SlideFeatures:
        """Return features (N, D) of patches at `xy` (N, 2), and what else of `SlideFeatures` is known."""
        x, y = (None, None) if xy is None else (xy[:, 0], xy[:, 1])
        places: dict[str, Any] = {"path": self.path, "companions": self.companions, "x": x, "y": y}
        return SlideFeatures(slide_id=self.slide_id, features=features, encoder=encoder, **places, **known)


class Layout(NamedTuple):
    """How one tool writes features."""

    name: str
    read: Callable[[FeatureFile, bool], SlideFeatures]  # without features if the second argument is False


def slide_id_from_stem(stem: str) -> str:
    """Return a slide's id from a file name without its own ending; an ending of a slide file goes too."""
    return slide_id_from_path(stem if Path(stem).suffix.lower() in SLIDE_SUFFIXES else f"{stem}.h5")


def as_features(values: NDArray[Any], place: str) -> NDArray[Any]:
    """Return features as float16 where they are stored so, else as float32; InputUnsupportedError for whole numbers."""
    if values.dtype.kind != "f" or values.ndim != 2:
        raise InputUnsupportedError(
            f"features of the type {values.dtype} and the shape {values.shape}",
            place=place,
            remedy="store one vector per patch, as float16 or float32",
        )
    return values if values.dtype == np.float16 else values.astype(np.float32, copy=False)


class SlideFolder:
    """Feature files of one tool and one encoder, a slide each. They are never changed.

    `layout` is the tool's name, as `open_features` takes it; `slide_ids` are sorted.
    """

    def __init__(self, kind: Layout, path: Path, files: Sequence[FeatureFile]) -> None:
        by_id: dict[str, FeatureFile] = {}
        for file in sorted(files, key=lambda file: str(file.path)):
            if (other := by_id.setdefault(file.slide_id, file)) is not file:
                raise DuplicateIdError(
                    f"two files of features of the slide {file.slide_id}: {other.path} and {file.path}",
                    place=str(file.path),
                    remedy="name the folder of one of them, or rename one slide",
                )
        self.kind = kind
        self.path = path
        self.layout = kind.name
        self.slide_ids = tuple(sorted(by_id))
        self._by_id = {slide_id: by_id[slide_id] for slide_id in self.slide_ids}

    @cached_property
    def _first(self) -> SlideFeatures | None:
        """The first slide with patches: all others must be of its encoder."""
        slides = (self.kind.read(file, False) for file in self._by_id.values())
        return next((slide for slide in slides if len(slide)), None)

    def file(self, slide_id: str) -> Path:
        """Return the file with a slide's features."""
        return self._file(slide_id).path

    def fingerprint(self, slide_id: str) -> str:
        """Return a fingerprint of all files that a slide's features and coordinates are read from."""
        slide = self._file(slide_id)
        return files_fingerprint([slide.path, *slide.companions])

    def read(self, slide_id: str, *, with_features: bool = True) -> SlideFeatures:
        """Return a slide's features; without them `features` is empty, (N, 0), and all else as it is.

        Raises
        ------
        InputMissingError, InputUnsupportedError
            There is no such slide, or its features are not of the encoder of the first slide.
        InputCorruptError, NonFiniteError
            A file cannot be read in full, its coordinates do not fit its features or its slide, or a value is not
            finite.
        """
        file = self._file(slide_id)
        slide = self.kind.read(file, with_features)
        first = self._first
        if first is not None and not len(slide):  # tools know less of an encoder that they did not run
            no_rows = np.empty((0, first.encoder.dim if with_features else 0), np.float32)
            return replace(slide, features=no_rows, encoder=first.encoder)
        if first is not None:
            _require_one_encoder(slide, first)
        check_slide_file(slide)
        return slide

    def _file(self, slide_id: str) -> FeatureFile:
        if slide_id not in self._by_id:
            raise InputMissingError(
                f"no features of the slide {slide_id}",
                place=str(self.path),
                remedy=f"check the slide_id; there are {', '.join(self.slide_ids[:_SHOWN])}, …",
            )
        return self._by_id[slide_id]


def _require_one_encoder(slide: SlideFeatures, first: SlideFeatures) -> None:
    """Refuse a slide whose encoder is not that of the first slide."""
    now, before = slide.encoder.to_dict(), first.encoder.to_dict()
    for name in sorted({*now, *before}):
        if now.get(name) != before.get(name):
            raise InputUnsupportedError(
                f"mixed encoders: {name} is {now.get(name)} for {slide.slide_id}, {before.get(name)} for "
                f"{first.slide_id}",
                place=str(slide.path),
                remedy="keep the features of one encoder in one folder",
            )


def check_slide_file(slide: SlideFeatures) -> None:
    """Raise unless all arrays of a slide have one length, are finite and lie on the slide."""
    place = str(slide.path)
    for name in ("x", "y", "tissue_fraction"):
        values = getattr(slide, name)
        if values is not None and len(values) != len(slide):
            raise InputCorruptError(
                f"{len(slide)} features and {len(values)} values of {name}",
                place=place,
                remedy="extract the features of this slide again",
            )
        if values is not None:
            _require_none(~np.isfinite(values), slide, f"NaN or infinity as {name}", NonFiniteError)
    is_bad = np.zeros(len(slide), np.bool_)
    rows = max(1, _BLOCK_VALUES // max(1, slide.features.shape[1]))
    for start in range(0, len(slide), rows):
        block = slice(start, start + rows)
        is_bad[block] = ~np.isfinite(slide.features[block]).all(axis=1)
    _require_none(is_bad, slide, "NaN or infinity among the features", NonFiniteError)
    if slide.tissue_fraction is not None:
        is_outside = (slide.tissue_fraction < 0) | (slide.tissue_fraction > 1)
        _require_none(is_outside, slide, "tissue fractions outside 0 to 1", InputCorruptError)
    if slide.x is not None and slide.y is not None and slide.size_px is not None and slide.unit == "px":
        side = slide.side or 0.0
        width, height = slide.size_px
        is_outside = (slide.x + side < 0) | (slide.y + side < 0) | (slide.x >= width) | (slide.y >= height)
        _require_none(is_outside, slide, f"patches outside the slide of {width} x {height} px", InputCorruptError)


def _require_none(
    is_bad: NDArray[np.bool_], slide: SlideFeatures, fault: str, error: type[InputCorruptError] | type[NonFiniteError]
) -> None:
    rows = np.flatnonzero(is_bad)
    if len(rows):
        shown = ", ".join(map(str, rows[:_SHOWN])) + (", …" if len(rows) > _SHOWN else "")
        raise error(
            f"{fault} of {slide.slide_id}, in {len(rows)} of {len(slide)} rows: {shown}",
            place=str(slide.path),
            remedy="extract the features of this slide again, or remove its file",
        )
