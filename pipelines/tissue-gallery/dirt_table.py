"""Measure how much true tissue, and how much else, pathopatch and other rules find on dirty slides.

Writes a CSV, a row per slide and finder, and prints the tables of the README. Usage:
PATHOPATCH_REAL_DATA=FOLDER python dirt_table.py [--out dirt.csv] [--lazyslide PYTHON]
"""

from __future__ import annotations

import argparse
import os
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from subprocess import DEVNULL, PIPE
from typing import Any

import cv2
import numpy as np
import pandas as pd
from dirt import Array, Base, Dirt, Mask, bases, dirty_slides, edges, find_in_file, write_slide

from pathopatch.core.config import UNCERTAIN_BELOW

HERE = Path(__file__).parent
_WORK_MPP = 8.0  # of the HistoQC-like rules
_LEAST_FOUND, _MOST_FALSE = 0.8, 0.2  # beyond which a slide counts as failed


def otsu(pixels: Array) -> Mask:
    """Return the tissue by Otsu's method: on the saturation in HSV, or on the brightest of dark channels."""
    if pixels.dtype == np.uint8:
        plane = cv2.cvtColor(np.ascontiguousarray(pixels.transpose(1, 2, 0)), cv2.COLOR_RGB2HSV)[..., 1]
    else:
        highest = np.percentile(pixels, 99.9, axis=(1, 2))[:, None, None]
        plane = np.clip(255 * pixels / highest, 0, 255).max(axis=0).astype(np.uint8)
    return np.asarray(cv2.threshold(cv2.medianBlur(plane, 7), 0, 1, cv2.THRESH_BINARY + cv2.THRESH_OTSU)[1] != 0)


def histoqc_like(pixels: Array, mpp: float) -> Mask:
    """Return the tissue by rules like those of HistoQC, written anew, on a small RGB image.

    Grey above 0.9 of full scale is glass and below 0.15 is dark dirt. Saturated blue, green and red hues are ink, with
    what lies next to them. Pieces below 64 px and holes below 1000 px are removed.
    """
    size = tuple(max(1, round(n * mpp / _WORK_MPP)) for n in pixels.shape[:0:-1])
    rgb = cv2.resize(np.ascontiguousarray(pixels.transpose(1, 2, 0)), size, interpolation=cv2.INTER_AREA)
    grey = cv2.cvtColor(rgb, cv2.COLOR_RGB2GRAY) / 255
    hue, saturation, _ = cv2.split(cv2.cvtColor(rgb, cv2.COLOR_RGB2HSV))
    is_cold = (hue >= 35) & (hue <= 122) & (saturation > 90)  # of 180: green to blue
    is_red = ((hue <= 6) | (hue >= 174)) & (saturation > 150)
    pens = cv2.dilate((is_cold | is_red).astype(np.uint8), np.ones((5, 5), np.uint8)) != 0
    mask = ((grey < 0.9) & (grey > 0.15) & ~pens).astype(np.uint8)
    for value, least in ((1, 64), (0, 1000)):
        _, pieces, stats, _ = cv2.connectedComponentsWithStats((mask == value).astype(np.uint8), connectivity=8)
        is_small = (stats[:, cv2.CC_STAT_AREA] < least) & (np.arange(len(stats)) > 0)
        mask[is_small[pieces]] = 1 - value
    return np.asarray(cv2.resize(mask, pixels.shape[:0:-1], interpolation=cv2.INTER_NEAREST) != 0)


def score(found: Mask, base: Base, dirt: Dirt) -> dict[str, float]:
    """Return the share that was found of the clean tissue, of all else, of dirt on glass, and of tissue under dirt."""
    area = np.zeros_like(base.tissue) if dirt.area is None else dirt.area
    is_known = ~(base.ignored | edges(base.tissue, 1) | (False if dirt.ignored is None else dirt.ignored))
    tissue, rest = base.tissue & is_known, ~base.tissue & is_known
    parts = {
        "tissue_found": tissue & ~area,
        "false_tissue": rest,
        "dirt_as_tissue": rest & area,
        "under_dirt": tissue & area,
    }
    return {name: round(float(found[part].mean()), 4) if part.any() else np.nan for name, part in parts.items()}


