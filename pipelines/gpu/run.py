"""Prove the GPU paths by one command: the tests of ``tests/gpu`` and the benchmark; a table and ``gpu.json``.

It needs Python, PyTorch with CUDA and NumPy, and no network: what else is missing is installed from folders of wheels
(see ``wheels.py``) into ``build/gpu-site``. Data are made on the spot. ``--device cpu`` runs everything in small on a
processor, to see that the command works.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import wheels

ROOT = Path(__file__).resolve().parents[2]
HERE, TESTS = Path(__file__).parent, ROOT / "tests" / "gpu"
_MINUTES = 8.5  # in all
_SHARES = {"tests": 0.5, "training": 0.3, "predict": 0.2}  # of the time that is left


def main() -> int:
    """Run all parts; 1 if a test failed or a part did not end."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", default="cuda", help="cuda, or cpu to try the command")
    parser.add_argument("--wheels", type=Path, default=ROOT, help="where the folders gpu-wheels-1, … lie")
    parser.add_argument("--minutes", type=float, default=_MINUTES, help="time for everything")
    parser.add_argument("--out", type=Path, default=ROOT / "gpu.json")
    options = parser.parse_args()
    site = ROOT / "build" / "gpu-site"
    wheels.install(options.wheels, site)
    path = os.pathsep.join([str(ROOT), str(site)])
    environment = {**os.environ, "PYTHONPATH": path, "PYTHONDONTWRITEBYTECODE": "1", "MPLBACKEND": "agg"}
    lines = ROOT / "build" / "gpu-rows.jsonl"
    lines.parent.mkdir(exist_ok=True)
    lines.unlink(missing_ok=True)
    measured = ["--device", options.device, "--out", str(lines), *(["--small"] if options.device == "cpu" else [])]
    chosen = "gpu" if options.device != "cpu" else "not gpu"
    commands = {
        "machine": [str(HERE / "benchmark.py"), "machine", *measured],
        "tests": ["-m", "pytest", str(TESTS), "-q", "-m", chosen, "-p", "no:cacheprovider", "--durations=5"],
        **{part: [str(HERE / "benchmark.py"), part, *measured] for part in ("training", "predict")},
    }
    end, left, outcomes = time.monotonic() + 60 * options.minutes, 1.0, {}
    for part, command in commands.items():
        # What an earlier part did not use, the later ones may.
        share = _SHARES.get(part, 0.2)
        limit = (end - time.monotonic()) * share / left
        left -= share if part in _SHARES else 0
        if part == "tests":
            command += [f"--session-timeout={limit - 20:.0f}"]  # so that pytest reports what failed until then
        outcomes[part] = _run(part, command, environment, limit)
    rows: list[dict[str, Any]] = [json.loads(line) for line in lines.read_text(encoding="utf-8").splitlines()]
    date = datetime.datetime.now(tz=datetime.UTC).date().isoformat()
    options.out.write_text(
        json.dumps({"date": date, "parts": outcomes, "rows": rows}, indent=2) + "\n", encoding="utf-8"
    )
    _print(rows, outcomes)
    return int(any(outcome != "ok" for outcome in outcomes.values()))


def _run(part: str, command: list[str], environment: dict[str, str], limit: float) -> str:
    """Run one part for `limit` seconds at most; return ``ok`` or how it ended."""
    start = time.monotonic()
    try:
        code = subprocess.run(
            [sys.executable, *command], env=environment, cwd=ROOT, check=False, timeout=limit
        ).returncode
        outcome = "ok" if code == 0 else f"ended with code {code}"
    except subprocess.TimeoutExpired:
        outcome = f"stopped after {limit:.0f} s"
    print(f"{part}: {outcome}, {time.monotonic() - start:.0f} s", flush=True)
    return outcome


def _print(rows: list[dict[str, Any]], outcomes: dict[str, str]) -> None:
    print()
    for row in rows:
        value = row["value"] if isinstance(row["value"], str) else f"{row['value']:.4g}"
        goal = (
            ""
            if row["goal"] is None
            else f"at least {row['goal']:g} " + ("ok" if row["value"] >= row["goal"] else "missed")
        )
        print(f"{row['name']:<76}{value:>14} {row['unit']:<10}{goal}")
    print("\n" + "; ".join(f"{part}: {outcome}" for part, outcome in outcomes.items()))


if __name__ == "__main__":
    sys.exit(main())
