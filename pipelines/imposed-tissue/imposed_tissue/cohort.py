"""Plan and write the patches of one seed and polarity as a ready set for `pathopatch tile --patches`.

``patches/`` is the cohort: a training crop at one size, a validation or test crop at both. ``others/`` holds each
training crop at its other size, for the ceiling and for the controls, which must not learn the shortcut.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from PIL import Image

from imposed_tissue.crops import SPLITS, Crops, matched, split_tiles
from imposed_tissue.render import draw_look, island, render
from imposed_tissue.settings import CohortConfig, Polarity

SETS = ("patches", "others")
_SIZES = ("small", "large")


def plan(crops: Crops, config: CohortConfig, *, seed: int) -> pd.DataFrame:
    """Return one row per patch to render: set, split, label, tile, crop, draw, size, share.

    Parameters
    ----------
    crops : Crops
        All there are.
    config : CohortConfig
        How many are wanted.
    seed : int
        Of the split and of all draws.
    """
    split = split_tiles(crops, config.split_shares, seed=seed)
    rows = []
    for number, name in enumerate(SPLITS):
        members = np.flatnonzero(split == name)
        pairs = members[matched(crops.share[members], crops.label[members], getattr(config, name), seed=seed)]
        for place, pair in enumerate(pairs):
            for label, crop in enumerate(pair.tolist()):
                draw = (seed, number, label, place)
                aligned = label if place >= config.conflicting else 1 - label
                for size, share in enumerate(_shares(config, draw)):
                    is_used = name != "train" or size == aligned
                    rows.append((SETS[not is_used], name, label, crops.tile[crop], crop, draw, _SIZES[size], share))
    return pd.DataFrame(rows, columns=["set", "split", "label", "patient_id", "crop", "draw", "size", "share"])


def _shares(config: CohortConfig, draw: tuple[int, ...]) -> list[float]:
    """Return the share of a crop's small and of its large island."""
    rng = np.random.default_rng((*draw, 0))
    return [float(rng.uniform(*config.small)), float(rng.uniform(*config.large))]


def rendered(crops: Crops, row: pd.Series, *, polarity: Polarity) -> tuple[NDArray[np.uint8], NDArray[np.float64]]:
    """Return a planned patch, uint8 (P, P, 3), and its island, float64 (P, P)."""
    is_dark = polarity == "dark"
    crop, side = int(row["crop"]), crops.pixels.shape[1]
    look = draw_look(np.random.default_rng((*row["draw"], 1)), side_px=side, is_dark=is_dark)
    cover = island(look.field, row["share"])
    return render(crops.pixels[crop], crops.tissue[crop], cover, look, is_dark=is_dark), cover


def write(folder: Path, crops: Crops, planned: pd.DataFrame, *, polarity: Polarity) -> None:
    """Write both ready sets below a folder: images, ``patches.csv``, and ``islands.npy``, uint8 (N, P, P)."""
    for name in SETS:
        part = planned[planned["set"] == name].reset_index(drop=True)
        images = folder / name / "images"
        images.mkdir(parents=True, exist_ok=True)
        islands, paths = [], []
        for index, row in part.iterrows():
            pixels, cover = rendered(crops, row, polarity=polarity)
            paths.append(f"images/{row['split']}-{index:05d}-{row['label']}-{row['size']}.png")
            Image.fromarray(pixels).save(folder / name / paths[-1])
            islands.append(np.rint(255 * cover).astype(np.uint8))
        listed = part[["label", "patient_id", "split"]].assign(path=paths)[["path", "label", "patient_id", "split"]]
        np.save(folder / name / "islands.npy", np.stack(islands))
        listed.to_csv(folder / name / "patches.csv", index=False, lineterminator="\n")
