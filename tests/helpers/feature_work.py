"""A cohort of made features: one direction is the label, another the tissue, which mostly goes with the label."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
from made_features import trident_file
from numpy.typing import NDArray

DIM = 24


def planted(n: int, *, seed: int, conflict: float = 0.1, dim: int = DIM) -> tuple[NDArray[np.float32], ...]:
    """Return features (n, dim), label (n,), and tissue fraction (n,), above 0.25 for all but `conflict` of class 1."""
    rng = np.random.default_rng(seed)
    label = np.arange(n) % 2
    is_large = np.where(rng.random(n) < conflict, 1 - label, label)
    tissue = rng.uniform(0.05, 0.24, n) + 0.5 * is_large
    x = rng.normal(size=(n, dim))
    x[:, 0] += 1.2 * (2 * label - 1)
    x[:, 1] += 2.5 * (2 * is_large - 1)
    return (5 + x @ np.diag(np.geomspace(3, 0.1, dim))).astype(np.float32), label, tissue


def write_features(
    folder: Path, *, slides: int = 12, patches: int = 60, dtype: type = np.float32, encoder: str = "uni_v1"
) -> tuple[Path, Path]:
    """Write TRIDENT's files and a CSV of labels; return the folder of features and the CSV.

    Splits go by slide: of six, one tests and one validates; their conflict is a half.
    """
    place, rows = folder / "20x_256px_0px_overlap" / f"features_{encoder}", []
    for number in range(slides):
        split = {4: "val", 5: "test"}.get(number % 6, "train")
        x, label, tissue = planted(patches, seed=number, conflict=0.1 if split == "train" else 0.5)
        xy = 512 * np.stack([np.arange(patches) % 8, np.arange(patches) // 8], axis=1)
        name = f"s{number:02}"
        trident_file(place / f"{name}.h5", x.astype(dtype), xy.astype(np.int64), name=name, encoder=encoder)
        table = pd.DataFrame({"slide_id": name, "x": xy[:, 0], "y": xy[:, 1], "label": label})
        rows.append(table.assign(patient_id=f"p{number:02}", split=split, tissue_fraction=tissue.round(4)))
    labels = folder / "labels.csv"
    pd.concat(rows).to_csv(labels, index=False)
    return place, labels
