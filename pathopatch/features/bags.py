"""Read a slide's patches as one bag of features: from a work folder of features, or from feature files of any tool."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from pathopatch.core.artefacts import fingerprint, fingerprint_file, read_table
from pathopatch.core.errors import InputMissingError, InputUnsupportedError, MppMissingError
from pathopatch.core.work_folder import WorkFolder
from pathopatch.features.cohort import FEATURE_ROW, is_feature_cohort, read_cohort, read_rows
from pathopatch.features.readers import open_features
from pathopatch.features.readers.folder import SlideFolder
from pathopatch.features.slide_features import Encoder, SlideFeatures
from pathopatch.features.store import encoder_key

_GIB = 2**30
IntArray = NDArray[np.int64]
FloatArray = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True, eq=False)
class Bag:
    """The N patches of a labelled slide, row by row of the slide: y outer, x inner. N may be 0."""

    slide_id: str
    patient_id: str
    label: int  # 0 or 1, of the slide
    x: FloatArray  # (N,): top-left corner, level-0 px; NaN where it is not known
    y: FloatArray
    feature_row: IntArray  # (N,): row in the slide's feature file
    tissue_fraction: FloatArray  # (N,): NaN where it is not known
    # Returns the features (n, D) of some patches, by their places in the bag, as they are stored.
    read: Callable[[IntArray], NDArray[np.floating]]

    def __len__(self) -> int:
        return len(self.feature_row)


@dataclass(frozen=True, kw_only=True, eq=False)
class BagSource:
    """Features of the slides of a cohort."""

    key: str  # names the encoder; see `encoder_key`
    encoder: Mapping[str, Any]  # as `Encoder.to_dict` returns it
    slide_ids: frozenset[str]
    fingerprint: Callable[[str], str]  # of what a slide's bag is read from
    patches: Callable[[str], pd.DataFrame]  # x, y, tissue_fraction and feature_row of a slide's patches
    features: Callable[[str, IntArray], NDArray[np.floating]]  # of some rows of a slide
    about: Callable[[str], SlideFeatures]  # what a slide's file says of its patches, without their features

    def placed(self, slide_id: str, x: FloatArray, y: FloatArray) -> SlideFeatures:
        """Return what is known of some patches of a slide whose corners are at `x`, `y`, (N,), level-0 px."""
        about = self.about(slide_id)
        try:
            about = about.in_level0_px()
        except (MppMissingError, InputUnsupportedError):  # the patches' places are known from elsewhere
            about = replace(about, side=None, unit="px", is_centre=False)
        return replace(about, features=np.empty((len(x), 0), np.float32), x=x, y=y, tissue_fraction=None)

    def bag(self, slide_id: str, *, patient_id: str, label: int) -> Bag:
        """Return the bag of a slide."""
        # In one order whatever the file's: tools write patches as their threads finish, and a seed must give one draw.
        patches = self.patches(slide_id).sort_values(["y", "x"], kind="stable")
        rows = patches[FEATURE_ROW].to_numpy(np.int64)
        x, y, fraction = (patches[name].to_numpy(np.float64) for name in ("x", "y", "tissue_fraction"))
        return Bag(
            slide_id=slide_id,
            patient_id=patient_id,
            label=label,
            x=x,
            y=y,
            feature_row=rows,
            tissue_fraction=fraction,
            read=lambda places: self.features(slide_id, rows[places]),
        )


def open_bags(work: Path, features: str | None = None) -> BagSource:
    """Return the features of a work folder, or those that are named.

    `features` is a folder below ``features/``, or the path of feature files of any tool. Default: the features that the
    patches are, else the only folder below ``features/``. InputMissingError if there are none; InputUnsupportedError if
    there are several, and none was named; else as `open_features`.
    """
    if features is None and is_feature_cohort(work):
        return _cohort_source(work)
    folder = WorkFolder(work).tiled.root / "features"
    keys = sorted(path.name for path in folder.iterdir() if path.is_dir()) if folder.is_dir() else []
    if features is None and len(keys) > 1:
        raise InputUnsupportedError(
            f"features of {len(keys)} encoders: {', '.join(keys)}", place=str(folder), remedy="choose by --features"
        )
    if features is None and not keys:
        raise InputMissingError(
            "no features", place=str(folder), remedy="run pathopatch encode WORK, or name a folder by --features"
        )
    name = keys[0] if features is None else features
    if name in keys:
        return _file_source(open_features(folder / name), key=name)
    return _file_source(open_features(Path(name)))


def cached(bags: Sequence[Bag], *, gib: float) -> list[Bag]:
    """Return the bags in their order, the first ones of them with their features in memory, up to `gib` in all."""
    free = gib * _GIB
    result = []
    for bag in bags:
        if free > 0:
            features = bag.read(np.arange(len(bag)))
            free -= features.nbytes
            bag = replace(bag, read=features.__getitem__) if free >= 0 else bag
        result.append(bag)
    return result


def _cohort_source(work: Path) -> BagSource:
    cohort = read_cohort(work)
    folder = open_features(cohort.folder, layout=cohort.layout)

    def mark(slide_id: str) -> str:
        return fingerprint([folder.fingerprint(slide_id), fingerprint_file(WorkFolder(work).tiled.patches(slide_id))])

    return BagSource(
        key=encoder_key(Encoder.from_dict(cohort.encoder)),
        encoder=cohort.encoder,
        slide_ids=frozenset(cohort.files),
        fingerprint=mark,
        patches=lambda slide_id: read_table(WorkFolder(work).tiled.patches(slide_id)),
        features=lambda slide_id, rows: read_rows(cohort, {slide_id: rows}, folder=folder)[slide_id],
        about=lambda slide_id: folder.read(slide_id, with_features=False),
    )


def _file_source(folder: SlideFolder, key: str | None = None) -> BagSource:
    encoder = folder.read(folder.slide_ids[0], with_features=False).encoder
    return BagSource(
        key=key or encoder_key(encoder),
        encoder=encoder.to_dict(),
        slide_ids=frozenset(folder.slide_ids),
        fingerprint=folder.fingerprint,
        patches=lambda slide_id: _patches(folder.read(slide_id, with_features=False)),
        features=lambda slide_id, rows: folder.read(slide_id).features[rows],
        about=lambda slide_id: folder.read(slide_id, with_features=False),
    )


def _patches(slide: SlideFeatures) -> pd.DataFrame:
    """Return x, y, tissue fraction and row of a file's patches; NaN for places that are not in level-0 px."""
    try:
        placed = slide.in_level0_px()
    except (MppMissingError, InputUnsupportedError):  # pooling needs no places
        placed = replace(slide, x=None, y=None)
    return pd.DataFrame(
        {
            "x": np.nan if placed.x is None else placed.x,
            "y": np.nan if placed.y is None else placed.y,
            "tissue_fraction": np.nan if slide.tissue_fraction is None else slide.tissue_fraction.astype(np.float64),
            FEATURE_ROW: np.arange(len(slide)),
        }
    )