def measure(real: Path, seed: int, find_by_lazyslide: Callable[[Path], Mask] | None) -> Iterator[dict[str, Any]]:
    """Yield a row per slide and finder."""
    with tempfile.TemporaryDirectory() as folder:
        for base in bases(real, seed):
            for kind, variant, dirt in dirty_slides(base, seed):
                path = write_slide(Path(folder) / "slide.tif", dirt.pixels, base.mpp)
                tissue, pixels = find_in_file(path, base.mpp)
                masks = {"pathopatch": tissue.mask != 0, "Otsu": otsu(pixels)}
                if not base.is_dark:
                    masks["HistoQC-like"] = histoqc_like(pixels, base.mpp)
                    if find_by_lazyslide:
                        masks["LazySlide"] = find_by_lazyslide(path)
                for finder, found in masks.items():
                    own = {"confidence": tissue.confidence, "warned": tissue.confidence < UNCERTAIN_BELOW}
                    yield {
                        "base": base.name, "is_dark": base.is_dark, "kind": kind, "variant": variant, "finder": finder,
                        **score(found, base, dirt), **(own if finder == "pathopatch" else {}),
                    }  # fmt: skip


@contextmanager
def lazyslide_finder(python: str) -> Iterator[Callable[[Path], Mask]]:
    """Yield a function that finds tissue by LazySlide, in a process of its own."""
    command = [python, str(HERE / "lazyslide_masks.py")]
    with subprocess.Popen(command, stdin=PIPE, stdout=PIPE, stderr=DEVNULL, text=True) as process:
        requests, replies = process.stdin, process.stdout
        assert requests is not None
        assert replies is not None

        def find(path: Path) -> Mask:
            print(path, file=requests, flush=True)
            if not (reply := replies.readline().strip()):
                raise RuntimeError(f"LazySlide ended at {path}")
            return np.asarray(np.asarray(cv2.imread(reply, cv2.IMREAD_GRAYSCALE)) != 0)

        yield find


def print_table(table: pd.DataFrame, by: list[str], columns: list[str]) -> None:
    """Print the means of columns for each group and finder; with false tissue, the number of failed slides too."""
    finders = list(dict.fromkeys(table.finder))
    print(f"\n| {' | '.join([*by, 'n', *finders, 'warned'])} |\n|{'---|' * (len(by) + len(finders) + 2)}")
    for keys, group in table.groupby(by, sort=False):
        cells = []
        for finder in finders:
            part = group[group.finder == finder]
            means = ["–" if part[column].isna().all() else f"{part[column].mean():.2f}" for column in columns]
            is_failed = (part.tissue_found < _LEAST_FOUND) | (part.false_tissue > _MOST_FALSE)
            failures = f" ({is_failed.sum()})" if "false_tissue" in columns and is_failed.any() else ""
            cells.append(" / ".join(means) + failures)
        own = group[group.finder == "pathopatch"]
        print(f"| {' | '.join([*map(str, keys), str(len(own)), *cells, str(own.warned.astype(bool).sum())])} |")


def main(options: argparse.Namespace) -> None:
    """Write the CSV and print the tables."""
    real = Path(os.environ["PATHOPATCH_REAL_DATA"])
    with lazyslide_finder(options.lazyslide) if options.lazyslide else nullcontext() as find_by_lazyslide:
        table = pd.DataFrame(measure(real, options.seed, find_by_lazyslide))
    table.drop(columns="is_dark").to_csv(options.out, index=False)
    is_ink = table.kind.str.endswith(" ink")
    table[["density", "over"]] = table.variant.str.split(", ", expand=True)[[0, 1]]
    table["dirt"] = np.where(is_ink, table.density + " ink", table.kind)
    print("Tissue found / false tissue (failed slides)")
    for is_dark in (False, True):
        print_table(table[table.is_dark == is_dark], ["dirt"], ["tissue_found", "false_tissue"])
    print("\nInk on glass counted as tissue / tissue found under ink")
    print_table(table[is_ink], ["kind", "density", "over"], ["dirt_as_tissue", "under_dirt"])
    print("\nOther dirt on glass counted as tissue")
    print_table(table[table.dirt_as_tissue.notna() & ~is_ink], ["kind"], ["dirt_as_tissue"])


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--out", type=Path, default=HERE / "dirt.csv")
    parser.add_argument("--lazyslide", metavar="PYTHON", help="a Python that has LazySlide")
    parser.add_argument("--seed", type=int, default=1, help="the rules were tried on 0")
    main(parser.parse_args())
