"""Estimate patches, gigabytes and time of `tile` or `predict`, without writing: the option `--dry-run`.

A short probe of one slide, in one process on this machine, gives the times: those of overviews scale with the pixels
that are read for them, those of patches with their number. Finished slides are counted apart; slides that are refused
are listed with their codes.
"""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from pathopatch.core.artefacts import content_bytes
from pathopatch.core.config import PredictConfig, TileConfig
from pathopatch.core.errors import PathopatchError
from pathopatch.core.text import duration, pluralize
from pathopatch.slides.manifest import SlideRow, read_manifest
from pathopatch.stages.batch.tasks import Outcome, label_source, open_row
from pathopatch.stages.predict import require_unmixed
from pathopatch.stages.tile import require_one_mpp

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from pathopatch.models.forward import Ensemble
    from pathopatch.patches.analysis import SlideAnalysis
    from pathopatch.slides import Slide

_OVERVIEW_PX = 4096
_RUN_PATCHES = 64  # neighbours, so that tiles are decoded once as in the stage itself
_RUNS = 12
_PROBE_SECONDS = 2.0
Work = Callable[["Slide", "SlideAnalysis", "NDArray[np.int64]"], int]
"""The stage's work on some patches of a slide, given their origins; returns the bytes that it would keep."""


def tile_plan(
    manifest_path: Path,
    config: TileConfig,
    *,
    slide_mpp: float | None = None,
    out: Path | None = None,
    strict: bool = False,
    force: bool = False,
) -> Plan:
    """Return what `tile` would do with a manifest, in a work folder that may hold finished slides.

    With `strict` a file that is not there is an error of the manifest. `slide_mpp` is of slides whose files state none.

    Raises
    ------
    TableError
        Everything wrong with the manifest itself.
    InputUnsupportedError
        No target mpp was given and the slides' own differ by more than 2 %.
    """
    from pathopatch.patches.tile import is_finished

    rows = read_manifest(manifest_path, strict=strict).included

    def is_done(row: SlideRow, slide: Slide) -> bool:
        return out is not None and is_finished(
            slide,
            config,
            out,
            slide_id=row.slide_id,
            patient_id=row.patient_id,
            labels=label_source(row),
            tissue_mask=row.tissue_mask,
            force=force,
        )

    plan = estimate(rows, config, tiling_work(config), is_done, slide_mpp=slide_mpp, keeps=config.store == "zarr")
    if len(plan.table):
        require_one_mpp(pd.concat([plan.table, plan.finished], ignore_index=True), config)
    return plan


def predict_plan(
    cohort: Sequence[SlideRow],
    models: Sequence[Path],
    config: PredictConfig,
    *,
    slide_mpp: float | None = None,
    out: Path | None = None,
    force: bool = False,
) -> Plan:
    """Return what `predict` would do with slides under a bundle's geometry; the gigabytes are read, not written."""
    from pathopatch.models.bundle import check_bundles
    from pathopatch.models.spec import check_slide, tiling_of

    if out is not None:
        require_unmixed(out, deidentify=config.deidentify)
    spec = check_bundles(models)
    settings = tiling_of(spec, config)

    @cache
    def network() -> Ensemble:  # when the first slide has passed: it takes a second
        from pathopatch.models.loading import load_ensemble

        return load_ensemble(
            models, device=config.device, precision=config.precision, runtime=config.runtime, threads=config.threads
        )

    def is_done(row: SlideRow, slide: Slide) -> bool:
        check_slide(spec, slide)
        if out is None:
            return False
        from pathopatch.heatmaps.artefacts import is_predicted

        return is_predicted(
            slide, network(), out, slide_id=row.slide_id, tissue_mask=row.tissue_mask, config=config, force=force
        )

    def work(slide: Slide, analysis: SlideAnalysis, origins: NDArray[np.int64]) -> int:
        return prediction_work(network(), config)(slide, analysis, origins)

    share = config.max_bad_tiles
    return estimate(cohort, settings, work, is_done, channels=spec.channels, slide_mpp=slide_mpp, share=share)


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What a stage would do to the slides of a cohort.

    Parameters
    ----------
    table : DataFrame
        One row per slide to work on: slide_id, mpp, background, patches, gigabytes (of pixels, uncompressed),
        minutes (one process).
    finished : DataFrame
        The slides whose outputs are current: slide_id, mpp.
    failed : tuple of Outcome
        The slides that cannot be worked on.
    basis : str
        What the times are based on.
    """

    table: pd.DataFrame
    finished: pd.DataFrame
    failed: tuple[Outcome, ...]
    basis: str

    @property
    def exit_code(self) -> int:
        """0 when every slide is finished or can be worked on, 3 when some cannot, 1 when none can."""
        if not self.failed:
            return 0
        return 3 if len(self.table) or len(self.finished) else 1

    def text(self, workers: int = 1) -> str:
        """Return the table and its sums in words."""
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


def estimate(
    rows: Sequence[SlideRow],
    config: TileConfig,
    work: Work,
    is_done: Callable[[SlideRow, Slide], bool],
    *,
    channels: tuple[str, ...] | None = None,
    slide_mpp: float | None = None,
    share: float = 0.0,
    keeps: bool = True,
) -> Plan:
    """Return the plan of a stage that does `work` with each patch, and stores pixels if it `keeps` them.

    `is_done` returns whether a slide's outputs are current, and raises where the slide is refused. Slides are read in
    the order of `channels`, by default the first slide's. A slide may lack `share` of its area.
    """
    from pathopatch.patches.analysis import grid_of
    from pathopatch.slides import in_order, tolerant

    lines: list[dict[str, Any]] = []
    finished: list[dict[str, Any]] = []
    failed: list[Outcome] = []
    rates: tuple[float, float] | None = None
    basis = ""
    for row in rows:
        try:
            with open_row(row, fallback_mpp=slide_mpp) as opened:
                channels = channels or opened.channels
                slide = in_order(opened, channels)
                if share:
                    slide = tolerant(slide, share)
                if is_done(row, slide):
                    finished.append({"slide_id": row.slide_id, "mpp": slide.mpp})
                    continue
                grid = grid_of(slide, config)
                if rates is None:
                    rates, basis = _probe(slide, row.slide_id, config, work)
                count = grid.nx * grid.ny
                pixels = count * len(slide.channels) * config.patch_px**2
                seconds = rates[0] * _overview_source_px(slide) + rates[1] * count
                lines.append(
                    {
                        "slide_id": row.slide_id,
                        "mpp": slide.mpp,
                        "background": slide.background,  # which reads pixels, as the stage's own check does
                        "patches": count,
                        "gigabytes": pixels * min(slide.dtype.itemsize, 4) * keeps / 1e9,  # float64 becomes float32
                        "minutes": seconds / 60,
                    }
                )
        except PathopatchError as error:
            failed.append(Outcome(slide_id=row.slide_id, state="failed", code=error.code, message=str(error)))
    done = pd.DataFrame(finished, columns=["slide_id", "mpp"])
    return Plan(table=pd.DataFrame(lines), finished=done, failed=tuple(failed), basis=basis)


def _overview_source_px(slide: Slide) -> int:
    """Return how many pixels are read for a slide's overview: those of the level that it is made from."""
    from pathopatch.slides.resample import level_for

    shrinkage = max(1.0, max(slide.size) / _OVERVIEW_PX)
    level = slide.levels[level_for([level.downsample for level in slide.levels], shrinkage)]
    return level.width * level.height * len(slide.channels)


