"""Write features of made slides in the exact layout of each tool."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pandas as pd

from pathopatch.features.slide_features import SlideFeatures

DIM, SIDE, MPP = 6, 512, 0.5
SIZE_PX = (4096, 4096)
XY = {
    "A": np.array([[0, 0], [512, 0], [0, 512], [1024, 1536]], np.int64),
    "B": np.array([[512, 512], [1024, 512]], np.int64),
}
"""Level-0 top-left corners of the patches of two slides, row by row."""
TISSUE = {"A": np.array([0.1, 0.5, 0.9, 1.0], np.float32), "B": np.array([0.25, 0.75], np.float32)}
SLIDES = ("A", "B")


def vectors(slide_id: str, *, dim: int = DIM, dtype: Any = np.float32) -> np.ndarray:
    """Return features (N, dim) of a slide: no two values of all slides are equal, all are exact in float16."""
    first = 100 * (ord(slide_id[0]) - ord("A"))
    return (first + np.arange(len(XY[slide_id]) * dim).reshape(-1, dim)).astype(dtype) / 4


def trident(folder: Path, *, encoder: str = "uni_v1", slides: Sequence[str] = SLIDES, **changed: Any) -> Path:
    """Write ``features_ENCODER/SLIDE.h5``, and the coordinates; return the folder with the features."""
    job = folder / "20x_256px_0px_overlap"
    for slide_id in slides:
        features = changed.get("features", vectors(slide_id))
        trident_file(job / f"features_{encoder}" / f"{slide_id}.h5", features, XY[slide_id], name=slide_id)
        (job / "patches").mkdir(exist_ok=True)
        with h5py.File(job / "patches" / f"{slide_id}_patches.h5", "w") as file:
            _trident_coords(file, XY[slide_id], slide_id)
    return job / f"features_{encoder}"


def trident_file(path: Path, features: np.ndarray, xy: np.ndarray, *, name: str, encoder: str = "None") -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with h5py.File(path, "w") as file:
        file["features"] = features
        file["features"].attrs.update({"name": name, "savetodir": "/elsewhere", "encoder": encoder})
        _trident_coords(file, xy, name)


def _trident_coords(file: h5py.File, xy: np.ndarray, name: str) -> None:
    file["coords"] = xy
    file["coords"].attrs.update(
        {
            "patch_size": 256, "patch_size_level0": SIDE, "level0_magnification": 40, "target_magnification": 20,
            "overlap": 0, "name": name, "savetodir": "/elsewhere",
            "level0_width": SIZE_PX[0], "level0_height": SIZE_PX[1],
        }
    )  # fmt: skip


def clam(folder: Path, *, slides: Sequence[str] = SLIDES, patches: bool = True) -> Path:
    """Write ``features/h5_files/SLIDE.h5``, and ``patches/SLIDE.h5`` of 256 px at a level of half the resolution."""
    for slide_id in slides:
        path = folder / "features" / "h5_files" / f"{slide_id}.h5"
        path.parent.mkdir(parents=True, exist_ok=True)
        with h5py.File(path, "w") as file:
            file["features"] = vectors(slide_id)
            file["coords"] = XY[slide_id].astype(np.int32)
        if patches:
            clam_patches(folder / "patches" / f"{slide_id}.h5", XY[slide_id])
    return folder / "features"


def clam_patches(path: Path, xy: np.ndarray, *, patch_px: int = SIDE // 2, **more: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with h5py.File(path, "w") as file:
        file["coords"] = xy
        half = np.array(SIZE_PX) // 2
        file["coords"].attrs.update(
            {
                "patch_size": patch_px, "patch_level": 1, "downsample": np.array([2.0, 2.0]),
                "downsampled_level_dim": half, "level_dim": half, "name": path.stem, "save_path": "/elsewhere", **more,
            }
        )  # fmt: skip


def stamp(folder: Path, *, slides: Sequence[str] = SLIDES, order: int = -1, **attributes: Any) -> Path:
    """Write ``EXTRACTOR-HASH/cohort/SLIDE.h5``: float16, micrometres, rows out of order."""
    known = {
        "stamp_version": "2.3.0", "extractor": "mahmood-uni", "unit": "um", "tile_size_um": SIDE * MPP,
        "tile_size_px": 224, "code_hash": "0a1b2c3d", "feat_type": "tile",
    }  # fmt: skip
    for slide_id in slides:
        path = folder / "mahmood-uni-0a1b2c3d" / "cohort" / f"{slide_id}.h5"
        path.parent.mkdir(parents=True, exist_ok=True)
        with h5py.File(path, "w") as file:
            file["coords"] = (XY[slide_id] * MPP).astype(np.float32)[::order]
            file["feats"] = vectors(slide_id, dtype=np.float16)[::order]
            file.attrs.update(known | attributes)
    return folder


def lists(folder: Path) -> Path:
    """Write one Parquet table of both slides, a list a row."""
    frame = table_columns()
    frame["features"] = [list(row) for slide_id in SLIDES for row in vectors(slide_id)]
    frame.to_parquet(folder / "all.parquet")
    return folder / "all.parquet"


def arrays(folder: Path) -> Path:
    """Write an npz a slide."""
    for slide_id in SLIDES:
        np.savez(
            folder / f"{slide_id}.npz", features=vectors(slide_id), coords=XY[slide_id], side_px=_sides(slide_id),
            tissue_fraction=TISSUE[slide_id],
        )  # fmt: skip
    return folder


def _sides(slide_id: str) -> np.ndarray:
    return np.full(len(XY[slide_id]), SIDE)


def table_columns() -> pd.DataFrame:
    return pd.concat(
        [
            pd.DataFrame({"slide_id": slide_id, "x": XY[slide_id][:, 0], "y": XY[slide_id][:, 1], "side_px": SIDE})
            for slide_id in SLIDES
        ],
        ignore_index=True,
    )


def with_tissue(path: Path, slide: SlideFeatures) -> None:
    """Write features of a slide, in level-0 px, with its tissue fractions, as a table."""
    path.parent.mkdir(parents=True, exist_ok=True)
    of_all = {name: np.full(len(slide), value) for name, value in (("side_px", slide.side), ("mpp", slide.mpp))}
    np.savez(path, features=slide.features, x=slide.x, y=slide.y, tissue_fraction=slide.tissue_fraction, **of_all)


WRITERS: dict[str, tuple[str, Callable[[Path], Path]]] = {
    "trident": ("trident", trident),
    "clam": ("clam", clam),
    "stamp": ("stamp", stamp),
    "table, lists": ("table", lists),
    "table, npz": ("table", arrays),
}
"""The layout of each, and what writes both slides below a folder and returns the place to be named."""
