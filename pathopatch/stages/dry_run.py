"""Estimate patches, gigabytes and time of a stage's tasks, without writing: the option `--dry-run`.

A short probe of one slide, in one process on this machine, gives the times: those of overviews scale with the pixels
that are read for them, those of patches with their number. Finished slides are counted apart; slides that are refused
are listed with their codes.
"""

from __future__ import annotations

import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from pathopatch.core.errors import PathopatchError
from pathopatch.core.task import Outcome, SlidePlan, SlideTask
from pathopatch.core.text import duration, pluralize
from pathopatch.stages.batch.run import exit_code_of

if TYPE_CHECKING:
    from pathopatch.slides import Slide

_OVERVIEW_PX = 4096
_RUN_PATCHES = 64  # neighbours, so that tiles are decoded once as in the stage itself
_RUNS = 12
_PROBE_SECONDS = 2.0


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What a stage would do to the slides of a cohort."""

    # A row a slide to work on: slide_id, mpp, background, patches, gigabytes (of pixels, uncompressed), minutes (of one
    # process).
    table: pd.DataFrame
    finished: pd.DataFrame  # slides whose outputs are current: slide_id, mpp
    failed: tuple[Outcome, ...]  # slides that cannot be worked on
    basis: str  # what the times are based on

    @property
    def exit_code(self) -> int:
        """0 when every slide is finished or can be worked on, 3 when some cannot, 1 when none can."""
        good = len(self.table) + len(self.finished)
        return exit_code_of(good, good + len(self.failed))

    def text(self, workers: int = 1) -> str:
        """Format the table and its sums."""
        done = f"slides finished already, not counted: {len(self.finished)}" if len(self.finished) else ""
        if not len(self.table):
            return done or "no slide can be worked on"
        sums = self.table[["patches", "gigabytes", "minutes"]].sum()
        minutes = max(sums["minutes"] / workers, float(self.table["minutes"].max()))
        processes = pluralize(workers, "process")
        totals = (
            f"{pluralize(len(self.table), 'slide')}, {pluralize(int(sums['patches']), 'patch')}, "
            f"{sums['gigabytes']:.3g} GB of pixels, about {duration(60 * minutes)} with {processes}"
        )
        times = [duration(60 * value) for value in self.table["minutes"]]
        columns = self.table.drop(columns="minutes").assign(time=times)
        shown = columns.to_string(index=False, float_format=lambda value: f"{value:.3g}")
        return "\n".join(line for line in (shown, totals, done, self.basis) if line)


def plan_tasks(tasks: Sequence[SlideTask[Any]], failures: Mapping[str, PathopatchError] | None = None) -> Plan:
    """Return what tasks would do; `failures` are of slides that are known to be refused, by slide_id."""
    lines: list[dict[str, Any]] = []
    finished: list[dict[str, Any]] = []
    failed: list[Outcome] = []
    rates: tuple[float, float] | None = None
    basis = ""
    for task in tasks:
        try:
            if failures and task.slide_id in failures:
                raise failures[task.slide_id]
            assert task.plan is not None
            with task.open() as opened:
                plan = task.plan(opened)
                slide = plan.source.slide
                if plan.outputs.are_current():
                    finished.append({"slide_id": task.slide_id, "mpp": slide.mpp})
                    continue
                if rates is None:
                    rates, basis = _probe(plan)
                count = len(plan.source.origins)
                seconds = rates[0] * _overview_source_px(slide) + rates[1] * count
                lines.append(
                    {
                        "slide_id": task.slide_id,
                        "mpp": slide.mpp,
                        "background": slide.background,  # which reads pixels, as the stage's own check does
                        "patches": count,
                        "gigabytes": _pixel_bytes(plan, count) * plan.keeps_pixels / 1e9,
                        "minutes": seconds / 60,
                    }
                )
        except PathopatchError as error:
            failed.append(Outcome(slide_id=task.slide_id, state="failed", code=error.code, message=str(error)))
    done = pd.DataFrame(finished, columns=["slide_id", "mpp"])
    return Plan(table=pd.DataFrame(lines), finished=done, failed=tuple(failed), basis=basis)


def _pixel_bytes(plan: SlidePlan, count: int) -> int:
    """Return the bytes of so many patches, uncompressed; float64 becomes float32."""
    slide: Slide = plan.source.slide
    patch_px: int = plan.source.grid.patch_px
    return count * len(slide.channels) * patch_px**2 * min(slide.dtype.itemsize, 4)


def _overview_source_px(slide: Slide) -> int:
    """Return how many pixels are read for a slide's overview: those of the level that it is made from."""
    from pathopatch.slides.resample import level_for

    shrinkage = max(1.0, max(slide.size) / _OVERVIEW_PX)
    level = slide.levels[level_for([level.downsample for level in slide.levels], shrinkage)]
    return level.width * level.height * len(slide.channels)


def _probe(plan: SlidePlan) -> tuple[tuple[float, float], str]:
    """Return seconds per overview pixel and per patch, and a text that says what was measured.

    Runs of neighbouring patches are taken all over the slide in a fixed shuffled order, so that glass and tissue have
    their share however early the time is up. The first run is not counted if others follow: it loads libraries.
    """
    source = plan.source
    started = time.perf_counter()
    _ = source.analysis  # which reads the overview
    overview_seconds = time.perf_counter() - started
    rows = np.arange(len(source.origins))
    length = min(_RUN_PATCHES, len(rows))
    starts = np.unique(np.linspace(0, len(rows) - length, _RUNS).astype(int))
    seconds: list[float] = []
    kept = 0
    for start in np.random.default_rng(0).permutation(starts).tolist():
        started = time.perf_counter()
        kept += plan.work(rows[start : start + length])
        seconds.append(time.perf_counter() - started)
        if sum(seconds) > _PROBE_SECONDS:
            break
    steady = seconds[1:] or seconds
    patch_seconds = sum(steady) / len(steady) / length
    measured = length * len(seconds)
    share = f", stored at {kept / _pixel_bytes(plan, measured):.0%} of their size)" if kept else ")"
    basis = (
        f"measured with one process on this machine ({os.cpu_count()} processors) as busy as it is now, "
        f"on slide {source.slide_id}: overview {overview_seconds:.2g} s, {1e3 * patch_seconds:.2g} ms a patch "
        f"({pluralize(measured, 'patch')}" + share
    )
    return (overview_seconds / _overview_source_px(source.slide), patch_seconds), basis
