"""Feature files and labels of a made cohort, with a shortcut of known strength."""

from __future__ import annotations

from pathlib import Path

import h5py
import numpy as np
import pandas as pd
from made_features import trident_file
from numpy.typing import NDArray

SIDE_PX = 512


def made_cohort(
    folder: Path,
    *,
    slides: int = 12,
    per_slide: int = 40,
    dim: int = 8,
    shift: float = 0.0,
    seed: int = 0,
    tissue: str = "labels",
    side: int = SIDE_PX,
) -> tuple[Path, Path]:
    """Write TRIDENT's feature files and a CSV of labels; return their folder and the CSV.

    Each slide is a patient with both labels. Tissue fractions of tumour lie `shift` above those of non-tumour. They
    are a column of the labels with ``tissue="labels"``, and are left out with ``tissue=""``.
    """
    rng = np.random.default_rng(seed)
    features = folder / "20x_256px_0px_overlap" / "features_uni_v2"
    features.mkdir(parents=True)
    tables = []
    for number in range(slides):
        slide_id = f"S{number:02d}"
        x, y = (np.arange(per_slide) % 8) * side, (np.arange(per_slide) // 8) * side
        label = np.arange(per_slide) % 2
        fraction = np.clip(rng.uniform(0.1, 0.6, per_slide) + shift * label + rng.normal(0, 0.05), 0.02, 1)
        vectors = rng.normal(size=(per_slide, dim))
        vectors[:, 0] += 2 * label
        vectors[:, 1] += 4 * fraction
        write_trident(features / f"{slide_id}.h5", vectors.astype(np.float16), np.stack([x, y], axis=1), side=side)
        columns = {"slide_id": slide_id, "x": x, "y": y, "label": label, "patient_id": f"P{number:02d}"}
        tables.append(pd.DataFrame(columns | ({"tissue_fraction": fraction} if tissue == "labels" else {})))
    labels = folder / "labels.csv"
    pd.concat(tables).to_csv(labels, index=False)
    return features, labels


def write_trident(
    path: Path,
    features: NDArray[np.floating],
    coords: NDArray[np.int64],
    *,
    side: int = SIDE_PX,
    rows: int = 8,
    columns: int = 8,
) -> None:
    """Write features of a slide of `rows` times `columns` patches as TRIDENT does."""
    trident_file(path, features, coords.astype(np.int64), name=path.stem, encoder="uni_v2")
    with h5py.File(path, "r+") as file:
        file["coords"].attrs.update(patch_size_level0=side, level0_width=columns * side, level0_height=rows * side)
