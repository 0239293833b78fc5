"""Measure which share of the time a processor predicts, where fetching a slide takes as long as predicting it.

``python pipelines/soak/fetching.py [--slides 10]`` makes slides and a bundle of random weights, predicts them from the
drive, and again by ``[predict] fetch`` with a command that copies each slide as slowly. With n slides n / (n + 1) is
the most that can be had: nothing is predicted while the first one comes.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import tifffile

from pathopatch.models.bundle import save_bundle
from pathopatch.models.networks import build_network
from pathopatch.models.spec import BundleSpec

COPY = """
import pathlib, sys, time
source, file, rate = sys.argv[1:]
start, done = time.monotonic(), 0
with open(source, "rb") as read, open(file, "wb") as written:
    while block := read.read(2**18):
        written.write(block)
        done += len(block)
        time.sleep(max(0.0, done / float(rate) - (time.monotonic() - start)))
"""


SIDE_PX = 3072
SPEC = BundleSpec(
    architecture="small-groupnorm",
    channels=("R", "G", "B"),
    dtype="uint8",
    background="bright",
    patch_px=256,
    input_px=256,
    stride_px=256,
    mpp=0.5,
    mean=(0.5,) * 3,
    std=(0.2,) * 3,
    method="erm",
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--slides", type=int, default=10)
    slides = parser.parse_args().slides
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_cohort(folder, slides)
        save_bundle(folder / "model", build_network(SPEC.architecture, 3), SPEC)
        settings = "[predict]\nall_patches = true\n"
        near_s = seconds_to_predict(folder, "near", settings)
        size = sum(path.stat().st_size for path in folder.glob("*.tif"))
        (folder / "bring.py").write_text(COPY)
        words = [sys.executable, str(folder / "bring.py"), "{source}", "{file}", f"{size / near_s:.0f}"]
        far_s = seconds_to_predict(folder, "far", f"{settings}fetch = {json.dumps(' '.join(words))}\n")
    print(f"{slides} slides of {size / slides / 1e6:.0f} MB at {size / near_s / 1e6:.0f} MB/s")
    print(f"from the drive {near_s:.1f} s, fetched {far_s:.1f} s: share {near_s / far_s:.2f}")


def write_cohort(folder: Path, slides: int) -> None:
    """Write RGB slides that are tissue throughout, uncompressed in tiles, and their manifest."""
    rng = np.random.default_rng(0)
    lines = ["slide_id,patient_id,path"]
    for number in range(slides):
        image = rng.integers(120, 180, (SIDE_PX, SIDE_PX, 3), dtype=np.uint8)
        resolution = (1e4 / SPEC.mpp, 1e4 / SPEC.mpp)
        tifffile.imwrite(
            folder / f"s{number}.tif", image, tile=(256, 256), resolution=resolution, resolutionunit="CENTIMETER"
        )
        lines.append(f"s{number},p{number},s{number}.tif")
    (folder / "cohort.csv").write_text("\n".join(lines) + "\n")


def seconds_to_predict(folder: Path, out: str, settings: str) -> float:
    """Return how long the command takes."""
    (folder / "predict.toml").write_text(settings)
    words = ["predict", "cohort.csv", "--model", "model", "--config", "predict.toml", "-q", "-o"]
    start = time.monotonic()
    subprocess.run([sys.executable, "-m", "pathopatch", *words, out], check=True, cwd=folder, stdout=subprocess.DEVNULL)
    return time.monotonic() - start


if __name__ == "__main__":
    main()
