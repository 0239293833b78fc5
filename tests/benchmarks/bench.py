"""Measure speed against bounds and other packages; print one table and write ``bench.json``.

Each row compares two things on outputs that were shown to be equal, interleaved in one run, and reports the median.
`--peers` adds other packages' readers and predictors, each in an environment of its own. `--only stages` shows where
the time of a prediction goes; it compares nothing and has no goals.
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

_PARTS = (
    "training", "tissue", "reading", "store", "whole", "runtimes", "predicting", "peers", "peers_predicting", "stages",
    "cohort",
)  # fmt: skip
_PEERS = ("peers", "peers_predicting")
_WITHOUT_GOALS = "stages", "cohort"


def measured(inputs: Inputs, parts: list[str], environments: Path | None) -> Iterator[Row]:
    """The rows of some parts of the table."""
    if "training" in parts:
        yield from training.rows()
    if "tissue" in parts:
        yield from tissue.rows(inputs)
    if "reading" in parts:
        yield from reading.rows(inputs)
    if "store" in parts:
        yield from store.rows(inputs)
    if "whole" in parts:
        yield from whole.rows(inputs)
    if "runtimes" in parts:
        yield from runtimes.rows()
    if "predicting" in parts:
        yield from predicting.rows(inputs)
    if "stages" in parts:
        yield from stages.rows(inputs)
    if "cohort" in parts:
        yield from cohort.rows(inputs, environments)
    if "peers" in parts:
        yield from peers.rows(inputs, environments)
    if "peers_predicting" in parts:
        yield from peers_predicting.rows(inputs, environments)


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
    others = _WITHOUT_GOALS if options.peers else _WITHOUT_GOALS + _PEERS
    parts = options.only or [part for part in _PARTS if part not in others]
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    rows = []
    with tempfile.TemporaryDirectory(prefix="pathopatch-bench-") as folder:
        for row in measured(Inputs(Path(folder), options.side), parts, options.environments):
            verdict = "ok" if row.is_met else "missed"
            limit = "" if row.limit is None else f", the limit here is {row.limit:.3g}"
            print(f"{row.name:<88}{row.ratio:>9.3f}   {row.sense} {row.goal:<5.3g} {verdict}{limit}", flush=True)  # noqa: T201
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
            "goal": round(row.goal, 4),
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
