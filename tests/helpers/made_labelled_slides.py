"""Work folders of features: slides of which one patch in many shows the label, with files in the layout of TRIDENT."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from made_bags import DIM, made_bag
from made_features import SIDE, trident_file
from numpy.typing import NDArray

from pathopatch.core.artefacts import Stamp, fingerprint_file, write_table
from pathopatch.core.files import write_json
from pathopatch.features.slide_features import Encoder, SlideFeatures
from pathopatch.features.store import write_slide_features

STAMP = Stamp(stage="made")


def write_store(path: Path, features: NDArray[np.floating], coords: NDArray[np.int64], tissue: Sequence[float]) -> None:
    """Write one slide's features as `pathopatch encode` does."""
    slide = SlideFeatures(
        slide_id=path.stem,
        features=features,
        encoder=Encoder(dim=DIM, name="uni_v1"),
        path=path,
        x=coords[:, 0].astype(np.float64),
        y=coords[:, 1].astype(np.float64),
        side=SIDE,
        mpp=0.5,
        tissue_fraction=np.asarray(tissue, np.float32),
    )
    write_slide_features(path, slide, STAMP.to_dict())


def write_cohort(
    work: Path,
    labels: Sequence[int],
    *,
    patients: Sequence[str] | None = None,
    splits: Sequence[str] | None = None,
    tissue: Sequence[float] | None = None,
    patches: Sequence[int] | None = None,
    key: str | None = None,
    order_seed: int | None = None,
) -> pd.DataFrame:
    """Write a work folder of one slide per label (1, 0, -1); return its ``slides.parquet``.

    Its patches are features in TRIDENT's layout beside it; with `key`, those of a store that `encode` wrote. A slide
    has 60 patches, of which one shows the label. `order_seed` permutes the rows of the files.
    """
    count = len(labels)
    folder = work / "features" / key if key else work.parent / f"{work.name}-features"
    rows, files = [], {}
    for number, label in enumerate(labels):
        n = 60 if patches is None else patches[number]
        bag = made_bag(number, label=max(label, 0), witnesses=1 if n else 0, patches=n)
        slide, patient = bag.slide_id, bag.patient_id if patients is None else patients[number]
        coords = np.stack([np.arange(n) % 8, np.arange(n) // 8], axis=1) * SIDE
        fraction = np.full(n, 0.5 if tissue is None else tissue[number])
        place = np.arange(n) if order_seed is None else np.random.default_rng(order_seed).permutation(n)
        path = folder / f"{slide}.h5"
        if key:
            write_store(path, bag.read(place), coords[place], fraction[place])
        else:
            trident_file(path, bag.read(place), coords[place], name=slide, encoder="uni_v1")
        table = pd.DataFrame(
            {
                "patch_id": [f"{slide}@{x},{y}" for x, y in coords[place]],
                "slide_id": slide,
                "patient_id": patient,
                "x": coords[place, 0],
                "y": coords[place, 1],
                "tissue_fraction": fraction[place],
                "label": -1,
                "feature_row": np.arange(n),
            }
        )
        write_table(work / "patches" / f"{slide}.parquet", table, STAMP)
        files[slide] = fingerprint_file(path)
        split = "" if splits is None else splits[number]
        rows.append({"slide_id": slide, "patient_id": patient, "split": split, "slide_label": label})
    slides = pd.DataFrame(rows)
    write_table(work / "slides.parquet", slides, STAMP)
    if not key:
        encoder = Encoder(dim=DIM, name="uni_v1").to_dict()
        cohort = {"layout": "trident", "folder": str(folder), "encoder": encoder, "files": files, "notes": []}
        write_json(work / "features.json", cohort)
    assert len(slides) == count
    return slides


def write_groups(work: Path, slides: pd.DataFrame, *, folds: Sequence[int] | None = None) -> pd.DataFrame:
    """Write ``groups.parquet`` of all patches: of the slides' own splits, or of folds by slide."""
    parts = []
    for number, row in enumerate(slides.itertuples()):
        table = pd.read_parquet(work / "patches" / f"{row.slide_id}.parquet")[
            ["patch_id", "slide_id", "patient_id", "label", "tissue_fraction"]
        ]
        table = table.assign(split=row.split if folds is None else "test")
        parts.append(table if folds is None else table.assign(fold=folds[number]))
    groups = pd.concat(parts, ignore_index=True).assign(**{"attribute@0.25": 1, "group@0.25": 3})
    write_table(work / "groups.parquet", groups, STAMP)
    return groups
