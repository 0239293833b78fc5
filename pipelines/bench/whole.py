"""Measure the scaling of whole commands over processes, and their peak memory."""

from __future__ import annotations

import math
import os
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TextIO, cast

from inputs import TILE_PX, Inputs
from measure import REPEATS, Row

_SLIDES = 4
# A process begins with the peak of the one that it was forked from, so a small one stands between.
_CHILD = """
import resource, subprocess, sys
code = subprocess.run(sys.argv[1:]).returncode
print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)
sys.exit(code)
"""
# Each says when it is ready, and then how many seconds its work took.
_DECODE = """
import sys, time
sys.path.insert(0, sys.argv[1])
from reading import BareDecoder
from pathlib import Path
tiles = BareDecoder(Path(sys.argv[2]))
work = tiles.bands(side=tiles.side, stride=tiles.side)
print("ready", flush=True)
sys.stdin.readline()
start = time.perf_counter()
for band in work:
    band()
print(time.perf_counter() - start, flush=True)
"""
_FORWARD = """
import sys, time
import numpy as np
from pathlib import Path
from pathopatch.models.loading import load_model
runtime = load_model(Path(sys.argv[2]), device="cpu", threads=1).runtime
side = int(sys.argv[3])
x = np.random.default_rng(0).standard_normal((32, 3, side, side), np.float32)
runtime.logits(x)
print("ready", flush=True)
sys.stdin.readline()
start = time.perf_counter()
for _ in range(16):
    runtime.logits(x)
print(time.perf_counter() - start, flush=True)
"""
_BARE_PATCHES = 512  # of _FORWARD
_IDLE_CORES = 0.1  # cores' worth of others' work up to which the cores count as idle
_PATIENCE_S = 60.0  # in all, for others to end
_LARGE_PX = 8192  # side of a slide beside whose work the start of a process is short
_THREADS = ("OPENCV_FOR_THREADS_NUM", "ZARR_THREADING__MAX_WORKERS", "OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS")
_ONE_THREAD = dict.fromkeys(_THREADS, "1")


def rows(inputs: Inputs) -> Iterator[Row]:
    """Wall-clock time of `tile` of several slides."""
    first = inputs.rgb_jpeg(max(inputs.side, _LARGE_PX))
    yield from _scaling("tile", inputs.folder, [first, *_copies(first, _SLIDES - 1)], [], _DECODE, str(first))


def processes_of_predict(inputs: Inputs, bundle: Path) -> Iterator[Row]:
    """Patches a second of `predict` in two processes, by those of two bare forward passes side by side."""
    first = inputs.rgb_pyramid(_LARGE_PX)
    slides = [first, *_copies(first, _SLIDES - 1)]
    options = ["--model", str(bundle), "--slide-mpp", "0.5", "--device", "cpu"]
    patience = time.monotonic() + _PATIENCE_S
    is_idle, ratios = len(os.sched_getaffinity(0)) > 1, []
    for _ in range(3):
        is_idle &= _idle_by(patience)
        seconds = _run("predict", inputs.folder, slides, options, workers=2, variables=_ONE_THREAD)[0]
        bare = _side_by_side(_FORWARD, [str(bundle), str(TILE_PX)], 2)
        ratios.append(_SLIDES * (_LARGE_PX // TILE_PX) ** 2 / seconds / (2 * _BARE_PATCHES / bare))
    name = f"predict, {_SLIDES} slides of 1,024 patches in two processes, by two bare forward passes side by side"
    if not is_idle:
        name += ", CORES NOT IDLE"
    yield Row(name, statistics.median(ratios), 0.95, unit="ratio of patches a second")


def _copies(path: Path, count: int) -> list[Path]:
    """Copies of a slide that are not the same bytes: equal slides are refused."""
    copies = [path.with_name(f"{path.stem}-copy-{number}.tif") for number in range(1, count + 1)]
    for number, copy in enumerate(copies, 1):
        shutil.copy(path, copy)
        with copy.open("ab") as stream:
            stream.write(bytes(number))
    return copies


def _scaling(
    command: str, folder: Path, slides: Sequence[Path], options: Sequence[str], bare: str, *arguments: str
) -> Iterator[Row]:
    """Two processes by one, each of one thread; the limit is that of bare work side by side, in the same run."""
    patience = time.monotonic() + _PATIENCE_S
    is_idle = len(os.sched_getaffinity(0)) > 1
    ratios, limits = [], []
    for _ in range(REPEATS):
        is_idle &= _idle_by(patience)
        one, two = (
            _run(command, folder, slides, options, workers=workers, variables=_ONE_THREAD)[0] for workers in (1, 2)
        )
        ratios.append(one / two)
        limits.append(2 * _side_by_side(bare, arguments, 1) / _side_by_side(bare, arguments, 2))
    name = f"{command}, {len(slides)} made slides, two processes by one, of one thread each"
    if not is_idle:
        name += ", CORES NOT IDLE"
    limit = statistics.median(limits)
    yield Row(name, statistics.median(ratios), 0.95 * limit, unit="ratio of wall-clock seconds", limit=limit)


def _side_by_side(code: str, arguments: Sequence[str], count: int) -> float:
    """Wall-clock seconds of bare work in so many processes that start together; of the slower one."""
    command = [sys.executable, "-c", code, str(Path(__file__).parent), *arguments]
    environment = {**os.environ, **_ONE_THREAD}
    with ExitStack() as stack:
        processes = [
            stack.enter_context(
                subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment)
            )
            for _ in range(count)
        ]
        pipes = [(cast(TextIO, process.stdin), cast(TextIO, process.stdout)) for process in processes]
        for _, said in pipes:
            said.readline()
        for told, _ in pipes:
            told.write("go\n")
            told.flush()
        return max(float(said.readline()) for _, said in pipes)


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


def _run(
    command: str,
    folder: Path,
    slides: Sequence[Path],
    more: Sequence[str] = (),
    *,
    workers: int,
    variables: Mapping[str, str] | None = None,
) -> tuple[float, int]:
    """Wall-clock seconds and peak resident kilobytes of one run of the command."""
    manifest, out = folder / "cohort.csv", folder / "work"
    lines = [f"{path.stem},made,{path}" for path in slides]  # copies of one picture belong to one patient
    manifest.write_text("\n".join(["slide_id,patient_id,path", *lines]) + "\n", encoding="utf-8")
    shutil.rmtree(out, ignore_errors=True)
    start = time.perf_counter()
    options = ["-o", str(out), "--workers", str(workers), "--quiet", *more]
    peak = peak_of([sys.executable, "-m", "pathopatch", command, str(manifest), *options], variables)
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
