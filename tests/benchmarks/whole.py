"""Measure the scaling of the whole command `tile` over processes and over the area of a slide."""

from __future__ import annotations

import math
import os
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
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
_IDLE_CORES = 0.1  # cores' worth of others' work up to which the cores count as idle
_PATIENCE_S = 60.0  # in all, for others to end
_LARGE_PX = 8192  # side of a slide beside whose work the start of a process is short
_THREADS = ("OPENCV_FOR_THREADS_NUM", "ZARR_THREADING__MAX_WORKERS", "OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS")
_ONE_THREAD = dict.fromkeys(_THREADS, "1")


def rows(inputs: Inputs) -> Iterator[Row]:
    """All rows about whole commands."""
    yield _memory(inputs)
    yield from _processes(inputs)


def _memory(inputs: Inputs) -> Row:
    """Peak memory of the largest process; both slides are larger than an overview, which never grows further."""
    smaller, larger = max(inputs.side, 4096), 2 * max(inputs.side, 4096)
    peaks = [
        statistics.median(_tile(inputs.folder, [inputs.rgb_jpeg(side)], workers=1)[1] for _ in range(3))
        for side in (smaller, larger)
    ]
    name = f"peak memory of tile, {larger} px square by {smaller} px square, made"
    return Row(name, peaks[1] / peaks[0], 1.15, "at most", "ratio of peak resident bytes")


def _processes(inputs: Inputs) -> Iterator[Row]:
    """Wall-clock time, in turn: as it comes, where one process uses a part of a second core, and of one thread each."""
    first = inputs.rgb_jpeg(max(inputs.side, _LARGE_PX))
    slides = [first]
    for number in range(1, _SLIDES):
        copy = inputs.folder / f"copy-{number}.tif"
        shutil.copy(first, copy)
        with copy.open("ab") as stream:  # not the same bytes: equal slides are refused
            stream.write(bytes(number))
        slides.append(copy)
    patience = time.monotonic() + _PATIENCE_S
    is_idle = len(os.sched_getaffinity(0)) > 1
    for how, variables in (("as they come", {}), ("of one thread each", _ONE_THREAD)):
        ratios = []
        for _ in range(REPEATS):
            is_idle &= _idle_by(patience)
            one, two = (_tile(inputs.folder, slides, workers=workers, variables=variables)[0] for workers in (1, 2))
            ratios.append(one / two)
        name = f"tile, {_SLIDES} made slides, two processes by one, {how}"
        if not is_idle:
            name += ", CORES NOT IDLE"
        yield Row(name, statistics.median(ratios), 1.7, unit="ratio of wall-clock seconds")


def _idle_by(deadline: float) -> bool:
    """Return True if other processes leave the cores idle, now or before a deadline."""
    while _others() > _IDLE_CORES:
        if time.monotonic() > deadline:
            return False
        time.sleep(3)
    return True


def _others(seconds: float = 2.0) -> float:
    """Cores' worth of work on this machine while this process sleeps; infinite where that is not known."""
    try:
        before = _busy_seconds()
        time.sleep(seconds)
        return (_busy_seconds() - before) / seconds
    except OSError:
        return math.inf


def _busy_seconds() -> float:
    """Seconds that all cores together have worked since the machine started."""
    user, nice, system, _, _, *rest = Path("/proc/stat").read_text().splitlines()[0].split()[1:9]
    return sum(int(ticks) for ticks in (user, nice, system, *rest)) / os.sysconf("SC_CLK_TCK")


def _tile(
    folder: Path, slides: Sequence[Path], *, workers: int, variables: Mapping[str, str] | None = None
) -> tuple[float, int]:
    """Wall-clock seconds and peak resident kilobytes of one run of the command."""
    manifest, out = folder / "cohort.csv", folder / "work"
    lines = [f"{path.stem},made,{path}" for path in slides]  # copies of one picture belong to one patient
    manifest.write_text("\n".join(["slide_id,patient_id,path", *lines]) + "\n", encoding="utf-8")
    shutil.rmtree(out, ignore_errors=True)
    start = time.perf_counter()
    options = ["-o", str(out), "--workers", str(workers), "--quiet"]
    peak = peak_of([sys.executable, "-m", "pathopatch", "tile", str(manifest), *options], variables)
    return time.perf_counter() - start, peak


def peak_of(command: Sequence[str], variables: Mapping[str, str] | None = None) -> int:
    """Peak resident kilobytes of the largest process of a command."""
    done = subprocess.run(
        [sys.executable, "-c", _CHILD, *command],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, **(variables or {})},
    )
    if done.returncode:
        raise SystemExit(f"{' '.join(command)} ended with {done.returncode}: {done.stderr}")
    return int(done.stdout.splitlines()[-1])
