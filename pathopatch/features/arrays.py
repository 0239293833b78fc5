"""Features of several slides as plain arrays, for notebooks and other code."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from pathopatch.core.errors import InputUnsupportedError
from pathopatch.features.readers import open_features
from pathopatch.features.slide_features import Encoder, SlideFeatures


@dataclass(frozen=True, kw_only=True, eq=False)
class FeatureArrays:
    """Features of N patches of all slides of a folder, slide by slide; see `SlideFeatures`."""

    features: NDArray[Any]  # float16 or float32, (N, D)
    slide_id: NDArray[np.str_]  # (N,)
    # (N,): top-left corner of each patch in `unit`, from the corner of the scan; None: the files have no coordinates
    x: NDArray[np.float64] | None
    y: NDArray[np.float64] | None
    side: NDArray[np.float64]  # (N,), of each patch in `unit`; NaN where it is not known
    unit: Literal["px", "um"]  # level-0 pixels, or micrometres
    tissue_fraction: NDArray[np.float32] | None  # (N,), where the tool stored it for each slide
    encoder: Encoder
    layout: str  # the tool that wrote the files
    notes: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.features)


def read(path: Path | str, *, layout: str = "auto", mpp: float | None = None) -> FeatureArrays:
    """Return the features of all slides of a folder, or those of one file, as arrays.

    Parameters
    ----------
    path : Path or str
        As `open_features` takes it.
    layout : str
        The tool; by default it is recognised.
    mpp : float, optional
        Level-0 um/px of every slide, for files that have centres of patches. Micrometres stay such without it.

    Raises
    ------
    MppMissingError
        The files have centres of patches, and nobody states um/px.
    InputUnsupportedError
        Some slides have coordinates and others do not, or see `open_features`.
    PathopatchError
        See `open_features` and `SlideFolder.read`.

    Examples
    --------
    >>> from pathopatch import features
    >>> patches = features.read("features_uni_v2")  # doctest: +SKIP
    >>> patches.features.shape, patches.slide_id[0]  # doctest: +SKIP
    ((100000, 1536), 'TCGA-02-0001')
    """
    folder = open_features(Path(path), layout=layout)
    slides = [_in_one_frame(folder.read(slide_id), mpp) for slide_id in folder.slide_ids]
    first = slides[0]
    if any((slide.unit, slide.x is None) != (first.unit, first.x is None) for slide in slides):
        raise InputUnsupportedError(
            "some slides have coordinates in micrometres or none, others in pixels",
            place=str(path),
            remedy="state mpp, or read the slides one by one with open_features",
        )
    return FeatureArrays(
        features=np.concatenate([slide.features for slide in slides]),
        slide_id=np.repeat([slide.slide_id for slide in slides], [len(slide) for slide in slides]),
        x=_joined([slide.x for slide in slides]),
        y=_joined([slide.y for slide in slides]),
        side=np.repeat([slide.side or np.nan for slide in slides], [len(slide) for slide in slides]),
        unit=first.unit,
        tissue_fraction=_joined([slide.tissue_fraction for slide in slides]),
        encoder=first.encoder,
        layout=folder.layout,
        notes=tuple(dict.fromkeys(note for slide in slides for note in slide.notes)),
    )


def _in_one_frame(slide: SlideFeatures, mpp: float | None) -> SlideFeatures:
    needs_mpp = slide.unit == "um" and not slide.is_centre
    return slide if needs_mpp and mpp is None and slide.mpp is None else slide.in_level0_px(mpp)


def _joined(arrays: list[NDArray[Any] | None]) -> NDArray[Any] | None:
    known = [array for array in arrays if array is not None]
    return np.concatenate(known) if len(known) == len(arrays) else None
