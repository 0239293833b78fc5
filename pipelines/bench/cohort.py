"""Take a cohort of made slides through all commands of a lab, and count slides an hour, beside other predictors."""

from __future__ import annotations

import os
import resource
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
from environments import at_work, measured
from inputs import TILE_PX, Inputs
from measure import Row
from peers_predicting import PEERS, Predictor
from predicting import write_bundle

from pathopatch.models.export import export_model

SLIDES = 200
_SIDE = 2048
_PREDICTED = 3  # repeats of one slide by a peer, whose cost does not depend on the slide


def rows(inputs: Inputs, environments: Path | None = None) -> Iterator[Row]:
    """Seconds of each command, slides an hour of all, and how many times as fast as others we predict a slide."""
    folder = inputs.folder / "cohort"
    folder.mkdir()
    manifest = _make(inputs, folder)
    bundle, exported = write_bundle(folder / "bundle"), folder / "exported"
    export_model(bundle, exported, kind="wsinfer")
    work, cores = folder / "work", len(os.sched_getaffinity(0))
    several = ["--workers", str(cores)]
    commands = {
        "check": ["check", manifest],
        "tile": ["tile", manifest, "-o", work, "--patch-px", TILE_PX, "--mpp", 0.5, *several],
        "groups": ["groups", work],
        "predict": ["predict", manifest, "--model", bundle, "-o", work, "--device", "cpu", *several],
        "report": ["report", work],
    }
    whole, of_predict = 0.0, 0.0
    for name, command in commands.items():
        wall, cpu = _timed(command)
        whole += wall
        of_predict = cpu if name == "predict" else of_predict
        yield Row(f"{SLIDES} made slides of {_SIDE} px: {name}", wall, None, "at most", "seconds")
    yield Row(f"the same, all five on {cores} cores", 3600 * SLIDES / whole, None, unit="slides an hour")

    def row(peer: Predictor) -> Row:
        out = folder / peer.environment.name
        out.mkdir()
        path = next(folder.glob("slide-*.tif"))
        with at_work(peer, environments or inputs.folder, path, bundle, exported, _SIDE // TILE_PX, out) as process:
            seconds = float(np.median([process.again() for _ in range(_PREDICTED)]))
        name = f"the same: predict, its tissue, maps and exports too, by {peer.name}'s CPU seconds a slide"
        return Row(name, seconds / (of_predict / SLIDES), 1.0)

    yield from measured(PEERS, row)


def _make(inputs: Inputs, folder: Path) -> Path:
    """Slides of forty patients; the tumour of every other one is where a coarse field is high."""
    lines = ["slide_id,patient_id,path,tumor_mask"]
    for number in range(SLIDES):
        path = folder / f"slide-{number:03}.tif"
        inputs.write_rgb_jpeg(path, _SIDE, seed=number)
        mask = "none"
        if number % 2:
            field = cv2.resize(np.random.default_rng(number).random((4, 4), np.float32), (512, 512))
            cv2.imwrite(str(folder / f"mask-{number:03}.png"), 255 * (field > 0.5).astype(np.uint8))
            mask = f"mask-{number:03}.png"
        lines.append(f"S{number:03},P{number % 40:02},{path.name},{mask}")
    (folder / "cohort.csv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return folder / "cohort.csv"


def _timed(command: list[object]) -> tuple[float, float]:
    """Seconds of a command by the clock, and CPU seconds of all its processes."""
    before, start = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    subprocess.run([sys.executable, "-m", "pathopatch", *map(str, command), "--quiet"], check=True, capture_output=True)
    wall, after = time.perf_counter() - start, resource.getrusage(resource.RUSAGE_CHILDREN)
    return wall, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
