"""Count how often an edit of `audit-model` cuts the tumour of a tumour patch away, on fields with tumour masks."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import numpy as np

from pathopatch.debias.interventions import AREAS, LEAST_AREA, set_area

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent / "area-benchmark"))
from area_benchmark import natural  # noqa: E402

LEAST_PX = 16
"""Fewer pixels of tumour than this are none."""


def main() -> None:
    """Print the share of the oral carcinoma fields' tumour patches that lose their tumour at each area."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--work", type=Path, default=HERE.parents[1] / "work" / "area-benchmark")
    parser.add_argument("--patches", type=int, default=600, help="of each part of the first fold")
    options = parser.parse_args()
    fold, rng = next(natural.folds("ocdc", "each field in turn", 1, options.work)), np.random.default_rng(0)
    lost: list[list[bool]] = []
    for part in (fold.train, fold.test):
        assert part.tissue is not None
        assert part.tumor is not None
        chosen = np.flatnonzero((part.label == 1) & (part.tissue_fraction >= LEAST_AREA))
        for number in rng.permutation(chosen)[: options.patches].tolist():
            one = slice(number, number + 1)
            tissue = part.tissue.read(one)[0]
            tumor = part.tumor.read(one)[0] & tissue
            if tumor.sum() < LEAST_PX or tissue.all():
                continue
            # The tumour goes along as one more channel, which is 0 on ground.
            pixels = np.concatenate([part.read(one)[0], tumor[None].astype(np.float32)])
            edited = [set_area(pixels, tissue, t, np.random.default_rng((number, k))) for k, t in enumerate(AREAS)]
            lost.append([int(((edit.pixels[-1] > 0.5) & edit.tissue).sum()) < LEAST_PX for edit in edited])
    for area, share in zip(AREAS, np.mean(lost, axis=0), strict=True):
        print(f"area {area:g}: {100 * share:.1f} % of {len(lost)} tumour patches lose their tumour")


if __name__ == "__main__":
    main()
