"""How fast the pieces are against their bounds: prints one table and writes ``bench.json``.

Each row compares two things in one run, interleaved, by CPU seconds, and reports the median ratio.
"""

from __future__ import annotations

import datetime
import json
import os
import platform
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from pathopatch.debias.methods import method
from pathopatch.models import build_network
from pathopatch.patches.tissue import TissueModel

REPEATS = 5


def ratio(first: Callable[[], object], second: Callable[[], object]) -> float:
    """Median over the repeats of CPU seconds of `first` by those of `second`, in turn."""
    ratios = []
    for repeat in range(REPEATS + 1):
        seconds = []
        for work in (first, second):
            start = time.process_time()
            work()
            seconds.append(time.process_time() - start)
        if repeat:  # the first is the warm-up
            ratios.append(seconds[0] / seconds[1])
    return statistics.median(ratios)


def training_step(name: str, steps: int = 10) -> Callable[[], None]:
    """Steps of a method on tensors in memory, 64 samples of 64 px a step whatever the method."""
    rng = np.random.default_rng(0)
    label = rng.integers(0, 2, 1000)
    attribute = np.where(rng.random(1000) < 0.9, label, 1 - label)
    x = torch.from_numpy(rng.random((1000, 3, 64, 64), dtype=np.float32))
    y, group = torch.from_numpy(label), torch.from_numpy(2 * label + attribute)
    phase = method(name)[-1]
    network, objective = build_network("small-groupnorm", 3), phase.objective(4)
    optimizer = torch.optim.AdamW(network.parameters())
    batches = list(phase.sampler(label, attribute, batch_per_class=32, steps=steps, seed=0))

    def run() -> None:
        for batch in batches:
            loss = torch.nn.functional.cross_entropy(network(x[batch]), y[batch], reduction="none")
            optimizer.zero_grad()
            objective(loss, group[batch]).backward()
            optimizer.step()

    return run


def fraction_error() -> float:
    """Largest difference of a patch's tissue fraction from the mean of its own mask, drawn pixel by pixel."""
    rng = np.random.default_rng(0)
    worst = 0.0
    for _ in range(50):
        patch = rng.integers(0, 256, (1, 64, 64)).astype(np.uint8)
        model = TissueModel(
            background="dark",
            windows=np.array([[0.0, 255.0]]),
            threshold=0.5,
            mask=np.ones((8, 8), np.uint8),
            scale_x=8.0,
            scale_y=8.0,
        )
        found = np.count_nonzero(model.patch_mask(patch, 0, 0, 1.0, (64, 64))) / 64**2
        worst = max(worst, abs(found - (patch[0] / 255 > 0.5).mean()))
    return worst


def main() -> int:
    """Measure every row; 1 if one misses its goal."""
    torch.set_num_threads(1)
    rows = [
        ("a GERNE step by an ERM step of as many samples", ratio(training_step("gerne"), training_step("erm")), 1.05),
        ("error of the tissue fraction", fraction_error(), 0.0),
    ]
    machine = f"{platform.machine()}, {os.cpu_count()} cores"
    table = [
        {
            "name": name,
            "ratio": round(value, 4),
            "goal": goal,
            "sense": "at most",
            "unit": "ratio of CPU seconds" if goal else "absolute",
            "date": datetime.datetime.now(tz=datetime.UTC).date().isoformat(),
            "machine": machine,
        }
        for name, value, goal in rows
    ]
    for row in table:
        verdict = "ok" if row["ratio"] <= row["goal"] else "missed"
        print(f"{row['name']:<55}{row['ratio']:>8}   at most {row['goal']}   {verdict}")  # noqa: T201 - its purpose
    Path("bench.json").write_text(json.dumps(table, indent=2) + "\n", encoding="utf-8")
    return int(any(row["ratio"] > row["goal"] for row in table))


if __name__ == "__main__":
    sys.exit(main())
