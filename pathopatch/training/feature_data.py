"""Load the features of a work folder as patches of one pixel, and settle what training on them means.

Features of D values are patches of D channels and one pixel. So samplers, objectives, search, selection and decision
thresholds are the same as on patches.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from pathopatch.core.config import HEAD_NETWORKS, TrainConfig, parse
from pathopatch.core.errors import InputUnsupportedError
from pathopatch.features.cohort import FeatureCohort, is_feature_cohort, read_cohort, read_patches
from pathopatch.training.dataset import PatchSet, Source, chosen_rows


def cohort_settings(work: Path, config: TrainConfig) -> TrainConfig:
    """Return the settings of a run in a work folder: those of a head where its patches are features.

    InputUnsupportedError for a head in a work folder of patches, and for settings that features do not allow.
    """
    if is_feature_cohort(work):
        return head_settings(config)
    if config.head is not None:
        raise InputUnsupportedError(
            f"head = {config.head!r} takes features of an encoder, and the work folder holds patches",
            place="[train] head",
            remedy="leave it out, or make a work folder of features: pathopatch audit --features DIR --labels CSV",
        )
    return config


def head_settings(config: TrainConfig) -> TrainConfig:
    """Return the settings of a run on features; of settings that it has returned before, the same.

    InputUnsupportedError for settings that features do not allow, such as an architecture or an intervention.
    """
    head = config.head or "linear"
    config = parse(TrainConfig, {**config.model_dump(), "head": head}, place="[train]")
    fixed = {"architecture": HEAD_NETWORKS[head], "input_px": 1, "augment": False}
    if head == "linear":  # solved to convergence at once
        fixed |= {"steps": 1, "evaluations": 1, "average_weights": False}
    return config.model_copy(update=fixed)


def load_features(
    work: Path,
    groups: pd.DataFrame,
    *,
    splits: Sequence[str],
    threshold: float | None = None,
    bins: Sequence[float] = (),
) -> PatchSet:
    """Return the labelled patches of some splits with x of shape (N, D, 1, 1), in the type that the files have.

    Arguments are those of `load_patches`, errors those of `read_patches`.
    """
    rows, attribute = chosen_rows(groups, splits, threshold=threshold, bins=bins)
    x = read_patches(work, rows)
    return PatchSet(
        x=x[:, :, None, None],
        label=np.array(rows["label"], np.int64),  # a copy: torch takes no array that is read-only
        attribute=attribute,
        tissue_fraction=rows["tissue_fraction"].to_numpy(dtype=np.float64),
        patient=rows["patient_id"].to_numpy(dtype=str),
        patch_id=rows["patch_id"].to_numpy(dtype=str),
        source=feature_source(read_cohort(work), str(x.dtype)) if len(rows) else None,
    )


def feature_source(cohort: FeatureCohort, dtype: str) -> Source:
    """Return what a model on features states about them."""
    return Source(channels=(), dtype=dtype, patch_px=1, stride_px=1, mpp=None, encoder=cohort.encoder)
