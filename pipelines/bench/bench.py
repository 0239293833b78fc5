"""Measure speed against bounds and other packages; print one table and write ``bench.json``.

Each row compares two things on outputs that were shown to be equal, interleaved in one run, and reports the median.
`--peers` adds other packages' readers and predictors, each in an environment of its own. `--only stages` shows where
the time of a prediction goes, and `--only cohort` takes 200 slides through all commands.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import platform
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import cohort
import cv2
import memory
import peers
import peers_predicting
import predicting
import reading
import runtimes
import stages
import store
import tissue
import torch
import training
import whole
from inputs import Inputs
from measure import Row

_PARTS = {
    module.__name__: module
    for module in (
        training, tissue, reading, store, whole, memory, runtimes, predicting, stages, cohort, peers, peers_predicting,
    )
}  # fmt: skip
_PEERS = ("peers", "peers_predicting")
_WITH_ENVIRONMENTS = ("cohort", *_PEERS)
_APART = ("cohort",)  # it takes as long as all others


def measured(inputs: Inputs, parts: list[str], environments: Path | None) -> Iterator[Row]:
    """The rows of some parts of the table."""
    for part in parts:
        rows = _PARTS[part].rows
        yield from rows(inputs, environments) if part in _WITH_ENVIRONMENTS else rows(inputs)


def main() -> int:
    """Measure every row; 1 if one misses its goal."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--side", type=int, default=4096, help="side of the made slides, px")
    parser.add_argument("--only", choices=_PARTS, action="append", help="some parts; bench.json is then left as it is")
    parser.add_argument(
        "--peers", action="store_true", help="hs2p, tiatoolbox and wsinfer too, which are installed for it"
    )
    parser.add_argument("--environments", type=Path, help="where theirs are kept; else they are made and removed")
    options = parser.parse_args()
    others = _APART if options.peers else _APART + _PEERS
    parts = options.only or [part for part in _PARTS if part not in others]
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    rows = []
    with tempfile.TemporaryDirectory(prefix="pathopatch-bench-") as folder:
        for row in measured(Inputs(Path(folder), options.side), parts, options.environments):
            goal = "" if row.goal is None else f"{row.sense} {row.goal:<5.3g} {'ok' if row.is_met else 'missed'}"
            limit = "" if row.limit is None else f", the limit here is {row.limit:.3g}"
            print(f"{row.name:<88}{row.ratio:>9.3f}   {goal}{limit}", flush=True)
            rows.append(row)
    if options.only is None:
        Path("bench.json").write_text(json.dumps(_described(rows), indent=2) + "\n", encoding="utf-8")
    return int(not all(row.is_met for row in rows))


def _described(rows: list[Row]) -> list[dict[str, object]]:
    """Return the content of ``bench.json``."""
    date = datetime.datetime.now(tz=datetime.UTC).date().isoformat()
    machine = f"{platform.machine()}, {os.cpu_count()} cores"
    return [
        {
            "name": row.name,
            "ratio": round(row.ratio, 4),
            "goal": None if row.goal is None else round(row.goal, 4),
            "limit": None if row.limit is None else round(row.limit, 4),
            "sense": row.sense,
            "unit": row.unit,
            "date": date,
            "machine": machine,
        }
        for row in rows
    ]


if __name__ == "__main__":
    sys.exit(main())