def _probe(slide: Slide, slide_id: str, config: TileConfig, work: Work) -> tuple[tuple[float, float], str]:
    """Return seconds per overview pixel and per patch, and in words what was measured.

    Runs of neighbouring patches are taken all over the slide in a fixed shuffled order, so that glass and tissue have
    their share however early the time is up. The first run is not counted if others follow: it loads libraries.
    """
    from pathopatch.patches.analysis import analyse_slide

    started = time.perf_counter()
    analysis = analyse_slide(slide, config)
    overview_seconds = time.perf_counter() - started
    origins = analysis.grid.origins()
    length = min(_RUN_PATCHES, len(origins))
    starts = np.unique(np.linspace(0, len(origins) - length, _RUNS).astype(int))
    seconds: list[float] = []
    kept = 0
    for start in np.random.default_rng(0).permutation(starts).tolist():
        started = time.perf_counter()
        kept += work(slide, analysis, origins[start : start + length])
        seconds.append(time.perf_counter() - started)
        if sum(seconds) > _PROBE_SECONDS:
            break
    steady = seconds[1:] or seconds
    patch_seconds = sum(steady) / len(steady) / length
    measured = length * len(seconds)
    raw = measured * len(slide.channels) * config.patch_px**2 * min(slide.dtype.itemsize, 4)
    basis = (
        f"measured with one process on this machine ({os.cpu_count()} processors) as busy as it is now, "
        f"on slide {slide_id}: overview {overview_seconds:.2g} s, {1e3 * patch_seconds:.2g} ms a patch "
        f"({pluralize(measured, 'patch')}" + (f", stored at {kept / raw:.0%} of their size)" if kept else ")")
    )
    return (overview_seconds / _overview_source_px(slide), patch_seconds), basis


def tiling_work(config: TileConfig) -> Work:
    """Return what `tile` does with patches: measure them, and store them if it is asked to."""

    def work(slide: Slide, analysis: SlideAnalysis, origins: NDArray[np.int64]) -> int:
        from pathopatch.patches.analysis import iterate_patches
        from pathopatch.patches.store_writer import StoreWriter, store_and_measure

        with tempfile.TemporaryDirectory(prefix="pathopatch-probe-") as folder:
            writer = StoreWriter(
                Path(folder) / "probe.zarr",
                origins=origins,
                channels=len(slide.channels),
                patch_px=config.patch_px,
                dtype=slide.dtype,
                masks=("tissue",),
                with_patches=config.store == "zarr",
            )
            batches = iterate_patches(slide, analysis, origins=origins)
            store_and_measure(
                writer,
                batches,
                len(origins),
                windows=analysis.windows,
                sharpness_factor=config.intensity.sharpness_mpp / (slide.mpp * analysis.grid.downsample),
                polarities=analysis.tissue.polarities,
            )
            writer.finish({})
            pixels = Path(folder) / "probe.zarr" / "patches"
            return content_bytes(pixels) if pixels.is_dir() else 0

    return work


def prediction_work(network: Ensemble, config: PredictConfig) -> Work:
    """Return what `predict` does with patches: read those with tissue and pass them through the network."""
    from pathopatch.models.spec import patch_limits

    limits = patch_limits(network.spec, config)
    if not config.all_patches:  # so that patches without tissue on the overview are not read
        limits["min_tissue"] = max(limits["min_tissue"], 1e-12)

    def work(slide: Slide, analysis: SlideAnalysis, origins: NDArray[np.int64]) -> int:
        from pathopatch.patches.analysis import iterate_patches
        from pathopatch.patches.intensity import scale
        from pathopatch.patches.mask_bits import unpack_masks

        for batch in iterate_patches(slide, analysis, origins=origins, **limits):
            scaled = scale(batch.patches, analysis.windows)
            tissue = unpack_masks(batch.tissue_mask, analysis.grid.patch_px)
            inputs = [member.standardised(scaled, tissue) for member in network.members]
            network.forward(inputs, tta=config.tta)
        return 0

    return work
