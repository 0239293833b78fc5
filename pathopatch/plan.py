"""What would `tile` or `predict` do? Slides, patches, gigabytes and time, from a short probe; nothing is written.

Times scale what one slide took on this machine, one process: its overview by the pixels read for it, its patches by
their number. Slides that cannot be worked on are listed with their codes, as the stage itself would list them.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from pathopatch.batch import Outcome, open_row
from pathopatch.config import PredictConfig, TileConfig
from pathopatch.errors import PathopatchError
from pathopatch.manifest import SlideRow, read_manifest
from pathopatch.pipeline import one_mpp
from pathopatch.provenance import content_bytes

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from pathopatch.patches import SlideAnalysis
    from pathopatch.slides import Slide

_OVERVIEW_PX = 4096
_RUN_PATCHES = 64  # neighbours, so that tiles are decoded once as in the stage itself
_RUNS = 12
_PROBE_SECONDS = 2.0

Work = Callable[["Slide", "SlideAnalysis", "NDArray[np.int64]"], int]
"""What the stage does with some patches of a slide, given their origins; returns the bytes that it would keep."""


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What a stage would do.

    Parameters
    ----------
    table : DataFrame
        A row a slide that can be worked on: slide_id, mpp, background, patches, gigabytes (of pixels, uncompressed),
        minutes (one process).
    failed : tuple of Outcome
        The slides that cannot.
    basis : str
        What the times are based on.
    """

    table: pd.DataFrame
    failed: tuple[Outcome, ...]
    basis: str

    @property
    def exit_code(self) -> int:
        """0 when every slide can be worked on, 3 when some cannot, 1 when none can."""
        if not self.failed:
            return 0
        return 3 if len(self.table) else 1

    def text(self, workers: int = 1) -> str:
        """Return the table and its sums in words."""
        if not len(self.table):
            return "no slide can be worked on"
        sums = self.table[["patches", "gigabytes", "minutes"]].sum()
        minutes = max(sums["minutes"] / workers, float(self.table["minutes"].max()))
        processes = "1 process" if workers == 1 else f"{workers} processes"
        return (
            self.table.to_string(index=False, float_format=lambda value: f"{value:.3g}")
            + f"\n{len(self.table)} slides, {int(sums['patches'])} patches, {sums['gigabytes']:.3g} GB of pixels, "
            f"about {minutes:.2g} min with {processes}\n{self.basis}"
        )


def tile_plan(manifest_path: Path, config: TileConfig) -> Plan:
    """Return what `tile` would do with a manifest.

    Raises
    ------
    ManifestError
        Everything wrong with the manifest itself.
    InputUnsupportedError
        No target mpp was given and the slides' own differ by more than 2 %.
    """
    rows = read_manifest(manifest_path).included
    plan = _plan(rows, config, _tile_some(config), keeps=config.store == "zarr")
    if len(plan.table):
        one_mpp(plan.table, config)
    return plan


def predict_plan(
    cohort: Sequence[SlideRow], model: Path, config: PredictConfig, *, slide_mpp: float | None = None
) -> Plan:
    """Return what `predict` would do with slides under a bundle's geometry; the gigabytes are read, not written."""
    from pathopatch.heatmaps import tiling_of
    from pathopatch.models import check_slide, load_model

    network = load_model(model, device=config.device, precision=config.precision)
    settings = tiling_of(network.spec, config)
    work = _predict_some(network, config)
    return _plan(cohort, settings, work, slide_mpp=slide_mpp, check=lambda slide: check_slide(network.spec, slide))


def _plan(
    rows: Sequence[SlideRow],
    config: TileConfig,
    work: Work,
    *,
    slide_mpp: float | None = None,
    keeps: bool = True,
    check: Callable[[Slide], None] | None = None,
) -> Plan:
    """Return the plan of a stage that does `work` with each patch."""
    from pathopatch.patches import grid_of

    lines: list[dict[str, Any]] = []
    failed: list[Outcome] = []
    rates: tuple[float, float] | None = None
    basis = ""
    for row in rows:
        try:
            with open_row(row, fallback_mpp=slide_mpp) as slide:
                if check is not None:
                    check(slide)
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
    return Plan(table=pd.DataFrame(lines), failed=tuple(failed), basis=basis)


def _overview_source_px(slide: Slide) -> int:
    """Return how many pixels are read for a slide's overview: those of the level that it is made from."""
    from pathopatch.slides.resample import level_for

    shrinkage = max(1.0, max(slide.size) / _OVERVIEW_PX)
    level = slide.levels[level_for([each.downsample for each in slide.levels], shrinkage)]
    return level.width * level.height * len(slide.channels)


def _probe(slide: Slide, slide_id: str, config: TileConfig, work: Work) -> tuple[tuple[float, float], str]:
    """Return seconds per overview pixel and per patch, and in words what was measured.

    Runs of neighbouring patches are taken all over the slide in a fixed shuffled order, so that glass and tissue have
    their share however early the time is up. The first run is not counted if others follow: it loads libraries.
    """
    from pathopatch.patches import analyse_slide

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
    counted = seconds[1:] or seconds
    patch_seconds = sum(counted) / len(counted) / length
    measured = length * len(seconds)
    raw = measured * len(slide.channels) * config.patch_px**2 * min(slide.dtype.itemsize, 4)
    basis = (
        f"measured on slide {slide_id}: overview {overview_seconds:.2g} s, {1e3 * patch_seconds:.2g} ms a patch "
        f"({measured} patches" + (f", stored at {kept / raw:.0%} of their size)" if kept else ")")
    )
    return (overview_seconds / _overview_source_px(slide), patch_seconds), basis


def _tile_some(config: TileConfig) -> Work:
    """Return what `tile` does with patches: measure them, and store them if it is asked to."""

    def work(slide: Slide, analysis: SlideAnalysis, origins: NDArray[np.int64]) -> int:
        from pathopatch.patches import intensity, iterate_patches
        from pathopatch.patches.store_writer import StoreWriter

        with tempfile.TemporaryDirectory(prefix="pathopatch-probe-") as folder:
            writer = StoreWriter(
                Path(folder) / "probe.zarr",
                origins=origins,
                channels=len(slide.channels),
                patch_px=config.patch_px,
                dtype=slide.dtype,
                with_patches=config.store == "zarr",
            )
            for _, patches, _ in iterate_patches(slide, analysis, origins=origins):
                writer.append(patches)
                for patch in patches:
                    intensity.saturated_fraction(patch, analysis.windows, is_bright_background=is_bright)
                    intensity.sharpness(intensity.scale(patch, analysis.windows), factor=blur)
            writer.finish({})
            pixels = Path(folder) / "probe.zarr" / "patches"
            return content_bytes(pixels) if pixels.is_dir() else 0

    return work


def _predict_some(network: Any, config: PredictConfig) -> Work:
    """Return what `predict` does with patches: read those with tissue and pass them through the network."""
    least = network.spec.min_tissue if config.min_tissue is None else config.min_tissue

    def work(slide: Slide, analysis: SlideAnalysis, origins: NDArray[np.int64]) -> int:
        from pathopatch.patches import iterate_patches
        from pathopatch.patches.intensity import scale

        wanted = 0.0 if config.all_patches else max(least, 1e-12)
        for _, patches, _ in iterate_patches(slide, analysis, origins=origins, min_tissue=wanted):
            network.predict_logits(scale(patches, analysis.windows), forward_batch=config.batch)
        return 0

    return work
        blur = config.intensity.sharpness_mpp / (slide.mpp * analysis.grid.downsample)
        is_bright = analysis.tissue.background == "bright"
