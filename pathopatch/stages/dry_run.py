"""List what a stage's tasks would do, without writing: the option `--dry-run`.

Slides are done already, to do, or refused, with their codes. Where some are done, the time that they took per patch
gives an estimate for the others.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pandas as pd

from pathopatch.core.config import BatchOptions
from pathopatch.core.errors import PathopatchError
from pathopatch.core.status import read_status
from pathopatch.core.task import Outcome, SlidePlan, SlideTask
from pathopatch.core.text import duration, pluralize
from pathopatch.stages.batch.run import chosen, exit_code_of

if TYPE_CHECKING:
    from pathopatch.slides import Slide


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


def plan_tasks(
    tasks: Sequence[SlideTask[Any]], batch: BatchOptions, failures: Mapping[str, PathopatchError] | None = None
) -> Plan:
    """Return what `chosen` of some tasks would do; `failures` are known to be refused, by slide_id."""
    lines: list[dict[str, Any]] = []
    finished: list[dict[str, Any]] = []
    failed: list[Outcome] = []
    for task in chosen(tasks, batch):
        try:
            if failures and task.slide_id in failures:
                raise failures[task.slide_id]
            assert task.plan is not None
            with task.open() as opened:
                plan = task.plan(opened)
                if plan.outputs.are_current():
                    status = read_status(task.out, task.slide_id).get(task.stage, {})
                    counts = status.get("counts", status)  # `tile` has them at the top
                    taken = {"patches": counts.get("patches"), "seconds": status.get("seconds")}
                    finished.append({"slide_id": task.slide_id, **taken})
                    continue
                slide, count = plan.source.slide, len(plan.source.origins)
                lines.append(
                    {
                        "slide_id": task.slide_id,
                        "mpp": slide.mpp,
                        "background": slide.background,  # which reads pixels, as the stage's own check does
                        "patches": count,
                        "gigabytes": _pixel_bytes(plan, count) * plan.keeps_pixels / 1e9,
                    }
                )
        except PathopatchError as error:
            failed.append(Outcome(slide_id=task.slide_id, state="failed", code=error.code, message=str(error)))
    done = pd.DataFrame(finished, columns=["slide_id", "patches", "seconds"])
    done = done.astype({"patches": "float64", "seconds": "float64"})
    return Plan(table=pd.DataFrame(lines), finished=done, failed=tuple(failed))


def _pixel_bytes(plan: SlidePlan, count: int) -> int:
    """Return the bytes of so many patches, uncompressed; float64 becomes float32."""
    slide: Slide = plan.source.slide
    patch_px: int = plan.source.grid.patch_px
    return count * len(slide.channels) * patch_px**2 * min(slide.dtype.itemsize, 4)
