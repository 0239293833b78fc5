"""Small made patches: the label is a fine texture, the attribute a brightness that mostly goes with the label."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from pathopatch.core.artefacts import Stamp, write_table
from pathopatch.core.config import TrainConfig
from pathopatch.core.mask_bits import MaskKind, pack_masks
from pathopatch.patches.store import PatchStore
from pathopatch.patches.store_writer import StoreWriter
from pathopatch.training.dataset import PatchMasks, PatchSet

CHANNELS = ("CARS", "SHG")


def toy(n_per_cell: Sequence[Sequence[int]], *, seed: int, side: int = 16, contrast: float = 0.08) -> PatchSet:
    """Patches with n_per_cell[y][a] of each group, shuffled; the texture's contrast is harder to see than the half."""
    rng = np.random.default_rng(seed)
    label = np.concatenate([np.full(n, y) for y, row in enumerate(n_per_cell) for n in row])
    attribute = np.concatenate([np.full(n, a) for row in n_per_cell for a, n in enumerate(row)])
    order = rng.permutation(len(label))
    label, attribute = label[order], attribute[order]
    checks = np.indices((side, side)).sum(axis=0) % 2 - 0.5
    x = rng.normal(0.5, 0.15, (len(label), 2, side, side))
    x[:, 0] += contrast * label[:, None, None] * checks
    x[:, 1, :, : side // 2] += 0.3 * (2 * attribute[:, None, None] - 1)
    return PatchSet(
        x=x.clip(0, 1).astype(np.float16),
        label=label.astype(np.int64),
        attribute=attribute.astype(np.int64),
        tissue_fraction=np.minimum(attribute * 0.5 + 0.2, 1),
        patient=np.array([f"p{i % 7}" for i in range(len(label))]),
        patch_id=np.array([f"s@{i},0" for i in range(len(label))]),
        tissue=PatchMasks(pack_masks(_first_pixels(attribute * 0.5 + 0.2, side)), side),
    )


def _first_pixels(share: NDArray[np.float64], side: int) -> NDArray[np.bool_]:
    """Masks (N, side, side) of the first pixels, row by row, as many as each share (N,) asks for."""
    return (np.arange(side**2) < np.rint(share * side**2)[:, None]).reshape(-1, side, side)


def even_patches(n_patients: int = 6) -> pd.DataFrame:
    """Return a table of patches; each patient has two of each group at 0.25."""
    patch_rows = [
        (f"s{i}@{k},0", f"s{i}", f"p{i}", y, 0.1 + 0.5 * a)
        for i in range(n_patients)
        for k, (y, a) in enumerate([(0, 0), (0, 1), (1, 0), (1, 1)] * 2)
    ]
    return pd.DataFrame(patch_rows, columns=["patch_id", "slide_id", "patient_id", "label", "tissue_fraction"])


def small_config(**changes: Any) -> TrainConfig:
    """Return the settings of a run of seconds."""
    small = {"input_px": 16, "steps": 4, "batch_per_class": 4, "evaluations": 2, "threads": 1}
    return TrainConfig(**{**small, **changes})


def write_work(
    work: Path,
    *,
    seed: int = 0,
    contrast: float = 0.08,
    channels: Sequence[tuple[str, ...]] = (CHANNELS,) * 3,
    align: Sequence[bool] = (False,) * 3,
    tumor_masks: Sequence[bool] = (True, True, False),
    is_solid: bool = False,
) -> pd.DataFrame:
    """A work folder of three slides (train, val, test) with stores, patch tables and groups; returns the groups.

    The first patch of each slide is blank glass, the second has no label. Masks are the pixels above 0.5, of the tissue
    in the second channel, of the tumour in the first one, if the slide has `tumor_masks`. Tissue that `is_solid` fills
    the upper rows of each patch, by its fraction: where that is 0.7 it holds crops of 10 px, where it is 0.2 none.
    """
    stamp = Stamp(stage="tile", settings={"is": "c"})
    tables = []
    for number, split in enumerate(("train", "val", "test")):
        patches = toy([[14, 6], [6, 14]], seed=seed + number, contrast=contrast)
        slide = f"slide-{split}"
        n = len(patches)
        origins = np.stack([np.arange(n) * 16, np.zeros(n, dtype=int)], axis=1)
        writer = StoreWriter(
            work / "slides" / f"{slide}.zarr",
            origins=origins,
            channels=2,
            patch_px=16,
            dtype=np.dtype("uint16"),
            masks=("tissue", "tumor") if tumor_masks[number] else ("tissue",),
        )
        masks: dict[MaskKind, NDArray[np.uint8]] = {"tissue": pack_masks(patches.x[:, 1] > 0.5)}
        if is_solid and patches.tissue is not None:
            masks["tissue"] = patches.tissue.bits
        if tumor_masks[number]:
            masks["tumor"] = pack_masks(patches.x[:, 0] > 0.5)
        writer.append(np.rint(patches.x.astype(np.float64) * 4000 + 100).astype(np.uint16), masks)
        writer.finish(
            {
                "slide_id": slide,
                "channels": list(channels[number]),
                "dtype": "uint16",
                "target_mpp": 0.5,
                "patch_px": 16,
                "stride_px": 16,
                "background": "dark",
                "windows": [[100.0, 4100.0]] * 2,
                "intensity": {"low_percentile": 1.0, "high_percentile": 99.5},
                "tissue": {"background": "auto", "method": "otsu", "threshold": 0.25},
                "registration": {"align": align[number]},
                "stamp": stamp.to_dict(),
            }
        )
        table = pd.DataFrame(
            {
                "patch_id": [f"{slide}@{x},0" for x in origins[:, 0]],
                "slide_id": slide,
                "patient_id": f"patient-{split}",
                "split": split,
                "label": patches.label,
                "tissue_fraction": patches.tissue_fraction,
                "pixels_checksum": PatchStore(work / "slides" / f"{slide}.zarr").pixels_checksum,
                "attribute@0.25": patches.attribute,
            }
        )
        table.loc[0, "attribute@0.25"] = -1
        table.loc[1, "label"] = -1
        has_group = (table["label"] >= 0) & (table["attribute@0.25"] >= 0)
        table["group@0.25"] = np.where(has_group, 2 * table["label"] + table["attribute@0.25"], -1)
        write_table(work / "patches" / f"{slide}.parquet", table[["patch_id", "slide_id"]], stamp)
        tables.append(table)
    groups = pd.concat(tables, ignore_index=True)
    write_table(work / "groups.parquet", groups, Stamp(stage="groups", settings={"is": "c"}))
    return groups
