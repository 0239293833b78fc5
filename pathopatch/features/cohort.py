"""Name the feature files behind a work folder: ``features.json``.

Features stay where they are. The patch tables of such a work folder have the column ``feature_row``: the row of each
patch in its slide's file.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from pathopatch.core.artefacts import read_table
from pathopatch.core.config.base import Config
from pathopatch.core.errors import InputChangedError, StaleArtefactError
from pathopatch.core.files import read_json
from pathopatch.core.work_folder import WorkFolder
from pathopatch.features.readers import open_features

FEATURE_ROW = "feature_row"


class FeatureCohort(Config):
    """What ``features.json`` holds."""

    layout: str
    folder: Path  # absolute
    encoder: dict[str, Any]  # as `Encoder.to_dict` returns it
    files: dict[str, str]  # per slide the fingerprint of the files with its features and coordinates
    notes: tuple[str, ...] = ()

    @property
    def dim(self) -> int:
        """Values per patch."""
        return int(self.encoder["dim"])


def is_feature_cohort(work: Path) -> bool:
    """Return whether a work folder's patches are features."""
    return WorkFolder(work).tiled.features.is_file()


def read_cohort(work: Path) -> FeatureCohort:
    """Return what ``features.json`` of a work folder holds, or of the one that a fold belongs to."""
    values = read_json(WorkFolder(work).tiled.features)
    return FeatureCohort.model_validate({name: value for name, value in values.items() if name != "stamp"})


def read_patches(work: Path, patches: pd.DataFrame) -> NDArray[np.floating]:
    """Return the features (n, D) of n patches of a work folder; float16 where all their files hold it, else float32.

    `patches` has the columns slide_id and patch_id.

    Raises
    ------
    InputChangedError
        A file is not the one that the work folder was made from.
    StaleArtefactError
        A patch is in no patch table.
    """
    cohort = read_cohort(work)
    features: NDArray[np.floating] = np.empty((len(patches), cohort.dim), np.float16)
    if patches.empty:
        return features
    folder = open_features(cohort.folder, layout=cohort.layout)
    # One slide at a time: all at once would hold the features twice.
    for name, places in patches.groupby("slide_id").indices.items():
        slide_id = str(name)
        if folder.fingerprint(slide_id) != cohort.files[slide_id]:
            raise InputChangedError(
                f"the features of {slide_id}, or their coordinates, are not those that the work folder was made from",
                place=str(folder.file(slide_id)),
                remedy="run pathopatch audit --features again with --force",
            )
        part = folder.read(slide_id).features[_feature_rows(work, slide_id, patches["patch_id"].iloc[places])]
        if part.dtype != features.dtype and features.dtype == np.float16:
            features = features.astype(np.float32)  # one file is reason enough: its values may exceed float16
        features[places] = part
    return features


def _feature_rows(work: Path, slide_id: str, patch_id: pd.Series[str]) -> NDArray[np.int64]:
    """Return the row of each patch in its slide's file."""
    path = WorkFolder(work).tiled.patches(slide_id)
    rows = read_table(path).set_index("patch_id")[FEATURE_ROW].reindex(patch_id)
    if rows.isna().any():
        raise StaleArtefactError(
            f"{int(rows.isna().sum())} patches of the groups are not in the patch table of {slide_id}",
            place=str(path),
            remedy="run pathopatch groups --force",
        )
    return rows.to_numpy(dtype=np.int64)
