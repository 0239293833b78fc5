"""The statuses of a million slides: how long, and with how much memory, `pathopatch status` reads them."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pathopatch.core import status as statuses

SLIDES, LIMIT_S, LIMIT_BYTES = 1_000_000, 10.0, 2**30


def write_chunks(out: Path) -> None:
    """Chunks as `roll` writes them, of the same entries again and again under other ids."""
    size = statuses.COMPACT_FROM
    done = {"state": "done", "patient_id": "p1", "seconds": "61.20", "ended": "2026-11-25T12:00:00+0000",
            "host": "node1", "counts": {"patches": 4000, "predicted": 2500, "tumour": 300},
            "summary": {"tissue_mm2": 120.5, "positive_mm2": 14.4, "flagged_share": 0.01}}  # fmt: skip
    failed = {
        "state": "failed",
        "patient_id": "p1",
        "code": "INPUT_CORRUPT",
        "message": "INPUT_CORRUPT: a tile cannot be decoded",
    }
    (out / "status").mkdir(parents=True)
    first = out / "status" / "chunk-000001.parquet"
    statuses._write(first, {f"s{n:07d}": {"predict": failed if n % 1000 == 0 else done} for n in range(size)})
    table = pq.read_table(first)
    for number in range(1, SLIDES // size):
        ids = pa.array([f"s{n:07d}" for n in range(number * size, (number + 1) * size)])
        path = out / "status" / f"chunk-{number + 1:06d}.parquet"
        pq.write_table(table.set_column(0, "slide_id", ids), path, compression="zstd", row_group_size=size)


_MEASURED = """
import sys
from pathlib import Path
from pathopatch.cli import main
held = Path(sys.argv.pop())
try:
    main()
finally:
    (line,) = [each for each in Path("/proc/self/status").read_text().splitlines() if each.startswith("VmHWM")]
    held.write_text(line.split()[1])
"""


def timed(out: Path, peak_file: Path) -> tuple[subprocess.CompletedProcess[str], float, int]:
    """`status` in a process of its own, its seconds, and the most bytes that it held, its parent's not among them."""
    command = [sys.executable, "-c", _MEASURED, "status", str(out), str(peak_file)]
    started = time.perf_counter()
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return done, time.perf_counter() - started, int(peak_file.read_text()) * 1024


@pytest.mark.slow
def test_status_of_a_million_slides_takes_ten_seconds_and_one_gibibyte(tmp_path: Path) -> None:
    write_chunks(tmp_path / "out")
    seconds = []
    while not seconds or (min(seconds) >= LIMIT_S and len(seconds) < 3):  # what else runs is no fault of ours
        done, spent, peak = timed(tmp_path / "out", tmp_path / "held")
        seconds.append(spent)
    output = done.stdout
    assert done.returncode == 3, done.stderr
    assert "predict: 999,000 done, 1,000 failed; 3,996,000,000 patches" in output
    assert output.count("INPUT_CORRUPT: a tile cannot be decoded") == 1  # one line with its count
    assert "1,000 slides" in output
    assert peak < LIMIT_BYTES
    assert min(seconds) < LIMIT_S


@pytest.mark.slow
def test_one_slide_among_a_million_is_found_at_once(tmp_path: Path) -> None:
    write_chunks(tmp_path / "out")
    started = time.perf_counter()
    status = statuses.read_status(tmp_path / "out", "s0543210")
    assert time.perf_counter() - started < 2
    assert status["predict"]["counts"]["patches"] == 4000
    assert statuses.read_status(tmp_path / "out", "s9999999") == {}
