"""Ask the networks of `by_command.py` again by packs of images, and count the verdicts; see README.md.

Each cohort has two packs, of all patches that the networks were asked about and of 600 images. The tissue that masked
networks need is found on the images. Usage: as_images.py WORK COHORT ..., after by_command.py of the same words.
"""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

import pathopatch
from pathopatch.core.config import TileConfig
from pathopatch.core.mask_bits import unpack_masks
from pathopatch.debias.interventions import N_EDITS
from pathopatch.evaluation.area_reliance import margins_of
from pathopatch.patches.import_list import common_spec
from pathopatch.patches.source import FromImages
from pathopatch.stages.pack import FULL, IMAGES_ASKED

SHORTCUT = ("1 %", "5 %")  # shares of conflicting patches at which plain training is known to be biased
KINDS = ("logit", "probability", "yes-no")
_BATCH = 256


def main() -> None:
    """Print a row per network and kind of answer, and how often each kind errs."""
    work, cohorts = Path(sys.argv[1]).resolve(), sys.argv[2:]
    table = pd.DataFrame([row for name in cohorts for row in judged(work / name)])
    print(table.to_string(index=False, float_format=lambda value: f"{value:.4f}"))
    print(table.groupby(["pack", "kind", "known", "verdict"]).size().unstack(fill_value=0).to_string())
    table = table.assign(differ=table["verdict"] != table["loaded"], eta_off=(table["eta"] - table["loaded_eta"]).abs())
    print(table.groupby(["pack", "kind"])[["differ", "eta_off"]].agg(["sum", "max", "size"]).to_string())


def judged(top: Path) -> Iterator[dict[str, Any]]:
    """Yield what is found about each network of a cohort by each pack and kind of answer."""
    asked, packs = top / "asked", {}
    patches = len(pd.read_csv(top / "asked.csv"))
    for name, images in (("full", max(FULL, (N_EDITS + 1) * patches)), ("600", IMAGES_ASKED)):
        pathopatch.make_pack(asked, top / f"pack-{name}", images=images, seed=0)
        packs[name] = seen(top / f"pack-{name}" / "send")
    for found in sorted(top.glob("*/asked-about/*/area-reliance.json")):
        loaded, case, run = json.loads(found.read_text()), found.parents[2].name, found.parent.name
        is_plain = case in SHORTCUT and run.startswith("erm-") and "interior" not in run
        known = "unbiased" if case == "ceiling" else "biased" if is_plain else "between"
        margins = margins_of(pathopatch.load_ensemble([found.parents[2] / "runs" / run / "model"], threads=1))
        for name, (images, x, tissue) in packs.items():
            parts = np.array_split(np.arange(len(x)), len(x) // _BATCH + 1)
            z = np.concatenate([margins(x[part].astype(np.float32) / 255, tissue[part]) for part in parts])
            for kind in KINDS:
                answers = top / "answers.csv"
                pd.DataFrame({"image": images, "score": as_answers(z, kind)}).to_csv(answers, index=False)
                out = top / "judged" / f"{case}-{run}-{name}-{kind}"
                result = pathopatch.judge_answers(top / f"pack-{name}", answers, out, kind=kind, force=True)
                about = {"network": f"{top.name} {case} {run}", "known": known, "pack": name, "kind": kind}
                ends = {name: result.get(name, {}).get("value", math.nan) for name in ("eta", "adj")}
                yield about | {"verdict": result["verdict"], **ends} | {
                    "loaded": loaded["verdict"], "loaded_eta": loaded["eta"]["value"]
                }  # fmt: skip


def seen(folder: Path) -> tuple[list[str], NDArray[np.uint8], NDArray[np.bool_]]:
    """Return the names of a pack's images, their pixels (N, 3, P, P) and the tissue that is found on them (N, P, P)."""
    names = pd.read_csv(folder / "answers.csv", dtype=str)["image"].tolist()
    files = [folder / "images" / name for name in names]
    source = FromImages(files, common_spec(files, None), TileConfig())
    batches = list(source.batches())
    pixels = np.concatenate([batch.patches for batch in batches])
    return names, pixels, unpack_masks(np.concatenate([batch.tissue_mask for batch in batches]), pixels.shape[-1])


def as_answers(z: NDArray[np.float64], kind: str) -> list[str]:
    """Return the answers that a program writes whose margin from its decision is `z`; without an answer none."""
    if kind == "logit":
        texts = [f"{value:.5f}" for value in z]
    elif kind == "probability":
        texts = [f"{1 / (1 + math.exp(-value)):.3f}" for value in z]
    else:
        texts = ["yes" if value > 0 else "no" for value in z]
    return ["none" if np.isnan(value) else text for value, text in zip(z, texts, strict=True)]


if __name__ == "__main__":
    main()
