"""How does the command `tile` as a whole scale, over processes and over the area of a slide?"""

from __future__ import annotations

import os
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from inputs import Inputs
from measure import REPEATS, Row

_SLIDES = 4
# A process begins with the peak of the one that it was forked from, so a small one stands between.
_CHILD = """
import resource, subprocess, sys
code = subprocess.run(sys.argv[1:]).returncode
print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)
sys.exit(code)
"""
_IDLE_LOAD = 0.3  # load average up to which two cores count as idle


def rows(inputs: Inputs) -> Iterator[Row]:
    """All rows about whole commands; the one that needs idle cores is left out, with a word, where there are none."""
    yield _memory(inputs)
    load = os.getloadavg()[0]
    cores = len(os.sched_getaffinity(0))
    if load > _IDLE_LOAD or cores < 2:
        print(f"left out: two processes against one ({cores} cores, load {load:.1f}; two idle ones are needed)")  # noqa: T201
        return
    yield _processes(inputs)


def _memory(inputs: Inputs) -> Row:
    """Peak memory of the largest process; both slides are larger than an overview, which never grows further."""
    smaller, larger = max(inputs.side, 4096), 2 * max(inputs.side, 4096)
    peaks = [
        statistics.median(_tile(inputs.folder, [inputs.rgb_jpeg(side)], workers=1)[1] for _ in range(3))
        for side in (smaller, larger)
    ]
    name = f"peak memory of tile, {larger} px square by {smaller} px square, made"
    return Row(name, peaks[1] / peaks[0], 1.15, "at most", "ratio of peak resident bytes")


def _processes(inputs: Inputs) -> Row:
    """Wall-clock time, in turn."""
    first = inputs.rgb_jpeg(max(inputs.side, 4096))
    slides = [first]
    for number in range(1, _SLIDES):
        copy = inputs.folder / f"copy-{number}.tif"
        if not copy.exists():  # not the same bytes: equal slides are refused
            shutil.copy(first, copy)
            with copy.open("ab") as stream:
                stream.write(bytes(number))
        slides.append(copy)
    ratios = []
    for _ in range(REPEATS):
        one, two = (_tile(inputs.folder, slides, workers=workers)[0] for workers in (1, 2))
        ratios.append(one / two)
    return Row(f"tile, {_SLIDES} made slides, two processes by one", statistics.median(ratios), 1.7,
               unit="ratio of wall-clock seconds")  # fmt: skip


def _tile(folder: Path, slides: Sequence[Path], *, workers: int) -> tuple[float, int]:
    """Wall-clock seconds and peak resident kilobytes of one run of the command."""
    manifest, out = folder / "cohort.csv", folder / "work"
    lines = [f"{path.stem},p{number},{path}" for number, path in enumerate(slides)]
    manifest.write_text("\n".join(["slide_id,patient_id,path", *lines]) + "\n", encoding="utf-8")
    shutil.rmtree(out, ignore_errors=True)
    start = time.perf_counter()
    command = [
        sys.executable,
        "-m",
        "pathopatch.cli",
        "tile",
        manifest,
        "-o",
        out,
        "--workers",
        str(workers),
        "--quiet",
    ]
    done = subprocess.run(
        [sys.executable, "-c", _CHILD, *map(str, command)], capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise SystemExit(f"tile ended with {done.returncode}: {done.stderr}")
    return time.perf_counter() - start, int(done.stdout.splitlines()[-1])
