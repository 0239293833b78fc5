"""Plan and write the patches of one seed and polarity as ready sets for `pathopatch tile --patches`.

``patches/`` is the cohort: a training crop at one size, a validation or test crop at both. ``others/`` holds each
training crop at its other size, for the ceiling and for conflicting crops, and ``doubled/`` each test crop with twice
the tissue of its small island: more of the same texture is uncovered, so that no seam tells what was changed.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from PIL import Image

from area_benchmark.crops import SPLITS, Crops, matched, split_tiles
from area_benchmark.render import draw_look, island, part, render, restained, waves
from area_benchmark.settings import CohortConfig, Label, Polarity

SETS = ("patches", "others", "doubled")
_SIZES = ("small", "large")
_LEAST_ISLAND = 0.12


def plan(crops: Crops, config: CohortConfig, *, seed: int) -> pd.DataFrame:
    """Return one row per patch to render: split, label, patient_id, crop, draw, base, set, size, share.

    `base` is the crop around a part of tumour, or of other normal tissue; -1 without one.

    Parameters
    ----------
    crops : Crops
        All there are.
    config : CohortConfig
        How many are wanted.
    seed : int
        Of the split and of all draws.
    """
    label = labels_of(crops, config, seed=seed)
    split = split_tiles(crops.tile, label, config.split_shares, seed=seed)
    rows = []
    for number, name in enumerate(SPLITS):
        members = np.flatnonzero(split == name)
        pairs = members[matched(crops.share[members], label[members], getattr(config, name), seed=seed)]
        for place, pair in enumerate(pairs):
            # Tumour in normal tissue: the next pair's normal crop is the ground of both classes' parts.
            base = int(pairs[(place + 1) % len(pairs), 0])
            for y, crop in enumerate(pair.tolist()):
                draw = (seed, number, y, place)
                shares = _shares(config, draw)
                about = {"split": name, "label": y, "patient_id": crops.tile[crop], "crop": crop, "draw": draw}
                about |= {"base": base if config.label == "any tumour" else -1}
                for size, share in enumerate(shares):
                    is_used = name != "train" or size == y
                    rows.append(about | {"set": SETS[not is_used], "size": _SIZES[size], "share": share})
                if name == "test":
                    rows.append(about | {"set": SETS[2], "size": "doubled", "share": 2 * shares[0]})
    return pd.DataFrame(rows)


def labels_of(crops: Crops, config: CohortConfig, *, seed: int) -> NDArray[np.int64]:
    """Return the label of each crop, (N,); -1 for crops that are not used."""
    if config.label != "waves":
        return crops.label
    tiles = np.random.default_rng((seed, 3)).permutation(np.unique(crops.tile[crops.label == 0]))
    return np.where(crops.label == 0, np.isin(crops.tile, tiles[::2]).astype(np.int64), -1)


def _shares(config: CohortConfig, draw: tuple[int, ...]) -> list[float]:
    """Return the share of a crop's small and of its large island."""
    rng = np.random.default_rng((*draw, 0))
    return [float(rng.uniform(*config.small)), float(rng.uniform(*config.large))]


def rendered(crops: Crops, row: pd.Series, *, polarity: Polarity, label: Label) -> NDArray[np.uint8]:
    """Return a planned patch, uint8 (P, P, 3)."""
    is_dark = polarity == "dark"
    crop, side = int(row["crop"]), crops.pixels.shape[1]
    look = draw_look(np.random.default_rng((*row["draw"], 1)), side_px=side, is_dark=is_dark)
    density = restained(crops.pixels[crop], crops.tissue[crop], look.mean, look.sd)
    rng = np.random.default_rng((*row["draw"], 2))
    if label == "waves":
        density *= waves(rng, side, is_long=bool(row["label"]))[:, :, None]
    elif label == "any tumour":
        base = int(row["base"])
        around = restained(crops.pixels[base], crops.tissue[base], look.mean, look.sd)
        # Within the smallest island there is of this crop, so that every size shows it.
        density = np.where(part(rng, island(look.field, _LEAST_ISLAND) > 0)[:, :, None], density, around)
    return render(density, island(look.field, row["share"]), look, is_dark=is_dark)


def write(folder: Path, crops: Crops, planned: pd.DataFrame, *, polarity: Polarity, label: Label) -> None:
    """Write the ready sets below a folder: images and ``patches.csv``."""
    for name in SETS:
        part = planned[planned["set"] == name].reset_index(drop=True)
        (folder / name / "images").mkdir(parents=True, exist_ok=True)
        paths = []
        for index, row in part.iterrows():
            paths.append(f"images/{row['split']}-{index:05d}-{row['label']}-{row['size']}.png")
            Image.fromarray(rendered(crops, row, polarity=polarity, label=label)).save(folder / name / paths[-1])
        listed = part[["label", "patient_id", "split"]].assign(path=paths)[["path", "label", "patient_id", "split"]]
        listed.to_csv(folder / name / "patches.csv", index=False, lineterminator="\n")
