"""Control of the demo: predict the label from the brightness of the tissue alone."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from pathopatch.core import artefacts
from pathopatch.core.config import TileConfig
from pathopatch.core.work_folder import WorkFolder
from pathopatch.groups import attribute_in
from pathopatch.patches import analyse_slide, intensity, iterate_patches
from pathopatch.slides.manifest import SlideRow, read_manifest
from pathopatch.stages.batch.tasks import open_row


def brightness_accuracy(work: Path, config: TileConfig, manifest: Path, *, threshold: float) -> float:
    """Return the test accuracy of a logistic regression on each channel's mean inside tissue, fitted on train.

    Patches without a group at the tissue threshold are left out. `config` is that of tiling the cohort.
    """
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    groups = artefacts.read_table(WorkFolder(work).groups).set_index("patch_id")
    groups = groups[(groups["label"] >= 0) & (attribute_in(groups, threshold).groups_in(groups) >= 0)]
    means: dict[str, NDArray[np.float64]] = {}
    for row in read_manifest(manifest).rows:
        means |= _channel_means(row, config)
    table = groups.loc[[patch for patch in groups.index if patch in means]]
    x = np.stack([means[str(patch)] for patch in table.index])
    y = table["label"].to_numpy()
    is_train, is_test = (table["split"] == "train").to_numpy(), (table["split"] == "test").to_numpy()
    # Balanced classes in training: the test split of the demo is balanced over the groups, so 0.5 is chance.
    model = make_pipeline(StandardScaler(), LogisticRegression(class_weight="balanced", max_iter=1000))
    return float(model.fit(x[is_train], y[is_train]).score(x[is_test], y[is_test]))


def _channel_means(row: SlideRow, config: TileConfig) -> dict[str, NDArray[np.float64]]:
    """Return each patch's scaled channel means (C,) inside tissue by patch_id, of patches that have tissue."""
    means: dict[str, NDArray[np.float64]] = {}
    with open_row(row) as slide:
        analysis = analyse_slide(slide, config)
        grid, tissue = analysis.grid, analysis.tissue
        origins = grid.origins()
        for rows, patches, _ in iterate_patches(slide, analysis):
            for (x, y), patch in zip(origins[rows].tolist(), patches, strict=True):
                mask = tissue.patch_mask(patch, x, y, grid.downsample, grid.inside(x, y))
                if mask.any():
                    scaled = intensity.scale(patch[None], analysis.windows)[0]
                    means[f"{row.slide_id}@{x},{y}"] = scaled[:, mask].mean(axis=1, dtype=np.float64)
    return means
