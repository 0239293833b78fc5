"""List what a stage would do to slides, without writing: the option `--dry-run`.

Slides are done already, to do, or refused, with their codes. Where some are done, the time that they took per patch
gives an estimate for the others.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from pathopatch.core.errors import PathopatchError
from pathopatch.core.status import read_status
from pathopatch.core.task import HasSlideId, Outcome
from pathopatch.core.text import duration, pluralize
from pathopatch.stages.batch.run import Failure, exit_code_of


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What a stage would do to the slides of a cohort."""

    # A row a slide to work on: slide_id, mpp, background, patches, gigabytes (of pixels, uncompressed).
    table: pd.DataFrame
    finished: pd.DataFrame  # slides whose outputs are current: slide_id, patches, seconds; NaN where no status tells
    failed: tuple[Outcome, ...]  # slides that cannot be worked on

    @property
    def exit_code(self) -> int:
        """0 when every slide is finished or can be worked on, 3 when some cannot, 1 when none can."""
        good = len(self.table) + len(self.finished)
        return exit_code_of(good, good + len(self.failed))

    def seconds(self, workers: int = 1) -> float | None:
        """Return an estimate of the time for the slides to do; None where no finished slide tells how long one takes.

        A slide is one process's, so that more processes help only where there are more slides.
        """
        timed = self.finished.dropna()
        if not timed["patches"].sum():
            return None
        each = self.table["patches"] * (timed["seconds"].sum() / timed["patches"].sum())
        return float(max(each.sum() / workers, each.max()))

    def text(self, workers: int = 1) -> str:
        """Format the table and its sums."""
        done = f"slides finished already, not counted: {len(self.finished)}" if len(self.finished) else ""
        if not len(self.table):
            return done or "no slide can be worked on"
        patches, gigabytes = int(self.table["patches"].sum()), float(self.table["gigabytes"].sum())
        slides = pluralize(len(self.table), "slide")
        totals = f"{slides}, {pluralize(patches, 'patch')}, {gigabytes:.3g} GB of pixels"
        if (seconds := self.seconds(workers)) is not None:
            processes = pluralize(workers, "process")
            totals += f", about {duration(seconds)} with {processes} at the speed of finished slides"
        shown = self.table.to_string(index=False, float_format=lambda value: f"{value:.3g}")
        return "\n".join(line for line in (shown, totals, done) if line)


def plan_slides(
    out: Path,
    stage: str,
    one: Callable[..., Outcome],
    rows: Sequence[HasSlideId],
    failures: Mapping[str, Failure] | None = None,
) -> Plan:
    """Return what `run_slides` would do; arguments as there, but for `one`, which only looks."""
    lines: list[dict[str, Any]] = []
    finished: list[dict[str, Any]] = []
    failed: list[Outcome] = []
    for row in rows:
        try:
            if failures and row.slide_id in failures:
                raise failures[row.slide_id].error
            outcome = one(row, dry=True)
        except PathopatchError as error:
            failed.append(Outcome(slide_id=row.slide_id, state="failed", code=error.code, message=str(error)))
            continue
        if outcome.state == "current":
            status = read_status(out, row.slide_id).get(stage, {})
            counts = status.get("counts", status)  # `tile` has them at the top
            taken = {"patches": counts.get("patches"), "seconds": status.get("seconds")}
            finished.append({"slide_id": row.slide_id, **taken})
        else:
            lines.append({"slide_id": row.slide_id, **outcome.counts})
    done = pd.DataFrame(finished, columns=["slide_id", "patches", "seconds"])
    done = done.astype({"patches": "float64", "seconds": "float64"})
    return Plan(table=pd.DataFrame(lines), finished=done, failed=tuple(failed))
