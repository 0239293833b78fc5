"""Measure the peak memory of whole commands on slides of two sizes, four times the area in the second."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
from inputs import TILE_PX, Inputs
from measure import Row
from predicting import write_bundle
from whole import peak_of

_SIDES_PX = 8192, 16384
# Of training patches, far fewer than there are: up to 1.5 GiB of them are kept in memory otherwise.
_TRAIN = "[train]\nsteps = 20\nevaluations = 1\ncache_gib = 0.002\nmethod = 'resample'\nmask = 'none'\n"
# A person looks at each slide: at its facts and values, and at 64 tiles of every level.
_LOOK = """
import itertools, json, re, signal, subprocess, sys
from urllib.error import HTTPError
from urllib.request import urlopen
command = [sys.executable, "-m", "pathopatch", "review", sys.argv[1], "--port", "0", "--no-token"]
with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as server:
    said, found = "", None
    while not (found := re.search(r"http://127.0.0.1:\\d+", said)):
        said += server.stdout.readline() or sys.exit(said)
    address = found[0]
    for name in ("S0", "S1"):
        slide = f"{address}/api/slides/{name}"
        seen = [len(urlopen(url).read()) for url in (slide, f"{slide}/values", f"{slide}/thumbnail.jpg")]
        for place in itertools.product(range(16), range(8), range(8)):
            try:
                seen.append(len(urlopen(f"{slide}/tiles/{'/'.join(map(str, place))}.jpg").read()))
            except HTTPError:
                pass
        assert len(seen) > 64
    server.send_signal(signal.SIGINT)
    server.stdout.read()
sys.exit(server.returncode not in (0, 130))
"""


def rows(inputs: Inputs) -> Iterator[Row]:
    """For each command its peak on the larger slides, and that by its peak on the smaller ones."""
    bundle = write_bundle(inputs.folder / "bundle")
    smaller, larger = (_peaks(inputs, side, bundle) for side in _SIDES_PX)
    for name, peak in larger.items():
        what = f"peak memory of {name}, slides of {_SIDES_PX[1]} px square"
        yield Row(what, peak / 2**20, None, "at most", "GiB resident")
        yield Row(f"the same by that of {_SIDES_PX[0]} px square", peak / smaller[name], 1.15, "at most", "ratio")


def _peaks(inputs: Inputs, side: int, bundle: Path) -> dict[str, int]:
    """Peak resident kilobytes of each command; a slide is of a patient of its own, and half of it is tumour."""
    folder = inputs.folder / f"memory-{side}"
    folder.mkdir()
    cv2.imwrite(str(folder / "mask.png"), np.array([[0] * 32 + [255] * 32] * 64, np.uint8))
    lines = ["slide_id,patient_id,path,tumor_mask,split"]
    for number, split in enumerate(("train", "val")):
        path = folder / f"slide-{number}.tif"
        inputs.write_rgb_jpeg(path, side, seed=number)
        lines.append(f"S{number},P{number},{path.name},mask.png,{split}")
    manifest, settings, on_cpu = folder / "cohort.csv", folder / "train.toml", ["--device", "cpu"]
    manifest.write_text("\n".join(lines) + "\n", encoding="utf-8")
    settings.write_text(_TRAIN, encoding="utf-8")
    work, out = folder / "work", folder / "predicted"
    commands = {
        "tile": ["tile", manifest, "-o", work, "--patch-px", TILE_PX, "--mpp", 0.5, "--workers", 1],
        "groups": ["groups", work],
        "train": ["train", work, "--config", settings, *on_cpu],
        "predict": ["predict", manifest, "--model", bundle, "-o", out, "--workers", 1, *on_cpu],
        "audit-model": ["audit-model", bundle, manifest, "-o", folder / "audit", *on_cpu],
    }
    program = [sys.executable, "-m", "pathopatch"]
    peaks = {name: peak_of([*program, *map(str, command), "--quiet"]) for name, command in commands.items()}
    return {**peaks, "review": peak_of([sys.executable, "-c", _LOOK, str(out)])}
